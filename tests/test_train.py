"""The command line end to end: the main job in small, its run folder, and what a mistake looks like."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from famus_tf import entry_point, evaluate, run_splits, train
from famus_tf.data import label_files, tfds_folder
from famus_tf.runs.evaluation import Evaluator

pytestmark = pytest.mark.usefixtures("own_flags")

SMALL = ["--dataset=digits", "--num_train=100", "--batch_size=50", "--meta_batch_size=50", "--epochs=2", "--seed=1"]


def run(program, *arguments):
    return entry_point.run(program.main, [f"famus_tf.{program.__name__}", *arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of the main job in small: (folder, screen). It runs as a user would run it, in its own process."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    command = [sys.executable, "-m", "famus_tf.train", *SMALL, f"--model_dir={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_the_screen_says_what_a_person_wants_to_know_and_nothing_else(finished):
    folder, done = finished
    assert done.stderr == ""
    first, *_, last = done.stdout.splitlines()
    assert first.startswith("CPU (")
    assert "1 replica | digits: 100 train, 100 meta, 100 validation, 500 test; symmetric noise 0.4" in first
    for wanted in (
        "test accuracy, last epoch",
        "test accuracy, best on validation",
        "test accuracy, best on test",
        "time per step",
        "mean weight of wrong labels",
        "gated layer, bottom to top",
        "logits/kernel",
        f"run folder                          {folder}/",
    ):
        assert wanted in done.stdout
    assert last == "Compare with: python -m famus_tf.train " + " ".join(SMALL) + " --method=ce"


def test_results_json_holds_the_figures_on_the_screen(finished):
    folder, done = finished
    results = json.loads((folder / "results.json").read_text())
    assert results["finished"] is True
    assert results["steps"] == 4
    assert results["method"] == "mwnet_famus"
    assert results["seed"] == 1
    assert len(results["open_rate_of_gates"]) == 15
    assert set(results["accuracy"]) == {"last_epoch", "best_on_validation", "best_on_test"}
    last = results["accuracy"]["last_epoch"]["test_accuracy"]
    assert last == results["history"]["test_accuracy"][-1]
    assert f"{last:.4f}" in done.stdout


def test_labels_csv_holds_the_labels_that_the_hash_and_the_rate_speak_of(finished):
    folder, _ = finished
    results = json.loads((folder / "results.json").read_text())
    ids, given, true = label_files.load_labels(folder / "labels.csv")
    assert len(ids) == 100
    assert results["noise"]["labels_sha256"] == label_files.labels_hash(ids, given)
    assert results["noise"]["measured_rate"] == pytest.approx(np.mean(given != true))
    with open(folder / "labels.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 100


def test_the_exported_model_loads_without_this_package_and_gives_the_reported_accuracy(finished, capsys):
    folder, _ = finished
    script = (
        "import sys, keras\n"
        f"model = keras.saving.load_model(r'{folder / 'model.keras'}')\n"
        "assert not any(name.startswith('famus_tf') for name in sys.modules)\n"
        "assert model.output_shape == (None, 10)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert run(evaluate, f"--model_dir={folder}") == 0
    shown = capsys.readouterr().out
    reported = json.loads((folder / "results.json").read_text())["accuracy"]["last_epoch"]["test_accuracy"]
    assert f"measured now          {reported:.4f}  (500 examples)" in shown
    assert "They agree." in shown


def test_flags_txt_reproduces_the_run(finished, tmp_path):
    folder, _ = finished
    assert run(train, f"--flagfile={folder / 'flags.txt'}", f"--model_dir={tmp_path / 'again'}") == 0
    first, second = (json.loads((path / "results.json").read_text()) for path in (folder, tmp_path / "again"))
    assert first["history"] == second["history"]
    assert first["noise"] == second["noise"]


def test_the_same_command_again_goes_on(tmp_path, capsys):
    arguments = [*SMALL, "--method=ce", f"--model_dir={tmp_path / 'run'}"]
    assert run(train, *arguments) == 0
    first = json.loads((tmp_path / "run" / "results.json").read_text())
    (tmp_path / "run" / "model.keras").unlink()
    capsys.readouterr()
    assert run(train, *arguments) == 0
    assert "Going on from step 4" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "results.json").read_text())["history"] == first["history"]
    assert (tmp_path / "run" / "model.keras").exists()


def test_a_signal_during_the_last_evaluation_ends_it_and_the_same_command_finishes(tmp_path, capsys, monkeypatch):
    arguments = [*SMALL, "--method=ce", f"--model_dir={tmp_path / 'run'}"]
    evaluate, evaluations = Evaluator.evaluate_unless_stopped, []

    def with_signal(self, named_datasets):
        evaluations.append(1)
        if len(evaluations) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            while not self._stop_request.is_made():
                time.sleep(0.01)
        return evaluate(self, named_datasets)

    with monkeypatch.context() as patched:
        patched.setattr(Evaluator, "evaluate_unless_stopped", with_signal)
        assert run(train, *arguments) == 75
    assert "Stopped at step 4 of 4, before its evaluation; the state is saved in" in capsys.readouterr().err
    assert not (tmp_path / "run" / "model.keras").exists()
    assert run(train, *arguments) == 0
    assert "Going on from step 4" in capsys.readouterr().out
    assert run(train, *SMALL, "--method=ce", f"--model_dir={tmp_path / 'whole'}") == 0
    stopped, whole = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("run", "whole"))
    assert stopped["finished"] and stopped["history"] == whole["history"]


def test_a_run_folder_of_other_labels_is_refused_and_stays_as_it_was(finished, capsys, monkeypatch):
    folder, _ = finished
    before, load_splits = snapshot(folder), run_splits.load_splits

    def with_another_label(*arguments):
        splits = load_splits(*arguments)
        labels = splits.train.given_labels.copy()
        labels[3] = (labels[3] + 1) % 10
        return dataclasses.replace(splits, train=dataclasses.replace(splits.train, given_labels=labels))

    monkeypatch.setattr(run_splits, "load_splits", with_another_label)
    assert run(train, *SMALL, f"--model_dir={folder}") == 2
    assert "was made with other data: its labels.csv holds other examples or labels" in capsys.readouterr().err
    assert snapshot(folder) == before


def snapshot(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*") if path.is_file()}


def test_other_flags_are_refused_by_name_and_the_run_stays_as_it_was(finished, capsys):
    folder, _ = finished
    before = snapshot(folder)
    changed = [*SMALL[:-1], "--seed=2", "--noise_rate=0.6", f"--model_dir={folder}"]
    assert run(train, *changed) == 2
    message = capsys.readouterr().err
    assert "--noise_rate was 0.4 and is now 0.6; --seed was 1 and is now 2" in message
    assert snapshot(folder) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--noise_rate=1.6"], "--noise_rate must be a share between 0 and 1; got 1.6. A percentage? Then give 0.016"),
        (["--noise_rate=much"], "--noise_rate"),
        (["--noise_type=symetric"], "symmetric"),
        (["--method=mwnet_famous"], "mwnet_famus"),
        (["--dataset=digit"], "digits"),
        (["--model=wrn-17-4"], "depth"),
        (["--model=resnet33"], "resnet32"),
        (["--method=ce", "--layer_sampler=famus"], "chooses layers of a meta-gradient"),
        (["--num_meta=1290"], "meta set"),
        (["--num_meta=0"], "--num_meta=0"),
        (["--num_meta=-1"], "--num_meta must be at least 0; got -1"),
        (["--num_meta=20", "--meta_batch_size=50"], "--meta_batch_size=50 is larger than the meta set"),
        (["--batch_size=1200"], "larger than the train set of 1097"),
        (["--num_validation=1200"], "validation"),
        (["--method=mwnet_block", "--layer_block=9"], "--layer_block=9 was asked for, but this network has"),
        (["--gated_variables=400"], "400 gated variables were asked for"),
        (["--method=mwnet_random", "--num_random_layers=16", "--gated_variables=15"], "--num_random_layers=16"),
        (["--noise_type=asymmetric"], "asymmetric"),
        (["--learning_rate=0"], "--learning_rate"),
        (["--batch_sice=3"], "--batch_sice is not a flag of this program. Did you mean '--batch_size'?"),
        (["extra"], "'extra' is not a flag"),
        (["--dataset=cifar10", "--data_dir=/nowhere/at/all"], "/nowhere/at/all"),
        (["--flagfile=/nowhere/x.flags"], "--flagfile cannot be read"),
    ],
)
def test_a_mistake_is_one_clear_sentence_and_leaves_no_folder(arguments, message, tmp_path, capsys, monkeypatch):

    def no_network(*_):
        raise ConnectionError("no network")

    monkeypatch.setattr(tfds_folder, "download", no_network)
    folder = tmp_path / "run"
    assert run(train, *arguments, f"--model_dir={folder}") == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.startswith("Error: ")
    # A missing dataset comes with the commands that fetch it, on lines of their own.
    assert shown.err.count("\n") == 1 or "cifar10" in message + shown.err
    assert "Traceback" not in shown.err + shown.out
    assert not folder.exists()


def test_a_folder_with_other_files_is_refused(tmp_path, capsys):
    (tmp_path / "holiday.jpg").write_text("sea")
    assert run(train, f"--model_dir={tmp_path}") == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model_dir is missing"),
        (["--model_dir=/nowhere/run"], "does not exist"),
    ],
)
def test_evaluating_nothing_is_refused(arguments, message, capsys):
    assert run(evaluate, *arguments) == 2
    assert message in capsys.readouterr().err


def test_help_lists_our_flags(capsys):
    assert run(train, "--help") == 0
    shown = capsys.readouterr().out
    assert "--expected_active_layers=4" in shown
    assert len(shown.splitlines()) <= 100
    assert "--alsologtostderr" not in shown
