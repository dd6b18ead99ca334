"""Tests of famus_tf.meta.gumbel_select."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from famus_tf.meta.gumbel_select import GumbelSelect, gumbel_noise

NUM_DRAWS = 20_000


def uniform(shape, seed=1):
    return tf.random.stateless_uniform(shape, seed=[seed, 0])


def test_gumbel_noise_is_the_inverse_of_the_gumbel_distribution():
    noise = np.array([-1.0, 0.0, 0.5, 3.0])
    np.testing.assert_allclose(gumbel_noise(tf.constant(np.exp(-np.exp(-noise)))), noise, rtol=1e-12, atol=1e-14)


def test_gumbel_noise_is_finite_at_the_ends_of_the_unit_interval():
    noise = gumbel_noise(tf.constant([0.0, 1.0, np.nextafter(np.float32(1.0), np.float32(0.0))])).numpy()
    assert np.all(np.isfinite(noise))
    assert noise[0] < -2.5 and noise[1] > 15.0


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
def test_the_forward_value_is_exactly_zero_or_one_and_is_the_noisy_argmax(temperature):
    draws = uniform([500, 2])
    logits = tf.constant(np.random.default_rng(0).normal(size=(500, 2)), tf.float32)
    gates = GumbelSelect(temperature)(logits, draws).numpy()
    expected = np.argmax(logits.numpy() - np.log(-np.log(draws.numpy())), axis=-1)
    assert set(gates.tolist()) == {0.0, 1.0}
    np.testing.assert_array_equal(gates, expected)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0])
def test_the_gradient_is_that_of_the_soft_choice(temperature):
    draws, logits = uniform([7, 2]), tf.constant(np.random.default_rng(0).normal(size=(7, 2)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        gates = GumbelSelect(temperature)(logits, draws)
    gradient = tape.gradient(gates, logits).numpy()
    noisy = logits.numpy() - np.log(-np.log(draws.numpy()))
    # Two classes: the softmax is a sigmoid of the difference, with slope s (1 − s) / temperature.
    soft = 1.0 / (1.0 + np.exp(-(noisy[:, 1] - noisy[:, 0]) / temperature))
    slope = soft * (1.0 - soft) / temperature
    np.testing.assert_allclose(gradient, np.stack([-slope, slope], axis=1), rtol=1e-4, atol=1e-7)
    assert np.all(gradient[:, 1] > 0.0)


@pytest.mark.parametrize("scores", [(0.0, 0.0), (0.0, 1.5), (1.0, -1.0)])
@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_gates_open_as_often_as_the_softmax_says_whatever_the_temperature(scores, temperature):
    logits = tf.tile(tf.constant([scores]), [NUM_DRAWS, 1])
    share = float(tf.reduce_mean(GumbelSelect(temperature)(logits, uniform([NUM_DRAWS, 2]))))
    probability = np.exp(scores[1]) / (np.exp(scores[0]) + np.exp(scores[1]))
    # Three standard errors of a share of 20,000 draws.
    assert abs(share - probability) < 3.0 * np.sqrt(probability * (1.0 - probability) / NUM_DRAWS)


def test_the_choice_depends_on_the_given_draws_alone():
    logits = tf.zeros([50, 2])
    select = GumbelSelect(1.0)
    first, again, other = (select(logits, uniform([50, 2], seed)).numpy() for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_the_layer_comes_back_from_its_configuration():
    layer = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(GumbelSelect(3.0, name="gate")))
    assert isinstance(layer, GumbelSelect)
    assert (layer.temperature, layer.name) == (3.0, "gate")
