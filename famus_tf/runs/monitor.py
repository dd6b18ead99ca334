"""What a run tells: TensorBoard events while it goes on, results.json after each epoch."""

import contextlib
import platform

import keras
import numpy as np
import tensorflow as tf

from famus_tf import workers
from famus_tf.runs.run_folder import RunFolder
from famus_tf.runs.write_failures import WriteFailures


def accuracies(history: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """The three test accuracies, never one.

    Args:
        history: {name: [value per epoch]} with "test_accuracy" and, where there was a validation set, "val_accuracy".

    Returns:
        {"last_epoch" | "best_on_validation" | "best_on_test": {"test_accuracy": in [0, 1], "epoch": from 1}}. The
        first best epoch counts. "best_on_validation" is the test accuracy of the epoch that did best on the (noisy)
        validation set, and missing without one.
    """
    tests = history.get("test_accuracy", [])
    if not tests:
        return {}
    chosen = {"last_epoch": len(tests) - 1, "best_on_test": int(np.argmax(tests))}
    if history.get("val_accuracy"):
        chosen["best_on_validation"] = int(np.argmax(history["val_accuracy"]))
    return {name: {"test_accuracy": tests[epoch], "epoch": epoch + 1} for name, epoch in chosen.items()}


def weight_facts(example_weights, is_clean) -> dict[str, float]:
    """Mean newest weight of the clean and of the corrupted examples that were seen.

    Args:
        example_weights: [N] float32, NaN where not seen yet; None gives no facts.
        is_clean: [N] bool; None gives no facts.

    Returns:
        {"mean_weight_clean", "mean_weight_corrupted"}, each only where there are such examples.
    """
    if example_weights is None or is_clean is None:
        return {}
    seen = ~np.isnan(example_weights)
    groups = {"mean_weight_clean": seen & is_clean, "mean_weight_corrupted": seen & ~is_clean}
    return {name: float(example_weights[rows].mean()) for name, rows in groups.items() if rows.any()}


def environment_facts(strategy) -> dict:
    """Versions, machine and devices, so that a figure can be placed later."""
    devices = tf.config.list_physical_devices("GPU")
    names = [tf.config.experimental.get_device_details(device).get("device_name", device.name) for device in devices]
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": ", ".join(names) if names else f"CPU ({platform.processor() or platform.machine()})",
        "num_replicas": strategy.num_replicas_in_sync,
        "num_workers": workers.count(strategy),
    }


class Monitor(keras.callbacks.Callback):
    """Writes TensorBoard events and results.json from a trainer's records.

    What cannot be written is noted, and training goes on.
    """

    def __init__(
        self,
        folder: RunFolder,
        trainer,
        *,
        facts: dict,
        is_clean: np.ndarray | None,
        failures: WriteFailures | None = None,
    ):
        """Takes what is to be told.

        Args:
            folder: An existing run folder.
            trainer: The `Trainer`.
            facts: JSON-able, go into results.json as they are (dataset, noise, flags, seed).
            is_clean: [N] bool, whether each training example's given label is its true one; None if unknown.
            failures: Where failures to write are noted; None takes a record of its own.
        """
        super().__init__()
        self.failures = failures or WriteFailures()
        self._folder = folder
        self._trainer = trainer
        self._facts = facts
        self._is_clean = is_clean
        self._writer = None
        self._open_writer()

    def results(self, *, finished: bool) -> dict:
        """The contents of results.json.

        Args:
            finished: Whether the run is done.
        """
        trainer = self._trainer
        gates = {name[len("gate/") :]: values for name, values in trainer.history.items() if name.startswith("gate/")}
        return {
            **self._facts,
            "finished": finished,
            "steps": trainer.step,
            "accuracy": accuracies(trainer.history),
            "open_rate_of_gates": {name: float(np.mean(values)) for name, values in gates.items()},
            "weights": weight_facts(trainer.example_weights, self._is_clean),
            "nonfinite_steps": len(trainer.nonfinite_steps),
            "seconds_per_step": trainer.seconds_per_step if np.isfinite(trainer.seconds_per_step) else None,
            "tracing_seconds": trainer.tracing_seconds if np.isfinite(trainer.tracing_seconds) else None,
            "environment": environment_facts(trainer.strategy),
            "history": trainer.history,
        }

    def on_train_batch_end(self, batch, logs=None):
        """Writes the newest call's means."""
        # Gates have a section of their own on TensorBoard's page, or they would bury the losses.
        scalars = self._trainer.call_scalars.items()
        self._write({name if name.startswith("gate/") else f"train/{name}": value for name, value in scalars})

    def on_epoch_end(self, epoch, logs=None):
        """Writes the epoch's accuracies and the weights' distributions, and renews results.json."""
        measured = {
            name.replace("_", "/", 1): values[-1]
            for name, values in self._trainer.history.items()
            if name not in self._trainer.method.scalar_names
        }
        self._write(measured)
        self._write_weights()
        with self.failures.noting("results.json"):
            self._folder.write_results(self.results(finished=False))
            if self._writer is None:  # and there is room again
                self._open_writer()

    def on_train_end(self, logs=None):
        """Flushes the events."""
        with self._events() as writer:
            writer.flush()

    def _open_writer(self) -> None:
        with self._noting_events():
            self._writer = tf.summary.create_file_writer(str(self._folder.tensorboard))

    def _noting_events(self):
        return self.failures.noting("TensorBoard events", can_be_made_up=False)

    @contextlib.contextmanager
    def _events(self):
        """The writer as default, at the trainer's step.

        After a failure its file is given up: it may end in half a record, behind which nobody could read on.
        """
        opened, self._writer = self._writer, None
        writer = opened or tf.summary.create_noop_writer()
        with self._noting_events():
            with writer.as_default(step=self._trainer.step):
                yield writer
            self._writer = opened

    def _write(self, scalars: dict[str, float]) -> None:
        with self._events():
            for name, value in scalars.items():
                tf.summary.scalar(name, value)

    def _write_weights(self) -> None:
        weights = self._trainer.example_weights
        if weights is None or not self._trainer.method.needs_meta_set:
            return
        seen = ~np.isnan(weights)
        groups = {"all": seen}
        if self._is_clean is not None:
            groups |= {"clean": seen & self._is_clean, "corrupted": seen & ~self._is_clean}
        with self._events():
            for name, rows in groups.items():
                if rows.any():
                    tf.summary.histogram(f"example_weights/{name}", weights[rows])
