"""The text of `--help`: how to start, what there is, and every flag with its default."""

import textwrap
from collections.abc import Mapping

from famus_tf import flag_table, registry

WIDTH = 100
_HELP_COLUMN = 36

_EXAMPLES = (
    ("digits, 40 % noise", "python -m famus_tf.train"),
    ("by plain training", "python -m famus_tf.train --method=ce"),
    ("real CIFAR-10", "python -m famus_tf.train --dataset=cifar10 --noise_rate=0.4 --data_dir=DIR"),
)


def render(settings: Mapping[str, object]) -> str:
    """Lays out the help screen.

    Args:
        settings: The value of every flag that is to be shown as its default.

    Returns:
        Lines of at most `WIDTH` columns, without a final newline.
    """
    lines = ["Trains an image classifier on noisy labels with the help of a small clean set.", ""]
    lines += [f"  {what:18}  {command}" for what, command in _EXAMPLES]
    lines += [
        "",
        *_listing("Datasets", registry.dataset_names()),
        *_listing("Methods", registry.method_names()),
        *_listing("Networks", registry.model_names()),
        "",
        *textwrap.wrap(
            f"Defaults below are those of --dataset={settings['dataset']} --method={settings['method']}; name others"
            " to see theirs. Flags may also stand in a file, one a line: --flagfile=FILE. Of a flag given twice the"
            " later wins.",
            WIDTH,
        ),
    ]
    for group in flag_table.GROUPS:
        lines += ["", group]
        for flag in flag_table.FLAGS:
            if flag.group == group:
                lines += _flag_lines(flag, settings[flag.name])
    lines += _entry("--verbosity", "TensorFlow's messages too: -1 warnings, 0 information, 1 all")
    return "\n".join(lines)


def _listing(title: str, names: tuple[str, ...]) -> list[str]:
    indent = " " * 10
    return textwrap.wrap(f"{title:10}{', '.join(names)}", WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def _flag_lines(flag: flag_table.Flag, value) -> list[str]:
    text = flag_table.to_text(flag, value)
    return _entry(f"--{flag.name}={text}" if text else f"--{flag.name}", flag.help)


def _entry(flag: str, text: str) -> list[str]:
    """One flag in the left column and its help, wrapped, in the right one."""
    indent = " " * _HELP_COLUMN
    wrapped = textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    left = f"  {flag}"
    if len(left) >= _HELP_COLUMN:
        return [left, *wrapped]
    return [left + wrapped[0][len(left) :], *wrapped[1:]]
