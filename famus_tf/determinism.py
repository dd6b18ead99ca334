"""The same numbers from the same command, on GPUs too.

On a CPU nothing is needed for that: every draw is a function of the seed and the step, and TensorFlow's CPU kernels
repeat themselves. On a GPU some kernels (backward passes of convolutions, sums by index) add in an order that changes
from run to run.
"""

import keras
import tensorflow as tf


def enable(seed: int) -> None:
    """Asks TensorFlow for deterministic kernels, for the rest of the process.

    What has no such kernel then raises `tf.errors.UnimplementedError` instead of giving other numbers each time; among
    this project's networks that may hit depthwise convolutions on a GPU. The same numbers need the same machine and
    the same versions of everything, and take longer. With MirroredStrategy the order of sums over GPUs is NCCL's.

    Some of these kernels are other ones on a CPU as well, so a run with them and a run without agree up to rounding
    only, which training amplifies; each repeats itself.

    Args:
        seed: For what draws without a seed of its own, which TensorFlow refuses otherwise.
    """
    # Keras takes seeds below 2³² only, since NumPy's global generator does.
    keras.utils.set_random_seed(seed % 2**32)
    tf.config.experimental.enable_op_determinism()
