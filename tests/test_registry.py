"""Names lead to the right builders, unknown names to a helpful sentence, and Python to the command line's settings."""

import dataclasses

import numpy as np
import pytest
from absl import flags

from famus_tf import config, options, recipe_files, registry
from famus_tf.data import cifar
from famus_tf.errors import InputError
from famus_tf.meta import gradient_sampler, l2r, layer_sampling, mlc, mwnet
from famus_tf.methods import meta_reweighting, supervised

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
    assert registry.model_names() == ("small_cnn", "resnet32", "preact_resnet18", "wrn-<depth>-<width>")


def test_a_wide_resnets_name_gives_its_depth_and_width():
    model = registry.build_model("wrn-16-2", (8, 8, 3), 10)
    blocks = {layer.name.split("_")[0] for layer in model.layers if layer.name.startswith("block")}
    assert len(blocks) == 6
    assert model.get_layer("logits").kernel.shape == (128, 10)


def test_a_wide_resnet_of_impossible_depth_is_refused():
    with pytest.raises(InputError, match="depth=27"):
        registry.build_model("wrn-27-10", (8, 8, 3), 10)


def test_digits_load_by_name():
    dataset = registry.load_dataset("digits")
    assert dataset.name == "digits"
    assert (len(dataset.train), len(dataset.test)) == (1297, 500)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_loads_by_name_from_the_given_folder(name, monkeypatch):
    monkeypatch.setattr(cifar, f"load_{name}", lambda data_dir: (name, data_dir))
    assert registry.load_dataset(name, "some/folder") == (name, "some/folder")


@pytest.mark.parametrize(
    ("look_up", "message"),
    [
        (
            lambda: registry.load_dataset("cifra10"),
            "The dataset must be one of digits, cifar10, cifar100; got 'cifra10'. Did you mean 'cifar10'",
        ),
        (
            lambda: registry.make_method("mwnet-famus"),
            "The method must be one of ce, .*; got 'mwnet-famus'. Did you mean 'mwnet_famus'",
        ),
        (
            lambda: registry.build_model("wrn28-10", (8, 8, 3), 10),
            "The network must be one of .*wrn-<depth>-<width>; got 'wrn28-10'. Did you mean 'wrn-28-10'",
        ),
        (lambda: registry.load_dataset("zzz"), r"got 'zzz'\.$"),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones_and_the_nearest(look_up, message):
    with pytest.raises(InputError, match=message):
        look_up()
