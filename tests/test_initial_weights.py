"""Tests of famus_tf.models.initial_weights and weight_files: a network begins with the weights of a local file."""

import functools
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from famus_tf.errors import InputError
from famus_tf.models import initial_weights, keras_applications, plain_copy, small_cnn, weight_files
from famus_tf.models.normalization import FusedBatchNormalization

NAME, SHAPE = "MobileNetV2", (32, 32, 3)
FORMATS = ("stock.keras", "stock.weights.h5", "stock.h5")

# Keras' copy of a file's content into the model still goes the way that NumPy 2.4 calls outdated.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)
every_format = pytest.mark.parametrize("filename", FORMATS)


def write(model, path):
    model.save_weights(path) if path.name.endswith(".weights.h5") else model.save(path)
    return path


def images(shape=SHAPE):
    return np.random.default_rng(3).normal(size=(2, *shape)).astype("float32")


def make_lively(model):
    """Gives every weight of a layer its own values, as if trained; deep signals stay alive."""
    for number, variable in enumerate(model.weights):
        values = np.random.default_rng(number).normal(size=variable.shape)
        if variable.name in ("gamma", "moving_variance"):
            values = 1.0 + 0.1 * np.tanh(values)
        else:
            is_depthwise = len(variable.shape) == 4 and variable.shape[-1] == 1
            fan_in = np.prod(variable.shape[: 2 if is_depthwise else -1])
            values *= 0.1 if len(variable.shape) == 1 else np.sqrt(2.0 / fan_in)
        variable.assign(values)
    return model


@pytest.fixture(scope="module")
def stock():
    """A stock network for 4 classes, made after others, so that Keras counts its unnamed layers from somewhere."""
    return make_lively(
        keras.applications.MobileNetV2(weights=None, classes=4, input_shape=SHAPE, classifier_activation=None)
    )


@pytest.fixture(scope="module")
def files(stock, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stock")
    return {filename: write(stock, folder / filename) for filename in FORMATS}


@functools.cache
def _network(num_classes, seed):
    model = keras_applications.build(NAME, SHAPE, num_classes, seed=seed)
    return model, model.get_weights()


def network(num_classes, seed=0):
    """Our form of the stock network, with its initial weights."""
    model, initial = _network(num_classes, seed)
    model.set_weights(initial)
    return model


def features(model):
    """The output of the layer below the classifier."""
    return keras.Model(model.input, model.layers[-2].output)(images())


@every_format
def test_with_as_many_classes_all_layers_are_loaded_and_the_logits_are_the_stock_networks(filename, stock, files):
    model = network(4)
    loaded = initial_weights.load(model, files[filename])
    for ours, theirs in zip(model.weights, stock.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    expected = stock(images()).numpy()
    assert np.ptp(expected, axis=0).max() > 0.01
    np.testing.assert_allclose(model(images()), expected, rtol=1e-4, atol=1e-4)
    assert (loaded.num_layers, loaded.kept) == (105, ())
    assert loaded.sentence == f"105 layers begin with the weights of {files[filename]}."


@every_format
def test_with_other_classes_the_features_are_the_stock_networks_and_the_classifier_stays_seeded(filename, stock, files):
    model = network(6, seed=9)
    seeded = [weight.numpy() for weight in model.weights[-2:]]
    loaded = initial_weights.load(model, files[filename])
    np.testing.assert_allclose(features(model), features(stock), rtol=1e-4, atol=1e-4)
    for ours, initial in zip(model.weights[-2:], seeded, strict=True):
        np.testing.assert_array_equal(ours, initial)
    assert (loaded.num_layers, loaded.kept) == (104, ("logits",))
    assert loaded.sentence.endswith("logits keeps its random ones, since the file's are for 4 classes instead of 6.")


@every_format
def test_a_file_without_a_classifier_gives_everything_below_it(filename, stock, tmp_path):
    headless = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=SHAPE, pooling="avg")
    headless.set_weights(stock.get_weights()[:-2])
    model = network(4)
    loaded = initial_weights.load(model, write(headless, tmp_path / filename))
    np.testing.assert_allclose(features(model), features(stock), rtol=1e-4, atol=1e-4)
    assert loaded.kept == ("logits",)
    assert loaded.reason == "the file has none for it"


def unnamed_network(num_classes, *, before=(), normalization=keras.layers.BatchNormalization):
    """Layers that Keras names by itself, some of them in a model inside; `before` come first."""
    layers = keras.layers
    inner = keras.Sequential([layers.Conv2D(4, 3), layers.LayerNormalization()])
    body = [layers.Conv2D(5, 3), normalization(), inner, layers.Conv2D(6, 3), normalization()]
    head = [layers.GlobalAveragePooling2D(), layers.Dense(num_classes)]
    x = inputs = keras.Input((8, 8, 3))
    for layer in (*before, *body, *head):
        x = layer(x)
    return make_lively(keras.Model(inputs, x))


def assert_equal_weights(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@every_format
def test_layers_that_keras_numbered_anew_are_found_by_their_order(filename, tmp_path):
    stock = unnamed_network(3)
    model = unnamed_network(3, normalization=FusedBatchNormalization)
    model.set_weights([0.0 * weight for weight in model.get_weights()])
    path = write(stock, tmp_path / filename)
    assert {layer.name for layer in weight_files.read(path).layers}.isdisjoint(layer.name for layer in model.layers)
    assert initial_weights.load(model, path).kept == ()
    assert_equal_weights(model.weights, stock.weights)


@every_format
@pytest.mark.parametrize("num_classes", [3, 5])
def test_a_layer_that_scales_inputs_is_passed_over(filename, num_classes, tmp_path):
    scaling = [keras.layers.Rescaling(1 / 255), keras.layers.Normalization()]
    stock = unnamed_network(3, before=scaling)
    assert len(scaling[1].weights) == 3
    model = unnamed_network(num_classes)
    loaded = initial_weights.load(model, write(stock, tmp_path / filename))
    assert len(loaded.kept) == (num_classes != 3)
    assert_equal_weights(model.weights[:-2], stock.weights[3:-2])


@pytest.mark.parametrize("num_classes", [3, 5])
def test_the_model_of_a_run_folder_is_loaded(num_classes, tmp_path):
    trained = make_lively(small_cnn.build((8, 8, 1), 3))
    path = tmp_path / "run" / "model.keras"
    path.parent.mkdir()
    plain_copy(trained).save(path)
    model = small_cnn.build((8, 8, 1), num_classes, seed=4)
    loaded = initial_weights.load(model, str(path))
    assert loaded.kept == (() if num_classes == 3 else ("logits",))
    inner = [keras.Model(m.input, m.get_layer("pool").output)(images((8, 8, 1))) for m in (model, trained)]
    np.testing.assert_allclose(*inner, rtol=1e-4, atol=1e-4)


@every_format
def test_a_network_of_ours_saved_as_it_is_can_be_loaded(filename, tmp_path):
    trained = make_lively(small_cnn.build((8, 8, 1), 3))
    for layer in trained.layers:
        layer._name = f"renamed_{layer.name}"  # Then only order and class tell what is what.
    model = small_cnn.build((8, 8, 1), 3, seed=4)
    initial_weights.load(model, write(trained, tmp_path / filename))
    np.testing.assert_allclose(model(images((8, 8, 1))), trained(images((8, 8, 1))), rtol=1e-5, atol=1e-5)


def test_both_replicas_get_the_weights(two_replicas, tmp_path):
    trained = make_lively(small_cnn.build((8, 8, 1), 3))
    path = write(plain_copy(trained), tmp_path / "model.keras")
    with two_replicas.scope():
        model = small_cnn.build((8, 8, 1), 3, synchronized=True)
        initial_weights.load(model, path)
    for variable, expected in zip(model.weights, trained.weights, strict=True):
        for of_replica in two_replicas.experimental_local_results(variable.value):
            np.testing.assert_array_equal(of_replica, expected)


def test_a_frozen_network_is_loaded_like_any_other(tmp_path):
    trained = make_lively(small_cnn.build((8, 8, 1), 3))
    path = write(plain_copy(trained), tmp_path / "model.keras")
    model = small_cnn.build((8, 8, 1), 3)
    model.trainable = False
    initial_weights.load(model, path)
    np.testing.assert_array_equal(
        model.get_layer("block01_bn1").moving_mean, trained.get_layer("block01_bn1").moving_mean
    )


# Files of another network


@every_format
def test_another_network_is_refused_with_its_first_mismatches_and_nothing_is_changed(filename, files):
    model = small_cnn.build((8, 8, 3), 4)
    before = model.get_weights()
    message = (
        r"does not fit the network 'small_cnn', which has 13 layers with weights \(the file: 105\): block01_conv2 has"
        r" shapes \[\(3, 3, 32, 32\)\], the file's expanded_.*; .*; .*; and \d+ more\. Give the file of"
    )
    with pytest.raises(InputError, match=message):
        initial_weights.load(model, files[filename])
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@every_format
def test_a_wider_network_of_the_same_layers_is_refused_by_its_shapes(filename, tmp_path):
    gray = write(plain_copy(small_cnn.build((8, 8, 1), 3)), tmp_path / filename)
    message = r"\): block01_conv1 has shapes \[\(3, 3, 3, 32\)\], the file's block01_conv1 \[\(3, 3, 1, 32\)\]\. Give"
    with pytest.raises(InputError, match=message):
        initial_weights.load(small_cnn.build((8, 8, 3), 3), gray)


@every_format
def test_a_deeper_network_is_refused(filename, tmp_path):
    deeper = write(plain_copy(small_cnn.build((8, 8, 1), 3)), tmp_path / filename)
    with pytest.raises(InputError, match=r"small_cnn'.*block01_conv1|beyond the network's layers it holds \d+ more"):
        initial_weights.load(small_cnn.build((4, 4, 1), 3), deeper)


# Files that are no weights


@pytest.fixture
def any_model():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="logits")])


def hdf5_without_weights(path):
    with h5py.File(path, "w") as file:
        file["numbers"] = np.arange(3)


def torch_archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"")


def other_archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "")


@pytest.mark.parametrize(
    ("filename", "content", "message"),
    [
        ("none.h5", None, r"none\.h5: there is no such file\. Give a file that Keras wrote: \.keras, \.weights\.h5 or"),
        ("empty.h5", b"", "is an empty file"),
        ("page.h5", b"\n<!DOCTYPE html><html>404</html>", "is a web page and no weights"),
        ("page.keras", b"<HTML><head>", "is a web page and no weights"),
        ("pointer.h5", b"version https://git-lfs.github.com/spec/v1\noid ...", "Git LFS pointer.*git lfs pull"),
        (
            "resnet50.pth",
            b"\x80\x02\x8a\x0a",
            "checkpoint of PyTorch, which cannot be read.*Give a file that Keras wrote",
        ),
        ("resnet50.h5", b"\x80\x02\x8a\x0a", "checkpoint of PyTorch"),
        ("resnet50.pth", torch_archive, "checkpoint of PyTorch"),
        ("renamed.keras", torch_archive, "checkpoint of PyTorch"),
        ("model.safetensors", b"\x10\x00\x00\x00{}", "checkpoint of PyTorch"),
        ("notes.keras", other_archive, r"is an archive without model\.weights\.h5"),
        ("table.csv", b"a,b\n1,2\n", r"is no weights file of Keras \(it begins with b'a,b"),
        ("numbers.h5", hdf5_without_weights, "HDF5 file without any weights of a Keras model"),
    ],
)
def test_a_file_that_is_no_weights_is_refused_in_one_sentence(filename, content, message, any_model, tmp_path):
    path = tmp_path / filename
    if callable(content):
        content(path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"--weights={tmp_path}.*{message}"):
        initial_weights.load(any_model, path)


def test_a_folder_is_refused_and_a_run_folders_model_is_pointed_to(any_model, tmp_path):
    with pytest.raises(InputError, match=r"is a folder, and a file is expected\. Give a file that Keras wrote"):
        initial_weights.load(any_model, tmp_path)
    (tmp_path / "model.keras").touch()
    with pytest.raises(InputError, match=rf"is a folder.* Give the file in it: {tmp_path}/model\.keras"):
        initial_weights.load(any_model, tmp_path)


@every_format
@pytest.mark.parametrize("kept_share", [0.999, 0.5, 0.01])
def test_a_file_cut_short_is_refused(filename, kept_share, files, tmp_path):
    content = files[filename].read_bytes()
    path = tmp_path / filename
    path.write_bytes(content[: int(kept_share * len(content))])
    message = r"is damaged or cut short after [\d,]+ bytes \(.*\)\. Copy or download it again\."
    with pytest.raises(InputError, match=message):
        weight_files.read(path)


def test_a_tilde_is_the_home_folder(any_model, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    any_model.save_weights(tmp_path / "own.weights.h5")
    assert initial_weights.load(any_model, "~/own.weights.h5").num_layers == 1


def test_weights_of_half_precision_become_the_networks_precision(any_model, tmp_path):
    half = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="logits", dtype="float16")])
    half.save_weights(tmp_path / "half.weights.h5")
    initial_weights.load(any_model, tmp_path / "half.weights.h5")
    assert any_model.weights[0].dtype == "float32"
    np.testing.assert_array_equal(any_model.weights[0], tf.cast(half.weights[0].value, tf.float32))
