"""One checkpoint for all workers: the chief's choice, or none."""

import pytest
import tensorflow as tf

from famus_tf import workers
from famus_tf.errors import InputError
from famus_tf.runs import shared_restore
from famus_tf.runs.checkpoints import Checkpointer


class StandIn:
    """As much of a trainer as a checkpointer knows."""

    def __init__(self, step=0):
        self.step = step
        self.awaits_evaluation = False
        self.strategy = tf.distribute.get_strategy()
        self.variables = {"model": [tf.Variable([float(step)])]}

    def host_state(self):
        return {"step": self.step}

    def set_host_state(self, state):
        self.step = state["step"]


@pytest.fixture
def folder_with_steps_3_and_5(tmp_path):
    for step in (3, 5):
        Checkpointer(tmp_path, StandIn(step), interval_s=1e9).save()
    return tmp_path


def as_worker(monkeypatch, index, chiefs_step, num_failed_elsewhere=0):
    """Plays the other of two workers."""
    monkeypatch.setattr(workers, "count", lambda strategy: 2)
    monkeypatch.setattr(workers, "is_chief", lambda strategy: index == 0)
    asked = []
    monkeypatch.setattr(workers, "chiefs", lambda step, strategy: asked.append(step) or chiefs_step(step))
    monkeypatch.setattr(
        workers, "total", lambda number, strategy: asked.append(number) or number + num_failed_elsewhere
    )
    return asked


def restored(folder):
    trainer = StandIn()
    found = shared_restore.restore(Checkpointer(folder, trainer, interval_s=1e9), trainer)
    return found, trainer.step, float(trainer.variables["model"][0][0])


def test_a_worker_takes_the_chiefs_checkpoint_even_where_it_sees_a_newer_one(monkeypatch, folder_with_steps_3_and_5):
    asked = as_worker(monkeypatch, 1, lambda step: 3)
    assert restored(folder_with_steps_3_and_5) == (True, 3, 3.0)
    assert asked == [shared_restore.NOTHING, 0]


def test_the_chief_takes_the_newest_and_says_which(monkeypatch, folder_with_steps_3_and_5):
    asked = as_worker(monkeypatch, 0, lambda step: step)
    assert restored(folder_with_steps_3_and_5) == (True, 5, 5.0)
    assert asked == [5, 0]


def test_a_worker_restores_nothing_where_the_chief_has_nothing(monkeypatch, folder_with_steps_3_and_5):
    as_worker(monkeypatch, 1, lambda step: shared_restore.NOTHING)
    assert restored(folder_with_steps_3_and_5) == (False, 0, 0.0)


def test_a_worker_that_does_not_see_the_chiefs_checkpoint_says_so(monkeypatch, tmp_path):
    asked = as_worker(monkeypatch, 1, lambda step: 5)
    with pytest.raises(InputError, match="ckpt-5, with which another worker goes on, cannot be read here"):
        restored(tmp_path)
    assert asked == [shared_restore.NOTHING, 1]


def test_the_chief_ends_too_when_a_worker_cannot_restore(monkeypatch, folder_with_steps_3_and_5):
    as_worker(monkeypatch, 0, lambda step: step, num_failed_elsewhere=1)
    with pytest.raises(InputError, match="1 of the 2 workers cannot restore"):
        restored(folder_with_steps_3_and_5)
