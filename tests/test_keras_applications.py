"""Tests of famus_tf.models.keras_applications: the stock networks, in the form that the methods here need."""

import functools
import sys

import keras
import numpy as np
import pytest

from famus_tf.errors import InputError
from famus_tf.models import input_scaling, keras_applications
from famus_tf.models.normalization import FusedBatchNormalization

NUM_CLASSES = 3
SIDES = {
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "DenseNet121": 32,
    "EfficientNetB0": 32,
    "ConvNeXtTiny": 32,
    "Xception": 71,
}
CONVOLUTIONAL_CLASSIFIER = ("MobileNet", "MobileNetV3Small")
every_network = pytest.mark.parametrize("name", SIDES)


def pixels(side, batch=2):
    return np.random.default_rng(7).integers(0, 256, (batch, side, side, 3)).astype("float32")


def scaled(images, scaling):
    """What `InputScaling` says, written out."""
    inputs = (images / 255.0 - np.array(scaling.mean)) / np.array(scaling.std)
    return (inputs[..., ::-1] if scaling.channel_order == "bgr" else inputs).astype("float32")


def preprocess_input(name):
    return sys.modules[getattr(keras.applications, name).__module__].preprocess_input


def is_input_normalization(layer):
    return type(layer) is keras.layers.Normalization


@functools.cache
def stock_network(name):
    """As Keras makes it, its own scaling of pixels included, with statistics that keep the images' traces alive."""
    side = SIDES[name]
    model = getattr(keras.applications, name)(
        weights=None, classes=NUM_CLASSES, input_shape=(side, side, 3), classifier_activation=None
    )
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momentums = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    for layer in model.layers:
        if is_input_normalization(layer) and layer.weights:
            # EfficientNet's weights for ImageNet bring these with them.
            scaling = input_scaling.TORCH
            layer.set_weights([np.array(scaling.mean), np.array(scaling.std) ** 2, np.array(1)])
            layer.finalize_state()
    model(preprocess_input(name)(pixels(side, batch=8)), training=True)
    for layer, momentum in zip(norms, momentums, strict=True):
        layer.momentum = momentum
    return model


@functools.cache
def built(name):
    return keras_applications.build(name, (SIDES[name], SIDES[name], 3), NUM_CLASSES, seed=5)


def network_weights(model):
    """All weights but those of a layer that scales the inputs."""
    return [weight for layer in model.layers if not is_input_normalization(layer) for weight in layer.weights]


@every_network
def test_variables_are_the_stock_networks_in_number_order_and_shape(name):
    ours, stock = built(name).weights, network_weights(stock_network(name))
    assert [weight.shape for weight in ours] == [weight.shape for weight in stock]
    # ConvNeXt has variables without a name, which Keras numbers through the process.
    names = [[w.name for w in weights if not w.name.startswith("variable")] for weights in (ours, stock)]
    assert names[0] == names[1]


@every_network
def test_scaled_images_give_the_stock_networks_logits(name):
    stock, images = stock_network(name), pixels(SIDES[name])
    ours = keras.models.clone_model(built(name))
    ours.set_weights([weight.numpy() for weight in network_weights(stock)])
    expected = stock(preprocess_input(name)(images.copy()), training=False).numpy()
    actual = ours(scaled(images, input_scaling.of_application(name)), training=False).numpy()
    assert actual.shape == (2, NUM_CLASSES)
    difference_of_images = np.ptp(expected, axis=0).max()
    assert difference_of_images > 0.01 * np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, atol=2e-3 * difference_of_images)


@every_network
def test_every_batch_normalization_is_fused_and_there_is_no_softmax(name):
    layers = built(name)._flatten_layers(include_self=False)
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert all(type(layer) is FusedBatchNormalization for layer in norms)
    stock = [x for x in stock_network(name).layers if isinstance(x, keras.layers.BatchNormalization)]
    assert [(x.momentum, x.epsilon, x.scale) for x in norms] == [(x.momentum, x.epsilon, x.scale) for x in stock]
    assert bool(norms) is (name != "ConvNeXtTiny")
    assert built(name).layers[-1].activation is keras.activations.linear
    if name not in CONVOLUTIONAL_CLASSIFIER:
        assert built(name).layers[-1].name == "logits"


@every_network
def test_no_layer_scales_the_pixels_again(name):
    kinds = {type(layer) for layer in built(name)._flatten_layers(include_self=False)}
    assert kinds.isdisjoint({keras.layers.Rescaling, keras.layers.Normalization})
    assert [layer.name for layer in built(name).layers if isinstance(layer, keras.layers.InputLayer)] == ["images"]


def test_the_seed_alone_decides_weights_and_names_whatever_was_built_before():
    name, shape = "MobileNetV3Small", (32, 32, 3)
    first = keras_applications.build(name, shape, 4, seed=1)
    keras.layers.Activation("relu"), keras.layers.GlobalAveragePooling2D()
    again, other = (keras_applications.build(name, shape, 4, seed=seed) for seed in (1, 2))
    assert [layer.name for layer in first.layers] == [layer.name for layer in again.layers]
    counted = {layer.name for layer in first.layers if layer.name.startswith("re_lu")}
    assert counted == {"re_lu", *(f"re_lu_{number}" for number in range(1, len(counted)))}
    for one, same, different in zip(first.weights, again.weights, other.weights, strict=True):
        np.testing.assert_array_equal(one, same)
        if one.name == "kernel":
            assert np.mean(one.numpy() == different.numpy()) < 0.01, one.path
    firsts = [np.ravel(weight)[0] for weight in first.weights if weight.name == "kernel"]
    assert len(set(firsts)) == len(firsts) > 30


def test_dropout_draws_from_the_seed_too():
    seeds = {
        layer.name: layer.seed for layer in built("EfficientNetB0").layers if isinstance(layer, keras.layers.Dropout)
    }
    assert len(seeds) > 5 and None not in seeds.values()
    assert len(set(seeds.values())) == len(seeds)


def test_synchronized_and_momentum_reach_every_normalization():
    model = keras_applications.build("MobileNetV2", (32, 32, 3), 4, synchronized=True, momentum=0.5)
    norms = [layer for layer in model.layers if isinstance(layer, FusedBatchNormalization)]
    assert len(norms) == 52
    assert {(layer.synchronized, layer.momentum) for layer in norms} == {(True, 0.5)}


@pytest.mark.parametrize("name", keras_applications.names())
def test_every_network_of_keras_has_an_input_scaling_which_is_its_own(name):
    scaling, images = input_scaling.of_application(name), pixels(4)
    expected = preprocess_input(name)(images.copy())
    if np.array_equal(expected, images):
        # Its layers do it: see the tests above.
        assert name.startswith(("EfficientNet", "ConvNeXt", "MobileNetV3"))
    else:
        np.testing.assert_allclose(scaled(images, scaling), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["EfficientNetV2S", "EfficientNetV2B0", "MobileNetV3Small", "ConvNeXtTiny"])
def test_the_scaling_is_that_of_the_layers_left_out(name):
    stock = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=(32, 32, 3))
    images = inputs = pixels(4)
    for layer in stock.layers[1:3]:
        if isinstance(layer, (keras.layers.Rescaling, keras.layers.Normalization)):
            inputs = layer(inputs)
    assert inputs is not images
    np.testing.assert_allclose(inputs, scaled(images, input_scaling.of_application(name)), rtol=1e-4, atol=1e-5)


def test_a_name_that_keras_does_not_know_has_no_scaling():
    assert input_scaling.of_application("small_cnn") is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "resnet50v2",
            r"is 'keras:resnet50v2', .* Did you mean 'keras:ResNet50V2'\? It has ConvNeXtBase, .*Xception\.",
        ),
        ("MobilNetV2", r"Did you mean 'keras:MobileNetV2'"),
        ("zzzzzzzzzz", r"has no such network\. It has "),
        ("imagenet_utils", r"has no such network\."),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones_and_the_nearest(name, message):
    with pytest.raises(InputError, match=message):
        keras_applications.build(name, (32, 32, 3), 4)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("InceptionV3", (74, 80, 3), r"keras:InceptionV3 cannot take images of 74x80 pixels .*at least 75x75"),
        ("MobileNetV2", (8, 8, 3), r"keras:MobileNetV2 cannot take images of 8x8 pixels and 3 channels .*32x32"),
        ("MobileNetV2", (32, 32), "three positive integers"),
    ],
)
def test_images_that_a_network_cannot_take_are_refused(name, shape, message):
    with pytest.raises(InputError, match=message):
        keras_applications.build(name, shape, 4)
