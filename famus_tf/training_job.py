"""One training run from its settings to its results: what `train.py` does once the flags are read."""

import dataclasses
import time

import numpy as np
from absl import logging

from famus_tf import registry, replicas
from famus_tf.config import Config, DataConfig
from famus_tf.data import corruption, splitting
from famus_tf.data.examples import Splits
from famus_tf.models.normalization import plain_copy
from famus_tf.runs import closing_summary
from famus_tf.runs.checkpoints import Checkpointer
from famus_tf.runs.monitor import Monitor, environment_facts
from famus_tf.runs.run_folder import RunFolder
from famus_tf.trainer import Trainer


def load_splits(config: DataConfig, seed: int) -> Splits:
    """Reads a dataset, takes the meta and validation sets out of it and corrupts what is left.

    Args:
        config: What and how.
        seed: Of the splits and of the noise.

    Raises:
        InputError: If the dataset cannot be read or the numbers do not fit it.
    """
    dataset = registry.load_dataset(config.dataset, config.data_dir)

    def corrupt(labels, ids):
        return corruption.corrupt(
            labels, ids, noise_type=config.noise_type, noise_rate=config.noise_rate,
            num_classes=len(dataset.class_names), seed=seed, coarse_labels=dataset.coarse_labels,
            dataset_name=dataset.name,
        )  # fmt: skip

    return splitting.split(
        dataset,
        num_meta=config.num_meta,
        num_validation=config.num_validation,
        num_train=config.num_train,
        seed=seed,
        corrupt=corrupt,
    )


def clean_rows(splits: Splits) -> np.ndarray | None:
    """[N] bool, whether each training example's given label is its true one; None where the truth is unknown."""
    train = splits.train
    return None if train.true_labels is None else train.given_labels == train.true_labels


def run_facts(config: Config, splits: Splits, model, flag_lines: list[str]) -> dict:
    """What results.json says of a run before its first step, JSON-able."""
    train = splits.train
    measured = None
    if train.true_labels is not None:
        measured = corruption.measured_noise_rate(train.given_labels, train.true_labels)
    parts = {"train": splits.train, "meta": splits.meta, "validation": splits.validation, "test": splits.test}
    return {
        "dataset": {
            "name": config.data.dataset,
            "sizes": {name: len(table) if table is not None else 0 for name, table in parts.items()},
            "class_names": list(splits.class_names),
            "image_shape": list(splits.image_shape),
            "preprocessing": dataclasses.asdict(splits.preprocessing),
        },
        "noise": {
            "type": config.data.noise_type,
            "rate": config.data.noise_rate,
            "measured_rate": measured,
            "labels_sha256": corruption.labels_hash(train.ids, train.given_labels),
        },
        "model": {"name": config.model, "parameters": int(model.count_params())},
        "method": config.method.name,
        "learns_weights": config.method.meta_model is not None,
        "seed": config.run.seed,
        "flags": flag_lines,
    }


def train(config: Config, splits: Splits, flag_lines: list[str], comparison: str, verbose) -> dict:
    """Trains, or goes on training where the run folder's newest checkpoint stands, and writes the run folder.

    Nothing is written before everything that can be refused has been checked.

    Args:
        config: Everything the run is.
        splits: As from `load_splits`.
        flag_lines: What reproduces the run.
        comparison: A command to suggest at the end.
        verbose: As in `Trainer.fit`.

    Returns:
        The contents of results.json.

    Raises:
        InputError: If something the user gave does not fit.
    """
    folder = RunFolder(config.run.model_dir)
    strategy = replicas.make_strategy(config.run.num_replicas)
    with strategy.scope():
        model = registry.build_model(
            config.model, splits.image_shape, splits.num_classes, seed=config.run.seed,
            synchronized=strategy.num_replicas_in_sync > 1,
        )  # fmt: skip
    trainer = Trainer(
        model,
        registry.build_method(config.method),
        seed=config.run.seed,
        steps_per_call=config.run.steps_per_call,
        strategy=strategy,
    )
    feeding = {
        "batch_size": config.run.batch_size,
        "meta_batch_size": config.run.meta_batch_size,
        "preprocessing": splits.preprocessing,
        "augment": config.data.augment,
    }
    trainer.make_feeds(splits.train, splits.meta, **feeding)
    facts = run_facts(config, splits, model, flag_lines)
    print(closing_summary.opening_line(facts, environment_facts(strategy)), flush=True)
    folder.create(flag_lines)
    save_labels(folder, splits)
    checkpointer = Checkpointer(folder.checkpoints, trainer, interval_s=config.run.checkpoint_interval_s)
    if checkpointer.restore():
        print(f"Going on from step {trainer.step} in {folder.path}/.", flush=True)
    monitor = Monitor(folder, trainer, facts=facts, is_clean=clean_rows(splits))
    started = time.monotonic()
    trainer.fit(
        splits.train,
        splits.meta,
        validation_data=splits.validation,
        test_data=splits.test,
        epochs=config.run.epochs,
        train_steps=config.run.train_steps,
        **feeding,
        callbacks=[monitor, checkpointer],
        verbose=verbose,
    )
    plain_copy(model).save(folder.model)
    results = monitor.results(finished=True)
    folder.write_results(results)
    logging.info("Trained for %.1f s.", time.monotonic() - started)
    print("\n".join(closing_summary.closing_lines(results, folder, comparison)), flush=True)
    return results


def save_labels(folder: RunFolder, splits: Splits) -> None:
    """Writes labels.csv unless it is there: the labels of a run folder never change."""
    if not folder.labels.exists():
        corruption.save_labels(folder.labels, splits.train)
