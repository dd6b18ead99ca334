"""Tests of famus_tf.losses against numbers worked by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from famus_tf import losses

# Probabilities 1/2, 1/4, 1/4 and 1/8, 1/8, 3/4.
LOGITS = np.log([[2.0, 1.0, 1.0], [1.0, 1.0, 6.0]])


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-6), ("float64", 1e-14)])
def test_cross_entropy_of_hard_labels_is_minus_the_log_probability(dtype, rtol):
    value = losses.cross_entropy(tf.constant(LOGITS, dtype), tf.constant([0, 1], tf.int32))
    assert value.dtype == dtype
    np.testing.assert_allclose(value, [math.log(2.0), math.log(8.0)], rtol=rtol)


def test_cross_entropy_of_soft_labels_is_their_mean_of_minus_log_probabilities():
    labels = tf.constant([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]], tf.float32)
    value = losses.cross_entropy(tf.constant(LOGITS, tf.float64), labels)
    expected = [0.5 * math.log(2) + 0.5 * math.log(4), 0.25 * math.log(8) + 0.75 * math.log(4 / 3)]
    assert value.dtype == tf.float64
    np.testing.assert_allclose(value, expected, rtol=1e-14)


def test_cross_entropy_of_one_hot_labels_equals_that_of_hard_labels():
    logits = tf.constant(np.random.default_rng(0).normal(size=(5, 4)))
    labels = tf.constant([3, 0, 1, 1, 2])
    np.testing.assert_allclose(
        losses.cross_entropy(logits, tf.one_hot(labels, 4)), losses.cross_entropy(logits, labels), rtol=1e-12
    )


def test_cross_entropy_stays_finite_at_huge_logits():
    value = losses.cross_entropy(tf.constant([[1000.0, 0.0], [1000.0, 0.0]]), tf.constant([0, 1]))
    np.testing.assert_allclose(value, [0.0, 1000.0], atol=1e-6)


def test_correct_predictions_are_one_at_hits_and_zero_at_misses():
    logits = tf.constant([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0], [-1.0, -2.0, -0.5]])
    for dtype in (tf.int32, tf.int64):
        hits = losses.correct_predictions(logits, tf.constant([1, 0, 2], dtype))
        assert hits.dtype == tf.float32
        np.testing.assert_array_equal(hits, [1.0, 0.0, 1.0])
