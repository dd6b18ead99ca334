"""Tests of famus_tf.data.pipeline with pictures that stay on disk: decoding, crops, and unreadable pictures."""

import dataclasses
import os

import numpy as np
import pytest
import tensorflow as tf

from famus_tf.data import pipeline
from famus_tf.data.batch_shares import Share
from famus_tf.data.examples import ExampleTable, Preprocessing
from famus_tf.data.pictures import PictureFiles, PictureRecords, index_records
from tests import sample_pictures

SIZE = (8, 10)
# Pixels come out as they go in, up to the scale.
PLAIN = Preprocessing(mean=(0.0,) * 3, std=(1 / 255,) * 3, shorter_side=12)
FLIPPED = dataclasses.replace(PLAIN, flip=True)
NUM_EXAMPLES = 11
BAD_ROWS = (3, 7)
LABELS = np.arange(100, 100 + NUM_EXAMPLES, dtype=np.int32)
RESIZED = (12, 16)  # of the 18 x 24 scenes


def encoded(row):
    return sample_pictures.encoded_by_pillow(sample_pictures.scene(shade=2 * row), "PNG")


def resized(row):
    return sample_pictures.resized_by_hand(sample_pictures.scene(shade=2 * row), *RESIZED)


def windows(row):
    """All 5 x 7 crops of the resized scene, and then their mirror images."""
    whole = resized(row)
    crops = [whole[top : top + 8, left : left + 10] for top in range(5) for left in range(7)]
    return np.array(crops + [crop[:, ::-1] for crop in crops])


def table_of(images):
    return ExampleTable(ids=images.names, images=images, given_labels=LABELS[: len(images)])


@pytest.fixture
def table(tmp_path):
    return table_of(sample_pictures.write_files(tmp_path, {f"{r:02d}": encoded(r) for r in range(NUM_EXAMPLES)}, SIZE))


@pytest.fixture
def broken(table):
    """The same table, but one file is empty and one is gone."""
    open(table.images.source_name(BAD_ROWS[0]), "w").close()
    os.unlink(table.images.source_name(BAD_ROWS[1]))
    return table


def batches(table, **changes):
    arguments = {
        "batch_size": 4,
        "steps_per_epoch": 2,
        "seed": 0,
        "preprocessing": FLIPPED,
        "augment": True,
        "num_steps": 6,
    }
    return list(pipeline.training_batches(table, **(arguments | changes)).as_numpy_iterator())


def close(one, two):
    """Whether images are equal up to the rounding to whole pixels."""
    return np.abs(one - two).max(axis=(-3, -2, -1)) < 0.51


def test_batches_have_the_promised_shapes_and_types(table):
    dataset = pipeline.training_batches(
        table, batch_size=4, steps_per_epoch=2, seed=0, preprocessing=PLAIN, augment=True
    )
    assert dataset.element_spec == {
        "index": tf.TensorSpec([4], tf.int32),
        "image": tf.TensorSpec([4, *SIZE, 3], tf.float32),
        "label": tf.TensorSpec([4], tf.int32),
        "valid": tf.TensorSpec([4], tf.float32),
    }


def test_the_order_is_that_of_tables_in_memory(table):
    in_memory = dataclasses.replace(table, images=np.zeros([NUM_EXAMPLES, *SIZE, 3], np.uint8))
    rows, expected = ([b["index"].tolist() for b in batches(t, preprocessing=None)] for t in (table, in_memory))
    assert rows == expected


def test_without_augmentation_every_picture_is_its_center(table):
    for batch in batches(table, augment=False):
        expected = np.array([resized(row)[2:10, 3:13] for row in batch["index"]])
        assert close(batch["image"], expected).all()
        np.testing.assert_array_equal(batch["label"], LABELS[batch["index"]])
        np.testing.assert_array_equal(batch["valid"], np.ones(4))


def test_augmented_pictures_are_crops_anywhere_half_of_them_mirrored(table):
    seen = []
    for batch in batches(table, num_steps=40):
        for image, row in zip(batch["image"], batch["index"], strict=True):
            (fits,) = np.nonzero(close(windows(row), image))
            assert len(fits) == 1
            seen.append(fits[0])
    assert len({window % 35 for window in seen}) == 35  # 160 images
    assert 60 < sum(window >= 35 for window in seen) < 100  # 3.2 standard errors around 80


def test_a_central_crop_may_be_asked_for_and_still_be_mirrored(table):
    preprocessing = dataclasses.replace(FLIPPED, crop="center")
    center = 2 * 7 + 3
    for batch in batches(table, preprocessing=preprocessing):
        for image, row in zip(batch["image"], batch["index"], strict=True):
            assert np.flatnonzero(close(windows(row), image)).tolist() in ([center], [center + 35])


def test_without_preprocessing_pictures_are_resized_straight_to_the_size(table):
    (batch,) = batches(table, preprocessing=None, num_steps=1)
    expected = [sample_pictures.resized_by_hand(sample_pictures.scene(shade=2 * row), *SIZE) for row in batch["index"]]
    assert close(batch["image"], np.array(expected)).all()


def test_padding_serves_pictures_of_one_size_too(table):
    preprocessing = Preprocessing(mean=(0.0,) * 3, std=(1 / 255,) * 3, padding=2, padding_mode="zero")
    straight = np.array(
        [sample_pictures.resized_by_hand(sample_pictures.scene(shade=2 * r), *SIZE) for r in range(NUM_EXAMPLES)]
    )
    padded = np.pad(straight, [(0, 0), (2, 2), (2, 2), (0, 0)])
    for batch in batches(table, preprocessing=preprocessing):
        for image, row in zip(batch["image"], batch["index"], strict=True):
            crops = [padded[row, top : top + 8, left : left + 10] for top in range(5) for left in range(5)]
            assert close(np.array(crops), image).sum() == 1


def assert_equal_batches(one, two):
    assert len(one) == len(two) > 0
    for left, right in zip(one, two, strict=True):
        for name in ("index", "image", "label", "valid"):
            np.testing.assert_array_equal(left[name], right[name])


@pytest.mark.parametrize("class_balanced", [False, True])
def test_starting_late_equals_skipping_bit_for_bit(broken, class_balanced):
    whole = batches(broken, class_balanced=class_balanced)
    assert_equal_batches(batches(broken, class_balanced=class_balanced, start_step=3), whole[3:])
    assert_equal_batches(batches(broken, class_balanced=class_balanced), whole)


def test_pictures_in_records_give_the_same_batches(table, tmp_path):
    path = sample_pictures.write_records(tmp_path / "x.tfrecord", [encoded(row) for row in range(NUM_EXAMPLES)])
    images = PictureRecords([path], index_records([path]), "image", SIZE)
    assert_equal_batches(batches(dataclasses.replace(table, images=images)), batches(table))


# Unreadable pictures.


def test_a_good_example_of_the_batch_stands_in_for_an_unreadable_one(broken):
    met = set()
    for batch in batches(broken, augment=False, num_steps=12):
        is_bad = np.isin(batch["index"], BAD_ROWS)
        np.testing.assert_array_equal(batch["valid"], np.where(is_bad, 0.0, 1.0))
        first_good = batch["index"][~is_bad][0]
        shown = np.where(is_bad, first_good, batch["index"])
        np.testing.assert_array_equal(batch["label"], LABELS[shown])
        assert close(batch["image"], np.array([resized(row)[2:10, 3:13] for row in shown])).all()
        met.update(batch["index"][is_bad].tolist())
    assert met == set(BAD_ROWS)


def test_good_pictures_are_the_same_whether_or_not_others_are_unreadable(table):
    before = batches(table)
    open(table.images.source_name(BAD_ROWS[0]), "w").close()
    for one, two in zip(before, batches(table), strict=True):
        good = two["valid"] > 0
        np.testing.assert_array_equal(one["image"][good], two["image"][good])


def test_a_batch_without_a_good_picture_is_black(tmp_path):
    table = table_of(PictureFiles(tmp_path, np.array([b"gone", b"gone too"]), SIZE))
    (batch,) = batches(table, batch_size=2, steps_per_epoch=1, num_steps=1)
    assert sorted(batch["index"].tolist()) == [0, 1]
    assert not batch["valid"].any() and not batch["image"].any() and not batch["label"].any()


def test_no_defect_stops_the_batches(tmp_path):
    files = {f"good {name}": content for name, content in sample_pictures.formats().items()}
    files |= {f"bad {number}": content for number, content in enumerate(sample_pictures.defects().values())}
    images = sample_pictures.write_files(tmp_path, files, SIZE)
    table = ExampleTable(ids=images.names, images=images, given_labels=np.zeros(len(files), np.int32))
    for batch in batches(table, batch_size=len(files), steps_per_epoch=1, num_steps=2):
        is_good = [table.ids[row].startswith(b"good") for row in batch["index"]]
        np.testing.assert_array_equal(batch["valid"], is_good)


# Evaluation.


def evaluate(table, batch_size=4):
    return list(pipeline.evaluation_batches(table, batch_size=batch_size, preprocessing=FLIPPED).as_numpy_iterator())


@pytest.mark.parametrize("batch_size", [1, 4, 11, 20])
def test_evaluation_shows_every_picture_once_at_its_center(table, batch_size):
    some = evaluate(table, batch_size)
    images, labels, mask = (np.concatenate([batch[name] for batch in some]) for name in ("image", "label", "mask"))
    assert {batch["mask"].shape for batch in some} == {(batch_size,)}
    assert close(images[mask == 1], np.array([resized(row)[2:10, 3:13] for row in range(NUM_EXAMPLES)])).all()
    np.testing.assert_array_equal(labels[mask == 1], LABELS)
    assert mask.sum() == NUM_EXAMPLES
    assert set(labels) == set(LABELS.tolist()), "filling has labels of the set"


def test_evaluation_leaves_unreadable_pictures_out(broken):
    some = evaluate(broken)
    labels, mask = (np.concatenate([batch[name] for batch in some]) for name in ("label", "mask"))
    assert mask.sum() == NUM_EXAMPLES - len(BAD_ROWS)
    np.testing.assert_array_equal(labels[mask == 1], np.delete(LABELS, BAD_ROWS))


def test_evaluation_batches_have_one_static_shape_and_a_known_number(table):
    dataset = pipeline.evaluation_batches(table, batch_size=4, preprocessing=PLAIN)
    assert dataset.element_spec == {
        "image": tf.TensorSpec([4, *SIZE, 3], tf.float32),
        "label": tf.TensorSpec([4], tf.int32),
        "mask": tf.TensorSpec([4], tf.float32),
    }
    assert int(dataset.cardinality()) == 3


# Several replicas.


def test_replicas_share_each_batch_in_its_order(broken, two_replicas):
    whole = batches(broken, num_steps=3)
    dataset = pipeline.training_batches(
        broken, batch_size=4, steps_per_epoch=2, seed=0, preprocessing=FLIPPED, augment=True, num_steps=3
    )
    shared = list(two_replicas.experimental_distribute_dataset(dataset))
    assert len(shared) == 3
    for parts, expected in zip(shared, whole, strict=True):
        for name, values in parts.items():
            local = two_replicas.experimental_local_results(values)
            assert [len(part) for part in local] == [2, 2]
            np.testing.assert_array_equal(np.concatenate(local), expected[name])


def test_a_worker_reads_its_own_share_of_the_pictures_and_no_other(table):
    whole = batches(table, num_steps=2)
    for index in range(2):
        own = {int(row) for batch in whole for row in batch["index"][2 * index : 2 * index + 2]}
        hidden = {row: table.images.source_name(row) for row in range(NUM_EXAMPLES) if row not in own}
        for path in hidden.values():
            os.rename(path, f"{path}.hidden")
        shares = batches(table, num_steps=2, share=Share(index, 2))
        for path in hidden.values():
            os.rename(f"{path}.hidden", path)
        for share, batch in zip(shares, whole, strict=True):
            for name, values in share.items():
                np.testing.assert_array_equal(values, batch[name][2 * index : 2 * index + 2], err_msg=name)


def test_the_shares_of_evaluation_show_every_readable_picture_once(broken):
    shares = [
        list(
            pipeline.evaluation_batches(
                broken, batch_size=6, preprocessing=FLIPPED, share=Share(index, 2)
            ).as_numpy_iterator()
        )
        for index in range(2)
    ]
    seen = [label for share in shares for batch in share for label in batch["label"][batch["mask"] > 0]]
    assert sorted(seen) == np.delete(LABELS, BAD_ROWS).tolist()
