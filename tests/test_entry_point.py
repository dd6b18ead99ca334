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


def test_an_end_of_its_own_gives_its_code_and_sentence(capsys):
    end = entry_point.ProgramEnd("Stopped at step 3; the same command goes on.", entry_point.EXIT_RUN_AGAIN)
    assert entry_point.run(raising(end), ["train"]) == 75
    assert capsys.readouterr() == ("", "Stopped at step 3; the same command goes on.\n")


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


PRINTING = (
    "import resource, sys\n"
    "from famus_tf import entry_point\n"
    "def main(argv):\n"
    "    print('first', flush=True)\n"
    "    print('first', file=sys.stderr)\n"
    "    resource.setrlimit(resource.RLIMIT_FSIZE, (7, 7))\n"
    "    for _ in range(3000):\n"
    "        print('second', flush=True)\n"
    "        print('second', file=sys.stderr)\n"
    "    raise entry_point.ProgramEnd('the end', 74)\n"
)


def test_a_log_file_on_a_full_disk_loses_lines_and_ends_nothing(tmp_path):
    script = PRINTING + "sys.exit(entry_point.run(main, sys.argv))\n"
    with open(tmp_path / "out", "wb") as out, open(tmp_path / "err", "wb") as err:
        done = subprocess.run([sys.executable, "-c", script], stdout=out, stderr=err, check=False)
    assert done.returncode == 74
    assert [(tmp_path / name).read_text() for name in ("out", "err")] == ["first\ns"] * 2


def test_otherwise_a_full_log_file_would_end_it(tmp_path):
    """The test above can fail."""
    with open(tmp_path / "out", "wb") as out:
        done = subprocess.run([sys.executable, "-c", PRINTING + "main([])"], stdout=out, stderr=out, check=False)
    assert done.returncode not in (0, 74)


def test_a_broken_pipe_and_a_terminal_are_left_alone(tmp_path):
    script = (
        "import sys\n"
        "from famus_tf import entry_point\n"
        "def main(argv):\n"
        "    assert sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__\n"
        "sys.exit(entry_point.run(main, sys.argv))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
