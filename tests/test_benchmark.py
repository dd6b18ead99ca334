"""The benchmark: a tiny run of it, and its arithmetic on figures made up by hand."""

import contextlib
import io
import json
import re
import subprocess
import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from famus_tf import entry_point
from tools import benchmark, benchmark_contenders

TINY = ["--model=small_cnn", "--image_size=8", "--batch_size=4", "--rounds=1", "--steps=2", "--nomemory"]
NAMES = ["keras fit", "ce", "mwnet_famus"]


@pytest.fixture(autouse=True)
def own_flags():
    """Each test parses the command line anew."""
    saved = flagsaver.save_flag_values(benchmark.FLAGS)
    yield
    flagsaver.restore_flag_values(saved, benchmark.FLAGS)


def run(*arguments):
    return entry_point.run(benchmark.main, ["benchmark", *arguments])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny run: (figures, screen)."""
    output = tmp_path_factory.mktemp("benchmark") / "figures.json"
    saved = flagsaver.save_flag_values(benchmark.FLAGS)
    with contextlib.redirect_stdout(io.StringIO()) as screen:
        code = run(*TINY, "--methods=ce,mwnet_famus", "--gated_variables=1", f"--output={output}")
    flagsaver.restore_flag_values(saved, benchmark.FLAGS)
    assert code == 0
    return json.loads(output.read_text()), screen.getvalue()


def test_ratios_follow_from_the_times(tiny):
    figures, _ = tiny
    of = figures["contenders"]
    assert list(of) == NAMES
    for facts in of.values():
        assert facts["ms_per_step"] > 0
        assert facts["tracing_seconds"] > 0
        assert facts["tracing_count"] == 1
        for other, key in (("keras fit", "ms_per_step_to_keras_fit"), ("ce", "ms_per_step_to_ce")):
            assert facts[key] == pytest.approx(facts["ms_per_step"] / of[other]["ms_per_step"])
    assert figures["input_ms_per_batch"] > 0
    assert figures["setting"] == {
        "model": "small_cnn", "image_size": 8, "num_classes": 10, "batch_size": 4, "gated_variables": 1,
    }  # fmt: skip


def test_only_a_method_with_a_meta_step_has_stages(tiny):
    figures, _ = tiny
    assert [name for name, facts in figures["contenders"].items() if "stages_ms" in facts] == ["mwnet_famus"]
    assert list(figures["contenders"]["mwnet_famus"]["stages_ms"]) == ["virtual-train", "meta-train", "actual-train"]


def test_the_table_shows_what_the_json_holds(tiny):
    figures, screen = tiny
    lines = screen.splitlines()
    assert lines[0] == (
        "small_cnn, 8x8 pixels, batch 4 + 4, gates on 1 variables; medians of 1 turns of 2 steps, taken alternately"
    )
    for name, line in zip(NAMES, lines[3:6], strict=True):
        facts = figures["contenders"][name]
        shown = [facts[key] for key in ("ms_per_step", "ms_per_step_to_keras_fit", "ms_per_step_to_ce")]
        texts = [f"{shown[0]:.1f}", f"{shown[1]:.2f}", f"{shown[2]:.2f}", f"{facts['tracing_seconds']:.1f}"]
        texts += [f"{ms:.0f}" for ms in facts.get("stages_ms", {}).values()]
        assert line.removeprefix(name).split() == texts
    assert lines[7].startswith("input pipeline alone: ")
    assert lines[8] == "traced more than once: none"


class Racer:
    """A contender whose turns are known."""

    def __init__(self, name, turns, order, tracing_count=1):
        self._name, self._turns, self._order = name, iter(turns), order
        self.tracing_count = tracing_count

    def run(self, num_steps):
        self._order.append((self._name, num_steps))
        return next(self._turns)


def test_contenders_take_turns_and_medians_count(monkeypatch):
    order = []
    racers = {
        "keras fit": Racer("keras fit", [9.0, 0.004, 0.100, 0.005], order),
        "ce": Racer("ce", [9.0, 0.003, 0.001, 0.002], order, tracing_count=2),
    }
    monkeypatch.setattr(benchmark_contenders, "make", lambda name, setting: racers[name])
    monkeypatch.setattr(benchmark_contenders, "input_ms_per_batch", lambda setting: 0.5)
    figures = {"contenders": {name: {} for name in racers}}
    benchmark_contenders.measure_times(list(racers), None, 3, 5, True, figures)
    assert order == [("keras fit", 1), ("ce", 1)] + 3 * [("keras fit", 5), ("ce", 5)]
    of = figures["contenders"]
    assert of["keras fit"]["ms_per_step"] == pytest.approx(5.0)
    assert of["ce"]["ms_per_step"] == pytest.approx(2.0)
    assert of["ce"]["tracing_count"] == 2
    # These first calls took no time at all, so nothing is left of them.
    assert of["keras fit"]["tracing_seconds"] == 0.0
    assert (figures["rounds"], figures["steps"], figures["input_ms_per_batch"]) == (3, 5, 0.5)


def test_tracing_is_what_the_first_call_took_beyond_its_step(monkeypatch):
    seconds = iter([100.0, 107.5])
    racer = Racer("ce", [None, 0.5], [])
    monkeypatch.setattr(benchmark_contenders, "make", lambda name, setting: racer)
    monkeypatch.setattr(benchmark_contenders, "input_ms_per_batch", lambda setting: 0.5)
    monkeypatch.setattr(benchmark_contenders.time, "perf_counter", lambda: next(seconds))
    figures = {"contenders": {"ce": {}}}
    benchmark_contenders.measure_times(["ce"], None, 1, 5, False, figures)
    assert figures["contenders"]["ce"]["tracing_seconds"] == pytest.approx(7.0)


def test_the_stages_add_up_to_the_whole_step(monkeypatch):
    # Seconds up to the end of each stage, in three turns; the first call traces and does not count.
    turns = iter([[9.0, 9.0, 9.0], [0.010, 0.025, 0.040], [0.012, 0.024, 0.041], [0.011, 0.090, 0.039]])

    class Stages:
        def __init__(self, name, setting):
            pass

        def run(self, num_steps):
            return next(turns)

    monkeypatch.setattr(benchmark_contenders, "StageContender", Stages)
    stages = benchmark_contenders.stage_times("mwnet", None, 3, 5)
    assert stages == pytest.approx({"virtual-train": 11.0, "meta-train": 14.0, "actual-train": 15.0})
    assert sum(stages.values()) == pytest.approx(40.0)


def test_memory_is_told_with_its_ratios(capsys):
    memory = {"keras fit": 800.0, "ce": 1000.0, "mwnet": 2500.0}
    figures = {"contenders": {name: {"peak_memory_mb": mb} for name, mb in memory.items()}, "memory_batch_size": 128}
    benchmark.add_ratios(figures["contenders"], "peak_memory_mb")
    benchmark.print_memory(figures, list(memory))
    assert [line.split() for line in capsys.readouterr().out.splitlines()[3:]] == [
        ["keras", "fit", "800", "1.00", "0.80"],
        ["ce", "1000", "1.25", "1.00"],
        ["mwnet", "2500", "3.12", "2.50"],
    ]


def test_each_contenders_memory_is_measured_in_a_process_of_its_own(monkeypatch, capsys, tmp_path):
    commands = []

    def start(command, **settings):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, stdout=f"a warning\n{100.0 * len(commands)}\n", stderr="")

    monkeypatch.setattr(subprocess, "run", start)
    output = tmp_path / "memory.json"
    arguments = ["--model=small_cnn", "--methods=mwnet", "--notime", "--memory_batch_size=6", "--gated_variables=all"]
    assert run(*arguments, f"--output={output}") == 0
    of = json.loads(output.read_text())["contenders"]
    assert {name: facts["peak_memory_mb"] for name, facts in of.items()} == {"keras fit": 100, "ce": 200, "mwnet": 300}
    assert of["mwnet"]["peak_memory_mb_to_ce"] == 1.5
    assert "batch 6 + 6" in capsys.readouterr().out
    for command, name in zip(commands, of, strict=True):
        assert command[:4] == [sys.executable, "-m", "tools.benchmark", f"--only_memory_of={name}"]
        assert {"--model=small_cnn", "--batch_size=6", "--gated_variables=all", "--steps=3"} <= set(command)


def test_such_a_process_prints_its_peak_memory(capsys):
    assert run(*TINY, "--only_memory_of=ce") == 0
    assert 50 < float(capsys.readouterr().out) < 50_000  # MB


def test_a_process_that_fails_is_told(monkeypatch):
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", "no memory")
    )
    with pytest.raises(RuntimeError, match="Measuring the memory of 'keras fit' failed:\nno memory"):
        run("--model=small_cnn", "--methods=ce", "--notime")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=small_cn"], "--model must be one of .*; got 'small_cn'. Did you mean 'small_cnn'"),
        (["--methods=ce,mwnett"], "Each of --methods must be one of .*; got 'mwnett'. Did you mean 'mwnet'"),
        (["--gated_variables=some"], "--gated_variables must be a whole number of 1 or more, or 'all'; got 'some'"),
        (["--batch_size=0"], "--batch_size=0"),
        (["--stepps=3"], "stepps"),
        (["wrn-16-4"], "'wrn-16-4' is not a flag"),
        (["--model=wrn-17-4"], "depth"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, message, capsys):
    assert run(*TINY, *arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert line.startswith("Error: ")
    assert re.search(message, line)


def test_help_lists_the_flags(capsys):
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert "python -m tools.benchmark --model=wrn-16-4" in shown
    assert "--[no]stages" in shown


def test_the_flags_are_the_benchmarks_own():
    assert "memory_batch_size" in benchmark.FLAGS
    assert "memory_batch_size" not in flags.FLAGS
