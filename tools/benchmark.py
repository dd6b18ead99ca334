"""Measures what a step costs: plain training as stock Keras does it, our plain step, and methods, in one process.

All contenders train the same network on the same made-up images, take turns, and are compared by medians, so that the
ratios hold whatever else the machine does; lone times mean little. Peak memory is a whole process's, so each contender
gets a process of its own for it.

    python -m tools.benchmark --model=wrn-16-4 --batch_size=32 --methods=ce,mwnet,mwnet_famus,l2r,mlc

With --input it measures another thing: which share of a step goes to reading, decoding and augmenting pictures.

    python -m tools.benchmark --input
"""

import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile

from absl import flags

from famus_tf import entry_point, flag_table, quiet_start, registry
from famus_tf.errors import InputError
from tools import tool_flags

KERAS_FIT = "keras fit"
STAGES = ("virtual-train", "meta-train", "actual-train")
# In place of the flags' defaults: large enough to be like real training, small enough to take minutes on two cores.
INPUT_DEFAULTS = {
    "model": "resnet50", "image_size": 224, "batch_size": 8, "methods": ["ce", "mwnet_famus"], "steps": 3,
}  # fmt: skip

# Flags of its own: some are called as famus_tf.train's are, and one process may load both programs.
FLAGS = flags.FlagValues()
_MODEL = flags.DEFINE_string(
    "model", "wrn-16-4", "The network, a name as in --model of famus_tf.train.", flag_values=FLAGS
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 32, "Height and width of the made-up images, pixels.", lower_bound=4, flag_values=FLAGS
)
_NUM_CLASSES = flags.DEFINE_integer("num_classes", 10, "Number of classes.", lower_bound=2, flag_values=FLAGS)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 32, "Training batch; the meta batch is as large.", lower_bound=1, flag_values=FLAGS
)
_METHODS = flags.DEFINE_list(
    "methods", ["ce", "mwnet", "mwnet_famus", "l2r", "mlc"], "Methods; ce is always measured.", flag_values=FLAGS
)
_GATED = flags.DEFINE_string(
    "gated_variables", "15", "Gated variables of the *_famus methods, or 'all'.", flag_values=FLAGS
)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 5, "Turns that each contender takes; medians are over these.", lower_bound=1, flag_values=FLAGS
)
_STEPS = flags.DEFINE_integer("steps", 5, "Steps in a turn.", lower_bound=2, flag_values=FLAGS)
_INPUT = flags.DEFINE_boolean(
    "input",
    False,
    "Whether to measure what pictures in JPEG files cost, and nothing else; the defaults are then --model=resnet50"
    " --image_size=224 --batch_size=8 --methods=ce,mwnet_famus --steps=3.",
    flag_values=FLAGS,
)
_TIME = flags.DEFINE_boolean("time", True, "Whether to measure times.", flag_values=FLAGS)
_STAGES = flags.DEFINE_boolean(
    "stages", True, "Whether to split a method's step into its three stages.", flag_values=FLAGS
)
_MEMORY = flags.DEFINE_boolean(
    "memory", True, "Whether to measure peak memory, a process per contender.", flag_values=FLAGS
)
_MEMORY_BATCH_SIZE = flags.DEFINE_integer(
    "memory_batch_size", 128, "Training batch for peak memory.", lower_bound=1, flag_values=FLAGS
)
_OUTPUT = flags.DEFINE_string("output", None, "A JSON file for the figures.", flag_values=FLAGS)
_ONLY_MEMORY_OF = flags.DEFINE_string(
    "only_memory_of", None, "Internal: print one contender's peak memory in MB.", flag_values=FLAGS
)


def main(argv: list[str]) -> None:
    """Measures and prints."""
    if tool_flags.asks_for_help(argv):
        print(f"{__doc__}\n{FLAGS.get_help()}")
        return
    parse_flags(argv)
    quiet_start.import_tensorflow(show_chatter=False)
    from tools import benchmark_contenders as contenders

    setting = contenders.Setting(
        model=_MODEL.value,
        image_size=_IMAGE_SIZE.value,
        num_classes=_NUM_CLASSES.value,
        batch_size=_BATCH_SIZE.value,
        gated_variables=gated_variables(),
    )
    if _ONLY_MEMORY_OF.value:
        contenders.make(_ONLY_MEMORY_OF.value, setting).run(_STEPS.value)
        print(own_peak_memory_mb())
        return
    if _INPUT.value:
        from tools import benchmark_input

        with tempfile.TemporaryDirectory() as folder:
            figures = benchmark_input.measure(
                _METHODS.value, setting, pathlib.Path(folder), _ROUNDS.value, _STEPS.value
            )
        print(benchmark_input.table(figures))
        write(figures)
        return
    names = [KERAS_FIT, "ce", *(name for name in _METHODS.value if name != "ce")]
    figures = {"setting": vars(setting), "contenders": {name: {} for name in names}}
    if _TIME.value:
        contenders.measure_times(names, setting, _ROUNDS.value, _STEPS.value, _STAGES.value, figures)
        add_ratios(figures["contenders"], "ms_per_step")
        print_times(figures, names)
    if _MEMORY.value:
        for name in names:
            figures["contenders"][name]["peak_memory_mb"] = peak_memory_mb(name)
        figures["memory_batch_size"] = _MEMORY_BATCH_SIZE.value
        add_ratios(figures["contenders"], "peak_memory_mb")
        print_memory(figures, names)
    write(figures)


def write(figures: dict) -> None:
    """Writes the figures to --output, if that is set."""
    if _OUTPUT.value:
        pathlib.Path(_OUTPUT.value).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def own_peak_memory_mb() -> float:
    """The most memory this process has held, in MB.

    Where the system tells it of this program alone: `getrusage` would count the parent's memory too, which a child
    holds between fork and exec.
    """
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8")).group(1)) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def parse_flags(argv: list[str]) -> None:
    """Reads the command line and checks what can be checked before anything is measured.

    Raises:
        InputError: On an unknown flag, a wrong value, a network or method that there is not, or an output that cannot
            be written.
    """
    if behind := tool_flags.parse(argv, FLAGS):
        raise InputError(f"Nothing is expected behind --; got {behind[0]!r}.")
    if _INPUT.value:
        for name, value in INPUT_DEFAULTS.items():
            if not FLAGS[name].present:
                FLAGS[name].value = value
    registry.check_model_name(_MODEL.value, "--model")
    if not _METHODS.value:
        raise InputError(f"--methods= names none; give some of {', '.join(registry.method_names())}, or leave it out.")
    for name in _METHODS.value:
        registry.check_method_name(name, "Each of --methods")
    gated_variables()
    if _OUTPUT.value:
        output = pathlib.Path(_OUTPUT.value)
        if not output.parent.is_dir():
            raise InputError(f"--output={output} is in a folder that does not exist; make it, or choose another.")
        if output.is_dir():
            raise InputError(
                f"--output={output} is a folder; give the path of a file, such as {output / 'figures.json'}."
            )


def gated_variables() -> int:
    """The number of gated variables; 0 stands for all.

    Raises:
        InputError: If the flag says neither a number nor "all".
    """
    return flag_table.from_text(flag_table.BY_NAME["gated_variables"], _GATED.value)


def add_ratios(contenders: dict[str, dict], figure: str) -> None:
    """Puts beside each contender's figure its ratios to stock Keras' and to `ce`'s."""
    for facts in contenders.values():
        for other in (KERAS_FIT, "ce"):
            facts[f"{figure}_to_{other.replace(' ', '_')}"] = facts[figure] / contenders[other][figure]


def peak_memory_mb(name: str) -> float:
    """The peak resident memory of a process that trains a few steps, MB.

    Freed memory goes back to the system at once there (two settings of the C library), so that the peak is what was in
    use and not what the allocator kept.
    """
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "100000", "MALLOC_MMAP_THRESHOLD_": "100000"}
    command = [
        sys.executable, "-m", "tools.benchmark", f"--only_memory_of={name}", f"--batch_size={_MEMORY_BATCH_SIZE.value}",
        f"--model={_MODEL.value}", f"--image_size={_IMAGE_SIZE.value}", f"--num_classes={_NUM_CLASSES.value}",
        f"--gated_variables={_GATED.value}", "--steps=3",
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
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
        facts, stages = of[name], of[name].get("stages_ms", {})
        columns = "  ".join(f"{stages[stage]:>{len(stage)}.0f}" for stage in STAGES) if stages else ""
        print(
            f"{name:<14}{facts['ms_per_step']:>9.1f}{facts['ms_per_step_to_keras_fit']:>13.2f}"
            f"{facts['ms_per_step_to_ce']:>8.2f}{facts['tracing_seconds']:>11.1f}   {columns}"
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
        facts = of[name]
        print(
            f"{name:<14}{facts['peak_memory_mb']:>9.0f}{facts['peak_memory_mb_to_keras_fit']:>13.2f}"
            f"{facts['peak_memory_mb_to_ce']:>8.2f}"
        )


if __name__ == "__main__":
    sys.exit(entry_point.run(main, sys.argv))
