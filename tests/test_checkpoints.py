"""Checkpoints: everything comes back, they are written when they should be, and only the newest two are kept."""

import os
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
        "awaits_evaluation": True,
        "steps_per_epoch": 4,
        "scalar_sums": random.normal(size=len(saved.method.scalar_names)).tolist(),
        "steps_summed": 3,
        "example_weights": np.float32([1.5, np.nan, 1 / 3]).tobytes().hex(),
        "timed_steps": 7,
        "timed_seconds": 1 / 7,
        "bad_rows": [0, 2],
        "steps_left_out": [1],
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


def test_a_checkpoint_from_before_the_newer_facts_is_restored(tmp_path):
    saved, restored = make_trainer("ce"), make_trainer("ce")
    older, full = {"history": {"loss": [0.5]}}, saved.host_state()
    newer = ("history", "awaits_evaluation", "steps_per_epoch", "bad_rows", "steps_left_out")
    older |= {name: value for name, value in full.items() if name not in newer}
    saved.host_state = lambda: older
    Checkpointer(tmp_path, saved, interval_s=1e9).save()
    restored.awaits_evaluation = True
    assert Checkpointer(tmp_path, restored, interval_s=1e9).restore()
    assert restored.host_state() == full | {"history": {"loss": [0.5]}}


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


def test_facts_of_a_shape_nobody_knows_are_refused(tmp_path):
    class Newer(StandIn):
        def set_host_state(self, state):
            raise KeyError("weights")

    Checkpointer(tmp_path, StandIn(step=4), interval_s=1e9).save()
    with pytest.raises(InputError, match="cannot be restored"):
        Checkpointer(tmp_path, Newer(), interval_s=1e9).restore()


# Damage.


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path):
    path.write_bytes(b"")


def zeroed(path):
    path.write_bytes(bytes(path.stat().st_size))


def one_bit_changed(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "data truncated": lambda folder: truncated(data_of(folder, 8)),
    "data empty": lambda folder: emptied(data_of(folder, 8)),
    "data zeroed": lambda folder: zeroed(data_of(folder, 8)),
    "data missing": lambda folder: data_of(folder, 8).unlink(),
    "a bit of the first value": lambda folder: one_bit_changed(data_of(folder, 8), 0),
    "a bit of the last value": lambda folder: one_bit_changed(data_of(folder, 8), -1),
    "index truncated": lambda folder: truncated(folder / "ckpt-8.index"),
    "index empty": lambda folder: emptied(folder / "ckpt-8.index"),
    "index zeroed": lambda folder: zeroed(folder / "ckpt-8.index"),
    "a bit of the index": lambda folder: one_bit_changed(folder / "ckpt-8.index", 10),
    "index missing": lambda folder: (folder / "ckpt-8.index").unlink(),
}


def data_of(folder, step):
    return folder / f"ckpt-{step}.data-00000-of-00001"


def save_steps(folder, *steps):
    trainer = StandIn()
    checkpointer = Checkpointer(folder, trainer, interval_s=1e9)
    for trainer.step in steps:
        trainer.facts = {"step": trainer.step}
        trainer.variables["model"][0].assign([trainer.step, -trainer.step])
        checkpointer.save()


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_newest_checkpoint_is_told_of_once_and_the_one_before_is_used(tmp_path, kind, caplog):
    save_steps(tmp_path, 4, 8)
    DAMAGES[kind](tmp_path)
    restored = StandIn()
    assert Checkpointer(tmp_path, restored, interval_s=1e9).restore()
    assert restored.facts == {"step": 4}
    np.testing.assert_array_equal(restored.variables["model"][0], [4.0, -4.0])
    (record,) = caplog.records
    assert record.getMessage().startswith("The newest checkpoint, of step 8, is damaged (")
    assert "The one of step 4 is used" in record.getMessage()
    # It was in the way of the next of the same step, and of the count.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ckpt-4.data-00000-of-00001", "ckpt-4.index"]


@pytest.mark.parametrize("kind", [kind for kind in DAMAGES if kind != "index missing"])
def test_where_all_are_damaged_the_folder_is_named_and_nothing_restored_or_removed(tmp_path, kind, caplog):
    save_steps(tmp_path, 4, 8)
    truncated(data_of(tmp_path, 4))
    DAMAGES[kind](tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    trainer = StandIn()
    with pytest.raises(InputError, match=rf"All checkpoints in {tmp_path}/ are damaged \(step 8: .*; step 4: "):
        Checkpointer(tmp_path, trainer, interval_s=1e9).restore()
    assert trainer.facts == {"history": []}
    np.testing.assert_array_equal(trainer.variables["model"][0], [0.0, 0.0])
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert caplog.records == []


def test_a_first_checkpoint_that_was_never_completed_counts_as_none(tmp_path, caplog):
    save_steps(tmp_path, 4)
    (tmp_path / "ckpt-4.index").unlink()
    assert Checkpointer(tmp_path, StandIn(), interval_s=1e9).restore() is False
    assert list(tmp_path.iterdir()) == []
    assert caplog.records == []


@pytest.mark.parametrize("content", ["", "garbage {", 'model_checkpoint_path: "ckpt-4"'])
def test_a_list_of_checkpoints_in_whatever_state_plays_no_part(tmp_path, content):
    save_steps(tmp_path, 4, 8)
    assert not (tmp_path / "checkpoint").exists()
    (tmp_path / "checkpoint").write_text(content)
    restored = StandIn()
    assert Checkpointer(tmp_path, restored, interval_s=1e9).restore()
    assert restored.facts == {"step": 8}
    assert not (tmp_path / "checkpoint").exists()


def test_checkpoints_that_tensorflows_manager_made_are_restored(tmp_path):
    trainer, host = StandIn(), checkpoints.HostState()
    host.values = {"step": 7}
    trainer.variables["model"][0].assign([7.0, 8.0])
    checkpoint = tf.train.Checkpoint(host=host, **trainer.variables)
    tf.train.CheckpointManager(checkpoint, str(tmp_path), max_to_keep=2).save(checkpoint_number=7)
    restored = StandIn()
    assert Checkpointer(tmp_path, restored, interval_s=1e9).restore()
    assert restored.facts == {"step": 7}
    np.testing.assert_array_equal(restored.variables["model"][0], [7.0, 8.0])


def test_litter_of_a_killed_writer_is_removed_and_nothing_else(tmp_path):
    save_steps(tmp_path, 4, 8)
    kept = {path.name for path in tmp_path.iterdir()}
    for folder in ("saving-9", "ckpt-9_temp"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "part-00000-of-00001.index").touch()
    litter = ("checkpoint.tmp3f", "ckpt-9.data-00000-of-00001", "ckpt-3.data-00000-of-00001", "ckpt-9.index.tempstate1")
    for name in (*litter, "my_notes.txt"):
        (tmp_path / name).touch()
    assert Checkpointer(tmp_path, StandIn(), interval_s=1e9).restore()
    assert {path.name for path in tmp_path.iterdir()} == kept | {"my_notes.txt"}


@pytest.mark.parametrize("renamed", [0, 1])
def test_a_writer_stopped_between_two_renames_leaves_the_one_before(tmp_path, renamed, monkeypatch):
    save_steps(tmp_path, 4)
    done, replace = [], os.replace

    class Killed(BaseException):
        pass

    def replacing(source, target):
        if len(done) == renamed:
            raise Killed
        done.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", replacing)
    with pytest.raises(Killed):
        save_steps(tmp_path, 8)
    monkeypatch.undo()
    assert saved_steps(tmp_path) == [4]
    restored = StandIn()
    assert Checkpointer(tmp_path, restored, interval_s=1e9).restore()
    assert restored.facts == {"step": 4}


# When they cannot be written.


def test_a_checkpoint_that_cannot_be_written_is_told_of_once_and_training_goes_on(tmp_path, clock, caplog):
    trainer, folder = StandIn(), tmp_path / "checkpoints"
    checkpointer = Checkpointer(folder, trainer, interval_s=60.0)
    folder.write_text("a file where the folder should be")
    for seconds, trainer.step in [(60, 3), (119, 4), (120, 5), (180, 6)]:
        clock.seconds = 1000.0 + seconds
        checkpointer.on_train_batch_end(trainer.step)
    checkpointer.on_train_end()
    (record,) = caplog.records
    said = "Could not write a checkpoint: Not a directory. Training goes on. Make room, or mend the disk."
    assert record.getMessage() == said
    assert checkpointer.failures.missing == {"a checkpoint": "Not a directory"}
    # Asked for by hand it is an error.
    with pytest.raises(OSError, match="Not a directory"):
        checkpointer.save()
    # There is room again.
    folder.unlink()
    checkpointer.on_train_end()
    assert saved_steps(folder) == [6]
    assert checkpointer.failures.missing == {}


def test_a_failed_attempt_is_repeated_after_the_interval_and_not_before(tmp_path, clock, monkeypatch):
    checkpointer = Checkpointer(tmp_path, StandIn(step=5), interval_s=60.0)
    tried = []

    def failing():
        tried.append(clock.seconds - 1000.0)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpointer, "save", failing)
    for seconds in (60, 61, 119, 120, 150):
        clock.seconds = 1000.0 + seconds
        checkpointer.on_train_batch_end(5)
    assert tried == [60, 120]


def test_a_failed_write_leaves_the_checkpoints_before_and_nothing_of_its_own(tmp_path, monkeypatch):
    save_steps(tmp_path, 4, 8)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_steps(tmp_path, 12)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


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


def test_a_step_is_saved_again_once_its_evaluation_is_done(tmp_path, clock):
    trainer = StandIn(step=5)
    checkpointer = Checkpointer(tmp_path, trainer, interval_s=60.0)
    clock.seconds += 100.0
    trainer.awaits_evaluation, trainer.facts = True, {"history": []}
    checkpointer.on_train_batch_end(4)
    trainer.facts = {"history": [0.5]}
    checkpointer.on_train_end()
    assert Checkpointer(tmp_path, trainer, interval_s=60.0).restore() and trainer.facts == {"history": []}
    trainer.awaits_evaluation, trainer.facts = False, {"history": [0.5]}
    checkpointer.on_train_end()
    assert Checkpointer(tmp_path, trainer, interval_s=60.0).restore() and trainer.facts == {"history": [0.5]}
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


def test_a_step_is_saved_again_once_more_steps_are_to_be_left_out(tmp_path):
    trainer = StandIn(step=5)
    trainer.facts = {"steps_left_out": [2]}
    checkpointer = Checkpointer(tmp_path, trainer, interval_s=1e9)
    checkpointer.save()
    # What goes back keeps what it has learned since.
    trainer.set_host_state = lambda state: trainer.facts.update(steps_left_out=[2, 7])
    checkpointer.restore()
    checkpointer.on_train_end()
    restored = StandIn(step=5)
    Checkpointer(tmp_path, restored, interval_s=1e9).restore()
    assert restored.facts == {"steps_left_out": [2, 7]}


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
    # Three steps an epoch: step 3, and step 5, the last, are saved before their evaluation and behind it.
    assert saved == [(1, 1, 0), (2, 2, 0), (3, 3, 0), (3, 3, 1), (4, 1, 1), (5, 2, 1), (5, 2, 2)]
    assert saved_steps(tmp_path) == [4, 5]
