"""Tests of the networks in famus_tf.models: what holds for all of them."""

import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from famus_tf.errors import InputError
from famus_tf.models import plain_copy
from famus_tf.models.normalization import FusedBatchNormalization
from tests.paper_networks import BUILDERS, COLOR, DIGITS, NUM_CLASSES, ODD, built_model, images

SMALLEST_SIDES = {"small_cnn": 2, "cifar_resnet": 4, "wide_resnet": 4, "preact_resnet": 8}

# Keras 3.15 saves variables through a NumPy protocol that NumPy 2.4 calls outdated.
ignore_numpy_warning_of_keras = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

every_builder = pytest.mark.parametrize("name", list(BUILDERS))


# What holds for every network


@every_builder
@pytest.mark.parametrize("input_shape", [COLOR, DIGITS, ODD])
def test_logits_are_finite_raw_scores_of_every_image(name, input_shape):
    model = built_model(name, input_shape)
    for training in (False, True):
        logits = model(images(input_shape), training=training)
        assert logits.shape == (3, NUM_CLASSES)
        assert logits.dtype == "float32"
        assert np.all(np.isfinite(logits))
    assert model.layers[-1].name == "logits"
    assert model.layers[-1].activation is keras.activations.linear


@every_builder
def test_the_smallest_images_are_taken_and_smaller_ones_refused(name):
    side = SMALLEST_SIDES[name]
    model = BUILDERS[name]((side, side, 1), 2)
    assert np.all(np.isfinite(model(images((side, side, 1)), training=True)))
    for shape in [(side - 1, 32, 1), (32, side - 1, 1)]:
        with pytest.raises(InputError, match=rf"at least {side}x{side}"):
            BUILDERS[name](shape, 2)


@every_builder
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((32, 32), 10), "three positive integers"),
        (((32, 32, 0), 10), "three positive integers"),
        (((32, None, 3), 10), "three positive integers"),
        (((32, 32, 3), 1), "num_classes=1"),
    ],
)
def test_impossible_shapes_and_class_counts_are_refused(name, arguments, message):
    with pytest.raises(InputError, match=message):
        BUILDERS[name](*arguments)


@every_builder
def test_negative_seed_is_refused(name):
    with pytest.raises(InputError, match="seed=-1"):
        BUILDERS[name](COLOR, 10, seed=-1)


@every_builder
def test_the_seed_alone_decides_the_weights(name):
    first, again = built_model(name), BUILDERS[name](COLOR, NUM_CLASSES, seed=0)
    other = BUILDERS[name](COLOR, NUM_CLASSES, seed=1)
    for variable, same, different in zip(
        first.trainable_variables,
        again.trainable_variables,
        other.trainable_variables,
        strict=True,
    ):
        np.testing.assert_array_equal(variable, same)
        if variable.name == "kernel":
            assert np.all(np.mean(variable.numpy() == different.numpy()) < 0.01), variable.path


@every_builder
def test_no_two_kernels_of_one_model_are_drawn_alike(name):
    kernels = {}
    for variable in built_model(name).trainable_variables:
        if variable.name == "kernel":
            kernels[variable.path] = tuple(np.ravel(variable.numpy())[:4] / np.std(variable))
    assert len(kernels) > 6
    firsts = np.array([values[0] for values in kernels.values()])
    assert len(np.unique(np.round(firsts, 4))) == len(kernels)


@every_builder
def test_trainable_variables_come_bottom_to_top(name):
    paths = [variable.path for variable in built_model(name).trainable_variables]

    def height(path):
        block = re.match(r"block(\d\d)_", path)
        if block:
            return int(block[1])
        return {"stem": 0, "final": 98, "logits": 99}[re.match(r"[a-z]+", path)[0]]

    heights = [height(path) for path in paths]
    assert heights == sorted(heights)
    assert paths[-2:] == ["logits/kernel", "logits/bias"]
    blocks = sorted(set(heights) - {0, 98, 99})
    assert blocks == list(range(1, len(blocks) + 1))


@every_builder
def test_every_normalization_has_the_papers_constants(name):
    for synchronized in (False, True):
        model = BUILDERS[name](COLOR, 3, synchronized=synchronized)
        layers = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
        assert len(layers) >= 6
        for layer in layers:
            assert isinstance(layer, FusedBatchNormalization)
            assert (layer.momentum, layer.epsilon) == (0.9, 1e-5)
            assert layer.synchronized is synchronized


@every_builder
def test_every_trainable_variable_receives_a_gradient(name):
    model = built_model(name, DIGITS)
    labels = tf.constant([0, 1, 2])
    with tf.GradientTape() as tape:
        logits = model(images(DIGITS), training=True)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None, variable.path
        assert np.all(np.isfinite(gradient)), variable.path


LOADING_SCRIPT = """
import json, pathlib, sys
sys.modules["famus_tf"] = None  # Importing it would fail.
import keras, numpy as np
for folder in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    model = keras.models.load_model(folder / "model.keras")
    names = [layer.name for layer in model.layers]
    assert names == json.loads((folder / "layers.json").read_text()), folder
    assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}, folder
    logits = model(np.load(folder / "images.npy"))
    np.testing.assert_allclose(logits, np.load(folder / "logits.npy"), rtol=1e-4, atol=1e-5)
    print("loaded", folder.name)
"""


@ignore_numpy_warning_of_keras
def test_saved_plain_copies_load_in_a_process_without_this_package(tmp_path):
    for name in BUILDERS:
        model = built_model(name, DIGITS)
        for _ in range(2):
            model(images(DIGITS), training=True)  # Moving statistics of its own.
        folder = tmp_path / "saved" / name
        folder.mkdir(parents=True)
        copy = plain_copy(model)
        assert [layer.name for layer in copy.layers] == [layer.name for layer in model.layers]
        assert [v.path for v in copy.weights] == [v.path for v in model.weights]
        copy.save(folder / "model.keras")
        names = ", ".join(f'"{layer.name}"' for layer in model.layers)
        (folder / "layers.json").write_text(f"[{names}]")
        np.save(folder / "images.npy", images(DIGITS))
        np.save(folder / "logits.npy", model(images(DIGITS), training=False))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    finished = subprocess.run(
        [sys.executable, "-c", LOADING_SCRIPT, str(tmp_path / "saved")],
        cwd=tmp_path,
        env=environment | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == [word for n in sorted(BUILDERS) for word in ("loaded", n)]


@ignore_numpy_warning_of_keras
@every_builder
def test_model_itself_saves_and_loads_with_this_package(name, tmp_path):
    model = built_model(name, DIGITS)
    path = pathlib.Path(tmp_path, "model.keras")
    model.save(path)
    loaded = keras.models.load_model(path)
    assert any(isinstance(layer, FusedBatchNormalization) for layer in loaded.layers)
    np.testing.assert_allclose(loaded(images(DIGITS)), model(images(DIGITS)), rtol=1e-5, atol=1e-6)
