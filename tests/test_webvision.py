"""Tests of famus_tf.data.webvision, on miniatures of WebVision 1.0 and its defects."""

import functools
import shutil

import numpy as np
import pytest

from famus_tf.config import DataConfig
from famus_tf.data import webvision
from tests import tiny_datasets
from tests.tiny_datasets import imagenet_synsets, jpeg, make_imagenet_validation, make_webvision, write

GET_AGAIN = " Get info.tar of WebVision 1.0 again and unpack it there."
SECOND_VERSION = (
    " classes, as of WebVision 2.0, whose labels mean other classes; mini-WebVision is part of WebVision 1.0. Get"
    " info.tar of 1.0."
)


def load(root, **settings):
    return webvision.load(DataConfig(dataset="webvision", data_dir=str(root), **settings))


message_of = functools.partial(tiny_datasets.message_of, load)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_webvision(tmp_path_factory.mktemp("made") / "webvision", per_class=2)


@pytest.fixture
def root(made, tmp_path):
    return shutil.copytree(made, tmp_path / "webvision")


def rows_below_50(lines):
    rows = [line.split() for line in lines]
    return [(path, int(label)) for path, label in rows if int(label) < 50]


@pytest.mark.parametrize("lists_in", ["info", ""])
def test_the_first_fifty_classes_come_in_the_lists_order(tmp_path, lists_in):
    root = make_webvision(tmp_path, lists_in=lists_in, per_class=2)
    dataset = load(root)
    for table, name, folder in (
        (dataset.train, "train_filelist_google.txt", root),
        (dataset.test, "val_filelist.txt", root / "val_images_256"),
    ):
        rows = rows_below_50((root / lists_in / name).read_text().splitlines())
        assert len(rows) == 100
        assert [path.decode() for path in table.ids.tolist()] == [path for path, _ in rows]
        assert table.given_labels.dtype == np.int32
        assert table.given_labels.tolist() == [label for _, label in rows]
        assert table.images.shape == (100, 299, 299, 3)
        assert table.images.names is table.ids
        assert table.images.source_name(3) == str(folder / rows[3][0])
        assert table.images.read_bytes(3) == jpeg(rows[3][1])
    assert dataset.train.true_labels is None
    assert dataset.test.true_labels.tolist() == dataset.test.given_labels.tolist()
    assert dataset.class_names == tuple(f"name{label}" for label in range(50))
    assert (dataset.more_tests, dataset.validation, dataset.meta) == ({}, None, None)


def test_windows_line_ends_are_accepted(root):
    for name in ("train_filelist_google.txt", "val_filelist.txt", "synsets.txt"):
        file = root / "info" / name
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    dataset = load(root)
    assert (len(dataset.train), len(dataset.test), dataset.class_names[49]) == (100, 100, "name49")


def test_preprocessing_is_divide_mixs(made):
    preprocessing = load(made).preprocessing
    assert (preprocessing.shorter_side, preprocessing.crop, preprocessing.flip) == (320, "random", True)
    assert preprocessing.mean == (0.485, 0.456, 0.406)
    assert preprocessing.std == (0.229, 0.224, 0.225)
    small = load(made, image_size=75)
    assert (small.test.images.shape[1:], small.preprocessing.shorter_side) == ((75, 75, 3), 80)


def test_imagenet_is_a_second_test_set(made, tmp_path):
    names = make_imagenet_validation(tmp_path / "val", "synsets")
    dataset = load(made, imagenet_dir=str(tmp_path / "val"), image_size=32)
    table = dataset.more_tests["imagenet"]
    assert table.given_labels.tolist() == list(range(50))
    assert [name.decode() for name in table.ids.tolist()] == [
        f"{imagenet_synsets()[label]}/{name}" for label, name in names.items()
    ]
    assert table.images.shape == (50, 32, 32, 3)
    assert dataset.notes[2] == "webvision: imagenet has 50 pictures here; 2,500 were published."


def test_imagenet_labels_follow_the_synsets_of_webvisions_own_list(root, tmp_path):
    file = root / "info/synsets.txt"
    lines = file.read_text().splitlines()
    write(file, [lines[0], *lines[2:]])  # a line is missing, so that each label from 1 on is another synset's
    make_imagenet_validation(tmp_path / "val", "flat")
    table = load(root, imagenet_dir=str(tmp_path / "val"), image_size=32).more_tests["imagenet"]
    assert [table.images.read_bytes(row) == jpeg(label) for row, label in enumerate((0, 2, 3))] == [True] * 3


def test_published_counts(made, tmp_path):
    config = DataConfig(dataset="webvision", data_dir=str(made))
    assert webvision.expected_counts(config) == {"train": 65_944, "test": 2_500}
    config = DataConfig(dataset="webvision", data_dir=str(made), imagenet_dir="x")
    assert webvision.expected_counts(config) == {"train": 65_944, "test": 2_500, "imagenet": 2_500}
    assert load(made).notes == (
        "webvision: train has 100 pictures here; 65,944 were published.",
        "webvision: test has 100 pictures here; 2,500 were published.",
    )


# Folders and files.


@pytest.mark.parametrize(
    ("beside", "place"), [("..", "high"), ("info", "deep"), ("google", "deep"), ("google/q0000", "deep")]
)
def test_a_folder_beside_the_right_one_is_told_from_it(root, beside, place):
    folder = (root / beside).resolve()
    assert message_of(folder) == (
        f"--data_dir={folder} is a level too {place} for WebVision: info/, google/ and val_images_256/ lie in {root}."
        f" Set --data_dir={root}."
    )


def test_missing_lists_are_named_with_what_they_hold(root):
    (root / "info/val_filelist.txt").unlink()
    (root / "info/synsets.txt").unlink()
    assert message_of(root) == (
        f"WebVision lacks 2 of 3 files, looked for in {root / 'info'} and {root}: val_filelist.txt ('val000001.jpg"
        " <label>' per line, 50,000); synsets.txt ('n01440764 tench, Tinca tinca' and so on, line k for label k,"
        f" 1,000).{GET_AGAIN}"
    )


def test_missing_training_pictures_are_told_from_packed_ones(root):
    shutil.rmtree(root / "google")
    begin = f"WebVision lacks the folder {root / 'google'}, where its lists' pictures lie. "
    assert message_of(root) == begin + "Unpack google_resized_256.tar there."
    (root / "q0001").mkdir()
    assert message_of(root) == (
        f"{begin}Unpack google_resized_256.tar there. {root / 'q0001'} is there, but lacks that level."
    )
    write(root / "google_resized_256.tar", b"")
    assert message_of(root) == begin + "google_resized_256.tar is there: unpack it."


def test_full_size_test_pictures_are_told_from_resized_ones(root):
    (root / "val_images_256").rename(root / "val_images")
    assert message_of(root) == (
        f"WebVision lacks the folder {root / 'val_images_256'}, where its lists' pictures lie. Unpack"
        f" val_images_256.tar there. {root / 'val_images'} is there, but is not resized."
    )


# Lines.


@pytest.mark.parametrize("name", ["train_filelist_google.txt", "val_filelist.txt"])
def test_labels_of_webvision_2_are_told_from_those_of_1(root, name):
    file = root / "info" / name
    lines = file.read_text().splitlines()
    write(file, [*lines, "google/q9/a.jpg 1000", "google/q9/b.jpg 4999"])
    assert message_of(root) == (
        f"{file}, line {len(lines) + 1}: the label 1000; expected 0 to 999. These are 5000{SECOND_VERSION}"
    )


def test_synsets_of_webvision_2_are_told_from_those_of_1(root):
    file = write(root / "info/synsets.txt", [f"n{number:08d} name" for number in range(5000)])
    assert message_of(root) == f"{file} has 5000 lines; expected 1000. These are 5000{SECOND_VERSION}"


def test_too_few_synsets_are_refused(root):
    file = write(root / "info/synsets.txt", ["n00000000 name"] * 49)
    assert message_of(root) == f"{file} has 49 lines; expected 1000, line k for label k.{GET_AGAIN}"


def test_a_line_that_names_no_synset_is_refused(root):
    file = root / "info/synsets.txt"
    lines = file.read_text().splitlines()
    write(file, [*lines[:6], "tench, Tinca tinca", *lines[7:]])
    assert message_of(root) == (
        f"{file}, line 7: found 'tench, Tinca tinca'; expected a synset and its names, as in 'n01440764 tench, Tinca"
        f" tinca'.{GET_AGAIN}"
    )
    write(file, [*lines[:6], lines[2], *lines[7:]])
    assert message_of(root) == (
        f"{file}, line 7: n01484850 was already in line 3; expected every synset once.{GET_AGAIN}"
    )


@pytest.mark.parametrize(("first", "second"), [(3, 4), (50, 51), (998, 999)])
def test_synsets_that_do_not_ascend_are_refused_anywhere_in_the_file(root, first, second):
    file = root / "info/synsets.txt"
    lines = file.read_text().splitlines()
    lines[first], lines[second] = lines[second], lines[first]
    write(file, lines)
    assert message_of(root) == (
        f"{file}, line {second + 1}: {imagenet_synsets()[first]} comes after {imagenet_synsets()[second]}; expected"
        f" ascending synsets, since line k names label k and WebVision 1.0 lists them so.{GET_AGAIN}"
    )


def test_synsets_that_begin_with_another_one_are_refused(root):
    file = root / "info/synsets.txt"
    lines = file.read_text().splitlines()
    for wrong, found in ((lines[::-1], "n15075141"), (lines[1:], "n01443537")):
        write(file, wrong)
        assert message_of(root) == (
            f"{file}, line 1: found {found}; expected n01440764, since WebVision 1.0 lists the synsets of ILSVRC12 in"
            f" ascending order and line k names label k.{GET_AGAIN}"
        )


def test_synsets_that_are_no_utf8_are_refused(root):
    file = write(root / "info/synsets.txt", b"n01440764 tench\nn01443537 poisson dor\xe9\n")
    assert message_of(root) == (
        f"{file}, line 2: the byte 0xe9 is no UTF-8 text, which was expected. Save the file as UTF-8.{GET_AGAIN}"
    )


def test_an_empty_list_is_refused(root):
    file = write(root / "info/val_filelist.txt", b"")
    assert message_of(root) == f"{file} is empty (0 bytes); expected lines '<path> <label>'.{GET_AGAIN}"


def test_a_line_without_a_label_is_named(root):
    file = root / "info/train_filelist_google.txt"
    lines = file.read_text().splitlines()
    write(file, [*lines, "google/q0001/x.jpg"])
    assert message_of(root) == (
        f"{file}, line 107: no label in 'google/q0001/x.jpg'; expected '<path> <label>', the label a whole number. That"
        " is so in 1 of 107 lines. Write its label behind each such path, or delete the line."
    )


def test_a_picture_that_is_listed_twice_is_named(root):
    file = root / "info/train_filelist_google.txt"
    lines = file.read_text().splitlines()
    path = lines[1].split()[0]
    write(file, [*lines, f"{path} 3"])
    assert message_of(root) == (
        f"{file}, line 107: '{path}' was already in line 2; expected every picture once. 1 of 101 lines repeat an"
        " earlier one: delete them, keeping of two labels the right one."
    )


def test_a_list_of_other_classes_is_refused(root):
    file = write(root / "info/train_filelist_google.txt", ["google/q0060/a.jpg 50", "google/q0060/b.jpg 999"])
    assert message_of(root) == f"{file} has no label below 50, which mini-WebVision is made of.{GET_AGAIN}"
