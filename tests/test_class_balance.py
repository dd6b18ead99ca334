"""Tests of famus_tf.data.class_balance."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from famus_tf.data.class_balance import balanced_order

# Very uneven, in mixed order; class 2 has no example, class 5 has one.
CLASS_SIZES = {0: 40, 1: 3, 3: 17, 4: 8, 5: 1, 6: 30}
LABELS = np.random.default_rng(0).permutation(np.repeat(list(CLASS_SIZES), list(CLASS_SIZES.values()))).astype(np.int32)
NUM_PRESENT = len(CLASS_SIZES)

# Recorded once; other values mean that old runs can no longer be resumed or repeated.
GOLDEN_ROWS = [[69, 22, 13, 37, 9, 58, 9, 25], [7, 1, 71, 38, 61, 89, 9, 84]]


def batches(batch_size, num_steps, *, labels=LABELS, seed=0, start=0):
    rows = tf.data.Dataset.range(start, start + num_steps).map(balanced_order(labels, batch_size=batch_size, seed=seed))
    return np.stack(list(rows.as_numpy_iterator()))


def counts(rows, labels=LABELS):
    """Examples of each class in each batch, [steps, 7]."""
    return np.stack([np.bincount(labels[batch], minlength=7) for batch in rows])


@pytest.mark.parametrize("batch_size", [1, 4, 6, 8, 9, 27])
def test_no_class_has_two_more_than_another_in_any_batch(batch_size):
    per_batch = counts(batches(batch_size, 60))
    assert per_batch[:, 2].tolist() == [0] * 60
    present = per_batch[:, list(CLASS_SIZES)]
    assert present.min() == batch_size // NUM_PRESENT
    assert present.max() == math.ceil(batch_size / NUM_PRESENT)
    assert (present.sum(axis=1) == batch_size).all()


@pytest.mark.parametrize(("batch_size", "num_batches"), [(1, 6), (4, 3), (6, 1), (8, 3), (9, 2), (11, 6)])
def test_over_a_cycle_all_classes_come_equally_often(batch_size, num_batches):
    per_cycle = counts(batches(batch_size, 10 * num_batches)).reshape(10, num_batches, 7).sum(axis=1)
    assert (per_cycle[:, list(CLASS_SIZES)] == num_batches * batch_size // NUM_PRESENT).all()


@pytest.mark.parametrize("batch_size", [1, 4, 8, 27])
def test_a_class_shows_all_its_examples_before_one_comes_again(batch_size):
    # Within a batch the order is mixed, so passes are compared as far as whole batches allow: by counts.
    rows = batches(batch_size, 200)
    for label, size in CLASS_SIZES.items():
        own = np.flatnonzero(label == LABELS)
        seen = np.zeros(len(LABELS), int)
        for batch in rows:
            np.add.at(seen, batch, 1)
            assert np.ptp(seen[own]) <= 1, f"class {label} of {size}"
        assert seen[own].min() >= 1 or size > 30


def test_passes_through_a_class_differ_in_order():
    rows = batches(NUM_PRESENT, 40 * 8).ravel()
    passes = rows[LABELS[rows] == 4].reshape(40, 8)
    assert len({tuple(one) for one in passes.tolist()}) == 40


def test_every_example_comes_equally_often_at_every_place_of_a_pass():
    rows = batches(1, 4000, labels=np.zeros(8, np.int32)).reshape(500, 8)
    cells = np.stack([np.bincount(column, minlength=8) for column in rows.T])
    assert ((cells - 62.5) ** 2 / 62.5).sum() < 85.4  # chi-squared, 49 degrees of freedom, p = 0.001


def test_the_order_of_classes_is_another_in_every_cycle_and_mixed_in_every_batch():
    labels = np.arange(6).repeat(5)
    single = labels[batches(1, 600, labels=labels).ravel()].reshape(100, 6)
    assert len({tuple(cycle) for cycle in single.tolist()}) > 80  # of 720 orders: 93.4 expected
    whole = labels[batches(6, 100, labels=labels)]
    assert len({tuple(batch) for batch in whole.tolist()}) > 80
    # Neighbouring batches of two must not always show the same pairs of classes.
    pairs = {tuple(sorted(pair)) for pair in labels[batches(2, 300, labels=labels)].tolist()}
    assert pairs == set(itertools.combinations(range(6), 2))


@pytest.mark.parametrize("batch_size", [4, 27])
def test_starting_late_equals_the_tail(batch_size):
    np.testing.assert_array_equal(batches(batch_size, 10, start=37), batches(batch_size, 47)[37:])


def test_a_far_step_is_reached_without_counting_up_to_it():
    far = 10**15
    rows = batches(12, 2, start=far)
    assert (counts(rows)[:, list(CLASS_SIZES)] == 2).all()
    assert len(set(rows[LABELS[rows] == 0].tolist())) == 4


def test_seeds_give_other_orders():
    one, two = batches(12, 3), batches(12, 3, seed=1)
    assert (one != two).any()
    np.testing.assert_array_equal(counts(one), counts(two))


def test_the_first_batches_are_known():
    assert batches(8, 2).tolist() == GOLDEN_ROWS


def test_a_million_examples_of_a_thousand_classes_are_no_matter():
    labels = (np.arange(1_000_000) % 1000).astype(np.int32)
    rows = batches(64, 3, labels=labels, start=12345)
    assert all(len(set(labels[batch].tolist())) == 64 for batch in rows)
