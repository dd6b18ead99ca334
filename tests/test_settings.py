"""Which flags go together with which dataset, known before any data are read."""

import pytest

from famus_tf import flag_table, settings
from famus_tf.errors import InputError


def check(**changes):
    settings.check(flag_table.defaults() | {"meta_model": "none"} | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "cifar10n", "label_set": "worst"},
        {"dataset": "red_mini_imagenet", "label_set": "0.4", "image_size": 84},
        {"dataset": "folder", "data_dir": "pictures", "image_size": 64},
        {"dataset": "folder", "labels_csv": "labels.csv"},
        {"dataset": "tfds:mnist", "image_size": 64},
        {"dataset": "webvision", "imagenet_dir": "imagenet"},
        {"dataset": "cifar10_lt", "imbalance_factor": 100.0},
        {"dataset": "digits", "imbalance_factor": 10.0},
    ],
)
def test_what_a_dataset_heeds_passes(changes):
    check(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"dataset": "cifar10", "label_set": "worst"},
            "--label_set=worst means nothing to --dataset=cifar10; it is for cifar10n, cifar100n, red_mini_imagenet.",
        ),
        (
            {"dataset": "tfds:mnist", "labels_csv": "x.csv"},
            "--labels_csv=x.csv means nothing to --dataset=tfds:mnist; it is for folder. Leave it out.",
        ),
        (
            {"dataset": "digits", "image_size": 32},
            "--image_size=32 means nothing to --dataset=digits; it is for folder,",
        ),
        ({"dataset": "clothing1m", "imagenet_dir": "x"}, "--imagenet_dir=x means nothing to --dataset=clothing1m"),
        (
            {"dataset": "cifar100_lt"},
            "--dataset=cifar100_lt with --imbalance_factor=1 has no long tail; give a factor above 1, such as 100, or"
            " --dataset=cifar100.",
        ),
        ({"dataset": "folder"}, "--dataset=folder needs --data_dir=DIR, with one directory of pictures per class, or"),
    ],
)
def test_a_flag_that_a_dataset_would_pass_over_is_refused(changes, message):
    with pytest.raises(InputError) as caught:
        check(**changes)
    assert str(caught.value).startswith(message)


def test_a_folders_meta_set_need_not_be_counted_unless_its_labels_are_as_given():
    method = {"dataset": "folder", "data_dir": "pictures", "meta_model": "mwnet", "num_meta": 0}
    check(**method)
    check(**method | {"meta_set": "clean"})
    with pytest.raises(InputError, match="--num_meta=0 leaves none"):
        check(**method | {"meta_set": "given"})


def test_a_run_folders_name_holds_no_separator():
    values = flag_table.defaults() | {"meta_model": "none", "dataset": "tfds:so2sat/rgb:2.1.0", "seed": 3}
    assert settings.run_config(values).model_dir == "runs/tfds-so2sat-rgb-2.1.0-ce-symmetric-0-seed3"


def test_a_run_folders_name_has_no_rate_where_no_noise_is_added():
    values = flag_table.defaults() | {"meta_model": "none", "noise_type": "none", "noise_rate": 0.4}
    assert settings.run_config(values).model_dir == "runs/digits-ce-none-seed0"
    assert settings.data_config(values).noise_rate == 0.0


def test_a_seed_beyond_what_tensorflow_takes_is_refused():
    check(seed=2**62 - 1)
    with pytest.raises(InputError) as caught:
        check(seed=9223372036854775808)
    assert str(caught.value) == "--seed must be at most 4611686018427387903; got 9223372036854775808."


def decay_steps(steps_in_the_set, **changes):
    values = flag_table.defaults() | {"meta_model": "none", "decay_epochs": (2, 3)} | changes
    return settings.method_config(values, steps_in_the_set).base.decay_steps


def test_decay_epochs_are_epochs_of_the_length_that_was_set():
    assert decay_steps(31_250) == (62_500, 93_750)
    assert decay_steps(31_250, steps_per_epoch=1000) == (2000, 3000)
    assert decay_steps(None, steps_per_epoch=1000) == (2000, 3000)
    with pytest.raises(ValueError, match="steps_per_epoch is needed to turn --decay_epochs into steps"):
        decay_steps(None)
