"""How a program ends: the exit code and what is on the screen."""

import subprocess
import sys

import pytest

from famus_tf import entry_point
from famus_tf.errors import InputError


def raising(error):
    def main(argv):
        raise error

    return main


def test_a_program_that_ends_well_gives_0_and_gets_its_arguments(capsys):
    seen = []
    assert entry_point.run(seen.append, ["train", "--seed=1"]) == 0
    assert seen == [["train", "--seed=1"]]
    assert capsys.readouterr() == ("", "")


def test_a_mistake_gives_2_and_one_sentence(capsys):
    assert entry_point.run(raising(InputError("--seed is -1; give 0 or more.")), ["train"]) == 2
    assert capsys.readouterr() == ("", "Error: --seed is -1; give 0 or more.\n")


def test_ctrl_c_gives_130_and_says_how_to_go_on(capsys):
    assert entry_point.run(raising(KeyboardInterrupt()), ["train"]) == 130
    said = "\nInterrupted. The same command again goes on from the newest checkpoint.\n"
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize("bug", [ValueError("a bug"), RuntimeError("a bug"), KeyError("a bug"), SystemExit(3)])
def test_anything_else_is_a_bug_and_comes_through(bug):
    with pytest.raises(type(bug)) as caught:
        entry_point.run(raising(bug), ["train"])
    assert caught.value is bug


def test_a_programs_mistake_shows_no_traceback_in_a_shell():
    script = (
        "import sys\n"
        "from famus_tf import entry_point\n"
        "from famus_tf.errors import InputError\n"
        "def main(argv):\n"
        "    try:\n"
        "        int('x')\n"
        "    except ValueError as error:\n"
        "        raise InputError('Give a number.') from error\n"
        "sys.exit(entry_point.run(main, sys.argv))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "Error: Give a number.\n")
