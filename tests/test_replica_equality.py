"""Two replicas of B against one of 2B: every registered method, the draws of dropout, small sets in evaluation."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from famus_tf import registry
from famus_tf.data import feeds
from famus_tf.methods import method as method_module
from famus_tf.runs.evaluation import Evaluator
from tests import tiny_networks

NUM_STEPS = 3


# What is float32 inside whatever the network is: plain training's scalars, and the gates' network beside MW-Net's.
SINGLE_PRECISION = ("ce", "mwnet_famus")


def global_batches(name):
    dtype = "float32" if name in SINGLE_PRECISION else "float64"
    return [[tiny_networks.batch(size, seed=10 * size + n, dtype=dtype) for size in (6, 4)] for n in range(NUM_STEPS)]


def built(name, num_replicas):
    """A network and a method with its recipe's settings, but rates at which three steps move everything."""
    settings = {"learning_rate": 0.125, "l2_coefficient": 1e-3, "nesterov": True, "layer_block": 1}
    if name != "ce":
        settings |= {"meta_learning_rate": 0.5, "gated_variables": 4, "num_random_layers": 2}
    method = registry.make_method(name, **settings)
    with contextlib.nullcontext() if name in SINGLE_PRECISION else tiny_networks.double_precision():
        model = tiny_networks.conv_network(num_blocks=1, synchronized=True, regularizer=keras.regularizers.L2(0.01))
        method.build(model, seed=3, num_replicas=num_replicas)
    return model, method


def step_of(method):
    def step(batch, meta_batch, number):
        result = method.train_step(batch, meta_batch if method.needs_meta_set else None, number)
        tiny_networks.commit(result)
        return result.scalars, result.example_weights

    return step


def on_one_replica(name):
    model, method = built(name, 1)
    step = step_of(method)
    rows = [step(*batches, tf.constant(n, tf.int64)) for n, batches in enumerate(global_batches(name))]
    return model, method, *(np.stack(part) for part in zip(*rows, strict=True))


def on_two_replicas(name, strategy):
    with strategy.scope():
        model, method = built(name, 2)
    step = step_of(method)

    def halves(whole):
        return strategy.experimental_distribute_values_from_function(
            lambda context: {key: tf.split(value, 2)[context.replica_id_in_sync_group] for key, value in whole.items()}
        )

    rows = []
    for number, batches in enumerate(global_batches(name)):
        arguments = [*(halves(batch) for batch in batches), tf.constant(number, tf.int64)]
        scalars, weights = (strategy.experimental_local_results(part) for part in strategy.run(step, arguments))
        np.testing.assert_array_equal(scalars[0], scalars[1], err_msg="losses and gates are global")
        rows.append((scalars[0], tf.concat(weights, axis=0)))
    return model, method, *(np.stack(part) for part in zip(*rows, strict=True))


@pytest.mark.parametrize("name", registry.method_names())
def test_every_method_takes_the_same_steps_on_two_replicas_as_on_one(name, two_replicas):
    model, method, scalars, weights = on_one_replica(name)
    replicated, replicated_method, replicated_scalars, replicated_weights = on_two_replicas(name, two_replicas)
    # The network is float64; what the meta-models and the gates keep in float32 rounds differently.
    np.testing.assert_allclose(replicated_scalars, scalars, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(replicated_weights, weights, rtol=2e-5, atol=2e-6)
    gates = [position for position, scalar in enumerate(method.scalar_names) if scalar.startswith("gate/")]
    np.testing.assert_array_equal(replicated_scalars[:, gates], scalars[:, gates])
    assert len(gates) == (4 if name.endswith(("famus", "random")) else 0)
    start = tiny_networks.arrays(built(name, 1)[0].variables)
    pairs = [(replicated.variables, model.variables), (replicated_method.variables, method.variables)]
    for variables, expected in pairs:
        values, expected_values = tiny_networks.arrays(variables), tiny_networks.arrays(expected)
        tiny_networks.assert_all_close(values, expected_values, rtol=1e-5, atol=1e-6)
    assert all(np.any(now != then) for now, then in zip(tiny_networks.arrays(model.variables), start, strict=True))
    for variable in [*replicated.variables, *replicated_method.variables]:
        held = variable.value if isinstance(variable, keras.Variable) else variable
        np.testing.assert_array_equal(*(value.numpy() for value in two_replicas.experimental_local_results(held)))


def dropout_network():
    """Two layers that draw; an input of ones shows their masks."""
    inputs = keras.Input((40,))
    x = keras.layers.Dropout(0.5, seed=1)(inputs)
    return keras.Model(inputs, [x, keras.layers.GaussianNoise(1.0, seed=2)(inputs)])


def drawn(model):
    """One training pass in this replica, its state stored: the two layers' draws, [2, 40]."""
    weights, state = method_module.model_values(model)
    outputs, new_state = model.stateless_call(weights, state, tf.ones([1, 40]), training=True)
    for variable, value in method_module.state_assignments(model, new_state):
        variable.assign(value)
    return tf.concat(outputs, axis=0)


@pytest.fixture(scope="module")
def draws(two_replicas):
    """The draws of three steps, [3 steps, replicas, 2 layers, 40], on one replica and on two; the models after them."""
    alone = dropout_network()
    with two_replicas.scope():
        shared = dropout_network()
    of_one = np.stack([[drawn(alone).numpy()] for _ in range(3)])
    of_two = np.stack([two_replicas.experimental_local_results(two_replicas.run(drawn, [shared])) for _ in range(3)])
    return of_one, of_two, alone, shared


def test_replicas_draw_different_masks_in_every_step(draws):
    _, of_two, _, _ = draws
    masks = of_two[:, :, 0] > 0.0
    flat = masks.reshape(6, 40)
    # Independent masks of 40 agree in about 20 places; equal ones in 40.
    agreements = [(flat[a] == flat[b]).sum() for a in range(6) for b in range(a)]
    assert 8 <= min(agreements) and max(agreements) <= 32
    noise = of_two[:, :, 1].reshape(6, 40)
    assert all(np.abs(noise[a] - noise[b]).max() > 0.5 for a in range(6) for b in range(a))


def test_the_first_replica_draws_what_one_replica_alone_does(draws):
    of_one, of_two, _, _ = draws
    np.testing.assert_array_equal(of_two[:, 0], of_one[:, 0])


def test_the_stored_seeds_are_equal_on_all_replicas_and_those_of_one_replica(draws, two_replicas):
    _, _, alone, shared = draws
    assert len(shared.non_trainable_variables) == 2
    for variable, seed in zip(shared.non_trainable_variables, (1, 2), strict=True):
        for value in two_replicas.experimental_local_results(variable.value):
            np.testing.assert_array_equal(value, [seed, 3])
    assert [v.numpy().tolist() for v in alone.non_trainable_variables] == [[1, 3], [2, 3]]


def test_statistics_of_a_batch_norm_that_is_not_synchronised_are_the_replicas_mean(two_replicas):
    with two_replicas.scope():
        shared = tiny_networks.conv_network(num_blocks=1)
    images = tiny_networks.batch(6, seed=1)["image"]

    def step(rows):
        weights, state = method_module.model_values(shared)
        _, new_state = shared.stateless_call(weights, state, rows, training=True)
        for variable, value in method_module.state_assignments(shared, new_state):
            variable.assign(value)
        return new_state

    halves = tf.split(images, 2)
    rows = two_replicas.experimental_distribute_values_from_function(
        lambda context: halves[context.replica_id_in_sync_group]
    )
    computed = two_replicas.run(step, [rows])
    assert len(shared.non_trainable_variables) == 2
    for variable, of_replicas in zip(shared.non_trainable_variables, computed, strict=True):
        apart = [value.numpy() for value in two_replicas.experimental_local_results(of_replicas)]
        assert np.abs(apart[0] - apart[1]).max() > 1e-3
        for value in two_replicas.experimental_local_results(variable.value):
            np.testing.assert_allclose(value, np.mean(apart, axis=0), rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_evaluation_of_hardly_any_examples_counts_each_once_on_two_replicas(count, two_replicas):
    with two_replicas.scope():
        shared = tiny_networks.conv_network(num_blocks=1, synchronized=True)
    alone = tiny_networks.conv_network(num_blocks=1, synchronized=True)
    drawn = tiny_networks.batch(count, seed=7)
    data = drawn["image"].numpy(), drawn["label"].numpy()
    # As the trainer does it: batches are no larger than the set, so one example is fewer than there are replicas.
    measured, expected = (
        Evaluator(model, strategy).evaluate(feeds.evaluation_feed(data, 500, None, "test"))
        for model, strategy in ((shared, two_replicas), (alone, tf.distribute.get_strategy()))
    )
    assert measured.keys() == expected.keys()
    for name, value in expected.items():
        assert measured[name] == pytest.approx(value, rel=1e-6), name
