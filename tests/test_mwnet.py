"""Tests of famus_tf.meta.mwnet."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from famus_tf.config import MetaModelConfig, OptimizerConfig
from famus_tf.meta.mwnet import MetaWeightNet, normalized_weights
from tests.tiny_networks import FIRST_STEP, assert_all_close, double_precision

LABELS = tf.constant([0, 2, 1, 1], tf.int32)
LOGITS = np.random.default_rng(0).normal(size=(4, 3))
# 2 hidden units: max(2ℓ − 1, 0) and max(−ℓ + 1, 0), then σ(h₁ + 2h₂ − 1).
KERNELS = [[[2.0, -1.0]], [-1.0, 1.0], [[1.0], [2.0]], [-1.0]]


def alone(tensors):
    return tensors


def built(**settings):
    network = MetaWeightNet(MetaModelConfig(name="mwnet", **settings))
    network.build(num_classes=3, seed=7)
    return network


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def example_losses(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -log_probabilities[np.arange(4), LABELS.numpy()]


def hand_weights(example_losses):
    hidden = np.maximum(2.0 * example_losses - 1.0, 0.0) + 2.0 * np.maximum(1.0 - example_losses, 0.0)
    return sigmoid(hidden - 1.0)


def test_weights_are_the_hand_worked_network_of_the_losses():
    network = built(hidden_units=2)
    values = network.weights(tf.constant([0.0, 0.25, 0.5, 2.0]), [tf.constant(k) for k in KERNELS])
    # Hidden sums: 0 + 2·1, 0 + 2·.75, 0 + 2·.5, 3 + 0.
    np.testing.assert_allclose(values, sigmoid(np.array([1.0, 0.5, 0.0, 2.0])), rtol=1e-6)


def test_parameters_start_uniform_in_one_over_the_root_of_the_fan_in():
    network = built(hidden_units=400)
    first_kernel, first_bias, second_kernel, second_bias = (p.numpy() for p in network.parameters(LOGITS, LABELS, 4))
    assert [a.shape for a in (first_kernel, first_bias, second_kernel, second_bias)] == [
        (1, 400),
        (400,),
        (400, 1),
        (1,),
    ]
    for values, limit in [(first_kernel, 1.0), (first_bias, 1.0), (second_kernel, 0.05)]:
        assert 0.97 * limit < np.abs(values).max() <= limit
        # A uniform variable on ±a has standard deviation a / √3.
        np.testing.assert_allclose(values.std(), limit / np.sqrt(3.0), rtol=0.1)
    assert np.abs(second_bias).max() <= 0.05


def test_the_same_seed_gives_the_same_start_and_another_seed_another():
    networks = [MetaWeightNet(MetaModelConfig(name="mwnet")) for _ in range(3)]
    for network, seed in zip(networks, (1, 1, 2), strict=True):
        network.build(num_classes=3, seed=seed)
    first, again, other = ([p.numpy() for p in n.parameters(LOGITS, LABELS, 4)] for n in networks)
    assert_all_close(first, again)
    assert np.abs(first[0] - other[0]).max() > 0.1


def test_sum_normalisation_divides_by_the_sum_over_all_replicas():
    weights = tf.constant([0.2, 0.6])
    values = normalized_weights(weights, "sum", 4, all_sum=lambda total: total + 1.2)
    np.testing.assert_allclose(values, [0.1, 0.3], rtol=1e-6)


def test_batch_size_normalisation_divides_by_the_global_batch():
    values = normalized_weights(tf.constant([0.2, 0.6]), "batch_size", 4, alone)
    np.testing.assert_allclose(values, [0.05, 0.15], rtol=1e-6)


def test_weights_that_are_all_zero_stay_zero_with_a_finite_gradient():
    weights = tf.zeros([3])
    with tf.GradientTape() as tape:
        tape.watch(weights)
        values = normalized_weights(weights, "sum", 3, alone)
    np.testing.assert_array_equal(values, np.zeros(3))
    assert np.all(np.isfinite(tape.gradient(values, weights)))


@pytest.mark.parametrize("normalization", ["sum", "batch_size"])
def test_the_inner_objective_and_its_weights_are_the_hand_worked_ones(normalization):
    with double_precision():
        network = built(hidden_units=2, weight_normalization=normalization)
    parameters = [tf.constant(k, tf.float64) for k in KERNELS]
    objective, weights = network.inner_objective(tf.constant(LOGITS), LABELS, parameters, 4, alone)
    losses = example_losses(LOGITS)
    shares = hand_weights(losses) / (hand_weights(losses).sum() if normalization == "sum" else 4.0)
    np.testing.assert_allclose(objective, (shares * losses).sum(), rtol=1e-12)
    np.testing.assert_allclose(weights, 4.0 * shares, rtol=1e-12)


def test_the_objectives_logit_gradient_holds_the_weights_constant():
    with double_precision():
        network = built(hidden_units=2)
    parameters, logits = [tf.constant(k, tf.float64) for k in KERNELS], tf.constant(LOGITS)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        objective, _ = network.inner_objective(logits, LABELS, parameters, 4, alone)
    shares = hand_weights(example_losses(LOGITS))
    shares /= shares.sum()
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    expected = shares[:, None] * (probabilities - np.eye(3)[LABELS.numpy()])
    np.testing.assert_allclose(tape.gradient(objective, logits), expected, rtol=1e-12, atol=1e-15)


def test_the_parameters_move_by_their_optimizer_with_the_gradient_summed_over_replicas():
    config = OptimizerConfig(learning_rate=0.5, momentum=0.5, nesterov=True, l2_coefficient=0.1)
    network = built(hidden_units=2, optimizer=config)
    start = [tf.constant(k) for k in KERNELS]
    gradient = [tf.ones_like(p) for p in start]
    moved, assignments = network.updated_parameters(start, gradient, FIRST_STEP, lambda g: [2.0 * x for x in g])
    # First Nesterov step: w − α (1 + μ)(g + λw), g = 2.
    assert_all_close(moved, [p - 0.75 * (2.0 + 0.1 * p) for p in start], rtol=1e-6)
    for variable, value in assignments:
        variable.assign(value)
    assert_all_close(network.parameters(tf.constant(LOGITS, tf.float32), LABELS, 4), moved)


def test_everything_that_outlives_a_step_is_among_the_variables():
    network = built(hidden_units=2)
    parameters = network.parameters(tf.constant(LOGITS, tf.float32), LABELS, 4)
    _, assignments = network.updated_parameters(parameters, parameters, FIRST_STEP, alone)
    saved = {id(v) for v in network.variables}
    assert {id(v) for v, _ in assignments} <= saved
    # θ, its velocities, the base rate and the count.
    assert len(saved) == 4 + 4 + 2


def test_under_a_mixed_precision_policy_the_network_stays_in_full_precision():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        network = built(hidden_units=2)
        values = network.weights(tf.constant([0.0, 0.3, 0.5, 2.0]), [tf.constant(k) for k in KERNELS])
    finally:
        keras.config.set_dtype_policy(policy)
    np.testing.assert_allclose(values, sigmoid(np.array([1.0, 0.4, 0.0, 2.0])), rtol=1e-6)
