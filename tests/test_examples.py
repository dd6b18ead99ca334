"""Tests of famus_tf.data.examples."""

import numpy as np
import pytest

from famus_tf.data.examples import Dataset, ExampleTable, Preprocessing, Splits, uniform_draws
from famus_tf.data.pictures import PictureFiles
from famus_tf.errors import InputError

GREY = Preprocessing(mean=(0.5,), std=(0.25,))

# blake2b(b"meta\n1\ntrain_00000", digest_size=16) read as two little-endian 64-bit words; (word >>
# 11) / 2**53.
GOLDEN_DRAWS = [
    [0.38359665086482886, 0.17145061973691023],
    [0.40083284337092506, 0.654577888556879],
]


def make_table(num_examples=4, *, labels=None, prefix="train", shape=(2, 3, 1), **changes):
    labels = np.arange(num_examples, dtype=np.int32) if labels is None else np.array(labels, dtype=np.int32)
    fields = {
        "ids": np.array([f"{prefix}_{row:05d}" for row in range(num_examples)]),
        "images": np.arange(num_examples * np.prod(shape)).reshape(num_examples, *shape).astype(np.uint8),
        "given_labels": labels,
        "true_labels": labels.copy(),
    }
    return ExampleTable(**(fields | changes))


def test_take_picks_rows_of_every_column_in_the_order_asked():
    taken = make_table().take([2, 0])
    assert taken.ids.tolist() == ["train_00002", "train_00000"]
    assert taken.images[:, 0, 0, 0].tolist() == [12, 0]
    assert taken.given_labels.tolist() == [2, 0]
    assert taken.true_labels.tolist() == [2, 0]
    assert len(taken) == 2


def test_take_keeps_unknown_true_labels_unknown_and_may_be_empty():
    table = make_table(true_labels=None)
    assert table.take([1]).true_labels is None
    assert len(table.take([])) == 0


def test_with_given_labels_keeps_the_true_ones_and_the_original():
    table = make_table()
    noisy = table.with_given_labels(np.array([3, 3, 3, 3], dtype=np.int32))
    assert noisy.given_labels.tolist() == [3, 3, 3, 3]
    assert noisy.true_labels.tolist() == [0, 1, 2, 3]
    assert table.given_labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"ids": np.array([1, 2, 3, 4])},
            "unicode strings .* got int64",
        ),
        ({"ids": ["a", "b", "c", "d"]}, "got list"),
        ({"ids": np.array(["a", "b", "a", "c"])}, "'a' occurs 2 times"),
        ({"ids": np.array(["c", "a", "b", "b"])}, "'b' occurs 2 times"),
        ({"ids": np.array([b"b", b"b", b"a", b"b"])}, "'b' occurs 3 times"),
        ({"ids": np.array([b"a", b"a", b"b", b"c"])}, "'a' occurs 2 times"),
        ({"images": np.zeros((4, 2, 3, 1), np.float64)}, "images must be .* got float64"),
        ({"images": np.zeros((4, 2, 3), np.uint8)}, "images must be .* got uint8 \\[4, 2, 3\\]"),
        ({"images": np.zeros((3, 2, 3, 1), np.uint8)}, "images has 3 rows and ids has 4"),
        ({"given_labels": np.zeros(4, np.int64)}, "given_labels must be .* got int64"),
        ({"given_labels": np.zeros(5, np.int32)}, "given_labels has 5 rows"),
        ({"given_labels": None}, "given_labels must be .* got NoneType"),
        ({"true_labels": np.array([0, 1, -1, 0], np.int32)}, "true_labels holds -1"),
    ],
)
def test_a_malformed_table_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        make_table(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": (0.5, 0.5)}, "one number per channel"),
        ({"mean": (), "std": ()}, "one number per channel"),
        ({"std": (0.0,)}, "above 0"),
        ({"padding": -1}, "padding is -1"),
        ({"padding_mode": "edge"}, "'edge'; choose one of reflect, zero"),
        ({"shorter_side": -1}, "shorter_side is -1"),
        ({"shorter_side": 8, "padding": 1}, "shorter_side is 8 and padding 1 pixels: an image is cut once"),
        ({"crop": "left"}, "'left'; choose one of random, center"),
    ],
)
def test_malformed_preprocessing_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        Preprocessing(**({"mean": (0.5,), "std": (0.5,)} | changes))


def make_dataset(**changes):
    fields = {
        "name": "four",
        "train": make_table(),
        "test": make_table(2, prefix="test"),
        "class_names": ("a", "b", "c", "d"),
        "preprocessing": GREY,
    }
    return Dataset(**(fields | changes))


def test_a_well_formed_dataset_is_accepted():
    assert make_dataset(coarse_labels=(0, 0, 1, 1)).coarse_labels == (0, 0, 1, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ("a", "b", "c")}, "train holds the label 3, but 3 classes"),
        ({"test": make_table(2, shape=(3, 3, 1))}, "test images have shape"),
        (
            {"preprocessing": Preprocessing((0.5,) * 3, (0.5,) * 3)},
            "1 channels, mean and std have 3",
        ),
        ({"coarse_labels": (0, 1)}, "2 coarse labels for 4 classes"),
        ({"validation": make_table(1, labels=[4])}, "validation holds the label 4"),
        ({"meta": make_table(1, shape=(3, 3, 1))}, "meta images have shape"),
        ({"more_tests": {"train": make_table(1, labels=[9])}}, r"more_tests\['train'\] holds the label 9"),
        (
            {"preprocessing": Preprocessing((0.5,), (0.5,), shorter_side=2)},
            "shorter_side is 2 pixels, but 2 x 3 are to be cut",
        ),
    ],
)
def test_a_dataset_whose_parts_do_not_fit_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        make_dataset(**changes)


def test_splits_know_their_number_of_classes_and_image_shape():
    splits = Splits(make_table(), make_table(2, prefix="test"), None, None, ("a", "b", "c", "d", "e"), GREY)
    assert splits.num_classes == 5
    assert splits.image_shape == (2, 3, 1)


def test_splits_refuse_a_meta_label_beyond_the_classes():
    meta = make_table(1, labels=[4], prefix="meta")
    with pytest.raises(InputError, match="meta holds the label 4"):
        Splits(make_table(), make_table(2, prefix="test"), meta, None, ("a", "b", "c", "d"), GREY)


def test_splits_refuse_a_further_test_set_that_does_not_fit():
    tests = {"other": make_table(1, labels=[4])}
    with pytest.raises(InputError, match=r"more_tests\['other'\] holds the label 4"):
        Splits(make_table(), make_table(2), None, None, ("a", "b", "c", "d"), GREY, tests)


def make_picture_table(num_examples=4):
    paths = np.array([b"%d.jpg" % row for row in range(num_examples)])
    labels = np.arange(num_examples, dtype=np.int32)
    return ExampleTable(ids=paths, images=PictureFiles("folder", paths, (2, 3)), given_labels=labels)


def test_pictures_on_disk_take_the_place_of_an_array():
    table = make_picture_table()
    dataset = make_dataset(train=table, test=table, preprocessing=Preprocessing((0.5,) * 3, (0.5,) * 3))
    splits = Splits(table, table, None, None, dataset.class_names, dataset.preprocessing)
    assert splits.image_shape == (2, 3, 3)
    assert dataset.more_tests == {} and dataset.meta is None
    with pytest.raises(InputError, match="images has 4 rows and ids has 2"):
        ExampleTable(ids=table.ids[:2], images=table.images, given_labels=table.given_labels[:2])


def test_picture_files_and_ids_stay_one_array():
    table = make_picture_table()
    taken = table.take([2, 0])
    assert taken.ids.tolist() == taken.images.paths.tolist() == [b"2.jpg", b"0.jpg"]
    assert taken.ids is taken.images.paths
    assert taken.with_given_labels(taken.given_labels[::-1]).images is taken.images


def test_ids_of_their_own_are_taken_beside_the_paths():
    table = make_picture_table()
    table = ExampleTable(ids=np.array(["a", "b", "c", "d"]), images=table.images, given_labels=table.given_labels)
    taken = table.take([3, 1])
    assert taken.ids.tolist() == ["d", "b"]
    assert taken.images.paths.tolist() == [b"3.jpg", b"1.jpg"]


def test_uniform_draws_are_the_same_on_every_platform():
    draws = uniform_draws(["train_00000", "train_00001"], seed=1, purpose="meta", num_draws=2)
    np.testing.assert_array_equal(draws, GOLDEN_DRAWS)


def test_bytes_draw_what_the_text_draws_that_they_encode():
    names = np.array(["train_00000", "ünïcode/ü.jpg", ""])
    one, two = (uniform_draws(ids, seed=1, purpose="x", num_draws=2) for ids in (names, np.char.encode(names, "utf-8")))
    np.testing.assert_array_equal(one, two)


def test_uniform_draws_belong_to_ids_seeds_and_purposes_not_to_positions():
    one = uniform_draws(["a", "b"], seed=1, purpose="x", num_draws=2)
    np.testing.assert_array_equal(one[::-1], uniform_draws(["b", "a"], seed=1, purpose="x", num_draws=2))
    assert not np.isin(one, uniform_draws(["a", "b"], seed=2, purpose="x", num_draws=2)).any()
    assert not np.isin(one, uniform_draws(["a", "b"], seed=1, purpose="y", num_draws=2)).any()


def test_uniform_draws_are_uniform_and_independent():
    draws = uniform_draws([str(row) for row in range(10_000)], seed=0, purpose="x", num_draws=2)
    assert draws.min() >= 0.0 and draws.max() < 1.0
    for column in draws.T:
        counts = np.histogram(column, bins=10, range=(0, 1))[0]
        assert ((counts - 1000) ** 2 / 1000).sum() < 27.9  # chi-squared, 9 degrees of freedom, p = 0.001
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.033  # 3.3 standard errors


def test_too_many_draws_are_refused():
    with pytest.raises(InputError, match="num_draws is 9"):
        uniform_draws(["a"], seed=0, purpose="x", num_draws=9)
