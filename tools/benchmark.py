"""Measures what a step costs: plain training as stock Keras does it, our plain step, and methods, in one process.

All contenders train the same network on the same made-up images, take turns, and are compared by medians, so that the
ratios hold whatever else the machine does; lone times mean little. Peak memory is a whole process's, so each contender
gets a process of its own for it.

    python -m tools.benchmark --model=wrn-16-4 --batch_size=32 --methods=ce,mwnet,mwnet_famus,l2r,mlc
"""

import json
import pathlib
import resource
import subprocess
import sys

from absl import app, flags

from famus_tf import quiet_start
from famus_tf.errors import InputError

KERAS_FIT = "keras fit"
STAGES = ("virtual-train", "meta-train", "actual-train")

_MODEL = flags.DEFINE_string("model", "wrn-16-4", "The network, a name as in --model of famus_tf.train.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 32, "Height and width of the made-up images, pixels.", lower_bound=4)
_NUM_CLASSES = flags.DEFINE_integer("num_classes", 10, "Number of classes.", lower_bound=2)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Training batch; the meta batch is as large.", lower_bound=1)
_METHODS = flags.DEFINE_list("methods", ["ce", "mwnet", "mwnet_famus", "l2r", "mlc"], "Methods; ce is always measured.")
_GATED = flags.DEFINE_string("gated_variables", "15", "Gated variables of the *_famus methods, or 'all'.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns that each contender takes; medians are over these.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 5, "Steps in a turn.", lower_bound=2)
_TIME = flags.DEFINE_boolean("time", True, "Whether to measure times.")
_STAGES = flags.DEFINE_boolean("stages", True, "Whether to split a method's step into its three stages.")
_MEMORY = flags.DEFINE_boolean("memory", True, "Whether to measure peak memory, a process per contender.")
_MEMORY_BATCH_SIZE = flags.DEFINE_integer("memory_batch_size", 128, "Training batch for peak memory.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", None, "A JSON file for the figures.")
_ONLY_MEMORY_OF = flags.DEFINE_string("only_memory_of", None, "Internal: print one contender's peak memory in MB.")


def main(argv):
    """Measures and prints."""
    if argv[1:]:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}. All options start with --.")
    quiet_start.import_tensorflow(show_chatter=False)
    from tools import benchmark_contenders as contenders

    setting = contenders.Setting(
        model=_MODEL.value, image_size=_IMAGE_SIZE.value, num_classes=_NUM_CLASSES.value, batch_size=_BATCH_SIZE.value,
        gated_variables=0 if _GATED.value == "all" else int(_GATED.value),
    )  # fmt: skip
    if _ONLY_MEMORY_OF.value:
        contenders.make(_ONLY_MEMORY_OF.value, setting).run(_STEPS.value)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    names = [KERAS_FIT, "ce", *(name for name in _METHODS.value if name != "ce")]
    figures = {"setting": vars(setting), "contenders": {name: {} for name in names}}
    if _TIME.value:
        contenders.measure_times(names, setting, _ROUNDS.value, _STEPS.value, _STAGES.value, figures)
        print_times(figures, names)
    if _MEMORY.value:
        for name in names:
            figures["contenders"][name]["peak_memory_mb"] = peak_memory_mb(name)
        figures["memory_batch_size"] = _MEMORY_BATCH_SIZE.value
        print_memory(figures, names)
    if _OUTPUT.value:
        pathlib.Path(_OUTPUT.value).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def peak_memory_mb(name: str) -> float:
    """The peak resident memory of a process that trains a few steps, MB."""
    command = [
        sys.executable, "-m", "tools.benchmark", f"--only_memory_of={name}", f"--batch_size={_MEMORY_BATCH_SIZE.value}",
        f"--model={_MODEL.value}", f"--image_size={_IMAGE_SIZE.value}", f"--num_classes={_NUM_CLASSES.value}",
        f"--gated_variables={_GATED.value}", "--steps=3",
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"Measuring the memory of {name!r} failed:\n{result.stderr[-2000:]}")
    return float(result.stdout.split()[-1])


def print_times(figures: dict, names: list[str]) -> None:
    """Prints times, ratios and stages."""
    of = figures["contenders"]
    setting = figures["setting"]
    size = setting["image_size"]
    print(
        f"{setting['model']}, {size}x{size} pixels, batch {setting['batch_size']} + {setting['batch_size']},"
        f" gates on {setting['gated_variables'] or 'all'} variables; medians of {figures['rounds']} turns of"
        f" {figures['steps']} steps, taken alternately\n"
    )
    print(f"{'':<14}{'ms/step':>9}{'x keras fit':>13}{'x ce':>8}{'tracing s':>11}   " + "  ".join(STAGES) + "  (ms)")
    for name in names:
        ms = of[name]["ms_per_step"]
        stages = of[name].get("stages_ms", {})
        columns = "  ".join(f"{stages[stage]:>{len(stage)}.0f}" for stage in STAGES) if stages else ""
        print(
            f"{name:<14}{ms:>9.1f}{ms / of[KERAS_FIT]['ms_per_step']:>13.2f}{ms / of['ce']['ms_per_step']:>8.2f}"
            f"{of[name]['tracing_seconds']:>11.1f}   {columns}"
        )
    share = figures["input_ms_per_batch"] / of["ce"]["ms_per_step"]
    print(f"\ninput pipeline alone: {figures['input_ms_per_batch']:.2f} ms per batch, {100 * share:.1f} % of a ce step")
    retraced = [name for name in names if of[name].get("tracing_count", 1) != 1]
    print(f"traced more than once: {', '.join(retraced) or 'none'}\n")


def print_memory(figures: dict, names: list[str]) -> None:
    """Prints peak memory and ratios."""
    of = figures["contenders"]
    batch = figures["memory_batch_size"]
    print(f"peak memory of the process, batch {batch} + {batch}\n\n{'':<14}{'MB':>9}{'x keras fit':>13}{'x ce':>8}")
    for name in names:
        mb = of[name]["peak_memory_mb"]
        print(
            f"{name:<14}{mb:>9.0f}{mb / of[KERAS_FIT]['peak_memory_mb']:>13.2f}{mb / of['ce']['peak_memory_mb']:>8.2f}"
        )


def run(argv):
    """`main`, with a sentence instead of a traceback for a mistake."""
    try:
        main(argv)
    except InputError as mistake:
        print(f"Error: {mistake}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(run)
