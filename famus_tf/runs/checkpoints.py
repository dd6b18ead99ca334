"""Whole-state checkpoints: everything a later step reads, saved together, the newest two kept."""

import json
import pathlib
import time

import keras
import tensorflow as tf

from famus_tf.errors import InputError


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
    """

    def __init__(self, directory, trainer, *, interval_s: float):
        """Looks at the folder without touching it.

        Args:
            directory: Where the checkpoints lie.
            trainer: A `Trainer`.
            interval_s: Seconds between checkpoints, at least; one more is written when training ends.
        """
        super().__init__()
        self._trainer = trainer
        self._interval_s = interval_s
        self._host_state = HostState()
        self._checkpoint = tf.train.Checkpoint(host=self._host_state, **trainer.variables)
        self._manager = tf.train.CheckpointManager(self._checkpoint, str(pathlib.Path(directory)), max_to_keep=2)
        self._saved_at = time.monotonic()
        self._saved_step = None

    def save(self) -> None:
        """Writes a checkpoint; a reader sees it whole or not at all."""
        self._host_state.values = self._trainer.host_state()
        self._manager.save(checkpoint_number=self._trainer.step)
        self._saved_at = time.monotonic()
        self._saved_step = self._trainer.step

    def restore(self) -> bool:
        """Restores the newest checkpoint, every variable of it, into the trainer.

        Returns:
            Whether there was one.

        Raises:
            InputError: If it is damaged, or holds other variables than the trainer has.
        """
        newest = self._manager.latest_checkpoint
        if newest is None:
            return False
        try:
            self._checkpoint.restore(newest).assert_consumed()
        except (AssertionError, LookupError, ValueError, tf.errors.OpError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"The checkpoint {newest} cannot be restored ({reason}). Give another --model_dir, or remove"
                f" {self._manager.directory} to train anew."
            ) from error
        self._trainer.set_host_state(self._host_state.values)
        self._saved_step = self._trainer.step
        return True

    def on_train_batch_end(self, batch, logs=None):
        """Saves if it is time; not between an epoch's last step and its evaluation, which would be lost."""
        if not self._trainer.awaits_evaluation:
            self._save_if_due()

    def on_epoch_end(self, epoch, logs=None):
        """Saves if it is time."""
        self._save_if_due()

    def on_train_end(self, logs=None):
        """Saves, unless this very step is saved."""
        if self._saved_step != self._trainer.step:
            self.save()

    def _save_if_due(self):
        if time.monotonic() - self._saved_at >= self._interval_s:
            self.save()
