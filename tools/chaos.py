"""Kills a training run again and again and looks whether the result is the same as without.

    python -m tools.chaos --minutes=10
    python -m tools.chaos --kills=50

A run is killed (SIGKILL) at random moments while it trains, and the same command is given again, until it has finished;
then a new round begins, until there were enough kills. A checkpoint is written after every call of the compiled loop,
so that many kills meet a checkpoint half-written. At each round's end the weights, the state of all optimizers and the
figures must be those of a run that nobody disturbed, bit for bit, and no half-written file may be left. What stands
behind `--` goes to every run. The exit code is 1 if anything differs.

Each run is a process of its own, forked from one that has imported TensorFlow and done nothing else: a start takes a
second instead of ten.
"""

import contextlib
import dataclasses
import json
import multiprocessing
import multiprocessing.forkserver
import os
import pathlib
import random
import re
import sys
import tempfile
import time

import numpy as np
from absl import flags

from famus_tf import entry_point, quiet_start
from tools import tool_flags

RUN = (
    "--dataset=digits", "--method=mwnet_famus", "--num_train=200", "--batch_size=20", "--meta_batch_size=20",
    "--epochs=40", "--steps_per_call=2", "--checkpoint_interval_s=1e-6",
)  # fmt: skip
TIMEOUT_S = 600.0
# Figures that depend on the clock.
TIMES = ("seconds_per_step", "tracing_seconds", "timed_steps", "timed_seconds")
TOP_FILES = {
    "flags.txt", "labels.csv", "results.json", "model.keras", "checkpoints", "tensorboard", "nonfinite.jsonl",
    "bad_pictures.csv",
}  # fmt: skip

FLAGS = flags.FlagValues()
_MINUTES = flags.DEFINE_float(
    "minutes", 5.0, "How long to go on killing; a round that has begun is finished.", lower_bound=0.0, flag_values=FLAGS
)
_KILLS = flags.DEFINE_integer(
    "kills", None, "How many kills there shall be, instead of --minutes.", lower_bound=1, flag_values=FLAGS
)
_CHAOS_SEED = flags.DEFINE_integer("chaos_seed", 0, "Of the moments.", flag_values=FLAGS)


@dataclasses.dataclass
class Report:
    """What happened.

    Attributes:
        kills: Of runs that were training.
        kills_while_saving: Those of them that left a checkpoint half-written.
        starts: Of runs, the undisturbed one not counted.
        rounds: Runs that were brought to their end.
        faults: Sentences, one for each thing that was not as it should be.
    """

    kills: int = 0
    kills_while_saving: int = 0
    starts: int = 0
    rounds: int = 0
    faults: list[str] = dataclasses.field(default_factory=list)

    def lines(self) -> list[str]:
        """For a person."""
        verdict = "no: " + "; ".join(self.faults) if self.faults else "yes, bit for bit"
        return [
            f"{self.kills} kills ({self.kills_while_saving} while a checkpoint was being written),"
            f" {self.starts} starts, {self.rounds} runs brought to their end.",
            f"Do weights, optimizers and figures agree with the undisturbed run? {verdict}.",
        ]


class Launcher:
    """Starts `famus_tf.train` in processes forked from one that has imported everything already."""

    def __init__(self):
        """Starts that process."""
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["famus_tf.training_job", "famus_tf.train", "sklearn.datasets"])
        with _stderr_to(os.devnull):
            multiprocessing.forkserver.ensure_running()

    def start(self, arguments, log: pathlib.Path):
        """A running `python -m famus_tf.train`.

        Args:
            arguments: Flags.
            log: Where its standard output and error go, added to what is there.

        Returns:
            The `multiprocessing.Process`; its `exitcode` is the program's.
        """
        process = self._context.Process(target=_train, args=(list(arguments), str(log)))
        process.start()
        return process

    def finish(self, arguments, log: pathlib.Path) -> int:
        """Runs it to its end and returns the exit code."""
        process = self.start(arguments, log)
        process.join(TIMEOUT_S)
        process.kill()
        process.join()
        return process.exitcode


def _train(arguments: list[str], log: str) -> None:
    """What a forked process does."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    from famus_tf import entry_point, train

    sys.exit(entry_point.run(train.main, ["famus_tf.train", *arguments]))


@contextlib.contextmanager
def _stderr_to(path):
    """TensorFlow's C++ side writes to the process's standard error while it is imported."""
    former = os.dup(2)
    with open(path, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(former, 2)
        os.close(former)


def torture(
    folder: pathlib.Path,
    launcher: Launcher,
    *,
    kills: int | None = None,
    minutes: float = 0.0,
    arguments=RUN,
    seed: int = 0,
) -> Report:
    """Kills runs until there were enough kills, or the time is over, and compares what they end with.

    Args:
        folder: For the runs; one in it called "undisturbed" is not made again.
        launcher: Starts them.
        kills: How many.
        minutes: How long, where `kills` is None.
        arguments: Flags of every run.
        seed: Of the moments.
    """
    report, draw = Report(), random.Random(seed)
    undisturbed = folder / "undisturbed"
    is_there = (undisturbed / "model.keras").exists()
    if not is_there and launcher.finish([*arguments, f"--model_dir={undisturbed}"], folder / "undisturbed.log"):
        report.faults.append(f"the undisturbed run failed, see {folder}/undisturbed.log")
        return report
    training_s = results_of(undisturbed)["steps"] * results_of(undisturbed)["seconds_per_step"]
    end = time.monotonic() + 60.0 * minutes

    def is_enough():
        return report.kills >= kills if kills is not None else time.monotonic() >= end

    while not report.faults and (not report.rounds or not is_enough()):
        disturbed = folder / f"round{report.rounds}"
        code = None
        while code is None:
            delay_s = None if is_enough() else draw.uniform(0.0, training_s / 4)
            code = one_start(launcher, [*arguments, f"--model_dir={disturbed}"], disturbed, delay_s, report)
        report.rounds += 1
        if code:
            report.faults.append(f"a run ended with exit code {code}, see {disturbed}.log")
        else:
            report.faults += differences(undisturbed, disturbed) + litter(disturbed)
    return report


def one_start(launcher, arguments, folder: pathlib.Path, delay_s: float | None, report: Report) -> int | None:
    """Starts a run and kills it some time after it has begun to train.

    Args:
        launcher: A `Launcher`.
        arguments: Flags.
        folder: Its run folder.
        delay_s: From its first new checkpoint to the kill; None lets it live.
        report: Is kept up to date.

    Returns:
        The exit code of a run that ended by itself, None of one that was killed.
    """
    report.starts += 1
    before = newest_step(folder)
    process = launcher.start(arguments, folder.with_suffix(".log"))
    deadline = time.monotonic() + TIMEOUT_S
    while delay_s is not None and process.exitcode is None and newest_step(folder) == before:
        time.sleep(0.002)
        if time.monotonic() > deadline:
            break
    process.join(TIMEOUT_S if delay_s is None else delay_s)
    if process.exitcode is None:
        process.kill()
        process.join()
    if process.exitcode != -9:
        return process.exitcode
    report.kills += 1
    report.kills_while_saving += any(folder.glob("checkpoints/saving-*"))
    return None


def newest_step(folder: pathlib.Path) -> int:
    """The step of a run's newest checkpoint, -1 without one."""
    found = (re.fullmatch(r"ckpt-(\d+)\.index", path.name) for path in folder.glob("checkpoints/ckpt-*.index"))
    return max((int(match[1]) for match in found if match), default=-1)


def results_of(folder: pathlib.Path) -> dict:
    """results.json."""
    from famus_tf.runs.run_folder import RunFolder

    return RunFolder(folder).read_results()


def differences(one: pathlib.Path, other: pathlib.Path) -> list[str]:
    """What two finished run folders do not share, bit for bit: the model, the newest checkpoint, the figures.

    Args:
        one: A run folder.
        other: Another, made by the same flags.

    Returns:
        Sentences; none if they agree.
    """
    import keras
    import tensorflow as tf

    found = []
    left, right = (keras.saving.load_model(folder / "model.keras").get_weights() for folder in (one, other))
    if not _are_equal(left, right):
        found.append(f"model.keras of {one.name} and {other.name} differ")
    if newest_step(one) != newest_step(other):
        return [*found, f"{one.name} and {other.name} end at other steps"]
    readers = [
        tf.train.load_checkpoint(str(folder / f"checkpoints/ckpt-{newest_step(one)}")) for folder in (one, other)
    ]
    for name in readers[0].get_variable_to_shape_map():
        values = [_timeless(reader.get_tensor(name)) for reader in readers]
        if not _are_equal(*values):
            found.append(f"{name} differs in the checkpoints of {one.name} and {other.name}")
    left, right = results_of(one), results_of(other)
    for name in sorted(left.keys() | right.keys()):
        if name not in (*TIMES, "flags") and left.get(name) != right.get(name):
            found.append(f"{name!r} differs in results.json of {one.name} and {other.name}")
    return found


def _timeless(value):
    """A value of a checkpoint as an array, the facts on the host without those that depend on the clock."""
    if isinstance(value, bytes) and value.startswith(b"{"):
        facts = {name: fact for name, fact in json.loads(value).items() if name not in TIMES}
        value = json.dumps(facts, sort_keys=True).encode()
    return np.asarray(value)


def _are_equal(left, right) -> bool:
    """Whether two arrays, or lists of arrays, hold the same bits (a NaN equals itself)."""
    if isinstance(left, list):
        return len(left) == len(right) and all(map(_are_equal, left, right))
    return left.shape == right.shape and left.dtype == right.dtype and left.tobytes() == right.tobytes()


def litter(folder: pathlib.Path) -> list[str]:
    """Sentences about files in a finished run folder that do not belong there."""
    in_checkpoints = {path.name for path in (folder / "checkpoints").iterdir()}
    strangers = {path.name for path in folder.iterdir()} - TOP_FILES
    strangers |= {name for name in in_checkpoints if not re.fullmatch(r"ckpt-\d+\.(index|data-\d+-of-\d+)", name)}
    if len(in_checkpoints) > 4:
        strangers |= in_checkpoints
    return [f"{folder.name} holds {name}" for name in sorted(strangers)]


def main(argv: list[str]) -> None:
    """Tortures and prints.

    Raises:
        InputError: If a flag is wrong.
        ProgramEnd: With exit code 1, if anything differs.
    """
    if tool_flags.asks_for_help(argv):
        print(f"{__doc__}\n{FLAGS.get_help()}")
        return
    arguments = [*RUN, *tool_flags.parse(argv, FLAGS)]
    quiet_start.import_tensorflow(show_chatter=False)  # for the comparison
    with tempfile.TemporaryDirectory(prefix="famus_chaos.") as folder:
        report = torture(
            pathlib.Path(folder), Launcher(), kills=_KILLS.value, minutes=_MINUTES.value, arguments=arguments,
            seed=_CHAOS_SEED.value,
        )  # fmt: skip
        print("\n".join(report.lines()))
        for log in sorted(pathlib.Path(folder).glob("*.log")) if report.faults else ():
            print(f"--- the end of {log.name}:", *log.read_text(errors="replace").splitlines()[-20:], sep="\n")
    if report.faults:
        raise entry_point.ProgramEnd("The runs do not agree.", exit_code=1)


if __name__ == "__main__":
    sys.exit(entry_point.run(main, sys.argv))
