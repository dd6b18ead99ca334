"""The command line: every flag as an absl flag, the recipes put before what was typed, and the records made of both.

Beside the entry points this is the only module that knows absl's flags. What flags there are is in `flag_table.py`.
"""

import contextlib
from collections.abc import Iterator, Sequence

from absl import flags

from famus_tf import flag_table, help_screen, recipe_files, registry, settings
from famus_tf.config import Config, DataConfig, MethodConfig, RunConfig, nearest_hint
from famus_tf.errors import InputError

RESULT_FREE_FLAGS = (
    "data_dir",
    "imagenet_dir",
    "max_bad_fraction",
    "model_dir",
    "num_replicas",
    "strategy",
    "on_nonfinite",
    "steps_per_call",
    "checkpoint_interval_s",
)
"""Flags that may differ between a run and its continuation; `--verbosity` (absl's) is no flag of ours."""

_HELP = ("help", "helpshort", "helpfull", "h", "?")
# Of two flags that say the same in other units the later one given wins: setting the first unsets the second.
_UNSETS = (("epochs", "train_steps"), ("decay_epochs", "decay_steps"), ("decay_steps", "decay_epochs"))


class _Parser(flags.ArgumentParser):
    """Lets absl read a flag as everything else here does."""

    def __init__(self, flag: flag_table.Flag):
        self._flag = flag

    def parse(self, argument):
        """Returns the value of a text; a value that is none (a default) stays."""
        if not isinstance(argument, str):
            return argument
        return flag_table.from_text(self._flag, argument)

    def flag_type(self):
        """Returns the kind's name, which absl shows in its own listings."""
        return self._flag.kind


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines every flag, unless that is already done.

    Args:
        flag_values: Where; the process's own, or a fresh one.
    """
    for flag in flag_table.FLAGS:
        if flag.name not in flag_values:
            parser, is_switch = _Parser(flag), flag.kind == "switch"
            flags.DEFINE_flag(
                flags.Flag(parser, None, flag.name, flag.default, flag.help, boolean=is_switch),
                flag_values,
            )


def parse_flags(argv: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses the command line and checks every value that can be checked without data.

    The recipes of the dataset and method that are typed (or in a typed `--flagfile`, or the default) come first, so
    that what is typed wins over them.

    Args:
        argv: The program's name and what was typed.
        flag_values: Where the values go.

    Returns:
        The program's name alone.

    Raises:
        InputError: On an unknown flag, a word that is no flag, an unreadable `--flagfile`, a wrong value or values that
            do not go together.
    """
    program, typed = argv[0], _expanded(argv[1:])
    chosen = _parsed(typed, known_only=True)
    arguments = _with_resets([*_recipe_arguments(chosen), *typed])
    define_flags(flag_values)
    flag_values.set_gnu_getopt(True)
    with _explained():
        words = flag_values([program, *arguments])[1:]
    if words:
        raise InputError(
            f"{words[0]!r} is not a flag; flags are written --name=value, and switches --name or --noname."
        )
    registry.check_model_name(flag_values["model"].value, "--model")
    settings.check(values(flag_values))
    return [program]


def asks_for_help(argv: Sequence[str]) -> bool:
    """Returns whether `--help`, `--helpshort`, `--helpfull` or `-h` was typed."""
    names = {argument.lstrip("-").partition("=")[0] for argument in argv[1:] if argument.startswith("-")}
    return not names.isdisjoint(_HELP)


def help_text(argv: Sequence[str]) -> str:
    """Returns the help screen, with the defaults that the recipes of the typed dataset and method give.

    Args:
        argv: The program's name and what was typed.

    Raises:
        InputError: If the dataset or method is unknown, or a `--flagfile` cannot be read.
    """
    chosen = _parsed(_expanded(argv[1:]), known_only=True)
    shown = _parsed(_with_resets(_recipe_arguments(chosen)))
    for name in ("dataset", "method"):
        shown[name].value = chosen[name].value
    return help_screen.render(values(shown))


def typed_flags(argv: Sequence[str]) -> dict[str, object]:
    """Returns {name: value} of every flag of ours from what was typed (and typed `--flagfile`s) alone, no recipes.

    Args:
        argv: The program's name and what was typed. Unknown flags are passed over; `parse_flags` refuses them.

    Raises:
        InputError: If a value is not of its flag's kind, or a `--flagfile` cannot be read.
    """
    return values(_parsed(_expanded(argv[1:]), known_only=True))


def values(flag_values: flags.FlagValues = flags.FLAGS) -> dict[str, object]:
    """Returns {name: value} of every flag of ours.

    Args:
        flag_values: Parsed flags.
    """
    return {name: flag_values[name].value for name in flag_table.BY_NAME}


def data_config(flag_values: flags.FlagValues = flags.FLAGS) -> DataConfig:
    """Returns the record of the data from parsed flags."""
    return settings.data_config(values(flag_values))


def run_config(flag_values: flags.FlagValues = flags.FLAGS) -> RunConfig:
    """Returns the record of the run from parsed flags."""
    return settings.run_config(values(flag_values))


def model_name(flag_values: flags.FlagValues = flags.FLAGS) -> str:
    """Returns the network's name from parsed flags."""
    return flag_values["model"].value


def method_config(steps_per_epoch: int | None = None, flag_values: flags.FlagValues = flags.FLAGS) -> MethodConfig:
    """Returns the record of the method from parsed flags.

    Args:
        steps_per_epoch: Turns `--decay_epochs` into steps; known once the data are loaded.
        flag_values: Parsed flags.

    Raises:
        ValueError: If `--decay_epochs` is set and `steps_per_epoch` is None.
    """
    return settings.method_config(values(flag_values), steps_per_epoch)


def config(steps_per_epoch: int | None = None, flag_values: flags.FlagValues = flags.FLAGS) -> Config:
    """Returns everything from parsed flags; the arguments are those of `method_config`."""
    return Config(
        data=data_config(flag_values),
        model=model_name(flag_values),
        weights=flag_values["weights"].value,
        method=method_config(steps_per_epoch, flag_values),
        run=run_config(flag_values),
    )


def flag_lines(flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Returns what `flags.txt` holds: a `--name=value` line for every flag that has a value.

    Given as a `--flagfile`, the lines bring back every value. Of `--epochs` and `--train_steps`, and of
    `--decay_epochs` and `--decay_steps`, only the one that counted is written.

    Args:
        flag_values: Parsed flags.
    """
    effective = values(flag_values)
    effective["model_dir"] = run_config(flag_values).model_dir
    left_out = {name for name, value in effective.items() if value is None}
    left_out.add("decay_steps" if effective["decay_epochs"] else "decay_epochs")
    if effective["train_steps"] is not None:
        left_out.add("epochs")
    return [
        f"--{flag.name}={flag_table.to_text(flag, effective[flag.name])}"
        for flag in flag_table.FLAGS
        if flag.name not in left_out
    ]


def differing_flags(old_lines: Sequence[str], new_lines: Sequence[str]) -> list[tuple[str, str, str]]:
    """Compares two runs' `flag_lines` in all that changes results.

    Args:
        old_lines: Of an existing run folder. A flag that is not in them counts as its default.
        new_lines: Of the run to come.

    Returns:
        (name, old value, new value) of each flag that differs, as texts, in the order of the help screen; flags that
        no longer exist come last.
    """
    old, new = _texts(old_lines), _texts(new_lines)
    unknown = sorted((old.keys() | new.keys()) - flag_table.BY_NAME.keys())
    differing = []
    for name in [*flag_table.BY_NAME, *unknown]:
        flag = flag_table.BY_NAME.get(name)
        default = flag_table.to_text(flag, flag.default) if flag else ""
        pair = old.get(name, default), new.get(name, default)
        if name not in RESULT_FREE_FLAGS and pair[0] != pair[1]:
            differing.append((name, *pair))
    return differing


def _texts(lines: Sequence[str]) -> dict[str, str]:
    """{name: value as `to_text` writes it} of `--name=value` lines; comments and empty lines do not count."""
    texts = {}
    for line in lines:
        name, equals, text = line.strip().removeprefix("--").partition("=")
        if line.strip().startswith("--") and equals:
            flag = flag_table.BY_NAME.get(name)
            with contextlib.suppress(InputError):  # an unreadable value differs as it stands
                text = flag_table.to_text(flag, flag_table.from_text(flag, text)) if flag else text
            texts[name] = text
    return texts


def _expanded(arguments: Sequence[str]) -> list[str]:
    """The arguments with the lines of each `--flagfile` in its place."""
    reader = flags.FlagValues()
    define_flags(reader)
    with _explained():
        expanded = reader.read_flags_from_files(list(arguments))
    return [argument for argument in expanded if argument != "--"]  # no words are taken, so nothing to set apart


def _parsed(arguments: Sequence[str], known_only: bool = False) -> flags.FlagValues:
    """Flags of ours parsed by themselves, the process's own left alone."""
    flag_values = flags.FlagValues()
    define_flags(flag_values)
    flag_values.set_gnu_getopt(True)
    with _explained():
        flag_values(["", *arguments], known_only=known_only)
    return flag_values


def _recipe_arguments(chosen: flags.FlagValues) -> list[str]:
    """`--flagfile`s of the recipes of the chosen dataset and method."""
    dataset, method = chosen["dataset"].value, chosen["method"].value
    registry.check_dataset_name(dataset, "--dataset")
    registry.check_method_name(method, "--method")
    return [f"--flagfile={path}" for path in recipe_files.paths(dataset, method)]


def _with_resets(arguments: Sequence[str]) -> list[str]:
    """Adds what unsets the flags that a later one replaces, as a typed `--epochs` does a recipe's `--train_steps`."""
    last = {}
    for position, argument in enumerate(_expanded(arguments)):
        if argument.startswith("-"):
            last[argument.lstrip("-").partition("=")[0]] = position
    resets = [
        f"--{replaced}="
        for name, replaced in _UNSETS
        if name in last and replaced in last and last[name] > last[replaced]
    ]
    return [*arguments, *resets]


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turns absl's errors into `InputError`s that name the flag as typed."""
    try:
        yield
    except flags.UnrecognizedFlagError as error:
        typed, known = f"--{error.flagname}", [f"--{name}" for name in flag_table.BY_NAME]
        hint = nearest_hint(typed, known) or nearest_hint(typed.replace("--no", "--", 1), known)
        raise InputError(f"{typed} is not a flag of this program.{hint} See --help.") from None
    except flags.CantOpenFlagFileError as error:
        raise InputError(f"--flagfile cannot be read: {error.__context__}.") from None
    except (flags.Error, ValueError) as error:
        # A reader's own message, where there is one, is behind absl's.
        cause = error.__context__ if isinstance(error.__context__, InputError) else error
        raise InputError(str(cause)) from None
