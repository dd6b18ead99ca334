"""Per-example losses. None of them averages: over what a mean is taken, one replica or all, is the step's business."""

import tensorflow as tf


def cross_entropy(logits, labels):
    """Softmax cross-entropy of each example.

    Args:
        logits: [B, K] floating point.
        labels: [B] integers in [0, K), or [B, K] floating-point distributions.

    Returns:
        [B] losses in nats, >= 0, in the dtype of `logits`.
    """
    if labels.shape.rank == 2:
        return tf.nn.softmax_cross_entropy_with_logits(labels=tf.cast(labels, logits.dtype), logits=logits)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def correct_predictions(logits, labels):
    """Whether each example's largest logit is at its label.

    Args:
        logits: [B, K] floating point.
        labels: [B] integers in [0, K).

    Returns:
        [B] float32, 1 for a hit and 0 for a miss.
    """
    predictions = tf.argmax(logits, axis=-1, output_type=tf.int32)
    return tf.cast(predictions == tf.cast(labels, tf.int32), tf.float32)
