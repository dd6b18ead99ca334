"""Checkpoints: everything comes back, they are written when they should be, and only the newest two are kept."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from famus_tf import registry
from famus_tf.errors import InputError
from famus_tf.runs import checkpoints
from famus_tf.runs.checkpoints import Checkpointer
from famus_tf.trainer import Trainer
from tests.tiny_networks import IMAGE_SHAPE, NUM_CLASSES, batch, conv_network


class StandIn:
    """As much of a trainer as a checkpointer knows, with one variable and one fact on the host."""

    def __init__(self, step=0, num_variables=1):
        self.step = step
        self.awaits_evaluation = False
        self.facts = {"history": []}
        self.variables = {"model": [tf.Variable([0.0, 0.0]) for _ in range(num_variables)]}

    def host_state(self):
        return self.facts

    def set_host_state(self, state):
        self.facts = state


@pytest.fixture
def clock(monkeypatch):
    """The checkpointers' clock, moved by the test."""
    clock = types.SimpleNamespace(seconds=1000.0)
    clock.monotonic = lambda: clock.seconds
    monkeypatch.setattr(checkpoints, "time", clock)
    return clock


def saved_steps(folder):
    return sorted(int(path.stem.removeprefix("ckpt-")) for path in folder.glob("ckpt-*.index"))


# What comes back.


def make_trainer(name="mwnet_famus"):
    method = registry.make_method(name, **({"gated_variables": 4} if name.endswith("famus") else {}))
    return Trainer(conv_network(dropout=0.5), method)


def all_variables(trainer):
    """Gathered from their owners, not from what the trainer says is to be saved; the step counter is the last."""
    in_model = [variable.value for variable in trainer.model.variables]
    return [*in_model, *trainer.method.variables, *trainer.variables["loop"]]


@pytest.mark.parametrize("name", ["ce", "mwnet_famus", "mlc"])
def test_every_variable_and_the_host_state_come_back(tmp_path, name):
    random = np.random.default_rng(0)
    saved, restored = make_trainer(name), make_trainer(name)
    for variable in all_variables(saved):
        variable.assign(tf.cast(random.integers(1, 100, variable.shape), variable.dtype))
    state = {
        "history": {"loss": [0.1, 1 / 3], "val_accuracy": [0.5, 0.75]},
        "scalar_sums": random.normal(size=len(saved.method.scalar_names)).tolist(),
        "steps_summed": 3,
        "example_weights": np.float32([1.5, np.nan, 1 / 3]).tobytes().hex(),
        "timed_steps": 7,
        "timed_seconds": 1 / 7,
    }
    saved.set_host_state(state)
    expected = [variable.numpy() for variable in all_variables(saved)]
    Checkpointer(tmp_path, saved, interval_s=1e9).save()

    assert Checkpointer(tmp_path, restored, interval_s=1e9).restore()
    assert len(expected) == len(all_variables(restored))
    for variable, value in zip(all_variables(restored), expected, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value, err_msg=variable.name)
    assert restored.step == saved.step == expected[-1]
    assert restored.host_state() == state
    np.testing.assert_array_equal(restored.example_weights, np.float32([1.5, np.nan, 1 / 3]))
    assert restored.seconds_per_step == pytest.approx(1 / 49)


def test_a_method_without_weights_of_examples_comes_back_without(tmp_path):
    saved, restored = make_trainer("ce"), make_trainer("ce")
    Checkpointer(tmp_path, saved, interval_s=1e9).save()
    assert Checkpointer(tmp_path, restored, interval_s=1e9).restore()
    assert restored.example_weights is None


def test_the_newest_one_is_restored(tmp_path):
    trainer = StandIn()
    checkpointer = Checkpointer(tmp_path, trainer, interval_s=1e9)
    for trainer.step in (1, 2):
        trainer.facts = {"step": trainer.step}
        trainer.variables["model"][0].assign([trainer.step, -trainer.step])
        checkpointer.save()
    restored = StandIn()
    Checkpointer(tmp_path, restored, interval_s=1e9).restore()
    assert restored.facts == {"step": 2}
    np.testing.assert_array_equal(restored.variables["model"][0], [2.0, -2.0])


def test_without_a_checkpoint_nothing_is_restored_and_nothing_touched(tmp_path):
    trainer = StandIn()
    assert Checkpointer(tmp_path / "checkpoints", trainer, interval_s=1e9).restore() is False
    assert list(tmp_path.iterdir()) == []
    assert trainer.facts == {"history": []}


@pytest.mark.parametrize("num_variables", [1, 3])
def test_a_checkpoint_of_other_variables_is_refused(tmp_path, num_variables):
    Checkpointer(tmp_path, StandIn(step=4, num_variables=2), interval_s=1e9).save()
    other = Checkpointer(tmp_path, StandIn(num_variables=num_variables), interval_s=1e9)
    with pytest.raises(InputError, match=r"The checkpoint .*ckpt-4 cannot be restored \(.*\)\. Give another"):
        other.restore()


@pytest.mark.parametrize("part", ["ckpt-4.index", "ckpt-4.data-00000-of-00001"])
def test_a_damaged_checkpoint_is_refused(tmp_path, part):
    Checkpointer(tmp_path, StandIn(step=4), interval_s=1e9).save()
    (tmp_path / part).write_bytes((tmp_path / part).read_bytes()[:20])
    with pytest.raises(InputError, match="cannot be restored"):
        Checkpointer(tmp_path, StandIn(), interval_s=1e9).restore()


# When they are written.


def test_only_the_newest_two_are_kept(tmp_path):
    trainer = StandIn()
    checkpointer = Checkpointer(tmp_path, trainer, interval_s=1e9)
    for trainer.step in (3, 6, 20):
        checkpointer.save()
    assert saved_steps(tmp_path) == [6, 20]
    # A continued run goes on counting those of the run before.
    continued = StandIn()
    checkpointer = Checkpointer(tmp_path, continued, interval_s=1e9)
    checkpointer.restore()
    continued.step = 21
    checkpointer.save()
    assert saved_steps(tmp_path) == [20, 21]


def test_the_interval_is_respected(tmp_path, clock):
    trainer = StandIn()
    checkpointer = Checkpointer(tmp_path, trainer, interval_s=60.0)
    saved = []
    for seconds, step in [(0, 1), (59, 2), (60, 3), (61, 4), (119, 5), (121, 6), (500, 7), (559, 8)]:
        clock.seconds, trainer.step = 1000.0 + seconds, step
        checkpointer.on_train_batch_end(step)
        saved.append(max(saved_steps(tmp_path), default=0))
    # Due at 60, then at 60 + 60 and, saved at 121, not before 181.
    assert saved == [0, 0, 3, 3, 3, 6, 7, 7]


def test_between_an_epochs_last_step_and_its_evaluation_nothing_is_saved(tmp_path, clock):
    trainer = StandIn(step=5)
    checkpointer = Checkpointer(tmp_path, trainer, interval_s=60.0)
    clock.seconds += 100.0
    trainer.awaits_evaluation = True
    checkpointer.on_train_batch_end(4)
    assert saved_steps(tmp_path) == []
    trainer.awaits_evaluation = False
    checkpointer.on_epoch_end(0)
    assert saved_steps(tmp_path) == [5]


def test_an_epochs_end_before_the_time_saves_nothing(tmp_path, clock):
    checkpointer = Checkpointer(tmp_path, StandIn(step=5), interval_s=60.0)
    clock.seconds += 59.0
    checkpointer.on_epoch_end(0)
    assert saved_steps(tmp_path) == []


def test_the_end_of_training_saves_unless_that_step_is_saved(tmp_path):
    trainer = StandIn(step=5)
    checkpointer = Checkpointer(tmp_path, trainer, interval_s=1e9)
    checkpointer.on_train_end()
    assert saved_steps(tmp_path) == [5]
    written = (tmp_path / "ckpt-5.index").stat().st_mtime_ns
    checkpointer.on_train_end()
    trainer.step = 6
    checkpointer.on_train_end()
    assert saved_steps(tmp_path) == [5, 6]
    assert (tmp_path / "ckpt-5.index").stat().st_mtime_ns == written


def test_a_restored_step_is_a_saved_step(tmp_path):
    Checkpointer(tmp_path, StandIn(step=5), interval_s=1e9).save()
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    trainer = StandIn(step=5)
    checkpointer = Checkpointer(tmp_path, trainer, interval_s=1e9)
    checkpointer.restore()
    checkpointer.on_train_end()
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_during_a_fit_every_checkpoint_holds_the_evaluations_of_the_epochs_before(tmp_path):
    model = keras.Sequential([keras.Input(IMAGE_SHAPE), keras.layers.Flatten(), keras.layers.Dense(NUM_CLASSES)])
    trainer = Trainer(model, registry.make_method("ce"), steps_per_call=1)
    checkpointer = Checkpointer(tmp_path, trainer, interval_s=1e-9)
    saved, save = [], checkpointer.save

    def noting():
        state = trainer.host_state()
        saved.append((trainer.step, state["steps_summed"], len(state["history"].get("val_accuracy", []))))
        save()

    checkpointer.save = noting
    drawn = batch(6, seed=0)
    data = drawn["image"].numpy(), drawn["label"].numpy()
    trainer.fit(data, validation_data=data, batch_size=2, train_steps=5, callbacks=[checkpointer], verbose=0)
    # Three steps an epoch: after step 3 and after step 5, the last, the evaluation is part of it.
    assert saved == [(1, 1, 0), (2, 2, 0), (3, 3, 1), (4, 1, 1), (5, 2, 2)]
    assert saved_steps(tmp_path) == [4, 5]
