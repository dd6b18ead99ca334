"""Tests of famus_tf.methods.supervised and of what famus_tf.methods.method refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from famus_tf.config import MethodConfig, OptimizerConfig
from famus_tf.errors import InputError
from famus_tf.methods import method
from famus_tf.methods.supervised import Supervised
from tests import tiny_networks
from tests.tiny_networks import FIRST_STEP, assert_all_close, next_values

BATCH = tiny_networks.batch(5, seed=1)


def supervised(network, base=tiny_networks.PLAIN_SGD):
    plain = Supervised(MethodConfig(name="ce", base=base))
    plain.build(network, seed=0, num_replicas=1)
    return plain


def mean_loss_and_gradients(network):
    """The mean cross-entropy and its gradients, through Keras' own call and loss."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    values = [v.value for v in network.trainable_variables]
    with tf.GradientTape() as tape:
        value = loss(BATCH["label"], network(BATCH["image"], training=True))
    return value, tape.gradient(value, values)


def test_a_step_is_plain_sgd_on_the_mean_cross_entropy():
    network = tiny_networks.conv_network()
    result = supervised(network).train_step(BATCH, None, FIRST_STEP)
    start = tiny_networks.arrays(network.trainable_variables)
    loss, gradients = mean_loss_and_gradients(network)
    moved = next_values(result, network.trainable_variables)
    assert_all_close(moved, [w - 0.5 * g for w, g in zip(start, gradients, strict=True)], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.scalars[0], loss, rtol=1e-6)
    np.testing.assert_array_equal(result.example_weights, np.ones(5))


def test_scalars_are_loss_accuracy_and_the_scheduled_rate():
    network = tiny_networks.conv_network()
    plain = supervised(network, OptimizerConfig(learning_rate=0.5, decay_steps=(3,), decay_factor=0.1))
    assert plain.scalar_names == ("loss", "accuracy", "learning_rate")
    result = plain.train_step(BATCH, None, tf.constant(3, tf.int64))
    predictions = np.argmax(network(BATCH["image"], training=True), axis=1)
    accuracy = np.mean(predictions == BATCH["label"].numpy())
    np.testing.assert_allclose(result.scalars[1:], [accuracy, 0.05], rtol=1e-6)


def test_a_step_changes_nothing_until_it_is_stored():
    network = tiny_networks.conv_network(dropout=0.5)
    plain = supervised(network)
    variables = [*network.variables, *plain.variables]
    before = tiny_networks.arrays(variables)
    plain.train_step(BATCH, None, FIRST_STEP)
    assert_all_close(tiny_networks.arrays(variables), before)


def test_batch_norm_statistics_and_dropout_seeds_are_those_of_one_training_pass():
    network = tiny_networks.conv_network(dropout=0.5)
    result = supervised(network).train_step(BATCH, None, FIRST_STEP)
    stored = next_values(result, network.non_trainable_variables)
    before = tiny_networks.arrays(network.non_trainable_variables)
    network(BATCH["image"], training=True)
    after = tiny_networks.arrays(network.non_trainable_variables)
    assert all(np.any(b != a) for b, a in zip(before, after, strict=True))
    assert_all_close(stored, after, rtol=1e-6)


def test_a_regularizers_gradient_is_in_the_step_and_its_value_not_in_the_loss():
    networks = [tiny_networks.conv_network(regularizer=r) for r in (None, keras.regularizers.L2(0.25))]
    results = [supervised(network).train_step(BATCH, None, FIRST_STEP) for network in networks]
    plain, regularized = (next_values(r, n.trainable_variables) for r, n in zip(results, networks, strict=True))
    for variable, without, with_penalty in zip(networks[0].trainable_variables, plain, regularized, strict=True):
        # λ Σ w² has slope 2 λ w; the rate is 1/2.
        penalty = 0.5 * 2.0 * 0.25 * variable.value.numpy() if "conv/kernel" in variable.path else 0.0
        np.testing.assert_allclose(with_penalty, without - penalty, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(results[0].scalars, results[1].scalars)


def model(outputs_of):
    inputs = keras.Input((4,))
    return keras.Model(inputs, outputs_of(inputs), name="users")


def dense(units, **settings):
    return keras.layers.Dense(units, **settings)


def within(layer):
    """The layer as the last of a model of its own."""
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(5), keras.layers.Dropout(0.5), layer])


@pytest.mark.parametrize(
    ("outputs_of", "message"),
    [
        (lambda x: dense(3, activation="softmax", name="head")(x), r"'users' ends in softmax \('head'\)"),
        (lambda x: dense(3, activation="sigmoid")(x), "ends in sigmoid"),
        (lambda x: keras.layers.Softmax()(dense(3)(x)), "ends in a Softmax layer"),
        (lambda x: keras.layers.Activation("softmax")(dense(3)(x)), "ends in softmax"),
        (lambda x: keras.ops.softmax(dense(3)(x)), r"ends in a Softmax layer \('softmax"),
        (lambda x: keras.ops.log_softmax(dense(3)(x)), "ends in a LogSoftmax layer"),
        (lambda x: keras.layers.Lambda(tf.nn.softmax, name="last")(dense(3)(x)), r"ends in a softmax \('last'\)"),
        (lambda x: keras.layers.Reshape((3,))(dense(3, activation="softmax")(x)), "ends in softmax"),
        (lambda x: keras.layers.Flatten()(keras.layers.Softmax()(dense(3)(x))), "ends in a Softmax layer"),
        (lambda x: within(dense(3, activation="softmax", name="head"))(x), r"ends in softmax \('head'\)"),
        (lambda x: dense(1)(x), r"has output shape \(None, 1\)"),
        (lambda x: [dense(3)(x), dense(3)(x)], "has output shape"),
        (lambda x: keras.layers.Reshape((3, 1))(dense(3)(x)), r"has output shape \(None, 3, 1\)"),
        (lambda x: dense(3, trainable=False)(x), "has no trainable variables"),
    ],
)
def test_a_network_that_cannot_be_trained_on_logits_is_refused(outputs_of, message):
    with pytest.raises(InputError, match=message):
        method.check_ends_in_logits(model(outputs_of))


def test_a_network_that_ends_in_logits_is_taken_and_its_classes_counted():
    assert method.check_ends_in_logits(model(lambda x: dense(3)(x))) == 3
    assert method.check_ends_in_logits(model(lambda x: keras.layers.Activation("linear")(dense(7)(x)))) == 7
    assert method.check_ends_in_logits(model(lambda x: within(dense(4))(x))) == 4
    assert method.check_ends_in_logits(model(lambda x: keras.layers.Lambda(tf.nn.relu)(dense(4)(x)))) == 4


def test_looking_for_probabilities_changes_nothing():
    network = model(lambda x: keras.layers.Lambda(tf.nn.relu)(keras.layers.BatchNormalization()(within(dense(3))(x))))
    before = tiny_networks.arrays(network.variables)
    method.check_ends_in_logits(network)
    assert_all_close(tiny_networks.arrays(network.variables), before)


def test_a_method_belongs_to_one_model():
    plain = supervised(tiny_networks.conv_network())
    message = "This method 'ce' belongs to another Trainer already, of the model 'tiny'; make a method per Trainer."
    with pytest.raises(InputError, match=f"^{message}$"):
        plain.build(tiny_networks.conv_network(), seed=0, num_replicas=1)


def test_a_method_that_refused_a_model_takes_another():
    plain = Supervised(MethodConfig(name="ce", base=tiny_networks.PLAIN_SGD))
    with pytest.raises(InputError, match="has output shape"):
        plain.build(model(lambda x: dense(1)(x)), seed=0, num_replicas=1)
    plain.build(tiny_networks.conv_network(), seed=0, num_replicas=1)
