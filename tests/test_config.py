"""Tests of famus_tf.config: every check, its message, and what is let through."""

import dataclasses

import numpy as np
import pytest

from famus_tf import config, registry
from famus_tf.data import feeds
from famus_tf.errors import InputError


def optimizer(**settings):
    return config.OptimizerConfig(**settings)


def meta_model(**settings):
    return config.MetaModelConfig(**{"name": "mwnet", **settings})


def sampler(**settings):
    return config.LayerSamplerConfig(**settings)


def data(**settings):
    return config.DataConfig(dataset="digits", **settings)


def run(**settings):
    return config.RunConfig(model_dir="/tmp/run", **settings)


WRONG = [
    (optimizer, {"name": "rmsprop"}, "--optimizer must be one of sgd, adam; got 'rmsprop'."),
    (optimizer, {"learning_rate": 0.0}, "--learning_rate must be a positive, finite number; got 0.0."),
    (optimizer, {"learning_rate": float("nan")}, "--learning_rate must be a positive, finite number; got nan."),
    (optimizer, {"learning_rate": float("inf")}, "--learning_rate must be a positive, finite number; got inf."),
    (optimizer, {"l2_coefficient": -1e-4}, "--l2_coefficient must be at least 0.0; got -0.0001."),
    (optimizer, {"l2_coefficient": float("nan")}, "--l2_coefficient must be at least 0.0; got nan."),
    (optimizer, {"decay_factor": -0.1}, "--decay_factor must be a positive, finite number; got -0.1."),
    (optimizer, {"momentum": 1.0}, r"--momentum must be in [0, 1); got 1.0."),
    (optimizer, {"momentum": -0.1}, r"--momentum must be in [0, 1); got -0.1."),
    (optimizer, {"nesterov": True, "momentum": 0.0}, "--nesterov needs --momentum above 0; got 0."),
    (optimizer, {"decay_steps": (20, 10)}, "--decay_steps must increase from 0 or more; got [20, 10]."),
    (optimizer, {"decay_steps": (10, 10)}, "--decay_steps must increase from 0 or more; got [10, 10]."),
    (optimizer, {"decay_steps": (-1,)}, "--decay_steps must increase from 0 or more; got [-1]."),
    (meta_model, {"name": "mentornet"}, "--meta_model must be one of mwnet, l2r, mlc; got 'mentornet'."),
    (meta_model, {"hidden_units": 0}, "--meta_hidden_units must be at least 1; got 0."),
    (meta_model, {"weight_normalization": "max"}, "--weight_normalization must be one of sum, batch_size; got 'max'"),
    (meta_model, {"mlc_reduction": "max"}, "--mlc_reduction must be one of mean, sum; got 'max'."),
    (sampler, {"name": "top"}, "--layer_sampler must be one of all, famus, random, block; got 'top'."),
    (sampler, {"variant": "mine"}, "--sampler_variant must be one of paper, official; got 'mine'."),
    (sampler, {"gated_variables": -1}, "--gated_variables must be at least 0; got -1."),
    (sampler, {"num_random_layers": 0}, "--num_random_layers must be at least 1; got 0."),
    (sampler, {"layer_block": 0}, "--layer_block must be at least 1; got 0."),
    (sampler, {"expected_active_layers": -2.0}, "--expected_active_layers must be at least 0.0; got -2.0."),
    (sampler, {"budget_weight": -0.1}, "--budget_weight must be at least 0.0; got -0.1."),
    (sampler, {"gradient_matching_weight": -0.1}, "--gradient_matching_weight must be at least 0.0; got -0.1."),
    (sampler, {"temperature": 0.0}, "--sampler_temperature must be a positive, finite number; got 0.0."),
    (data, {"num_meta": -1}, "--num_meta must be at least 0; got -1."),
    (data, {"num_validation": -1}, "--num_validation must be at least 0; got -1."),
    (data, {"noise_rate": -0.1}, "--noise_rate must be a share between 0 and 1; got -0.1."),
    (data, {"noise_rate": float("nan")}, "--noise_rate must be a share between 0 and 1; got nan."),
    (data, {"noise_rate": 40}, "--noise_rate must be a share between 0 and 1; got 40. A percentage? Then give 0.4."),
    (run, {"epochs": 0}, "--epochs must be at least 1; got 0."),
    (run, {"train_steps": 0}, "--train_steps must be at least 1; got 0."),
    (run, {"batch_size": 0}, "--batch_size must be at least 1; got 0."),
    (run, {"meta_batch_size": 0}, "--meta_batch_size must be at least 1; got 0."),
    (run, {"seed": -1}, "--seed must be at least 0; got -1."),
    (run, {"seed": 2**62}, "--seed must be at most 4611686018427387903; got 4611686018427387904."),
    (run, {"num_replicas": -1}, "--num_replicas must be at least 0; got -1."),
    (run, {"steps_per_call": 0}, "--steps_per_call must be at least 1; got 0."),
    (run, {"checkpoint_interval_s": 0.0}, "--checkpoint_interval_s must be a positive, finite number; got 0.0."),
]


@pytest.mark.parametrize(("build", "settings", "message"), WRONG, ids=lambda x: str(x) if isinstance(x, dict) else "")
def test_a_wrong_setting_is_refused_with_what_was_received_and_expected(build, settings, message):
    with pytest.raises(InputError) as raised:
        build(**settings)
    assert str(raised.value).startswith(message)


def test_a_layer_sampler_without_a_meta_model_is_refused_with_both_ways_out():
    with pytest.raises(InputError) as raised:
        config.MethodConfig(name="ce", layer_sampler=sampler(name="famus"))
    message = str(raised.value)
    assert message.startswith("--layer_sampler=famus chooses layers of a meta-gradient, and method 'ce' has none.")
    assert "Choose a method with a meta-model (mwnet, l2r or mlc), or --layer_sampler=all." in message


def test_a_misspelled_choice_is_answered_with_the_nearest():
    with pytest.raises(InputError, match="got 'mwnett'. Did you mean 'mwnet'?"):
        meta_model(name="mwnett")
    with pytest.raises(InputError) as raised:
        meta_model(name="zzz")
    assert "Did you mean" not in str(raised.value)
    assert config.nearest_hint("symetric", ["pair", "symmetric"]) == " Did you mean 'symmetric'?"


@pytest.mark.parametrize("rate", [0.0, 1.0, 0.4])
def test_rates_at_and_between_the_ends_are_taken(rate):
    assert data(noise_rate=rate).noise_rate == rate


@pytest.mark.parametrize("rate", [-3.0, 250.0])
def test_the_hint_at_percentages_is_given_only_where_one_is_likely(rate):
    with pytest.raises(InputError) as raised:
        data(noise_rate=rate)
    assert "percentage" not in str(raised.value)


def test_settings_at_their_limits_are_taken():
    assert optimizer(momentum=0.0, decay_steps=(0, 1), l2_coefficient=0.0).decay_steps == (0, 1)
    assert sampler(gated_variables=0, expected_active_layers=0.0, budget_weight=0.0).temperature is None
    assert config.MethodConfig(name="mwnet", meta_model=meta_model(), layer_sampler=sampler(name="famus")).base
    assert run(train_steps=1, seed=0, num_replicas=0).train_steps == 1


def test_every_draw_takes_the_largest_seed():
    seed = run(seed=config.MAX_SEED).seed
    model = registry.build_model("small_cnn", (8, 8, 1), 10, seed=seed, synchronized=False)
    registry.build_meta_model(meta_model()).build(10, seed)
    gates = registry.build_layer_sampler(sampler(name="famus", gated_variables=0))
    gates.build(model, seed)
    assert gates.network.built
    for class_balanced in (False, True):
        feeds.training_feed(
            (np.zeros((20, 8, 8, 1), np.float32), np.arange(20) % 10), batch_size=10, seed=seed, stream="train",
            preprocessing=None, augment=False, class_balanced=class_balanced,
        )  # fmt: skip


@pytest.mark.parametrize(("noise_type", "rate"), [("none", 0.0), ("flip", 0.4)])
def test_the_rate_of_no_noise_is_zero(noise_type, rate):
    assert data(noise_type=noise_type, noise_rate=0.4).noise_rate == rate


def test_a_wrong_rate_of_no_noise_is_refused_as_any():
    with pytest.raises(InputError, match="--noise_rate must be a share between 0 and 1; got 1.5"):
        data(noise_type="none", noise_rate=1.5)


def test_records_cannot_be_changed_after_their_check():
    record = optimizer()
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.learning_rate = -1.0


def test_an_input_error_is_an_ordinary_value_error():
    assert issubclass(InputError, ValueError)
