"""Tests of famus_tf.meta.meta_gradient: exact in float64, and equal to the textbook form.

Two independent references: central differences of L_val(ŵ(θ)), with objectives written anew here, and the textbook
form, an outer tape around an inner one.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from famus_tf.meta import meta_gradient
from famus_tf.meta.gradient_sampler import gradient_matching_loss
from famus_tf.meta.layer_sampling import AllLayers, last_layer_positions
from tests import tiny_networks
from tests.tiny_networks import FIRST_STEP, ForcedGates, assert_all_close, meta_method, relative_error

TRAIN = tiny_networks.batch(5, seed=1, dtype="float64")
META = tiny_networks.batch(4, seed=2, dtype="float64")
NUM_LAYERS = 8


@pytest.fixture(scope="module", autouse=True)
def in_double_precision():
    with tiny_networks.double_precision():
        yield


@pytest.fixture(scope="module")
def network(in_double_precision):
    """Convolution, batch norm, smooth activations, average pooling, dense head; 8 trainable variables."""
    return tiny_networks.conv_network()


def stages(method, step=FIRST_STEP):
    virtual = method.virtual_train(TRAIN, step)
    return virtual, method.meta_train(virtual, META, step)


def log_softmax(logits):
    return logits - tf.reduce_logsumexp(logits, axis=1, keepdims=True)


def cross_entropy(logits, labels):
    return -tf.reduce_sum(tf.one_hot(labels, 3, dtype=logits.dtype) * log_softmax(logits), axis=1)


def mwnet_objective(normalization):
    def objective(logits, labels, parameters):
        first_kernel, first_bias, second_kernel, second_bias = parameters
        losses = cross_entropy(logits, labels)
        hidden = tf.nn.relu(tf.stop_gradient(losses)[:, None] @ first_kernel + first_bias)
        weights = tf.sigmoid(hidden @ second_kernel + second_bias)[:, 0]
        divisor = tf.reduce_sum(weights) if normalization == "sum" else 5.0
        return tf.reduce_sum(weights * losses) / divisor

    return objective


def l2r_objective(logits, labels, parameters):
    return tf.reduce_sum(parameters[0] * cross_entropy(logits, labels))


def mlc_objective(reduction):
    def objective(logits, labels, parameters):
        losses = cross_entropy(logits @ parameters[0], labels)
        return tf.reduce_mean(losses) if reduction == "mean" else tf.reduce_sum(losses)

    return objective


CASES = {
    "mwnet, weights over their sum": ("mwnet", {"weight_normalization": "sum"}, mwnet_objective("sum")),
    "mwnet, weights over the batch": ("mwnet", {"weight_normalization": "batch_size"}, mwnet_objective("batch_size")),
    "l2r": ("l2r", {}, l2r_objective),
    "mlc, mean": ("mlc", {"mlc_reduction": "mean"}, mlc_objective("mean")),
    "mlc, sum": ("mlc", {"mlc_reduction": "sum"}, mlc_objective("sum")),
}


def validation_loss_after_the_virtual_step(network, objective, parameters, rate):
    """L_val(ŵ(θ)) as a compiled function of θ as one flat vector."""
    shapes = [p.shape for p in parameters]
    sizes = [int(np.prod(shape)) for shape in shapes]
    weights = [tf.constant(v.numpy()) for v in network.trainable_variables]
    state = [tf.constant(v.numpy()) for v in network.non_trainable_variables]

    @tf.function
    def loss_at(flat):
        values = [tf.reshape(part, shape) for part, shape in zip(tf.split(flat, sizes), shapes, strict=True)]
        with tf.GradientTape() as tape:
            tape.watch(weights)
            logits, _ = network.stateless_call(weights, state, TRAIN["image"], training=True)
            value = objective(logits, TRAIN["label"], values)
        moved = [w - rate * g for w, g in zip(weights, tape.gradient(value, weights), strict=True)]
        meta_logits, _ = network.stateless_call(moved, state, META["image"], training=True)
        return tf.reduce_mean(cross_entropy(meta_logits, META["label"]))

    return loss_at


def central_differences(function, point, width=1e-3):
    """The gradient at a point, by the five-point formula: an error of the order of width⁴."""
    gradient = np.zeros_like(point)
    for index in range(point.size):
        offset = np.zeros_like(point)
        offset[index] = width
        value = [float(function(tf.constant(point + k * offset))) for k in (-2, -1, 1, 2)]
        gradient[index] = (8.0 * (value[2] - value[1]) - (value[3] - value[0])) / (12.0 * width)
    return gradient


@pytest.mark.parametrize("case", CASES)
def test_the_meta_gradient_equals_central_differences_of_the_validation_loss(network, case):
    name, settings, objective = CASES[case]
    method = meta_method(network, name, AllLayers(), hidden_units=3, **settings)
    virtual, meta = stages(method)
    loss_at = validation_loss_after_the_virtual_step(network, objective, virtual.parameters, 0.5)
    point = np.concatenate([np.ravel(p) for p in virtual.parameters])
    np.testing.assert_allclose(loss_at(tf.constant(point)), meta.loss, rtol=1e-12)
    expected = central_differences(loss_at, point)
    assert np.linalg.norm(expected) > 1e-4
    assert relative_error(meta.gradient, [expected]) < 1e-6


def test_the_logit_tangent_equals_central_differences_of_the_logits(network):
    weights = [tf.convert_to_tensor(v.value) for v in network.trainable_variables]
    state = [tf.convert_to_tensor(v.value) for v in network.non_trainable_variables]
    random = np.random.default_rng(3)
    direction = [tf.constant(random.normal(size=w.shape)) for w in weights]
    training = meta_gradient.forward_pass(network, weights, state, TRAIN["image"])
    cotangent = tf.constant(random.normal(size=(5, 3)))
    gradients, tape = meta_gradient.recorded_gradient(training, cotangent)
    tangent = meta_gradient.logit_tangent(tape, gradients, cotangent, direction, None, (0,))

    def logits_at(k):
        moved = [w + k * 1e-3 * d for w, d in zip(weights, direction, strict=True)]
        return network.stateless_call(moved, state, TRAIN["image"], training=True)[0].numpy()

    expected = (8.0 * (logits_at(1) - logits_at(-1)) - (logits_at(2) - logits_at(-2))) / 12e-3
    np.testing.assert_allclose(tangent, expected, rtol=1e-7, atol=1e-7)


SAMPLERS = {
    "all": ("all", {}),
    "famus paper": ("famus", {"gated_variables": 6, "gradient_matching_weight": 0.7}),
    "famus paper without matching": ("famus", {"gated_variables": 0, "gradient_matching_weight": 0.0}),
    "famus official": ("official", {"gated_variables": 6, "gradient_matching_weight": 0.7}),
    "random": ("random", {"gated_variables": 0, "num_random_layers": 3}),
    "block": ("block", {"layer_block": 2}),
}


def lowest(gates):
    """The lowest open gate's number, worked in NumPy."""
    opened = np.flatnonzero(np.asarray(gates))
    return int(opened[0]) if opened.size else len(gates)


def step_with_a_closed_gate_on_either_side(method):
    """The first step whose gates are closed at the bottom, then open, then closed again (static gates: any step)."""
    sampler = method.layer_sampler
    if sampler.is_static:
        return FIRST_STEP
    gated = method.virtual_train(TRAIN, FIRST_STEP).gated
    for number in range(200):
        step = tf.constant(number, tf.int64)
        gates = sampler.gates(sampler.parameters(), gated, step).numpy()
        if 0 < lowest(gates) < len(gates) and not gates[lowest(gates) :].all():
            return step
    raise LookupError("No such step.")


def matching_of(method, virtual, seen):
    """λ₂ L_g as the textbook form takes it; None without it.

    L2R's virtual gradient is 0 while its L_g looks at the plain gradient, so there L_g is taken to first order at the
    plain gradient: that is the part that can be compared.
    """
    weight = method.layer_sampler.gradient_matching_weight
    if not weight:
        return None
    last = last_layer_positions(method._model)
    variant = method.layer_sampler.variant

    def of_last(gradients):
        return [gradients[p] for p in last]

    if method.meta_model.moves_virtual_weights:
        return lambda training, validation: (
            weight * gradient_matching_loss(of_last(training), of_last(validation), variant)
        )
    plain = virtual.gated[-len(last) :]
    with tf.GradientTape() as tape:
        tape.watch(plain)
        loss = gradient_matching_loss(plain, seen[-len(last) :], variant)
    slopes = tape.gradient(loss, plain)
    return lambda training, validation: (
        weight * tf.add_n([tf.reduce_sum(s * g) for s, g in zip(slopes, of_last(training), strict=True)])
    )


def validation_gradients_at(network, virtual):
    """q for all weights, by a plain tape."""
    with tf.GradientTape() as tape:
        tape.watch(virtual.weights)
        logits, _ = network.stateless_call(virtual.weights, virtual.state, META["image"], training=True)
        loss = tf.reduce_mean(cross_entropy(logits, META["label"]))
    return tape.gradient(loss, virtual.weights)


def textbook(network, method, virtual, gates):
    """The textbook meta-gradient and ∂L_c/∂r of a method's step."""
    seen = validation_gradients_at(network, virtual)
    return meta_gradient.textbook_meta_gradient(
        network,
        virtual.training.weights,
        virtual.state,
        (TRAIN["image"], TRAIN["label"]),
        (META["image"], META["label"]),
        lambda logits, labels, parameters: method._objective(logits, labels, parameters)[0],
        virtual.parameters,
        tf.cast(virtual.rate, tf.float64),
        method.layer_sampler.positions,
        tf.cast(gates, tf.float64),
        matching_of(method, virtual, seen),
    )


@pytest.mark.parametrize("sampler_name", SAMPLERS)
@pytest.mark.parametrize("meta_model", ["mwnet", "l2r", "mlc"])
def test_the_fast_construction_equals_the_textbook_form(network, meta_model, sampler_name):
    name, settings = SAMPLERS[sampler_name]
    method = meta_method(network, meta_model, tiny_networks.layer_sampler(name, **settings))
    step = step_with_a_closed_gate_on_either_side(method)
    virtual, meta = stages(method, step)
    expected, gate_gradients = textbook(network, method, virtual, meta.gates)
    assert np.linalg.norm(np.concatenate([np.ravel(e) for e in expected])) > 1e-6
    assert relative_error(meta.gradient, expected) < 1e-8
    if not meta.gate_gradient or meta_model == "l2r":
        # L2R's gates look at the plain gradient, the textbook form's at the virtual one, which is 0.
        return
    sampler = method.layer_sampler
    is_seen = np.arange(len(meta.gates)) >= lowest(meta.gates)
    from_loss = tf.constant(np.where(is_seen, gate_gradients, 0.0), tf.float32)
    parameters = sampler.parameters()
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(parameters)
        gates = sampler.gates(parameters, virtual.gated, step)
        total = tf.reduce_sum(gates * from_loss) + sampler.budget_loss(gates)
    np.testing.assert_array_equal(gates, meta.gates)
    expected = tape.gradient(total, parameters, unconnected_gradients=meta_gradient.ZERO)
    # The gates are float32 networks.
    assert relative_error(meta.gate_gradient, expected) < 1e-5


PATTERNS = [
    [1, 1, 1, 1, 1, 1, 1, 1],
    [1, 0, 0, 0, 0, 0, 0, 0],
    [0, 0, 1, 0, 1, 1, 0, 1],
    [0, 0, 0, 0, 0, 0, 1, 0],
    [0, 0, 0, 0, 0, 0, 0, 1],
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_gates_own_gradient_equals_the_textbook_form_at_and_above_the_lowest_open_gate(network, pattern):
    method = meta_method(network, "mwnet", ForcedGates(pattern))
    virtual, meta = stages(method)
    expected, gate_gradients = textbook(network, method, virtual, meta.gates)
    assert relative_error(meta.gradient, expected) < 1e-8
    first = lowest(pattern)
    (actual,) = meta.gate_gradient
    np.testing.assert_array_equal(actual[:first], np.zeros(first))
    # ∂L_c/∂r is handed to float32 gates.
    scale = np.abs(gate_gradients).max()
    np.testing.assert_allclose(actual[first:], gate_gradients[first:], rtol=1e-5, atol=1e-6 * scale)


def test_virtual_weights_are_one_plain_sgd_step():
    moved = meta_gradient.virtual_weights([tf.constant([1.0, 2.0])], [tf.constant([4.0, -2.0])], 0.25)
    np.testing.assert_array_equal(moved[0], [0.0, 2.5])


def test_a_forward_pass_leaves_the_networks_variables_alone(network):
    before = tiny_networks.arrays(network.variables)
    weights = [tf.convert_to_tensor(v.value) + 0.1 for v in network.trainable_variables]
    state = [tf.convert_to_tensor(v.value) for v in network.non_trainable_variables]
    forward = meta_gradient.forward_pass(network, weights, state, TRAIN["image"])
    assert_all_close(tiny_networks.arrays(network.variables), before)
    assert any(np.any(new.numpy() != old.numpy()) for new, old in zip(forward.state, state, strict=True))
    assert forward.logits.dtype == tf.float64


def test_the_penaltys_gradient_enters_by_the_given_share():
    regularized = tiny_networks.conv_network(batch_norm=False, regularizer=keras.regularizers.L2(0.25))
    weights = [tf.convert_to_tensor(v.value) for v in regularized.trainable_variables]
    forward = meta_gradient.forward_pass(regularized, weights, [], TRAIN["image"])
    kernels = [w for w in weights if w.shape.rank == 4]
    np.testing.assert_allclose(forward.penalty, 0.25 * sum(np.square(k).sum() for k in kernels), rtol=1e-12)
    cotangent = tf.ones_like(forward.logits)
    without, with_share = forward.gradient(cotangent), forward.gradient(cotangent, penalty_share=0.5)
    for weight, plain, penalized in zip(weights, without, with_share, strict=True):
        expected = plain + (0.5 * 0.5 * weight if weight.shape.rank == 4 else 0.0)
        np.testing.assert_allclose(penalized, expected, rtol=1e-12)
