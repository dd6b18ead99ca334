"""Importing TensorFlow in silence, and what is shown when the import fails. Each in a process of its own."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]

CHATTER = "import os\nos.write(2, b'chatter of the C++ side\\n')\n"
# As much of TensorFlow as quiet_start touches.
STAND_IN = CHATTER + (
    "import logging, types\n"
    "config = types.SimpleNamespace(list_logical_devices=None)\n"
    "get_logger = lambda: logging.getLogger('tensorflow')\n"
)
BROKEN = CHATTER + "raise ImportError('no such processor')\n"


def run(script, *, show_chatter=False, **environment):
    """Imports TensorFlow by quiet_start and runs the script after it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TF_CPP", "KERAS"))} | environment
    environment["PYTHONPATH"] = os.pathsep.join([*environment.pop("FIRST", "").split(), str(ROOT)])
    start = f"from famus_tf import quiet_start\nquiet_start.import_tensorflow(show_chatter={show_chatter})\n"
    return subprocess.run(
        [sys.executable, "-c", start + script], capture_output=True, text=True, check=False, env=environment
    )


def stand_in(folder, source):
    (folder / "tensorflow.py").write_text(source)
    return str(folder)


def test_the_real_tensorflow_starts_and_computes_without_a_word():
    done = run("import keras, tensorflow as tf\nprint(keras.backend.backend(), int(tf.reduce_sum(tf.range(4))))")
    assert (done.returncode, done.stdout, done.stderr) == (0, "tensorflow 6\n", "")


def test_what_is_written_during_the_import_is_held_back_and_later_errors_are_not(tmp_path):
    after = (
        "import os, sys\nprint('said later', file=sys.stderr, flush=True)\nprint(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    )
    done = run(after, FIRST=stand_in(tmp_path, STAND_IN))
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "said later\n")


def test_a_log_level_that_the_user_set_stays(tmp_path):
    after = "import os\nprint(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    done = run(after, FIRST=stand_in(tmp_path, STAND_IN), TF_CPP_MIN_LOG_LEVEL="1")
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_chatter_that_was_asked_for_is_let_through(tmp_path):
    done = run("", show_chatter=True, FIRST=stand_in(tmp_path, STAND_IN))
    assert (done.returncode, done.stderr) == (0, "chatter of the C++ side\n")


def test_an_import_that_fails_shows_what_was_held_back_before_its_traceback(tmp_path):
    done = run("", FIRST=stand_in(tmp_path, BROKEN))
    assert done.returncode == 1
    assert done.stderr.startswith("chatter of the C++ side\nTraceback")
    assert done.stderr.endswith("ImportError: no such processor\n")
    assert done.stderr.count("chatter") == 1


def test_the_flags_are_read_without_tensorflow():
    program = (
        "import sys; from famus_tf import options, train; options.define_flags(); options.parse_flags(['train']);"
        " print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "False\n"


def test_a_mistyped_network_of_keras_is_told_of_without_chatter():
    program = "from famus_tf import options; options.define_flags(); options.parse_flags(['train', '--model=keras:No'])"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_CPP")}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    assert done.stderr.startswith("Traceback") and "oneDNN" not in done.stderr
    assert "--model is 'keras:No', and keras.applications of Keras" in done.stderr
