"""The evaluator against NumPy: every example counts once, padding never, on one replica and on two."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from famus_tf.data import feeds
from famus_tf.errors import InputError
from famus_tf.runs import evaluation, training_feeds
from famus_tf.runs.evaluation import Evaluator
from famus_tf.runs.stop_request import StopRequest
from tests.tiny_networks import IMAGE_SHAPE, NUM_CLASSES, batch, draw_weights

ONE_REPLICA = tf.distribute.get_strategy()


def logits_as_images():
    """A model whose logits are the image's pixels."""
    return keras.Sequential([keras.Input((1, 1, 2)), keras.layers.Flatten()])


def network():
    """A dense network with dropout, which must not be at work."""
    inputs = keras.Input(IMAGE_SHAPE)
    x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(inputs))
    return draw_weights(keras.Model(inputs, keras.layers.Dense(NUM_CLASSES)(x)))


def examples(count):
    drawn = batch(count, seed=1)
    return drawn["image"].numpy(), drawn["label"].numpy()


def by_numpy(model, images, labels):
    """Accuracy and mean cross-entropy in float64."""
    kernel, bias = model.get_weights()
    logits = images.reshape(len(images), -1).astype(np.float64) @ kernel.astype(np.float64) + bias
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_shares = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return np.mean(logits.argmax(axis=1) == labels), -log_shares[np.arange(len(labels)), labels].mean()


def with_counts(evaluator):
    """Notes how many examples each batch counted."""
    counts, sums = [], evaluator._sums

    def noting(of_batch):
        result = sums(of_batch)
        counts.append(float(result[2]))
        return result

    evaluator._sums = noting
    return counts


def test_a_case_worked_by_hand():
    # Shares of the label: 1/2, 3/4 and 1/4, from logits (0, 0), (ln 3, 0) and (ln 3, 0).
    images = np.log([[1.0, 1.0], [3.0, 1.0], [3.0, 1.0]]).reshape(3, 1, 1, 2)
    feed = feeds.evaluation_feed((images, np.array([0, 0, 1])), 2, None, "test")
    measured = Evaluator(logits_as_images(), ONE_REPLICA).evaluate(feed)
    assert measured["accuracy"] == pytest.approx(2 / 3, abs=1e-12)  # a tie goes to the lower class
    assert measured["loss"] == pytest.approx((np.log(2) + np.log(4 / 3) + np.log(4)) / 3, rel=1e-6)


@pytest.mark.parametrize("kind", ["arrays", "dataset"])
def test_seven_examples_in_batches_of_three_are_numpys(kind):
    model, (images, labels) = network(), examples(7)
    data = (images, labels) if kind == "arrays" else tf.data.Dataset.from_tensor_slices((images, labels)).batch(3)
    evaluator = Evaluator(model, ONE_REPLICA)
    counts = with_counts(evaluator)
    measured = evaluator.evaluate(feeds.evaluation_feed(data, 3, None, "test"))
    accuracy, loss = by_numpy(model, images, labels)
    assert 0.0 < accuracy < 1.0
    assert measured["accuracy"] == pytest.approx(accuracy, abs=1e-12)
    assert measured["loss"] == pytest.approx(loss, rel=1e-6)
    assert counts == [3.0, 3.0, 1.0]


@pytest.mark.parametrize("filling", [np.nan, np.inf, -np.inf])
def test_padding_never_counts_even_where_its_loss_is_not_finite(filling):
    images = np.full((1, 4, 1, 1, 2), filling, np.float32)
    images[0, :2, 0, 0] = [[0.0, 0.0], [5.0, 5.0]]
    batches = tf.data.Dataset.from_tensor_slices(
        {"image": images, "label": [[0, 1, 0, 1]], "mask": np.float32([[1, 1, 0, 0]])}
    )
    measured = Evaluator(logits_as_images(), ONE_REPLICA).evaluate(batches)
    assert measured == {"accuracy": 0.5, "loss": pytest.approx(np.log(2), rel=1e-6)}


def test_a_loss_that_is_not_finite_is_told_where_an_example_has_it():
    images = np.float32([[0.0, 0.0], [np.nan, 0.0]]).reshape(2, 1, 1, 2)
    feed = feeds.evaluation_feed((images, np.array([0, 1])), 2, None, "test")
    assert np.isnan(Evaluator(logits_as_images(), ONE_REPLICA).evaluate(feed)["loss"])


@pytest.mark.parametrize(
    ("kind", "count", "batch_size", "counts"),
    [
        ("arrays", 7, 4, [4.0, 3.0]),  # the last batch: 2 examples on one replica, 1 and a filling on the other
        ("arrays", 7, 6, [6.0, 1.0]),  # one replica has filling only
        ("arrays", 5, 100, [5.0]),  # the replicas' shares are of different sizes
        ("dataset", 7, 3, [3.0, 3.0, 1.0]),  # one replica has an empty batch
    ],
)
def test_on_two_replicas_each_example_counts_exactly_once(two_replicas, kind, count, batch_size, counts):
    with two_replicas.scope():
        model = network()
    images, labels = examples(count)
    data = (images, labels)
    if kind == "dataset":
        data = tf.data.Dataset.from_tensor_slices(data).batch(batch_size)
    evaluator = Evaluator(model, two_replicas)
    counted = with_counts(evaluator)
    measured = evaluator.evaluate(feeds.evaluation_feed(data, batch_size, None, "test"))
    accuracy, loss = by_numpy(model, images, labels)
    assert measured["accuracy"] == pytest.approx(accuracy, abs=1e-12)
    assert measured["loss"] == pytest.approx(loss, rel=1e-6)
    assert counted == counts


def test_one_compiled_function_serves_every_set_of_the_same_batches():
    model = network()
    evaluator = Evaluator(model, ONE_REPLICA)
    for count in (7, 4, 6):
        images, labels = examples(count)
        measured = evaluator.evaluate(feeds.evaluation_feed((images, labels), 3, None, "test"))
        assert measured["accuracy"] == pytest.approx(by_numpy(model, images, labels)[0], abs=1e-12)
    assert evaluator._sums.experimental_get_tracing_count() == 1


def test_weights_changed_in_between_are_seen():
    model, (images, labels) = network(), examples(6)
    evaluator = Evaluator(model, ONE_REPLICA)
    feed = feeds.evaluation_feed((images, labels), 3, None, "test")
    before = evaluator.evaluate(feed)["loss"]
    draw_weights(model, seed=9)
    after = evaluator.evaluate(feed)["loss"]
    assert after == pytest.approx(by_numpy(model, images, labels)[1], rel=1e-6)
    assert abs(after - before) > 1e-3


def test_several_sets_are_measured_by_name_and_a_request_to_stop_ends_it_within_a_batch():
    model, stop_request = network(), StopRequest()
    evaluator = Evaluator(model, ONE_REPLICA, stop_request)
    sets = {"val": examples(6), "test": examples(9)}
    named = [(name, feeds.evaluation_feed(data, 3, None, name)) for name, data in sets.items()]
    measured = evaluator.evaluate_unless_stopped(named)
    assert set(measured) == {"val_accuracy", "val_loss", "test_accuracy", "test_loss"}
    for name, data in sets.items():
        accuracy, loss = by_numpy(model, *data)
        assert measured[f"{name}_accuracy"] == pytest.approx(accuracy, abs=1e-12)
        assert measured[f"{name}_loss"] == pytest.approx(loss, rel=1e-6)

    counts, sums = [], evaluator._sums

    def asking(batch):
        counts.append(1)
        if len(counts) == 4:
            stop_request.make()
        return sums(batch)

    evaluator._sums = asking
    assert evaluator.evaluate_unless_stopped(named) is None
    assert len(counts) == 4  # two of "val", and the second of "test"
    # The request is met, and the next is none of `evaluate`'s, which nobody waits for.
    assert evaluator.evaluate_unless_stopped(named) == measured
    stop_request.make()
    assert evaluator.evaluate(named[0][1])["loss"] == measured["val_loss"]
    assert evaluator.evaluate_unless_stopped(named) is None


def test_a_set_without_examples_is_refused():
    of_none = tf.data.Dataset.from_tensor_slices(examples(6)).filter(lambda image, label: label > 99).batch(3)
    nothing = feeds.evaluation_feed(of_none, 3, None, "test")
    with pytest.raises(InputError, match="the dataset holds no examples"):
        Evaluator(network(), ONE_REPLICA).evaluate(nothing)


@pytest.mark.parametrize("wrong", [-1, NUM_CLASSES, 2**32 + 1])
def test_a_datasets_label_without_an_output_is_told_in_a_sentence(wrong):
    images, labels = examples(6)
    labels = np.where(np.arange(6) == 4, wrong, np.minimum(labels.astype(np.int64), 1))
    labels[3] = 0
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(3)
    model = network()
    reach = sorted({int(labels[3:].min()), int(labels[3:].max())})
    expected = (
        f"The labels of a batch of the val dataset reach from {reach[0]} to {reach[1]}, but the model has 3 outputs,"
        " for labels 0 to 2. Renumber the labels or widen the model."
    )
    with pytest.raises(InputError) as error:
        Evaluator(model, ONE_REPLICA).evaluate(training_feeds.evaluation_feed(data, None, "val", ONE_REPLICA, model))
    assert str(error.value) == expected


SLICES = tf.data.Dataset.from_tensor_slices
IMAGES, LABELS = examples(6)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((IMAGES[:, :5], LABELS), r"The val images have shape (5, 6, 2), but the model 'measured' takes (6, 6, 2)."),
        ((IMAGES, LABELS + 1), "The val labels reach from 1 to 3, but the model has 3 outputs, for labels 0 to 2."),
        (
            (IMAGES, LABELS.astype(np.int64) + 2**32),
            "The val labels reach from 4294967296 to 4294967298; 0 to 2147483647 is expected",
        ),
        ("folder", "The val set is a str; a pair of arrays"),
        (SLICES((IMAGES, LABELS)).batch(3).take(0), "The val dataset has no examples; give at least one."),
        (SLICES((IMAGES, LABELS)).batch(3).repeat(), "The val dataset is endless"),
        (SLICES((IMAGES[:, :5], LABELS)).batch(3), "The val images have shape (5, 6, 2), but the model"),
        (SLICES((IMAGES, LABELS)), "The val dataset must yield batches (image, label)"),
    ],
)
def test_sets_that_could_not_be_measured_are_refused_before(data, message):
    inputs = keras.Input(IMAGE_SHAPE)
    model = keras.Model(inputs, keras.layers.Dense(NUM_CLASSES)(keras.layers.Flatten()(inputs)), name="measured")
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        training_feeds.check_measured_sets({"test": (IMAGES, LABELS), "val": data}, model, None, ONE_REPLICA)


# The five best.


def many_logits(num_classes):
    """A model whose logits are the image's pixels."""
    return keras.Sequential([keras.Input((1, 1, num_classes)), keras.layers.Flatten()])


def test_the_five_best_of_twenty_are_worked_by_hand():
    logits = np.zeros((4, 20), np.float32)
    logits[0, [3, 4, 5, 6, 7]] = [1, 2, 3, 4, 5]  # label 3 is the fifth
    logits[1, [3, 4, 5, 6, 7, 8]] = [1, 2, 3, 4, 5, 6]  # label 3 is the sixth
    labels = np.array([3, 3, 4, 5])  # the last two see nothing but ties: the lower classes come first
    np.testing.assert_array_equal(evaluation.top_hits(tf.constant(logits), tf.constant(labels)), [1, 0, 1, 0])
    feed = feeds.evaluation_feed((logits[:, None, None], labels), 3, None, "test")
    measured = Evaluator(many_logits(20), ONE_REPLICA).evaluate(feed)
    assert measured["top5_accuracy"] == 0.5
    assert measured["accuracy"] == 0.0


def test_the_five_best_are_numpys():
    draw = np.random.default_rng(0)
    logits, labels = draw.normal(size=(50, 30)), draw.integers(0, 30, 50)
    expected = [label in np.argsort(-row)[:5] for row, label in zip(logits, labels, strict=True)]
    assert 0 < sum(expected) < 50
    np.testing.assert_array_equal(evaluation.top_hits(tf.constant(logits), tf.constant(labels)), expected)


def test_a_network_of_nans_hits_nothing():
    assert evaluation.top_hits(tf.fill([2, 20], np.nan), tf.constant([0, 19])).numpy().tolist() == [0.0, 0.0]


def test_with_fewer_than_twenty_classes_the_five_best_are_not_told():
    images = np.zeros((2, 1, 1, 19), np.float32)
    feed = feeds.evaluation_feed((images, np.array([0, 1])), 2, None, "test")
    assert set(Evaluator(many_logits(19), ONE_REPLICA).evaluate(feed)) == {"accuracy", "loss"}


@pytest.mark.parametrize("filling", [0.0, np.inf, np.nan])
def test_padding_is_never_among_the_five_best(filling):
    images = np.full((1, 3, 1, 1, 20), filling, np.float32)
    images[0, 0] = np.arange(20.0)
    batches = tf.data.Dataset.from_tensor_slices(
        {"image": images, "label": np.array([[0, 0, 0]]), "mask": np.float32([[1, 0, 0]])}
    )
    assert Evaluator(many_logits(20), ONE_REPLICA).evaluate(batches)["top5_accuracy"] == 0.0
