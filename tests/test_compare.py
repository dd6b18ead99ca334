"""The comparison table: figures from run files, nothing run twice."""

import json
import sys

import pytest
from absl.testing import flagsaver

from famus_tf import entry_point
from tools import compare


def results(last, best, seconds=0.01):
    accuracy = {"last_epoch": {"test_accuracy": last}, "best_on_test": {"test_accuracy": best}}
    return {"finished": True, "accuracy": accuracy, "seconds_per_step": seconds}


def test_the_table_gives_mean_and_sample_deviation_in_percent():
    rows = [("0.4", "ce", [results(0.5, 0.8), results(0.7, 0.8)]), ("0.4", "l2r", [results(0.9, 0.95, 0.0204)])]
    assert compare.table(rows).splitlines() == [
        "| noise | method | last epoch | best on validation | best on test | ms per step |",
        "|---|---|---|---|---|---|",
        "| 0.4 | ce | 60.0 ± 14.1 |  | 80.0 ± 0.0 | 10 |",
        "| 0.4 | l2r | 90.0 |  | 95.0 | 20 |",
    ]


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """Compares in `tmp_path`, with runs that only write a results.json; yields the commands that were run."""
    ran = []

    def pretend(command, **_):
        ran.append(command)
        folder = next(a.split("=", 1)[1] for a in command if a.startswith("--model_dir="))
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "results.json").write_text(json.dumps(results(0.5, 0.6)))
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(compare.subprocess, "run", pretend)
    saved = flagsaver.save_flag_values(compare.FLAGS)
    yield ran
    flagsaver.restore_flag_values(saved, compare.FLAGS)


def compared(tmp_path, *extra):
    flags = [f"--folder={tmp_path}", "--methods=ce,mwnet", "--noise_rates=0.4", "--seeds=0,1"]
    return entry_point.run(compare.main, ["compare", *flags, "--", *extra])


def test_each_cell_is_run_once_and_a_finished_one_not_again(commands, capsys, tmp_path):
    assert compared(tmp_path, "--epochs=2") == 0
    assert len(commands) == 4
    assert commands[0][:4] == [sys.executable, "-m", "famus_tf.train", "--epochs=2"]
    assert {"--method=ce", "--noise_rate=0.4", "--seed=0"} < set(commands[0])
    assert compared(tmp_path, "--epochs=2") == 0
    assert len(commands) == 4
    assert "| 0.4 | mwnet | 50.0 ± 0.0 |  | 60.0 ± 0.0 | 10 |" in capsys.readouterr().out


def test_a_failed_run_is_told_with_its_command(commands, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(compare.subprocess, "run", lambda *_, **__: type("Done", (), {"returncode": 2}))
    assert compared(tmp_path, "--x=1") == 2
    assert "failed; see above. The command was: -m famus_tf.train --x=1" in capsys.readouterr().err


def test_an_unknown_method_is_refused_before_anything_is_run(commands, capsys):
    assert entry_point.run(compare.main, ["compare", "--methods=ce,mwnett"]) == 2
    assert "Each of --methods must be one of" in capsys.readouterr().err
    assert commands == []
