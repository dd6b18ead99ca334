"""Whether tensors are free of NaN and Inf, cheaply enough to ask in every step."""

import tensorflow as tf


def finite_flags(tensors) -> tf.Tensor:
    """Which tensors are finite everywhere.

    The sum of squares of each, one pass that writes nothing, answers for all of them as long as it is finite itself;
    only where it is not (NaN, Inf, or a number whose square overflows, above 1e19) is every entry looked at.

    Args:
        tensors: Floating point, any shapes; at least one.

    Returns:
        [number of tensors] bool.
    """
    halved_squares = tf.stack([tf.cast(tf.nn.l2_loss(tensor), tf.float32) for tensor in tensors])
    return tf.cond(
        tf.reduce_all(tf.math.is_finite(halved_squares)),
        lambda: tf.ones([len(tensors)], tf.bool),
        lambda: tf.stack([tf.reduce_all(tf.math.is_finite(tensor)) for tensor in tensors]),
    )
