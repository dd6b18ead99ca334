"""Tests of famus_tf.data.folder and folder_listing, on small folders and tables."""

import functools
import os

import numpy as np
import pytest
import tensorflow as tf

from famus_tf.config import DataConfig
from famus_tf.data import folder, folder_listing
from famus_tf.errors import InputError

# Recorded once: another choice means that old runs were tested on other pictures.
GOLDEN_TEST = ["ant/15.png", "ant/19.png", "bee/4.png", "cat/0.png"]


@functools.cache
def encoded(level):
    return tf.io.encode_png(np.full((4, 6, 3), level, np.uint8)).numpy()


def picture(path, level=0):
    """Writes a picture of one grey level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(level))


def fill(root, counts, prefix=""):
    """Writes counts[class] pictures, "<prefix>/<class>/0.png" and so on."""
    for name, count in counts.items():
        for number in range(count):
            picture(root / prefix / name / f"{number}.png")


def load(root=None, **settings):
    return folder.load(DataConfig(dataset="folder", data_dir=None if root is None else str(root), **settings))


def paths_of(table):
    return [path.decode() for path in table.ids]


def table_of(tmp_path, text, name="labels.csv"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return str(tmp_path / name)


def test_class_directories_give_labels_in_the_order_of_their_names(tmp_path):
    fill(tmp_path, {"zebra": 2, "ant": 3, "ürsin": 1})
    fill(tmp_path, {"zebra": 1, "ant": 1, "ürsin": 2}, "test")
    dataset = load(tmp_path)
    assert dataset.class_names == ("ant", "zebra", "ürsin")
    assert paths_of(dataset.train) == [
        "ant/0.png",
        "ant/1.png",
        "ant/2.png",
        "zebra/0.png",
        "zebra/1.png",
        "ürsin/0.png",
    ]
    assert dataset.train.given_labels.tolist() == [0, 0, 0, 1, 1, 2]
    assert dataset.train.true_labels is None
    assert paths_of(dataset.test) == ["test/ant/0.png", "test/zebra/0.png", "test/ürsin/0.png", "test/ürsin/1.png"]
    assert dataset.test.given_labels.tolist() == [0, 1, 2, 2]
    assert (dataset.validation, dataset.meta) == (None, None)


@pytest.mark.parametrize("validation", ["val", "validation"])
def test_parts_are_told_apart_and_only_the_meta_sets_labels_count_as_true(tmp_path, validation):
    for part in ("train", "meta", validation, "test"):
        fill(tmp_path, {"ant": 2, "bee": 1}, part)
    dataset = load(tmp_path, num_meta=2)
    for part, table in (
        ("train", dataset.train),
        ("meta", dataset.meta),
        (validation, dataset.validation),
        ("test", dataset.test),
    ):
        assert paths_of(table) == [f"{part}/ant/0.png", f"{part}/ant/1.png", f"{part}/bee/0.png"]
        assert table.given_labels.tolist() == [0, 0, 1]
        assert (table.true_labels is not None) == (part == "meta")
    assert dataset.meta.true_labels.tolist() == [0, 0, 1]
    assert dataset.notes == ()


def test_pictures_are_read_from_their_places_and_nested_directories(tmp_path):
    fill(tmp_path, {"ant": 1, "bee": 1}, "test")
    picture(tmp_path / "ant" / "red" / "small" / "a.PNG", level=7)
    picture(tmp_path / "bee" / "b.png", level=9)
    dataset = load(tmp_path)
    assert paths_of(dataset.train) == ["ant/red/small/a.PNG", "bee/b.png"]
    assert dataset.train.images.names is dataset.train.ids
    pixels = [tf.io.decode_png(dataset.train.images.read_bytes(row)).numpy() for row in range(2)]
    assert [np.unique(image).tolist() for image in pixels] == [[7], [9]]
    assert dataset.train.images.source_name(0) == str(tmp_path / "ant" / "red" / "small" / "a.PNG")


def test_a_missing_test_part_is_a_tenth_of_each_class_and_the_same_every_time(tmp_path):
    fill(tmp_path, {"ant": 25, "bee": 9, "cat": 2})
    dataset = load(tmp_path)
    assert np.bincount(dataset.test.given_labels).tolist() == [2, 1, 1]
    assert np.bincount(dataset.train.given_labels).tolist() == [23, 8, 1]
    assert set(paths_of(dataset.test)).isdisjoint(paths_of(dataset.train))
    assert dataset.notes[-1] == (
        f"{tmp_path} has no test part: 4 of 36 training pictures are set aside to test on, with the labels they have."
    )
    assert paths_of(load(tmp_path).test) == paths_of(dataset.test)
    assert paths_of(dataset.test) == GOLDEN_TEST


def test_the_input_is_96_pixels_square_and_pictures_are_resized_to_8_sevenths_of_it(tmp_path):
    fill(tmp_path, {"ant": 2, "bee": 2})
    dataset = load(tmp_path)
    assert dataset.train.images.shape == (2, 96, 96, 3)
    assert dataset.preprocessing.shorter_side == 110  # 96 * 256 / 224 = 109.7
    assert (dataset.preprocessing.crop, dataset.preprocessing.flip, dataset.preprocessing.padding) == (
        "random",
        True,
        0,
    )
    assert dataset.preprocessing.mean == (0.485, 0.456, 0.406)
    assert dataset.preprocessing.std == (0.229, 0.224, 0.225)
    wide = load(tmp_path, image_size=224)
    assert (wide.test.images.shape, wide.preprocessing.shorter_side) == ((2, 224, 224, 3), 256)


def test_other_files_are_passed_over_and_counted(tmp_path):
    fill(tmp_path, {"ant": 2, "bee": 2})
    fill(tmp_path, {"__MACOSX": 1, ".cache": 1})
    for name in ("ant/Thumbs.db", "ant/notes.txt", "bee/list.txt", "bee/.DS_Store", "labels.csv"):
        (tmp_path / name).touch()
    picture(tmp_path / "stray.png")
    dataset = load(tmp_path)
    assert dataset.class_names == ("ant", "bee")
    assert dataset.notes[:2] == (
        f"Passed over in {tmp_path}: 1 picture that is in no class directory.",
        f"Passed over in {tmp_path}: 5 files that are no pictures (.txt, .csv, .db, hidden).",
    )


def test_directories_beside_train_are_passed_over_and_named(tmp_path):
    fill(tmp_path, {"ant": 2, "bee": 2}, "train")
    fill(tmp_path, {"old": 1})
    dataset = load(tmp_path)
    assert dataset.class_names == ("ant", "bee")
    assert dataset.notes[0] == f"Passed over in {tmp_path}, because it has a directory 'train': old."


def test_a_link_that_leads_back_up_ends_nowhere(tmp_path):
    fill(tmp_path, {"ant": 2, "bee": 2})
    os.symlink(tmp_path / "ant", tmp_path / "ant" / "again")
    assert len(load(tmp_path).train) + len(load(tmp_path).test) == 4


def test_without_clean_pictures_a_meta_set_is_refused_with_two_ways_out(tmp_path):
    fill(tmp_path, {"ant": 2, "bee": 2})
    how = (
        f"put a few pictures of each class whose labels are certain into {tmp_path}/meta/<class>, or train without:"
        " --method=ce --num_meta=0"
    )
    with pytest.raises(InputError) as caught:
        load(tmp_path, num_meta=2)
    assert str(caught.value) == (
        f"--num_meta=2 asks for clean pictures, and {tmp_path} has none that are known to be: {how}."
    )
    assert load(tmp_path).notes[0] == f"There is no meta set; for methods that learn from one, {how}."
    assert load(tmp_path, num_meta=2, meta_set="given").meta is None


def broken(tmp_path, case):
    """Makes a folder with one fault."""
    if case == "file":
        (tmp_path / "file").touch()
        return tmp_path / "file"
    if case == "loose":
        picture(tmp_path / "a.png")
    elif case == "one class":
        fill(tmp_path, {"ant": 3})
    elif case == "empty class":
        fill(tmp_path, {"ant": 3, "bee": 3})
        (tmp_path / "cat").mkdir()
    elif case == "empty part":
        fill(tmp_path, {"ant": 3, "bee": 3})
        (tmp_path / "meta").mkdir()
    elif case == "strange class":
        fill(tmp_path, {"ant": 3, "bee": 3})
        fill(tmp_path, {"ant": 1, "emu": 1}, "val")
    elif case == "two names":
        fill(tmp_path, {"ant": 3, "bee": 3}, "train")
        fill(tmp_path, {"ant": 1}, "val")
        fill(tmp_path, {"ant": 1}, "validation")
    elif case == "one picture":
        fill(tmp_path, {"ant": 3, "bee": 1})
    return tmp_path


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("file", "--data_dir={0} is a file; expected a folder of pictures, one directory per class."),
        (
            "nothing",
            "{0} has no class directories; expected {0}/<class>/ (or {0}/train/<class>/) with pictures. Sort them into"
            " one directory per class, or name them in a table for --labels_csv, with the columns path,label.",
        ),
        ("loose", "{0} has 1 pictures and no class directories; expected {0}/<class>/"),
        (
            "one class",
            "{0} has one class, 'ant'; expected two or more. Every class has a directory of its own, its name the"
            " class's.",
        ),
        (
            "empty class",
            "{0}/cat has no pictures (JPEG, PNG, GIF, BMP or WebP); every class needs at least one. Fill the directory,"
            " or remove it.",
        ),
        (
            "empty part",
            "{0}/meta has no class directories; expected {0}/meta/<class>/ with pictures, as its name is that of the"
            " part meta. Fill it, or remove it, or rename it if it is a class.",
        ),
        (
            "strange class",
            "Class 'emu' has pictures in {0}/val/emu and none to train on; the classes of the training pictures are"
            " ant, bee. Rename it, or add training pictures of it.",
        ),
        (
            "two names",
            "{0} has both 'val' and 'validation'; expected one of them, as both are the part val. Merge or rename one.",
        ),
        (
            "one picture",
            "Class 'bee' has one picture, and {0} has no test part, for which one of each class is set aside: add"
            " pictures of it, or put pictures to test on into {0}/test/<class>.",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_says_why_and_how_to_mend_it(tmp_path, case, message):
    root = broken(tmp_path, case)
    with pytest.raises(InputError) as caught:
        load(root)
    assert str(caught.value).startswith(message.format(root))


def test_a_folder_that_is_not_there_or_not_given_is_refused(tmp_path):
    with pytest.raises(InputError, match="--data_dir=.*nowhere does not exist; expected a folder of pictures"):
        load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="--dataset=folder needs --data_dir=DIR, .* or --labels_csv=FILE"):
        load()


def test_a_folder_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    fill(tmp_path, {"ant": 2, "bee": 2})

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folder_listing.os, "scandir", refuse)
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    assert str(caught.value) == f"{tmp_path} cannot be listed (Permission denied); check that you may read it."


def test_a_table_names_paths_labels_and_parts(tmp_path):
    for name in ("a.png", "b.png", "c d.png", "deep/e.png", "f", "g.png"):
        picture(tmp_path / name)
    text = (
        '\ufeffsplit,label,note,path\n,worn,,a.png\n train , new ,x,b.png\n\nmeta,new,,"c d.png"\n'
        "Test,worn,,deep/e.png\n"
        f"validation,worn,,{tmp_path}/f\nmeta,worn,,g.png\n"
    )
    dataset = load(None, labels_csv=table_of(tmp_path, text), num_meta=2)
    assert dataset.class_names == ("new", "worn")
    assert (paths_of(dataset.train), dataset.train.given_labels.tolist()) == (["a.png", "b.png"], [1, 0])
    assert (paths_of(dataset.meta), dataset.meta.true_labels.tolist()) == (["c d.png", "g.png"], [0, 1])
    assert (paths_of(dataset.test), paths_of(dataset.validation)) == (["deep/e.png"], ["f"])
    assert dataset.train.images.source_name(0) == str(tmp_path / "a.png")


def test_a_tables_paths_begin_at_the_data_dir_where_one_is_given(tmp_path):
    for number in range(4):
        picture(tmp_path / "pictures" / f"{number}.png")
    text = "path,label\n" + "".join(f"./{number}.png,{number % 2}\n" for number in range(4))
    dataset = load(tmp_path / "pictures", labels_csv=table_of(tmp_path, text))
    assert dataset.class_names == ("0", "1")
    assert sorted(paths_of(dataset.train) + paths_of(dataset.test)) == ["0.png", "1.png", "2.png", "3.png"]
    assert "are certain into lines of " in dataset.notes[0]
    assert dataset.notes[0].endswith("labels.csv with the split meta, or train without: --method=ce --num_meta=0.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "{0} has the columns (none); expected path,label[,split] in its first line, and 'path' is missing."),
        (
            "path;label\na.png;x\n",
            "{0} has the columns path;label; expected path,label[,split] in its first line, and 'path' is missing. It"
            " seems to be separated by ';': save it with commas.",
        ),
        (
            "path,name\n",
            "{0} has the columns path, name; expected path,label[,split] in its first line, and 'label' is",
        ),
        ("path,label\na.png,x\nb.png,\n", "{0}, line 3: no label; expected path,label. Add it."),
        ("path,label\n,x\n", "{0}, line 2: no path; expected path,label. Add it."),
        ("path,label,split\na.png,x,dev\n", "{0}, line 2: split 'dev'; expected train, meta, val or test, or nothing."),
        (
            "path,label\na.png,x\nb.png,y\n./a.png,y\n",
            "{0}, line 4: './a.png' is already in line 2; expected every picture once. Delete one of the two.",
        ),
        (
            "path,label\na.png,x\nq.png,y\nr\\s.png,y\n",
            "{0}, line 3: there is no file {1}/q.png. That is so in 2 of 3 lines; paths are taken from the directory of"
            " the table, {1}. Set --data_dir to the folder that the table's paths begin at, or correct them.",
        ),
        ("path,label\nr\\s.png,y\n", "{0}, line 2: there is no file {1}/r\\s.png. That is so in 1 of 1 lines; paths"),
        ("path,label,split\na.png,x,test\n", "{0} names no training pictures; expected lines path,label."),
        (
            "path,label\na.png,x\nb.png,x\n",
            "{0} has one class, 'x'; expected two or more. Every class has its own text in the column label.",
        ),
        (
            "path,label,split\na.png,x,\nb.png,y,\nc.png,z,val\n",
            "Class 'z' has pictures in lines of {0} with the split val and none to train on; the classes of the"
            " training pictures are x, y.",
        ),
    ],
)
def test_a_table_that_cannot_be_used_says_where_and_how_to_mend_it(tmp_path, text, message):
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / name)
    path = table_of(tmp_path, text)
    with pytest.raises(InputError) as caught:
        load(None, labels_csv=path)
    assert str(caught.value).startswith(message.format(path, tmp_path))


def test_a_table_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(InputError, match="--labels_csv=.*none.csv cannot be read .*; check its path"):
        load(None, labels_csv=str(tmp_path / "none.csv"))
    (tmp_path / "odd.csv").write_bytes(b"path,label\n\xff\xfe,x\n")
    with pytest.raises(InputError, match="odd.csv is no CSV text in UTF-8"):
        load(None, labels_csv=str(tmp_path / "odd.csv"))
