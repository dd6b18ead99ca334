"""Tests of famus_tf.methods.meta_reweighting: whole steps, and what they store."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from famus_tf.config import MethodConfig, OptimizerConfig
from famus_tf.meta.layer_sampling import AllLayers
from famus_tf.methods.supervised import Supervised
from tests import tiny_networks
from tests.tiny_networks import (
    FIRST_STEP,
    MOMENTUM_SGD,
    ForcedGates,
    arrays,
    assert_all_close,
    layer_sampler,
    meta_method,
    next_values,
)

BATCH = tiny_networks.batch(6, seed=1)
META = tiny_networks.batch(4, seed=2)
META_MODELS = ["mwnet", "l2r", "mlc"]


def supervised_values(base=tiny_networks.PLAIN_SGD, **settings):
    """The network's next trainable values under plain training."""
    network = tiny_networks.conv_network(**settings)
    plain = Supervised(MethodConfig(name="ce", base=base))
    plain.build(network, seed=0, num_replicas=1)
    return next_values(plain.train_step(BATCH, None, FIRST_STEP), network.trainable_variables)


def draw_slots(method, seed=9):
    """Gives the optimizers' slots drawn values, as in the middle of a run; steps done and rates stay."""
    random = np.random.default_rng(seed)
    optimizers = [method.base_optimizer, *([method.meta_model.optimizer] if method.meta_model.variables else [])]
    for optimizer in optimizers:
        for slot in optimizer.variables[2:]:
            slot.assign(0.1 * random.normal(size=slot.shape))


def gradients_of(network, weighted_loss):
    """Gradients of a function of (logits, per-example losses) at the current weights, by a plain tape."""
    weights = [tf.convert_to_tensor(v.value) for v in network.trainable_variables]
    state = [tf.convert_to_tensor(v.value) for v in network.non_trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(weights)
        logits, _ = network.stateless_call(weights, state, BATCH["image"], training=True)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(BATCH["label"], logits)
        value = weighted_loss(logits, losses)
    return tape.gradient(value, weights)


# --- What the actual step does with the weights ----------------------------------------------------------------------


@pytest.mark.parametrize("base", [tiny_networks.PLAIN_SGD, MOMENTUM_SGD], ids=["plain", "momentum"])
def test_equal_example_weights_are_plain_training(base):
    network = tiny_networks.conv_network()
    method = meta_method(network, "mwnet", AllLayers(), base=base)
    for variable in method.meta_model.network.trainable_variables:
        # No kernel and a dead hidden layer: the weight is constant and stays so.
        variable.assign(-tf.ones_like(variable.value) if variable.path == "hidden/bias" else tf.zeros(variable.shape))
    result = method.train_step(BATCH, META, FIRST_STEP)
    np.testing.assert_allclose(result.example_weights, np.ones(6), rtol=1e-6)
    assert_all_close(next_values(result, network.trainable_variables), supervised_values(base), rtol=1e-6, atol=1e-6)


def test_a_transition_matrix_that_stays_the_identity_is_plain_training_to_the_bit():
    network = tiny_networks.conv_network()
    result = meta_method(network, "mlc", ForcedGates(0.0)).train_step(BATCH, META, FIRST_STEP)
    assert_all_close(next_values(result, network.trainable_variables), supervised_values(), atol=1e-7)
    np.testing.assert_array_equal(result.example_weights, np.ones(6))


def test_actual_train_uses_the_parameters_that_meta_train_left():
    network = tiny_networks.conv_network()
    settings = OptimizerConfig(learning_rate=20.0, momentum=0.0)
    method = meta_method(network, "mwnet", AllLayers(), optimizer=settings)
    result = method.train_step(BATCH, META, FIRST_STEP)
    old = arrays(method.meta_model.network.trainable_variables)
    new = next_values(result, method.meta_model.network.trainable_variables)

    def shares(losses, parameters):
        hidden = tf.nn.relu(losses[:, None] @ parameters[0] + parameters[1])
        weights = tf.sigmoid(hidden @ parameters[2] + parameters[3])[:, 0]
        return weights / tf.reduce_sum(weights)

    seen = {}

    def weighted_loss(_, losses):
        seen["new"], seen["old"] = shares(tf.stop_gradient(losses), new), shares(tf.stop_gradient(losses), old)
        return tf.reduce_sum(seen["new"] * losses)

    start = arrays(network.trainable_variables)
    gradients = gradients_of(network, weighted_loss)
    expected = [w - 0.5 * g for w, g in zip(start, gradients, strict=True)]
    assert_all_close(next_values(result, network.trainable_variables), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.example_weights, 6.0 * seen["new"], rtol=1e-5)
    assert np.abs(seen["new"] - seen["old"]).max() > 1e-3


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_actual_train_of_mlc_takes_the_projected_transition_matrix(reduction):
    network = tiny_networks.conv_network()
    method = meta_method(
        network, "mlc", AllLayers(), mlc_reduction=reduction, optimizer=OptimizerConfig(learning_rate=2.0)
    )
    virtual = method.virtual_train(BATCH, FIRST_STEP)
    meta = method.meta_train(virtual, META, FIRST_STEP)
    result = method.actual_train(virtual, meta, FIRST_STEP)
    transition = np.maximum(np.eye(3) - 2.0 * meta.gradient[0].numpy(), 0.0)
    transition = (transition / transition.sum(axis=0)).astype("float32")
    assert np.abs(transition - np.eye(3)).max() > 1e-3

    def corrected_loss(logits, _):
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(BATCH["label"], logits @ transition)
        return tf.reduce_mean(losses) if reduction == "mean" else tf.reduce_sum(losses)

    expected = [
        w - 0.5 * g
        for w, g in zip(arrays(network.trainable_variables), gradients_of(network, corrected_loss), strict=True)
    ]
    assert_all_close(next_values(result, network.trainable_variables), expected, rtol=1e-5, atol=1e-5)


# --- Virtual-train ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("meta_model", "moves"), [("mwnet", True), ("l2r", False), ("mlc", True)])
def test_the_virtual_step_is_plain_sgd_at_the_current_rate_without_momentum_l2_or_penalty(meta_model, moves):
    network = tiny_networks.conv_network(regularizer=keras.regularizers.L2(0.25))
    base = OptimizerConfig(
        learning_rate=0.5, momentum=0.9, nesterov=True, l2_coefficient=0.1, decay_steps=(3,), decay_factor=0.5
    )
    method = meta_method(network, meta_model, AllLayers(), base=base)
    draw_slots(method)
    virtual = method.virtual_train(BATCH, tf.constant(3, tf.int64))
    assert float(virtual.rate) == 0.25
    gradients = gradients_of(
        network, lambda logits, _: method._objective(logits, BATCH["label"], virtual.parameters)[0]
    )
    expected = [
        w - (0.25 * g if moves else 0.0) for w, g in zip(arrays(network.trainable_variables), gradients, strict=True)
    ]
    assert_all_close(virtual.weights, expected, rtol=1e-5, atol=1e-6)


# --- Which gates are open --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("meta_model", META_MODELS)
def test_all_gates_open_is_the_step_of_all_layers_to_the_last_bit(meta_model):
    stored = []
    for sampler in (AllLayers(), ForcedGates(1.0)):
        network = tiny_networks.conv_network()
        method = meta_method(network, meta_model, sampler, base=MOMENTUM_SGD)
        draw_slots(method)
        result = method.train_step(BATCH, META, FIRST_STEP)
        stored.append(
            [*next_values(result, [*network.variables, *method.meta_model.variables[:4]]), result.example_weights]
        )
        assert np.asarray(result.example_weights).max() > 0.0
    assert_all_close(*stored)


def test_no_gate_open_leaves_the_parameters_and_their_slots_to_the_last_bit():
    network = tiny_networks.conv_network()
    settings = OptimizerConfig(learning_rate=0.5, momentum=0.9, nesterov=True, l2_coefficient=0.1)
    method = meta_method(network, "mwnet", ForcedGates(0.0), optimizer=settings)
    draw_slots(method)
    moving = [*method.meta_model.network.variables, *method.meta_model.optimizer.variables[1:]]
    before, weights_before = arrays(moving), arrays(network.trainable_variables)
    virtual = method.virtual_train(BATCH, FIRST_STEP)
    _, weights_of_unmoved = method._objective(virtual.training.logits, BATCH["label"], virtual.parameters)
    result = method.train_step(BATCH, META, FIRST_STEP)
    tiny_networks.commit(result)
    assert_all_close(arrays(moving), before)
    np.testing.assert_array_equal(result.example_weights, weights_of_unmoved)
    assert all(np.any(a != b) for a, b in zip(arrays(network.trainable_variables), weights_before, strict=True))
    # One open gate is enough to move everything.
    method.layer_sampler.values.assign(np.eye(8)[3])
    tiny_networks.commit(method.train_step(BATCH, META, FIRST_STEP))
    assert all(np.any(a != b) for a, b in zip(arrays(moving), before, strict=True))


def test_no_gate_open_gives_l2r_only_zero_weights_and_its_step_is_pure_decay():
    network = tiny_networks.conv_network()
    base = OptimizerConfig(learning_rate=0.5, momentum=0.9, l2_coefficient=0.1)
    result = meta_method(network, "l2r", ForcedGates(0.0), base=base).train_step(BATCH, META, FIRST_STEP)
    np.testing.assert_array_equal(result.example_weights, np.zeros(6))
    expected = [w - 0.5 * 0.1 * w for w in arrays(network.trainable_variables)]
    assert_all_close(next_values(result, network.trainable_variables), expected, rtol=1e-6)


def test_gates_learn_from_their_budget_even_where_none_is_open():
    network = tiny_networks.conv_network()
    sampler = layer_sampler("famus", gated_variables=4, gradient_matching_weight=0.0)
    method = meta_method(network, "mwnet", sampler)
    for variable in sampler.network.trainable_variables:
        if variable.path.endswith("scores/bias"):
            variable.assign([3.0, -3.0])
    theta, eta = arrays(method.meta_model.network.variables), arrays(sampler.network.variables)
    result = method.train_step(BATCH, META, FIRST_STEP)
    tiny_networks.commit(result)
    assert float(result.scalars[method.scalar_names.index("open_gates")]) == 0.0
    assert_all_close(arrays(method.meta_model.network.variables), theta)
    assert all(np.any(a != b) for a, b in zip(arrays(sampler.network.variables), eta, strict=True))


def test_gradient_matching_moves_the_parameters_even_where_no_gate_is_open():
    network = tiny_networks.conv_network()
    sampler = layer_sampler("famus", gated_variables=4, gradient_matching_weight=1.0)
    method = meta_method(network, "mwnet", sampler)
    for variable in sampler.network.trainable_variables:
        if variable.path.endswith("scores/bias"):
            variable.assign([100.0, 0.0])
    theta = arrays(method.meta_model.network.variables)
    tiny_networks.commit(method.train_step(BATCH, META, FIRST_STEP))
    assert all(np.any(a != b) for a, b in zip(arrays(method.meta_model.network.variables), theta, strict=True))


def test_a_single_gated_variable_trains_with_gradient_matching():
    network = tiny_networks.conv_network()
    method = meta_method(network, "mwnet", layer_sampler("famus", gated_variables=1))
    result = method.train_step(BATCH, META, FIRST_STEP)
    assert np.all(np.isfinite(result.scalars))


# --- L2R -------------------------------------------------------------------------------------------------------------


def features(rows):
    return tf.constant(rows, tf.float32)[:, None, None, :]


def linear_network():
    inputs = keras.Input((1, 1, 2))
    head = keras.layers.Dense(2, use_bias=False, kernel_initializer="zeros", name="logits")
    return keras.Model(inputs, head(keras.layers.Flatten()(inputs)))


def test_l2r_worked_by_hand_gives_a_wrong_label_no_weight():
    network = linear_network()
    method = meta_method(network, "l2r", AllLayers())
    # At zero weights each gradient is x ⊗ (±1/2, ∓1/2). Against the clean (1, 0) of class 0, the alignments are
    # 1/2 for the right label, −1/2 for the wrong one, 0 for the orthogonal example and 1 for twice the first.
    batch = {"image": features([[1, 0], [1, 0], [0, 1], [2, 0]]), "label": tf.constant([0, 1, 1, 0])}
    result = method.train_step(batch, {"image": features([[1, 0]]), "label": tf.constant([0])}, FIRST_STEP)
    np.testing.assert_allclose(result.example_weights, 4.0 * np.array([1 / 3, 0.0, 0.0, 2 / 3]), rtol=1e-6)
    # w ← 0 + α (1/3 · 1 + 2/3 · 2) (1, 0) ⊗ (1/2, −1/2), α = 1/2.
    (moved,) = next_values(result, network.trainable_variables)
    np.testing.assert_allclose(moved, [[5 / 12, -5 / 12], [0.0, 0.0]], rtol=1e-6)
    scalars = dict(zip(method.scalar_names, result.scalars.numpy(), strict=True))
    assert scalars["zero_weight_rate"] == 0.5
    # ∂L_val/∂ε = −α times the alignments: 1/2 · √(1/4 + 1/4 + 0 + 1).
    np.testing.assert_allclose(scalars["meta_gradient_norm"], 0.5 * np.sqrt(1.5), rtol=1e-6)
    np.testing.assert_allclose(scalars["meta_loss"], np.log(2.0), rtol=1e-6)


def test_l2r_weights_are_all_zero_where_every_example_hurts():
    method = meta_method(linear_network(), "l2r", AllLayers())
    batch = {"image": features([[1, 0], [3, 0]]), "label": tf.constant([1, 1])}
    result = method.train_step(batch, {"image": features([[1, 0]]), "label": tf.constant([0])}, FIRST_STEP)
    np.testing.assert_array_equal(result.example_weights, np.zeros(2))
    assert all(np.all(value == 0.0) for value in next_values(result, method._model.trainable_variables))


def test_l2r_weights_sum_to_one_share_per_step():
    network = tiny_networks.conv_network()
    method = meta_method(network, "l2r", AllLayers())
    for seed in range(4):
        weights = method.train_step(tiny_networks.batch(6, seed=seed), META, FIRST_STEP).example_weights.numpy()
        assert np.all(weights >= 0.0) and np.any(weights == 0.0)
        # Scaled so that plain training has weight 1 for each of the 6 examples.
        np.testing.assert_allclose(weights.sum(), 6.0, rtol=1e-5)


# --- What a step stores ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("meta_model", META_MODELS)
def test_batch_norm_statistics_and_dropout_seeds_are_those_of_one_training_pass(meta_model):
    network = tiny_networks.conv_network(dropout=0.5)
    result = meta_method(network, meta_model, AllLayers()).train_step(BATCH, META, FIRST_STEP)
    before = arrays(network.non_trainable_variables)
    stored = next_values(result, network.non_trainable_variables)
    assert_all_close(arrays(network.non_trainable_variables), before)
    network(BATCH["image"], training=True)
    after = arrays(network.non_trainable_variables)
    assert all(np.any(b != a) for b, a in zip(before, after, strict=True))
    assert_all_close(stored, after, rtol=1e-6)


def test_a_regularizers_gradient_is_in_the_actual_step_alone():
    stored = []
    for regularizer in (None, keras.regularizers.L2(0.25)):
        network = tiny_networks.conv_network(regularizer=regularizer)
        method = meta_method(network, "mwnet", AllLayers())
        result = method.train_step(BATCH, META, FIRST_STEP)
        stored.append((next_values(result, network.trainable_variables), result))
    (plain, plain_result), (penalized, penalized_result) = stored
    for variable, without, with_penalty in zip(network.trainable_variables, plain, penalized, strict=True):
        penalty = 0.5 * 2.0 * 0.25 * variable.value.numpy() if "conv/kernel" in variable.path else 0.0
        np.testing.assert_allclose(with_penalty, without - penalty, rtol=1e-5, atol=1e-6)
    # Losses, the meta-gradient and the weights do not see it.
    np.testing.assert_array_equal(plain_result.scalars, penalized_result.scalars)
    np.testing.assert_array_equal(plain_result.example_weights, penalized_result.example_weights)


@pytest.mark.parametrize("meta_model", META_MODELS)
def test_a_step_changes_nothing_until_it_is_stored_and_assigns_only_what_is_saved(meta_model):
    network = tiny_networks.conv_network(dropout=0.5)
    method = meta_method(network, meta_model, layer_sampler("famus", gated_variables=3), base=MOMENTUM_SGD)
    variables = [*network.variables, *method.variables]
    before = arrays(variables)
    result = method.train_step(BATCH, META, FIRST_STEP)
    assert_all_close(arrays(variables), before)
    targets = [id(v) for v, _ in result.assignments]
    saved = {id(v.value if isinstance(v, keras.Variable) else v) for v in variables}
    assert len(targets) == len(set(targets)) and set(targets) <= saved


def test_scalars_bear_the_names_that_the_method_gives_them():
    network = tiny_networks.conv_network()
    method = meta_method(network, "mwnet", ForcedGates([0, 1, 0, 1, 1, 0, 0, 1]))
    virtual = method.virtual_train(BATCH, FIRST_STEP)
    meta = method.meta_train(virtual, META, FIRST_STEP)
    result = method.actual_train(virtual, meta, FIRST_STEP)
    scalars = dict(zip(method.scalar_names, result.scalars.numpy(), strict=True))
    logits = virtual.training.logits.numpy()
    accuracy = np.mean(logits.argmax(axis=1) == BATCH["label"].numpy())
    seen, _ = network.stateless_call(virtual.weights, virtual.state, META["image"], training=True)
    meta_accuracy = np.mean(np.argmax(seen, axis=1) == META["label"].numpy())
    meta_loss = np.mean(tf.nn.sparse_softmax_cross_entropy_with_logits(META["label"], seen))
    norm = np.sqrt(sum(np.square(g).sum() for g in meta.gradient))
    measured = [scalars[name] for name in ("accuracy", "learning_rate", "meta_loss", "meta_accuracy")]
    np.testing.assert_allclose(measured, [accuracy, 0.5, meta_loss, meta_accuracy], rtol=1e-5)
    np.testing.assert_allclose(scalars["meta_gradient_norm"], norm, rtol=1e-5)
    assert scalars["zero_weight_rate"] == 0.0 and scalars["open_gates"] == 4.0
    gates = {name: value for name, value in scalars.items() if name.startswith("gate/")}
    assert list(gates) == [f"gate/{v.path}" for v in network.trainable_variables]
    assert list(gates.values()) == [0, 1, 0, 1, 1, 0, 0, 1]
