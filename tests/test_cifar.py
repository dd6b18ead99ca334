"""Tests of famus_tf.data.cifar, on tiny folders in tensorflow-datasets' own format."""

import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from famus_tf.data import cifar
from famus_tf.errors import InputError

LABELS = {"train": [0, 3, 9, 3, 1, 8, 2], "test": [5, 0, 9]}


def image_of(split, position):
    seed = position + 100 * (split == "test")
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def prepare(data_dir, name, num_classes, *, version="3.0.2", with_id=True, labels=None, shape=(32, 32, 3)):
    """Writes `<data_dir>/<name>/<version>` as tensorflow-datasets does."""
    labels = LABELS if labels is None else labels
    features = {
        "image": tfds.features.Image(shape=shape),
        "label": tfds.features.ClassLabel(num_classes=num_classes),
    }
    if with_id:
        features["id"] = tfds.features.Text()
    if name == "cifar100":
        features["coarse_label"] = tfds.features.ClassLabel(num_classes=20)

    def examples(split):
        # Written backwards, so that storage order is not id order.
        for position in reversed(range(len(labels[split]))):
            example = {
                "image": image_of(split, position)[: shape[0], : shape[1]],
                "label": labels[split][position],
                "id": f"{split}_{position:05d}",
                "coarse_label": 0,
            }
            yield {key: example[key] for key in features}

    folder = data_dir / name / version
    folder.mkdir(parents=True)
    identity = tfds.core.DatasetIdentity(
        name=name, version=tfds.core.Version(version), data_dir=str(folder), module_name=__name__
    )
    info = tfds.core.DatasetInfo(builder=identity, features=tfds.features.FeaturesDict(features))
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=1000, overwrite=True)
    writer.initialize_splits(list(labels))
    for split in labels:
        writer.add_examples({split: list(examples(split))})
    writer.close_all()
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    prepare(data_dir, "cifar10", 10)
    prepare(data_dir, "cifar100", 100)
    return data_dir


@pytest.fixture
def copied(prepared, tmp_path):
    shutil.copytree(prepared / "cifar10", tmp_path / "cifar10")
    return tmp_path


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(name, data_dir):
        raise ConnectionError(f"no route to {name}'s host")

    monkeypatch.setattr(cifar, "_download", refuse)


def test_cifar10_is_read_and_put_in_file_order(prepared):
    dataset = cifar.load_cifar10(prepared)
    for split, table in (("train", dataset.train), ("test", dataset.test)):
        assert table.ids.tolist() == [f"{split}_{row:05d}" for row in range(len(LABELS[split]))]
        assert table.given_labels.tolist() == LABELS[split]
        assert table.true_labels.tolist() == LABELS[split]
        for position, image in enumerate(table.images):
            np.testing.assert_array_equal(image, image_of(split, position))
    assert dataset.name == "cifar10"
    assert dataset.class_names[3] == "cat"
    assert dataset.coarse_labels is None


def test_cifar100_has_superclasses(prepared):
    dataset = cifar.load_cifar100(str(prepared))
    assert len(dataset.class_names) == 100
    assert dataset.coarse_labels == cifar.CIFAR100_COARSE_LABELS
    assert dataset.train.given_labels.tolist() == LABELS["train"]


def test_preprocessing_is_mwnets(prepared):
    preprocessing = cifar.load_cifar10(prepared).preprocessing
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
    prepare(copied, "cifar10", 10, version="3.0.10", labels={"train": [7], "test": [6]})
    assert cifar.load_cifar10(copied).train.given_labels.tolist() == [7]


def test_the_folder_may_come_from_the_environment(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert len(cifar.load_cifar10().train) == 7


def test_a_missing_dataset_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "_download", lambda name, data_dir: prepare(data_dir, name, 10))
    assert len(cifar.load_cifar10(tmp_path).train) == 7


def test_a_failed_download_says_what_is_missing_where_and_how_to_mend_it(tmp_path):
    with pytest.raises(InputError) as caught:
        cifar.load_cifar10(tmp_path)
    message = str(caught.value)
    assert f"cifar10 is not in {tmp_path}" in message
    assert "ConnectionError: no route to cifar10's host" in message
    assert "tfds.load('cifar10', data_dir='DIR')" in message
    assert str(tmp_path / "cifar10") in message


def test_a_download_that_leaves_nothing_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "_download", lambda name, data_dir: None)
    with pytest.raises(InputError, match="left no version of it"):
        cifar.load_cifar10(tmp_path)


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
        cifar.load_cifar10(copied)
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
    folder = prepare(tmp_path, "cifar10", **arguments)
    with pytest.raises(InputError, match=message) as caught:
        cifar.load_cifar10(tmp_path)
    assert str(folder) in str(caught.value)


def test_a_folder_without_a_test_split_is_refused(tmp_path):
    prepare(tmp_path, "cifar10", 10, labels={"train": [1, 2]})
    with pytest.raises(InputError, match="cifar10 in .* cannot be read"):
        cifar.load_cifar10(tmp_path)
