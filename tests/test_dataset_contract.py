"""What every dataset offers, over the registry: a miniature of each is read, split and trained on for a step."""

import pickle
import zipfile

import keras
import numpy as np
import pytest

from famus_tf import registry, run_splits
from famus_tf.config import DataConfig
from famus_tf.data import tfds_folder
from famus_tf.trainer import Trainer
from tests import tiny_datasets, tiny_tfds

SIZE = 16  # pixels; for pictures from files


def every_class(num_classes, times):
    return [label % num_classes for label in range(times * num_classes)]


def cifar(folder, num_classes, times=3):
    labels = {"train": every_class(num_classes, times), "test": every_class(num_classes, 1)}
    tiny_tfds.write_cifar(folder, f"cifar{num_classes}", num_classes, labels=labels)
    return {"data_dir": str(folder)}


def cifar_n(folder, num_classes, file, noisy):
    settings = cifar(folder, num_classes)
    labels = np.array(every_class(num_classes, 3))
    columns = {"clean_label": labels, noisy: np.roll(labels, 1)}
    with zipfile.ZipFile(folder / file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(columns, protocol=2))
    return settings


def long_tailed(folder, num_classes):
    return cifar(folder, num_classes, times=4) | {"imbalance_factor": 2.0}


def clothing1m(folder):
    tiny_datasets.make_clothing1m(folder)
    return {"data_dir": str(folder), "meta_set": "clean", "image_size": SIZE}


def webvision(folder):
    tiny_datasets.make_webvision(folder / "webvision", per_class=3)
    tiny_datasets.make_imagenet_validation(folder / "imagenet", "synsets")
    return {
        "data_dir": str(folder / "webvision"), "imagenet_dir": str(folder / "imagenet"), "meta_set": "given",
        "image_size": SIZE,
    }  # fmt: skip


def red_mini_imagenet(folder):
    tiny_datasets.make_red_mini_imagenet(folder)
    return {"data_dir": str(folder), "meta_set": "clean", "image_size": 32}


def own_folder(folder):
    for part, count in (("train", 4), ("meta", 2), ("test", 1)):
        for label, name in enumerate(("ant", "bee", "cat")):
            for n in range(count):
                tiny_datasets.write(folder / part / name / f"{part}{n}.jpg", tiny_datasets.jpeg(40 * label, shade=n))
    return {"data_dir": str(folder), "meta_set": "clean", "image_size": SIZE}


MAKERS = {
    "digits": lambda folder: {},
    "cifar10": lambda folder: cifar(folder, 10),
    "cifar100": lambda folder: cifar(folder, 100),
    "cifar10n": lambda folder: cifar_n(folder, 10, "CIFAR-10_human.pt", "aggre_label"),
    "cifar100n": lambda folder: cifar_n(folder, 100, "CIFAR-100_human.pt", "noisy_label"),
    "cifar10_lt": lambda folder: long_tailed(folder, 10),
    "cifar100_lt": lambda folder: long_tailed(folder, 100),
    "clothing1m": clothing1m,
    "webvision": webvision,
    "red_mini_imagenet": red_mini_imagenet,
    "folder": own_folder,
    "tfds:<name>": lambda folder: cifar(folder, 10),
}


def refuse_download(name, root):
    raise ConnectionError(f"no route to {name}'s host")


def splits_of(name, folder):
    """The miniature of a dataset, split, with a meta set of one example per class."""
    settings = MAKERS[name](folder)
    known = "tfds:cifar10" if name.startswith("tfds:") else name
    dataset = registry.load_dataset(DataConfig(dataset=known, **settings))
    config = DataConfig(dataset=known, num_meta=len(dataset.class_names), **settings)
    return run_splits.load_splits(config, seed=0)


def tiny_network(splits):
    inputs = keras.Input(splits.image_shape)
    features = keras.layers.GlobalAveragePooling2D()(inputs)
    return keras.Model(inputs, keras.layers.Dense(splits.num_classes, name="logits")(features))


@pytest.mark.parametrize("name", registry.dataset_names())
def test_a_step_of_training_runs_on_a_miniature_of_every_dataset(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_folder, "download", refuse_download)
    splits = splits_of(name, tmp_path)
    assert splits.num_classes == len(set(splits.class_names))
    parts = run_splits.tables(splits)
    assert len(set(splits.train.ids.tolist()) & set(splits.meta.ids.tolist())) == 0
    assert np.bincount(splits.meta.given_labels).tolist() == [1] * splits.num_classes
    assert all(table.images.shape[1:] == splits.image_shape for table in parts.values())

    model = tiny_network(splits)
    before = [w.copy() for w in model.get_weights()]
    trainer = Trainer(model, registry.make_method("mwnet"), steps_per_call=1)
    trainer.fit(
        splits.train, splits.meta, test_data=splits.test, more_tests=splits.more_tests, train_steps=1, batch_size=8,
        meta_batch_size=min(8, len(splits.meta)), preprocessing=splits.preprocessing, steps_per_epoch=1, verbose=0,
    )  # fmt: skip
    assert trainer.step == 1 and trainer.bad_rows == []
    assert all(not np.array_equal(old, new) for old, new in zip(before, model.get_weights(), strict=True))
    assert np.isfinite(trainer.history["loss"][0])
    for part in ("test", *splits.more_tests):
        assert 0.0 <= trainer.history[f"{part}_accuracy"][0] <= 1.0
    assert np.sum(~np.isnan(trainer.example_weights)) == 8


def test_every_dataset_has_a_miniature():
    assert set(MAKERS) == set(registry.dataset_names())
