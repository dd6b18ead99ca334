"""Tests of famus_tf.data.corruption."""

import numpy as np
import pytest

from famus_tf.config import NOISE_TYPES
from famus_tf.data import corruption, label_files
from famus_tf.errors import InputError

COARSE = (0, 1, 0, 1, 0, 1)  # six classes in two superclasses, interleaved
IDS = np.array([f"train_{row:05d}" for row in range(40)])
ALL_TYPES = tuple(corruption.NOISE_TYPES)


def test_the_types_are_those_of_the_flag():
    assert ALL_TYPES == NOISE_TYPES


# Recorded once; other values mean that old runs can no longer be repeated.
GOLDEN_HASHES = {
    "symmetric": "15e3b3bbde77e3f910a88b5d411bc8ec5085464fa73c650e1980cf1154b98c11",
    "symmetric_excluded": "eb30603c580a76da9d584921e64ff2c33f1c1e546b3725bea112cdfd70cae97d",
    "asymmetric": "c5056b1369d7af009fe0c3fdd9edc457cfa2aa217e517302d3f4db03f6b9f662",
    "flip": "453ed9e705f37325290f69c0c800126afb67f349ce85c5b157c5eb969c7b39cd",
    "flip2": "6752d9dc314b6fca90bf9dc841a449ba21f3c744e91e6b2aeba4fa7241bda283",
    "hierarchical": "5869c428615cb36d430f0e86653de14389fdcd10688e798bfdc69b856e325513",
    "pairflip": "713301ce5b70377425dd47d181bb06f5e55586bdba6448adc5421ee274015209",
    "none": "403addd6ce856df0b06eef9e6424bab38592f355bafe17a24193c1e6ede09dcc",
}


def settings(noise_type):
    """Classes and superclasses for which each type is defined."""
    if noise_type == "asymmetric":
        return {"num_classes": 10, "dataset_name": "cifar10"}
    return {"num_classes": 6, "coarse_labels": COARSE}


def corrupt(noise_type, noise_rate, num_examples, seed=0, **changes):
    arguments = settings(noise_type) | changes
    labels = np.arange(num_examples, dtype=np.int32) % arguments["num_classes"]
    ids = np.array([f"train_{row:05d}" for row in range(num_examples)])
    noisy = corruption.corrupt(labels, ids, noise_type=noise_type, noise_rate=noise_rate, seed=seed, **arguments)
    return labels, noisy


def test_symmetric_matrix_includes_the_true_class():
    matrix = corruption.noise_matrix("symmetric", 0.4, 10)
    np.testing.assert_allclose(np.diag(matrix), 0.64)
    np.testing.assert_allclose(matrix[0, 1:], 0.04)


def test_symmetric_excluded_matrix_leaves_the_true_class_out():
    matrix = corruption.noise_matrix("symmetric_excluded", 0.4, 5)
    np.testing.assert_allclose(matrix, 0.1 + 0.5 * np.eye(5))


def test_asymmetric_cifar10_matrix_is_the_five_look_alikes():
    matrix = corruption.noise_matrix("asymmetric", 0.3, 10, dataset_name="cifar10")
    expected = np.eye(10)
    for true_class, given_class in ((9, 1), (2, 0), (3, 5), (5, 3), (4, 7)):
        expected[true_class, true_class], expected[true_class, given_class] = 0.7, 0.3
    np.testing.assert_allclose(matrix, expected)


def test_asymmetric_cifar100_goes_round_within_the_superclass():
    matrix = corruption.noise_matrix("asymmetric", 1.0, 6, dataset_name="cifar100", coarse_labels=COARSE)
    assert matrix.argmax(axis=1).tolist() == [2, 3, 4, 5, 0, 1]
    np.testing.assert_allclose(matrix.max(axis=1), 1.0)


def test_hierarchical_matrix_spreads_over_the_siblings():
    matrix = corruption.noise_matrix("hierarchical", 0.4, 6, coarse_labels=COARSE)
    np.testing.assert_allclose(matrix[0], [0.6, 0.0, 0.2, 0.0, 0.2, 0.0])
    np.testing.assert_allclose(matrix[3], [0.0, 0.2, 0.0, 0.6, 0.0, 0.2])


def test_pairflip_matrix_goes_to_the_next_class():
    np.testing.assert_allclose(
        corruption.noise_matrix("pairflip", 0.25, 3),
        [[0.75, 0.25, 0], [0, 0.75, 0.25], [0.25, 0, 0.75]],
    )


@pytest.mark.parametrize(("noise_type", "parts"), [("flip", [0.4]), ("flip2", [0.2, 0.2])])
def test_flip_matrices_have_one_or_two_other_classes_per_row(noise_type, parts):
    for seed in range(20):
        matrix = corruption.noise_matrix(noise_type, 0.4, 7, seed=seed)
        np.testing.assert_allclose(np.diag(matrix), 0.6)
        for row in matrix - np.diag(np.diag(matrix)):
            np.testing.assert_allclose(row[row > 0], parts)


@pytest.mark.parametrize(("noise_type", "num_classes"), [("flip", 4), ("flip2", 4), ("flip2", 3)])
def test_flip_targets_are_uniform_over_the_other_classes(noise_type, num_classes):
    num_seeds = 3000
    mean = np.mean(
        [corruption.noise_matrix(noise_type, 1.0, num_classes, seed=seed) for seed in range(num_seeds)],
        axis=0,
    )
    expected = (1 - np.eye(num_classes)) / (num_classes - 1)
    np.testing.assert_allclose(mean, expected, atol=0.035)  # 4 standard errors of a proportion of a third


def test_none_changes_nothing_at_any_rate():
    np.testing.assert_array_equal(corruption.noise_matrix("none", 0.7, 4), np.eye(4))


@pytest.mark.parametrize("noise_type", ALL_TYPES)
@pytest.mark.parametrize("noise_rate", [0.0, 0.35, 1.0])
def test_every_matrix_is_a_distribution_per_row(noise_type, noise_rate):
    matrix = corruption.noise_matrix(noise_type, noise_rate, **settings(noise_type))
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0)
    assert matrix.min() >= 0.0


@pytest.mark.parametrize("noise_type", ALL_TYPES)
def test_rate_zero_keeps_every_label(noise_type):
    labels, noisy = corrupt(noise_type, 0.0, 500)
    np.testing.assert_array_equal(noisy, labels)


@pytest.mark.parametrize("noise_type", ["symmetric_excluded", "flip", "flip2", "hierarchical", "pairflip"])
def test_rate_one_changes_every_label_where_the_true_class_is_excluded(noise_type):
    labels, noisy = corrupt(noise_type, 1.0, 3000)
    assert (noisy != labels).all()


@pytest.mark.parametrize("noise_type", ALL_TYPES)
def test_labels_follow_their_row_of_the_matrix(noise_type):
    labels, noisy = corrupt(noise_type, 0.4, 20_000)
    matrix = corruption.noise_matrix(noise_type, 0.4, seed=0, **settings(noise_type))
    counts = np.zeros_like(matrix)
    np.add.at(counts, (labels, noisy), 1)
    totals = counts.sum(axis=1, keepdims=True)
    standard_errors = np.sqrt(matrix * (1 - matrix) / totals)
    assert (np.abs(counts / totals - matrix) <= 4.0 * standard_errors + 1e-12).all()
    assert noisy.dtype == np.int32


def test_symmetric_noise_makes_nine_tenths_of_the_rate_wrong_with_ten_classes():
    labels, noisy = corrupt("symmetric", 0.4, 20_000, num_classes=10, coarse_labels=None)
    assert corruption.measured_noise_rate(noisy, labels) == pytest.approx(0.36, abs=0.0136)  # 4 standard errors


def test_noise_belongs_to_ids_not_to_positions():
    labels, noisy = corrupt("symmetric", 0.5, 200)
    order = np.random.default_rng(1).permutation(200)
    ids = np.array([f"train_{row:05d}" for row in range(200)])
    again = corruption.corrupt(
        labels[order],
        ids[order],
        noise_type="symmetric",
        noise_rate=0.5,
        seed=0,
        **settings("symmetric"),
    )
    np.testing.assert_array_equal(again, noisy[order])


def test_more_noise_keeps_what_less_noise_made_wrong():
    labels, little = corrupt("symmetric", 0.2, 2000)
    _, much = corrupt("symmetric", 0.6, 2000)
    wrong = little != labels
    assert wrong.sum() > 200
    np.testing.assert_array_equal(much[wrong], little[wrong])


def test_another_seed_gives_other_noise():
    _, one = corrupt("symmetric", 0.5, 200, seed=0)
    _, two = corrupt("symmetric", 0.5, 200, seed=1)
    assert (one != two).any()


@pytest.mark.parametrize("noise_type", ALL_TYPES)
def test_labels_are_the_same_on_every_platform(noise_type):
    _, noisy = corrupt(noise_type, 0.5, len(IDS), seed=3)
    assert label_files.labels_hash(IDS, noisy) == GOLDEN_HASHES[noise_type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise_type": "uniform"}, "'uniform'; choose one of symmetric, "),
        ({"noise_rate": 40}, r"in \[0, 1\]. Did you mean 0.4 \(40 %\)"),
        ({"noise_rate": -0.1}, "noise_rate is -0.1"),
        ({"noise_rate": float("nan")}, "noise_rate is nan"),
        (
            {"noise_type": "asymmetric", "dataset_name": "digits"},
            "'digits'.*defined for cifar10 and for cifar100",
        ),
        ({"noise_type": "asymmetric", "dataset_name": "cifar100"}, "no superclasses"),
        ({"noise_type": "hierarchical"}, "needs a dataset with superclasses"),
        ({"noise_type": "hierarchical", "coarse_labels": (0, 0, 1)}, "Class 2 is alone"),
        ({"coarse_labels": (0, 1)}, "coarse_labels has 2 entries for 3 classes"),
        ({"num_classes": 1}, "at least 2 classes"),
        ({"noise_type": "flip2", "num_classes": 2}, "at least 3 classes"),
    ],
)
def test_impossible_noise_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        corruption.noise_matrix(**({"noise_type": "symmetric", "noise_rate": 0.4, "num_classes": 3} | arguments))


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0, 1, 3], "Labels are 0 to 3"), ([0, -1, 1], "Labels are -1"), ([0], "1 labels .* 3 ids")],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(InputError, match=message):
        corruption.corrupt(
            np.array(labels),
            np.array(["a", "b", "c"]),
            noise_type="none",
            noise_rate=0.0,
            num_classes=3,
            seed=0,
        )


def test_measured_noise_rate_counts_differences():
    assert corruption.measured_noise_rate(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2])) == 0.25
    with pytest.raises(InputError, match="need equal, not empty"):
        corruption.measured_noise_rate(np.array([0]), np.array([0, 1]))
