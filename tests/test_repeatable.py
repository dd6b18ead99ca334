"""The same seed and flags give the same weights, bit for bit on a CPU; another seed gives others."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from famus_tf import determinism, registry, run_splits, training_job
from famus_tf.config import Config, DataConfig, MethodConfig, RunConfig
from famus_tf.data.examples import ExampleTable, Preprocessing
from famus_tf.trainer import Trainer
from tests.tiny_networks import IMAGE_SHAPE, NUM_CLASSES, conv_network

# Asks after each job whether the kernels were deterministic, and draws as unseeded layers do, which needs a seed then.
PROGRAM = """
import dataclasses, sys
import tensorflow as tf
from tensorflow.python.framework import config as tf_config
from famus_tf import options, run_splits, training_job

options.define_flags()
options.parse_flags(["train", *sys.argv[2:]])
config = options.config(steps_per_epoch=4)
splits = run_splits.load_splits(config.data, config.run.seed)
for name, is_on in {"plain": False, "one": True, "two": True}.items():
    run = dataclasses.replace(config.run, model_dir=f"{sys.argv[1]}/{name}", deterministic=is_on)
    training_job.train(dataclasses.replace(config, run=run), splits, [], "", 0)
    print("deterministic:", tf_config.is_op_determinism_enabled(), tf.random.uniform([]).shape.rank)
"""


def table(count, seed):
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, NUM_CLASSES, count).astype(np.int32)
    return ExampleTable(
        ids=np.array([f"train_{i}" for i in range(count)]),
        images=draw.integers(0, 256, (count, *IMAGE_SHAPE)).astype(np.uint8),
        given_labels=labels,
        true_labels=None,
    )


PREPROCESSING = Preprocessing(mean=(0.5, 0.5), std=(0.3, 0.3), padding=1, padding_mode="zero", flip=True)


def trained(name, seed, steps_per_call=4):
    """The weights after a run with augmentation and dropout, always from the same initial weights."""
    model = conv_network(num_blocks=1, dropout=0.5)
    settings = {"gated_variables": 4} if "famus" in name else {}
    trainer = Trainer(model, registry.make_method(name, **settings), seed=seed, steps_per_call=steps_per_call)
    trainer.fit(
        table(40, 0), table(12, 1), validation_data=table(10, 2), epochs=2, batch_size=8, preprocessing=PREPROCESSING,
        verbose=0,
    )  # fmt: skip
    return [v.numpy() for variables in trainer.variables.values() for v in variables], trainer.history


@pytest.mark.parametrize("name", ["ce", "mwnet_famus"])
def test_the_same_seed_repeats_every_bit_and_another_does_not(name):
    values, history = trained(name, seed=5)
    again, history_again = trained(name, seed=5, steps_per_call=3)
    for one, other in zip(values, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert history == history_again
    others, _ = trained(name, seed=6)
    assert np.abs(values[0] - others[0]).max() > 1e-6


def outcome(folder):
    weights = keras.saving.load_model(folder / "model.keras").get_weights()
    return weights, json.loads((folder / "results.json").read_text())["history"]


@pytest.mark.slow
def test_deterministic_kernels_run_the_main_job_repeat_it_and_change_no_more_than_rounding(tmp_path):
    flags = ["--dataset=digits", "--num_train=64", "--num_meta=16", "--batch_size=16", "--meta_batch_size=8"]
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), *flags, "--train_steps=2", f"--model_dir={tmp_path}/run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith("deterministic:")]
    assert told == ["deterministic: False 0", "deterministic: True 0", "deterministic: True 0"]
    (plain, _), (one, history), (two, history_again) = (outcome(tmp_path / name) for name in ("plain", "one", "two"))
    for left, middle, right in zip(plain, one, two, strict=True):
        np.testing.assert_array_equal(middle, right)
        np.testing.assert_allclose(left, middle, rtol=0.0, atol=1e-4)
    assert history == history_again


def config(folder, seed):
    return Config(
        data=DataConfig(dataset="digits", num_train=64, noise_rate=0.4),
        model="small_cnn",
        method=MethodConfig(name="ce"),
        run=RunConfig(model_dir=str(folder), train_steps=3, batch_size=16, seed=seed),
    )


def test_a_job_with_another_seed_has_other_weights_labels_and_examples(tmp_path, monkeypatch, capsys):
    """And without --deterministic nothing of the process is changed."""
    monkeypatch.setattr(determinism, "enable", None)
    found = []
    for name, seed in {"one": 1, "again": 1, "two": 2}.items():
        settings = config(tmp_path / name, seed)
        splits = run_splits.load_splits(settings.data, seed)
        training_job.train(settings, splits, [], "", 0)
        weights = keras.saving.load_model(tmp_path / name / "model.keras").get_weights()
        found.append((weights[0], splits.train.ids.tolist(), splits.train.given_labels.tolist()))
    (one, ids, labels), (again, ids_again, labels_again), (two, other_ids, other_labels) = found
    np.testing.assert_array_equal(one, again)
    assert (ids, labels) == (ids_again, labels_again)
    assert np.abs(one - two).max() > 1e-3
    assert ids != other_ids
    assert labels != other_labels
