"""Tests of each network in famus_tf.models: parameter counts, wiring and initial weights, as in its paper's code."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from famus_tf.errors import InputError
from famus_tf.models import cifar_resnet, preact_resnet, small_cnn, wide_resnet
from famus_tf.models.convolution import padded_convolution
from tests.paper_networks import BUILDERS, COLOR, NUM_CLASSES, ODD, built_model, images

# Parameter counts by hand, from the definitions of the architectures


def trainable_count(model):
    total = model.count_params() - sum(
        variable.shape[0] for variable in model.weights if variable.name.startswith("moving_")
    )
    assert total == sum(math.prod(variable.shape) for variable in model.trainable_variables)
    return total


def conv(kernel, inputs, outputs):
    return kernel * kernel * inputs * outputs


def norm(channels):
    return 2 * channels


def linear(inputs, outputs):
    return inputs * outputs + outputs


def test_small_cnn_has_the_parameters_counted_by_hand():
    count, inputs = 0, 3
    for width in (32, 64, 128):
        count += conv(3, inputs, width) + norm(width) + conv(3, width, width) + norm(width)
        inputs = width
    count += linear(128, 10)
    assert count == 288_746
    assert trainable_count(small_cnn.build(COLOR, 10)) == count


def test_resnet_32_has_the_parameters_counted_by_hand():
    count, inputs = conv(3, 3, 16) + norm(16), 16
    for width in (16, 32, 64):
        for _ in range(5):
            count += conv(3, inputs, width) + norm(width) + conv(3, width, width) + norm(width)
            inputs = width
    count += linear(64, 10)
    assert count == 464_154
    assert trainable_count(cifar_resnet.build(COLOR, 10)) == count


def wide_resnet_count(depth, width, num_classes):
    count, inputs = conv(3, 3, 16), 16
    for outputs in (16 * width, 32 * width, 64 * width):
        for _ in range((depth - 4) // 6):
            count += norm(inputs) + conv(3, inputs, outputs)
            count += norm(outputs) + conv(3, outputs, outputs)
            count += conv(1, inputs, outputs) if inputs != outputs else 0
            inputs = outputs
    return count + norm(inputs) + linear(inputs, num_classes)


@pytest.mark.parametrize(("depth", "width"), [(10, 1), (16, 4), (28, 10)])
def test_wide_resnet_has_the_parameters_counted_by_hand(depth, width):
    count = wide_resnet_count(depth, width, 10)
    if (depth, width) == (28, 10):
        assert count == 36_479_194
    assert trainable_count(wide_resnet.build(COLOR, 10, depth=depth, width=width)) == count


def test_preact_resnet_18_has_the_parameters_counted_by_hand():
    count, inputs = conv(3, 3, 64) + norm(64), 64
    for width in (64, 128, 256, 512):
        for _ in range(2):
            count += norm(inputs) + conv(3, inputs, width) + norm(width) + conv(3, width, width)
            count += conv(1, inputs, width) if inputs != width else 0
            inputs = width
    count += linear(512, 10)
    assert count == 11_171_274
    assert trainable_count(preact_resnet.build(COLOR, 10)) == count


# Wiring, against blocks written out with TensorFlow's own operations


def reference_conv(x, model, name, stride=1):
    kernel = model.get_layer(name).kernel.value
    pad = (kernel.shape[0] - 1) // 2
    x = tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
    return tf.nn.conv2d(x, kernel, stride, "VALID")


def reference_norm(x, model, name):
    layer = model.get_layer(name)
    mean, variance = layer.moving_mean.value, layer.moving_variance.value
    return tf.nn.batch_normalization(x, mean, variance, layer.beta.value, layer.gamma.value, 1e-5)


def scrambled_model(name):
    """A model whose scales, offsets and statistics all differ from 0 and 1."""
    model = BUILDERS[name](ODD, NUM_CLASSES, seed=3)
    for seed, variable in enumerate(model.weights):
        if variable.name != "kernel":
            values = np.random.default_rng(seed).uniform(0.5, 1.5, variable.shape)
            variable.assign(values.astype("float32"))
    return model


def assert_same_part(model, start, end, reference):
    """The model from layer `start` to layer `end` computes what `reference` does."""
    begin = model.get_layer(start).output
    values = images(begin.shape[1:])
    actual = keras.Model(begin, model.get_layer(end).output)(values, training=False)
    expected = reference(tf.constant(values))
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("block", "stride"), [(3, 1), (6, 2), (11, 2)])
def test_resnet_32_block_is_the_option_a_basic_block(block, stride):
    model = scrambled_model("cifar_resnet")
    prefix = f"block{block:02d}_"

    def reference(x):
        out = reference_conv(x, model, f"{prefix}conv1", stride)
        out = tf.nn.relu(reference_norm(out, model, f"{prefix}bn1"))
        out = reference_norm(reference_conv(out, model, f"{prefix}conv2"), model, f"{prefix}bn2")
        new_channels = (out.shape[-1] - x.shape[-1]) // 2
        x = tf.pad(x[:, ::stride, ::stride], [[0, 0]] * 3 + [[new_channels, new_channels]])
        return tf.nn.relu(out + x)

    assert_same_part(model, f"block{block - 1:02d}_relu2", f"{prefix}relu2", reference)


def preactivation_block(model, prefix, stride, with_shortcut_conv):
    def reference(x):
        activated = tf.nn.relu(reference_norm(x, model, f"{prefix}bn1"))
        out = reference_conv(activated, model, f"{prefix}conv1", stride)
        out = tf.nn.relu(reference_norm(out, model, f"{prefix}bn2"))
        out = reference_conv(out, model, f"{prefix}conv2")
        if with_shortcut_conv:
            x = reference_conv(activated, model, f"{prefix}shortcut_conv", stride)
        return out + x

    return reference


@pytest.mark.parametrize(
    ("network", "start", "block", "stride", "with_shortcut_conv"),
    [
        ("wide_resnet", "stem_conv", 1, 1, True),
        ("wide_resnet", "block01_add", 2, 2, True),
        ("preact_resnet", "stem_relu", 1, 1, False),
        ("preact_resnet", "block02_add", 3, 2, True),
        ("preact_resnet", "block07_add", 8, 1, False),
    ],
)
def test_preactivation_block_is_wired_as_in_the_papers_code(network, start, block, stride, with_shortcut_conv):
    model = scrambled_model(network)
    reference = preactivation_block(model, f"block{block:02d}_", stride, with_shortcut_conv)
    assert_same_part(model, start, f"block{block:02d}_add", reference)


def test_wide_resnet_ends_in_normalization_relu_pooling_and_a_linear_layer():
    model = scrambled_model("wide_resnet")
    dense = model.get_layer("logits")

    def reference(x):
        x = tf.nn.relu(reference_norm(x, model, "final_bn"))
        return tf.reduce_mean(x, [1, 2]) @ dense.kernel.value + dense.bias.value

    assert_same_part(model, "block03_add", "logits", reference)


def test_preact_resnet_ends_without_normalization():
    model = scrambled_model("preact_resnet")
    dense = model.get_layer("logits")

    def reference(x):
        return tf.reduce_mean(x, [1, 2]) @ dense.kernel.value + dense.bias.value

    assert_same_part(model, "block08_add", "logits", reference)


def test_last_15_tensors_of_preact_resnet_are_its_last_stage_and_the_linear_layer():
    paths = [v.path for v in built_model("preact_resnet").trainable_variables[-15:]]
    first_block = ["bn1/gamma", "bn1/beta", "conv1/kernel", "bn2/gamma", "bn2/beta"]
    first_block += ["conv2/kernel", "shortcut_conv/kernel"]
    assert paths[:7] == [f"block07_{name}" for name in first_block]
    assert paths[7:13] == [f"block08_{name}" for name in first_block[:6]]
    assert paths[13:] == ["logits/kernel", "logits/bias"]
    shapes = [v.shape for v in built_model("preact_resnet").trainable_variables[-15:]]
    assert shapes[2] == (3, 3, 256, 512)
    assert shapes[6] == (1, 1, 256, 512)


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        # Sums over 3x3 windows about the pixels (0, 0), (0, 2), (2, 0), (2, 2) of 0, 1, 2, ...
        (4, [10, 24, 51, 90]),
        (3, [8, 12, 20, 24]),
    ],
)
def test_strided_convolution_pads_symmetrically(side, expected):
    inputs = keras.Input((side, side, 1))
    outputs = padded_convolution(inputs, 1, stride=2, initializer="ones", name="conv")
    values = np.arange(side * side, dtype="float32").reshape(1, side, side, 1)
    np.testing.assert_allclose(np.ravel(keras.Model(inputs, outputs)(values)), expected)


@pytest.mark.parametrize(("side", "num_blocks"), [(2, 1), (3, 1), (4, 2), (7, 2), (8, 3), (64, 3)])
def test_small_cnn_leaves_out_blocks_that_the_image_is_too_small_for(side, num_blocks):
    model = small_cnn.build((side, 64, 1), 2)
    blocks = {layer.name[:7] for layer in model.layers if layer.name.startswith("block")}
    assert blocks == {f"block{block:02d}" for block in range(1, num_blocks + 1)}


@pytest.mark.parametrize(
    ("depth", "width", "message"),
    [(29, 10, "depth=29"), (4, 10, "depth=4"), (28, 0, "width=0"), (28, 2.5, "width=2.5")],
)
def test_wide_resnet_refuses_impossible_depths_and_widths(depth, width, message):
    with pytest.raises(InputError, match=message):
        wide_resnet.build(COLOR, 10, depth=depth, width=width)


# Initial weights


@pytest.mark.parametrize(
    ("network", "layer", "variance"),
    [
        ("small_cnn", "block03_conv1", 2 / (9 * 64)),
        ("cifar_resnet", "block11_conv1", 2 / (9 * 32)),
        ("wide_resnet", "block03_conv1", 2 / (9 * 128)),
        ("cifar_resnet", "logits", 2 / 64),
    ],
)
def test_kaiming_kernels_are_untruncated_normals_of_the_papers_variance(network, layer, variance):
    kernel = built_model(network).get_layer(layer).kernel.numpy() / math.sqrt(variance)
    # Five standard errors of the mean and of the standard deviation.
    assert abs(np.mean(kernel)) < 5 / math.sqrt(kernel.size)
    assert abs(np.std(kernel) - 1) < 5 / math.sqrt(2 * kernel.size)
    if kernel.size > 10_000:
        assert np.max(np.abs(kernel)) > 3  # Keras' truncated normal ends at 2.27.


@pytest.mark.parametrize(
    ("network", "layer", "fan_in"),
    [
        ("preact_resnet", "stem_conv", 27),
        ("preact_resnet", "block07_conv1", 9 * 256),
        ("preact_resnet", "block07_shortcut_conv", 256),
        ("preact_resnet", "logits", 512),
        ("wide_resnet", "logits", 128),
    ],
)
def test_torch_default_kernels_are_uniform_up_to_one_over_root_fan_in(network, layer, fan_in):
    kernel = built_model(network).get_layer(layer).kernel.numpy() * math.sqrt(fan_in)
    assert 0.98 < np.max(np.abs(kernel)) <= 1 + 1e-6
    assert abs(np.std(kernel) - 1 / math.sqrt(3)) < 5 / math.sqrt(5 * kernel.size)


def test_linear_biases_start_as_in_each_papers_code():
    for network, fan_in in (("cifar_resnet", 64), ("preact_resnet", 512)):
        bias = built_model(network).get_layer("logits").bias.numpy() * math.sqrt(fan_in)
        assert np.all(np.abs(bias) <= 1)
        assert len(np.unique(bias)) == NUM_CLASSES
    for network in ("wide_resnet", "small_cnn"):
        np.testing.assert_array_equal(built_model(network).get_layer("logits").bias, 0)
