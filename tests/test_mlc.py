"""Tests of famus_tf.meta.mlc."""

import numpy as np
import pytest
import tensorflow as tf

from famus_tf.config import MetaModelConfig, OptimizerConfig
from famus_tf.meta.meta_model import plain_objective
from famus_tf.meta.mlc import TransitionMatrix, projected_transition
from tests.tiny_networks import FIRST_STEP

LOGITS = np.random.default_rng(0).normal(size=(4, 3))
LABELS = tf.constant([0, 2, 1, 1], tf.int32)


def alone(tensors):
    return tensors


def built(**settings):
    model = TransitionMatrix(MetaModelConfig(name="mlc", **settings))
    model.build(num_classes=3, seed=0)
    return model


def test_projection_cuts_at_zero_and_makes_columns_sum_to_one():
    projected = projected_transition(tf.constant([[1.0, -1.0, 2.0], [3.0, 0.5, -1.0], [-4.0, 0.0, 2.0]]))
    np.testing.assert_array_equal(projected, [[0.25, 0.0, 0.5], [0.75, 1.0, 0.0], [0.0, 0.0, 0.5]])


def test_a_column_without_positive_entries_becomes_zero_and_not_nan():
    projected = projected_transition(tf.constant([[-1.0, 1.0], [0.0, 1.0]]))
    np.testing.assert_array_equal(projected, [[0.0, 0.5], [0.0, 0.5]])


def test_the_identity_is_its_own_projection_to_the_bit():
    np.testing.assert_array_equal(projected_transition(tf.eye(5)), np.eye(5))


def test_every_step_starts_from_the_identity_and_nothing_is_kept():
    model = built()
    (transition,) = model.parameters(tf.constant(LOGITS), LABELS, 4)
    np.testing.assert_array_equal(transition, np.eye(3))
    assert transition.dtype == tf.float64
    _, kept = model.updated_parameters([transition], [transition], FIRST_STEP, alone)
    assert kept == [] and model.variables == []


@pytest.mark.parametrize(("reduction", "divisor"), [("mean", 8.0), ("sum", 1.0)])
def test_the_objective_is_the_cross_entropy_of_logits_times_transition(reduction, divisor):
    transition = np.random.default_rng(1).uniform(size=(3, 3))
    corrected = LOGITS @ transition
    probabilities = np.exp(corrected) / np.exp(corrected).sum(axis=1, keepdims=True)
    expected = -np.log(probabilities[np.arange(4), LABELS.numpy()]).sum() / divisor
    objective, weights = built(mlc_reduction=reduction).inner_objective(
        tf.constant(LOGITS), LABELS, [tf.constant(transition)], 8, alone
    )
    np.testing.assert_allclose(objective, expected, rtol=1e-12)
    np.testing.assert_array_equal(weights, np.ones(4))


def test_at_the_identity_the_mean_is_the_objective_of_plain_training():
    logits = tf.constant(LOGITS)
    objective, _ = built().inner_objective(logits, LABELS, [tf.eye(3, dtype=tf.float64)], 4, alone)
    np.testing.assert_allclose(objective, plain_objective(logits, LABELS, 4), rtol=1e-15)


def test_the_update_is_one_projected_gradient_step_summed_over_replicas():
    model = built(optimizer=OptimizerConfig(learning_rate=0.5))
    gradient = tf.constant([[1.0, 0.5, 0.0], [-0.5, -1.0, 0.0], [0.0, 0.0, 1.0]])
    (moved,), _ = model.updated_parameters([tf.eye(3)], [gradient], FIRST_STEP, lambda g: [2.0 * x for x in g])
    # I − 0.5 · 2 · gradient = [[0, −.5, 0], [.5, 2, 0], [0, 0, 0]], then cut and normalised by column.
    np.testing.assert_array_equal(moved, [[0.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
