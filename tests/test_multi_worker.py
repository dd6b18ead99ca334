"""Several workers: the strategy, a lost one, and two processes that train together, one of them killed."""

import contextlib
import io
import re
import signal
import time

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver

from famus_tf import entry_point, registry, replicas, train, workers
from famus_tf.cluster import Cluster
from famus_tf.errors import InputError
from tests import tiny_train
from tests.worker_pair import TRAINING, Pair, results_in, tf_config, weights_in


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


# --- What is raised when a worker is gone ---------------------------------------------------------------------------

PAIR = Cluster(("a:1", "b:2"), 1)


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
        (Cluster(("",), 0), tf.errors.UnavailableError(None, None, "a file server")),
    ],
)
def test_other_errors_stay_what_they_are(cluster, error):
    with pytest.raises(type(error)):
        with workers.lost_workers_told(cluster):
            raise error


# --- Two processes --------------------------------------------------------------------------------------------------


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
