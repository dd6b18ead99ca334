"""Feeds of arrays, tables and datasets: what their batches hold, where they begin, and what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from famus_tf import registry
from famus_tf.data import feeds
from famus_tf.data.batch_shares import Share
from famus_tf.data.examples import ExampleTable, Preprocessing
from famus_tf.errors import InputError
from famus_tf.runs import training_feeds
from famus_tf.trainer import Trainer

NUM_EXAMPLES = 7
LABELS = np.array([0, 1, 2, 0, 1, 2, 2])
# Every pixel of image i is i, so a batch tells which examples it holds.
IMAGES = np.broadcast_to(np.arange(NUM_EXAMPLES, dtype=np.float32)[:, None, None, None], (NUM_EXAMPLES, 2, 2, 3))
HALF = Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3)
TABLE = ExampleTable(
    ids=np.array([f"example_{i}" for i in range(NUM_EXAMPLES)]),
    images=IMAGES.astype(np.uint8),
    given_labels=LABELS.astype(np.int32),
)


def slices(structure):
    return tf.data.Dataset.from_tensor_slices(structure)


def dataset(images=IMAGES, labels=LABELS):
    return slices((images, labels))


def dataset_of_unknown_shapes():
    def generate():
        yield from zip(IMAGES[:, None], LABELS[:, None], strict=True)

    unknown = tf.TensorSpec(None, tf.float32), tf.TensorSpec([None], tf.int32)
    return tf.data.Dataset.from_generator(generate, output_signature=unknown)


def training_feed(data, batch_size=3, **settings):
    settings = {"seed": 0, "stream": "train", "preprocessing": None, "augment": False, **settings}
    return feeds.training_feed(data, batch_size=batch_size, **settings)


def first_batches(feed, count, start_step=0):
    return [{name: tensor.numpy() for name, tensor in batch.items()} for batch in feed.batches(start_step).take(count)]


def shown_examples(batches):
    """The examples in the batches, told by their pixels."""
    return [int(image[0, 0, 0]) for batch in batches for image in batch["image"]]


def model(image_shape=(2, 2, 3), num_classes=3):
    layers = keras.layers
    return keras.Sequential([keras.Input(image_shape), layers.GlobalAveragePooling2D(), layers.Dense(num_classes)])


# Arrays and tables.


@pytest.mark.parametrize("image_type", [np.float32, np.float64, np.uint8])
@pytest.mark.parametrize("label_type", [np.int64, np.uint8])
def test_arrays_come_unscaled_in_float32_with_their_own_labels_and_rows(image_type, label_type):
    feed = training_feed((IMAGES.astype(image_type), LABELS.astype(label_type)), preprocessing=HALF, augment=True)
    assert feed.steps_per_epoch == 2
    for batch in first_batches(feed, 2):
        assert (batch["image"].dtype, batch["label"].dtype, batch["index"].dtype) == (np.float32, np.int32, np.int32)
        np.testing.assert_array_equal(batch["image"], IMAGES[batch["index"]])
        np.testing.assert_array_equal(batch["label"], LABELS[batch["index"]])


def test_an_epoch_shows_no_example_twice_and_beginning_later_gives_what_would_have_come():
    feed = training_feed((IMAGES, LABELS))
    batches = first_batches(feed, 5)
    for epoch in (batches[:2], batches[2:4]):
        assert len(set(shown_examples(epoch))) == 6
    later = first_batches(feed, 2, start_step=3)
    assert shown_examples(later) == shown_examples(batches[3:])


def test_an_epoch_of_a_table_may_be_shorter_than_the_table():
    feed = training_feed(TABLE, batch_size=2, steps_per_epoch=2)
    assert feed.steps_per_epoch == 2
    batches = first_batches(feed, 40)
    epochs = [shown_examples(batches[start : start + 2]) for start in range(0, 40, 2)]
    assert all(len(set(epoch)) == 4 for epoch in epochs)
    assert {example for epoch in epochs for example in epoch} == set(range(NUM_EXAMPLES))


def test_an_epoch_of_a_table_may_be_longer_than_the_table_where_classes_are_balanced():
    with pytest.raises(
        InputError, match=r"steps_per_epoch is 3; 7 examples \(train\) in batches of 3 make 1 to 2 steps"
    ):
        training_feed(TABLE, steps_per_epoch=3)
    feed = training_feed(TABLE, steps_per_epoch=1000, class_balanced=True)
    assert feed.steps_per_epoch == 1000
    for batch in first_batches(feed, 5):
        assert sorted(batch["label"].tolist()) == [0, 1, 2]
    assert training_feed(TABLE, class_balanced=True).steps_per_epoch == 2


def test_classes_of_a_dataset_cannot_be_balanced():
    with pytest.raises(InputError, match="train set is a tf.data.Dataset, whose order is its own"):
        training_feed(dataset().batch(3), class_balanced=True)


def test_a_table_is_normalised_as_its_preprocessing_says():
    images = np.full((2, 2, 2, 3), 255, np.uint8)
    images[1] = 0
    table = ExampleTable(ids=np.array(["white", "black"]), images=images, given_labels=np.array([1, 0], np.int32))
    (batch,) = first_batches(training_feed(table, batch_size=2, preprocessing=HALF), 1)
    # (1 - 0.5) / 0.25 and (0 - 0.5) / 0.25
    by_label = batch["image"][np.argsort(batch["label"])]
    np.testing.assert_allclose(by_label[0], np.full((2, 2, 3), -2.0), atol=1e-6)
    np.testing.assert_allclose(by_label[1], np.full((2, 2, 3), 2.0), atol=1e-6)


def test_labels_of_shape_n_1_are_flattened():
    table = feeds.table_from_arrays(IMAGES, LABELS[:, None], "train")
    np.testing.assert_array_equal(table.given_labels, LABELS)
    assert table.ids[6] == "train_00000006"


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES, np.eye(3, dtype=int)[LABELS], r"train labels have shape \(7, 3\) and dtype int64.*One-hot labels\?"),
        (IMAGES, LABELS.astype(float), r"shape \(7,\) and dtype float64; whole numbers of shape \[N\] are expected"),
        (IMAGES, LABELS[:5], "train set has 7 images but 5 labels; give as many of each"),
        (IMAGES, LABELS - 1, "given_labels holds -1; labels are 0 or more"),
        (IMAGES, LABELS + 2**32, "train labels reach from 4294967296 to 4294967298; 0 to 2147483647 is expected"),
        (IMAGES[:0], LABELS[:0], "train set has no examples; give at least one"),
        (IMAGES[:, 0, 0], LABELS, r"images must be .*\[N, H, W, C\], got float32 \[7, 3\]"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(images, labels, message):
    with pytest.raises(InputError, match=message):
        training_feed((images, labels))


@pytest.mark.parametrize(("data", "kind"), [("images", "str"), ((IMAGES, LABELS, LABELS), "tuple"), (None, "NoneType")])
def test_anything_else_is_refused_by_its_kind(data, kind):
    message = f"set is a {kind}; a pair of arrays .*, a tf.data.Dataset of batches .* or an ExampleTable is expected"
    with pytest.raises(InputError, match=f"The train {message}"):
        training_feed(data)
    with pytest.raises(InputError, match=f"The val {message}"):
        feeds.evaluation_feed(data, 3, None, "val")


def test_a_batch_larger_than_the_set_is_refused():
    message = "The meta batch of 8 is larger than the meta set of 7 examples. Lower the batch size to at most 7."
    with pytest.raises(InputError, match=message):
        training_feed(TABLE, batch_size=8, stream="meta")


# Datasets.


def test_a_dataset_keeps_its_order_and_its_rows_are_unknown():
    feed = training_feed(dataset().batch(3, drop_remainder=True))
    assert (feed.batch_size, feed.steps_per_epoch, feed.labels) == (3, 2, None)
    batches = first_batches(feed, 3)
    assert shown_examples(batches) == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    for batch in batches:
        np.testing.assert_array_equal(batch["index"], [-1, -1, -1])
        assert (batch["image"].dtype, batch["label"].dtype, batch["index"].dtype) == (np.float32, np.int32, np.int32)
    np.testing.assert_array_equal(batches[1]["label"], LABELS[3:6])
    assert shown_examples(first_batches(feed, 2, start_step=3)) == [3, 4, 5, 0, 1, 2]


@pytest.mark.parametrize("own_batch_size", [1, 2, 5, 7])
def test_a_dataset_batched_otherwise_is_rebatched_to_whole_batches(own_batch_size):
    feed = training_feed(dataset().batch(own_batch_size))
    assert feed.steps_per_epoch == 2
    batches = first_batches(feed, 3)
    assert shown_examples(batches) == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert feed.batches(0).element_spec["image"].shape == (3, 2, 2, 3)


def test_labels_of_shape_b_1_of_a_dataset_are_flattened():
    feed = training_feed(dataset(labels=LABELS[:, None]).batch(3))
    np.testing.assert_array_equal(first_batches(feed, 1)[0]["label"], LABELS[:3])


def test_batches_of_a_dataset_of_unknown_length_are_counted():
    def is_below_2(image, label):
        return label < 2

    unknown = dataset().filter(is_below_2).batch(2, drop_remainder=True)
    assert int(unknown.cardinality()) == tf.data.UNKNOWN_CARDINALITY
    assert training_feed(unknown, batch_size=2).steps_per_epoch == 2  # four labels are below 2


def test_an_endless_dataset_needs_steps_per_epoch():
    endless = dataset().repeat().batch(3)
    with pytest.raises(InputError, match="The train dataset is endless. Give steps_per_epoch"):
        training_feed(endless)
    feed = training_feed(endless, steps_per_epoch=4)
    assert feed.steps_per_epoch == 4
    assert shown_examples(first_batches(feed, 3)) == [0, 1, 2, 3, 4, 5, 6, 0, 1]


def test_an_endless_meta_dataset_needs_no_steps():
    trainer = Trainer(model(), registry.make_method("l2r"))
    feed, meta_feed = trainer.make_feeds((IMAGES, LABELS), dataset().repeat().batch(2), batch_size=3, meta_batch_size=2)
    assert feed.steps_per_epoch == 2
    assert shown_examples(first_batches(meta_feed, 4)) == [0, 1, 2, 3, 4, 5, 6, 0]


@pytest.mark.parametrize(
    ("data", "batch_size", "message"),
    [
        (dataset().batch(3), 8, "The train dataset is smaller than one batch of 8"),
        (dataset().batch(3), 0, "The train batch size is 0; it must be 1 or more"),
        (dataset(), 3, r"must yield batches \(image, label\)"),
        (slices(IMAGES).batch(3), 3, r"must yield batches \(image, label\)"),
        (slices((IMAGES, {"class": LABELS})).batch(3), 3, "must yield batches"),
        (slices((IMAGES, LABELS, LABELS)).batch(3), 3, "must yield batches"),
        (dataset_of_unknown_shapes(), 1, "of known rank"),
        (dataset(labels=np.eye(3, dtype=int)[LABELS]).batch(3), 3, r"labels of shape \(None, 3\) .* One-hot labels\?"),
        (dataset(labels=LABELS.astype("float32")).batch(3), 3, "dtype float32; whole numbers of shape"),
    ],
)
def test_datasets_that_do_not_fit_are_refused(data, batch_size, message):
    with pytest.raises(InputError, match=message):
        training_feed(data, batch_size=batch_size)


@pytest.mark.parametrize("data", [TABLE, (IMAGES, LABELS), dataset().batch(6)])
def test_the_shares_of_a_feed_are_its_batches(data):
    feed = training_feed(data, batch_size=6)
    shares = [list(feed.batches(1, Share(index, 3)).take(2).as_numpy_iterator()) for index in range(3)]
    for position, batch in enumerate(feed.batches(1).take(2).as_numpy_iterator()):
        for name, values in batch.items():
            np.testing.assert_array_equal(np.concatenate([share[position][name] for share in shares]), values)


@pytest.mark.parametrize("wrong", [-1, 3, 2**32 + 1])
def test_a_label_without_an_output_is_told_in_a_sentence_when_it_is_read(wrong):
    labels = np.array([0, 1, 2, 0, wrong, 0], np.int64)
    feed = training_feed(dataset(IMAGES[:6], labels).batch(3), num_classes=3)
    batches = iter(feed.batches(0))
    np.testing.assert_array_equal(next(batches)["label"], [0, 1, 2])
    expected = (
        f"The labels of a batch of the train dataset reach from {min(wrong, 0)} to {max(wrong, 0)}, but the model has 3"
        " outputs, for labels 0 to 2. Renumber the labels or widen the model."
    )
    with pytest.raises(InputError) as error, feeds.told_label_mistakes():
        next(batches)
    assert str(error.value) == expected


def test_another_mistake_within_a_dataset_stays_what_it_is():
    with pytest.raises(tf.errors.InvalidArgumentError, match="another"), feeds.told_label_mistakes():
        tf.debugging.Assert(False, ["another"])


@pytest.mark.parametrize("drop_remainder", [False, True])
@pytest.mark.parametrize(("count", "batch_size", "expected"), [(4, 6, 4), (7, 6, 6), (7, 4, 4)])
def test_meta_batches_are_no_larger_than_the_meta_dataset(count, batch_size, expected, drop_remainder):
    trainer = Trainer(model(), registry.make_method("l2r"))
    meta = dataset(IMAGES[:count], LABELS[:count]).batch(4, drop_remainder=drop_remainder)
    if drop_remainder and count == 7:
        expected = 4
    _, meta_feed = trainer.make_feeds((IMAGES, LABELS), meta, batch_size=batch_size)
    assert meta_feed.batch_size == expected
    (batch,) = first_batches(meta_feed, 1)
    assert shown_examples([batch]) == list(range(expected))


def test_a_meta_batch_larger_than_the_dataset_is_refused_where_it_was_asked_for():
    trainer = Trainer(model(), registry.make_method("l2r"))
    message = "The meta dataset is smaller than one batch of 6. Give a smaller meta_batch_size, or a larger dataset."
    with pytest.raises(InputError, match=message):
        trainer.make_feeds((IMAGES, LABELS), dataset(IMAGES[:4], LABELS[:4]).batch(4), batch_size=3, meta_batch_size=6)


# Evaluation.


@pytest.mark.parametrize("num_workers", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
@pytest.mark.parametrize("kind", ["table", "arrays", "dataset"])
def test_an_evaluation_feed_counts_each_example_once(kind, batch_size, num_workers):
    data = {"table": TABLE, "arrays": (IMAGES, LABELS), "dataset": dataset().batch(batch_size)}[kind]
    shares = [Share(index, num_workers) for index in range(num_workers)]
    feeds_of_workers = [feeds.evaluation_feed(data, batch_size, None, "test", share) for share in shares]
    counted, labels = [], []
    for batch in (batch for of_workers in zip(*feeds_of_workers, strict=True) for batch in of_workers):
        assert batch["image"].dtype == tf.float32
        kept = batch["mask"].numpy() == 1.0
        np.testing.assert_array_equal(batch["mask"].numpy()[~kept], 0.0)
        counted += [int(image[0, 0, 0]) for image in batch["image"].numpy()[kept]]
        labels += batch["label"].numpy()[kept].tolist()
    assert counted == list(range(NUM_EXAMPLES))
    assert labels == LABELS.tolist()


def test_a_table_is_evaluated_with_its_preprocessing_and_arrays_as_they_are():
    white = np.full((1, 2, 2, 3), 255, np.uint8)
    label = np.zeros(1, np.int32)
    table = ExampleTable(ids=np.array(["white"]), images=white, given_labels=label)
    for data, pixel in ((table, 2.0), ((white, label), 255.0)):
        (batch,) = feeds.evaluation_feed(data, 10, HALF, "test")
        np.testing.assert_allclose(batch["image"].numpy(), np.full((1, 2, 2, 3), pixel), rtol=1e-6)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (dataset().batch(3).repeat(), "The test dataset is endless, so it cannot be measured whole"),
        ((IMAGES[:0], LABELS[:0]), "The test set has no examples"),
        (TABLE.take(np.array([], int)), "The table has no examples"),
        (dataset(labels=np.eye(3)[LABELS]).batch(3), "The test dataset yields labels of shape .* One-hot labels"),
    ],
)
def test_sets_that_cannot_be_evaluated_are_refused(data, message):
    with pytest.raises(InputError, match=message):
        feeds.evaluation_feed(data, 3, None, "test")


# The feed and the model.


@pytest.mark.parametrize("data", [TABLE, (IMAGES, LABELS), dataset().batch(3)])
def test_a_feed_that_fits_passes(data):
    feed = training_feed(data)
    training_feeds.check_feed(feed, model(), num_replicas=1)
    training_feeds.check_feed(feed, model((None, None, 3)), num_replicas=3)


@pytest.mark.parametrize(
    ("data", "batch_size", "num_replicas", "wanted_model", "message"),
    [
        (TABLE, 3, 1, {"num_classes": 2}, "reach from 0 to 2, but the model has 2 outputs, for labels 0 to 1"),
        (TABLE, 3, 2, {}, "A batch of 3 cannot be split over 2 replicas evenly; choose a positive multiple of 2"),
        (TABLE, 0, 1, {}, "A batch of 0 cannot be split over 1 replicas"),
        (TABLE, 3, 1, {"image_shape": (2, 2, 1)}, r"shape \(2, 2, 3\), but the model '.*' takes \(2, 2, 1\)"),
        (dataset().batch(3), 3, 1, {"image_shape": (3, 2, 3)}, r"shape \(2, 2, 3\), but .* takes \(3, 2, 3\)"),
    ],
)
def test_a_feed_that_does_not_fit_the_model_is_refused(data, batch_size, num_replicas, wanted_model, message):
    with pytest.raises(InputError, match=message):
        training_feeds.check_feed(training_feed(data, batch_size=batch_size), model(**wanted_model), num_replicas)
