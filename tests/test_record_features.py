"""Tests of famus_tf.data.record_features, against TensorFlow's own writer and parser."""

import numpy as np
import pytest
import tensorflow as tf

from famus_tf.data import record_features
from famus_tf.data.pictures import index_records
from famus_tf.errors import InputError
from tests.tiny_datasets import example_bytes, write_tfrecord

EXAMPLES = [
    {"label": 0, "name": b"first", "image": b"\x0a" * 70_000},
    {"label": 300, "name": b"", "image": b"x"},
    {"label": -5, "name": "ä".encode(), "image": b""},
    {"label": 2**63 - 1, "name": b"n" * 200, "image": b"x"},
]


def test_features_are_those_that_were_written(tmp_path):
    files = [write_tfrecord(tmp_path / f"{n}.tfrecord", EXAMPLES[n::2]) for n in range(2)]
    index = index_records(files)
    features = record_features.read_features(files, index, ("label", "name"))
    assert features == {
        "label": [0, -5, 300, 2**63 - 1],
        "name": [b"first", "ä".encode(), b"", b"n" * 200],
    }


def test_rows_come_in_the_order_of_an_index_that_was_cut(tmp_path):
    files = [write_tfrecord(tmp_path / "a.tfrecord", EXAMPLES)]
    features = record_features.read_features(files, index_records(files).take(np.array([3, 1])), ("label",))
    assert features == {"label": [2**63 - 1, 300]}


def test_what_is_not_one_value_is_none(tmp_path):
    floats = tf.train.Feature(float_list=tf.train.FloatList(value=[1.0]))
    records = [
        example_bytes({"other": 1}),
        example_bytes({"label": [1, 2]}),
        tf.train.Example(features=tf.train.Features(feature={"label": floats})).SerializeToString(),
        b"",
    ]
    files = [write_tfrecord(tmp_path / "a.tfrecord", records)]
    assert record_features.read_features(files, index_records(files), ("label",)) == {"label": [None] * 4}


def test_numbers_that_are_not_packed_are_read(tmp_path):
    # Example { features { feature { key: "label" value { int64_list { value: 7 } } } } } in protobuf's other encoding.
    record = b"\x0a\x0f\x0a\x0d\x0a\x05label\x12\x04\x1a\x02\x08\x07"
    assert tf.train.Example.FromString(record).features.feature["label"].int64_list.value == [7]
    files = [write_tfrecord(tmp_path / "a.tfrecord", [record])]
    assert record_features.read_features(files, index_records(files), ("label",)) == {"label": [7]}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"\xff\xd8\xff\xe0 a jpeg", "wire type 7"),
        (example_bytes({"label": 3})[:-2], "a field that ends behind its message"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "a number of more than ten bytes"),
        (b"\x0a\x80", "a number that ends behind its message"),
    ],
)
def test_a_record_that_is_no_example_is_named(tmp_path, record, reason):
    file = write_tfrecord(tmp_path / "a.tfrecord", [EXAMPLES[0], record])
    with pytest.raises(InputError) as error:
        record_features.read_features([file], index_records([file]), ("label",))
    assert str(error.value) == (
        f"{file}, record 1: expected a tf.train.Example, found something else ({reason}). Fetch or prepare the file"
        " anew."
    )


def test_shards_come_in_order(tmp_path):
    names = [f"set-train.tfrecord-{n:05d}-of-00003" for n in range(3)]
    for name in [*names, "set-train_40.tfrecord-00000-of-00001", "set-train.tfrecord-index"]:
        (tmp_path / name).touch()
    assert [file.name for file in record_features.find_shards(tmp_path, "set-train")] == names
    assert record_features.find_shards(tmp_path, "set-test") == []


def test_a_missing_shard_is_counted(tmp_path):
    (tmp_path / "set-train.tfrecord-00001-of-00003").touch()
    with pytest.raises(InputError) as error:
        record_features.find_shards(tmp_path, "set-train")
    assert str(error.value) == (
        f"{tmp_path} holds 1 files set-train.tfrecord-*-of-00003; expected 3. Copy all of them from where they were"
        " prepared."
    )
