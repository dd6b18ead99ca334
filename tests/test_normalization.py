"""Tests of famus_tf.models.normalization."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from famus_tf.errors import InputError
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
def test_tangent_equals_the_stock_layers_in_float64(compiled):
    fused = built_layer(FusedBatchNormalization)
    reference = built_layer(keras.layers.BatchNormalization, dtype="float64")
    inputs, cotangent = random_array(1, scale=2.0, offset=0.7), random_array(2)
    direction = [random_array(3), random_array(4, (3,)), random_array(5, (3,))]

    def tangent(values, u, *parts):
        return logit_tangent(fused, values, u, parts)

    actual = (tf.function(tangent) if compiled else tangent)(inputs, cotangent, *direction)
    expected = logit_tangent(
        reference,
        inputs.astype("float64"),
        cotangent.astype("float64"),
        [part.astype("float64") for part in direction],
    )
    assert_close(actual, expected, 2e-5)
    # Each part of the direction reaches the tangent on its own, too.
    for kept in range(3):
        parts = [part * (index == kept) for index, part in enumerate(direction)]
        expected = logit_tangent(
            reference, inputs.astype("float64"), cotangent.astype("float64"),
            [part.astype("float64") for part in parts],
        )  # fmt: skip
        assert_close(logit_tangent(fused, inputs, cotangent, parts), expected, 2e-5)


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


def randomise(model):
    for seed, variable in enumerate(model.weights):
        values = np.random.default_rng(seed).uniform(0.5, 1.5, variable.shape)
        variable.assign(values.astype("float32"))


def assert_is_plain_copy_of(copy, model):
    """The copy holds no fused layer and computes what the model computes."""
    inner_types = {type(layer) for layer in copy._flatten_layers()}
    assert FusedBatchNormalization not in inner_types
    assert keras.layers.BatchNormalization in inner_types
    assert copy is not model
    assert copy.name == model.name
    assert [layer.name for layer in copy.layers] == [layer.name for layer in model.layers]
    inputs = random_array(1, (4, *model.input_shape[1:]))
    for training in (False, True):
        assert_close(copy(inputs, training=training), model(inputs, training=training), 2e-5)
    assert [variable.name for variable in copy.weights] == [v.name for v in model.weights]
    for actual, expected in zip(copy.weights, model.weights, strict=True):
        assert_close(actual.value, expected.value)


def test_plain_copy_of_a_sequential_model_resets_synchronized():
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            FusedBatchNormalization(momentum=0.9, synchronized=True, scale=False, name="bn"),
            keras.layers.Flatten(name="flat"),
        ],
        name="chain",
    )
    randomise(model)
    copy = plain_copy(model)
    assert_is_plain_copy_of(copy, model)
    assert isinstance(copy, keras.Sequential)
    assert copy.get_layer("bn").synchronized is False
    assert copy.get_layer("bn").momentum == 0.9
    assert model.get_layer("bn").synchronized is True


def test_plain_copy_reaches_nested_models_wrappers_and_shared_layers():
    def inner_model(name):
        inputs = keras.Input((4, 4, 2))
        return keras.Model(inputs, FusedBatchNormalization(name="bn")(inputs), name=name)

    inner, direct = inner_model("inner"), inner_model("direct")
    shared = FusedBatchNormalization(name="shared")
    frames = keras.Input((3, 4, 4, 2))
    x = keras.layers.TimeDistributed(inner, name="frames_inner")(frames)
    x = keras.layers.TimeDistributed(FusedBatchNormalization(name="wrapped"), name="wrapper")(x)
    x = shared(keras.ops.mean(x, axis=1))
    x = shared(direct(x))
    model = keras.Model(frames, x, name="outer")
    randomise(model)
    copy = plain_copy(model)
    assert not any(isinstance(layer, FusedBatchNormalization) for layer in copy._flatten_layers())
    values = random_array(1, (2, 3, 4, 4, 2))
    assert_close(copy(values), model(values), 2e-5)
    assert len(copy.weights) == len(model.weights) == 16


def test_plain_copy_keeps_frozen_layers_frozen_and_drops_the_compilation():
    inputs = keras.Input((4, 4, 2))
    x = FusedBatchNormalization(name="frozen")(inputs)
    x = FusedBatchNormalization(name="free")(x)
    model = keras.Model(inputs, x)
    model.get_layer("frozen").trainable = False
    model.compile(optimizer="sgd", loss=lambda truth, prediction: prediction - truth)
    copy = plain_copy(model)
    assert copy.get_layer("frozen").trainable is False
    assert copy.get_layer("free").trainable is True
    assert [v.path for v in copy.trainable_variables] == ["free/gamma", "free/beta"]
    assert copy.compiled is False


def test_plain_copy_knows_a_users_own_layers():
    class Doubling(keras.layers.Layer):
        def call(self, inputs):
            return 2.0 * inputs

    inputs = keras.Input((4, 4, 2))
    model = keras.Model(inputs, Doubling(name="twice")(FusedBatchNormalization(name="bn")(inputs)))
    randomise(model)
    assert_is_plain_copy_of(plain_copy(model), model)


def test_plain_copy_returns_a_model_without_fused_layers_itself():
    model = keras.Sequential([keras.Input((4, 4, 2)), keras.layers.BatchNormalization()])
    assert plain_copy(model) is model


class Subclassed(keras.Model):
    """Builds its layers itself."""

    def __init__(self):
        super().__init__()
        self.bn = FusedBatchNormalization()

    def call(self, inputs, training=None):
        return self.bn(inputs, training=training)


class SubclassedLayer(keras.layers.Layer):
    """Builds its layers itself."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.bn = FusedBatchNormalization()

    def call(self, inputs, training=None):
        return self.bn(inputs, training=training)


def test_plain_copy_refuses_a_subclassed_model_with_a_fused_layer():
    model = Subclassed()
    model(random_array(1))
    with pytest.raises(InputError, match="subclassed type Subclassed"):
        plain_copy(model)


def test_plain_copy_refuses_a_layer_that_builds_a_fused_layer_itself():
    inputs = keras.Input((4, 4, 2))
    model = keras.Model(inputs, SubclassedLayer()(inputs))
    with pytest.raises(InputError, match="builds them itself"):
        plain_copy(model)


def test_plain_copy_refuses_a_model_that_is_not_built():
    with pytest.raises(InputError, match="not built"):
        plain_copy(keras.Sequential([FusedBatchNormalization()]))
