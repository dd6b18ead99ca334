"""Whole runs, killed, signalled and robbed of their disk: the same command again, and the same result as without."""

import os
import resource
import shutil
import signal
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from famus_tf.runs.checkpoints import HostState
from tools import chaos

# Plain training: what the checkpoint holds, test_exact_resume.py asks for every method.
RUN = (
    "--dataset=digits", "--method=ce", "--num_train=100", "--batch_size=10", "--num_meta=10", "--num_validation=20",
    "--meta_batch_size=10", "--epochs=10", "--steps_per_call=2", "--checkpoint_interval_s=1e-6",
)  # fmt: skip


@pytest.fixture(scope="module")
def launcher():
    return chaos.Launcher()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, launcher):
    """A folder with an undisturbed run in it."""
    folder = tmp_path_factory.mktemp("chaos")
    assert launcher.finish([*RUN, f"--model_dir={folder / 'undisturbed'}"], folder / "undisturbed.log") == 0
    assert chaos.results_of(folder / "undisturbed")["steps"] == 100
    return folder


def start_and_wait_for_a_checkpoint(launcher, folder, name, log=None, of_step=0):
    process = launcher.start([*RUN, f"--model_dir={folder / name}"], log or folder / f"{name}.log")
    before, deadline = max(chaos.newest_step(folder / name), of_step), time.monotonic() + 120
    while chaos.newest_step(folder / name) <= before:
        assert process.exitcode is None and time.monotonic() < deadline
        time.sleep(0.002)
    return process


def assert_finishes_as_if_undisturbed(launcher, folder, name):
    assert launcher.finish([*RUN, f"--model_dir={folder / name}"], folder / f"{name}.log") == 0
    assert chaos.differences(folder / "undisturbed", folder / name) == []
    assert chaos.litter(folder / name) == []


def test_a_run_killed_ten_times_ends_as_if_undisturbed_and_leaves_no_litter(launcher, folder):
    report = chaos.torture(folder, launcher, kills=10, arguments=RUN, seed=1)
    assert report.faults == []
    assert report.kills == 10
    assert report.starts >= 10 + report.rounds >= 11


def test_signals_end_a_run_with_a_checkpoint_and_75_and_it_goes_on(launcher, folder):
    for number in (signal.SIGTERM, signal.SIGINT):
        process = start_and_wait_for_a_checkpoint(launcher, folder, "signalled")
        os.kill(process.pid, number)
        process.join(60)
        assert process.exitcode == 75
        said = (folder / "signalled.log").read_text().splitlines()[-1]
        step = chaos.newest_step(folder / "signalled")
        assert 0 < step < 100
        assert said == (
            f"Stopped at step {step} of 100; the state is saved in {folder / 'signalled'}/. The same command again goes"
            " on from there."
        )
        assert "Traceback" not in (folder / "signalled.log").read_text()
    assert_finishes_as_if_undisturbed(launcher, folder, "signalled")


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux's prlimit")
def test_a_full_disk_does_not_end_a_run_but_74_does_and_it_can_be_mended(launcher, folder):
    pipe, said = folder / "full.pipe", []  # a pipe, since a file would be full as well
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: said.append(pipe.read_text()))
    reader.start()
    # Behind the first evaluation: TensorFlow traces by way of files in /tmp, which are full here as well.
    process = start_and_wait_for_a_checkpoint(launcher, folder, "full", log=pipe, of_step=10)
    # Writes beyond 100 bytes fail with "File too large", in TensorFlow's C++ as in Python.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    time.sleep(0.3)  # what was being written as the limit came
    kept = chaos.newest_step(folder / "full")
    process.join(120)
    reader.join()
    (said,) = said
    assert process.exitcode == 74, said
    assert "Done: 100 steps" in said and "Traceback" not in said
    # Loud, once for each, and again at the end.
    for what in ("a checkpoint", "results.json", "TensorBoard events", "model.keras"):
        assert said.count(f"Could not write {what}: File too large") == 1, (what, said)
    last = said.splitlines()[-1]
    assert last.startswith("Error: not everything could be written (") and last.count("File too large") == 4
    assert chaos.newest_step(folder / "full") == kept < 100
    assert not (folder / "full" / "model.keras").exists()
    assert chaos.litter(folder / "full") == []
    pipe.unlink()
    assert_finishes_as_if_undisturbed(launcher, folder, "full")


def test_the_comparison_sees_one_changed_bit_of_the_model(folder, tmp_path):
    undisturbed = folder / "undisturbed"
    copy = shutil.copytree(undisturbed, tmp_path / "copy")
    assert chaos.differences(undisturbed, copy) == []
    model = keras.saving.load_model(copy / "model.keras")
    bias = model.get_layer("logits").bias
    bias.assign(np.nextafter(bias.numpy(), np.float32(np.inf)))
    model.save(copy / "model.keras")
    assert chaos.differences(undisturbed, copy) == ["model.keras of undisturbed and copy differ"]


@pytest.mark.parametrize("changed", ["weights", "facts on the host"])
def test_the_comparison_sees_what_differs_in_a_checkpoint(changed, tmp_path, monkeypatch):
    monkeypatch.setattr(chaos, "results_of", lambda folder: {})
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        keras.Sequential([keras.Input([1]), keras.layers.Rescaling(2.0)]).save(tmp_path / name / "model.keras")
        host = HostState()
        host.values = {"timed_seconds": 1.0 if name == "one" else 2.0, "history": [1.0]}
        values = np.float32([1.0, np.nan])
        if name == "other" and changed == "weights":
            values[0] = np.nextafter(values[0], np.float32(2.0))
        elif name == "other":
            host.values["history"] = [1.5]
        checkpoint = tf.train.Checkpoint(host=host, variable=tf.Variable(values))
        checkpoint.write(str(tmp_path / name / "checkpoints" / "ckpt-3"))
    (fault,) = chaos.differences(tmp_path / "one", tmp_path / "other")
    assert fault.startswith("variable/" if changed == "weights" else "host/")
    assert fault.endswith(" differs in the checkpoints of one and other")


def test_the_comparison_sees_figures_that_differ(folder, tmp_path):
    copy = shutil.copytree(folder / "undisturbed", tmp_path / "copy")
    text = (copy / "results.json").read_text()
    (copy / "results.json").write_text(text.replace('"steps": 100', '"steps": 99'))
    assert chaos.differences(folder / "undisturbed", copy) == [
        "'steps' differs in results.json of undisturbed and copy"
    ]


def test_litter_is_seen(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints" / "saving-4").mkdir(parents=True)
    for name in ("results.json", ".results.json.x1", "checkpoints/ckpt-4.index", "checkpoints/checkpoint.tmp1"):
        (run / name).touch()
    assert chaos.litter(run) == ["run holds .results.json.x1", "run holds checkpoint.tmp1", "run holds saving-4"]


def test_a_run_that_fails_or_differs_is_a_fault(tmp_path, monkeypatch):
    class Failing:
        def finish(self, arguments, log):
            return 3

    assert chaos.torture(tmp_path, Failing(), kills=1).faults == [
        f"the undisturbed run failed, see {tmp_path}/undisturbed.log"
    ]


def test_the_report_says_whether_the_runs_agree():
    report = chaos.Report(kills=3, kills_while_saving=1, starts=5, rounds=2)
    assert report.lines() == [
        "3 kills (1 while a checkpoint was being written), 5 starts, 2 runs brought to their end.",
        "Do weights, optimizers and figures agree with the undisturbed run? yes, bit for bit.",
    ]
    report.faults += ["this", "that"]
    assert report.lines()[1].endswith("no: this; that.")
