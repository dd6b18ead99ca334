"""The benchmark: a tiny run of it, and its arithmetic on figures made up by hand."""

import contextlib
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver

from famus_tf import entry_point
from tools import benchmark, benchmark_contenders, benchmark_input

TINY = ["--model=small_cnn", "--image_size=8", "--batch_size=4", "--rounds=1", "--steps=2", "--nomemory"]
NAMES = ["keras fit", "ce", "mwnet_famus"]


pytestmark = pytest.mark.usefixtures("logging_as_before")


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


# What pictures in files cost.

TINY_SETTING = benchmark_contenders.Setting("small_cnn", 16, 10, 4, 1)


@pytest.fixture
def few_pictures(monkeypatch):
    monkeypatch.setattr(benchmark_input, "NUM_PICTURES", 10)
    monkeypatch.setattr(benchmark_input, "NUM_BATCHES_ALONE", 2)


def test_the_share_of_the_input_follows_from_the_times_and_is_shown(few_pictures, tmp_path, capsys):
    output = tmp_path / "figures.json"
    arguments = ["--input", "--model=small_cnn", "--image_size=16", "--batch_size=4", "--methods=ce"]
    assert run(*arguments, "--gated_variables=1", "--rounds=1", "--steps=2", f"--output={output}") == 0
    figures = json.loads(output.read_text())
    assert figures["setting"] == vars(TINY_SETTING)
    assert list(figures["contenders"]) == ["ce"]
    facts = figures["contenders"]["ce"]
    resident, fed = facts["resident_ms_per_step"], facts["fed_ms_per_step"]
    assert resident > 0
    assert facts["input_share"] == pytest.approx((fed - resident) / fed)
    assert facts["tracing_count"] == 1
    assert figures["pictures"]["count"] == 10
    assert capsys.readouterr().out == benchmark_input.table(figures) + "\n"


def test_resident_and_fed_steps_take_turns_and_medians_count(monkeypatch, tmp_path):
    order = []
    seconds = {
        ("ce", False): [9.0, 0.080, 0.100, 0.090], ("ce", True): [0.100, 0.999, 0.090],
        ("mwnet", False): [9.0, 0.2, 0.2, 0.2], ("mwnet", True): [0.160, 0.160, 0.160],
    }  # fmt: skip

    class Racer:
        tracing_count = 1

        def __init__(self, name, setting, pictures):
            self._name = name

        def run(self, num_steps, *, is_fed):
            order.append((self._name, is_fed, num_steps))
            return seconds[self._name, is_fed].pop(0)

    alone = iter([0.012, 0.500, 0.010])
    monkeypatch.setattr(benchmark_input, "FedContender", Racer)
    monkeypatch.setattr(benchmark_input, "NUM_PICTURES", 4)
    monkeypatch.setattr(benchmark_input, "seconds_per_batch_alone", lambda feed: next(alone))
    figures = benchmark_input.measure(["ce", "mwnet"], TINY_SETTING, tmp_path, 3, 5)
    turn = [("ce", False, 5), ("ce", True, 5), ("mwnet", False, 5), ("mwnet", True, 5)]
    assert order == [("ce", False, 1), ("mwnet", False, 1)] + 3 * turn
    ce, mwnet = figures["contenders"].values()
    assert (ce["resident_ms_per_step"], ce["fed_ms_per_step"]) == pytest.approx((90, 100))
    assert ce["input_share"] == pytest.approx(0.1)
    # What noise makes of a step that waits for nothing is not hidden.
    assert mwnet["input_share"] == pytest.approx(-0.25)
    assert figures["input_ms_per_batch"] == pytest.approx(12.0)
    lines = benchmark_input.table(figures | {"pictures": {"count": 4, "mean_bytes": 41_600.0}}).splitlines()
    assert lines == [
        "small_cnn, 16x16 pixels, batch 4 + 4, gates on 1 variables; medians of 3 turns of 5 steps, taken alternately",
        "4 JPEG files of 256 to 500 pixels a side, 42 kB on average, quality 90",
        "",
        "input pipeline alone: 12.0 ms per batch, 333 pictures per second",
        "",
        "ms/step         resident  from files    input",
        "ce                  90.0       100.0   10.0 %",
        "mwnet              200.0       160.0  -25.0 %",
        "",
        "traced more than once: none",
    ]


def test_fed_steps_read_ever_other_files_and_resident_ones_the_same_batch(monkeypatch, tmp_path):
    drawn = []

    class Loop:
        tracing_count = 1

        def __init__(self, method, strategy):
            pass

        def run(self, train_iterator, meta_iterator, num_steps):
            drawn.append([(next(train_iterator), next(meta_iterator)) for _ in range(num_steps)])

    monkeypatch.setattr(benchmark_input, "CompiledLoop", Loop)
    pictures = benchmark_input.make_pictures(tmp_path, 8, TINY_SETTING.image_size)
    racer = benchmark_input.FedContender("ce", TINY_SETTING, pictures)
    for is_fed in (False, True):
        drawn.clear()
        assert racer.run(3, is_fed=is_fed) > 0
        # One step that is not timed, and those that are, out of the same iterators.
        assert [len(steps) for steps in drawn] == [1, 3]
        steps = drawn[0] + drawn[1]
        assert all(batch["image"].shape == (4, 16, 16, 3) for pair in steps for batch in pair)
        assert all(batch["valid"].numpy().all() for pair in steps for batch in pair)
        rows = [tuple(train["index"].numpy()) for train, _ in steps]
        assert len(set(rows)) == (4 if is_fed else 1)
        images = [train["image"].numpy() for train, _ in steps]
        assert np.array_equal(images[0], images[3]) != is_fed


def test_batches_that_were_made_ahead_do_not_count(monkeypatch):
    clock = iter([100.0, 103.0])
    monkeypatch.setattr(benchmark_input, "NUM_BATCHES_ALONE", 6)
    monkeypatch.setattr(benchmark_input.time, "perf_counter", lambda: next(clock))
    feed = iter(range(16))
    assert benchmark_input.seconds_per_batch_alone(feed) == pytest.approx(0.5)
    assert list(feed) == []


def test_pictures_are_of_many_sizes_and_compress_as_photographs_do(tmp_path):
    pictures = benchmark_input.make_pictures(tmp_path, 12, 224)
    images = [tf.io.decode_jpeg(pictures.read_bytes(row)).numpy().astype(np.float64) for row in range(12)]
    assert len({image.shape for image in images}) > 1
    assert all(256 <= side <= 500 for image in images for side in image.shape[:2])
    # Photographs at this quality take some 1.5 to 3 bits per pixel, white noise 7.
    num_pixels = sum(image.shape[0] * image.shape[1] for image in images)
    assert 1.5 < 8 * pictures.stored_bytes().sum() / num_pixels < 3.0
    # Neighbours are alike and distant pixels are not, as nowhere in white noise.
    brightness = images[0].mean(axis=2)
    assert np.corrcoef(brightness[:, 1:].ravel(), brightness[:, :-1].ravel())[0, 1] > 0.9
    assert brightness.std() > 20


def test_measuring_the_input_has_defaults_of_its_own_which_typed_flags_replace():
    benchmark.parse_flags(["benchmark", "--input", "--batch_size=32"])
    values = {name: benchmark.FLAGS[name].value for name in ("model", "image_size", "batch_size", "methods", "steps")}
    assert values == {
        "model": "resnet50", "image_size": 224, "batch_size": 32, "methods": ["ce", "mwnet_famus"], "steps": 3,
    }  # fmt: skip


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
        (["--methods="], "--methods= names none; give some of ce, .*mwnet_famus.*, or leave it out.$"),
        (
            ["--output=/nope/x.json"],
            "--output=/nope/x.json is in a folder that does not exist; make it, or choose another.$",
        ),
        (["--output=/"], "--output=/ is a folder; give the path of a file, such as /figures.json.$"),
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
