"""Compares methods over noise rates and seeds: runs what is missing, and makes the table from the run files.

    python -m tools.compare --methods=ce,mwnet,mwnet_famus --noise_rates=0.4,0.6 --seeds=0,1,2

What stands behind `--` goes to every run, for example `-- --dataset=cifar10 --data_dir=DIR --epochs=20`. A run that is
finished in its folder is not run again, so a stopped comparison goes on where it stood.
"""

import json
import pathlib
import statistics
import subprocess
import sys

from absl import flags

from famus_tf import entry_point, registry
from famus_tf.errors import InputError
from tools import tool_flags

COLUMNS = {"last_epoch": "last epoch", "best_on_validation": "best on validation", "best_on_test": "best on test"}

FLAGS = flags.FlagValues()
_METHODS = flags.DEFINE_list(
    "methods", ["ce", "mwnet", "mwnet_famus", "l2r", "mlc"], "Methods, as in --method.", flag_values=FLAGS
)
_NOISE_RATES = flags.DEFINE_list("noise_rates", ["0.4", "0.6"], "Noise rates, as in --noise_rate.", flag_values=FLAGS)
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds, as in --seed.", flag_values=FLAGS)
_FOLDER = flags.DEFINE_string("folder", "runs/comparison", "Where the run folders go.", flag_values=FLAGS)


def main(argv: list[str]) -> None:
    """Runs and prints.

    Raises:
        InputError: If a flag is wrong, or a run fails.
    """
    if tool_flags.asks_for_help(argv):
        print(f"{__doc__}\n{FLAGS.get_help()}")
        return
    extra = tool_flags.parse(argv, FLAGS)
    for name in _METHODS.value:
        registry.check_method_name(name, "Each of --methods")
    rows = []
    for rate in _NOISE_RATES.value:
        for method in _METHODS.value:
            results = [finished_run(method, rate, seed, extra) for seed in _SEEDS.value]
            rows.append((rate, method, results))
    print("\n" + table(rows))


def finished_run(method: str, rate: str, seed: str, extra: list[str]) -> dict:
    """The results of one run, made now unless they are there.

    Raises:
        InputError: If the run fails; its own message has been shown.
    """
    folder = pathlib.Path(_FOLDER.value) / f"{method}-{rate}-seed{seed}"
    command = [
        sys.executable, "-m", "famus_tf.train", *extra, f"--method={method}", f"--noise_rate={rate}", f"--seed={seed}",
        f"--model_dir={folder}",
    ]  # fmt: skip
    results = read(folder / "results.json")
    if results is None or not results["finished"]:
        print(f"{method}, noise {rate}, seed {seed} ...", flush=True)
        if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
            raise InputError(f"The run in {folder} failed; see above. The command was: {' '.join(command[1:])}")
        results = read(folder / "results.json")
    return results


def read(path: pathlib.Path) -> dict | None:
    """The contents of a results.json, or None if it is not there."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def table(rows: list[tuple[str, str, list[dict]]]) -> str:
    """A Markdown table of test accuracies in percent, mean ± standard deviation over seeds.

    Args:
        rows: (noise rate, method, results of each seed).
    """
    lines = [
        "| noise | method | " + " | ".join(COLUMNS.values()) + " | ms per step |",
        "|---|---|" + "---|" * len(COLUMNS) + "---|",
    ]
    for rate, method, results in rows:
        cells = []
        for column in COLUMNS:
            values = [100 * r["accuracy"][column]["test_accuracy"] for r in results if column in r["accuracy"]]
            cells.append(spread(values) if len(values) == len(results) else "")
        ms = statistics.median(1e3 * r["seconds_per_step"] for r in results)
        lines.append(f"| {rate} | {method} | " + " | ".join(cells) + f" | {ms:.0f} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean ± sample standard deviation; the value alone where there is one."""
    mean = statistics.fmean(values)
    return f"{mean:.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"


if __name__ == "__main__":
    sys.exit(entry_point.run(main, sys.argv))
