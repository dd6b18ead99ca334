"""Tests of networks that compute in bfloat16 or float16: how near the meta-gradient stays to float32's.

Measured on a CPU with the network of these tests (smooth activations, the fused batch norm), the largest over the
meta-models and gates, as shares of the norms: float16 1.5e-3 for gradients and 1.0e-3 for meta-gradients and the gates'
products, bfloat16 5.2e-3 and 7.4e-3; one minus the cosine 1e-6 and 3e-7, and 1e-5 and 2e-5. The bounds are three times
the former, and their squares for the latter.
"""

import json
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from famus_tf import registry
from famus_tf.config import OptimizerConfig
from famus_tf.errors import InputError
from famus_tf.models.normalization import FusedBatchNormalization, fused_training_normalization, plain_copy
from tests import tiny_networks
from tests.tiny_networks import FIRST_STEP, ForcedGates, meta_method, relative_error

TRAIN = tiny_networks.batch(24, seed=1)
META = tiny_networks.batch(18, seed=2)
PRECISIONS = ["bfloat16", "float16"]
META_MODELS = ["mwnet", "l2r", "mlc"]


def cosine(actual, expected):
    flat = [np.concatenate([np.ravel(x) for x in values]).astype("float64") for values in (actual, expected)]
    return flat[0] @ flat[1] / (np.linalg.norm(flat[0]) * np.linalg.norm(flat[1]))


def stages(meta_model, precision, *, rate=0.5, is_scaled=True, offset=0.0, gates=1.0):
    """Virtual-train and meta-train at given gates; `offset` is added to the first class's logit."""
    network = tiny_networks.conv_network(precision=precision, normalization=FusedBatchNormalization)
    bias = network.trainable_variables[-1]
    bias.assign(bias.value + [offset, 0.0, 0.0])
    base = OptimizerConfig(learning_rate=rate, momentum=0.0)
    method = meta_method(network, meta_model, ForcedGates(gates), base=base)
    if precision == "float16":
        assert method._scaling.is_active
        method._scaling.is_active = is_scaled
    batches = TRAIN, META
    if offset:
        batches = [{**batch, "label": tf.zeros_like(batch["label"])} for batch in batches]
    virtual = method.virtual_train(batches[0], FIRST_STEP)
    return virtual, method.meta_train(virtual, batches[1], FIRST_STEP)


# The last layer's gates are closed: it computes in float32, and would hide the errors of the layers below.
BELOW_LOGITS = [1, 1, 1, 1, 1, 1, 0, 0]
# (of the gradients, of the meta-gradient and the gates' products), as shares of their norms.
BOUNDS = {"bfloat16": (1.6e-2, 2.2e-2), "float16": (4.5e-3, 3e-3)}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("meta_model", META_MODELS)
def test_the_meta_gradient_is_near_that_of_float32_and_everything_around_the_network_is_float32(meta_model, precision):
    expected_virtual, expected = stages(meta_model, "float32", gates=BELOW_LOGITS)
    virtual, meta = stages(meta_model, precision, gates=BELOW_LOGITS)
    of_gradient, of_product = BOUNDS[precision]
    assert 0.0 < relative_error(virtual.gated, expected_virtual.gated) < of_gradient
    assert cosine(virtual.gated, expected_virtual.gated) > 1.0 - of_gradient**2
    for actual, reference in [(meta.gradient, expected.gradient), (meta.gate_gradient, expected.gate_gradient)]:
        assert 0.0 < relative_error(actual, reference) < of_product
        assert cosine(actual, reference) > 1.0 - of_product**2
    tensors = [virtual.training.logits, virtual.cotangent, *virtual.weights, *virtual.gated, *virtual.recorded]
    tensors += [*meta.gradient, *meta.gate_gradient, meta.gates, meta.loss]
    assert {tensor.dtype for tensor in tensors} == {tf.float32}


@pytest.mark.parametrize("meta_model", META_MODELS)
def test_without_its_scale_float16_flushes_the_tangents_of_a_small_rate_to_zero(meta_model):
    settings = {"rate": 2.0**-40, "gates": BELOW_LOGITS}
    _, expected = stages(meta_model, "float32", **settings)
    _, scaled = stages(meta_model, "float16", **settings)
    _, unscaled = stages(meta_model, "float16", **settings, is_scaled=False)
    assert np.linalg.norm(np.concatenate([np.ravel(g) for g in expected.gradient])) > 0.0
    assert relative_error(scaled.gradient, expected.gradient) < BOUNDS["float16"][1]
    assert all(np.all(np.asarray(gradient) == 0.0) for gradient in unscaled.gradient)


def test_without_its_scale_float16_flushes_the_gradients_of_small_losses_to_zero():
    expected, _ = stages("mlc", "float32", offset=16.0)
    scaled, _ = stages("mlc", "float16", offset=16.0)
    unscaled, _ = stages("mlc", "float16", offset=16.0, is_scaled=False)
    kernels = [[v.gated[p] for p in (0, 3)] for v in (expected, scaled, unscaled)]
    assert relative_error(kernels[1], kernels[0]) < 5e-2
    assert relative_error(kernels[2], kernels[0]) > 0.9


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_fused_kernel_and_both_its_pullbacks_serve_half_precision_with_float32_statistics(precision):
    random = np.random.default_rng(0)
    draw = lambda *shape: tf.constant(random.normal(size=shape), tf.float32)  # noqa: E731
    inputs, cotangent, tangent = draw(8, 4, 4, 3), draw(8, 4, 4, 3), draw(8, 4, 4, 3)
    gamma, beta, scale_tangent, offset_tangent = 1.0 + 0.3 * draw(3), draw(3), draw(3), draw(3)

    def results(dtype):
        x, u, t = (tf.cast(tf.cast(v, precision), dtype) for v in (inputs, cotangent, tangent))
        with tf.GradientTape() as outer:
            outer.watch(u)
            with tf.GradientTape() as inner:
                inner.watch([x, gamma, beta])
                y, mean, variance = fused_training_normalization(x, gamma, beta, 1e-3)
            pulled_back = inner.gradient(y, [x, gamma, beta], output_gradients=u)
        pushed = outer.gradient(pulled_back, u, output_gradients=[t, scale_tangent, offset_tangent])
        return [y, mean, variance, *pulled_back, pushed]

    actual, expected = results(precision), results(tf.float32)
    full = tf.float32
    assert [v.dtype for v in actual] == [precision, full, full, precision, full, full, precision]
    bound = {"bfloat16": 8e-3, "float16": 1e-3}[precision]
    for value, reference in zip(actual, expected, strict=True):
        assert relative_error([tf.cast(value, full)], [reference]) < bound


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_registered_network_computes_in_the_precision_and_keeps_weights_and_logits_in_float32(precision):
    before = keras.config.dtype_policy().name
    network = registry.build_model("small_cnn", (8, 8, 1), 10, seed=3, mixed_precision=precision)
    assert keras.config.dtype_policy().name == before
    assert {layer.compute_dtype for layer in network.layers[1:-1]} == {precision}
    assert network.layers[-1].compute_dtype == "float32"
    assert {v.dtype for v in network.variables} == {"float32"}
    assert network(tf.zeros([2, 8, 8, 1])).dtype == tf.float32
    plain = registry.build_model("small_cnn", (8, 8, 1), 10, seed=3)
    for mixed_value, value in zip(network.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(mixed_value, value)
    assert {layer.compute_dtype for layer in plain.layers} == {"float32"}


def test_the_policy_comes_back_even_where_building_fails(monkeypatch):
    def fail(*_, **__):
        assert keras.config.dtype_policy().name == "mixed_float16"
        raise RuntimeError("no such layer")

    monkeypatch.setitem(registry.MODELS, "small_cnn", fail)
    with pytest.raises(RuntimeError, match="no such layer"):
        registry.build_model("small_cnn", (8, 8, 1), 10, mixed_precision="float16")
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_variables_in_half_precision_are_refused(precision):
    layers = [keras.layers.Flatten(), keras.layers.Dense(3, dtype=precision, name="logits")]
    network = keras.Sequential([keras.Input(tiny_networks.IMAGE_SHAPE), *layers])
    with pytest.raises(InputError, match="logits/kernel' and 1 more variables in half.*mixed_float16"):
        meta_method(network, "l2r", ForcedGates(1.0))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_exported_network_is_stock_keras_in_float32_with_the_same_weights(precision, tmp_path):
    network = registry.build_model("small_cnn", (8, 8, 1), 10, mixed_precision=precision)
    path = tmp_path / "model.keras"
    plain_copy(network).save(path)
    config = zipfile.ZipFile(path).read("config.json").decode()
    assert "famus_tf>" not in json.dumps(json.loads(config)["config"]["layers"][2]) and "mixed" not in config
    loaded = keras.saving.load_model(path, compile=False)
    assert {layer.compute_dtype for layer in loaded.layers} == {"float32"}
    images = tf.constant(np.random.default_rng(0).normal(size=(16, 8, 8, 1)), tf.float32)
    exact = registry.build_model("small_cnn", (8, 8, 1), 10)(images)
    np.testing.assert_allclose(loaded(images), exact, rtol=1e-4, atol=1e-5)
    bound = {"bfloat16": 3e-2, "float16": 4e-3}[precision]
    assert relative_error([network(images)], [loaded(images)]) < bound
