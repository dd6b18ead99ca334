"""Imports TensorFlow without its start-up chatter.

TensorFlow's C++ side writes a few lines to the process's standard error while it is being imported, whatever its log
level says (which devices it found, which kernels it uses). They tell a user nothing, so they are held back, and shown
only where the import fails or somebody asked for them.
"""

import os
import sys
import tempfile


def import_tensorflow(*, show_chatter: bool) -> None:
    """Imports TensorFlow and Keras, and sets how much they log from then on.

    Args:
        show_chatter: Whether to let everything through.
    """
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if show_chatter:
        import tensorflow  # noqa: F401

        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    true_stderr = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            import tensorflow
            from absl import logging

            tensorflow.config.list_logical_devices  # noqa: B018 - the lazy part of the import, while it is quiet
        except BaseException:
            held_back.seek(0)
            os.write(true_stderr, held_back.read())
            raise
        finally:
            os.dup2(true_stderr, 2)
            os.close(true_stderr)
    tensorflow.get_logger().setLevel("ERROR")
    logging.set_verbosity(logging.ERROR)
