"""Commands to suggest to a user, as text to be copied."""

import shlex

from famus_tf import flag_table

PLAIN_METHOD = "ce"
WEIGHTING_METHOD = "mwnet_famus"
# What a typed --flagfile (a run's flags.txt, say) may set and the other method must have otherwise.
AFTER_FLAGFILE = {
    PLAIN_METHOD: ("--meta_model=none", "--layer_sampler=all", "--model_dir="),
    WEIGHTING_METHOD: ("--meta_model=mwnet", "--layer_sampler=famus", "--model_dir="),
}
# They mean nothing to plain training, or (model_dir) would put two runs into one folder.
DROPPED_GROUPS = ("Method", "Layer sampler")
DROPPED_FLAGS = ("method", "model_dir")


def comparison(typed: list[str], method: str) -> str:
    """The command that runs the same job by plain training, or by FaMUS where it was plain training.

    Args:
        typed: What the user typed, without the program's name.
        method: What was run.
    """
    dropped = {flag.name for flag in flag_table.FLAGS if flag.group in DROPPED_GROUPS} | set(DROPPED_FLAGS)
    kept, skips_value = [], False
    for argument in typed:
        if skips_value and not argument.startswith("-"):
            skips_value = False
            continue
        name, equals, _ = argument.lstrip("-").partition("=")
        is_dropped = name in dropped or name.removeprefix("no") in dropped
        skips_value = is_dropped and not equals
        if not is_dropped:
            kept.append(argument)
    other = PLAIN_METHOD if method != PLAIN_METHOD else WEIGHTING_METHOD
    has_flagfile = any(argument.lstrip("-").partition("=")[0] == "flagfile" for argument in kept)
    more = AFTER_FLAGFILE[other] if has_flagfile else ()
    return shlex.join(["python", "-m", "famus_tf.train", *kept, f"--method={other}", *more])
