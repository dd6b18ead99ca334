"""Tests of famus_tf.models.normalization.plain_copy: the way back to a stock Keras model."""

import keras
import numpy as np
import pytest

from famus_tf.errors import InputError
from famus_tf.models.normalization import FusedBatchNormalization, plain_copy


def random_array(seed, shape):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def assert_close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


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
    model(random_array(1, (6, 5, 4, 3)))
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
