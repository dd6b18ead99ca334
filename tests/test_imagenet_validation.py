"""Tests of famus_tf.data.imagenet_validation: four ways to keep the pictures, one mapping by synset."""

import shutil

import pytest

from famus_tf.data import imagenet_validation
from famus_tf.errors import InputError
from tests.tiny_datasets import (
    example_bytes,
    imagenet_synsets,
    jpeg,
    make_imagenet_validation,
    validation_truth,
    write,
    write_tfrecord,
)

SYNSETS = imagenet_synsets()[:50]
COPY_IT = " Copy it from where tensorflow-datasets prepared imagenet2012."
WAYS = ("synsets", "numbers", "flat", "records")
HOLDS = (
    "a folder per synset (n01440764 ...) or label (0 ...), ILSVRC2012_val_*.JPEG, or imagenet2012-validation.tfrecord-*"
)


def load(folder, synsets=SYNSETS):
    return imagenet_validation.load(folder, synsets, (24, 20))


def message_of(folder, synsets=SYNSETS):
    with pytest.raises(InputError) as error:
        load(folder, synsets)
    return str(error.value)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    for way in WAYS:
        make_imagenet_validation(folder / way, way)
    return folder


def test_the_list_of_truths_is_ilsvrcs():
    truth = validation_truth()
    assert len(truth) == 50_000
    assert all(truth.count(synset) == imagenet_validation.PICTURES_PER_CLASS for synset in SYNSETS)
    assert truth[:3] == ("n01751748", "n09193705", "n02105855")
    assert (SYNSETS[0], SYNSETS[49]) == ("n01440764", "n01697457")


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_each_picture_the_label_of_its_synset(made, way):
    table = load(made / way)
    assert table.images.shape == (50, 24, 20, 3)
    assert sorted(table.given_labels.tolist()) == list(range(50))
    assert table.true_labels.tolist() == table.given_labels.tolist()
    for row, label in enumerate(table.given_labels.tolist()):
        assert table.images.read_bytes(row) == jpeg(label)
        name = table.ids[row].decode().rpartition("/")[2]
        assert validation_truth()[int(name[15:23]) - 1] == SYNSETS[label]


@pytest.mark.parametrize("way", ["synsets", "flat", "records"])
def test_labels_follow_synsets_and_not_their_order(made, way):
    table = load(made / way, SYNSETS[:10][::-1])
    assert len(table) == 10
    for row, label in enumerate(table.given_labels.tolist()):
        assert table.images.read_bytes(row) == jpeg(9 - label)


@pytest.mark.parametrize("levels", ["", "5.1.0", "imagenet2012/5.1.0"])
def test_tfds_folders_are_found_at_every_level(made, tmp_path, levels):
    shutil.copytree(made / "records", tmp_path / levels, dirs_exist_ok=True)
    if levels:
        shutil.copytree(made / "records", (tmp_path / levels).with_name("5.0.0"))
        (tmp_path / levels).with_name("5.0.0").joinpath("label.labels.txt").unlink()  # the older one is not touched
    assert len(load(tmp_path)) == 50


def test_numbered_folders_may_have_leading_zeros_and_more_classes(tmp_path):
    make_imagenet_validation(tmp_path, "numbers")
    (tmp_path / "3").rename(tmp_path / "0003")
    table = load(tmp_path)
    assert table.ids[3].startswith(b"0003/")
    assert table.given_labels.tolist() == list(range(50))


@pytest.mark.parametrize("way", WAYS)
def test_a_folder_above_or_below_is_told_from_the_right_one(made, tmp_path, way):
    root = shutil.copytree(made / way, tmp_path / "ilsvrc" / "val")
    inside = root / "inside"
    inside.mkdir()
    for folder, place in ((root.parent, "high"), (inside, "deep")):
        assert message_of(folder) == (
            f"--imagenet_dir={folder} is a level too {place} for ILSVRC12 validation: {HOLDS} lie in {root}. Set"
            f" --imagenet_dir={root}."
        )


def test_a_folder_of_something_else_is_refused(tmp_path):
    write(tmp_path / "x" / "readme.txt", "")
    assert message_of(tmp_path / "x") == (
        f"--imagenet_dir={tmp_path / 'x'} holds no ILSVRC12 validation pictures that could be found; expected {HOLDS}."
        " Point the flag at the folder of the pictures, or leave it out to test on WebVision alone."
    )


@pytest.mark.parametrize("way", ["synsets", "numbers"])
def test_a_missing_class_folder_is_named(made, tmp_path, way):
    root = shutil.copytree(made / way, tmp_path / "val")
    shutil.rmtree(root / {"synsets": SYNSETS[7], "numbers": "7"}[way])
    begin = f"{root} holds ILSVRC12 validation pictures of "
    end = " Expected 50 of each; add the missing ones."
    assert message_of(root) == f"{begin}49 of 50 synsets; none of n01514668 (label 7).{end}"
    for file in (root / {"synsets": SYNSETS[2], "numbers": "2"}[way]).iterdir():
        file.rename(file.with_suffix(".tmp"))
    assert message_of(root) == f"{begin}48 of 50 synsets; none of n01484850 (label 2), n01514668 (label 7).{end}"


@pytest.mark.parametrize(("way", "first"), [("synsets", "n01440764"), ("numbers", "0")])
@pytest.mark.parametrize("inside", ["", "images"], ids=["empty", "nested"])
def test_class_folders_without_a_picture_in_them_are_named(tmp_path, way, first, inside):
    for name in ("n01440764", "n01443537") if way == "synsets" else ("0", "1"):
        (tmp_path / name / inside).mkdir(parents=True)
        if inside:
            write(tmp_path / name / inside / "ILSVRC2012_val_00000001.JPEG", jpeg(0))
    assert message_of(tmp_path) == (
        f"{tmp_path} has the folders of 2 classes, and none holds a picture; expected"
        f" {tmp_path / first}/ILSVRC2012_val_*.JPEG and so on, 50 in each folder and not in folders below it. Put the"
        " validation pictures there."
    )


def test_flat_pictures_of_other_synsets_alone_are_refused(made):
    assert message_of(made / "flat", ("n15075141",)) == (
        f"{made / 'flat'} holds ILSVRC12 validation pictures of 0 of 1 synsets; none of n15075141 (label 0). Expected"
        " 50 of each; add the missing ones."
    )


@pytest.mark.parametrize("way", ["synsets", "numbers", "flat"])
def test_the_files_that_macos_leaves_beside_pictures_are_no_pictures(made, tmp_path, way):
    root = shutil.copytree(made / way, tmp_path / "val")
    for picture in sorted(root.rglob("*.JPEG")):
        write(picture.with_name(f"._{picture.name}"), b"Mac OS X")
    assert load(root).ids.tolist() == load(made / way).ids.tolist()


def test_many_missing_classes_are_counted(made, tmp_path):
    root = shutil.copytree(made / "flat", tmp_path / "val")
    for name in sorted(root.iterdir())[::2]:
        name.unlink()
    message = message_of(root)
    missing = [label for label in range(50) if f"(label {label})" in message]
    assert len(missing) == 5
    assert " and " in message


def test_training_pictures_are_refused(made, tmp_path):
    root = shutil.copytree(made / "synsets", tmp_path / "train")
    write(root / SYNSETS[4] / f"{SYNSETS[4]}_10026.JPEG", jpeg(4))
    assert message_of(root) == (
        f"--imagenet_dir={root} holds n01494475/n01494475_10026.JPEG, a picture of ILSVRC12's training set; expected"
        " the validation set, whose pictures are called ILSVRC2012_val_*.JPEG. Point the flag at the folder that was"
        " made of ILSVRC2012_img_val.tar."
    )


def test_damaged_records_are_named(made, tmp_path):
    root = shutil.copytree(made / "records", tmp_path / "5.1.0")
    first = root / "imagenet2012-validation.tfrecord-00000-of-00002"
    whole = first.read_bytes()
    first.write_bytes(whole[:-10])
    assert message_of(root) == (
        f"{first} is cut off in record 29, or is no TFRecord file: it has {len(whole) - 10} bytes and record 29 would"
        f" end at byte {len(whole)}. Fetch or prepare the file anew."
    )
    write_tfrecord(first, [example_bytes({"label": 1000, "file_name": b"a"})])
    assert message_of(root) == (
        f"{first}, record 0: expected a label from 0 to 999 and a file_name, found 1000 and b'a'. Prepare imagenet2012"
        " again."
    )
    first.unlink()
    assert message_of(root) == (
        f"{root} holds 1 files imagenet2012-validation.tfrecord-*-of-00002; expected 2. Copy all of them from where"
        " they were prepared."
    )


def test_records_without_the_names_of_their_labels_are_refused(made, tmp_path):
    root = shutil.copytree(made / "records", tmp_path / "5.1.0")
    (root / "label.labels.txt").unlink()
    assert message_of(root) == (
        f"{root / 'label.labels.txt'} is missing, which says which synset each label of the TFRecords is.{COPY_IT}"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", " is empty; expected 1,000 synsets, line k for label k of the TFRecords."),
        (b"n01440764\nn01443537\n", " names 2 synsets; expected 1,000 synsets, line k for label k of the TFRecords."),
        (b"n01440764\n\xff", ", line 2: the byte 0xff is no UTF-8 text, which was expected. Save the file as UTF-8."),
    ],
    ids=["empty", "cut off", "no text"],
)
def test_a_damaged_list_of_the_records_labels_is_named(made, tmp_path, content, message):
    root = shutil.copytree(made / "records", tmp_path / "5.1.0")
    file = write(root / "label.labels.txt", content)
    assert message_of(root) == f"{file}{message}{COPY_IT}"


def test_an_installation_without_the_list_of_truths_is_explained(made, monkeypatch):
    monkeypatch.setattr(imagenet_validation, "_TRUTH", ("nowhere.txt",))
    message = message_of(made / "flat")
    assert message.startswith("The installed tensorflow-datasets has no ")
    assert message.endswith(
        "nowhere.txt, which says what each ILSVRC2012_val_*.JPEG shows. Install tensorflow-datasets 4.9.10, or sort the"
        " pictures into folders by synset."
    )
