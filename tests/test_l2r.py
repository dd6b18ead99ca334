"""Tests of famus_tf.meta.l2r."""

import math

import numpy as np
import pytest
import tensorflow as tf

from famus_tf.meta.l2r import LearningToReweight, rectified_weights
from tests.tiny_networks import FIRST_STEP

LOGITS = tf.constant(np.log([[2.0, 1.0, 1.0], [1.0, 1.0, 6.0]]))
LABELS = tf.constant([0, 1], tf.int32)


def alone(tensors):
    return tensors


def test_negative_alignments_get_zero_and_the_others_their_share():
    weights = rectified_weights(tf.constant([-1.0, 2.0, -3.0, 0.0]), alone)
    np.testing.assert_array_equal(weights, [0.25, 0.0, 0.75, 0.0])


@pytest.mark.parametrize("gradient", [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
def test_weights_are_all_zero_where_no_example_helps(gradient):
    np.testing.assert_array_equal(rectified_weights(tf.constant(gradient), alone), np.zeros(3))


def test_weights_sum_to_one_or_to_zero_for_any_gradient():
    random = np.random.default_rng(0)
    sums = []
    for shift in np.linspace(-3.0, 3.0, 41):
        weights = rectified_weights(tf.constant(random.normal(size=8) + shift), alone).numpy()
        assert np.all(weights >= 0.0)
        sums.append(weights.sum())
    is_zero = np.array(sums) == 0.0
    np.testing.assert_allclose(np.array(sums)[~is_zero], 1.0, rtol=1e-12)
    assert 0 < is_zero.sum() < len(sums)


def test_the_sum_is_over_all_replicas():
    weights = rectified_weights(tf.constant([-1.0, 2.0]), lambda total: total + 3.0)
    np.testing.assert_array_equal(weights, [0.25, 0.0])


def test_the_virtual_step_is_at_zero_weights_of_each_example():
    model = LearningToReweight()
    (weights,) = model.parameters(LOGITS, LABELS, 4)
    np.testing.assert_array_equal(weights, np.zeros(2))
    assert weights.dtype == tf.float64
    assert not model.moves_virtual_weights
    assert model.variables == []


def test_the_inner_objective_is_the_weighted_sum_and_plain_training_has_weight_one():
    objective, scaled = LearningToReweight().inner_objective(
        LOGITS, LABELS, [tf.constant([0.25, 0.5], tf.float64)], 4, alone
    )
    np.testing.assert_allclose(objective, 0.25 * math.log(2.0) + 0.5 * math.log(8.0), rtol=1e-12)
    np.testing.assert_array_equal(scaled, [1.0, 2.0])


def test_the_updated_weights_are_the_rectified_ones_and_nothing_is_kept():
    gradient = tf.constant([-0.5, -1.5])
    (weights,), kept = LearningToReweight().updated_parameters([tf.zeros([2])], [gradient], FIRST_STEP, alone)
    np.testing.assert_array_equal(weights, [0.25, 0.75])
    assert kept == []


def test_the_gates_look_at_the_gradient_of_the_plain_mean_loss_over_the_global_batch():
    seen = LearningToReweight().gate_cotangent(LOGITS, LABELS, tf.zeros_like(LOGITS), 4)
    # (softmax − one-hot) / n, n = 4.
    expected = np.array([[-0.5, 0.25, 0.25], [0.125, -0.875, 0.75]]) / 4.0
    np.testing.assert_allclose(seen, expected, rtol=1e-12)
