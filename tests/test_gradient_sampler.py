"""Tests of famus_tf.meta.gradient_sampler: hand-worked pooling and losses, and how the gates behave."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from famus_tf.config import LayerSamplerConfig, OptimizerConfig
from famus_tf.errors import InputError
from famus_tf.meta import gradient_sampler
from famus_tf.meta.gradient_sampler import GradientSampler
from tests.tiny_networks import FIRST_STEP, assert_all_close, conv_network, double_precision

# [2, 2], rows of inputs, columns of outputs.
TRAINING_KERNEL = tf.constant([[1.0, 2.0], [3.0, 6.0]])
VALIDATION_KERNEL = tf.constant([[0.0, 4.0], [0.0, 0.0]])
TRAINING_BIAS = tf.constant([1.0, 3.0])
VALIDATION_BIAS = tf.constant([0.0, 0.0])


@pytest.fixture(scope="module")
def network():
    """8 trainable variables; the last two are the head's."""
    return conv_network()


def step(number):
    return tf.constant(number, tf.int64)


def built(network, seed=0, **settings):
    sampler = GradientSampler(LayerSamplerConfig(name="famus", **{"gated_variables": 0, **settings}))
    sampler.build(network, seed=seed)
    return sampler


def drawn_gradients(network, positions, seed=0):
    random = np.random.default_rng(seed)
    return [tf.constant(random.normal(size=network.trainable_variables[p].shape), tf.float32) for p in positions]


def test_the_paper_pools_by_the_mean_over_all_but_the_output_dimension():
    gradient = tf.reshape(tf.range(12.0), [2, 1, 2, 3])
    np.testing.assert_allclose(gradient_sampler.pooled_gradient(gradient, "paper"), [4.5, 5.5, 6.5])
    np.testing.assert_array_equal(gradient_sampler.pooled_gradient(TRAINING_BIAS, "paper"), TRAINING_BIAS)
    np.testing.assert_array_equal(gradient_sampler.pooled_gradient(tf.constant(2.5), "paper"), [2.5])


def test_the_official_code_pools_by_the_sum_and_standardises_it():
    gradient = tf.constant([[[1.0, 0.0, 1.0]], [[0.0, 2.0, 2.0]]])
    # Sums 1, 2, 3: mean 2, standard deviation (n − 1) 1.
    np.testing.assert_allclose(gradient_sampler.pooled_gradient(gradient, "official"), [-1.0, 0.0, 1.0], atol=1e-6)
    np.testing.assert_allclose(
        gradient_sampler.pooled_gradient(tf.constant([2.0, 4.0]), "official"), [-np.sqrt(0.5), np.sqrt(0.5)], rtol=1e-6
    )


def test_official_pooling_of_one_or_of_equal_values_is_zero_and_not_nan():
    np.testing.assert_array_equal(gradient_sampler.pooled_gradient(tf.constant(3.0), "official"), [0.0])
    np.testing.assert_array_equal(gradient_sampler.pooled_gradient(tf.constant([2.0, 2.0]), "official"), [0.0, 0.0])


def test_unbiased_standard_deviation_has_a_zero_gradient_where_it_is_zero():
    values = tf.constant([[1.0, 5.0], [3.0, 5.0]])
    with tf.GradientTape() as tape:
        tape.watch(values)
        deviations = gradient_sampler.unbiased_std(values, axis=0)
    np.testing.assert_allclose(deviations, [np.sqrt(2.0), 0.0], rtol=1e-6)
    np.testing.assert_allclose(
        tape.gradient(deviations, values), [[-np.sqrt(0.5), 0.0], [np.sqrt(0.5), 0.0]], rtol=1e-6
    )
    np.testing.assert_array_equal(gradient_sampler.unbiased_std(values[:1], axis=0), [0.0, 0.0])


def test_gradient_matching_of_the_paper_is_the_squared_distance_of_pooled_means():
    loss = gradient_sampler.gradient_matching_loss(
        [TRAINING_KERNEL, TRAINING_BIAS], [VALIDATION_KERNEL, VALIDATION_BIAS], "paper"
    )
    # Kernel: means (2, 4) and (0, 2), so 4 + 4; bias: 1 + 9.
    assert float(loss) == 18.0


def test_gradient_matching_of_the_official_code_compares_means_and_deviations_of_rows():
    loss = gradient_sampler.gradient_matching_loss(
        [TRAINING_KERNEL, TRAINING_BIAS], [VALIDATION_KERNEL, VALIDATION_BIAS], "official"
    )
    # Kernel: means 2 − 0 and 4 − 2; deviations √2 − 0 and √8 − √8; halved: (4 + 2 + 4 + 0) / 2.
    # Bias, one row: mean 2, deviation √2: 4 + 2.
    np.testing.assert_allclose(loss, 5.0 + 6.0, rtol=1e-6)


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_gradient_matching_holds_the_validation_gradient_constant(variant):
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([TRAINING_KERNEL, VALIDATION_KERNEL])
        loss = gradient_sampler.gradient_matching_loss([TRAINING_KERNEL], [VALIDATION_KERNEL], variant)
    assert tape.gradient(loss, VALIDATION_KERNEL) is None
    gradient = tape.gradient(loss, TRAINING_KERNEL)
    if variant == "paper":
        np.testing.assert_array_equal(gradient, [[2.0, 2.0], [2.0, 2.0]])
    assert np.all(np.isfinite(gradient)) and np.abs(gradient).max() > 0.0


def test_the_budget_of_the_paper_counts_all_gates_and_that_of_the_official_code_the_topmost():
    gates = tf.constant([1.0, 1.0, 1.0, 0.0])
    assert float(gradient_sampler.budget_loss(gates, 2.0, "paper")) == 1.0
    assert float(gradient_sampler.budget_loss(gates, 2.0, "official")) == 4.0


@pytest.mark.parametrize(
    ("variant", "loss", "slopes"),
    [
        # 3 of 5 are open: (3 − 1)² / 2, slope 3 − 1.
        ("paper", 2.0, [2.0, 2.0, 2.0, 2.0, 2.0]),
        # The last two are the head's and always open; the topmost learned gate is the third: (0 − 1)² / 2.
        ("official", 0.5, [0.0, 0.0, -1.0, 0.0, 0.0]),
    ],
)
def test_the_samplers_budget_is_weighted_and_reaches_the_learned_gates(network, variant, loss, slopes):
    sampler = built(network, variant=variant, budget_weight=0.5, expected_active_layers=1.0, gated_variables=5)
    gates = tf.constant([1.0, 0.0, 0.0, 1.0, 1.0])
    with tf.GradientTape() as tape:
        tape.watch(gates)
        value = sampler.budget_loss(gates)
    assert float(value) == loss
    np.testing.assert_array_equal(tape.gradient(value, gates), slopes)


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_gates_are_exactly_zero_or_one_and_functions_of_seed_and_step_alone(network, variant):
    def choices(seed):
        # Equal gate networks, so that only the draws can differ.
        sampler = built(network, seed=5, variant=variant, gated_variables=5)
        sampler._seed = seed
        gradients = drawn_gradients(network, sampler.positions)
        return np.stack([sampler.gates(sampler.parameters(), gradients, step(n)).numpy() for n in range(12)])

    first = choices(1)
    assert first.shape == (12, 5) and set(np.unique(first)) == {0.0, 1.0}
    np.testing.assert_array_equal(first, choices(1))
    assert np.any(first != choices(2))
    assert len(np.unique(first, axis=0)) > 3


def test_the_official_variant_keeps_the_last_layer_open(network):
    sampler = built(network, variant="official", gated_variables=4)
    gradients = drawn_gradients(network, sampler.positions)
    gates = np.stack([sampler.gates(sampler.parameters(), gradients, step(n)).numpy() for n in range(12)])
    np.testing.assert_array_equal(gates[:, 2:], np.ones((12, 2)))
    assert set(np.unique(gates[:, :2])) == {0.0, 1.0}
    # Two gate networks of three dense layers and two slopes each.
    assert len(sampler.parameters()) == 2 * (3 * 2 + 2)


def test_the_papers_gate_network_is_two_dense_layers_with_a_shared_slope_of_a_quarter(network):
    sampler = built(network, gated_variables=1)
    assert [p.shape.as_list() for p in sampler.parameters()] == [[3, 128], [128], [1], [128, 2], [2]]
    kernel, bias, slope, score_kernel, score_bias = (p.numpy() for p in sampler.parameters())
    assert slope == 0.25
    assert 0.9 / np.sqrt(3) < np.abs(kernel).max() <= 1 / np.sqrt(3)
    assert 0.9 / np.sqrt(128) < np.abs(score_kernel).max() <= 1 / np.sqrt(128)
    # The scores, worked by hand from the pooled gradient, decide where the noise is overruled.
    pooled = np.array([0.3, -0.2, 0.5], "float32")
    hidden = pooled @ kernel + bias
    expected = np.where(hidden > 0, hidden, 0.25 * hidden) @ score_kernel + score_bias
    scores = tf.reshape(sampler.network([pooled[None]]), [-1])
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("variant", ["paper", "official"])
@pytest.mark.parametrize("favourite", [0, 1])
def test_a_gate_whose_score_is_far_ahead_is_chosen_always(network, variant, favourite):
    sampler = built(network, variant=variant, gated_variables=5)
    for variable in sampler.network.trainable_variables:
        if variable.path.endswith("scores/bias"):
            variable.assign([100.0, 0.0] if favourite == 0 else [0.0, 100.0])
    gradients = drawn_gradients(network, sampler.positions)
    num_learned = 5 if variant == "paper" else 3
    for number in range(5):
        gates = sampler.gates(sampler.parameters(), gradients, step(number))
        np.testing.assert_array_equal(gates[:num_learned], np.full(num_learned, favourite))


def test_no_gradient_flows_from_the_gates_into_the_training_gradients(network):
    sampler = built(network, gated_variables=3)
    gradients, parameters = drawn_gradients(network, sampler.positions), sampler.parameters()
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([gradients, parameters])
        gates = sampler.gates(parameters, gradients, FIRST_STEP)
    assert all(g is None for g in tape.gradient(gates, gradients))
    assert all(np.abs(g).max() > 0.0 for g in tape.gradient(gates, parameters))


@pytest.mark.parametrize("start", ["low", "high"])
def test_the_budget_pushes_the_expected_number_of_open_gates_to_its_target(network, start):
    optimizer = OptimizerConfig(learning_rate=0.02, momentum=0.9)
    sampler = built(
        network, gated_variables=6, expected_active_layers=3.0, budget_weight=0.1, optimizer=optimizer, seed=11
    )
    for variable in sampler.network.trainable_variables:
        if variable.path.endswith("scores/bias"):
            variable.assign([1.5, -0.5] if start == "low" else [-1.5, 1.5])
    gradients = drawn_gradients(network, sampler.positions)

    @tf.function
    def update(number):
        parameters = sampler.parameters()
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            gates = sampler.gates(parameters, gradients, number)
            loss = sampler.budget_loss(gates)
        for variable, value in sampler.updates(parameters, tape.gradient(loss, parameters), number):
            variable.assign(value)
        pooled = [gradient_sampler.pooled_gradient(g, "paper")[None] for g in gradients]
        scores = tf.concat(sampler.network(pooled), axis=0)
        return tf.reduce_sum(tf.nn.softmax(scores)[:, 1])

    expected_counts = [float(update(step(number))) for number in range(200)]
    assert abs(expected_counts[0] - 3.0) > 1.5
    assert abs(np.mean(expected_counts[-50:]) - 3.0) < 0.5


def test_the_official_variant_needs_a_variable_below_the_last_layer(network):
    with pytest.raises(InputError, match=r"--gated_variables=2 leaves no other to learn a gate for"):
        built(network, variant="official", gated_variables=2)


def test_everything_that_outlives_a_step_is_among_the_variables(network):
    sampler = built(network, gated_variables=3)
    parameters = sampler.parameters()
    assigned = sampler.updates(parameters, parameters, FIRST_STEP)
    saved = {id(v) for v in sampler.variables}
    assert {id(v) for v, _ in assigned} <= saved
    # η, its velocities, the base rate and the count.
    assert len(saved) == 2 * len(parameters) + 2
    assert_all_close([v.value for v in sampler.network.trainable_variables], parameters)


@pytest.mark.parametrize("setting", ["mixed_bfloat16", "float64"])
def test_gates_are_float32_whatever_the_precision_of_the_base_network(network, setting):
    policy = keras.config.dtype_policy()
    if setting == "float64":
        with double_precision():
            sampler = built(network, variant="official", gated_variables=4)
            gates = sampler.gates(sampler.parameters(), drawn_gradients(network, sampler.positions), FIRST_STEP)
    else:
        keras.config.set_dtype_policy(setting)
        try:
            sampler = built(network, variant="official", gated_variables=4)
            gates = sampler.gates(sampler.parameters(), drawn_gradients(network, sampler.positions), FIRST_STEP)
        finally:
            keras.config.set_dtype_policy(policy)
    reference = built(network, variant="official", gated_variables=4)
    expected = reference.gates(reference.parameters(), drawn_gradients(network, reference.positions), FIRST_STEP)
    assert gates.dtype == tf.float32
    np.testing.assert_array_equal(gates, expected)
