"""Tests of famus_tf.data.pictures."""

import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from famus_tf.data import pictures
from famus_tf.data.pictures import MISSING, PictureFiles, PictureRecords, index_records
from famus_tf.errors import InputError
from tests import sample_pictures

PATHS = ("b.jpg", "a/long name with spaces and ümlauts.jpg", "a/deep/er/c", "d.JPEG")
CONTENTS = {path: f"content of {path}".encode() for path in PATHS}
PAYLOADS = [b"first", b"", b"third" * 50_000, b"fourth\0"]


@pytest.fixture
def files(tmp_path):
    return sample_pictures.write_files(tmp_path, CONTENTS, size=(5, 7))


@pytest.fixture
def records(tmp_path):
    """Two files; four records in one, two in the other."""
    paths = [
        sample_pictures.write_records(tmp_path / "one.tfrecord", PAYLOADS),
        sample_pictures.write_records(tmp_path / "two.tfrecord", [b"fifth", b"sixth"]),
    ]
    return PictureRecords(paths, index_records(paths), "image", (5, 7))


def read_in_a_graph(some, rows):
    dataset = tf.data.Dataset.from_tensor_slices(np.array(rows, np.int64)).map(some.read)
    return [content.numpy() for content in dataset]


def test_a_set_looks_like_an_array_of_decoded_pictures(files, records):
    assert (len(files), files.shape, files.ndim, files.dtype) == (4, (4, 5, 7, 3), 4, np.uint8)
    assert (len(records), records.shape) == (6, (6, 5, 7, 3))


def test_files_are_read_by_their_paths_inside_and_outside_of_graphs(files):
    expected = [CONTENTS[path] for path in PATHS]
    assert read_in_a_graph(files, range(4)) == expected
    assert [files.read_bytes(row) for row in range(4)] == expected
    assert files.read_bytes(2, most=5) == b"conte"


def test_rows_are_taken_in_the_order_asked(files, records):
    some = files[np.array([3, 1])]
    assert read_in_a_graph(some, [0, 1]) == [CONTENTS[PATHS[3]], CONTENTS[PATHS[1]]]
    assert some.source_name(1) == files.source_name(1)
    assert some.names.tolist() == [PATHS[3].encode(), PATHS[1].encode()]
    some = records[np.array([5, 0])]
    assert read_in_a_graph(some, [0, 1]) == [b"sixth", b"first"]
    assert some.source_name(0) == records.source_name(5)
    assert records.names is None


def test_a_set_first_read_in_one_graph_can_be_read_in_another(files, records):
    for some in (files, records):
        once, twice = read_in_a_graph(some, [1]), read_in_a_graph(some, [1])
        assert once == twice
        assert some.encoded(tf.constant(1, tf.int64)).numpy() == once[0]


def test_paths_are_kept_outside_of_the_graph_that_reads_them(tmp_path):
    def graph_bytes(count):
        paths = np.array([b"%040d.jpg" % number for number in range(count)])
        read = tf.function(PictureFiles(tmp_path, paths, (1, 1)).read)
        return read.get_concrete_function(tf.TensorSpec([], tf.int64)).graph.as_graph_def().ByteSize()

    assert graph_bytes(20_000) < graph_bytes(10) + 100


def test_the_bytes_of_what_cannot_be_read_are_empty(files, records, tmp_path):
    (tmp_path / "b.jpg").unlink()
    (tmp_path / "two.tfrecord").write_bytes(b"short")
    assert files.encoded(tf.constant(0, tf.int64)) == b""
    assert files.encoded(tf.constant(1, tf.int64)) == CONTENTS[PATHS[1]]
    assert records.encoded(tf.constant(4, tf.int64)) == b""
    assert records.encoded(tf.constant(3, tf.int64)) == b"fourth\0"
    with pytest.raises(FileNotFoundError):
        files.read_bytes(0)


def test_source_names_lead_to_the_picture(files, records, tmp_path):
    assert pathlib.Path(files.source_name(1)) == tmp_path / PATHS[1]
    assert records.source_name(5) == f"{tmp_path / 'two.tfrecord'}, record 1"


@pytest.mark.parametrize(
    ("paths", "size", "message"),
    [
        (np.array(["a.jpg"]), (1, 1), r"bytes strings, got <U5 \[1\]"),
        ([b"a.jpg"], (1, 1), "bytes strings, got list"),
        (np.array([[b"a"]]), (1, 1), r"got \|S1 \[1, 1\]"),
        (np.array([b"a"]), (0, 1), r"size is \(0, 1\)"),
        (np.array([b"a"]), (1, 1, 3), "size is"),
        (np.array([b"a"]), (1.5, 1), "size is"),
    ],
)
def test_malformed_sets_of_files_are_refused(paths, size, message):
    with pytest.raises(InputError, match=message):
        PictureFiles("folder", paths, size)


# Sizes on disk.


def test_stored_sizes_are_found_without_opening_a_file(files, tmp_path, monkeypatch):
    (tmp_path / "d.JPEG").write_bytes(b"")
    (tmp_path / "stranger").write_bytes(b"not in the set")
    monkeypatch.setattr("builtins.open", None)
    assert files.stored_bytes().tolist() == [*(len(CONTENTS[path]) for path in PATHS[:3]), 0]


def test_files_folders_and_links_that_lead_nowhere_are_missing(files, tmp_path):
    (tmp_path / "b.jpg").unlink()
    (tmp_path / "b.jpg").mkdir()
    (tmp_path / "d.JPEG").unlink()
    (tmp_path / "d.JPEG").symlink_to(tmp_path / "nowhere")
    (tmp_path / "a/deep/er/c").unlink()
    (tmp_path / "a/deep/er").rmdir()
    assert files.stored_bytes().tolist() == [MISSING, len(CONTENTS[PATHS[1]]), MISSING, MISSING]


def test_links_repeated_paths_and_other_spellings_are_followed(files, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "a")
    names = [b"b.jpg", b"./b.jpg", b"b.jpg", b"a/../d.JPEG", b"link/deep/er/c"]
    sizes = PictureFiles(tmp_path, np.array(names), (1, 1)).stored_bytes()
    assert sizes.tolist() == [len(CONTENTS[PATHS[n]]) for n in (0, 0, 0, 3, 2)]


def test_records_beyond_the_end_of_their_file_are_missing(records, tmp_path):
    os.truncate(tmp_path / "one.tfrecord", 200)
    (tmp_path / "two.tfrecord").unlink()
    lengths = records.index.lengths.tolist()
    assert records.stored_bytes().tolist() == [lengths[0], lengths[1], MISSING, MISSING, MISSING, MISSING]


# Records.


def test_records_are_read_from_their_places_inside_and_outside_of_graphs(records):
    expected = [*PAYLOADS, b"fifth", b"sixth"]
    assert read_in_a_graph(records, range(6)) == expected
    assert [records.read_bytes(row) for row in range(6)] == expected
    assert records.read_bytes(2, most=7) == b"thirdth"


def test_the_index_names_the_bytes_that_tensorflow_reads(records):
    index = records.index
    assert index.file_numbers.tolist() == [0, 0, 0, 0, 1, 1]
    assert index.record_numbers.tolist() == [0, 1, 2, 3, 0, 1]
    from_tensorflow = [data.numpy() for data in tf.data.TFRecordDataset(list(records.files))]
    for row, data in enumerate(from_tensorflow):
        content = pathlib.Path(records.files[index.file_numbers[row]]).read_bytes()
        assert content[index.offsets[row] : index.offsets[row] + index.lengths[row]] == data
    assert [column.dtype for column in (index.file_numbers, index.offsets, index.lengths)] == [
        np.int32,
        np.int64,
        np.int64,
    ]


def test_no_files_and_empty_files_have_no_records(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert len(index_records([])) == len(index_records([tmp_path / "empty"])) == 0


@pytest.mark.parametrize("num_cut", [1, 4, 15])
def test_a_file_that_ends_within_a_record_is_refused_by_name_and_number(tmp_path, num_cut):
    path = sample_pictures.write_records(tmp_path / "cut.tfrecord", [b"one", b"two"])
    os.truncate(path, os.path.getsize(path) - num_cut)
    with pytest.raises(InputError, match=r"cut\.tfrecord is cut off in record 1, or is no TFRecord file"):
        index_records([path])


def test_what_is_no_record_file_is_refused(tmp_path):
    (tmp_path / "page.tfrecord").write_bytes(b"<html>Not found</html>")
    with pytest.raises(InputError, match="page.tfrecord is cut off in record 0, or is no TFRecord file: it has 22"):
        index_records([tmp_path / "page.tfrecord"])
    with pytest.raises(InputError, match="absent cannot be read: No such file"):
        index_records([tmp_path / "absent"])


def test_a_record_without_the_feature_cannot_be_read(tmp_path):
    path = sample_pictures.write_records(tmp_path / "x.tfrecord", [b"one"], key="other")
    some = PictureRecords([path], index_records([path]), "image", (1, 1))
    assert some.encoded(tf.constant(0, tf.int64)) == b""
    with pytest.raises(OSError, match="record 0 has no bytes feature 'image'"):
        some.read_bytes(0)


def test_both_kinds_are_abstract_pictures(files, records):
    assert all(isinstance(some, pictures.AbstractPictures) for some in (files, records))
