"""Tests of famus_tf.data.long_tail, against the class sizes that the field publishes."""

import numpy as np
import pytest

from famus_tf.data import long_tail
from famus_tf.errors import InputError

FACTORS = (200, 100, 50, 20, 10)
# Totals of LDAM's base (nothing taken out) and of MW-Net's (ten of each class in the meta set).
TOTALS = {
    (5000, 10): (11_203, 12_406, 13_996, 17_023, 20_431),
    (4990, 10): (11_177, 12_380, 13_967, 16_989, 20_391),
    (500, 100): (9_502, 10_847, 12_608, 15_907, 19_573),
    (490, 100): (9_304, 10_626, 12_354, 15_594, 19_183),
}


@pytest.mark.parametrize(
    ("base", "factor", "total"),
    [(base, factor, total) for base, row in TOTALS.items() for factor, total in zip(FACTORS, row, strict=True)],
)
def test_totals_are_the_published_ones(base, factor, total):
    counts = long_tail.class_counts(*base, factor)
    assert counts.sum() == total
    assert counts[0] == base[0]
    assert (np.diff(counts) <= 0).all()


def test_class_sizes_of_cifar10_at_factor_100():
    assert long_tail.class_counts(5000, 10, 100).tolist() == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert long_tail.class_counts(4990, 10, 100).tolist() == [4990, 2991, 1793, 1075, 644, 386, 231, 138, 83, 49]


def test_the_tails_of_the_other_factors():
    assert long_tail.class_counts(5000, 10, 50)[-2:].tolist() == [154, 100]
    assert long_tail.class_counts(5000, 10, 20)[-2:].tolist() == [348, 250]
    assert long_tail.class_counts(5000, 10, 10)[-2:].tolist() == [645, 500]
    assert long_tail.class_counts(490, 100, 100)[-1] == 4


def test_three_classes_by_hand():
    # 100 (1/4)^(i/2) = 100, 50, 25; 10 (1/4)^(i/2) = 10, 5, 2.5, truncated.
    assert long_tail.class_counts(100, 3, 4).tolist() == [100, 50, 25]
    assert long_tail.class_counts(10, 3, 4).tolist() == [10, 5, 2]


def test_factor_1_keeps_every_class_whole():
    assert long_tail.class_counts(7, 4, 1.0).tolist() == [7, 7, 7, 7]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((100, 1, 10), "at least 2 classes, got 1"),
        ((100, 10, 0.5), "--imbalance_factor is 0.5; it must be 1 or more"),
        ((100, 10, float("nan")), "--imbalance_factor is nan"),
        ((100, 10, float("inf")), "--imbalance_factor is inf"),
        (
            (50, 10, 100),
            "--imbalance_factor=100 leaves the smallest class without an example, because the largest has 50; give a"
            " factor of at most 50",
        ),
    ],
)
def test_impossible_tails_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        long_tail.class_counts(*arguments)
