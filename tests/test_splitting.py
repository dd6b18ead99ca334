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


def make_dataset(class_counts=(10, 10, 10), train=None, **parts):
    return Dataset(
        name="insects",
        train=make_table(class_counts) if train is None else train,
        test=make_table((2, 2, 2), prefix="test"),
        class_names=NAMES,
        preprocessing=Preprocessing(mean=(0.5,), std=(0.5,)),
        **parts,
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
    with pytest.raises(
        InputError, match="true labels of this dataset are unknown .*--meta_set=given.*--method=ce --num_meta=0"
    ):
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


def clean_table(class_counts=(4, 4, 4)):
    return make_table(class_counts, prefix="clean", true_labels_known=False)


def test_a_clean_meta_set_leaves_the_training_set_whole_and_may_use_up_the_clean_examples():
    dataset = make_dataset(meta=clean_table((2, 3, 2)))
    splits = splitting.split(dataset, num_meta=6, meta_set="clean", corrupt=to_class_zero)
    assert len(splits.train) == 30
    assert {example_id[:5] for example_id in splits.meta.ids} == {"clean"}
    assert splits.meta.given_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert splits.meta.true_labels.tolist() == [0, 0, 1, 1, 2, 2]
    # Rows 2, 3 and 4 are class 1: the draw takes the two with the smallest numbers.
    draws = splitting.uniform_draws([f"clean_{row:05d}" for row in (2, 3, 4)], seed=0, purpose="meta", num_draws=1)
    left_out = 2 + int(draws[:, 0].argmax())
    assert sorted(splits.meta.images[:, 0, 0, 0].tolist()) == sorted({0, 1, 2, 3, 4, 5, 6} - {left_out})


def test_clean_examples_with_true_labels_are_labelled_by_them():
    clean = make_table((2, 2, 2), prefix="clean")
    clean = clean.with_given_labels((clean.true_labels + 1) % 3)
    splits = splitting.split(make_dataset(meta=clean), num_meta=6, meta_set="clean")
    assert splits.meta.given_labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_clean_examples_are_not_used_where_the_meta_set_comes_from_training():
    splits = splitting.split(make_dataset(meta=clean_table()), num_meta=6)
    assert {example_id[:5] for example_id in splits.meta.ids} == {"train"}
    assert splits.notes == ()


def test_where_the_truth_is_unknown_the_clean_examples_are_the_meta_set_and_a_note_says_so():
    noisy = make_table((10, 10, 10), true_labels_known=False)
    splits = splitting.split(make_dataset(train=noisy, meta=clean_table(), notes=("Hello.",)), num_meta=3)
    assert {example_id[:5] for example_id in splits.meta.ids} == {"clean"}
    assert len(splits.train) == 30
    assert splits.notes == (
        "Hello.",
        "The meta set of 3 is drawn from the clean examples that come with the dataset.",
    )


@pytest.mark.parametrize(
    ("clean", "num_meta", "message"),
    [
        (None, 3, "--meta_set=clean takes .* clean examples, and insects comes with none; give --meta_set=train"),
        # Classes of 4, 2 and 4: two of each, and one more of the first, are seven.
        ((4, 2, 4), 8, "A meta set of 8 takes 3 examples of class 'bee', .* has 2 clean ones; ask for at most 7, or"),
        ((4, 4, 0), 3, "takes 1 examples of class 'cat', .* has 0 clean ones; ask for at most 2, or add clean"),
    ],
)
def test_a_clean_set_that_cannot_give_a_balanced_meta_set_is_refused(clean, num_meta, message):
    dataset = make_dataset(meta=None if clean is None else clean_table(clean))
    with pytest.raises(InputError, match=message):
        splitting.split(dataset, num_meta=num_meta, meta_set="clean")


def test_the_largest_number_that_the_message_names_is_possible():
    assert len(splitting.split(make_dataset(meta=clean_table((4, 2, 4))), num_meta=7, meta_set="clean").meta) == 7


def test_the_authors_validation_set_is_used_as_it_is_and_never_gets_noise():
    validation = make_table((3, 3, 3), prefix="validation")
    splits = splitting.split(make_dataset(validation=validation), corrupt=to_class_zero)
    assert splits.validation is validation
    assert set(splits.train.given_labels) == {0}


def test_a_number_takes_the_validation_set_out_of_training_instead_and_a_note_says_so():
    dataset = make_dataset(validation=make_table((3, 3, 3), prefix="validation"))
    splits = splitting.split(dataset, num_validation=6, corrupt=to_class_zero)
    assert {example_id[:5] for example_id in splits.validation.ids} == {"train"}
    assert len(splits.train) == 24
    assert set(splits.validation.given_labels) == {0}
    assert splits.notes == (
        "--num_validation=6 is taken out of the training set; the 9 validation examples that come with the dataset are"
        " not used (0 would use them).",
    )


def test_further_tests_are_passed_on():
    more = {"elsewhere": make_table((1, 1, 1), prefix="elsewhere")}
    assert splitting.split(make_dataset(more_tests=more)).more_tests is more


def test_noise_is_added_to_given_labels_where_the_truth_is_unknown():
    noisy = make_table((10, 10, 10), true_labels_known=False)
    splits = splitting.split(make_dataset(train=noisy), corrupt=to_class_zero)
    assert set(splits.train.given_labels) == {0}
    assert splits.train.true_labels is None


def test_a_long_tail_is_cut_after_the_meta_set_and_before_the_validation_set():
    # 12 of each; the meta set leaves 10, and 10 (1/4)^(i/2) = 10, 5, 2.5.
    splits = splitting.split(make_dataset((12, 12, 12)), num_meta=6, num_validation=4, imbalance_factor=4.0)
    in_all = np.concatenate([splits.train.given_labels, splits.validation.given_labels])
    assert np.bincount(in_all).tolist() == [10, 5, 2]
    # 4/17 of 10, 5 and 2 are 2.35, 1.18 and 0.47: the last has the largest remainder.
    assert np.bincount(splits.validation.given_labels).tolist() == [2, 1, 1]
    assert set(splits.meta.ids).isdisjoint(splits.train.ids)


def test_a_shorter_tail_holds_a_longer_one():
    few = splitting.split(make_dataset((12, 12, 12)), imbalance_factor=6.0, seed=3).train.ids
    more = splitting.split(make_dataset((12, 12, 12)), imbalance_factor=2.0, seed=3).train.ids
    other = splitting.split(make_dataset((12, 12, 12)), imbalance_factor=2.0, seed=4).train.ids
    assert set(few) < set(more)
    assert set(more) != set(other)


def test_a_class_smaller_than_its_place_in_the_tail_keeps_all_it_has():
    # The largest class has 16: 16, 8 and 4.
    splits = splitting.split(make_dataset((5, 16, 9)), imbalance_factor=4.0)
    assert np.bincount(splits.train.given_labels).tolist() == [5, 8, 4]


@pytest.mark.parametrize(("num_meta", "total"), [(0, 12_406), (100, 12_380)])
def test_cifar10s_long_tail_has_the_published_size_on_either_base(num_meta, total):
    labels = np.arange(50_000, dtype=np.int32) % 10
    train = ExampleTable(
        ids=np.char.add("train_", np.char.zfill(np.arange(50_000).astype(np.str_), 5)),
        images=np.zeros((50_000, 1, 1, 1), np.uint8),
        given_labels=labels,
        true_labels=labels,
    )
    preprocessing = Preprocessing(mean=(0.5,), std=(0.5,))
    names = tuple("abcdefghij")
    dataset = Dataset(name="c", train=train, test=train.take([0]), class_names=names, preprocessing=preprocessing)
    splits = splitting.split(dataset, num_meta=num_meta, imbalance_factor=100.0)
    assert len(splits.train) == total
    assert np.bincount(splits.train.given_labels)[[0, 9]].tolist() == ([5000, 50] if num_meta == 0 else [4990, 49])


def test_the_largest_balanced_total_uses_up_the_smallest_class():
    assert splitting.largest_balanced_total([10, 12, 9]) == 10 + 10 + 9
    assert splitting.balanced_quotas(29, 3).tolist() == [10, 10, 9]
    assert splitting.largest_balanced_total([3, 5, 3]) == 9
    assert splitting.largest_balanced_total([2, 0]) == 1


def test_clean_examples_that_are_in_the_training_set_too_leave_it_when_drawn():
    table = make_table((10, 10, 10), true_labels_known=False)
    dataset = make_dataset(train=table, meta=table.take([0, 1, 2, 10, 11, 20, 21]))
    splits = splitting.split(dataset, num_meta=3, meta_set="clean")
    assert len(splits.train) == 27
    assert set(splits.meta.ids).isdisjoint(splits.train.ids)
    assert set(splits.meta.ids) | set(splits.train.ids) == set(table.ids)


def test_a_meta_set_of_given_labels_keeps_their_mistakes_and_gets_the_noise():
    table = make_table((10, 10, 10))
    table = table.with_given_labels((table.true_labels + 1) % 3)
    splits = splitting.split(make_dataset(train=table), num_meta=6, meta_set="given")
    assert np.bincount(splits.meta.given_labels).tolist() == [2, 2, 2]
    np.testing.assert_array_equal(splits.meta.given_labels, (splits.meta.true_labels + 1) % 3)
    assert len(splits.train) == 24
    noisy = splitting.split(make_dataset(train=table), num_meta=6, meta_set="given", corrupt=to_class_zero)
    assert noisy.meta.ids.tolist() == splits.meta.ids.tolist()
    assert set(noisy.meta.given_labels) == {0}


def test_a_meta_set_of_given_labels_needs_no_truth():
    table = make_table((10, 10, 10), true_labels_known=False)
    assert len(splitting.split(make_dataset(train=table, meta=clean_table()), num_meta=6, meta_set="given").train) == 24
