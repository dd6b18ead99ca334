"""Two replicas on any machine: settings made before TensorFlow starts, and the fixtures all tests share."""

import os
import pathlib
import signal

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Otherwise AutoGraph, when it fails on a function, quietly traces it as plain Python.
os.environ["AUTOGRAPH_STRICT_CONVERSION"] = "1"

# A shell's background jobs ignore Ctrl-C, and so would the programs that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

import keras  # noqa: E402
import pytest  # noqa: E402
import tensorflow as tf  # noqa: E402
from absl import flags, logging  # noqa: E402
from absl.testing import flagsaver  # noqa: E402

from famus_tf import replicas  # noqa: E402

NUM_REPLICAS = 2
NUM_THREADS = 2

# All three must come before TensorFlow makes its devices, which the first tensor does.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * NUM_REPLICAS,
)
tf.config.threading.set_intra_op_parallelism_threads(NUM_THREADS)
tf.config.threading.set_inter_op_parallelism_threads(NUM_THREADS)
# On a GPU, TF32 keeps about three decimal digits: too few for the numbers that the tests assert.
tf.config.experimental.enable_tensor_float_32_execution(False)


def pytest_xdist_auto_num_workers(config):
    """Two processes for the whole suite, as it leaves half of two cores idle; none beside it for single files.

    Each process costs the start of TensorFlow and about 3 GB.
    """
    whole_suite = pathlib.Path(__file__).parent
    return 2 if [pathlib.Path(argument).resolve() for argument in config.args] == [whole_suite.resolve()] else 0


@pytest.fixture(autouse=True)
def own_signals():
    """Programs that have ended ignore signals, see `StopOnSignals`; in tests they end and the process goes on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def fixed_seeds():
    """Makes a test that draws without a seed of its own independent of the tests before it."""
    keras.utils.set_random_seed(20210620)


@pytest.fixture(scope="session")
def two_replicas():
    """The MirroredStrategy over two logical CPU devices that all tests share.

    There must be only one: every strategy numbers its collective operations from the same start, TensorFlow keeps the
    shape it saw for a number as long as the process lives, and a second strategy over the same devices then fails with
    "Shape mismatch in the collective instance".
    """
    return replicas.make_strategy(NUM_REPLICAS)


@pytest.fixture(scope="module")
def logging_as_before():
    """For tests of programs, which quiet the logging of the whole process; the tests of other files read it."""
    loggers = logging.get_absl_logger(), tf.get_logger()
    verbosity, levels = logging.get_verbosity(), [logger.level for logger in loggers]
    yield
    logging.set_verbosity(verbosity)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def own_flags():
    """For tests of programs: each parses the command line of `famus_tf.train` anew."""
    with flagsaver.flagsaver():
        for flag in flags.FLAGS.get_flags_for_module("famus_tf.options"):
            flag.unparse()
        yield
