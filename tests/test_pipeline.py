"""Tests of famus_tf.data.pipeline."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from famus_tf.data import augmentation, pipeline
from famus_tf.data.batch_shares import Share
from famus_tf.data.examples import ExampleTable, Preprocessing
from famus_tf.errors import InputError

PREPROCESSING = Preprocessing(mean=(0.5, 0.4), std=(0.25, 0.2), padding=1, padding_mode="reflect", flip=True)


def make_table(num_examples=23):
    generator = np.random.default_rng(0)
    return ExampleTable(
        ids=np.array([f"train_{row:05d}" for row in range(num_examples)]),
        images=generator.integers(0, 256, (num_examples, 4, 4, 2), dtype=np.uint8),
        given_labels=generator.integers(0, 7, num_examples, dtype=np.int32),
        true_labels=generator.integers(0, 7, num_examples, dtype=np.int32),
    )


TABLE = make_table()

# Recorded once; other values mean that old runs can no longer be resumed or repeated.
GOLDEN_ROWS = [[4, 8, 21, 2], [6, 9, 5, 11]]


def batches(table=TABLE, **changes):
    arguments = {
        "batch_size": 4,
        "steps_per_epoch": 5,
        "seed": 0,
        "preprocessing": PREPROCESSING,
        "augment": True,
        "num_steps": 10,
    }
    return list(pipeline.training_batches(table, **(arguments | changes)).as_numpy_iterator())


def rows_of(some_batches):
    return np.concatenate([batch["index"] for batch in some_batches])


def assert_equal_batches(one, two):
    assert len(one) == len(two)
    for left, right in zip(one, two, strict=True):
        assert left.keys() == right.keys()
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])


def test_batches_have_the_promised_shapes_and_types():
    dataset = pipeline.training_batches(
        TABLE, batch_size=4, steps_per_epoch=5, seed=0, preprocessing=PREPROCESSING, augment=True
    )
    assert dataset.element_spec == {
        "index": tf.TensorSpec([4], tf.int32),
        "image": tf.TensorSpec([4, 4, 4, 2], tf.float32),
        "label": tf.TensorSpec([4], tf.int32),
    }


def test_without_augmentation_a_batch_is_the_normalised_rows():
    for batch in batches(augment=False):
        expected = augmentation.normalize(tf.constant(TABLE.images[batch["index"]]), PREPROCESSING)
        np.testing.assert_array_equal(batch["image"], expected)
        np.testing.assert_array_equal(batch["label"], TABLE.given_labels[batch["index"]])


def test_without_preprocessing_images_come_as_they_are():
    prepared = dataclasses.replace(TABLE, images=TABLE.images.astype(np.float32) / 100)
    for table in (TABLE, prepared):
        for batch in batches(table, preprocessing=None):
            assert batch["image"].dtype == np.float32
            np.testing.assert_array_equal(batch["image"], table.images[batch["index"]].astype(np.float32))
        evaluated = np.concatenate([batch["image"] for batch in evaluate(table, preprocessing=None)])
        np.testing.assert_array_equal(evaluated[:23], table.images.astype(np.float32))


def test_augmented_images_are_crops_of_the_same_examples_in_the_same_order():
    plain, augmented = batches(augment=False), batches()
    np.testing.assert_array_equal(rows_of(plain), rows_of(augmented))
    places = [((top + 0.5) / 3, (left + 0.5) / 3, flip) for top in range(3) for left in range(3) for flip in (0.0, 0.9)]
    kinds_seen = set()
    for batch in augmented:
        source = tf.constant(TABLE.images[batch["index"]])
        possible = []
        for place in places:
            crops = augmentation.pad_crop_flip(source, tf.constant([place] * 4, tf.float32), PREPROCESSING)
            possible.append(augmentation.normalize(crops, PREPROCESSING).numpy())
        fits = (np.array(possible) == batch["image"]).all(axis=(2, 3, 4))  # [18 places, 4 images]
        assert fits.sum(axis=0).tolist() == [1, 1, 1, 1]
        kinds_seen.update(fits.argmax(axis=0).tolist())
    assert len(kinds_seen) > 8  # of 18; 40 images


def test_an_epoch_visits_no_example_twice():
    for num_examples in (20, 23):
        rows = rows_of(batches(make_table(num_examples), num_steps=15)).reshape(3, 20)
        for epoch in rows:
            assert len(set(epoch.tolist())) == 20
            assert epoch.min() >= 0 and epoch.max() < num_examples


def test_epochs_differ_in_order_and_in_what_they_leave_out():
    rows = rows_of(batches(num_steps=50)).reshape(10, 20)
    assert len({tuple(epoch) for epoch in rows.tolist()}) == 10
    left_out = {tuple(sorted(set(range(23)) - set(epoch))) for epoch in rows.tolist()}
    assert len(left_out) > 5


def test_epochs_have_more_orders_than_a_short_seed_would_allow():
    rows = rows_of(batches(make_table(8), batch_size=8, steps_per_epoch=1, num_steps=2000)).reshape(2000, 8)
    assert len({tuple(epoch) for epoch in rows.tolist()}) > 1800  # 8! = 40,320 orders: 1,951 expected


def test_every_example_comes_equally_often_at_every_place():
    rows = rows_of(batches(make_table(8), batch_size=8, steps_per_epoch=1, num_steps=4000)).reshape(4000, 8)
    counts = np.stack([np.bincount(column, minlength=8) for column in rows.T])
    assert ((counts - 500) ** 2 / 500).sum() < 85.4  # chi-squared, 49 degrees of freedom, p = 0.001


@pytest.mark.parametrize("start_step", [1, 5, 7])
def test_starting_late_equals_skipping_bit_for_bit(start_step):
    assert_equal_batches(batches(start_step=start_step), batches()[start_step:])


def test_a_far_step_is_reached_without_counting_up_to_it():
    far = 10**15  # any work per skipped step would never end
    (one,) = batches(start_step=far, num_steps=far + 1)
    (two,) = batches(start_step=far, num_steps=far + 1)
    assert_equal_batches([one], [two])
    assert len(set(one["index"].tolist())) == 4


def test_num_steps_is_where_the_batches_end():
    assert len(batches(start_step=3, num_steps=10)) == 7
    assert len(batches(start_step=10, num_steps=10)) == 0


def test_without_num_steps_there_is_no_end():
    dataset = pipeline.training_batches(
        TABLE, batch_size=4, steps_per_epoch=5, seed=0, preprocessing=PREPROCESSING, augment=True
    )
    some = list(dataset.take(200).as_numpy_iterator())
    assert len(some) == 200
    assert_equal_batches(some[:10], batches())


def test_seeds_and_streams_are_independent():
    rows = [rows_of(batches(**changes)).tolist() for changes in ({}, {"seed": 1}, {"stream": "meta"})]
    assert rows[0] != rows[1] and rows[0] != rows[2] and rows[1] != rows[2]
    assert rows[0] == rows_of(batches(stream="train")).tolist()


def test_augmentation_has_its_own_randomness_per_stream():
    table = dataclasses.replace(TABLE, images=np.broadcast_to(TABLE.images[:1], TABLE.images.shape).copy())
    train, meta = batches(table), batches(table, stream="meta")
    assert any((one["image"] != two["image"]).any() for one, two in zip(train, meta, strict=True))


def test_balanced_batches_hold_equally_many_of_each_given_label():
    assert len(set(TABLE.given_labels.tolist())) == 6  # of 7 classes
    for batch in batches(batch_size=9, steps_per_epoch=1000, class_balanced=True):
        counts = np.bincount(TABLE.given_labels[batch["index"]])
        assert sorted(counts[counts > 0].tolist()) == [1, 1, 1, 2, 2, 2]
        np.testing.assert_array_equal(batch["label"], TABLE.given_labels[batch["index"]])


def test_balanced_batches_do_not_depend_on_the_length_of_an_epoch_but_on_seed_and_stream():
    def rows(**changes):
        return rows_of(batches(**({"class_balanced": True, "augment": False} | changes))).tolist()

    assert rows() == rows(steps_per_epoch=1000)
    assert rows() != rows(seed=1) and rows() != rows(stream="meta") and rows() != rows(class_balanced=False)


def test_balanced_batches_start_late_bit_for_bit():
    assert_equal_batches(batches(class_balanced=True, start_step=7), batches(class_balanced=True)[7:])


def test_the_first_batches_are_known():
    some = batches(num_steps=2, augment=False)
    assert [batch["index"].tolist() for batch in some] == GOLDEN_ROWS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 24}, r"batch of 24 cannot be drawn from 23 examples \(train\)"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"steps_per_epoch": 6}, r"steps_per_epoch is 6; 23 examples .* make 1 to 5 steps"),
        ({"steps_per_epoch": 0}, "steps_per_epoch is 0"),
        ({"steps_per_epoch": 0, "class_balanced": True}, "steps_per_epoch is 0"),
        ({"start_step": -1}, "start_step is -1"),
        ({"start_step": 11}, "start_step is 11"),
    ],
)
def test_impossible_batches_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        batches(**changes)


def evaluate(table=TABLE, **changes):
    arguments = {"batch_size": 5, "preprocessing": PREPROCESSING}
    return list(pipeline.evaluation_batches(table, **(arguments | changes)).as_numpy_iterator())


@pytest.mark.parametrize("batch_size", [1, 5, 23, 40])
def test_evaluation_counts_every_example_exactly_once_in_order(batch_size):
    some = evaluate(batch_size=batch_size)
    images, labels, mask = (np.concatenate([batch[name] for batch in some]) for name in ("image", "label", "mask"))
    assert {batch["mask"].shape for batch in some} == {(batch_size,)}
    assert mask.dtype == np.float32 and set(mask) <= {0.0, 1.0} and mask.sum() == 23
    np.testing.assert_array_equal(labels[mask == 1], TABLE.given_labels)
    np.testing.assert_array_equal(images[mask == 1], augmentation.normalize(tf.constant(TABLE.images), PREPROCESSING))
    assert len(some) == -(-23 // batch_size)


def test_filling_repeats_the_last_example():
    last = evaluate()[-1]
    assert last["mask"].tolist() == [1.0, 1.0, 1.0, 0.0, 0.0]
    np.testing.assert_array_equal(last["image"][3], last["image"][2])
    assert last["label"][4] == TABLE.given_labels[-1]


def test_evaluation_may_use_true_labels():
    labels = np.concatenate([batch["label"] for batch in evaluate(labels="true")])
    np.testing.assert_array_equal(labels[:23], TABLE.true_labels)


def test_evaluation_batches_have_one_static_shape():
    dataset = pipeline.evaluation_batches(TABLE, batch_size=5, preprocessing=PREPROCESSING)
    assert dataset.element_spec == {
        "image": tf.TensorSpec([5, 4, 4, 2], tf.float32),
        "label": tf.TensorSpec([5], tf.int32),
        "mask": tf.TensorSpec([5], tf.float32),
    }
    assert int(dataset.cardinality()) == 5


@pytest.mark.parametrize(
    ("table", "changes", "message"),
    [
        (TABLE, {"labels": "noisy"}, "'noisy'; choose one of given, true"),
        (dataclasses.replace(TABLE, true_labels=None), {"labels": "true"}, "this table has none"),
        (TABLE, {"batch_size": 0}, "batch_size is 0"),
        (TABLE.take([]), {}, "no examples"),
    ],
)
def test_impossible_evaluation_is_refused(table, changes, message):
    with pytest.raises(InputError, match=message):
        evaluate(table, **changes)


# Shares of workers.


def joined(shares):
    """The batches that the same batches' shares make up."""
    return [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*shares, strict=True)
    ]


@pytest.mark.parametrize("class_balanced", [False, True])
@pytest.mark.parametrize("count", [2, 3])
def test_the_shares_of_training_batches_are_the_batches(count, class_balanced):
    settings = {"batch_size": 6, "steps_per_epoch": 3, "num_steps": 4, "class_balanced": class_balanced}
    table = dataclasses.replace(TABLE, given_labels=(np.arange(23) % 3).astype(np.int32))
    shares = [batches(table, share=Share(index, count), **settings) for index in range(count)]
    assert {len(batch["index"]) for share in shares for batch in share} == {6 // count}
    assert_equal_batches(joined(shares), batches(table, **settings))


@pytest.mark.parametrize("batch_size", [6, 24, 30])
def test_the_shares_of_evaluation_batches_are_the_batches(batch_size):
    shares = [evaluate(batch_size=batch_size, share=Share(index, 3)) for index in range(3)]
    assert_equal_batches(joined(shares), evaluate(batch_size=batch_size))
