"""Runs that are stopped and gone on with, for the tests of exact resume: one method, any strategy, tiny networks."""

import contextlib
import copy

import keras
import numpy as np
import tensorflow as tf

from famus_tf import registry
from famus_tf.runs.checkpoints import Checkpointer
from famus_tf.runs.monitor import accuracies
from famus_tf.trainer import Trainer
from tests.tiny_networks import conv_network, example_arrays

# Four steps an epoch, and two examples that each epoch leaves out.
NUM_TRAIN, BATCH_SIZE, NUM_EPOCHS = 34, 8, 3
# Not what depends on the clock, or on how often the loop was traced.
TIMES = ("timed_steps", "timed_seconds")


TRAIN, META, VALIDATION, TEST = (
    example_arrays(NUM_TRAIN, 0),
    example_arrays(12, 1),
    example_arrays(10, 2),
    example_arrays(10, 3),
)


class RecordedTrainer:
    """A trainer and every variable that was made for it, whether it knows of them or not."""

    def __init__(self, name, strategy=None, steps_per_call=2):
        settings = {"learning_rate": 0.1, "layer_block": 1, "momentum": 0.9, "num_random_layers": 2}
        if name.endswith(("famus", "random")):
            settings["gated_variables"] = 4
        strategy = strategy or tf.distribute.get_strategy()
        made = []

        def recording(next_creator, **arguments):
            made.append(next_creator(**arguments))
            return made[-1]

        with tf.variable_creator_scope(recording):
            with strategy.scope():
                model = conv_network(num_blocks=1, dropout=0.5, synchronized=strategy.num_replicas_in_sync > 1)
            self.trainer = Trainer(
                model, registry.make_method(name, **settings), steps_per_call=steps_per_call, strategy=strategy
            )
        # Requests to stop are flags, and no part of a run's state.
        self.variables = [variable for variable in made if variable.dtype != tf.bool]
        self.initial, self.fresh_host_state = self.values(), copy.deepcopy(self.trainer.host_state())

    def values(self):
        return [variable.numpy() for variable in self.variables]

    def fit(self, *callbacks, epochs=NUM_EPOCHS):
        return self.trainer.fit(
            TRAIN, META, validation_data=VALIDATION, test_data=TEST, epochs=epochs, batch_size=BATCH_SIZE,
            meta_batch_size=6, callbacks=callbacks, verbose=0,
        )  # fmt: skip

    def scramble(self):
        """Makes the trainer forget all it has learned, and worse."""
        for variable in self.variables:
            variable.assign(tf.cast(tf.fill(variable.shape, 77), variable.dtype))
        trainer = self.trainer
        lost = {"history": {"loss": [77.0]}, "steps_summed": 77, "timed_steps": 77, "timed_seconds": 77.0}
        lost |= {"awaits_evaluation": not self.trainer.awaits_evaluation, "steps_per_epoch": 77}
        lost["scalar_sums"] = [77.0] * len(trainer.method.scalar_names)
        weights = trainer.example_weights
        trainer.set_host_state(trainer.host_state() | lost)
        weights[:] = 77.0

    def restore(self, folder):
        checkpointer = Checkpointer(folder, self.trainer, interval_s=1e9)
        assert checkpointer.restore()
        return checkpointer

    def state(self):
        """All that must be the same after a restart: {name: value}."""
        trainer = self.trainer
        state = {f"variable {i} {v.shape}": v.numpy() for i, v in enumerate(self.variables)}
        state |= {name: value for name, value in trainer.host_state().items() if name not in TIMES}
        return state | {
            "step": trainer.step,
            "example_weights": trainer.example_weights,
            "epoch_scalars": trainer.epoch_scalars,
            "accuracies": accuracies(trainer.history),
        }


class SaveAt(keras.callbacks.Callback):
    """Saves at a step, in the middle of an epoch or behind its evaluation; and ends the training there if told to."""

    def __init__(self, checkpointer, trainer, step, *, stops=False):
        super().__init__()
        self.checkpointer, self.trainer, self.step, self.stops = checkpointer, trainer, step, stops

    def on_train_batch_end(self, batch, logs=None):
        if self.trainer.step == self.step and not self.trainer.awaits_evaluation:
            self._save()

    def on_epoch_end(self, epoch, logs=None):
        if self.trainer.step == self.step:
            self._save()

    def _save(self):
        self.checkpointer.save()
        self.model.stop_training |= self.stops


class StopRequestAt(keras.callbacks.Callback):
    """Asks for a stop, as a signal does, before the call that begins at a step."""

    def __init__(self, trainer, step):
        super().__init__()
        self.trainer, self.step = trainer, step

    def on_train_batch_begin(self, batch, logs=None):
        if self.trainer.step == self.step:
            self.trainer.request_stop()


def ask_within_evaluation(trainer, at_batch):
    """Asks for a stop, as a signal does, just before a batch of the next evaluations is measured."""
    evaluator = trainer._evaluator
    sums, measured = evaluator._sums, []

    def asking(batch):
        measured.append(batch)
        if len(measured) == at_batch:
            trainer.request_stop()
            evaluator._sums = sums
        return sums(batch)

    evaluator._sums = asking
    return measured


def differing(one, other):
    """The names of what two states do not share, bit for bit."""
    assert one.keys() == other.keys()
    names = []
    for name in one:
        with contextlib.suppress(AssertionError):
            np.testing.assert_equal(one[name], other[name])
            continue
        names.append(name)
    return names


def assert_restarts_change_nothing(name, folder, strategy=None):
    """An undisturbed run of twelve steps, and one that is restarted four times, at steps 2, 4, 8 and 9."""
    whole = RecordedTrainer(name, strategy)
    # In the middle of an epoch. The undisturbed run itself leaves this checkpoint, and what it does later is lost.
    whole.fit(SaveAt(Checkpointer(folder, whole.trainer, interval_s=1e9), whole.trainer, 2))
    assert (whole.trainer.step, whole.trainer.tracing_count) == (12, 1)
    assert np.isfinite(whole.trainer.history["loss"]).all()
    expected = whole.state()
    assert len(expected["history"]["val_accuracy"]) == NUM_EPOCHS
    # Nothing moved that is equal to what it was, so the comparison can fail.
    moved = [not np.array_equal(a, b) for a, b in zip(whole.initial, whole.values(), strict=True)]
    assert sum(moved) >= 10

    again = RecordedTrainer(name, strategy)
    checkpointer = again.restore(folder)
    assert again.trainer.step == 2
    # At an epoch's end, right behind its evaluation.
    again.fit(SaveAt(checkpointer, again.trainer, 4, stops=True))
    assert again.trainer.step == 4
    assert len(again.trainer.history["val_accuracy"]) == 1

    again.scramble()
    checkpointer = again.restore(folder)
    assert (again.trainer.step, again.trainer.awaits_evaluation) == (4, False)
    # At an epoch's end, in the middle of its evaluation: the validation set is measured, the test set is not.
    ask_within_evaluation(again.trainer, at_batch=2)
    again.fit(checkpointer)
    assert again.trainer.step == 8
    assert len(again.trainer.history["val_accuracy"]) == 1

    again.scramble()
    checkpointer = again.restore(folder)
    assert (again.trainer.step, again.trainer.awaits_evaluation) == (8, True)
    # By a request, which leaves the second step of a call undone.
    again.fit(StopRequestAt(again.trainer, 8), checkpointer)
    assert again.trainer.step == 9
    assert len(again.trainer.history["val_accuracy"]) == 2

    again.scramble()
    again.restore(folder)
    assert (again.trainer.step, again.trainer.awaits_evaluation) == (9, False)
    again.fit()
    assert differing(expected, again.state()) == []
