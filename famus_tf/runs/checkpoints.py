"""Whole-state checkpoints: everything a later step reads, saved together, the newest two kept.

A checkpoint is two files, `ckpt-STEP.data-...` and `ckpt-STEP.index`. Both are written in a folder of their own,
brought to disk and then renamed, the index last: where an index stands, the checkpoint was complete, whatever killed
the writer. There is no list of checkpoints beside them that could be lost or out of date.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import time

import keras
import tensorflow as tf
from absl import logging

from famus_tf.errors import InputError
from famus_tf.runs.write_failures import WriteFailures, reason_of

NUM_KEPT = 2
# What a writer that was killed leaves behind: our own folder; TensorFlow's, and its list of checkpoints, of older runs.
LITTER = ("saving-*", "ckpt-*_temp*", "ckpt-*.tempstate*", "checkpoint", "checkpoint.tmp*")


class HostState(tf.train.experimental.PythonState):
    """A JSON-able dictionary that is saved inside the checkpoint, beside the variables."""

    def __init__(self):
        """Starts empty."""
        self.values = {}

    def serialize(self):
        """To JSON text."""
        return json.dumps(self.values)

    def deserialize(self, string_value):
        """From JSON text."""
        self.values = json.loads(string_value)


class Checkpointer(keras.callbacks.Callback):
    """Saves a trainer now and then during training, and restores it.

    Saved are explicit lists of variables, not objects: Keras' own tracking leaves out the seeds of dropout layers. The
    step counter and the computed order of examples make the data's position part of it.

    A checkpoint that cannot be written during training is noted, and training goes on; those before it stay.
    """

    def __init__(self, directory, trainer, *, interval_s: float, failures: WriteFailures | None = None):
        """Looks at the folder without touching it.

        Args:
            directory: Where the checkpoints lie.
            trainer: A `Trainer`.
            interval_s: Seconds between checkpoints, at least; one more is written when training ends.
            failures: Where failures to write during training are noted; None takes a record of its own.
        """
        super().__init__()
        self.failures = failures or WriteFailures()
        self._directory = pathlib.Path(directory)
        self._trainer = trainer
        self._interval_s = interval_s
        self._host_state = HostState()
        self._checkpoint = tf.train.Checkpoint(host=self._host_state, **trainer.variables)
        # TensorFlow makes its own counter when it is first asked for; it must be there before the first write and read.
        self._checkpoint.save_counter  # noqa: B018
        self._saved_at = time.monotonic()
        self._saved_position = None

    def save(self) -> None:
        """Writes a checkpoint; a reader sees it whole or not at all.

        Raises:
            OSError: If it cannot be written (or an error of TensorFlow's); nothing of it is left then.
        """
        step = self._trainer.step
        self._host_state.values = self._trainer.host_state()
        staging = self._directory / f"saving-{step}"
        staging.mkdir(parents=True, exist_ok=True)
        try:
            self._checkpoint.write(str(staging / f"ckpt-{step}"))
            self._commit(staging, step)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        self._saved_at = time.monotonic()
        self._saved_position = self._position(self._host_state.values)
        for old_step in self._steps()[NUM_KEPT:]:
            self._remove(old_step)

    def restore(self) -> bool:
        """Restores the newest checkpoint that is whole, every variable of it, into the trainer.

        Checkpoints are read through, against their checksums, before anything is assigned. Damaged ones are told of
        and removed: the run makes them again. So is what a killed writer left.

        Returns:
            Whether there was one.

        Raises:
            InputError: If all are damaged, or the newest whole one holds other variables than the trainer has; the
                trainer must not be used then.
        """
        steps, damages = self._steps(), self._incomplete()
        whole = None
        for step in steps:
            reason = damage(self._prefix(step))
            if reason is None:
                whole = step
                break
            damages[step] = reason
        if whole is not None:
            self._assign_from(whole)
            self._say({step: why for step, why in damages.items() if step > whole}, whole)
        elif steps:
            reasons = "; ".join(f"step {step}: {damages[step]}" for step in steps)
            raise InputError(
                f"All checkpoints in {self._directory}/ are damaged ({reasons}). Give another --model_dir, or remove"
                " that folder to train anew."
            )
        for step in damages:
            self._remove(step)
        self._remove_litter()
        return whole is not None

    def restore_step(self, step: int) -> None:
        """Restores the checkpoint of a step, which another worker has found whole.

        Args:
            step: Of the checkpoint.

        Raises:
            InputError: If it is not there, is damaged, or holds other variables than the trainer has.
        """
        reason = damage(self._prefix(step))
        if reason is not None:
            raise InputError(
                f"The checkpoint {self._prefix(step)}, with which another worker goes on, cannot be read here"
                f" ({reason}). --model_dir must lie in a file system that all workers share."
            )
        self._assign_from(step)

    def on_train_batch_end(self, batch, logs=None):
        """Saves if it is time."""
        self._save_if_due()

    def on_epoch_end(self, epoch, logs=None):
        """Saves if it is time."""
        self._save_if_due()

    def on_train_end(self, logs=None):
        """Saves, unless this very state is saved."""
        if self._saved_position != self._position(self._trainer.host_state()):
            self._save_or_note()

    def _save_if_due(self):
        if time.monotonic() - self._saved_at >= self._interval_s:
            self._save_or_note()

    def _save_or_note(self):
        with self.failures.noting("a checkpoint"):
            # Before the attempt, so that a full disk is not tried again after every call.
            self._saved_at = time.monotonic()
            self.save()

    def _position(self, host_state: dict) -> tuple[int, bool, list[int]]:
        """Where training stands: an epoch's last step comes before its evaluation and once more behind it.

        The steps to leave out belong to it: whoever goes back to a checkpoint stands at the same step and knows more.
        """
        return self._trainer.step, self._trainer.awaits_evaluation, host_state.get("steps_left_out", [])

    def _prefix(self, step: int) -> str:
        return str(self._directory / f"ckpt-{step}")

    def _steps(self, pattern: str = "ckpt-*.index") -> list[int]:
        """The steps of the files of a pattern, newest first."""
        found = (re.match(r"ckpt-(\d+)\.", path.name) for path in self._directory.glob(pattern))
        return sorted({int(match[1]) for match in found if match}, reverse=True)

    def _commit(self, staging: pathlib.Path, step: int) -> None:
        """Gives a written checkpoint its name."""
        written = sorted(staging.glob(f"ckpt-{step}.*"), key=lambda path: path.suffix == ".index")
        for path in written:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        self._remove(step)
        for path in written:
            os.replace(path, self._directory / path.name)

    def _incomplete(self) -> dict[int, str]:
        """{step: what is wrong} of data without an index, as a killed writer leaves them."""
        steps = self._steps()
        return {step: "its index is missing" for step in self._steps("ckpt-*.data-*") if step not in steps}

    def _assign_from(self, step: int) -> None:
        """Restores one checkpoint that is whole."""
        try:
            self._checkpoint.read(self._prefix(step)).assert_consumed()
            self._trainer.set_host_state(self._host_state.values)
        except (AssertionError, LookupError, TypeError, ValueError, tf.errors.OpError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"The checkpoint {self._prefix(step)} cannot be restored ({reason}). Give another --model_dir, or"
                f" remove {self._directory}/ to train anew."
            ) from error
        self._saved_at = time.monotonic()
        # As the checkpoint has it: the trainer still knows the steps to leave out that it has met since.
        self._saved_position = self._position(self._host_state.values)

    def _say(self, damages: dict[int, str], used_step: int) -> None:
        """One warning, however many there are; as an error, since warnings are not shown on the command line."""
        if damages:
            newest = max(damages)
            logging.error(
                "The newest checkpoint, of step %d, is damaged (%s). The one of step %d is used; the steps in between"
                " are done again, with the same result.",
                newest, damages[newest], used_step,
            )  # fmt: skip

    def _remove(self, step: int) -> None:
        """Removes a checkpoint, the index first: what is left half-way counts as none."""
        parts = sorted(self._directory.glob(f"ckpt-{step}.*"), key=lambda path: path.suffix != ".index")
        for path in parts:
            with contextlib.suppress(OSError):
                path.unlink()

    def _remove_litter(self) -> None:
        for pattern in LITTER:
            for path in self._directory.glob(pattern):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    with contextlib.suppress(OSError):
                        path.unlink()


def damage(prefix: str) -> str | None:
    """Reads a checkpoint through, against its checksums.

    Args:
        prefix: Its path without the endings.

    Returns:
        What is wrong with it, in one line; None if it is whole.
    """
    try:
        reader = tf.train.load_checkpoint(prefix)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except (OSError, LookupError, RuntimeError, ValueError, tf.errors.OpError) as error:
        return reason_of(error)
    return None
