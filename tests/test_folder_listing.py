"""Tests of what users' folders and tables look like in the wild: names of parts, leftovers, endings, missing files."""

import os

import pytest

from famus_tf.data import folder_listing, folder_table
from famus_tf.errors import InputError
from famus_tf.runs import bad_pictures
from tests import sample_pictures
from tests.test_folder import fill, load, paths_of, picture, table_of


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [("Train", "VAL", "Test"), ("Training", "valid", "Testing"), ("training", "Validation", "testing")],
)
def test_parts_are_known_by_their_usual_names_in_any_case(tmp_path, train, validation, test):
    for part in (train, "Meta", validation, test):
        fill(tmp_path, {"ant": 1, "bee": 2}, part)
    dataset = load(tmp_path)
    assert dataset.class_names == ("ant", "bee")
    for part, table in (
        (train, dataset.train),
        ("Meta", dataset.meta),
        (validation, dataset.validation),
        (test, dataset.test),
    ):
        assert paths_of(table) == [f"{part}/ant/0.png", f"{part}/bee/0.png", f"{part}/bee/1.png"]
    assert dataset.notes == ()


def test_a_tables_splits_have_the_same_names(tmp_path):
    splits = ("Training", "", "META", "meta", "valid", "testing")
    for number in range(len(splits)):
        picture(tmp_path / f"{number}.png")
    lines = "".join(f"{number}.png,{number % 2},{split}\n" for number, split in enumerate(splits))
    dataset = load(None, labels_csv=table_of(tmp_path, "path,label,split\n" + lines))
    tables = (dataset.train, dataset.meta, dataset.validation, dataset.test)
    assert [paths_of(table) for table in tables] == [["0.png", "1.png"], ["2.png", "3.png"], ["4.png"], ["5.png"]]


def test_messages_name_a_parts_directory_as_it_is_called(tmp_path):
    fill(tmp_path, {"ant": 2, "bee": 2}, "Train")
    fill(tmp_path, {"ant": 1, "emu": 1}, "Valid")
    (tmp_path / "old").mkdir()
    listing = folder_listing.read_directories(tmp_path)
    assert listing.notes == (f"Passed over in {tmp_path}, because it has a directory 'Train': old.",)
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(f"Class 'emu' has pictures in {tmp_path}/Valid/emu and none to train on;")


def test_two_directories_for_one_part_are_refused(tmp_path):
    for part in ("Train", "training"):
        fill(tmp_path, {"ant": 2, "bee": 2}, part)
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} has both 'Train' and 'training'; expected one of them, as both are the part train. Merge or rename"
        " one."
    )


def test_what_file_servers_leave_in_class_directories_is_no_picture(tmp_path):
    fill(tmp_path, {"ant": 2, "bee": 2})
    for place in ("ant/@eaDir/0.png", "ant/red/__MACOSX", "bee/.thumbnails", "bee/#recycle"):
        picture(tmp_path / place / "SYNOPHOTO_THUMB_M.jpg")
    picture(tmp_path / "ant" / "red" / "2.png")
    listing = folder_listing.read_directories(tmp_path)
    assert listing.parts["train"].paths == [b"ant/0.png", b"ant/1.png", b"ant/red/2.png", b"bee/0.png", b"bee/1.png"]


def test_a_meta_part_without_pictures_of_a_class_is_refused(tmp_path):
    fill(tmp_path, {"ant": 2, "bee": 2, "cat": 2, "dog": 2}, "train")
    fill(tmp_path, {"ant": 3, "cat": 1}, "Meta")
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} has meta pictures of 2 of 4 classes, and none of bee, dog; expected some of each. Put a few whose"
        f" labels are certain into {tmp_path}/Meta/<class>, or remove {tmp_path}/Meta/ and train without: --method=ce"
        " --num_meta=0."
    )


def test_a_tables_meta_part_without_pictures_of_a_class_is_refused_and_few_classes_are_named(tmp_path):
    for number in range(13):
        picture(tmp_path / f"{number}.png")
    lines = "".join(f"{number}.png,{number}\n" for number in range(12)) + "12.png,3,meta\n"
    path = table_of(tmp_path, "path,label,split\n" + lines)
    with pytest.raises(InputError) as caught:
        load(None, labels_csv=path)
    assert str(caught.value) == (
        f"{path} has meta pictures of 1 of 12 classes, and none of 0, 1, 2, 4, 5, 6, 7, 8, 9, 10, ...; expected some of"
        f" each. Put a few whose labels are certain into lines of {path} with the split meta, or remove lines of {path}"
        " with the split meta and train without: --method=ce --num_meta=0."
    )


def test_a_tables_missing_files_are_left_to_the_check_of_bad_pictures(tmp_path):
    for name in ("a.png", "b.png", "c.png", "d.png"):
        picture(tmp_path / name)
    far = f"{'x' * 300}.png"  # longer than file systems allow
    text = f"path,label,split\na.png,0,\nb.png,1,\ngone.png,0,\n{far},1,\nc.png,0,test\nd.png,1,test\n"
    dataset = load(None, labels_csv=table_of(tmp_path, text))
    assert paths_of(dataset.train) == ["a.png", "b.png", "gone.png", far]
    tables = {"train": dataset.train, "test": dataset.test}
    found = bad_pictures.find_cheap(tables)
    assert [(bad.part, bad.example_id, bad.reason) for bad in found] == [
        ("train", "gone.png", "missing"),
        ("train", far, "missing"),
    ]
    with pytest.raises(InputError, match="^2 of the 4 train pictures cannot be used, which is more than"):
        bad_pictures.refuse_too_many(found, tables, 0.01)


def test_a_table_of_which_more_than_half_is_missing_has_the_wrong_folder(tmp_path):
    picture(tmp_path / "pictures" / "a.png")
    path = table_of(tmp_path, "path,label\na.png,0\nb.png,1\n")
    with pytest.raises(InputError) as caught:
        load(tmp_path, labels_csv=path)
    assert str(caught.value) == (
        f"{path}, line 2: there is no file {tmp_path}/a.png. That is so in 2 of 2 lines; paths are taken from"
        f" --data_dir, {tmp_path}. Set --data_dir to the folder that the table's paths begin at, or correct them."
    )
    listing = folder_table.read_table(tmp_path / "labels.csv", tmp_path / "pictures")  # half of it
    assert listing.parts["train"].paths == [b"a.png", b"b.png"]


def test_links_to_themselves_are_passed_over_and_counted(tmp_path):
    fill(tmp_path, {"ant": 2, "bee": 2})
    for place in (tmp_path, tmp_path / "ant", tmp_path / "bee"):
        os.symlink("self", place / "self")
    listing = folder_listing.read_directories(tmp_path)
    assert listing.parts["train"].paths == [b"ant/0.png", b"ant/1.png", b"bee/0.png", b"bee/1.png"]
    assert listing.notes == (f"Passed over in {tmp_path}: 3 entries that cannot be read, for example ant/self.",)


def test_a_directory_in_a_class_that_may_not_be_read_is_passed_over_and_named(tmp_path, monkeypatch):
    fill(tmp_path, {"ant": 2, "bee": 2})
    picture(tmp_path / "ant" / "locked" / "2.png")
    scandir = os.scandir

    def refuse_one(path):
        if os.path.basename(path) == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(folder_listing.os, "scandir", refuse_one)
    listing = folder_listing.read_directories(tmp_path)
    assert listing.parts["train"].paths == [b"ant/0.png", b"ant/1.png", b"bee/0.png", b"bee/1.png"]
    assert listing.notes == (f"Passed over in {tmp_path}: 1 entry that cannot be read, for example ant/locked.",)


def test_pictures_are_told_by_their_first_bytes_where_the_ending_says_nothing(tmp_path):
    fill(tmp_path, {"bee": 1})
    names = ("a.jfif", "b.jpe", "c.JPG", "d.tif", "noending", "e.2024-01-02")
    (tmp_path / "ant").mkdir()
    for name in names:
        (tmp_path / "ant" / name).write_bytes(sample_pictures.jpeg())
    (tmp_path / "ant" / "real.tif").write_bytes(b"II*\0" + bytes(60))
    (tmp_path / "ant" / "README").write_text("about ants")
    (tmp_path / "ant" / "empty").touch()
    os.mkfifo(tmp_path / "ant" / "pipe")
    os.symlink("nowhere", tmp_path / "ant" / "dangling")
    listing = folder_listing.read_directories(tmp_path)
    assert listing.parts["train"].paths == [f"ant/{name}".encode() for name in sorted(names)] + [b"bee/0.png"]
    assert listing.notes == (f"Passed over in {tmp_path}: 5 files that are no pictures (no ending, .tif).",)


def test_only_files_of_strange_endings_are_opened(tmp_path, monkeypatch):
    fill(tmp_path, {"ant": 2, "bee": 2})
    for name in ("0.txt", "0.xml", "1.png.part", "strange.dat"):
        (tmp_path / "ant" / name).write_bytes(sample_pictures.jpeg())
    opened = []

    def noted(path, *arguments, **options):
        opened.append(os.path.relpath(path, tmp_path))
        return open(path, *arguments, **options)

    monkeypatch.setattr(folder_listing, "open", noted, raising=False)
    listing = folder_listing.read_directories(tmp_path)
    assert opened == ["ant/strange.dat"]
    assert listing.parts["train"].paths[:3] == [b"ant/0.png", b"ant/1.png", b"ant/strange.dat"]


@pytest.mark.parametrize("prefixes", [("mydata/train", "mydata/Test"), ("mydata",)])
def test_a_folder_a_level_too_high_is_refused_with_the_right_one(tmp_path, prefixes):
    for prefix in prefixes:
        fill(tmp_path, {"ant": 2, "bee": 2}, prefix)
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} has one class, 'mydata'; expected two or more. It seems a level too high, as {tmp_path}/mydata"
        f" holds parts or classes of its own: set --data_dir={tmp_path}/mydata."
    )
    assert load(tmp_path / "mydata").class_names == ("ant", "bee")


def test_one_class_with_a_single_directory_in_it_is_just_one_class(tmp_path):
    fill(tmp_path, {"ant": 2, "ant/red": 2})
    with pytest.raises(InputError, match="has one class, 'ant'; expected two or more. Every class has a directory of"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("names", "in_order"),
    [
        (("0", "1", "10", "11", "2"), ("0", "1", "2", "10", "11")),
        (("-1", "007", "10", "7"), ("-1", "007", "7", "10")),
        (("1", "10", "2", "two"), ("1", "10", "2", "two")),
        (("1.5", "10", "2"), ("1.5", "10", "2")),
    ],
)
def test_classes_are_sorted_as_numbers_where_all_are_whole_numbers(tmp_path, names, in_order):
    fill(tmp_path, dict.fromkeys(names, 1))
    fill(tmp_path, dict.fromkeys(names, 1), "test")
    dataset = load(tmp_path)
    assert dataset.class_names == in_order
    labels = {
        path.split(b"/")[0].decode(): label
        for path, label in zip(dataset.train.ids.tolist(), dataset.train.given_labels, strict=True)
    }
    assert labels == {name: label for label, name in enumerate(in_order)}
