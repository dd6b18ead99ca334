"""Records that cannot be written, because the disk is full or read-only, do not end a training run."""

import contextlib
import typing

import tensorflow as tf
from absl import logging

# What the record of a checkpoint is called, which alone decides whether a stopped run can go on.
CHECKPOINT = "a checkpoint"


@typing.final
class WriteFailures:
    """Remembers what could not be written and says so, loudly but once for each kind of failure.

    Attributes:
        said: Every sentence said so far, in order; to be repeated at the end.
        missing: {what: why} of records that are missing or out of date now. A later success takes its record out.
    """

    def __init__(self):
        """Starts with nothing wrong."""
        self.said: list[str] = []
        self.missing: dict[str, str] = {}

    @contextlib.contextmanager
    def noting(self, what: str, *, can_be_made_up: bool = True):
        """Runs what is inside; if it fails to write, notes that and goes on behind it.

        Args:
            what: What is written, for people: `CHECKPOINT`, "results.json".
            can_be_made_up: Whether a later success makes the failure good, as for a file that is renewed as a whole.

        Yields:
            Nothing.
        """
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            self.missing[what] = reason_of(error)
            sentence = f"Could not write {what}: {self.missing[what]}. Training goes on. Make room, or mend the disk."
            if sentence not in self.said:
                self.said.append(sentence)
                logging.error("%s", sentence)
        else:
            if can_be_made_up:
                self.missing.pop(what, None)


def reason_of(error: Exception) -> str:
    """One line that says what the system said.

    Args:
        error: An `OSError`, or an error of TensorFlow's.
    """
    text = error.strerror if isinstance(error, OSError) else getattr(error, "message", None)
    # TensorFlow names the file and repeats the operation behind it; the last part is the system's word.
    lines = (text or str(error) or type(error).__name__).splitlines()
    return lines[0].split(" [Op:")[0].rpartition("}} ")[2].rstrip(" .").rpartition("; ")[2]
