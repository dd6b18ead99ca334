"""Tests of famus_tf.models.normalization."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from famus_tf.models import normalization
from famus_tf.models.normalization import FusedBatchNormalization, plain_copy

HAS_RENORM = "renorm" in inspect.signature(keras.layers.BatchNormalization).parameters
SHAPE = (6, 5, 4, 3)


def random_array(seed, shape=SHAPE, scale=1.0, offset=0.0):
    return (np.random.default_rng(seed).normal(size=shape) * scale + offset).astype("float32")


def built_layer(layer_class, *, channels=SHAPE[-1], rank=4, **arguments):
    """A layer whose variables, moving statistics included, are away from 0 and 1."""
    layer = layer_class(momentum=0.9, epsilon=1e-5, name="bn", **arguments)
    shape = [None] * rank
    shape[layer.axis] = channels
    layer.build(tuple(shape))
    for seed, variable in enumerate(layer.variables):
        values = np.random.default_rng(seed).uniform(0.5, 2.0, variable.shape)
        variable.assign(values.astype("float32"))
    return layer


def both_layers(**arguments):
    return built_layer(FusedBatchNormalization, **arguments), built_layer(keras.layers.BatchNormalization, **arguments)


def output_and_gradients(layer, inputs, cotangent, training):
    inputs = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=training)
    sources = [inputs, *[variable.value for variable in layer.trainable_variables]]
    return outputs, tape.gradient(outputs, sources, output_gradients=tf.constant(cotangent))


def logit_tangent(layer, inputs, cotangent, direction):
    """The double pullback: d<pullback(u), direction>/du, one number per output."""
    inputs, cotangent = tf.convert_to_tensor(inputs), tf.convert_to_tensor(cotangent)
    with tf.GradientTape() as cotangent_tape:
        cotangent_tape.watch(cotangent)
        _, gradients = _pull_back(layer, inputs, cotangent)
    direction = [tf.convert_to_tensor(part) for part in direction]
    return cotangent_tape.gradient(gradients, cotangent, output_gradients=direction)


def _pull_back(layer, inputs, cotangent):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=True)
    sources = [inputs, *[variable.value for variable in layer.trainable_variables]]
    return outputs, tape.gradient(outputs, sources, output_gradients=cotangent)


def operation_types(layer, shape, dtype="float32"):
    function = tf.function(lambda inputs: layer(inputs, training=True))
    graph = function.get_concrete_function(tf.TensorSpec(shape, dtype)).graph
    return {operation.type for operation in graph.get_operations()}


def assert_close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(tf.cast(actual, "float64"), tf.cast(expected, "float64"), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
def test_outputs_gradients_and_statistics_equal_the_stock_layers(training, scale, center):
    fused, stock = both_layers(scale=scale, center=center)
    assert [v.path for v in fused.variables] == [v.path for v in stock.variables]
    inputs, cotangent = random_array(1, scale=2.0, offset=0.7), random_array(2)
    for _ in range(2):
        actual, actual_gradients = output_and_gradients(fused, inputs, cotangent, training)
        expected, expected_gradients = output_and_gradients(stock, inputs, cotangent, training)
    assert_close(actual, expected)
    assert len(actual_gradients) == 1 + scale + center
    for actual_gradient, expected_gradient in zip(actual_gradients, expected_gradients, strict=True):
        assert_close(actual_gradient, expected_gradient, 2e-5)
    for actual_variable, expected_variable in zip(fused.variables, stock.variables, strict=True):
        assert_close(actual_variable.value, expected_variable.value)


def test_hand_worked_batch_gives_the_biased_moving_variance():
    layer = FusedBatchNormalization(momentum=0.9, epsilon=1e-5)
    # Values 1, 2, 3, 6: mean 3, sum of squares about it 14, so 14 / 4 = 3.5 and not 14 / 3.
    outputs = layer(np.array([1, 2, 3, 6], "float32").reshape(2, 1, 2, 1), training=True)
    np.testing.assert_allclose(layer.moving_mean, [0.3], rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, [0.9 + 0.35], rtol=1e-6)
    expected = np.array([-2, -1, 0, 3]) / np.sqrt(3.5 + 1e-5)
    np.testing.assert_allclose(np.ravel(outputs), expected, rtol=1e-6, atol=1e-6)


def test_a_single_value_per_channel_has_variance_zero():
    layer = FusedBatchNormalization(momentum=0.9)
    outputs = layer(np.full((1, 1, 1, 2), 5.0, "float32"), training=True)
    np.testing.assert_allclose(np.ravel(outputs), [0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, [0.9, 0.9], rtol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("scale", "center"), [(True, True), (False, True), (True, False), (False, False)])
def test_tangent_equals_the_stock_layers_in_float64(compiled, scale, center):
    settings = dict(scale=scale, center=center)
    fused = built_layer(FusedBatchNormalization, **settings)
    reference = built_layer(keras.layers.BatchNormalization, dtype="float64", **settings)
    inputs, cotangent = random_array(1, scale=2.0, offset=0.7), random_array(2)
    # One part for the inputs, then one for gamma and one for beta, where there are any.
    direction = [random_array(3), *[random_array(4 + number, (3,)) for number in range(scale + center)]]

    def tangent(values, u, *parts):
        return logit_tangent(fused, values, u, parts)

    def expected_tangent(parts):
        parts = [part.astype("float64") for part in parts]
        return logit_tangent(reference, inputs.astype("float64"), cotangent.astype("float64"), parts)

    actual = (tf.function(tangent) if compiled else tangent)(inputs, cotangent, *direction)
    assert_close(actual, expected_tangent(direction), 2e-5)
    # Each part of the direction reaches the tangent on its own, too.
    for kept in range(len(direction)):
        parts = [part * (index == kept) for index, part in enumerate(direction)]
        assert_close(logit_tangent(fused, inputs, cotangent, parts), expected_tangent(parts), 2e-5)


def test_gradients_are_linear_in_the_cotangent():
    layer = built_layer(FusedBatchNormalization)
    inputs, first, second = tf.constant(random_array(1)), random_array(2), random_array(3)
    combined = _pull_back(layer, inputs, 2.0 * first - 3.0 * second)[1]
    first_gradients = _pull_back(layer, inputs, first)[1]
    second_gradients = _pull_back(layer, inputs, second)[1]
    for whole, one, two in zip(combined, first_gradients, second_gradients, strict=True):
        assert_close(whole, 2.0 * one - 3.0 * two, 2e-5)


def test_second_derivative_equals_that_of_the_textbook_formula_in_float64():
    layer = built_layer(FusedBatchNormalization)
    inputs, direction = random_array(1, scale=1.5, offset=0.3), random_array(2)
    projection = random_array(3)

    def hessian_vector_product(normalize, x, gamma, vector):
        with tf.GradientTape() as outer:
            outer.watch([x, gamma])
            with tf.GradientTape() as inner:
                inner.watch(x)
                value = tf.reduce_sum(tf.math.tanh(normalize(x, gamma)) * tf.cast(projection, x.dtype))
            gradient = inner.gradient(value, x)
        return outer.gradient(gradient, [x, gamma], output_gradients=vector)

    def textbook(x, gamma):
        mean = tf.reduce_mean(x, [0, 1, 2])
        variance = tf.reduce_mean((x - mean) ** 2, [0, 1, 2])
        beta = tf.cast(layer.beta.value, x.dtype)
        return (x - mean) / tf.sqrt(variance + 1e-5) * gamma + beta

    def fused(x, gamma):
        beta = tf.convert_to_tensor(layer.beta.value)
        return normalization.fused_training_normalization(x, gamma, beta, 1e-5)[0]

    gamma = tf.convert_to_tensor(layer.gamma.value)
    actual = hessian_vector_product(fused, tf.constant(inputs), gamma, tf.constant(direction))
    expected = hessian_vector_product(textbook, *[tf.cast(value, "float64") for value in (inputs, gamma, direction)])
    for actual_part, expected_part in zip(actual, expected, strict=True):
        assert_close(actual_part, expected_part, 1e-4)


@pytest.mark.parametrize(("scale", "center"), [(False, True), (True, False), (False, False)])
def test_second_derivative_of_a_layer_without_scale_or_offset_equals_the_textbook_formulas(scale, center):
    layer = built_layer(FusedBatchNormalization, scale=scale, center=center)
    gamma = layer.gamma.numpy().astype("float64") if scale else 1.0
    beta = layer.beta.numpy().astype("float64") if center else 0.0
    projection, direction = random_array(3), random_array(2)

    def textbook(x):
        mean = tf.reduce_mean(x, [0, 1, 2])
        variance = tf.reduce_mean((x - mean) ** 2, [0, 1, 2])
        return (x - mean) / tf.sqrt(variance + 1e-5) * gamma + beta

    def hessian_vector_product(normalize, dtype):
        x = tf.constant(random_array(1, scale=1.5, offset=0.3), dtype)
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                value = tf.reduce_sum(tf.math.tanh(normalize(x)) * tf.cast(projection, dtype))
            gradient = inner.gradient(value, x)
        return outer.gradient(gradient, x, output_gradients=tf.cast(direction, dtype))

    actual = hessian_vector_product(lambda x: layer(x, training=True), "float32")
    expected = hessian_vector_product(textbook, "float64")
    assert np.max(np.abs(expected)) > 0.1
    assert_close(actual, expected, 1e-4)


def test_no_gradient_flows_through_the_batch_statistics():
    x, gamma, beta = tf.constant(random_array(1)), tf.ones([3]), tf.zeros([3])
    with tf.GradientTape() as tape:
        tape.watch(x)
        _, mean, variance = normalization.fused_training_normalization(x, gamma, beta, 1e-5)
        total = tf.reduce_sum(mean) + tf.reduce_sum(variance)
    assert tape.gradient(total, x) is None


def test_tangent_of_a_network_inside_switch_branches_equals_the_stock_networks():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(4, 3, use_bias=False)(inputs)
    x = FusedBatchNormalization(name="bn1")(x)
    x = keras.layers.Conv2D(5, 3, use_bias=False, activation="tanh")(x)
    x = FusedBatchNormalization(name="bn2")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Activation("tanh")(x))
    fused = keras.Model(inputs, keras.layers.Dense(3)(x))
    images, cotangent = random_array(1, (8, 6, 6, 2)), random_array(2, (8, 3))
    direction = [random_array(s, v.shape) for s, v in enumerate(fused.trainable_variables)]

    def tangents(model):
        @tf.function
        def run(lowest_open):
            trainable = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
            non_trainable = [tf.convert_to_tensor(v.value) for v in model.non_trainable_variables]
            u = tf.constant(cotangent)
            with tf.GradientTape(persistent=True) as cotangent_tape:
                cotangent_tape.watch(u)
                with tf.GradientTape() as tape:
                    tape.watch(trainable)
                    logits, _ = model.stateless_call(trainable, non_trainable, images, training=True)
                gradients = tape.gradient(logits, trainable, output_gradients=u)

            def branch(cut):
                return lambda: cotangent_tape.gradient(gradients[cut:], u, output_gradients=direction[cut:])

            return tf.switch_case(lowest_open, [branch(cut) for cut in range(len(trainable))])

        return [run(tf.constant(cut)) for cut in range(len(model.trainable_variables))]

    stock = plain_copy(fused)
    assert not any(isinstance(layer, FusedBatchNormalization) for layer in stock.layers)
    for actual, expected in zip(tangents(fused), tangents(stock), strict=True):
        assert np.max(np.abs(expected)) > 1e-2
        assert_close(actual, expected, 5e-5)


def test_frozen_layer_normalises_by_its_moving_statistics_and_keeps_them():
    fused, stock = both_layers()
    fused.trainable = stock.trainable = False
    before = [variable.numpy() for variable in fused.variables]
    inputs = random_array(1, offset=3.0)
    assert_close(fused(inputs, training=True), stock(inputs, training=True))
    assert_close(fused(inputs, training=True), fused(inputs, training=False))
    for variable, old in zip(fused.variables, before, strict=True):
        np.testing.assert_array_equal(variable, old)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_kernel_serves_channels_last_images(dtype):
    types = operation_types(built_layer(FusedBatchNormalization, dtype=dtype), SHAPE, dtype)
    assert "FusedBatchNormV3" in types


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({"dtype": "float64"}, SHAPE),
        ({"rank": 2}, (6, 3)),
        ({"rank": 3}, (6, 5, 3)),
        ({"axis": 1, "channels": 5}, SHAPE),
        ({"synchronized": True}, SHAPE),
        # Keras 3.12, the last for Python 3.10, has no renorm.
        *([({"renorm": True}, SHAPE)] if HAS_RENORM else []),
    ],
)
def test_other_inputs_take_the_stock_formula(arguments, shape):
    fused, stock = both_layers(**arguments)
    dtype = arguments.get("dtype", "float32")
    assert "FusedBatchNormV3" not in operation_types(fused, shape, dtype)
    inputs = random_array(1, shape).astype(dtype)
    np.testing.assert_array_equal(fused(inputs, training=True), stock(inputs, training=True))
    assert fused(inputs).dtype == dtype
    for actual, expected in zip(fused.variables, stock.variables, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_masked_positions_are_left_out_as_in_the_stock_layer():
    fused, stock = both_layers()
    mask = np.random.default_rng(0).random(SHAPE[:-1]) < 0.5
    inputs = random_array(1)
    actual = fused(inputs, training=True, mask=mask)
    np.testing.assert_array_equal(actual, stock(inputs, training=True, mask=mask))
    assert np.max(np.abs(actual - fused(inputs, training=True))) > 0.01


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("training", [True, False])
def test_half_precision_is_as_near_the_stock_layer_as_its_rounding(dtype, training):
    policy = f"mixed_{dtype}"
    fused, stock = both_layers(dtype=policy)
    inputs, cotangent = tf.cast(random_array(1), dtype), tf.cast(random_array(2), dtype)
    actual, actual_gradients = output_and_gradients(fused, inputs, cotangent, training)
    expected, expected_gradients = output_and_gradients(stock, inputs, cotangent, training)
    tolerance = {"bfloat16": 4e-2, "float16": 5e-3}[dtype]
    assert actual.dtype == expected.dtype == dtype
    assert_close(actual, expected, tolerance)
    for actual_part, expected_part in zip(actual_gradients, expected_gradients, strict=True):
        assert actual_part.dtype == expected_part.dtype
        scale = float(tf.reduce_max(tf.abs(tf.cast(expected_part, "float32"))))
        assert_close(tf.cast(actual_part, "float32") / scale, expected_part / scale, tolerance)
    for actual_variable, expected_variable in zip(fused.variables, stock.variables, strict=True):
        assert_close(actual_variable.value, expected_variable.value, 1e-5)
    if training:
        direction = [random_array(3), random_array(4, (3,)), random_array(5, (3,))]
        direction[0] = tf.cast(direction[0], dtype)
        tangent = logit_tangent(fused, inputs, cotangent, direction)
        reference = logit_tangent(
            built_layer(keras.layers.BatchNormalization, dtype="float64"),
            *[tf.cast(value, "float64") for value in (inputs, cotangent)],
            [tf.cast(part, "float64") for part in direction],
        )
        scale = float(tf.reduce_max(tf.abs(reference)))
        assert_close(tf.cast(tangent, "float64") / scale, reference / scale, tolerance)


def test_synchronised_replicas_compute_what_one_replica_computes_on_the_global_batch(two_replicas):
    strategy = two_replicas
    inputs = random_array(1, (8, 3, 2, 3), scale=2.0, offset=1.0)
    inputs[4:] += 3.0
    with strategy.scope():
        replicated = built_layer(FusedBatchNormalization, synchronized=True)
    single = built_layer(FusedBatchNormalization)

    @tf.function
    def run(values):
        return strategy.run(lambda part: replicated(part, training=True), args=(values,))

    halves = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(np.split(inputs, 2)[context.replica_id_in_sync_group])
    )
    outputs = tf.concat(strategy.experimental_local_results(run(halves)), 0)
    assert_close(outputs, single(inputs, training=True))
    for actual, expected in zip(replicated.variables, single.variables, strict=True):
        first, second = strategy.experimental_local_results(actual.value)
        np.testing.assert_array_equal(first, second)
        assert_close(first, expected.value)


def test_configuration_is_the_stock_layers_and_round_trips():
    arguments = dict(momentum=0.8, epsilon=1e-3, center=False, synchronized=True, name="bn7")
    fused = FusedBatchNormalization(**arguments)
    assert fused.get_config() == keras.layers.BatchNormalization(**arguments).get_config()
    entry = keras.saving.serialize_keras_object(fused)
    assert entry["registered_name"] == "famus_tf>FusedBatchNormalization"
    again = keras.saving.deserialize_keras_object(entry)
    assert type(again) is FusedBatchNormalization
    assert again.get_config() == fused.get_config()
