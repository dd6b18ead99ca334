"""The command lines of the tools: values, what stands behind --, help, and one sentence for a mistake."""

import pytest
from absl import flags

from famus_tf import entry_point
from famus_tf.errors import InputError
from tools import benchmark, chaos, check_data, compare, tool_flags

TOOLS = {"benchmark": benchmark, "chaos": chaos, "check_data": check_data, "compare": compare}


def number_flag():
    flag_values = flags.FlagValues()
    flags.DEFINE_integer("number", 3, "A number.", lower_bound=1, flag_values=flag_values)
    return flag_values


def test_values_are_read_and_what_stands_behind_two_dashes_is_given_back():
    flag_values = number_flag()
    assert tool_flags.parse(["tool", "--number=5", "--", "--epochs=2", "word"], flag_values) == ["--epochs=2", "word"]
    assert flag_values["number"].value == 5
    assert tool_flags.parse(["tool"], number_flag()) == []


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--numbr=5", "^--numbr is not a flag of this program. See --help.$"),
        ("--number=x", "flag --number=x"),
        ("--number=0", "flag --number=0"),
        ("number", "^'number' is not a flag; flags are written --name=value"),
    ],
)
def test_a_mistake_is_one_sentence(typed, message):
    with pytest.raises(InputError, match=message) as caught:
        tool_flags.parse(["tool", typed], number_flag())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_explains_itself_and_refuses_an_unknown_flag(name, capsys):
    assert entry_point.run(TOOLS[name].main, [name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(TOOLS[name].__doc__) and "(default:" in shown
    assert entry_point.run(TOOLS[name].main, [name, "--bogus=1"]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "Error: --bogus is not a flag of this program. See --help.\n")


def test_help_behind_two_dashes_is_for_the_runs():
    assert tool_flags.asks_for_help(["tool", "-h"])
    assert not tool_flags.asks_for_help(["tool", "--", "--help"])
