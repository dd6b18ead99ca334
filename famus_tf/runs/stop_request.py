"""A wish to stop: made in any thread, seen inside compiled functions, and by all workers at the same place."""

import typing

import tensorflow as tf


@typing.final
class StopRequest:
    """A flag that another thread puts up while a compiled function runs, which only reads it."""

    def __init__(self):
        """Makes the flag, which is down."""
        # Not the strategy's: a mirrored variable could not be assigned from another thread.
        with tf.device("CPU:0"):
            self._flag = tf.Variable(False, trainable=False)

    def make(self) -> None:
        """Puts the flag up; from any thread."""
        self._flag.assign(True)

    def meet(self) -> None:
        """Takes the flag down, for whoever has stopped."""
        self._flag.assign(False)

    def is_made(self) -> tf.Tensor:
        """Scalar bool, in a graph: whether the flag is up on this worker, as of when this is executed."""
        return self._flag.read_value()
