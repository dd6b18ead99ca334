"""Tests of famus_tf.data.splitting."""

import numpy as np
import pytest

from famus_tf.data import splitting
from famus_tf.data.examples import Dataset, ExampleTable, Preprocessing
from famus_tf.errors import InputError

NAMES = ("ant", "bee", "cat")

# Recorded once; other values mean that old runs can no longer be repeated.
GOLDEN_META = ["train_00009", "train_00015", "train_00029"]
GOLDEN_VALIDATION = ["train_00003", "train_00018", "train_00027"]


def make_table(class_counts, prefix="train", true_labels_known=True):
    labels = np.repeat(np.arange(len(class_counts), dtype=np.int32), class_counts)
    num_examples = len(labels)
    return ExampleTable(
        ids=np.array([f"{prefix}_{row:05d}" for row in range(num_examples)]),
        images=np.arange(num_examples, dtype=np.uint8).reshape(-1, 1, 1, 1),
        given_labels=labels,
        true_labels=labels.copy() if true_labels_known else None,
    )


def make_dataset(class_counts=(10, 10, 10), train=None):
    return Dataset(
        name="insects",
        train=make_table(class_counts) if train is None else train,
        test=make_table((2, 2, 2), prefix="test"),
        class_names=NAMES,
        preprocessing=Preprocessing(mean=(0.5,), std=(0.5,)),
    )


def to_class_zero(labels, ids):
    assert len(labels) == len(ids)
    return np.zeros_like(labels)


def test_balanced_quotas_give_the_rest_to_the_first_classes():
    assert splitting.balanced_quotas(6, 3).tolist() == [2, 2, 2]
    assert splitting.balanced_quotas(8, 3).tolist() == [3, 3, 2]
    assert splitting.balanced_quotas(2, 3).tolist() == [1, 1, 0]


def test_proportional_quotas_follow_the_largest_remainder():
    assert splitting.proportional_quotas(10, [50, 30, 20]).tolist() == [5, 3, 2]
    # 7/100 of 50, 30, 20 = 3.5, 2.1, 1.4: floors 3, 2, 1 and the largest remainder is the first.
    assert splitting.proportional_quotas(7, [50, 30, 20]).tolist() == [4, 2, 1]
    # 4/3 each: equal remainders, the first class gets the spare one.
    assert splitting.proportional_quotas(4, [9, 9, 9]).tolist() == [2, 1, 1]


def test_draw_rows_takes_the_smallest_hashes_of_each_class():
    ids, labels = np.array(["a", "b", "c", "d"]), np.array([0, 0, 1, 1], np.int32)
    rows = splitting.draw_rows(ids, labels, [1, 1], seed=3, purpose="x")
    draws = splitting.uniform_draws(ids, seed=3, purpose="x", num_draws=1)[:, 0]
    assert rows.tolist() == [int(draws[:2].argmin()), 2 + int(draws[2:].argmin())]


def test_the_parts_are_disjoint_and_cover_the_training_set():
    splits = splitting.split(make_dataset(), num_meta=6, num_validation=9, seed=0)
    parts = [splits.meta.ids, splits.validation.ids, splits.train.ids]
    assert [len(part) for part in parts] == [6, 9, 15]
    assert sorted(np.concatenate(parts)) == make_dataset().train.ids.tolist()


def test_meta_is_balanced_and_validation_proportional():
    splits = splitting.split(make_dataset((22, 12, 7)), num_meta=5, num_validation=6, seed=0)
    assert np.bincount(splits.meta.true_labels).tolist() == [2, 2, 1]
    # 20, 10, 6 are left; a sixth of each is 3.33, 1.67, 1.
    assert np.bincount(splits.validation.true_labels).tolist() == [3, 2, 1]


def test_images_and_labels_stay_with_their_ids():
    splits = splitting.split(make_dataset(), num_meta=6, num_validation=9, seed=0)
    for table in (splits.meta, splits.validation, splits.train):
        rows = [int(example_id[-5:]) for example_id in table.ids]
        assert table.images[:, 0, 0, 0].tolist() == rows
        assert table.true_labels.tolist() == [row // 10 for row in rows]


def test_noise_reaches_train_and_validation_but_not_meta_or_test():
    dataset = make_dataset()
    splits = splitting.split(dataset, num_meta=6, num_validation=9, seed=0, corrupt=to_class_zero)
    assert set(splits.train.given_labels) == {0}
    assert set(splits.validation.given_labels) == {0}
    assert np.bincount(splits.train.true_labels).tolist() == [5, 5, 5]
    assert splits.meta.given_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert splits.test is dataset.test


def test_meta_carries_true_labels_where_the_given_ones_are_wrong():
    table = make_table((10, 10, 10))
    table = table.with_given_labels((table.true_labels + 1) % 3)
    splits = splitting.split(make_dataset(train=table), num_meta=6, seed=0)
    np.testing.assert_array_equal(splits.meta.given_labels, splits.meta.true_labels)
    np.testing.assert_array_equal(splits.train.given_labels, (splits.train.true_labels + 1) % 3)


def test_reading_order_does_not_matter():
    table = make_table((10, 10, 10))
    shuffled = table.take(np.random.default_rng(0).permutation(30))
    one = splitting.split(make_dataset(train=table), num_meta=6, num_validation=9, seed=4)
    two = splitting.split(make_dataset(train=shuffled), num_meta=6, num_validation=9, seed=4)
    for name in ("train", "meta", "validation"):
        for column in ("ids", "images", "given_labels", "true_labels"):
            np.testing.assert_array_equal(getattr(getattr(one, name), column), getattr(getattr(two, name), column))


def test_the_choice_is_the_same_on_every_platform():
    splits = splitting.split(make_dataset(), num_meta=3, num_validation=3, seed=7)
    assert splits.meta.ids.tolist() == GOLDEN_META
    assert splits.validation.ids.tolist() == GOLDEN_VALIDATION


def test_another_seed_gives_another_meta_set():
    one = splitting.split(make_dataset(), num_meta=6, seed=0).meta.ids
    two = splitting.split(make_dataset(), num_meta=6, seed=1).meta.ids
    assert set(one) != set(two)


def test_without_meta_and_validation_everything_trains():
    splits = splitting.split(make_dataset(), num_meta=0, num_validation=0)
    assert splits.meta is None and splits.validation is None
    assert len(splits.train) == 30


def test_validation_is_stratified_by_given_labels_when_the_true_ones_are_unknown():
    table = make_table((10, 10, 10), true_labels_known=False)
    splits = splitting.split(make_dataset(train=table), num_validation=6)
    assert splits.validation.true_labels is None
    assert np.bincount(splits.validation.given_labels).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("class_counts", "arguments", "message"),
    [
        ((10, 10, 10), {"num_meta": -1}, "num_meta is -1"),
        ((10, 10, 10), {"num_validation": -5}, "num_validation is -5"),
        ((10, 0, 10), {}, "Class 'bee' has no example in the training set as distributed"),
        ((10, 3, 10), {"num_meta": 9}, "takes 3 examples of class 'bee', which has 3"),
        (
            (10, 10, 10),
            {"num_meta": 6, "num_validation": 24},
            "validation set of 24 .* but 24 training",
        ),
        ((20, 8, 1), {"num_validation": 27}, "Class 'cat' has no example left for training after"),
    ],
)
def test_impossible_splits_are_refused(class_counts, arguments, message):
    with pytest.raises(InputError, match=message):
        splitting.split(make_dataset(class_counts), **arguments)


def test_a_clean_meta_set_needs_true_labels():
    table = make_table((10, 10, 10), true_labels_known=False)
    with pytest.raises(InputError, match="true labels of this dataset are unknown"):
        splitting.split(make_dataset(train=table), num_meta=3)


def test_a_training_set_can_be_cut_down_in_proportion_without_touching_the_other_parts():
    whole = splitting.split(make_dataset((20, 10, 10)), num_meta=3, num_validation=4, seed=5)
    cut = splitting.split(make_dataset((20, 10, 10)), num_meta=3, num_validation=4, num_train=8, seed=5)
    assert np.bincount(cut.train.given_labels).tolist() == [4, 2, 2]
    assert set(cut.train.ids) < set(whole.train.ids)
    assert cut.meta.ids.tolist() == whole.meta.ids.tolist()
    assert cut.validation.ids.tolist() == whole.validation.ids.tolist()
    with pytest.raises(InputError, match="--num_train=34 examples were asked for, but 33 are left"):
        splitting.split(make_dataset((20, 10, 10)), num_meta=3, num_validation=4, num_train=34)
