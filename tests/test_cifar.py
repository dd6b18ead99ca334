"""Tests of famus_tf.data.cifar, on tiny folders in tensorflow-datasets' own format."""

import shutil

import numpy as np
import pytest

from famus_tf.config import DataConfig
from famus_tf.data import cifar, tfds_folder
from famus_tf.errors import InputError
from tests.tiny_tfds import CIFAR_LABELS, cifar_image, write_cifar


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    write_cifar(data_dir, "cifar10", 10)
    write_cifar(data_dir, "cifar100", 100)
    return data_dir


@pytest.fixture
def copied(prepared, tmp_path):
    shutil.copytree(prepared / "cifar10", tmp_path / "cifar10")
    return tmp_path


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(name, root):
        raise ConnectionError(f"no route to {name}'s host")

    monkeypatch.setattr(tfds_folder, "download", refuse)


def in_folder(data_dir=None):
    return DataConfig(dataset="cifar10", data_dir=None if data_dir is None else str(data_dir))


def test_cifar10_is_read_and_put_in_file_order(prepared):
    dataset = cifar.load_cifar10(in_folder(prepared))
    for split, table in (("train", dataset.train), ("test", dataset.test)):
        assert table.ids.tolist() == [f"{split}_{row:05d}" for row in range(len(CIFAR_LABELS[split]))]
        assert table.given_labels.tolist() == CIFAR_LABELS[split]
        assert table.true_labels.tolist() == CIFAR_LABELS[split]
        for position, image in enumerate(table.images):
            np.testing.assert_array_equal(image, cifar_image(split, position))
    assert dataset.name == "cifar10"
    assert dataset.class_names[3] == "cat"
    assert dataset.coarse_labels is None


def test_cifar100_has_superclasses(prepared):
    dataset = cifar.load_cifar100(in_folder(prepared))
    assert len(dataset.class_names) == 100
    assert dataset.coarse_labels == cifar.CIFAR100_COARSE_LABELS
    assert dataset.train.given_labels.tolist() == CIFAR_LABELS["train"]


def test_preprocessing_is_mwnets(prepared):
    preprocessing = cifar.load_cifar10(in_folder(prepared)).preprocessing
    np.testing.assert_allclose(np.array(preprocessing.mean) * 255, [125.3, 123.0, 113.9])
    np.testing.assert_allclose(np.array(preprocessing.std) * 255, [63.0, 62.1, 66.7])
    assert (preprocessing.padding, preprocessing.padding_mode, preprocessing.flip) == (
        4,
        "reflect",
        True,
    )


def test_cifar100_names_are_alphabetical_and_each_superclass_has_five():
    names = cifar.CIFAR100_CLASSES
    assert len(set(names)) == 100
    assert list(names) == sorted(names)
    assert (names[0], names[1], names[50], names[99]) == ("apple", "aquarium_fish", "mouse", "worm")
    assert list(cifar.CIFAR100_SUPERCLASSES) == sorted(cifar.CIFAR100_SUPERCLASSES)
    assert np.bincount(cifar.CIFAR100_COARSE_LABELS).tolist() == [5] * 20


@pytest.mark.parametrize(
    ("superclass", "members"),
    [
        ("aquatic_mammals", {"beaver", "dolphin", "otter", "seal", "whale"}),
        ("people", {"baby", "boy", "girl", "man", "woman"}),
        ("vehicles_2", {"lawn_mower", "rocket", "streetcar", "tank", "tractor"}),
    ],
)
def test_superclasses_hold_the_right_classes(superclass, members):
    label = list(cifar.CIFAR100_SUPERCLASSES).index(superclass)
    pairs = zip(cifar.CIFAR100_CLASSES, cifar.CIFAR100_COARSE_LABELS, strict=True)
    assert {name for name, coarse in pairs if coarse == label} == members


def test_the_newest_version_is_read(copied):
    write_cifar(copied, "cifar10", 10, version="3.0.10", labels={"train": [7], "test": [6]})
    assert cifar.load_cifar10(in_folder(copied)).train.given_labels.tolist() == [7]


def test_the_folder_may_come_from_the_environment(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert len(cifar.load_cifar10(in_folder()).train) == 7


def test_a_missing_dataset_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_folder, "download", lambda name, root: write_cifar(root, name, 10))
    assert len(cifar.load_cifar10(in_folder(tmp_path)).train) == 7


def test_a_failed_download_says_what_is_missing_where_and_how_to_mend_it(tmp_path):
    with pytest.raises(InputError) as caught:
        cifar.load_cifar10(in_folder(tmp_path))
    message = str(caught.value)
    assert f"cifar10 is not in {tmp_path}" in message
    assert "ConnectionError: no route to cifar10's host" in message
    assert "tfds.load('cifar10', data_dir='DIR')" in message
    assert str(tmp_path / "cifar10") in message


def test_a_download_that_leaves_nothing_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_folder, "download", lambda name, root: None)
    with pytest.raises(InputError, match="left no version of it"):
        cifar.load_cifar10(in_folder(tmp_path))


def record_file(data_dir, split):
    (path,) = (data_dir / "cifar10" / "3.0.2").glob(f"*-{split}.tfrecord*")
    path.chmod(0o644)
    return path


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte,
        lambda path: path.write_bytes(path.read_bytes()[:-50]),
        lambda path: path.unlink(),
        lambda path: (path.parent / "features.json").write_text("{"),
        lambda path: (path.parent / "dataset_info.json").write_text(""),
    ],
    ids=["changed byte", "truncated", "missing shard", "features.json", "dataset_info.json"],
)
def test_damaged_files_are_an_input_error_that_names_the_folder(copied, damage):
    damage(record_file(copied, "train"))
    with pytest.raises(InputError, match="cannot be read; a file is damaged or missing") as caught:
        cifar.load_cifar10(in_folder(copied))
    assert str(copied / "cifar10" / "3.0.2") in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 10, "with_id": False}, "no feature 'id'"),
        (
            {"num_classes": 12, "labels": {"train": [11], "test": [0]}},
            "train holds the label 11, but 10 classes",
        ),
        ({"num_classes": 10, "shape": (16, 16, 3)}, r"images have shape \(16, 16, 3\)"),
    ],
)
def test_a_folder_that_is_not_cifar10_is_refused(tmp_path, arguments, message):
    folder = write_cifar(tmp_path, "cifar10", **arguments)
    with pytest.raises(InputError, match=message) as caught:
        cifar.load_cifar10(in_folder(tmp_path))
    assert str(folder) in str(caught.value)


def test_a_folder_without_a_test_split_is_refused(tmp_path):
    write_cifar(tmp_path, "cifar10", 10, labels={"train": [1, 2]})
    with pytest.raises(InputError, match="cifar10 in .* cannot be read"):
        cifar.load_cifar10(in_folder(tmp_path))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_long_tailed_sets_are_cifar_by_another_name(prepared, name):
    plain = getattr(cifar, f"load_{name}")(in_folder(prepared))
    long_tailed = getattr(cifar, f"load_{name}_lt")(in_folder(prepared))
    assert long_tailed.name == f"{name}_lt"
    assert long_tailed.train.ids.tolist() == plain.train.ids.tolist()
    assert long_tailed.coarse_labels == plain.coarse_labels


def test_the_storage_order_is_that_on_disk(prepared):
    assert cifar.storage_order("cifar10", in_folder(prepared)).tolist() == [6, 5, 4, 3, 2, 1, 0]
