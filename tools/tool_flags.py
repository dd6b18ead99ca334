"""The command line of a tool, whose flags are a set of its own: what it takes, and one sentence where it is wrong."""

from absl import flags

from famus_tf.errors import InputError

_HELP = {"-h", "--help"}


def parse(argv: list[str], flag_values: flags.FlagValues) -> list[str]:
    """Reads the command line.

    Args:
        argv: The program's name and what was typed.
        flag_values: The tool's flags, which get the values.

    Returns:
        What stands behind `--`.

    Raises:
        InputError: On an unknown flag, a wrong value, or a word that is no flag.
    """
    typed = argv[1:]
    end = typed.index("--") if "--" in typed else len(typed)
    try:
        words = flag_values([argv[0], *typed[:end]])[1:]
    except flags.UnrecognizedFlagError as error:
        raise InputError(f"--{error.flagname} is not a flag of this program. See --help.") from None
    except flags.Error as error:
        raise InputError(str(error)) from None
    if words:
        raise InputError(
            f"{words[0]!r} is not a flag; flags are written --name=value, and switches --name or --noname."
        )
    return typed[end + 1 :]


def asks_for_help(argv: list[str]) -> bool:
    """Whether `-h` or `--help` was typed, for the tool itself and not behind `--`."""
    typed = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
    return not _HELP.isdisjoint(typed)
