"""Names lead to the right builders, unknown names to a helpful sentence, and Python to the command line's settings."""

import dataclasses
import importlib
import json

import numpy as np
import pytest
from absl import flags

from famus_tf import config, dataset_loaders, options, recipe_files, registry
from famus_tf.errors import InputError
from famus_tf.meta import gradient_sampler, l2r, layer_sampling, mlc, mwnet
from famus_tf.methods import meta_reweighting, supervised
from famus_tf.models import input_scaling

COMPOSITIONS = {
    "ce": None,
    "mwnet": (mwnet.MetaWeightNet, layer_sampling.AllLayers),
    "l2r": (l2r.LearningToReweight, layer_sampling.AllLayers),
    "mlc": (mlc.TransitionMatrix, layer_sampling.AllLayers),
    "mwnet_famus": (mwnet.MetaWeightNet, gradient_sampler.GradientSampler),
    "l2r_famus": (l2r.LearningToReweight, gradient_sampler.GradientSampler),
    "mlc_famus": (mlc.TransitionMatrix, gradient_sampler.GradientSampler),
    "mwnet_random": (mwnet.MetaWeightNet, layer_sampling.RandomLayers),
    "mwnet_block": (mwnet.MetaWeightNet, layer_sampling.LayerBlock),
}


def test_the_nine_methods_are_known_and_plain_training_comes_first():
    assert set(registry.method_names()) == COMPOSITIONS.keys()
    assert registry.method_names()[0] == "ce"


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_a_method_is_composed_of_its_meta_model_and_layer_sampler(name):
    method = registry.make_method(name)
    assert method.name == name
    if COMPOSITIONS[name] is None:
        assert type(method) is supervised.Supervised
        assert not method.needs_meta_set
    else:
        meta_model, layer_sampler = COMPOSITIONS[name]
        assert type(method) is meta_reweighting.MetaReweighting
        assert type(method.meta_model) is meta_model
        assert type(method.layer_sampler) is layer_sampler


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_python_and_the_command_line_mean_the_same_method(name, monkeypatch):
    recipe = recipe_files.folder() / "methods" / f"{name}.flags"
    monkeypatch.setattr(recipe_files, "paths", lambda dataset, method: [recipe])
    parsed = flags.FlagValues()
    options.parse_flags(["train", f"--method={name}", "--num_meta=100"], parsed)
    assert options.method_config(None, parsed) == registry.named_method_config(name)


def test_a_methods_network_optimizer_has_the_general_defaults():
    assert registry.named_method_config("mwnet").base == config.OptimizerConfig()


def test_settings_replace_the_recipes_values_and_leave_the_others():
    plain = registry.named_method_config("mwnet_famus")
    changed = registry.named_method_config(
        "mwnet_famus",
        learning_rate=np.float64(0.05),
        nesterov=True,
        decay_steps=[80, 100],
        meta_learning_rate=0.01,
        gated_variables="all",
        sampler_momentum=0,
        sampler_temperature=None,
    )
    assert changed == dataclasses.replace(
        plain,
        base=config.OptimizerConfig(learning_rate=0.05, nesterov=True, decay_steps=(80, 100)),
        meta_model=dataclasses.replace(
            plain.meta_model, optimizer=dataclasses.replace(plain.meta_model.optimizer, learning_rate=0.01)
        ),
        layer_sampler=dataclasses.replace(
            plain.layer_sampler, gated_variables=0, optimizer=config.OptimizerConfig(momentum=0.0)
        ),
    )


def test_another_layer_sampler_renames_the_method():
    assert registry.named_method_config("l2r", layer_sampler="random").name == "l2r_random"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lerning_rate": 0.1}, "'lerning_rate' is not a setting.* Did you mean 'learning_rate'"),
        ({"batch_size": 10}, "'batch_size' is not a setting of a method"),
        ({"learning_rate": "fast"}, "--learning_rate must be a number; got 'fast'"),
        ({"learning_rate": True}, "--learning_rate must be a number; got 'true'"),
        ({"learning_rate": float("nan")}, "--learning_rate must be a number; got 'nan'"),
        ({"gated_variables": 1.5}, "--gated_variables must be a whole number of 1 or more, or 'all'; got '1.5'"),
        ({"meta_l2": -1}, "--meta_l2 must be at least 0.0; got -1"),
        ({"sampler_variant": "offical"}, "--sampler_variant must be one of paper, official.*mean 'official'"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(settings, message):
    with pytest.raises(InputError, match=message):
        registry.make_method("mwnet_famus", **settings)


def test_every_meta_model_and_layer_sampler_of_the_records_has_a_builder():
    assert tuple(registry.META_MODELS) == config.META_MODELS
    assert tuple(registry.LAYER_SAMPLERS) == config.LAYER_SAMPLERS


@pytest.mark.parametrize("name", ["small_cnn", "resnet32", "preact_resnet18", "wrn-10-1"])
def test_every_model_takes_the_shared_arguments_and_ends_in_logits(name):
    model = registry.build_model(name, (8, 8, 1), 7, seed=3, synchronized=True)
    assert model.input_shape == (None, 8, 8, 1)
    assert model.output_shape == (None, 7)
    assert model.layers[-1].name == "logits"
    assert any(getattr(layer, "synchronized", False) for layer in model.layers)


def test_the_list_of_models_names_every_builder_and_the_pattern():
    networks = ("small_cnn", "resnet32", "preact_resnet18", "resnet50", "inception_resnet_v2")
    assert registry.model_names() == (*networks, "wrn-<depth>-<width>", "keras:<Name>")


def test_a_wide_resnets_name_gives_its_depth_and_width():
    model = registry.build_model("wrn-16-2", (8, 8, 3), 10)
    blocks = {layer.name.split("_")[0] for layer in model.layers if layer.name.startswith("block")}
    assert len(blocks) == 6
    assert model.get_layer("logits").kernel.shape == (128, 10)


def test_a_wide_resnet_of_impossible_depth_is_refused():
    with pytest.raises(InputError, match="depth=27"):
        registry.build_model("wrn-27-10", (8, 8, 3), 10)


def test_a_network_of_keras_is_built_by_its_name():
    model = registry.build_model("keras:MobileNetV2", (32, 32, 3), 7, seed=3, synchronized=True)
    assert model.output_shape == (None, 7)
    assert model.layers[-1].name == "logits"
    assert model.get_layer("block_1_expand_BN").synchronized


@pytest.mark.parametrize(("name", "last_block"), [("resnet50", "conv5_block3_"), ("keras:ResNet50", "conv5_block3_")])
def test_resnet50_is_keras_network_with_another_momentum(name, last_block):
    model = registry.build_model(name, (32, 32, 3), 7)
    assert model.get_layer(f"{last_block}3_bn").momentum == (0.9 if name == "resnet50" else 0.99)


def test_a_network_begins_with_the_weights_of_a_file_and_says_what_it_leaves_out(tmp_path, caplog):
    trained = registry.build_model("small_cnn", (8, 8, 1), 3, seed=1)
    trained.save(tmp_path / "model.keras")
    caplog.set_level("INFO")
    model = registry.build_model("small_cnn", (8, 8, 1), 3, weights=str(tmp_path / "model.keras"))
    np.testing.assert_array_equal(model.get_layer("logits").kernel, trained.get_layer("logits").kernel)
    model = registry.build_model("small_cnn", (8, 8, 1), 5, weights=str(tmp_path / "model.keras"))
    np.testing.assert_array_equal(model.get_layer("block01_conv1").kernel, trained.get_layer("block01_conv1").kernel)
    logged = [(record.levelname, record.getMessage()) for record in caplog.records]
    logged = [(level, message) for level, message in logged if "begin with" in message]
    assert [level for level, _ in logged] == ["INFO", "WARNING"]
    assert logged[0][1].endswith("model.keras.")
    assert "logits keeps its random ones" in logged[1][1]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("resnet50", input_scaling.CAFFE),
        ("inception_resnet_v2", input_scaling.SYMMETRIC),
        ("keras:ResNet50V2", input_scaling.SYMMETRIC),
        ("keras:ConvNeXtTiny", input_scaling.TORCH),
        ("resnet32", None),
    ],
)
def test_weights_of_keras_networks_expect_their_own_input_scaling(model, expected, tmp_path):
    assert registry.input_scaling(model, str(tmp_path / "weights.h5")) == expected
    assert registry.input_scaling(model, None) is None


@pytest.mark.parametrize(
    ("preprocessing", "expected"),
    [
        ({"mean": [0.1, 0.2, 0.3], "std": [1, 2, 3], "flip": True}, ((0.1, 0.2, 0.3), (1, 2, 3), "rgb")),
        ({"mean": [0.1, 0.2, 0.3], "std": [1, 2, 3], "channel_order": "bgr"}, ((0.1, 0.2, 0.3), (1, 2, 3), "bgr")),
        ({"mean": [0.1], "std": [1]}, None),
    ],
)
def test_weights_of_a_run_expect_the_input_scaling_of_that_run(preprocessing, expected, tmp_path):
    (tmp_path / "flags.txt").touch()
    (tmp_path / "results.json").write_text(json.dumps({"dataset": {"preprocessing": preprocessing}}))
    scaling = registry.input_scaling("resnet50", str(tmp_path / "model.keras"))
    assert scaling == (expected and input_scaling.InputScaling(*expected))


def test_a_run_folder_without_results_is_refused_as_a_source_of_weights(tmp_path):
    (tmp_path / "flags.txt").touch()
    with pytest.raises(InputError, match="has no results.json"):
        registry.input_scaling("resnet50", str(tmp_path / "model.keras"))


def test_digits_load_by_name():
    dataset = registry.load_dataset(config.DataConfig(dataset="digits"))
    assert dataset.name == "digits"
    assert (len(dataset.train), len(dataset.test)) == (1297, 500)


@pytest.mark.parametrize(
    ("name", "module", "loader"),
    [
        ("cifar10", "cifar", "load_cifar10"),
        ("cifar100", "cifar", "load_cifar100"),
        ("cifar10_lt", "cifar", "load_cifar10_lt"),
        ("cifar100_lt", "cifar", "load_cifar100_lt"),
        ("cifar10n", "cifar_n", "load_cifar10n"),
        ("cifar100n", "cifar_n", "load_cifar100n"),
        ("clothing1m", "clothing1m", "load"),
        ("webvision", "webvision", "load"),
        ("red_mini_imagenet", "red_mini_imagenet", "load"),
        ("folder", "folder", "load"),
        ("tfds:mnist/plain:3.0.1", "tfds_dataset", "load"),
    ],
)
def test_a_dataset_loads_by_name_and_its_loader_gets_the_whole_record(name, module, loader, monkeypatch):
    monkeypatch.setattr(importlib.import_module(f"famus_tf.data.{module}"), loader, lambda record: (loader, record))
    record = config.DataConfig(dataset=name, data_dir="some/folder")
    assert registry.load_dataset(record) == (loader, record)


@pytest.mark.parametrize(
    ("error", "settings", "message"),
    [
        (PermissionError(13, "Permission denied", "/data/a.txt"), {}, "/data/a.txt cannot be read (Permission denied)"),
        (OSError(5, "Input/output error"), {"data_dir": "/data"}, "/data cannot be read (Input/output error)"),
        (OSError("a stale handle"), {}, "digits cannot be read (a stale handle)"),
    ],
)
def test_what_the_system_refuses_is_an_input_error(error, settings, message, monkeypatch):
    def refuse(record):
        raise error

    monkeypatch.setitem(dataset_loaders.DATASETS, "digits", refuse)
    with pytest.raises(InputError) as caught:
        registry.load_dataset(config.DataConfig(dataset="digits", **settings))
    assert str(caught.value) == f"{message}; check that it is there and that you may read it."


@pytest.mark.parametrize(
    ("name", "num_meta", "factor", "total"),
    [
        ("cifar10_lt", 0, 100.0, 12_406),
        ("cifar10_lt", 100, 100.0, 12_380),
        ("cifar10_lt", 100, 10.0, 20_391),
        ("cifar100_lt", 0, 100.0, 10_847),
        ("cifar100_lt", 1000, 100.0, 10_626),
        ("cifar100_lt", 1000, 10.0, 19_183),
    ],
)
def test_the_published_counts_of_a_long_tail_are_those_of_the_literature(name, num_meta, factor, total):
    record = config.DataConfig(dataset=name, num_meta=num_meta, imbalance_factor=factor)
    assert registry.published_counts(record) == {"train": total, "test": 10_000}


def test_the_list_of_datasets_names_every_loader_and_the_pattern():
    names = registry.dataset_names()
    assert names[:3] == ("digits", "cifar10", "cifar100")
    assert names[-1] == "tfds:<name>"
    assert len(set(names)) == 12


@pytest.mark.parametrize(
    ("look_up", "message"),
    [
        (
            lambda: registry.load_dataset(config.DataConfig(dataset="cifra10")),
            "The dataset must be one of digits, cifar10, .*, tfds:<name>; got 'cifra10'. Did you mean 'cifar10'",
        ),
        (
            lambda: registry.make_method("mwnet-famus"),
            "The method must be one of ce, .*; got 'mwnet-famus'. Did you mean 'mwnet_famus'",
        ),
        (
            lambda: registry.build_model("wrn28-10", (8, 8, 3), 10),
            "The network must be one of .*wrn-<depth>-<width>, keras:<Name>; got 'wrn28-10'. Did you mean 'wrn-28-10'",
        ),
        (
            lambda: registry.check_model_name("keras:DenseNet12", "--model"),
            "--model is 'keras:DenseNet12', .* no such network. Did you mean 'keras:DenseNet121'",
        ),
        (lambda: registry.load_dataset(config.DataConfig(dataset="zzz")), r"got 'zzz'\.$"),
        (
            lambda: registry.check_dataset_name("tfds:mnist:latest", "--dataset"),
            "--dataset of tensorflow-datasets is written tfds:name, .*; got 'tfds:mnist:latest'",
        ),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones_and_the_nearest(look_up, message):
    with pytest.raises(InputError, match=message):
        look_up()
