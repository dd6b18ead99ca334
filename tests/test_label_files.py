"""Tests of famus_tf.data.label_files."""

import dataclasses
import hashlib

import numpy as np
import pytest

from famus_tf import whole_files
from famus_tf.data import label_files
from famus_tf.data.examples import ExampleTable
from famus_tf.errors import InputError


def test_labels_hash_is_the_sha256_of_sorted_lines():
    expected = hashlib.sha256(b"a:10\nb:2\n").hexdigest()
    assert label_files.labels_hash(np.array(["b", "a"]), np.array([2, 10])) == expected
    assert label_files.labels_hash(np.array(["b", "a"]), np.array([10, 2])) != expected
    with pytest.raises(InputError, match="1 labels were given for 2 ids"):
        label_files.labels_hash(np.array(["b", "a"]), np.array([1]))


def make_table(true_labels=(1, 0)):
    return ExampleTable(
        ids=np.array(["shoe,left.jpg", "train_00001"]),
        images=np.zeros((2, 1, 1, 1), np.uint8),
        given_labels=np.array([0, 2], np.int32),
        true_labels=None if true_labels is None else np.array(true_labels, np.int32),
    )


def test_saved_labels_are_readable_csv_and_come_back(tmp_path):
    label_files.save_labels(tmp_path / "labels.csv", make_table())
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    assert lines == ["id,given_label,true_label", '"shoe,left.jpg",0,1', "train_00001,2,0"]
    ids, given_labels, true_labels = label_files.load_labels(tmp_path / "labels.csv")
    assert ids.tolist() == ["shoe,left.jpg", "train_00001"]
    assert (given_labels.tolist(), given_labels.dtype) == ([0, 2], np.int32)
    assert (true_labels.tolist(), true_labels.dtype) == ([1, 0], np.int32)


def test_unknown_true_labels_come_back_unknown(tmp_path):
    label_files.save_labels(tmp_path / "labels.csv", make_table(true_labels=None))
    assert label_files.load_labels(tmp_path / "labels.csv")[2] is None


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "labels.csv"
    label_files.save_labels(path, make_table())
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(whole_files.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        label_files.save_labels(path, make_table(true_labels=None))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["labels.csv"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not begin with the line 'id,given_label,true_label'"),
        ("name,label\n", "does not begin"),
        ("id,given_label,true_label\na,1,0\nb,x,0\n", "line 3: expected"),
        ("id,given_label,true_label\na,1\n", "line 2: expected"),
        ("id,given_label,true_label\na,1,0\nb,1,\n", "line 3: expected"),
    ],
)
def test_a_malformed_label_file_is_refused_with_its_line(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        label_files.load_labels(tmp_path / "labels.csv")


def test_a_missing_label_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        label_files.load_labels(tmp_path / "labels.csv")


def test_a_file_that_is_no_utf8_text_is_refused(tmp_path):
    (tmp_path / "labels.csv").write_bytes(b"id,given_label,true_label\n\xff,1,1\n")
    with pytest.raises(InputError, match="is not a label file: it is no CSV text in UTF-8"):
        label_files.load_labels(tmp_path / "labels.csv")


def test_ids_of_bytes_have_the_hash_of_the_same_text():
    texts = np.array(["a/ü.jpg", "b"])
    as_bytes = np.char.encode(texts, "utf-8")
    assert as_bytes.dtype.kind == "S"
    labels = np.array([1, 0])
    assert label_files.labels_hash(as_bytes, labels) == label_files.labels_hash(texts, labels)
    assert label_files.labels_hash(np.array([b"\xff"]), labels[:1]) == hashlib.sha256(b"\\xff:1\n").hexdigest()


@pytest.mark.parametrize("true_labels", [(1, 0), None])
def test_a_file_holds_the_labels_it_was_written_of_and_no_others(true_labels, tmp_path):
    path, table = tmp_path / "labels.csv", make_table(true_labels)
    label_files.save_labels(path, table)
    assert label_files.holds_labels_of(path, table)
    other = dataclasses.replace(table, given_labels=np.array([0, 1], np.int32))
    assert not label_files.holds_labels_of(path, other)
    assert not label_files.holds_labels_of(path, table.take(np.array([0])))
    assert not label_files.holds_labels_of(path, table.take(np.array([1, 0])))
    label_files.save_labels(path, table.take(np.array([0])))
    assert not label_files.holds_labels_of(path, table)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="labels.csv cannot be read .* give another --model_dir"):
        label_files.holds_labels_of(path, table)
