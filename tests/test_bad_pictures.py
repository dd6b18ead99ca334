"""Tests of famus_tf.runs.bad_pictures, on small folders with every kind of defect."""

import csv
import types

import numpy as np
import pytest

from famus_tf.data.examples import ExampleTable
from famus_tf.errors import InputError
from famus_tf.runs import bad_pictures
from famus_tf.runs.bad_pictures import BadPicture
from tests import sample_pictures

GOOD = sample_pictures.jpeg()
TRUNCATED = sample_pictures.defects()["truncated JPEG"]


def table(root, contents):
    """The examples of {path: bytes}; None in place of bytes leaves the file out."""
    pictures = sample_pictures.write_files(root, {path: data or b"" for path, data in contents.items()})
    for path, data in contents.items():
        if data is None:
            (root / path).unlink()
    return ExampleTable(pictures.names, pictures, np.zeros(len(contents), np.int32))


def array_table(num_examples=3):
    ids = np.array([f"train_{row}" for row in range(num_examples)])
    return ExampleTable(ids, np.zeros((num_examples, 4, 4, 3), np.uint8), np.zeros(num_examples, np.int32))


@pytest.fixture
def tables(tmp_path):
    """Train: one missing, one empty, one truncated, one good; meta: arrays; test: one missing, one good."""
    train = {"a/0.jpg": None, "a/1.jpg": GOOD, "b/2.jpg": b"", "b/3.jpg": TRUNCATED}
    return {
        "train": table(tmp_path, train),
        "meta": array_table(),
        "test": table(tmp_path, {"test/4.jpg": GOOD, "test/5.jpg": None}),
    }


def some(part, *places, folder="f", reason="missing"):
    """Bad pictures of a part, each in the folder named before its row: ("a", 3) for a/3.jpg."""
    return [BadPicture(part, row, f"{name}/{row}.jpg", f"{folder}/{name}/{row}.jpg", reason) for name, row in places]


def test_missing_and_empty_pictures_are_found_without_opening_any(tables, tmp_path):
    assert bad_pictures.find_cheap(tables) == [
        BadPicture("train", 0, "a/0.jpg", f"{tmp_path}/a/0.jpg", "missing"),
        BadPicture("train", 2, "b/2.jpg", f"{tmp_path}/b/2.jpg", "empty file"),
        BadPicture("test", 1, "test/5.jpg", f"{tmp_path}/test/5.jpg", "missing"),
    ]


def test_arrays_have_no_pictures_to_check(tables):
    assert list(bad_pictures.with_pictures(tables)) == ["train", "test"]
    assert bad_pictures.find_cheap({"train": array_table()}) == []
    bad_pictures.refuse_too_many([], {"train": array_table()}, 0.0)


def test_a_name_that_is_no_utf8_can_be_told_and_written(tmp_path):
    # Latin-1; the file itself is not needed, and not every file system takes such a name.
    pictures = sample_pictures.PictureFiles(tmp_path, np.array([b"caf\xe9.jpg"]), (8, 8))
    (found,) = bad_pictures.find_cheap({"train": ExampleTable(pictures.names, pictures, np.zeros(1, np.int32))})
    assert found == BadPicture("train", 0, "caf\\xe9.jpg", f"{tmp_path}/caf\\xe9.jpg", "missing")
    bad_pictures.save(tmp_path / "bad.csv", [found])
    assert "caf\\xe9.jpg" in (tmp_path / "bad.csv").read_text(encoding="utf-8")


def test_before_training_beginnings_are_read_and_small_parts_decoded(tmp_path):
    contents = {"a.jpg": GOOD, "b.jpg": b"<html>", "c.jpg": TRUNCATED}
    tables = {part: table(tmp_path / part, contents) for part in ("train", "meta", "test")}
    found = [(bad.part, bad.row, bad.reason) for bad in bad_pictures.find_at_start(tables)]
    expected = [("meta", 1, "HTML, not a picture"), ("meta", 2, "truncated JPEG"), ("test", 1, "HTML, not a picture")]
    assert found == [*expected, ("test", 2, "truncated JPEG"), ("train", 1, "HTML, not a picture")]


def test_large_parts_are_opened_here_and_there(monkeypatch, tmp_path):
    monkeypatch.setattr(bad_pictures, "MOST_OPENED", 4)
    monkeypatch.setattr(bad_pictures, "MOST_DECODED", 4)
    assert bad_pictures.rows_opened(10).tolist() == [0, 2, 5, 7]
    assert bad_pictures.rows_opened(4).tolist() == [0, 1, 2, 3]
    assert bad_pictures.rows_opened(0).tolist() == []
    contents = {f"{row}.jpg": b"<html>" if row % 2 else GOOD for row in range(10)}
    tables = {"test": table(tmp_path, contents | {"2.jpg": TRUNCATED})}
    found = bad_pictures.find_at_start(tables)
    assert [bad.row for bad in found] == [5, 7]
    bad_pictures.refuse_too_many(found, tables, 0.3)
    with pytest.raises(InputError, match="^2 of the 10 test pictures cannot be used"):
        bad_pictures.refuse_too_many(found, tables, 0.1)
    monkeypatch.setattr(bad_pictures, "MOST_OPENED", 5)
    more = some("test", ("a", 2), ("a", 4), ("a", 6), ("a", 8))
    tables = {"test": table(tmp_path, {f"{row:03d}.jpg": b"x" for row in range(1000)})}
    assert bad_pictures.rows_opened(1000).tolist() == [0, 200, 400, 600, 800]
    bad_pictures.refuse_too_many(more, tables, 0.01)
    more = some("test", ("a", 0), ("a", 200))
    with pytest.raises(InputError, match="^2 of 5 test pictures looked at cannot be used, which is more than --max_ba"):
        bad_pictures.refuse_too_many(more, tables, 0.01)
    bad_pictures.refuse_too_many(more[:1], tables, 0.05)


def test_training_ends_when_too_many_could_not_be_decoded(tmp_path):
    examples = table(tmp_path, {f"{row}.jpg": TRUNCATED if row < 3 else GOOD for row in range(10)})
    trainer = types.SimpleNamespace(bad_rows=[0, 2])
    limit = bad_pictures.Limit(examples, trainer, 0.2)
    limit.on_train_batch_end(0)
    trainer.bad_rows.append(1)
    with pytest.raises(InputError, match=r"^3 of the 10 train pictures .*=0.2 allows; 3 .*/0.jpg \(truncated JPEG\)"):
        limit.on_train_batch_end(1)


def test_too_many_are_refused_with_the_worst_folder(tmp_path):
    tables = {"train": table(tmp_path, {f"{row}.jpg": GOOD for row in range(10)})}
    found = some("train", ("a", 1), ("b", 2), ("b", 4))
    with pytest.raises(InputError) as error:
        bad_pictures.refuse_too_many(found, tables, 0.25)
    assert str(error.value) == (
        "3 of the 10 train pictures cannot be used, which is more than --max_bad_fraction=0.25 allows; 2 of them are in"
        " f/b, for example f/a/1.jpg (missing). Get them again, or raise --max_bad_fraction; python -m tools.check_data"
        " lists them all."
    )


@pytest.mark.parametrize(
    ("num_bad", "num_examples", "most", "is_refused"),
    [
        (3, 10, 0.3, False),
        (4, 10, 0.3, True),
        # 0.29 * 100 is 28.999999999999996 in floating point.
        (29, 100, 0.29, False),
        (30, 100, 0.29, True),
        (1, 10, 0.0, True),
        (0, 10, 0.0, False),
        (10, 10, 1.0, False),
    ],
)
def test_the_share_that_is_allowed_is_still_allowed(tmp_path, num_bad, num_examples, most, is_refused):
    tables = {"train": table(tmp_path, {f"{row:03d}.jpg": b"x" for row in range(num_examples)})}
    found = some("train", *(("a", row) for row in range(num_bad)))
    if is_refused:
        with pytest.raises(InputError, match=f"^{num_bad} of the {num_examples} train pictures"):
            bad_pictures.refuse_too_many(found, tables, most)
    else:
        bad_pictures.refuse_too_many(found, tables, most)


def test_every_part_counts_by_itself(tables):
    # Half of the test pictures are bad, and a quarter of all.
    found = some("test", ("test", 1)) + some("train", ("a", 0))
    bad_pictures.refuse_too_many(found, tables, 0.5)
    with pytest.raises(InputError, match="^1 of the 2 test pictures .* 1 of them are in f/test"):
        bad_pictures.refuse_too_many(found, tables, 0.4)


def test_the_first_of_equally_bad_folders_is_the_worst():
    assert bad_pictures.worst_folder(some("train", ("a", 1), ("b", 2), ("c", 3), ("b", 4), ("c", 5))) == ("f/b", 2)


def test_what_training_met_is_told_with_its_reason(tables, tmp_path):
    assert bad_pictures.met_in_training(tables["train"], {3, 0}) == [
        BadPicture("train", 0, "a/0.jpg", f"{tmp_path}/a/0.jpg", "missing"),
        BadPicture("train", 3, "b/3.jpg", f"{tmp_path}/b/3.jpg", "truncated JPEG"),
    ]


def test_a_picture_that_decodes_by_now_is_told_too(tables, tmp_path):
    (found,) = bad_pictures.met_in_training(tables["train"], [1])
    assert found == BadPicture("train", 1, "a/1.jpg", f"{tmp_path}/a/1.jpg", "could not be read at the time")


def test_training_on_arrays_or_on_good_pictures_meets_none(tables):
    assert bad_pictures.met_in_training(array_table(), [1]) == []
    assert bad_pictures.met_in_training(tables["train"], []) == []


def test_lists_are_merged_by_place_and_the_earlier_one_counts():
    first = some("train", ("a", 4), ("a", 1))
    second = some("train", ("a", 1), ("a", 2), reason="truncated JPEG") + some("test", ("a", 4))
    assert bad_pictures.merged(first, second) == [
        *some("test", ("a", 4)),
        *some("train", ("a", 1)),
        *some("train", ("a", 2), reason="truncated JPEG"),
        *some("train", ("a", 4)),
    ]
    assert bad_pictures.merged() == bad_pictures.merged([], []) == []


def test_parts_are_counted():
    found = some("train", ("a", 1), ("a", 2)) + some("test", ("a", 1))
    assert bad_pictures.counts_by_part(found) == {"train": 2, "test": 1}


def test_a_saved_list_is_read_back(tmp_path):
    found = [BadPicture("train", 7, 'a "b", c.jpg', 'DIR/a "b", c.jpg', "missing"), *some("test", ("a", 0))]
    path = tmp_path / "bad.csv"
    bad_pictures.save(path, found)
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["part", "row", "id", "picture", "reason"]
    assert rows == [
        ["train", "7", 'a "b", c.jpg', 'DIR/a "b", c.jpg', "missing"],
        ["test", "0", "a/0.jpg", "f/a/0.jpg", "missing"],
    ]
    bad_pictures.save(path, [])
    assert path.read_bytes() == b"part,row,id,picture,reason\n"
    assert [file.name for file in tmp_path.iterdir()] == ["bad.csv"]


def test_a_list_that_cannot_be_written_is_an_oserror(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        bad_pictures.save(tmp_path / "nowhere" / "bad.csv", [])
