"""Signals: heard while the main thread is at work in C, acted on once, and the process ends at the second."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from famus_tf.runs.checkpoints import Checkpointer
from famus_tf.runs.interruption import SIGNALS, StopOnSignals, telling
from tests.restarts import META, TRAIN, RecordedTrainer


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_a_request_and_the_former_handlers_come_back(number):
    before, asked = handlers(), threading.Event()
    with StopOnSignals(asked.set) as signals:
        assert signals.received is None
        os.kill(os.getpid(), number)
        assert asked.wait(10)
        assert signals.received == number
    assert handlers() == before
    assert signal.set_wakeup_fd(-1) == -1


def test_without_a_signal_nothing_is_asked_for():
    asked = threading.Event()
    with StopOnSignals(asked.set) as signals:
        pass
    assert signals.received is None and not asked.is_set()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def test_a_signal_is_heard_while_the_main_thread_runs_in_c():
    heard_at = []
    with StopOnSignals(lambda: heard_at.append(time.monotonic())):
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        begun = time.monotonic()
        rounds = 2_000_000
        while not heard_at or time.monotonic() < begun + 0.3:
            hashlib.pbkdf2_hmac("sha256", b"", b"", rounds)  # seconds in one call, without a step of Python's
            ended = time.monotonic()
    assert heard_at[0] < ended - 0.2


def test_the_echo_of_a_signal_is_the_same_wish():
    asked = []
    with StopOnSignals(lambda: asked.append(1)):
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
    assert asked == [1]


def test_where_the_program_ends_late_signals_are_ignored():
    with StopOnSignals(lambda: None, ends_the_program=True):
        pass
    assert handlers() == [signal.SIG_IGN] * 2
    os.kill(os.getpid(), signal.SIGTERM)


def test_only_the_chosen_signals_are_heard():
    before, asked = handlers(), threading.Event()
    with StopOnSignals(asked.set, signals=(signal.SIGTERM,)):
        assert signal.getsignal(signal.SIGINT) is before[1]
        with StopOnSignals(lambda: None):
            assert signal.getsignal(signal.SIGINT) is not before[1]
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.wait(10)
    assert handlers() == before


def test_a_request_is_told(capfd):
    asked = []
    telling(lambda: asked.append(1))()
    assert asked == [1]
    assert capfd.readouterr().err == "\nStopping after this step, with a checkpoint. A second signal ends it at once.\n"


# The body of a `with`: a single call that takes minutes.
BUSY_IN_C = "    print('ready', flush=True)\n    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"


def started(script):
    """A process of a script that says when it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def test_sigterm_before_training_ends_the_process_with_run_me_again_even_in_c():
    script = (
        "import hashlib, signal\n"
        "from famus_tf import entry_point\n"
        "from famus_tf.runs.interruption import StopOnSignals\n"
        "with StopOnSignals(entry_point.leaving_before_training(), signals=(signal.SIGTERM,)):\n" + BUSY_IN_C
    )
    process = started(script)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 75
    assert said == "\nStopped before training: there is nothing to save. Run the same command again.\n"


def test_other_signals_are_not_heard_and_ignored_ones_stay_ignored():
    former = signal.signal(signal.SIGINT, signal.SIG_IGN), signal.signal(signal.SIGUSR1, lambda *_: None)
    asked = threading.Event()
    try:
        with StopOnSignals(asked.set):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGUSR1)
            assert not asked.wait(0.2)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, former[0])
        signal.signal(signal.SIGUSR1, former[1])


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_the_process_at_once_even_in_c(number):
    script = (
        "import hashlib\n"
        "from famus_tf.runs.interruption import StopOnSignals\n"
        "with StopOnSignals(lambda: print('asked', flush=True)):\n" + BUSY_IN_C
    )
    process = started(script)
    process.send_signal(number)
    assert process.stdout.readline() == "asked\n"
    time.sleep(1.2)
    assert process.poll() is None
    process.send_signal(number)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert said == "\nStopped at once. The same command again goes on from the newest checkpoint.\n"


NUM_STEPS = 10**5


def fit(trainer, *callbacks, train_steps=NUM_STEPS):
    """One epoch of 100,000 steps, which is one call of the compiled loop and would take minutes."""
    train, meta = (tf.data.Dataset.from_tensor_slices(data).batch(6).repeat() for data in (TRAIN, META))
    trainer.fit(
        train, meta, batch_size=6, meta_batch_size=6, steps_per_epoch=NUM_STEPS, train_steps=train_steps,
        callbacks=callbacks, verbose=0,
    )  # fmt: skip


def test_a_signal_ends_a_long_call_within_a_step_and_the_state_is_that_steps(tmp_path):
    stopped, whole = (RecordedTrainer("ce", steps_per_call=NUM_STEPS) for _ in range(2))
    fit(stopped.trainer, train_steps=1)  # traced
    checkpointer = Checkpointer(tmp_path, stopped.trainer, interval_s=1e9)
    asked_at = []

    def request_stop():
        asked_at.append(time.monotonic())
        stopped.trainer.request_stop()

    with StopOnSignals(request_stop):
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
        fit(stopped.trainer, checkpointer)
    assert time.monotonic() - asked_at[0] < 5.0
    step = stopped.trainer.step
    assert 1 < step < NUM_STEPS
    assert (tmp_path / f"ckpt-{step}.index").exists()
    assert stopped.trainer.tracing_count == 1

    fit(whole.trainer, train_steps=1)
    fit(whole.trainer, train_steps=step)
    for one, other in zip(whole.values(), stopped.values(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert whole.trainer.epoch_scalars == stopped.trainer.epoch_scalars


def test_a_request_is_met_once_and_the_next_fit_goes_on():
    trainer = RecordedTrainer("ce", steps_per_call=NUM_STEPS).trainer
    trainer.request_stop()
    fit(trainer)
    assert trainer.step == 1
    fit(trainer, train_steps=40)
    assert trainer.step == 40
