"""Examples that are not valid (their pictures could not be decoded) have no part in a step.

The references are written anew here, in float64, with the loss of such an example multiplied by zero.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from famus_tf import registry
from famus_tf.config import MethodConfig
from famus_tf.methods import method as method_module
from famus_tf.methods.supervised import Supervised
from tests import tiny_networks
from tests.tiny_networks import FIRST_STEP, PLAIN_SGD, ForcedGates, assert_all_close, next_values

RATE = 0.5
VALID = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
META_VALID = np.array([1.0, 1.0, 0.0, 1.0])


@pytest.fixture(autouse=True)
def in_double_precision():
    with tiny_networks.double_precision():
        yield


def with_valid(batch, valid):
    return {**batch, "valid": tf.constant(valid, tf.float32)}


TRAIN = with_valid(tiny_networks.batch(6, seed=1, dtype="float64"), VALID)
META = with_valid(tiny_networks.batch(4, seed=2, dtype="float64"), META_VALID)


def cross_entropy(logits, labels):
    return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)


def mwnet_objective(divides_by_sum):
    def objective(logits, labels, parameters, valid):
        first_kernel, first_bias, second_kernel, second_bias = parameters
        losses = cross_entropy(logits, labels)
        hidden = tf.nn.relu(tf.stop_gradient(losses)[:, None] @ first_kernel + first_bias)
        weights = valid * tf.sigmoid(hidden @ second_kernel + second_bias)[:, 0]
        return tf.reduce_sum(weights * losses) / (tf.reduce_sum(weights) if divides_by_sum else 6.0)

    return objective


def l2r_objective(logits, labels, parameters, valid):
    return tf.reduce_sum(valid * parameters[0] * cross_entropy(logits, labels))


def mlc_objective(logits, labels, parameters, valid):
    return tf.reduce_sum(valid * cross_entropy(logits @ parameters[0], labels)) / 6.0


CASES = {
    "mwnet, sum": ("mwnet", {"weight_normalization": "sum"}, mwnet_objective(True)),
    "mwnet, batch_size": ("mwnet", {"weight_normalization": "batch_size"}, mwnet_objective(False)),
    "l2r": ("l2r", {}, l2r_objective),
    "mlc": ("mlc", {"mlc_reduction": "mean"}, mlc_objective),
}


def training_logits(network, weights, batch):
    state = [v.value for v in network.non_trainable_variables]
    return network.stateless_call(weights, state, batch["image"], training=True)[0]


def reference(network, objective, parameters):
    """ŵ, and the meta-gradient from an outer tape around an inner one."""
    weights = [tf.convert_to_tensor(v.value) for v in network.trainable_variables]
    with tf.GradientTape() as outer:
        outer.watch(parameters)
        with tf.GradientTape() as inner:
            inner.watch(weights)
            value = objective(training_logits(network, weights, TRAIN), TRAIN["label"], parameters, VALID)
        ahead = [w - RATE * g for w, g in zip(weights, inner.gradient(value, weights), strict=True)]
        losses = cross_entropy(training_logits(network, ahead, META), META["label"])
        loss = tf.reduce_sum(META_VALID * losses) / 4.0
    return ahead, outer.gradient(loss, parameters, unconnected_gradients="zero"), loss


def test_plain_training_takes_the_gradient_of_the_valid_examples_losses():
    network = tiny_networks.conv_network()
    plain = Supervised(MethodConfig(name="ce", base=PLAIN_SGD))
    plain.build(network, seed=0, num_replicas=1)
    result = plain.train_step(TRAIN, None, FIRST_STEP)
    weights = [tf.convert_to_tensor(v.value) for v in network.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(weights)
        losses = cross_entropy(training_logits(network, weights, TRAIN), TRAIN["label"])
        loss = tf.reduce_sum(VALID * losses) / 6.0
    gradients = tape.gradient(loss, weights)
    expected = [w - RATE * g for w, g in zip(weights, gradients, strict=True)]
    assert_all_close(next_values(result, network.trainable_variables), expected, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(result.scalars[0], loss, rtol=1e-6)
    np.testing.assert_array_equal(result.example_weights, np.where(VALID > 0, 1.0, -1.0))


@pytest.mark.parametrize("case", CASES)
def test_the_virtual_step_and_the_meta_gradient_are_those_of_the_valid_examples(case):
    name, settings, objective = CASES[case]
    network = tiny_networks.conv_network()
    method = tiny_networks.meta_method(network, name, tiny_networks.layer_sampler("all"), **settings)
    virtual = method.virtual_train(TRAIN, FIRST_STEP)
    meta = method.meta_train(virtual, META, FIRST_STEP)
    parameters = [tf.zeros(6, tf.float64)] if name == "l2r" else virtual.parameters
    ahead, expected, loss = reference(network, objective, parameters)
    assert_all_close(virtual.weights, ahead, rtol=1e-10, atol=1e-13)
    gradient = meta.gradient
    if name == "l2r":
        assert np.abs(expected[0])[VALID == 0].max() == 0.0
        expected = [tf.boolean_mask(expected[0], VALID > 0)]
    assert max(np.abs(g).max() for g in expected) > 1e-4
    assert_all_close(gradient, expected, rtol=1e-8, atol=1e-13)
    np.testing.assert_allclose(meta.loss, loss, rtol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_the_actual_step_takes_the_moved_parameters_and_the_valid_examples(case):
    name, settings, objective = CASES[case]
    network = tiny_networks.conv_network()
    method = tiny_networks.meta_method(network, name, tiny_networks.layer_sampler("all"), **settings)
    virtual = method.virtual_train(TRAIN, FIRST_STEP)
    meta = method.meta_train(virtual, META, FIRST_STEP)
    result = method.actual_train(virtual, meta, FIRST_STEP)
    moved, _ = method._moved_parameters(virtual.parameters, meta, FIRST_STEP)
    if name == "l2r":
        moved = [tf.scatter_nd(tf.where(VALID > 0), moved[0], [6])]
    weights = [tf.convert_to_tensor(v.value) for v in network.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(weights)
        value = objective(training_logits(network, weights, TRAIN), TRAIN["label"], moved, VALID)
    expected = [w - RATE * g for w, g in zip(weights, tape.gradient(value, weights), strict=True)]
    assert_all_close(next_values(result, network.trainable_variables), expected, rtol=1e-10, atol=1e-13)
    np.testing.assert_array_equal(result.example_weights.numpy()[VALID == 0], [-1.0, -1.0])
    assert (result.example_weights.numpy()[VALID > 0] >= 0.0).all()


def step_values(name, train, meta):
    """What one compiled step of a registered method stores, its scalars and weights; a network without batch norm."""
    network = tiny_networks.conv_network(batch_norm=False)
    settings = {"learning_rate": RATE} | ({} if name == "ce" else {"gated_variables": 4, "num_random_layers": 2})
    method = registry.make_method(name, **settings)
    method.build(network, seed=3, num_replicas=1)

    @tf.function
    def compiled_step():
        result = method.train_step(train, meta if method.needs_meta_set else None, FIRST_STEP)
        return [value for _, value in result.assignments], result.scalars, result.example_weights

    return compiled_step()


@pytest.mark.parametrize("name", ["ce", "mwnet_famus", "l2r"])
def test_what_stands_in_for_an_example_that_is_not_valid_does_not_matter(name):
    other = tiny_networks.batch(6, seed=9, dtype="float64")
    is_valid = tf.constant(VALID > 0)
    changed = {
        "image": tf.where(is_valid[:, None, None, None], TRAIN["image"], other["image"]),
        "label": tf.where(is_valid, TRAIN["label"], (TRAIN["label"] + 1) % 3),
    }
    values, scalars, weights = step_values(name, TRAIN, META)
    other_values, other_scalars, other_weights = step_values(name, {**TRAIN, **changed}, META)
    assert_all_close(values, other_values, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(scalars, other_scalars, rtol=1e-6)
    np.testing.assert_allclose(weights, other_weights, rtol=1e-6)


@pytest.mark.parametrize("name", ["ce", "mwnet_famus"])
def test_all_valid_is_as_without_saying_so(name):
    said = [with_valid(batch, np.ones(len(batch["label"]))) for batch in (TRAIN, META)]
    unsaid = [{key: batch[key] for key in ("index", "image", "label")} for batch in (TRAIN, META)]
    values, _, weights = step_values(name, *said)
    other_values, _, other_weights = step_values(name, *unsaid)
    assert_all_close(values, other_values, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(weights, other_weights)


@pytest.mark.parametrize("name", ["ce", "mwnet_famus", "l2r_famus", "mlc_famus"])
def test_a_batch_without_a_valid_example_moves_no_weight_and_stays_finite(name):
    train, meta = with_valid(TRAIN, np.zeros(6)), with_valid(META, np.zeros(4))
    values, scalars, weights = step_values(name, train, meta)
    assert all(np.isfinite(value).all() for value in values)
    assert np.isfinite(scalars).all()
    np.testing.assert_array_equal(weights, -np.ones(6))
    network = tiny_networks.conv_network(batch_norm=False)
    assert_all_close(values[: len(network.trainable_variables)], [v.value for v in network.trainable_variables])


def test_closed_gates_and_not_valid_examples_go_together():
    network = tiny_networks.conv_network()
    gates = [0, 0, 0, 0, 1, 0, 1, 1]
    method = tiny_networks.meta_method(network, "mwnet", ForcedGates(gates))
    weights = [tf.convert_to_tensor(v.value) for v in network.trainable_variables]
    virtual = method.virtual_train(TRAIN, FIRST_STEP)
    meta = method.meta_train(virtual, META, FIRST_STEP)
    objective, parameters = mwnet_objective(True), virtual.parameters
    with tf.GradientTape() as outer:
        outer.watch(parameters)
        with tf.GradientTape() as inner:
            inner.watch(weights)
            value = objective(training_logits(network, weights, TRAIN), TRAIN["label"], parameters, VALID)
        gradients = inner.gradient(value, weights)
        steps = [g if gate else tf.stop_gradient(g) for gate, g in zip(gates, gradients, strict=True)]
        ahead = [w - RATE * step for w, step in zip(weights, steps, strict=True)]
        losses = cross_entropy(training_logits(network, ahead, META), META["label"])
        loss = tf.reduce_sum(META_VALID * losses) / 4.0
    assert_all_close(meta.gradient, outer.gradient(loss, parameters), rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("valid", [VALID, [0.0, 0.0, 0.0, 1.0, 1.0, 0.0]], ids=["some on each", "none on one"])
@pytest.mark.parametrize("name", ["ce", "mwnet_famus", "l2r"])
def test_two_replicas_take_the_step_of_one(name, valid, two_replicas):
    batches = with_valid(TRAIN, valid), META

    def built(num_replicas):
        network = tiny_networks.conv_network(num_blocks=1, synchronized=True)
        method = registry.make_method(name, learning_rate=RATE, **({} if name == "ce" else {"gated_variables": 4}))
        method.build(network, seed=3, num_replicas=num_replicas)
        return network, method

    def step_of(method):
        def step(train, meta):
            result = method.train_step(train, meta if method.needs_meta_set else None, FIRST_STEP)
            tiny_networks.commit(result)
            return result.scalars, result.example_weights

        return step

    network, method = built(1)
    scalars, weights = step_of(method)(*batches)
    with two_replicas.scope():
        shared_network, shared_method = built(2)
    halves = [
        two_replicas.experimental_distribute_values_from_function(
            lambda context, batch=batch: {
                key: tf.split(value, 2)[context.replica_id_in_sync_group] for key, value in batch.items()
            }
        )
        for batch in batches
    ]
    shared_scalars, shared_weights = two_replicas.run(step_of(shared_method), halves)
    local = two_replicas.experimental_local_results
    np.testing.assert_allclose(local(shared_scalars)[0], scalars, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(np.concatenate(local(shared_weights)), weights, rtol=2e-5, atol=2e-6)
    assert_all_close(shared_network.variables, network.variables, rtol=1e-5, atol=1e-7)


def test_weights_of_all_marks_those_that_are_not_valid():
    weights = method_module.weights_of_all(tf.constant([0.25, 0.5], tf.float64), tf.constant([0.0, 1.0, 1.0, 0.0]))
    assert weights.dtype == tf.float32
    np.testing.assert_array_equal(weights, [-1.0, 0.25, 0.5, -1.0])
    np.testing.assert_array_equal(method_module.weights_of_all(tf.constant([0.25, 0.5]), None), [0.25, 0.5])
