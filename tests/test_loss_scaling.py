"""Tests of famus_tf.methods.loss_scaling: its dynamics, and that an overflow leaves no trace but smaller scales."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from famus_tf.config import MethodConfig, OptimizerConfig
from famus_tf.meta.layer_sampling import AllLayers
from famus_tf.methods import loss_scaling
from famus_tf.methods.supervised import Supervised
from famus_tf.runs.compiled_loop import CompiledLoop
from tests import tiny_networks
from tests.tiny_networks import FIRST_STEP, MOMENTUM_SGD, arrays, assert_all_close, commit, layer_sampler, meta_method

BATCH = tiny_networks.batch(6, seed=1)
META = tiny_networks.batch(4, seed=2)
METHODS = ["ce", "mwnet", "l2r", "mlc", "mwnet_famus"]


def half_network(**settings):
    return tiny_networks.conv_network(precision="float16", **settings)


def built(name, network):
    if name == "ce":
        method = Supervised(MethodConfig(name=name, base=MOMENTUM_SGD))
        method.build(network, seed=0, num_replicas=1)
        return method
    meta_model, _, sampler = name.partition("_")
    sampler = layer_sampler("famus", gated_variables=4) if sampler else AllLayers()
    return meta_method(network, meta_model, sampler, base=MOMENTUM_SGD)


def scales(method):
    """(S, its good steps, H, its good steps)."""
    return [float(v.numpy()) for v in method._scaling.variables]


def said(method, result):
    return dict(zip(method.scalar_names, result.scalars.numpy(), strict=True))


def test_a_scale_is_halved_at_an_overflow_and_doubled_after_enough_good_steps(monkeypatch):
    monkeypatch.setattr(loss_scaling, "GROWTH_STEPS", 3)
    scale, count = tf.constant(8.0), tf.constant(0, tf.int64)
    seen = []
    for is_finite in [True, True, False, True, True, True, True, False]:
        scale, count = loss_scaling.next_scale(scale, count, tf.constant(is_finite), 1.0, 64.0)
        seen.append((float(scale), int(count)))
    assert seen == [(8, 1), (8, 2), (4, 0), (4, 1), (4, 2), (8, 0), (8, 1), (4, 0)]


def test_a_scale_keeps_within_its_bounds(monkeypatch):
    monkeypatch.setattr(loss_scaling, "GROWTH_STEPS", 1)
    zero = tf.constant(0, tf.int64)
    assert float(loss_scaling.next_scale(tf.constant(64.0), zero, tf.constant(True), 1.0, 64.0)[0]) == 64.0
    assert float(loss_scaling.next_scale(tf.constant(1.0), zero, tf.constant(False), 1.0, 64.0)[0]) == 1.0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_nothing_is_scaled_or_kept_where_no_layer_computes_in_float16(precision):
    scaling = loss_scaling.LossScaling(tiny_networks.conv_network(precision=precision))
    value = tf.constant([3.0])
    assert not scaling.is_active and scaling.variables == [] and scaling.scalar_names == ()
    assert scaling.scaled(value) is value
    assert scaling.gradients([value])[0][0] is value
    assert scaling.tangents([value])[0][0] is value
    assert scaling.logit_tangent(value, None)[0] is value


def test_what_was_scaled_comes_back_exactly():
    scaling = loss_scaling.LossScaling(half_network())
    value = tf.constant([3.0, -1e-7])
    np.testing.assert_array_equal(scaling.scaled(value), value * 2.0**15)
    (gradient,), is_finite = scaling.gradients([scaling.scaled(value)])
    np.testing.assert_array_equal(gradient, value)
    assert bool(is_finite)


def test_the_largest_tangent_gets_the_tangent_scale_whatever_the_rate_was():
    scaling = loss_scaling.LossScaling(half_network())
    tangents, factor = scaling.tangents([tf.constant([1e-12, -4e-12]), tf.constant([[2e-12]])])
    np.testing.assert_allclose(tangents[0], [4.0, -16.0], rtol=1e-6)
    np.testing.assert_allclose(tangents[1], [[8.0]], rtol=1e-6)
    value, is_finite = scaling.logit_tangent(tangents[0], factor)
    np.testing.assert_allclose(value, [1e-12, -4e-12], rtol=1e-6)
    assert bool(is_finite)


def test_tangents_that_are_all_zero_stay_zero():
    scaling = loss_scaling.LossScaling(half_network())
    tangents, factor = scaling.tangents([tf.zeros([2])])
    np.testing.assert_array_equal(tangents[0], [0.0, 0.0])
    assert np.isfinite(factor)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_whose_gradients_overflow_stores_nothing_but_half_the_scale(name):
    network = half_network(dropout=0.5)
    method = built(name, network)
    variables = [*network.variables, *method.variables[: -len(method._scaling.variables)]]
    commit(method.train_step(BATCH, META, FIRST_STEP))
    method._scaling.variables[0].assign(2.0**21)
    before, others = arrays(variables), scales(method)
    result = method.train_step(BATCH, META, FIRST_STEP)
    assert all(np.all(np.isfinite(value)) for _, value in result.assignments if value.dtype.is_floating)
    assert np.all(np.isfinite(result.scalars)) and np.all(np.isfinite(result.example_weights))
    commit(result)
    assert_all_close(arrays(variables), before)
    after = scales(method)
    assert after[:2] == [2.0**20, 0.0] and after[2] == others[2]
    scalars = said(method, result)
    assert (scalars["loss_scale"], scalars["skipped_rate"]) == (2.0**21, 1.0)
    # The scale finds its way down by itself, and then a step counts.
    was_skipped = True
    while was_skipped:
        result = method.train_step(BATCH, META, FIRST_STEP)
        commit(result)
        was_skipped = said(method, result)["skipped_rate"] == 1.0
    assert 2.0**14 < scales(method)[0] < 2.0**20
    assert any(np.any(a != b) for a, b in zip(arrays(variables), before, strict=True))


def test_a_tangent_that_overflows_costs_the_step_and_half_the_tangent_scale_alone():
    network = half_network()
    method = built("mwnet", network)
    variables = [*network.variables, *method.variables[: -len(method._scaling.variables)]]
    method._scaling.variables[2].assign(2.0**17)
    before = arrays(variables)
    virtual = method.virtual_train(BATCH, FIRST_STEP)
    meta = method.meta_train(virtual, META, FIRST_STEP)
    result = method.actual_train(virtual, meta, FIRST_STEP)
    assert (bool(virtual.is_finite), bool(meta.is_finite), bool(meta.tangent_is_finite)) == (True, True, False)
    assert np.all(np.isfinite(result.scalars))
    commit(result)
    assert_all_close(arrays(variables), before)
    assert scales(method) == [2.0**15, 1.0, 2.0**16, 0.0]


@pytest.mark.parametrize("name", METHODS)
def test_a_good_step_stores_only_what_is_saved_and_counts(name):
    network = half_network()
    method = built(name, network)
    result = method.train_step(BATCH, META, FIRST_STEP)
    targets = [id(v) for v, _ in result.assignments]
    saved = {id(v.value if isinstance(v, keras.Variable) else v) for v in [*network.variables, *method.variables]}
    assert len(targets) == len(set(targets)) and set(targets) <= saved
    commit(result)
    assert scales(method) == [2.0**15, 1.0, 2.0**4, 1.0]
    assert len(result.scalars) == len(method.scalar_names)


@pytest.mark.parametrize("name", ["ce", "mwnet"])
def test_an_overflow_at_the_smallest_scale_is_not_hidden(name, monkeypatch):
    monkeypatch.setattr(loss_scaling, "GRADIENT_SCALE", (2.0**24, 2.0**24, 2.0**24))
    network = half_network()
    method = built(name, network)
    commit(method.train_step(BATCH, META, FIRST_STEP))
    assert any(not np.all(np.isfinite(value)) for value in arrays(network.trainable_variables))


def test_a_loss_that_is_not_finite_stays_visible():
    method = built("mwnet", half_network())
    bad = {**BATCH, "image": BATCH["image"] * 1e6}
    scalars = said(method, method.train_step(bad, META, FIRST_STEP))
    assert not np.isfinite(scalars["loss"])


def test_the_compiled_loop_sees_nothing_amiss_in_a_step_that_overflowed():
    method = built("ce", half_network())
    method._scaling.variables[0].assign(2.0**21)
    loop = CompiledLoop(method, tf.distribute.get_strategy(), ends_at_nonfinite=True)
    batches = iter(tf.data.Dataset.from_tensors(BATCH).repeat())
    results = loop.run(batches, batches, 6)
    assert loop.step == 6 and not results.nonfinite.any()
    skipped = results.scalars[:, method.scalar_names.index("skipped_rate")]
    assert skipped[0] == 1.0 and skipped[-1] == 0.0
    assert scales(method)[0] == 2.0 ** (21 - skipped.sum())


def test_an_overflow_on_one_replica_is_an_overflow_on_all(two_replicas):
    with two_replicas.scope():
        network = half_network(num_blocks=1, batch_norm=False)
        base = OptimizerConfig(learning_rate=1e-3, momentum=0.0)
        method = meta_method(network, "l2r", AllLayers(), base=base, num_replicas=2)
    # The second replica's images, and with them its tangents, are a hundred times larger than the first's.
    method._scaling.variables[0].assign(2.0)
    method._scaling.variables[2].assign(2.0**11)

    def batch_of(context):
        factor = 100.0 if context.replica_id_in_sync_group else 1.0
        return {**BATCH, "image": BATCH["image"] * factor}

    def replica_step(batch):
        virtual = method.virtual_train(batch, FIRST_STEP)
        meta = method.meta_train(virtual, META, FIRST_STEP)
        result = method.actual_train(virtual, meta, FIRST_STEP)
        commit(result)
        return meta.is_finite, meta.tangent_is_finite, result.scalars

    variables = [*network.variables, *method.variables[: -len(method._scaling.variables)]]
    before = arrays(variables)
    distributed = two_replicas.experimental_distribute_values_from_function(batch_of)
    # Compiled, since MirroredStrategy warns of eager calls.
    results = tf.function(lambda values: two_replicas.run(replica_step, args=(values,)))(distributed)
    results = [two_replicas.experimental_local_results(result) for result in results]
    assert [[bool(value) for value in values] for values in results[:2]] == [[True, True], [True, False]]
    np.testing.assert_array_equal(*results[2])
    assert_all_close(arrays(variables), before)
    for variable, value in zip(method._scaling.variables, [2.0, 1, 2.0**10, 0], strict=True):
        assert [float(v) for v in two_replicas.experimental_local_results(variable)] == [value, value]
