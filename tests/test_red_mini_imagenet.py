"""Tests of famus_tf.data.red_mini_imagenet, on miniatures of the three ways to have it."""

import functools
import shutil

import numpy as np
import pytest

from famus_tf.config import DataConfig
from famus_tf.data import red_mini_imagenet
from tests import tiny_datasets
from tests.tiny_datasets import (
    example_bytes,
    jpeg,
    make_red_mini_imagenet,
    make_red_records,
    red_rows,
    write,
    write_tfrecord,
)

SPLIT, VALIDATION = "red_noise_nl_0.4", "clean_validation"
GET_AGAIN = " Get dataset_no_images.zip of Controlled Noisy Web Labels again and unpack it there."
HOLDS = "split/red_noise_nl_*, controlled_noisy_web_labels/mini_imagenet_red, or red_noise_nl_*/data (TFRecords)"


def load(root, **settings):
    return red_mini_imagenet.load(DataConfig(dataset="red_mini_imagenet", data_dir=str(root), **settings))


message_of = functools.partial(tiny_datasets.message_of, load)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("red")
    for pictures in ("s32", "folders", "all_images", "two pools"):
        make_red_mini_imagenet(folder / pictures, pictures=pictures)
    for kind in ("tfds", "authors"):
        make_red_records(folder / kind, kind=kind)
    return folder


@pytest.fixture
def split_files(made, tmp_path):
    return shutil.copytree(made / "s32", tmp_path / "mini-imagenet")


def stems_and_labels(split):
    return [(name.removesuffix(".jpg"), label) for name, label in red_rows(split)]


@pytest.mark.parametrize("way", ["s32", "folders", "all_images", "two pools", "tfds"])
def test_every_way_gives_the_same_names_and_labels(made, way):
    dataset = load(made / way)
    for table, split in ((dataset.train, SPLIT), (dataset.test, VALIDATION)):
        rows = stems_and_labels(split)
        found = [(name.decode(), label) for name, label in zip(table.ids.tolist(), table.given_labels, strict=True)]
        assert found == (sorted(rows) if way == "tfds" else rows)
        assert table.given_labels.dtype == np.int32
        assert table.images.shape == (len(rows), 32, 32, 3)
        size = (12, 16) if way == "tfds" else (32, 32)
        for row in (0, 1, len(rows) // 2 + 3, len(rows) - 1):
            assert table.images.read_bytes(row) == jpeg(found[row][1], size=size)
    assert dataset.train.true_labels is None
    assert dataset.test.true_labels.tolist() == dataset.test.given_labels.tolist()
    assert dataset.validation is None


def test_the_authors_records_are_read_in_their_order(made):
    dataset = load(made / "authors")
    assert dataset.train.given_labels.tolist() == [label for _, label in red_rows(SPLIT)]
    assert dataset.test.given_labels.tolist() == [label for _, label in red_rows(VALIDATION)]
    assert dataset.train.ids[:2].tolist() == [b"red_noise_nl_0.4_00000", b"red_noise_nl_0.4_00001"]
    assert dataset.train.images.read_bytes(5) == jpeg(15, size=(32, 32))
    assert dataset.meta is None
    assert dataset.class_names[99] == "99"


@pytest.mark.parametrize("way", ["s32", "tfds"])
def test_pictures_that_are_not_from_the_web_are_clean(made, way):
    dataset = load(made / way)
    clean = {name: label for name, label in stems_and_labels(SPLIT) if name.startswith("n")}
    assert len(clean) == 100
    found = zip(dataset.meta.ids.tolist(), dataset.meta.true_labels.tolist(), strict=True)
    assert {name.decode(): label for name, label in found} == clean
    assert dataset.notes[-1] == "red_mini_imagenet 0.4: 100 of 200 training pictures (50.0%) are from the web."


@pytest.mark.parametrize(("size", "padding"), [(0, 4), (32, 4), (84, 8)])
def test_preprocessing_is_famus_codes_at_32_pixels(made, size, padding):
    dataset = load(made / "folders", image_size=size)
    preprocessing = dataset.preprocessing
    assert (preprocessing.padding, preprocessing.padding_mode, preprocessing.flip, preprocessing.shorter_side) == (
        padding,
        "zero",
        True,
        0,
    )
    assert preprocessing.mean == (0.507, 0.487, 0.441)
    assert preprocessing.std == (0.267, 0.256, 0.276)
    assert dataset.test.images.shape[1:3] == (size or 32, size or 32)


def test_class_names_are_the_lines_of_their_file(split_files):
    assert load(split_files).class_names[7] == "class name 7"
    write(split_files / "class_name.txt", ["too few"])
    assert load(split_files).class_names == tuple(str(label) for label in range(100))


def test_class_names_that_are_no_utf8_are_refused(split_files):
    file = write(split_files / "class_name.txt", b"house finch\ncaf\xe9\n")
    assert message_of(split_files) == (
        f"{file}, line 2: the byte 0xe9 is no UTF-8 text, which was expected. Save the file as UTF-8.{GET_AGAIN}"
    )


@pytest.mark.parametrize(("given", "meant"), [("0.20", "0.2"), (".05", "0.05"), ("0", "0.0"), ("0.8", "0.8")])
def test_a_rate_may_be_written_otherwise(tmp_path, given, meant):
    make_red_mini_imagenet(tmp_path, rate=meant, pictures="all_images")
    assert len(load(tmp_path, label_set=given).train) == 200


def test_tfds_splits_are_named_by_percents(tmp_path):
    make_red_records(tmp_path, kind="tfds", rate="0.05")
    assert (tmp_path / "controlled_noisy_web_labels-train_05.tfrecord-00000-of-00002").is_file()
    assert len(load(tmp_path, label_set="0.05").train) == 200


@pytest.mark.parametrize("given", ["0.7", "40", "red", "nan", ""])
def test_a_rate_that_was_not_published_is_refused(made, given):
    if not given:
        assert load(made / "s32", label_set="").notes[-1].startswith("red_mini_imagenet 0.4")
        return
    assert message_of(made / "s32", label_set=given) == (
        f"--label_set={given} is not a noise rate of Red Mini-ImageNet; choose one of 0.0, 0.05, 0.1, 0.15, 0.2, 0.3,"
        " 0.4, 0.5, 0.6, 0.8."
    )


def test_published_counts(made):
    for label_set, count in ((None, 50_010), ("0.3", 49_985), ("0.5", 49_962), ("0.6", 50_000), ("0.8", 50_008)):
        config = DataConfig(dataset="red_mini_imagenet", label_set=label_set)
        assert red_mini_imagenet.expected_counts(config) == {"train": count, "test": 5_000}
    assert load(made / "authors").notes == (
        "red_mini_imagenet: train has 200 pictures here; 50,010 were published.",
        "red_mini_imagenet: test has 100 pictures here; 5,000 were published.",
    )


def test_pictures_from_the_web_are_told_by_their_names():
    names = np.array([b"n0153282900000005", b"5922767e5677aef4", b"n1234567", b"0a00000000000000"])
    assert red_mini_imagenet.is_web_picture(names).tolist() == [False, True, True, True]


# Folders and files.


@pytest.mark.parametrize(
    "levels", ["1.0.0", "mini_imagenet_red/1.0.0", "controlled_noisy_web_labels/mini_imagenet_red/1.0.0"]
)
def test_tfds_folders_are_found_at_every_level(made, tmp_path, levels):
    shutil.copytree(made / "tfds", tmp_path / levels)
    assert len(load(tmp_path).train) == 200


def test_the_blue_pictures_are_not_taken_for_the_red_ones(made, tmp_path):
    folder = shutil.copytree(made / "tfds", tmp_path / "mini_imagenet_blue/1.0.0").parent
    assert message_of(folder) == (f"--data_dir={folder} holds no Red Mini-ImageNet; expected {HOLDS}. Point it there.")


@pytest.mark.parametrize(("beside", "place"), [("..", "high"), ("split", "deep"), ("training_s32", "deep")])
def test_a_folder_beside_the_right_one_is_told_from_it(split_files, beside, place):
    folder = (split_files / beside).resolve()
    assert message_of(folder) == (
        f"--data_dir={folder} is a level too {place} for Red Mini-ImageNet: {HOLDS} lie in {split_files}. Set"
        f" --data_dir={split_files}."
    )


def test_a_missing_split_is_named_with_those_that_are_there(split_files):
    assert message_of(split_files, label_set="0.6") == (
        f"{split_files / 'split/red_noise_nl_0.6'} is missing; there are red_noise_nl_0.4.{GET_AGAIN}"
    )


def test_a_missing_split_of_records_is_named(made):
    assert message_of(made / "tfds", label_set="0.6") == (
        f"{made / 'tfds'} has no split train_60: expected"
        " controlled_noisy_web_labels-train_60.tfrecord-00000-of-* and so on. Prepare it again with"
        " tensorflow-datasets, or copy the missing files."
    )
    assert message_of(made / "authors", label_set="0.6") == (
        f"{made / 'authors/red_noise_nl_0.6/data'} is missing; expected a TFRecord file. There are clean_validation,"
        " red_noise_nl_0.4; add the split."
    )


def test_missing_pictures_are_named_with_where_they_may_lie(split_files):
    shutil.rmtree(split_files / "training_s32")
    assert message_of(split_files) == (
        f"Red Mini-ImageNet's pictures of {SPLIT} are missing; expected"
        f" {split_files}/training_s32/{SPLIT}/<label>/<name>, {split_files}/training/{SPLIT}/<label>/<name> or"
        f" {split_files}/all_images/<name>. Put the pictures into one of these."
    )


def test_small_pictures_are_not_blown_up(made):
    root = made / "s32"
    assert message_of(root, image_size=84) == (
        f"{root}/training_s32/{SPLIT} holds pictures of 32 x 32 pixels, too few for --image_size=84; expected"
        f" {root}/training/{SPLIT} or all_images with pictures of 84 x 84. Get those, or drop --image_size."
    )
    assert message_of(made / "authors", image_size=84) == (
        f"{made / 'authors'} holds pictures of 32 x 32 pixels, too few for --image_size=84. Use the split files with"
        " pictures of 84 x 84, or tensorflow-datasets' records, or drop --image_size."
    )
    assert message_of(root, image_size=64) == "--image_size=64 is not a size of Red Mini-ImageNet; expected 32 or 84."


# Lines and records.


@pytest.mark.parametrize("label", ["100", "n01532829"])
def test_a_label_that_is_none_of_the_hundred_is_named(split_files, label):
    file = write(split_files / "split" / SPLIT, ["a.jpg 99", f"b.jpg {label}"])
    assert message_of(split_files) == (
        f"{file}, line 2: the label '{label}' in 'b.jpg {label}'; expected a whole number from 0 to 99. That is so in 1"
        " of 2 lines. Correct each such label, or check that the list belongs to this dataset."
    )


def test_an_empty_split_file_is_refused(split_files):
    file = write(split_files / "split" / VALIDATION, b"")
    assert message_of(split_files) == f"{file} is empty (0 bytes); expected lines '<path> <label>'.{GET_AGAIN}"


def test_a_picture_that_is_listed_twice_is_named(split_files):
    file = split_files / "split" / SPLIT
    lines = file.read_text().splitlines()
    name = lines[0].split()[0]
    write(file, [*lines, f"{name} 5"])
    assert message_of(split_files) == (
        f"{file}, line 201: '{name}' was already in line 1; expected every picture once. 1 of 201 lines repeat an"
        " earlier one: delete them, keeping of two labels the right one."
    )


def test_windows_line_ends_are_accepted(split_files):
    file = split_files / "split" / SPLIT
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert load(split_files).train.given_labels.tolist() == [label for _, label in red_rows(SPLIT)]


@pytest.mark.parametrize(
    ("way", "name"),
    [
        ("tfds", "controlled_noisy_web_labels-train_40.tfrecord-00001-of-00002"),
        ("authors", f"{SPLIT}/data"),
    ],
)
def test_a_record_file_that_is_cut_off_is_named(made, tmp_path, way, name):
    file = shutil.copytree(made / way, tmp_path / "records") / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    last = 199 if way == "authors" else 99
    assert message_of(tmp_path / "records") == (
        f"{file} is cut off in record {last}, or is no TFRecord file: it has {len(whole) - 1} bytes and record {last}"
        f" would end at byte {len(whole)}. Fetch or prepare the file anew."
    )


@pytest.mark.parametrize(("example", "found"), [({"image/encoded": b"x"}, "none"), ({"image/class/label": 100}, "100")])
def test_a_record_without_a_label_is_named(made, tmp_path, example, found):
    root = shutil.copytree(made / "authors", tmp_path / "records")
    file = write_tfrecord(root / SPLIT / "data", [{"image/class/label": 3}, example])
    assert message_of(root) == (
        f"{file}, record 1: expected a label from 0 to 99 as 'image/class/label', found {found}. Fetch or prepare the"
        " file anew."
    )


@pytest.mark.parametrize(
    ("way", "names", "what"),
    [
        ("authors", [f"{SPLIT}/data"], "{first} is"),
        (
            "tfds",
            [f"controlled_noisy_web_labels-train_40.tfrecord-0000{shard}-of-00002" for shard in range(2)],
            "Each of 2 files, {first} and so on, is",
        ),
    ],
)
def test_record_files_without_a_record_are_named(made, tmp_path, way, names, what):
    root = shutil.copytree(made / way, tmp_path / "records")
    files = [write(root / name, b"") for name in names]
    assert message_of(root) == (
        f"{what.format(first=files[0])} empty (no records); expected a record for each picture. Fetch or prepare the"
        " TFRecords anew."
    )


def test_a_record_without_a_name_is_named(made, tmp_path):
    root = shutil.copytree(made / "tfds", tmp_path / "records")
    name = "controlled_noisy_web_labels-validation.tfrecord-00000-of-00002"
    file = write_tfrecord(root / name, [example_bytes({"label": 3})])
    assert message_of(root) == (
        f"{file}, record 0: expected the picture's name as 'id', found none. Prepare the dataset anew."
    )
