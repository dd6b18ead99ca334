"""Several workers: TF_CONFIG, each one's part of a batch, and two processes that train together, one of them killed."""

import contextlib
import io
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import zipfile

import h5py
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver

from famus_tf import entry_point, registry, replicas, train, workers
from famus_tf.errors import InputError
from famus_tf.runs import shared_restore
from famus_tf.runs.checkpoints import Checkpointer
from tests import tiny_train

# --- TF_CONFIG ------------------------------------------------------------------------------------------------------


def tf_config(index=0, task="worker", **jobs):
    jobs = jobs or {"worker": ["a:1", "b:2"]}
    return json.dumps({"cluster": jobs, "task": {"type": task, "index": index}})


def test_workers_are_numbered_in_their_order_and_the_first_is_the_chief():
    first, second = (workers.cluster_from(tf_config(index)) for index in (0, 1))
    assert first == workers.Cluster(("a:1", "b:2"), 0) and first.is_chief
    assert second == workers.Cluster(("a:1", "b:2"), 1) and not second.is_chief
    assert str(second) == "worker 1 of 2 (b:2)"


def test_a_job_called_chief_comes_before_the_workers():
    jobs = {"worker": ["b:2", "c:3"], "chief": ["a:1"]}
    assert workers.cluster_from(tf_config(0, "chief", **jobs)) == workers.Cluster(("a:1", "b:2", "c:3"), 0)
    assert workers.cluster_from(tf_config(1, "worker", **jobs)) == workers.Cluster(("a:1", "b:2", "c:3"), 2)


@pytest.mark.parametrize("text", [None, ""])
def test_a_missing_tf_config_is_refused_with_an_example(text):
    with pytest.raises(InputError, match="TF_CONFIG, which is not set. For worker 0 of two: TF_CONFIG='") as caught:
        workers.cluster_from(text)
    example = str(caught.value).partition("TF_CONFIG='")[2].rstrip("'")
    assert workers.cluster_from(example).addresses == ("10.0.0.1:2222", "10.0.0.2:2222")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "list indices"),
        ("{}", "'cluster' is missing"),
        ('{"cluster": {"worker": ["a:1"]}}', "'task' is missing"),
        (tf_config(0, "ps"), "'ps' is missing"),
        (tf_config(2), "there is no worker 2"),
        (tf_config(-1), "there is no worker -1"),
        (tf_config("x"), "invalid literal"),
        (tf_config(worker=["a:1", "a"]), "an address is not host:port"),
        (tf_config(worker=["a:1", "a:1"]), "an address occurs twice"),
        (tf_config(worker=["a:1"], ps=["b:1"]), "take no part here"),
        (tf_config(worker=[1]), "not host:port|no attribute"),
    ],
)
def test_a_garbled_tf_config_is_refused_with_its_fault_and_an_example(text, reason):
    with pytest.raises(InputError, match=rf"cannot be used \(.*({reason}).*For worker 0 of two: TF_CONFIG="):
        workers.cluster_from(text)


def test_the_strategy_of_several_workers_is_made_from_tf_config(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(InputError, match="TF_CONFIG, which is not set"):
        replicas.make_strategy(0, "multi_worker")
    monkeypatch.setenv("TF_CONFIG", tf_config(1))
    with pytest.raises(InputError, match=r"--num_replicas=2 .* worker 1 of 2 \(b:2\) has 0 GPU\(s\)"):
        replicas.make_strategy(2, "multi_worker")
    with pytest.raises(InputError, match="brought together before anything else uses TensorFlow"):
        tf.constant(0)
        replicas.make_strategy(0, "multi_worker")
    with pytest.raises(InputError, match="--strategy must be one of mirrored, multi_worker; got 'multi'"):
        replicas.make_strategy(0, "multi")


def test_one_machine_is_one_worker_which_writes_and_agrees_with_itself(two_replicas):
    for strategy in (tf.distribute.get_strategy(), two_replicas):
        assert workers.count(strategy) == 1
        assert workers.is_chief(strategy)
        assert workers.total(7, strategy) == 7
        assert workers.chiefs(-1, strategy) == -1
        workers.check_alike("anything", strategy)
        flag = tf.constant(True)
        assert workers.any_of(flag, strategy) is flag


# --- Parts of a batch -----------------------------------------------------------------------------------------------


def parts_of(batch, num_parts):
    return [{k: v.numpy() for k, v in workers.part_of(batch, part, num_parts).items()} for part in range(num_parts)]


def test_the_parts_of_a_training_batch_are_the_batch():
    batch = {"index": tf.range(6), "image": tf.reshape(tf.range(24.0), [6, 2, 2, 1])}
    parts = parts_of(batch, 3)
    assert [part["index"].tolist() for part in parts] == [[0, 1], [2, 3], [4, 5]]
    np.testing.assert_array_equal(np.concatenate([part["image"] for part in parts]), batch["image"])


@pytest.mark.parametrize("is_static", [True, False])
@pytest.mark.parametrize(("size", "num_parts"), [(7, 2), (7, 3), (5, 4), (1, 3), (4, 2)])
def test_every_example_of_an_uneven_batch_counts_in_exactly_one_part(size, num_parts, is_static):
    length = size if is_static else None
    spec = {"label": tf.TensorSpec([length], tf.int32), "mask": tf.TensorSpec([length], tf.float32)}

    def parts_of_filled(batch):
        filled = workers.filled_up(batch, num_parts)
        return [workers.part_of(filled, part, num_parts) for part in range(num_parts)]

    graph = tf.function(parts_of_filled, input_signature=[spec])
    parts = graph({"label": tf.range(size), "mask": tf.ones([size])})
    lengths = {len(part["label"]) for part in parts}
    assert lengths == {-(-size // num_parts)}
    if is_static:
        assert {part["label"].shape[0] for part in graph.get_concrete_function().structured_outputs} == lengths
    counted = [int(row) for part in parts for row, mask in zip(part["label"], part["mask"], strict=True) if mask > 0]
    assert counted == list(range(size))


def test_filling_of_the_whole_batch_stays_filling():
    batch = {"label": tf.range(4), "mask": tf.constant([1.0, 1.0, 1.0, 0.0])}
    assert workers.filled_up(batch, 2) is batch
    assert workers.filled_up(batch, 3)["mask"].numpy().tolist() == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]


def test_a_training_batch_is_never_filled_up():
    batch = {"index": tf.range(5)}
    assert workers.filled_up(batch, 2) is batch


# --- What is raised when a worker is gone ---------------------------------------------------------------------------

PAIR = workers.Cluster(("a:1", "b:2"), 1)


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.UnavailableError(None, None, "recvmsg: Connection reset by peer"),
        tf.errors.DeadlineExceededError(None, None, "Heartbeat"),
        tf.errors.InternalError(None, None, "Collective ops is aborted by: something"),
    ],
)
def test_what_tensorflow_raises_for_a_lost_worker_becomes_one_sentence(error):
    with pytest.raises(workers.WorkerLostError, match=r"Another worker was lost: .* this is worker 1 of 2 \(b:2\)\."):
        with workers.lost_workers_told(PAIR):
            raise error


@pytest.mark.parametrize(
    ("cluster", "error"),
    [
        (PAIR, tf.errors.InvalidArgumentError(None, None, "shapes")),
        (workers.Cluster(("",), 0), tf.errors.UnavailableError(None, None, "a file server")),
    ],
)
def test_other_errors_stay_what_they_are(cluster, error):
    with pytest.raises(type(error)):
        with workers.lost_workers_told(cluster):
            raise error


# --- A checkpoint for all -------------------------------------------------------------------------------------------


class StandIn:
    """As much of a trainer as a checkpointer knows."""

    def __init__(self, step=0):
        self.step = step
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


# --- Two processes --------------------------------------------------------------------------------------------------

ROOT = pathlib.Path(__file__).resolve().parents[1]
TRAINING = (
    "--dataset=digits", "--method=mwnet_famus", "--num_train=100", "--batch_size=20", "--meta_batch_size=20",
    "--seed=1", "--gated_variables=4", "--steps_per_call=2", "--checkpoint_interval_s=1e-6", "--train_steps=20",
)  # fmt: skip
LONGEST_S = 240.0


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("localhost", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Pair:
    """Two workers on this machine; worker 0 is the chief."""

    def __init__(self, folder, *more_flags, flags_of_second=()):
        self.folder = folder
        addresses = [f"localhost:{port}" for port in free_ports(2)]
        self.writes = [folder.parent / f"writes{index}.txt" for index in range(2)]
        for path in self.writes:
            path.unlink(missing_ok=True)
        self.processes = []
        for index in range(2):
            command = [sys.executable, "-m", "tests.tiny_train", str(self.writes[index]), *TRAINING, *more_flags]
            command += [f"--model_dir={folder}", "--strategy=multi_worker", *(flags_of_second if index else ())]
            environment = os.environ | {
                "TF_CONFIG": tf_config(index, worker=addresses), "TF_CPP_MIN_LOG_LEVEL": "3",
                "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1",
            }  # fmt: skip
            self.processes.append(
                subprocess.Popen(
                    command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
                )
            )

    def newest_step(self):
        names = [path.name for path in (self.folder / "checkpoints").glob("ckpt-*.index")]
        return max((int(re.search(r"\d+", name)[0]) for name in names), default=0)

    def wait_for_step(self, step):
        deadline = time.monotonic() + LONGEST_S
        while self.newest_step() < step:
            assert all(process.poll() is None for process in self.processes), self.ended()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def ended(self):
        """[(exit code, standard output, standard error)] of both, waited for."""
        results = []
        try:
            for process in self.processes:
                output, errors = process.communicate(timeout=LONGEST_S)
                results.append((process.returncode, output, errors))
        finally:
            for process in self.processes:
                process.kill()
        return results


def weights_in(folder):
    """{name: array} of the exported model."""
    arrays = {}
    with zipfile.ZipFile(folder / "model.keras") as archive:
        with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
            file.visititems(lambda name, item: arrays.update({name: item[()]}) if hasattr(item, "shape") else None)
    return arrays


def results_in(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def killed_and_continued(tmp_path_factory):
    """A pair whose second worker is killed in the middle, and the same pair again until it has finished."""
    folder = tmp_path_factory.mktemp("pair") / "run"
    pair = Pair(folder)
    pair.wait_for_step(4)
    pair.processes[1].kill()
    killed_at = time.monotonic()
    (chief, _) = pair.ended()
    seconds = time.monotonic() - killed_at
    step = pair.newest_step()
    again = Pair(folder)
    return folder, chief, seconds, step, again, again.ended()


@pytest.fixture(scope="module")
def on_one_machine(tmp_path_factory, two_replicas):
    """The same training in this process, on two replicas."""
    folder = tmp_path_factory.mktemp("one") / "run"
    built_in = registry.MODELS["small_cnn"]
    registry.MODELS["small_cnn"] = tiny_train.build
    try:
        with flagsaver.flagsaver(), contextlib.redirect_stdout(io.StringIO()):
            for flag in flags.FLAGS.get_flags_for_module("famus_tf.options"):
                flag.unparse()
            arguments = ["train", *TRAINING, "--num_replicas=2", f"--model_dir={folder}"]
            assert entry_point.run(train.main, arguments) == 0
    finally:
        registry.MODELS["small_cnn"] = built_in
    return folder


def test_the_survivor_of_a_killed_worker_ends_soon_with_run_me_again(killed_and_continued):
    _, (exit_code, output, errors), seconds, _, _, _ = killed_and_continued
    assert exit_code == entry_point.EXIT_RUN_AGAIN
    assert "Another worker was lost" in errors.splitlines()[-1]
    assert "this is worker 0 of 2 (localhost:" in errors.splitlines()[-1]
    assert "Traceback" not in output + errors
    # Ten seconds without a heartbeat, at most, and some for a machine that is busy.
    assert seconds < 60.0


def test_the_same_pair_again_goes_on_from_the_checkpoint_and_finishes(killed_and_continued):
    folder, _, _, step, _, results = killed_and_continued
    assert [exit_code for exit_code, _, _ in results] == [0, 0], results
    assert 4 <= step < 20
    assert f"Going on from step {step} in {folder}/." in results[0][1]
    assert results_in(folder)["steps"] == 20
    assert results_in(folder)["environment"]["num_workers"] == 2
    assert results_in(folder)["environment"]["num_replicas"] == 2


def test_two_workers_end_with_the_weights_of_one_process_with_two_replicas(killed_and_continued, on_one_machine):
    trained, expected = weights_in(killed_and_continued[0]), weights_in(on_one_machine)
    assert trained.keys() == expected.keys() and len(trained) >= 7
    # The same sums in the same order: bit-equal so far; room is left for another order of adding.
    for name, values in expected.items():
        np.testing.assert_allclose(trained[name], values, rtol=1e-5, atol=1e-6, err_msg=name)
    history, expected_history = (results_in(folder)["history"] for folder in (killed_and_continued[0], on_one_machine))
    assert history.keys() == expected_history.keys()
    for name, values in expected_history.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-5, atol=1e-6, err_msg=name)
    weights = [results_in(folder)["weights"] for folder in (killed_and_continued[0], on_one_machine)]
    assert weights[0] == pytest.approx(weights[1], rel=1e-5)


def test_only_the_chief_writes_and_reports(killed_and_continued):
    folder, _, _, _, again, results = killed_and_continued
    touched = [[line for line in path.read_text().splitlines() if str(folder) in line] for path in again.writes]
    assert any("results.json" in line for line in touched[0]) and any("ckpt-20" in line for line in touched[0])
    assert touched[1] == []
    writers = {int(re.search(r"\.(\d+)\.\d+\.v2$", path.name)[1]) for path in (folder / "tensorboard").iterdir()}
    assert len(writers) == 2 and again.processes[0].pid in writers and again.processes[1].pid not in writers
    (_, said_by_chief, _), (_, said, _) = results
    assert "2 replicas | digits: 100 train" in said_by_chief and "Done: 20 steps" in said_by_chief
    assert re.fullmatch(r"This is worker 1 of 2 \(\S+\)\. Worker 0 \(\S+\) reports and writes\. .*\n", said)


@pytest.mark.slow
def test_the_survivor_of_a_killed_chief_ends_with_run_me_again_too(tmp_path):
    pair = Pair(tmp_path / "run", "--train_steps=2000")
    pair.wait_for_step(4)
    pair.processes[0].kill()
    _, (exit_code, _, errors) = pair.ended()
    assert exit_code == entry_point.EXIT_RUN_AGAIN
    assert "Another worker was lost" in errors and "this is worker 1 of 2" in errors


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("steps_per_epoch", [1, 5])  # one evaluates as long as it trains, one mostly trains
def test_a_signal_to_either_worker_stops_both_at_the_same_step(tmp_path, index, steps_per_epoch):
    pair = Pair(tmp_path / "run", "--train_steps=2000", f"--steps_per_epoch={steps_per_epoch}")
    pair.wait_for_step(4)
    pair.processes[index].send_signal(signal.SIGTERM)
    results = pair.ended()
    assert [exit_code for exit_code, _, _ in results] == [entry_point.EXIT_RUN_AGAIN] * 2
    steps = [re.search(r"Stopped at step (\d+) of 2000", errors)[1] for _, _, errors in results]
    assert steps[0] == steps[1] == str(pair.newest_step())


@pytest.mark.slow
def test_one_workers_bad_example_stops_both_or_is_left_out_by_both(tmp_path, monkeypatch):
    monkeypatch.setenv("TINY_TRAIN_BAD_ROW", "3")
    stopped = Pair(tmp_path / "stop", "--on_nonfinite=stop").ended()
    assert [exit_code for exit_code, _, _ in stopped] == [entry_point.EXIT_NONFINITE] * 2
    said = [re.search(r"Step \d+ .* was not finite in [^.]*", errors)[0] for _, _, errors in stopped]
    assert said[0] == said[1]
    for action in ("skip", "restore"):
        results = Pair(tmp_path / action, f"--on_nonfinite={action}").ended()
        assert [exit_code for exit_code, _, _ in results] == [0, 0], results
    skipped, restored = (results_in(tmp_path / action) for action in ("skip", "restore"))
    # Once in each of the four epochs.
    assert skipped["nonfinite_steps"] == restored["nonfinite_steps"] == 4
    assert skipped["history"] == restored["history"] and len(skipped["history"]["loss"]) == 4
    weights, again = weights_in(tmp_path / "skip"), weights_in(tmp_path / "restore")
    for name, values in weights.items():
        np.testing.assert_array_equal(again[name], values, err_msg=name)


@pytest.mark.slow
def test_workers_with_different_flags_are_refused_on_both(tmp_path):
    results = Pair(tmp_path / "run", flags_of_second=["--learning_rate=0.5"]).ended()
    assert [exit_code for exit_code, _, _ in results] == [entry_point.EXIT_MISTAKE] * 2
    assert "1 of the 2 workers have other flags or other data than worker 0" in results[0][2]
    assert "This one, worker 1 of 2" in results[1][2]
    assert not (tmp_path / "run").exists()
