"""Writes tiny datasets as tensorflow-datasets prepares them, for the tests."""

import numpy as np
import tensorflow_datasets as tfds

CIFAR_LABELS = {"train": [0, 3, 9, 3, 1, 8, 2], "test": [5, 0, 9]}


def write(data_dir, name, features, splits, *, config="", version="3.0.2", examples_per_shard=1000):
    """Writes `<data_dir>/<name>/[<config>/]<version>`.

    Args:
        data_dir: The folder of prepared datasets.
        name: The dataset's.
        features: {name: tfds feature}.
        splits: {split: list of examples, each {name: value}}, written in that order.
        config: A configuration's name, or "".
        version: As "3.0.2".
        examples_per_shard: At most.

    Returns:
        The folder.
    """
    folder = data_dir / name / config / version
    folder.mkdir(parents=True)
    identity = tfds.core.DatasetIdentity(
        name=name, version=tfds.core.Version(version), data_dir=str(folder), module_name=__name__
    )
    info = tfds.core.DatasetInfo(builder=identity, features=tfds.features.FeaturesDict(features))
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=examples_per_shard, overwrite=True)
    writer.initialize_splits(list(splits))
    for split, examples in splits.items():
        writer.add_examples({split: examples})
    writer.close_all()
    return folder


def cifar_image(split, position):
    """The picture of a position, [32, 32, 3] uint8."""
    seed = position + 100 * (split == "test")
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def write_cifar(data_dir, name, num_classes, *, version="3.0.2", with_id=True, labels=None, shape=(32, 32, 3)):
    """Writes `<data_dir>/<name>/<version>`, backwards, so that the order on disk is not that of the ids."""
    labels = CIFAR_LABELS if labels is None else labels
    features = {
        "image": tfds.features.Image(shape=shape),
        "label": tfds.features.ClassLabel(num_classes=num_classes),
    }
    if with_id:
        features["id"] = tfds.features.Text()
    if name == "cifar100":
        features["coarse_label"] = tfds.features.ClassLabel(num_classes=20)

    def example(split, position):
        values = {
            "image": cifar_image(split, position)[: shape[0], : shape[1]],
            "label": labels[split][position],
            "id": f"{split}_{position:05d}",
            "coarse_label": 0,
        }
        return {key: values[key] for key in features}

    splits = {split: [example(split, row) for row in reversed(range(len(labels[split])))] for split in labels}
    return write(data_dir, name, features, splits, version=version)
