"""Tests of famus_tf.models.imagenet: ResNet-50 and Inception-ResNet-v2 for large images."""

import functools
import re

import keras
import numpy as np
import pytest

from famus_tf import registry
from famus_tf.errors import InputError
from famus_tf.meta import layer_sampling
from famus_tf.models import imagenet, initial_weights, plain_copy
from famus_tf.models.normalization import FusedBatchNormalization
from famus_tf.trainer import Trainer

NUM_CLASSES = 10
BUILDERS = {"resnet50": imagenet.build_resnet50, "inception_resnet_v2": imagenet.build_inception_resnet_v2}
STOCK = {"resnet50": keras.applications.ResNet50, "inception_resnet_v2": keras.applications.InceptionResNetV2}
SIDES = {"resnet50": 32, "inception_resnet_v2": 75}
every_network = pytest.mark.parametrize("name", BUILDERS)


def shape(name):
    return (SIDES[name], SIDES[name], 3)


@functools.cache
def built(name):
    return BUILDERS[name](shape(name), NUM_CLASSES, seed=3)


@functools.cache
def stock_network(name):
    """As Keras makes it, with the statistics of a batch, so that images leave a trace in the logits."""
    model = STOCK[name](weights=None, classes=NUM_CLASSES, input_shape=shape(name), classifier_activation=None)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in norms:
        layer.momentum = 0.0
    model(images(name, batch=8), training=True)
    return model


def images(name, batch=2):
    return np.random.default_rng(5).normal(size=(batch, *shape(name))).astype("float32")


@every_network
def test_weights_from_a_file_of_the_stock_network_give_its_logits(name, tmp_path):
    model, stock = built(name), stock_network(name)
    stock.save_weights(tmp_path / "stock.weights.h5")
    loaded = initial_weights.load(model, tmp_path / "stock.weights.h5")
    assert loaded.kept == ()
    for ours, theirs in zip(model.weights, stock.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    expected = stock(images(name)).numpy()
    difference_of_images = np.ptp(expected, axis=0).max()
    assert difference_of_images > 0.01 * np.abs(expected).max()
    np.testing.assert_allclose(model(images(name)), expected, atol=2e-3 * difference_of_images)


@every_network
def test_normalization_is_fused_with_the_stock_constants_but_pytorchs_momentum(name):
    norms = [x for x in built(name).layers if isinstance(x, keras.layers.BatchNormalization)]
    stock = [x for x in stock_network(name).layers if isinstance(x, keras.layers.BatchNormalization)]
    assert all(type(layer) is FusedBatchNormalization for layer in norms)
    assert [(x.epsilon, x.scale, x.center) for x in norms] == [(x.epsilon, x.scale, x.center) for x in stock]
    assert {layer.momentum for layer in norms} == {0.9}
    assert {layer.epsilon for layer in norms} == {{"resnet50": 1.001e-5, "inception_resnet_v2": 1e-3}[name]}
    assert {layer.scale for layer in norms} == {name == "resnet50"}


@every_network
def test_the_last_layer_is_a_linear_classifier_called_logits(name):
    assert built(name).layers[-1].name == "logits"
    assert built(name).layers[-1].activation is keras.activations.linear
    assert built(name).output_shape == (None, NUM_CLASSES)


@pytest.mark.parametrize(("name", "parameters"), [("resnet50", 23_555_082), ("inception_resnet_v2", 54_291_562)])
def test_the_number_of_trainable_parameters(name, parameters):
    assert sum(np.prod(variable.shape) for variable in built(name).trainable_variables) == parameters


def test_the_seed_alone_decides_the_initial_weights():
    first, again, other = (imagenet.build_resnet50((32, 32, 3), 4, seed=seed) for seed in (3, 3, 4))
    firsts = []
    for one, same, different in zip(first.weights, again.weights, other.weights, strict=True):
        np.testing.assert_array_equal(one, same)
        if one.name == "kernel":
            assert np.mean(one.numpy() == different.numpy()) < 0.01, one.path
            firsts.append(float(np.ravel(one)[0]))
    assert len(set(firsts)) == len(firsts) == 54


def test_replicas_share_their_batch_statistics_on_request():
    model = imagenet.build_resnet50((32, 32, 3), 4, synchronized=True)
    assert {layer.synchronized for layer in model.layers if isinstance(layer, FusedBatchNormalization)} == {True}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        # Kernel and bias of 3 or 4 convolutions, scale and offset of as many normalisations.
        ("resnet50", [16, 12, 12, 16, 12, 12, 12, 16, 12, 12, 12, 12, 12, 16, 12, 12]),
        # Kernels and offsets of 6 or 4 convolutions, kernel and bias of the one behind them.
        ("inception_resnet_v2", [14] * 10 + [10] * 30),
    ],
)
def test_layer_sampling_finds_the_residual_blocks(name, sizes):
    blocks = layer_sampling.residual_blocks(built(name))
    assert [len(block) for block in blocks] == sizes
    for block in blocks:
        assert block == tuple(range(block[0], block[-1] + 1))
    assert sum(blocks, ()) == tuple(sorted(sum(blocks, ())))


@pytest.mark.parametrize("block", [1, 10, 11, 30, 31, 39, 40])
def test_a_residual_block_of_inception_resnet_has_all_that_lies_between_two_sums(block):
    model = built("inception_resnet_v2")
    below = {1: "mixed_5b", 11: "mixed_6a", 31: "mixed_7a"}.get(block, f"block{block - 1:02d}_relu")
    above = f"block{block:02d}_" + ("add" if block == 40 else "relu")
    inner = keras.Model(model.get_layer(below).output, model.get_layer(above).output)
    names = [layer.name for layer in inner.layers[1:]]
    assert len(names) == (6 if block <= 10 else 4) * 3 + (3 if block == 40 else 4)
    assert {name[:8] for name in names} == {f"block{block:02d}_"}


def test_every_layer_of_inception_resnet_with_weights_is_named_after_its_place():
    names = [layer.name for layer in built("inception_resnet_v2").layers if layer.weights]
    places = {re.match(r"stem_|mixed_.._|block\d\d_|conv_7b|logits|", name)[0] for name in names}
    assert places == {"stem_", "mixed_5b_", "mixed_6a_", "mixed_7a_", "conv_7b", "logits"} | {
        f"block{block:02d}_" for block in range(1, 41)
    }


def test_the_plain_copy_of_inception_resnet_is_a_stock_model():
    copy = plain_copy(built("inception_resnet_v2"))
    assert {type(layer).__module__.split(".")[0] for layer in copy.layers} == {"keras"}
    assert FusedBatchNormalization not in {type(layer) for layer in copy.layers}
    for ours, theirs in zip(built("inception_resnet_v2").weights, copy.weights, strict=True):
        assert ours.path == theirs.path


@every_network
def test_images_below_the_smallest_are_refused(name):
    side = SIDES[name]
    for too_small in [(side - 1, 299, 3), (299, side - 1, 3)]:
        with pytest.raises(InputError, match=rf"{name} got images of .* at least {side}x{side}"):
            BUILDERS[name](too_small, NUM_CLASSES)


@every_network
def test_impossible_class_counts_and_seeds_are_refused(name):
    with pytest.raises(InputError, match=f"{name} got num_classes=1"):
        BUILDERS[name](shape(name), 1)
    with pytest.raises(InputError, match=f"{name} got seed=-1"):
        BUILDERS[name](shape(name), 2, seed=-1)


@pytest.mark.slow
@every_network
def test_a_famus_step_trains_the_network(name):
    table = images(name, batch=4), np.arange(4, dtype="int32")
    model = BUILDERS[name](shape(name), NUM_CLASSES)
    before = model.get_layer("logits").kernel.numpy()
    trainer = Trainer(model, registry.make_method("mwnet_famus", learning_rate=0.01), steps_per_call=1)
    trainer.fit(table, table, batch_size=2, meta_batch_size=2, train_steps=1, verbose=0)
    assert np.isfinite(trainer.epoch_scalars["loss"]) and trainer.epoch_scalars["meta_gradient_norm"] > 0.0
    assert np.all(np.isfinite(model.get_layer("logits").kernel))
    assert np.any(model.get_layer("logits").kernel.numpy() != before)
