"""Tests of famus_tf.methods.meta_reweighting: steps compiled, and taken by several replicas together."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from famus_tf.config import OptimizerConfig
from tests import tiny_networks
from tests.tiny_networks import MOMENTUM_SGD, arrays, assert_all_close, layer_sampler, meta_method

META_MODELS = ["mwnet", "l2r", "mlc"]


def test_a_compiled_step_is_traced_once_and_does_what_the_eager_step_does():
    runs = []
    for is_compiled in (False, True):
        network = tiny_networks.conv_network(num_blocks=1, dropout=0.3)
        method = meta_method(network, "mwnet", layer_sampler("famus", gated_variables=3), base=MOMENTUM_SGD)

        def take_step(batch, meta_batch, step, method=method):
            result = method.train_step(batch, meta_batch, step)
            tiny_networks.commit(result)
            return result.scalars

        step_function = tf.function(take_step) if is_compiled else take_step
        scalars = [
            step_function(
                tiny_networks.batch(6, seed=10 + n), tiny_networks.batch(4, seed=20 + n), tf.constant(n, tf.int64)
            )
            for n in range(5)
        ]
        runs.append([*arrays([*network.variables, *method.variables]), np.stack(scalars)])
    assert step_function.experimental_get_tracing_count() == 1
    open_gates = runs[1][-1][:, method.scalar_names.index("open_gates")]
    assert len(set(open_gates.tolist())) > 1
    assert_all_close(runs[1], runs[0], rtol=1e-5, atol=1e-5)


NUM_STEPS = 4
GLOBAL_BATCHES = [(tiny_networks.batch(6, seed=30 + n), tiny_networks.batch(4, seed=40 + n)) for n in range(NUM_STEPS)]


def built_for(meta_model, sampler_name, is_normalized, num_replicas):
    network = tiny_networks.conv_network(
        num_blocks=1, batch_norm=is_normalized, synchronized=is_normalized, regularizer=keras.regularizers.L2(0.01)
    )
    sampler = layer_sampler(sampler_name, **({"gated_variables": 3} if sampler_name == "famus" else {}))
    settings = {} if meta_model == "l2r" else {"optimizer": OptimizerConfig(learning_rate=0.5, momentum=0.9)}
    method = meta_method(network, meta_model, sampler, base=MOMENTUM_SGD, num_replicas=num_replicas, **settings)
    return network, method


def run_on_one_replica(*case):
    network, method = built_for(*case, 1)
    scalars, weights = [], []
    for number, batches in enumerate(GLOBAL_BATCHES):
        result = method.train_step(*batches, tf.constant(number, tf.int64))
        tiny_networks.commit(result)
        scalars.append(result.scalars.numpy())
        weights.append(result.example_weights.numpy())
    return network, method, np.stack(scalars), np.stack(weights)


def run_on_two_replicas(strategy, *case):
    with strategy.scope():
        network, method = built_for(*case, 2)

    def replica_step(batch, meta_batch, step):
        result = method.train_step(batch, meta_batch, step)
        tiny_networks.commit(result)
        return result.scalars, result.example_weights

    def step_function(batch, meta_batch, step):
        return strategy.run(replica_step, args=(batch, meta_batch, step))

    if case[0] == "mwnet":
        # Tracing is the dearer way for four steps; one meta-model shows that the compiled step is the same.
        step_function = tf.function(step_function)

    def halves(whole):
        return strategy.experimental_distribute_values_from_function(
            lambda context: {
                name: tf.split(value, 2)[context.replica_id_in_sync_group] for name, value in whole.items()
            }
        )

    scalars, weights = [], []
    for number, batches in enumerate(GLOBAL_BATCHES):
        results = step_function(*(halves(batch) for batch in batches), tf.constant(number, tf.int64))
        first, second = strategy.experimental_local_results(results[0])
        # Gates, losses and rates are global, so equal on both.
        np.testing.assert_array_equal(first, second)
        scalars.append(first.numpy())
        weights.append(np.concatenate([w.numpy() for w in strategy.experimental_local_results(results[1])]))
    for variable in [*network.variables, *method.variables]:
        values = strategy.experimental_local_results(
            variable.value if isinstance(variable, keras.Variable) else variable
        )
        np.testing.assert_array_equal(*(value.numpy() for value in values))
    return network, method, np.stack(scalars), np.stack(weights)


@pytest.mark.parametrize("is_normalized", [False, True], ids=["without-batch-norm", "synchronized-batch-norm"])
@pytest.mark.parametrize("sampler_name", ["all", "famus"])
@pytest.mark.parametrize("meta_model", META_MODELS)
def test_two_replicas_take_the_steps_of_one_replica_with_the_whole_batch(
    two_replicas, meta_model, sampler_name, is_normalized
):
    case = meta_model, sampler_name, is_normalized
    network, method, scalars, weights = run_on_one_replica(*case)
    replicated, replicated_method, replicated_scalars, replicated_weights = run_on_two_replicas(two_replicas, *case)
    np.testing.assert_allclose(replicated_scalars, scalars, atol=1e-5)
    np.testing.assert_allclose(replicated_weights, weights, atol=1e-4)
    assert_all_close(arrays(replicated.variables), arrays(network.variables), atol=1e-5)
    assert_all_close(arrays(replicated_method.variables), arrays(method.variables), atol=1e-5)
    if sampler_name == "famus":
        gates = scalars[:, method.scalar_names.index("open_gates") + 1 :]
        assert gates.shape == (NUM_STEPS, 3) and 0.0 < gates.mean() < 1.0
