"""Tests of famus_tf.data.tfds_dataset, on tiny datasets of one size and of many."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from famus_tf.config import DataConfig
from famus_tf.data import tfds_dataset, tfds_folder
from famus_tf.errors import InputError
from tests import tiny_tfds

COUNTS = {"train": 5, "validation": 2, "test": 3}


def image(split, position, shape=(8, 16, 3)):
    seed = 1000 * len(split) + position
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def label(position):
    return position % 3


def small_features(shape=(8, 16, 3), **more):
    names = tfds.features.ClassLabel(names=["ant", "bee", "cat"])
    return {"image": tfds.features.Image(shape=shape), "label": names, **more}


def small(data_dir, *, counts=COUNTS, shape=(8, 16, 3), name="insects", features=None, ids=None, **settings):
    """Images of one size, as PNG, two in a shard."""
    splits = {
        split: [
            {"image": image(split, row, shape), "label": label(row)} | ({"id": ids(row)} if ids else {})
            for row in range(count)
        ]
        for split, count in counts.items()
    }
    features = features or small_features(shape, **({"id": tfds.features.Text()} if ids else {}))
    return tiny_tfds.write(data_dir, name, features, splits, examples_per_shard=2, **settings)


def jpeg(row):
    """A picture of one colour and of a size of its own."""
    pixels = np.full((20 + row, 30 + 2 * row, 3), 40 * row, np.uint8)
    return tf.io.encode_jpeg(pixels, quality=100).numpy()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    small(data_dir)
    features = small_features((None, None, 3)) | {"image": tfds.features.Image(encoding_format="jpeg")}
    splits = {
        split: [{"image": jpeg(row), "label": label(row)} for row in range(count)] for split, count in COUNTS.items()
    }
    tiny_tfds.write(data_dir, "flowers", features, splits, examples_per_shard=2)
    return data_dir


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(name, root):
        raise ConnectionError(f"no route to {name}'s host")

    monkeypatch.setattr(tfds_folder, "download", refuse)


def load(data_dir, name="tfds:insects", **settings):
    return tfds_dataset.load(DataConfig(dataset=name, data_dir=str(data_dir), **settings))


def test_images_of_one_size_are_arrays_in_the_order_on_disk(prepared):
    dataset = load(prepared)
    for split, table in (("train", dataset.train), ("test", dataset.test), ("validation", dataset.validation)):
        assert table.ids.tolist() == [f"{split}_{row:05d}".encode() for row in range(COUNTS[split])]
        assert table.given_labels.tolist() == [label(row) for row in range(COUNTS[split])]
        assert table.true_labels.tolist() == table.given_labels.tolist()
        np.testing.assert_array_equal(table.images, [image(split, row) for row in range(COUNTS[split])])
    assert dataset.name == "tfds:insects"
    assert dataset.class_names == ("ant", "bee", "cat")
    assert (dataset.meta, dataset.notes) == (None, ())


def test_arrays_are_normalised_by_the_training_images_and_padded_by_an_eighth(prepared):
    preprocessing = load(prepared).preprocessing
    pixels = np.stack([image("train", row) for row in range(5)]) / 255
    np.testing.assert_allclose(preprocessing.mean, pixels.mean(axis=(0, 1, 2)), atol=5.1e-7)
    np.testing.assert_allclose(preprocessing.std, pixels.std(axis=(0, 1, 2)), atol=5.1e-7)
    assert (preprocessing.padding, preprocessing.shorter_side, preprocessing.flip) == (1, 0, True)  # 8 / 8


def test_grey_images_are_not_flipped_and_a_constant_channel_stays_finite(tmp_path):
    blank = {split: [{"image": np.full((28, 28, 1), 51, np.uint8), "label": 0}] for split in ("train", "test")}
    tiny_tfds.write(tmp_path, "blank", small_features((28, 28, 1)), blank)
    preprocessing = load(tmp_path, "tfds:blank").preprocessing
    assert (preprocessing.mean, preprocessing.std) == ((0.2,), (1.0,))
    assert (preprocessing.flip, preprocessing.padding) == (False, 4)  # 28 / 8 = 3.5


def test_a_datasets_own_ids_are_kept_if_they_are_unique(tmp_path):
    small(tmp_path, ids=lambda row: f"bug-{9 - row}", counts={"train": 3, "test": 1})
    small(tmp_path, name="twins", ids=lambda row: "same", counts={"train": 3, "test": 1})
    assert load(tmp_path).train.ids.tolist() == [b"bug-9", b"bug-8", b"bug-7"]
    assert load(tmp_path, "tfds:twins").train.ids.tolist() == [b"train_00000", b"train_00001", b"train_00002"]


def test_pictures_of_many_sizes_stay_in_their_records(prepared):
    dataset = load(prepared, "tfds:flowers")
    for split, table in (("train", dataset.train), ("test", dataset.test), ("validation", dataset.validation)):
        assert table.images.shape == (COUNTS[split], 96, 96, 3)
        assert table.ids.tolist() == [f"{split}_{row:05d}".encode() for row in range(COUNTS[split])]
        assert table.given_labels.tolist() == [label(row) for row in range(COUNTS[split])]
        assert [table.images.read_bytes(row) for row in range(COUNTS[split])] == [
            jpeg(row) for row in range(COUNTS[split])
        ]
    assert dataset.preprocessing.shorter_side == 110  # 96 * 256 / 224 = 109.7
    assert dataset.preprocessing.mean == (0.485, 0.456, 0.406)
    assert load(prepared, "tfds:flowers", image_size=64).train.images.shape == (5, 64, 64, 3)


def test_another_size_than_the_arrays_own_takes_the_pictures_from_disk(prepared):
    dataset = load(prepared, image_size=32)
    assert dataset.train.images.shape == (5, 32, 32, 3)
    decoded = tf.io.decode_image(dataset.train.images.read_bytes(3)).numpy()
    np.testing.assert_array_equal(decoded, image("train", 3))
    assert dataset.train.given_labels.tolist() == [0, 1, 2, 0, 1]
    assert dataset.preprocessing.shorter_side == 37  # 32 * 256 / 224 = 36.6


def test_what_does_not_fit_in_memory_stays_on_disk_in_its_own_size(prepared, monkeypatch):
    num_bytes = 10 * 8 * 16 * 3
    monkeypatch.setattr(tfds_dataset, "MOST_BYTES_IN_MEMORY", num_bytes)
    assert isinstance(load(prepared).train.images, np.ndarray)
    monkeypatch.setattr(tfds_dataset, "MOST_BYTES_IN_MEMORY", num_bytes - 1)
    dataset = load(prepared)
    assert not isinstance(dataset.train.images, np.ndarray)
    assert dataset.train.images.shape == (5, 8, 16, 3)
    assert (dataset.preprocessing.padding, dataset.preprocessing.shorter_side) == (1, 0)


def test_without_a_test_split_validation_is_the_test_set_and_a_note_says_so(tmp_path):
    small(tmp_path, counts={"train": 3, "validation": 2})
    dataset = load(tmp_path)
    assert (len(dataset.test), dataset.validation) == (2, None)
    assert dataset.notes == ("tfds:insects has no split 'test'; its 'validation' is the test set.",)


def test_without_anything_to_test_on_a_tenth_of_each_class_is_set_aside(tmp_path):
    small(tmp_path, counts={"train": 64, "extra": 1})
    dataset = load(tmp_path)
    assert (len(dataset.train), len(dataset.test), dataset.validation) == (58, 6, None)
    assert np.bincount(dataset.train.given_labels).tolist() == [20, 19, 19]
    assert np.bincount(dataset.test.given_labels).tolist() == [2, 2, 2]
    for table in (dataset.train, dataset.test):
        rows = [int(name.removeprefix(b"train_")) for name in table.ids.tolist()]
        assert table.given_labels.tolist() == [label(row) for row in rows]
        np.testing.assert_array_equal(table.images, [image("train", row) for row in rows])
    assert not set(dataset.train.ids.tolist()) & set(dataset.test.ids.tolist())
    pixels = dataset.train.images / 255
    np.testing.assert_allclose(dataset.preprocessing.mean, pixels.mean(axis=(0, 1, 2)), atol=5.1e-7)
    assert dataset.notes == (
        "tfds:insects has no split 'test' or 'validation': 6 of 64 training examples are set aside to test on.",
    )
    on_disk = load(tmp_path, image_size=32)
    assert on_disk.test.ids.tolist() == dataset.test.ids.tolist()
    assert on_disk.test.images.shape == (6, 32, 32, 3)


def test_a_class_of_one_example_cannot_be_trained_and_tested_on(tmp_path):
    folder = small(tmp_path, counts={"train": 5})
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        f"tfds:insects in {folder} cannot be used: it has no split 'test' or 'validation', and the number of training"
        " examples of its class 'cat' is 1; expected 2 or more, of which one is set aside to test on"
    )


def hidden(data_dir, labels_by_split):
    """Images of one size with these labels."""
    splits = {
        split: [{"image": image(split, row), "label": number} for row, number in enumerate(labels)]
        for split, labels in labels_by_split.items()
    }
    return tiny_tfds.write(data_dir, "contest", small_features(), splits)


@pytest.mark.parametrize("settings", [{}, {"image_size": 32}], ids=["in memory", "on disk"])
def test_a_split_without_labels_is_passed_over(tmp_path, settings):
    hidden(tmp_path, {"train": [0, 1, 2], "test": [-1, -1, 2], "validation": [2, 1]})
    dataset = load(tmp_path, "tfds:contest", **settings)
    assert (dataset.test.given_labels.tolist(), dataset.validation) == ([2, 1], None)
    assert dataset.notes == (
        "tfds:contest: the split 'test' is passed over, since 2 of its 3 examples have the label -1, which stands for"
        " none.",
        "tfds:contest has no split 'test' with labels; its 'validation' is the test set.",
    )


def test_a_validation_split_without_labels_is_passed_over(tmp_path):
    hidden(tmp_path, {"train": [0, 1, 2], "test": [1, 0], "validation": [-1]})
    dataset = load(tmp_path, "tfds:contest")
    assert (dataset.test.given_labels.tolist(), dataset.validation) == ([1, 0], None)
    assert dataset.notes == (
        "tfds:contest: the split 'validation' is passed over, since 1 of its 1 examples have the label -1, which stands"
        " for none.",
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            {"train": [0, -1, 2], "test": [0]},
            "1 of 3 examples of its split 'train' have the label -1, which stands for none; expected a label for each",
        ),
        (
            {"train": [0, 1], "test": [-1], "validation": [-1, 0]},
            "examples of its 'test' and 'validation' have the label -1, which stands for none; expected a split 'test'"
            " or 'validation' with labels to test on",
        ),
    ],
)
def test_hidden_labels_that_leave_nothing_to_train_or_test_on_are_refused(tmp_path, labels, message):
    folder = hidden(tmp_path, labels)
    with pytest.raises(InputError) as caught:
        load(tmp_path, "tfds:contest")
    assert str(caught.value) == f"tfds:contest in {folder} cannot be used: {message}"


def test_a_configuration_and_a_version_can_be_named(tmp_path):
    for config, version, count in (("red", "1.0.0", 2), ("red", "1.2.0", 3), ("blue", "1.0.0", 4)):
        small(tmp_path, config=config, version=version, counts={"train": count, "test": 1})
    sizes = [len(load(tmp_path, f"tfds:insects/{name}").train) for name in ("red", "red:1.0.0", "blue")]
    assert sizes == [3, 2, 4]
    with pytest.raises(
        InputError, match="insects holds several configurations: blue, red. Name one, as in insects/blue"
    ):
        load(tmp_path)
    with pytest.raises(InputError, match="insects/red:2.0.0 is not in .*downloading it failed: ConnectionError"):
        load(tmp_path, "tfds:insects/red:2.0.0")


def test_the_only_configuration_need_not_be_named(tmp_path):
    small(tmp_path, config="red", counts={"train": 2, "test": 1})
    assert len(load(tmp_path).train) == 2


@pytest.mark.parametrize("name", ["tfds:", "tfds:a b", "tfds:a/b/c", "tfds:a:1.0", "tfds:../a"])
def test_a_name_of_another_form_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="is written tfds:name, tfds:name/config or tfds:name/config:1.0.0; got"):
        load(tmp_path, name)


NO_LABEL = {"image": tfds.features.Image(shape=(8, 16, 3)), "kind": tfds.features.ClassLabel(num_classes=3)}
TWO_IMAGES = small_features() | {"mask": tfds.features.Image(shape=(8, 16, 1))}
NUMBER = small_features() | {"label": tfds.features.Scalar(np.int64)}
DEPTH = small_features((8, 16, 1)) | {"image": tfds.features.Image(shape=(8, 16, 1), dtype=np.uint16)}


@pytest.mark.parametrize(
    ("features", "example", "message"),
    [
        (
            NO_LABEL,
            {"image": image("train", 0), "kind": 1},
            "its features are image (Image), kind (ClassLabel); expected one Image and a ClassLabel 'label'",
        ),
        (
            TWO_IMAGES,
            {"image": image("train", 0), "label": 1, "mask": image("train", 0, (8, 16, 1))},
            "its features are image (Image), label (ClassLabel), mask (Image); expected one Image",
        ),
        (NUMBER, {"image": image("train", 0), "label": 1}, "its features are image (Image), label (Scalar); expected"),
        (
            DEPTH,
            {"image": image("train", 0, (8, 16, 1)).astype(np.uint16), "label": 1},
            "its images are uint16; expected uint8",
        ),
    ],
    ids=["no label", "two images", "label is a number", "uint16"],
)
def test_a_dataset_of_another_kind_is_refused_with_its_features(tmp_path, features, example, message):
    folder = tiny_tfds.write(tmp_path, "other", features, {"train": [example], "test": [example]})
    with pytest.raises(InputError) as caught:
        load(tmp_path, "tfds:other")
    assert str(caught.value).startswith(f"tfds:other in {folder} cannot be used: {message}")


def test_a_dataset_without_a_training_split_is_refused(tmp_path):
    folder = small(tmp_path, counts={"test": 2, "extra": 1})
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        f"tfds:insects in {folder} cannot be used: it has the splits test, extra; expected 'train'"
    )


def test_a_shard_that_is_cut_off_is_an_input_error(tmp_path):
    folder = small(tmp_path)
    (path, *_) = sorted(folder.glob("*-train.tfrecord*"))
    path.write_bytes(path.read_bytes()[:-20])
    for settings in ({}, {"image_size": 32}):
        with pytest.raises(InputError, match="tfds:insects in .* cannot be (read|used)"):
            load(tmp_path, **settings)
