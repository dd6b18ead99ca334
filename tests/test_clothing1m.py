"""Tests of famus_tf.data.clothing1m, on miniatures of the authors' layout and of re-made lists."""

import functools
import shutil

import numpy as np
import pytest

from famus_tf.config import DataConfig
from famus_tf.data import clothing1m
from famus_tf.errors import InputError
from tests import tiny_datasets
from tests.tiny_datasets import clothing_keys, clothing_labels, jpeg, make_clothing1m, write

OVERLAP = (
    " The published lists share none. A training list made from noisy_label_kv.txt must leave out the 37,497 pictures"
    " that have clean labels too."
)
GET_AGAIN = " Get annotation.zip again from the dataset's authors and unpack it there."


def load(root, **settings):
    return clothing1m.load(DataConfig(dataset="clothing1m", data_dir=str(root), **settings))


message_of = functools.partial(tiny_datasets.message_of, load)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clothing")
    return {lists: make_clothing1m(folder / lists, lists=lists) for lists in ("official", "remade")}


@pytest.fixture
def official(made, tmp_path):
    return shutil.copytree(made["official"], tmp_path / "clothing1m")


@pytest.fixture
def remade(made, tmp_path):
    return shutil.copytree(made["remade"], tmp_path / "clothing1m")


def replace_line(file, number, text):
    lines = file.read_text().splitlines()
    lines[number - 1] = text
    return write(file, lines)


LAYOUTS = {
    "official": {},
    "lists in annotations": {"lists_in": "annotations"},
    "0 to 9 in the root, keys without images/": {"pictures_in": "", "prefix": ""},
    "0 to 9 in the root, keys with images/": {"pictures_in": ""},
    "keys without images/": {"prefix": ""},
    "re-made": {"lists": "remade"},
    "re-made, ./": {"lists": "remade", "prefix": "./"},
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_gives_the_same_examples_in_the_lists_order(tmp_path, layout):
    dataset = load(make_clothing1m(tmp_path, **layout), meta_set="clean")
    tables = {"train": dataset.train, "val": dataset.validation, "test": dataset.test, "meta": dataset.meta}
    for part, table in tables.items():
        count = 28 if part == "train" else 14
        assert [name.decode() for name in table.ids.tolist()] == clothing_keys(part, count)
        assert table.given_labels.dtype == np.int32
        assert table.given_labels.tolist() == clothing_labels(part, count)
        assert table.images.shape == (count, 224, 224, 3)
        assert table.images.names is table.ids
        for row, label in enumerate(clothing_labels(part, count)):
            assert table.images.read_bytes(row) == jpeg(label)
    assert dataset.train.true_labels is None
    for part in ("val", "test", "meta"):
        assert tables[part].true_labels.tolist() == clothing_labels(part, 14)
    assert dataset.class_names == clothing1m.CLASS_NAMES


def test_windows_line_ends_and_tabs_are_accepted(remade):
    file = remade / "noisy_train.txt"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n").replace(b" ", b"\t"))
    assert load(remade).train.given_labels.tolist() == clothing_labels("train", 28)


@pytest.mark.parametrize(
    ("settings", "is_read"),
    [
        ({}, False),
        ({"meta_set": "clean"}, True),
        ({"num_meta": 14}, True),
        ({"num_meta": 14, "meta_set": "given"}, False),
    ],
)
def test_the_clean_training_list_is_read_only_for_a_meta_set(made, settings, is_read):
    assert (load(made["official"], **settings).meta is not None) == is_read
    counts = {"train": 1_000_000, "validation": 14_313, "test": 10_526} | ({"meta": 47_570} if is_read else {})
    assert clothing1m.expected_counts(DataConfig(dataset="clothing1m", **settings)) == counts


def test_preprocessing_is_divide_mixs_with_imagenets_normalisation(made):
    preprocessing = load(made["official"]).preprocessing
    assert (preprocessing.shorter_side, preprocessing.crop, preprocessing.flip, preprocessing.padding) == (
        256,
        "random",
        True,
        0,
    )
    assert preprocessing.mean == (0.485, 0.456, 0.406)
    assert preprocessing.std == (0.229, 0.224, 0.225)
    small = load(made["official"], image_size=64)
    assert small.train.images.shape[1:] == (64, 64, 3)
    assert small.preprocessing.shorter_side == 73


def test_counts_that_were_not_published_are_noted(made, monkeypatch):
    assert load(made["official"]).notes == (
        "clothing1m: train has 28 pictures here; 1,000,000 were published.",
        "clothing1m: validation has 14 pictures here; 14,313 were published.",
        "clothing1m: test has 14 pictures here; 10,526 were published.",
    )
    monkeypatch.setattr(clothing1m, "_PUBLISHED_COUNTS", {"train": 28, "validation": 14, "test": 14})
    assert load(made["official"]).notes == ()


def test_the_authors_class_names_are_taken_as_they_spell_them(official):
    names = [*clothing1m.CLASS_NAMES[:8], "down coat", *clothing1m.CLASS_NAMES[9:]]
    names[0] = "T Shirt"
    write(official / "category_names_eng.txt", "\r\n".join(names) + "\r\n")
    assert load(official).class_names == tuple(names)
    file = write(official / "category_names_eng.txt", names[1:])
    assert message_of(official) == f"{file} names 13 classes; expected 14.{GET_AGAIN}"


def test_class_names_in_another_order_are_refused(official):
    names = list(clothing1m.CLASS_NAMES)
    file = write(official / "category_names_eng.txt", ["", *names[:3], names[4], names[3], *names[5:]])
    assert message_of(official) == (
        f"{file}, line 5: found the class 'Sweater'; expected 'Chiffon', which label 3 means.{GET_AGAIN}"
    )
    write(file, [names[0]] * 14)
    assert message_of(official) == (
        f"{file}, line 2: found the class 'T-Shirt'; expected 'Shirt', which label 1 means.{GET_AGAIN}"
    )


def test_class_names_that_are_no_utf8_are_refused(official):
    file = write(official / "category_names_eng.txt", b"T-Shirt\nShirt\xa0\n")
    assert message_of(official) == (
        f"{file}, line 2: the byte 0xa0 is no UTF-8 text, which was expected. Save the file as UTF-8.{GET_AGAIN}"
    )


# Folders and files.


def test_no_folder_is_refused():
    with pytest.raises(InputError) as error:
        clothing1m.load(DataConfig(dataset="clothing1m"))
    assert str(error.value) == (
        "Clothing1M needs --data_dir, the folder that holds the lists and images/0 to images/9; got none. Set"
        " --data_dir=DIR."
    )


@pytest.mark.parametrize(("make", "what"), [(False, "does not exist"), (True, "is a file")])
def test_what_is_no_folder_is_refused(tmp_path, make, what):
    path = tmp_path / "x"
    if make:
        path.touch()
    assert message_of(path) == (
        f"--data_dir={path} {what}; expected the folder of Clothing1M that holds the lists and images/0 to images/9."
    )


@pytest.mark.parametrize(
    ("beside", "place"), [("..", "high"), ("images", "deep"), ("images/0", "deep"), ("annotations", "deep")]
)
def test_a_folder_beside_the_right_one_is_told_from_it(tmp_path, beside, place):
    root = make_clothing1m(tmp_path / "data", lists_in="annotations")
    folder = (root / beside).resolve()
    assert message_of(folder) == (
        f"--data_dir={folder} is a level too {place} for Clothing1M: the lists and images/0 to images/9 lie in {root}."
        f" Set --data_dir={root}."
    )


def test_missing_lists_are_named_with_what_they_hold(official):
    (official / "clean_label_kv.txt").unlink()
    (official / "clean_train_key_list.txt").unlink()
    unpack = " The authors' annotation.zip holds noisy_train_key_list.txt and so on; unpack it there."
    assert message_of(official) == (
        f"Clothing1M lacks 1 of 5 files, looked for in {official}: clean_label_kv.txt ('<key> <label>' per line,"
        f" 72,409).{unpack}"
    )
    assert message_of(official, meta_set="clean") == (
        f"Clothing1M lacks 2 of 6 files, looked for in {official}: clean_train_key_list.txt (one key per line, 47,570);"
        f" clean_label_kv.txt ('<key> <label>' per line, 72,409).{unpack}"
    )


def test_a_missing_remade_list_is_named(remade):
    (remade / "clean_val.txt").unlink()
    assert message_of(remade) == (
        f"Clothing1M lacks 1 of 3 files, looked for in {remade}: clean_val.txt ('<path> <label>' per line, 14,313). The"
        " authors' annotation.zip holds noisy_train_key_list.txt and so on; unpack it there."
    )


def test_an_empty_folder_lacks_everything(tmp_path):
    message = message_of(tmp_path)
    assert message.startswith(f"Clothing1M lacks 5 of 5 files, looked for in {tmp_path}: noisy_train_key_list.txt (one")


def test_missing_pictures_are_told_from_packed_ones(official):
    shutil.rmtree(official / "images")
    begin = (
        f"Clothing1M's pictures are missing: neither {official / 'images'} nor {official} holds a folder 0, 1, 2, 3, 4,"
        f" 5, 6, 7, 8 or 9, which {official / 'noisy_train_key_list.txt'} names; expected {official / 'images/0'} and"
        " so on. "
    )
    assert message_of(official) == begin + "Unpack the archives of pictures there, or link to them."
    for number in (1, 0):
        write(official / f"images/{number}.tar", b"")
    assert message_of(official) == begin + "Unpack 0.tar, 1.tar."


# Lines.


def test_an_empty_label_file_is_refused(official):
    file = write(official / "noisy_label_kv.txt", b"")
    assert message_of(official) == f"{file} is empty (0 bytes); expected lines '<path> <label>'.{GET_AGAIN}"


def test_a_line_without_a_label_is_named(remade):
    key = f"images/{clothing_keys('meta', 14)[8]}"
    file = replace_line(remade / "clean_train.txt", 9, key)
    assert message_of(remade, meta_set="clean") == (
        f"{file}, line 9: no label in '{key}'; expected '<path> <label>', the label a whole number from 0 to 13. That"
        " is so in 1 of 14 lines. Write its label behind each such path, or delete the line."
    )


@pytest.mark.parametrize("label", ["Shirt", "14"])
def test_a_label_that_is_none_of_the_fourteen_is_named(official, label):
    file = replace_line(official / "clean_label_kv.txt", 3, f"images/a.jpg {label}")
    assert message_of(official) == (
        f"{file}, line 3: the label '{label}' in 'images/a.jpg {label}'; expected a whole number from 0 to 13. That is"
        " so in 1 of 42 lines. Correct each such label, or check that the list belongs to this dataset."
    )


def test_a_key_that_is_listed_twice_is_named(official):
    key = clothing_keys("train", 28)[4]
    file = replace_line(official / "noisy_train_key_list.txt", 20, f"images/{key}")
    assert message_of(official) == (
        f"{file}, line 20: '{key}' was already in line 5; expected every picture once. 1 of 28 lines repeat an earlier"
        " one: delete them, keeping of two labels the right one."
    )


def test_keys_without_a_label_are_counted(official):
    file, known = official / "noisy_train_key_list.txt", official / "noisy_label_kv.txt"
    lines = known.read_text().splitlines()
    write(known, [line for line in lines if "train3," not in line and "train11," not in line])
    assert message_of(official) == (
        f"{file}, line 4: '{clothing_keys('train', 28)[3]}' has no line in {known}; expected one with its label. 2 of"
        f" 28 lines of noisy_train_key_list.txt miss there.{GET_AGAIN}"
    )


def test_a_key_with_two_labels_is_named(official):
    file = official / "clean_label_kv.txt"
    first = file.read_text().splitlines()[0]
    key, label = first.removeprefix("images/").split()
    other = (int(label) + 1) % tiny_datasets.CLOTHING_CLASSES
    write(file, file.read_text() + f"images/{key} {label}\nimages/{key} {other}\n")
    assert message_of(official) == (
        f"{file}, line 44: '{key}' has the label {other} here and {label} in line 43; expected one. Delete the wrong"
        " line."
    )


@pytest.mark.parametrize(("part", "name"), [("test", "clean_test"), ("val", "clean_val")])
def test_a_training_list_with_held_out_pictures_is_refused(remade, part, name):
    key = clothing_keys(part, 14)[6]
    train = replace_line(remade / "noisy_train.txt", 28, f"images/{key} 1")
    assert message_of(remade) == (
        f"{remade / name}.txt, line 7: '{key}' is also in {train}, line 28; expected no picture in both. 1 of 28 lines"
        f" of noisy_train.txt are.{OVERLAP}"
    )


def test_clean_lists_that_overlap_are_refused(remade):
    key = clothing_keys("val", 14)[0]
    replace_line(remade / "clean_test.txt", 2, f"images/{key} 1")
    assert message_of(remade) == (
        f"{remade / 'clean_test.txt'}, line 2: '{key}' is also in {remade / 'clean_val.txt'}, line 1; expected no"
        f" picture in both. 1 of 14 lines of clean_val.txt are.{OVERLAP}"
    )


def test_a_meta_set_that_is_trained_on_is_refused(remade):
    key = clothing_keys("train", 28)[2]
    replace_line(remade / "clean_train.txt", 1, f"images/{key} 1")
    assert message_of(remade, meta_set="clean") == (
        f"{remade / 'clean_train.txt'}, line 1: '{key}' is also in {remade / 'noisy_train.txt'}, line 3; expected no"
        f" picture in both. 1 of 28 lines of noisy_train.txt are.{OVERLAP}"
    )
    assert load(remade).meta is None


def test_a_table_of_many_lines_costs_little_more_than_its_paths(tmp_path):
    import tracemalloc

    count = 100_000
    lines = [f"images/{n % 10}/{n % 100:02d}/{n:010d},{n:010d}.jpg {n % 14}" for n in range(count)]
    root = make_clothing1m(tmp_path, lists="remade")
    write(root / "noisy_train.txt", lines)
    tracemalloc.start()
    try:
        dataset = load(root)
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(dataset.train) == count
    assert dataset.train.ids[12_345] == b"5/45/0000012345,0000012345.jpg"
    assert dataset.train.given_labels[12_345] == 12_345 % 14
    assert held_bytes < 50 * count  # 30 of path, 4 of label
