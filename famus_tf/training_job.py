"""One training run from its settings to its results: what `train.py` does once the flags are read."""

import functools
import time

from absl import logging

from famus_tf import determinism, registry, replicas, run_endings, run_facts, run_splits, workers
from famus_tf.config import Config
from famus_tf.data import label_files
from famus_tf.data.examples import Splits
from famus_tf.errors import InputError, NonFiniteError
from famus_tf.models.normalization import plain_copy
from famus_tf.runs import bad_pictures, closing_summary, interruption, shared_restore
from famus_tf.runs.checkpoints import Checkpointer
from famus_tf.runs.interruption import StopOnSignals
from famus_tf.runs.monitor import Monitor, environment_facts
from famus_tf.runs.nonfinite import NonFiniteLog
from famus_tf.runs.run_folder import RunFolder
from famus_tf.runs.write_failures import CHECKPOINT, WriteFailures
from famus_tf.trainer import Trainer


def train(config: Config, splits: Splits, flag_lines: list[str], comparison: str, verbose) -> dict:
    """Trains; see `train_here`, which does it. Where another worker is lost, the program ends in good order."""
    with run_endings.lost_workers_ending_the_run(config.run):
        return train_here(config, splits, flag_lines, comparison, verbose)


def train_here(config: Config, splits: Splits, flag_lines: list[str], comparison: str, verbose) -> dict:
    """Trains, or goes on training where the run folder's newest checkpoint stands, and writes the run folder.

    Nothing is written before everything that can be refused has been checked.

    Args:
        config: Everything the run is.
        splits: As from `run_splits.load_splits`.
        flag_lines: What reproduces the run.
        comparison: A command to suggest at the end.
        verbose: As in `Trainer.fit`.

    Returns:
        The contents of results.json; {} on a worker that is not the chief, which writes and prints nothing.

    Raises:
        InputError: If something the user gave does not fit.
        NonFiniteError: If training came upon NaN or Inf and is to stop.
        ProgramEnd: If a signal stopped it, or something could not be written.
    """
    if config.run.deterministic:
        determinism.enable(config.run.seed)
    folder = RunFolder(config.run.model_dir)
    strategy = replicas.make_strategy(config.run.num_replicas, config.run.strategy)
    is_chief = workers.is_chief(strategy)
    if is_chief and splits.notes:  # first, since they may explain what is refused below
        print("\n".join(splits.notes), flush=True)
    found = bad_pictures.find_at_start(run_splits.tables(splits))
    bad_pictures.refuse_too_many(found, run_splits.tables(splits), config.data.max_bad_fraction)
    splits = run_splits.scaled_for_weights(splits, config)
    trainer = make_trainer(config, splits, strategy)
    feed, _ = trainer.make_feeds(splits.train, splits.meta, **feeding(config, splits))
    last_step = config.run.train_steps or config.run.epochs * feed.steps_per_epoch
    facts = run_facts.run_facts(config, splits, trainer.model, flag_lines)
    workers.check_alike(run_facts.alike_on_all_workers(facts), strategy)
    check_same_labels(folder, splits)
    if is_chief:
        print(closing_summary.opening_line(facts, environment_facts(strategy)), flush=True)
        begin_folder(folder, flag_lines, splits)
    failures = WriteFailures()
    checkpointer = Checkpointer(
        folder.checkpoints, trainer, interval_s=config.run.checkpoint_interval_s, failures=failures
    )
    if shared_restore.restore(checkpointer, trainer) and is_chief:
        print(f"Going on from step {trainer.step} in {folder.path}/.", flush=True)
    callbacks = [bad_pictures.Limit(splits.train, trainer, config.data.max_bad_fraction)]
    if is_chief:
        monitor = Monitor(folder, trainer, facts=facts, is_clean=run_splits.clean_rows(splits), failures=failures)
        callbacks += [monitor, checkpointer]
        trainer.nonfinite.listeners.append(NonFiniteLog(folder.path / "nonfinite.jsonl", failures))
        if config.run.on_nonfinite == "restore" and trainer.step == 0:
            with failures.noting(CHECKPOINT):
                checkpointer.save()  # so that there is always one to go back to
    trainer.nonfinite.restore = functools.partial(shared_restore.restore, checkpointer, trainer)
    started = time.monotonic()
    with StopOnSignals(interruption.telling(trainer.request_stop), ends_the_program=True):
        try:
            fit(trainer, config, splits, callbacks, verbose if is_chief else 0)
        except NonFiniteError:
            if is_chief:
                with failures.noting(CHECKPOINT):
                    checkpointer.save()  # the step before, from which --on_nonfinite=skip goes on
            raise
        if trainer.step < last_step or trainer.awaits_evaluation:
            run_endings.end_early(trainer, last_step, folder, failures)
        if not is_chief:
            return {}
        logging.info("Trained for %.1f s.", time.monotonic() - started)
        found = bad_pictures.merged(found, bad_pictures.met_in_training(splits.train, trainer.bad_rows))
        results = finish_folder(folder, trainer.model, monitor, found, failures)
        print("\n".join(closing_summary.closing_lines(results, folder, comparison)), flush=True)
        run_endings.check_written(failures)
        return results


def feeding(config: Config, splits: Splits) -> dict:
    """The arguments of `Trainer.make_feeds` and `Trainer.fit` that say how batches are made."""
    return {
        "batch_size": config.run.batch_size,
        "meta_batch_size": config.run.meta_batch_size,
        "preprocessing": splits.preprocessing,
        "augment": config.data.augment,
        "steps_per_epoch": config.run.steps_per_epoch or None,
        "class_balanced": config.run.class_balanced,
    }


def fit(trainer: Trainer, config: Config, splits: Splits, callbacks: list, verbose) -> None:
    """`Trainer.fit` on the splits, as the settings say.

    Args:
        trainer: The trainer.
        config: Of the run.
        splits: What it trains on, and what is measured after each epoch.
        callbacks: Keras callbacks.
        verbose: As in `Trainer.fit`.
    """
    trainer.fit(
        splits.train,
        splits.meta,
        validation_data=splits.validation,
        test_data=splits.test,
        more_tests=splits.more_tests,
        epochs=config.run.epochs,
        train_steps=config.run.train_steps,
        **feeding(config, splits),
        callbacks=callbacks,
        verbose=verbose,
    )


def make_trainer(config: Config, splits: Splits, strategy) -> Trainer:
    """Builds the network and the method, and the trainer around them.

    Args:
        config: Of the run.
        splits: Tell the network its input and its classes.
        strategy: From `replicas.make_strategy`.

    Raises:
        InputError: If they do not fit each other.
    """
    with strategy.scope():
        model = registry.build_model(
            config.model, splits.image_shape, splits.num_classes, seed=config.run.seed,
            synchronized=strategy.num_replicas_in_sync > 1, weights=config.weights,
            mixed_precision=config.run.mixed_precision,
        )  # fmt: skip
    return Trainer(
        model,
        registry.build_method(config.method),
        seed=config.run.seed,
        steps_per_call=config.run.steps_per_call,
        on_nonfinite=config.run.on_nonfinite,
        strategy=strategy,
    )


def check_same_labels(folder: RunFolder, splits: Splits) -> None:
    """Refuses to go on in the folder of a run on other examples or labels, which the same flags can give.

    Args:
        folder: The run folder; a new one passes.
        splits: What there is to train on now.

    Raises:
        InputError: If the folder's labels.csv is not of these examples and labels, in this order.
    """
    if folder.labels.exists() and not label_files.holds_labels_of(folder.labels, splits.train):
        raise InputError(
            f"The run in {folder.path}/ was made with other data: its labels.csv holds other examples or labels than"
            f" the {len(splits.train):,} that were read now. Give another --model_dir for a new run, or the old data to"
            " go on with this one."
        )


def begin_folder(folder: RunFolder, flag_lines: list[str], splits: Splits) -> None:
    """Makes the run folder, or readies that of a run which was stopped."""
    folder.create(flag_lines)
    folder.remove_litter()
    if not folder.labels.exists():  # the labels of a run folder never change
        try:
            label_files.save_labels(folder.labels, splits.train)
        except OSError as error:
            raise InputError(
                f"{folder.labels} cannot be written ({error}). Make room, or give another path."
            ) from error


def finish_folder(folder: RunFolder, model, monitor: Monitor, found: list, failures: WriteFailures) -> dict:
    """Writes what a finished run leaves behind.

    Args:
        folder: Of the run.
        model: The trained network.
        monitor: Knows the figures.
        found: The pictures that could not be used.
        failures: Where failures to write are noted.

    Returns:
        The contents of results.json.
    """
    with failures.noting("model.keras"):
        folder.save_model(plain_copy(model))
    if found:
        with failures.noting("bad_pictures.csv"):
            bad_pictures.save(folder.bad_pictures, found)
    results = {**monitor.results(finished=True), "bad_pictures": bad_pictures.counts_by_part(found)}
    with failures.noting("results.json"):
        folder.write_results(results)
    return results
