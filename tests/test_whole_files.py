"""Files appear whole or not at all."""

import os

import pytest

from famus_tf import whole_files


def write(path, text):
    with whole_files.writing(path) as file:
        file.write(text)


def failing(error):
    def fail(*arguments, **settings):
        raise error

    return fail


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "note.txt"
    write(path, "first\n")
    write(path, "zweite Zeile: λ\n")
    assert path.read_text(encoding="utf-8") == "zweite Zeile: λ\n"
    assert names(tmp_path) == ["note.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_the_old_file_stays_where_writing_fails_and_no_litter_is_left(tmp_path, monkeypatch, broken):
    path = tmp_path / "note.txt"
    path.write_text("old")
    monkeypatch.setattr(os, broken, failing(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["note.txt"]


def test_an_error_of_the_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "note.txt"
    write(path, "old")
    with pytest.raises(ZeroDivisionError), whole_files.writing(path) as file:
        file.write("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["note.txt"]


def test_line_ends_are_the_writers_where_asked(tmp_path):
    path = tmp_path / "table.csv"
    with whole_files.writing(path, newline="") as file:
        file.write("a\r\nb\n")
    assert path.read_bytes() == b"a\r\nb\n"
