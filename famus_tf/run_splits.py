"""A run's examples: a dataset read, split and corrupted as its settings say, scaled as its network expects."""

import dataclasses

import numpy as np

from famus_tf import registry
from famus_tf.config import Config, DataConfig
from famus_tf.data import corruption, splitting
from famus_tf.data.examples import Dataset, ExampleTable, Splits


def load_splits(config: DataConfig, seed: int) -> Splits:
    """Reads a dataset, takes the meta and validation sets out of it and corrupts what is left.

    Args:
        config: What and how.
        seed: Of the splits and of the noise.

    Raises:
        InputError: If the dataset cannot be read or the numbers do not fit it.
    """
    dataset = registry.load_dataset(config)

    def corrupt(labels, ids):
        return corruption.corrupt(
            labels, ids, noise_type=config.noise_type, noise_rate=config.noise_rate,
            num_classes=len(dataset.class_names), seed=seed, coarse_labels=dataset.coarse_labels,
            dataset_name=dataset.name,
        )  # fmt: skip

    return splitting.split(
        dataset,
        num_meta=config.num_meta or _all_own_clean(dataset),
        num_validation=config.num_validation,
        num_train=config.num_train,
        seed=seed,
        corrupt=corrupt,
        meta_set=config.meta_set,
        imbalance_factor=config.imbalance_factor,
    )


def _all_own_clean(dataset: Dataset) -> int:
    """How many clean pictures a user's own folder has for a meta set, as many of each class; 0 of other datasets.

    Whoever puts pictures into DIR/meta wants them used, and should not have to count them.
    """
    if dataset.name != "folder" or dataset.meta is None:
        return 0
    counts = np.bincount(dataset.meta.given_labels, minlength=len(dataset.class_names))
    return splitting.largest_balanced_total(counts)


def clean_rows(splits: Splits) -> np.ndarray | None:
    """[N] bool, whether each training example's given label is its true one; None where the truth is unknown."""
    train = splits.train
    return None if train.true_labels is None else train.given_labels == train.true_labels


def scaled_for_weights(splits: Splits, config: Config) -> Splits:
    """The same splits, their images scaled as the weights expect that the network begins with.

    Args:
        splits: As from `load_splits`.
        config: Of the run. Without `--weights` the dataset's own scaling stays.

    Raises:
        InputError: If the weights are a run's and its results.json cannot be read.
    """
    scaling = registry.input_scaling(config.model, config.weights)
    if scaling is None or splits.image_shape[-1] != 3:
        return splits
    scaled = dataclasses.replace(splits.preprocessing, **dataclasses.asdict(scaling))
    return dataclasses.replace(splits, preprocessing=scaled)


def tables(splits: Splits) -> dict[str, ExampleTable]:
    """Returns part -> its examples, those that there are."""
    parts = {"train": splits.train, "meta": splits.meta, "validation": splits.validation, "test": splits.test}
    return {part: table for part, table in {**parts, **splits.more_tests}.items() if table is not None}
