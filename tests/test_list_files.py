"""Tests of famus_tf.data.list_files: what a line may be, and what is said about one that is wrong."""

import numpy as np
import pytest

from famus_tf.data import list_files
from famus_tf.errors import InputError


@pytest.fixture
def list_file(tmp_path):
    def make(content, name="list.txt"):
        file = tmp_path / name
        file.write_bytes(content)
        return file

    return make


def message_of(function, *arguments, **settings):
    with pytest.raises(InputError) as error:
        function(*arguments, **settings)
    return str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b"a/1.jpg 3\nb/long name.jpg 0\nc.jpg 12\n",
        b"a/1.jpg 3\nb/long name.jpg 0\nc.jpg 12",
        b"a/1.jpg 3\r\nb/long name.jpg 0\r\nc.jpg 12\r\n",
        b"\xef\xbb\xbfa/1.jpg 3\nb/long name.jpg 0\nc.jpg 12\n",
        b"  a/1.jpg\t3\nb/long name.jpg   0  \n./c.jpg \t 012\n",
        b"images/a/1.jpg 3\nimages/b/long name.jpg 0\n./images/c.jpg 12\n",
    ],
    ids=["plain", "no last newline", "windows", "byte order mark", "white space", "prefix"],
)
def test_lines_are_paths_and_labels(list_file, content):
    rows = list_files.read(list_file(content), with_labels=True, num_classes=13, without_prefix="images/")
    assert rows.paths.dtype.kind == "S"
    assert rows.paths.tolist() == [b"a/1.jpg", b"b/long name.jpg", b"c.jpg"]
    assert rows.labels.dtype == np.int32
    assert rows.labels.tolist() == [3, 0, 12]
    assert rows.line_numbers.tolist() == [1, 2, 3]


def test_empty_lines_count_as_lines_but_not_as_rows(list_file):
    rows = list_files.read(list_file(b"\n\na 1\n \t\r\nb 2\n\n"), with_labels=True)
    assert (rows.paths.tolist(), rows.labels.tolist(), rows.line_numbers.tolist()) == ([b"a", b"b"], [1, 2], [3, 5])
    assert rows.where(1).endswith("list.txt, line 5")


def test_without_labels_the_whole_line_is_the_path(list_file):
    rows = list_files.read(list_file("images/ä b.jpg \nimages\n".encode()), with_labels=False, without_prefix="images/")
    assert [path.decode() for path in rows.paths.tolist()] == ["ä b.jpg", "images"]
    assert rows.labels is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_short_files_lines_keep_their_numbers(list_file, encoding):
    file = list_file("\n a b \r\nä\n\n\tc\n \n\n".encode(encoding))
    assert list_files.read_lines(file, "Get it again.") == ["", "a b", "ä", "", "c"]
    assert list_files.read_lines(list_file(b"\n \n"), "Get it again.") == []


@pytest.mark.parametrize(
    ("content", "line", "byte"), [(b"a\r\nb\xa0\n", 2, "0xa0"), (b"\xff\xfea\x00", 1, "0xff")], ids=["latin", "UTF-16"]
)
def test_a_short_file_that_is_no_utf8_is_refused(list_file, content, line, byte):
    file = list_file(content)
    assert message_of(list_files.read_lines, file, "Get it again.") == (
        f"{file}, line {line}: the byte {byte} is no UTF-8 text, which was expected. Save the file as UTF-8. Get it"
        " again."
    )


def test_a_short_file_that_cannot_be_read_is_refused(tmp_path):
    assert message_of(list_files.read_lines, tmp_path, "Get it again.") == (
        f"{tmp_path} cannot be read (Is a directory); expected a text file. Check that it is there, is a file, and that"
        " you may read it."
    )


def test_many_lines_come_out_as_pythons_own_parsing_has_them(list_file):
    random = np.random.default_rng(0)
    lines = [f"{'x' * random.integers(1, 40)}{n} {label}" for n, label in enumerate(random.integers(0, 10**6, 150_000))]
    rows = list_files.read(list_file("\n".join(lines).encode()), with_labels=True)
    assert [f"{path.decode()} {label}" for path, label in zip(rows.paths.tolist(), rows.labels, strict=True)] == lines


def test_taking_rows_keeps_their_lines_and_narrows_the_paths(list_file):
    rows = list_files.read(list_file(b"a 1\na/much/longer/path 2\nbc 3\n"), with_labels=True)
    some = rows.take(rows.labels != 2)
    assert (some.paths.tolist(), some.labels.tolist(), some.line_numbers.tolist()) == ([b"a", b"bc"], [1, 3], [1, 3])
    assert some.paths.dtype == "S2"


WRONG_LINES = {
    "no label": (
        b"a 1\nb/c.jpg\nd 2\n",
        "line 2: no label in 'b/c.jpg'; expected '<path> <label>', the label a whole number from 0 to 13. That is so in"
        " 1 of 3 lines. Write its label behind each such path, or delete the line.",
    ),
    "no number": (
        b"a 1\nb one\nc 2.0\n",
        "line 2: the label 'one' in 'b one'; expected a whole number from 0 to 13. That is so in 2 of 3 lines. Correct"
        " each such label, or check that the list belongs to this dataset.",
    ),
    "negative": (
        b"a -1\n",
        "line 1: the label '-1' in 'a -1'; expected a whole number from 0 to 13. That is so in 1 of 1 lines. Correct"
        " each such label, or check that the list belongs to this dataset.",
    ),
    "too large": (
        b"a 13\n\nb 14\n",
        "line 3: the label '14' in 'b 14'; expected a whole number from 0 to 13. That is so in 1 of 2 lines. Correct"
        " each such label, or check that the list belongs to this dataset.",
    ),
    "beyond 32 bits": (
        b"a 4294967297\n",
        "line 1: the label '4294967297' in 'a 4294967297'; expected a whole number from 0 to 13. That is so in 1 of 1"
        " lines. Correct each such label, or check that the list belongs to this dataset.",
    ),
    "absolute": (
        b"a 1\n/home/x/a.jpg 1\n",
        "line 2: an absolute path in '/home/x/a.jpg 1'; expected a path relative to the dataset's folder. That is so in"
        " 1 of 2 lines. Remove that folder's name from every line.",
    ),
    "backslash": (
        b"a 1\nb\\c.jpg 1\n",
        "line 2: a '\\' in 'b\\c.jpg 1'; expected '/' between folders. That is so in 1 of 2 lines. Replace every '\\'"
        " by '/'.",
    ),
    "too long": (
        b"a 1\n" + b"x" * 1001 + b" 1\n",
        "line 2: the line is longer than 1000 bytes in '" + "x" * 100 + "'; expected '<path> <label>'. That is so in 1"
        " of 2 lines. Get it again.",
    ),
}


@pytest.mark.parametrize(("content", "message"), WRONG_LINES.values(), ids=WRONG_LINES)
def test_a_wrong_line_is_named_with_what_it_should_be(list_file, content, message):
    file = list_file(content)
    found = message_of(list_files.read, file, with_labels=True, num_classes=14, remedy="Get it again.")
    assert found == f"{file}, {message}"


@pytest.mark.parametrize("label", ["one", "2x", "x2", "+2", "2/", "1234567890"])
def test_without_a_number_of_classes_a_label_is_still_a_number(list_file, label):
    file = list_file(f"a 1\nb {label}\n".encode())
    assert message_of(list_files.read, file, with_labels=True) == (
        f"{file}, line 2: the label '{label}' in 'b {label}'; expected a whole number. That is so in 1 of 2 lines."
        " Correct each such label, or check that the list belongs to this dataset."
    )


WRONG_FILES = {
    "empty": (b"", " is empty (0 bytes); expected lines '<path> <label>'. Get it again."),
    "only empty lines": (b"\n \r\n", " has only empty lines; expected lines '<path> <label>'. Get it again."),
    "a byte order mark": (b"\xef\xbb\xbf", " has only empty lines; expected lines '<path> <label>'. Get it again."),
    "UTF-16": (
        "a 1\n".encode("utf-16"),
        " is no UTF-8 text: it holds zero bytes, as UTF-16 and binary files do; expected lines '<path> <label>'. Save"
        " it as UTF-8. Get it again.",
    ),
}


@pytest.mark.parametrize(("content", "message"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_file_without_lines_is_refused(list_file, content, message):
    file = list_file(content)
    assert message_of(list_files.read, file, with_labels=True, remedy="Get it again.") == f"{file}{message}"


def test_a_file_that_cannot_be_opened_is_refused(tmp_path):
    assert message_of(list_files.read, tmp_path / "none.txt", with_labels=False) == (
        f"{tmp_path / 'none.txt'} cannot be read (No such file or directory); expected a text file with lines '<path>'."
        " Check that it is there, is a file, and that you may read it."
    )


def test_labels_are_looked_up_by_path_whatever_the_order(list_file):
    wanted = list_files.read(list_file(b"c\na\nb\n", "wanted.txt"), with_labels=False)
    known = list_files.read(list_file(b"a 1\nlonger/than/the/others 9\nb 2\nc 3\na 1\n", "known.txt"), with_labels=True)
    labels = list_files.look_up(wanted, known, "")
    assert labels.dtype == np.int32
    assert labels.tolist() == [3, 1, 2]


def test_a_path_without_a_label_is_named(list_file):
    file, known_file = list_file(b"a\n\nz\nzz\nb\n", "wanted.txt"), list_file(b"a 1\nb 2\n", "known.txt")
    wanted, known = list_files.read(file, with_labels=False), list_files.read(known_file, with_labels=True)
    assert message_of(list_files.look_up, wanted, known, "Get it again.") == (
        f"{file}, line 3: 'z' has no line in {known_file}; expected one with its label. 2 of 4 lines of wanted.txt miss"
        " there. Get it again."
    )


def test_a_path_with_two_labels_is_named(list_file):
    file = list_file(b"b 1\na 1\nb 2\n")
    known = list_files.read(file, with_labels=True)
    assert message_of(list_files.look_up, known, known, "") == (
        f"{file}, line 3: 'b' has the label 2 here and 1 in line 1; expected one. Delete the wrong line."
    )


def test_a_path_that_occurs_twice_is_named_with_both_lines(list_file):
    file = list_file(b"q 1\nb 1\n\nb 1\nb 2\na 1\n")
    assert message_of(list_files.check_unique, list_files.read(file, with_labels=True)) == (
        f"{file}, line 4: 'b' was already in line 2; expected every picture once. 2 of 5 lines repeat an earlier one:"
        " delete them, keeping of two labels the right one."
    )
    list_files.check_unique(list_files.read(list_file(b"b 1\na 1\n"), with_labels=True))


def test_a_path_in_two_lists_is_named_with_both(list_file):
    train_file, test_file = list_file(b"a 1\nb 1\nc 1\nd 1\n", "train.txt"), list_file(b"x 1\nc 1\nb 1\n", "test.txt")
    train, test = (list_files.read(file, with_labels=True) for file in (train_file, test_file))
    assert message_of(list_files.check_disjoint, test, train, "Mend it.") == (
        f"{test_file}, line 3: 'b' is also in {train_file}, line 2; expected no picture in both. 2 of 4 lines of"
        " train.txt are. Mend it."
    )
    list_files.check_disjoint(test.take(np.array([0])), train, "")


def test_a_folder_is_put_before_paths():
    assert list_files.with_folder("all", np.array([b"a", b"bcd"])).tolist() == [b"all/a", b"all/bcd"]
