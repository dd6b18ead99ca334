"""The feeds of a training: the noisy training set's, the clean meta set's, and those of the sets that are measured."""

import numpy as np
import tensorflow as tf

from famus_tf import replicas, workers
from famus_tf.data import feeds
from famus_tf.data.examples import ExampleTable
from famus_tf.errors import InputError
from famus_tf.methods.method import model_shapes
from famus_tf.runs.evaluation import EVALUATION_BATCH_SIZE


def make_feeds(
    train, meta, *, model, method, seed, num_replicas, batch_size, meta_batch_size=None, preprocessing=None,
    augment=True, steps_per_epoch=None, class_balanced=False,
):  # fmt: skip
    """The training feed and the meta feed.

    Args:
        train: Arrays (images, given labels), a `tf.data.Dataset` of batches, or an `ExampleTable`.
        meta: Likewise; may be None where the method needs none.
        model: The Keras model that is to be trained.
        method: The method.
        seed: Of the orders and the augmentation.
        num_replicas: How many replicas share each batch.
        batch_size: Global.
        meta_batch_size: Global; None takes `batch_size`, or the whole meta set if that is smaller.
        preprocessing: For tables.
        augment: For tables.
        steps_per_epoch: Training batches that count as one epoch; None for as many as the set fills.
        class_balanced: Whether every training batch takes as many examples of each class.

    Returns:
        Both; the meta feed is None where the method needs none.

    Raises:
        InputError: If the sets, the batches, the model and the method do not fit each other.
    """
    num_classes = model_shapes(model)[1][-1]
    feed = feeds.training_feed(
        train, batch_size=batch_size, seed=seed, stream="train", preprocessing=preprocessing, augment=augment,
        steps_per_epoch=steps_per_epoch, class_balanced=class_balanced, num_classes=num_classes,
    )  # fmt: skip
    of_meta = meta_feed(
        meta, method=method, batch_size=batch_size, meta_batch_size=meta_batch_size, num_replicas=num_replicas,
        seed=seed, preprocessing=preprocessing, augment=augment, num_classes=num_classes,
    )  # fmt: skip
    for each in filter(None, (feed, of_meta)):
        check_feed(each, model, num_replicas)
    return feed, of_meta


def meta_feed(
    meta, *, method, batch_size, meta_batch_size, num_replicas, seed, preprocessing, augment, num_classes=None
):
    """The feed of the meta set.

    Args:
        meta: Arrays (images, labels), a `tf.data.Dataset` of batches, or an `ExampleTable`.
        method: The method, which may need none.
        batch_size: Global, of the training batches.
        meta_batch_size: Global; None takes `batch_size`, or the whole meta set if that is smaller.
        num_replicas: How many replicas share each batch.
        seed: Of the order and the augmentation.
        preprocessing: For tables.
        augment: For tables.
        num_classes: K, to check the labels of datasets against as they are read; None checks nothing.

    Returns:
        The feed; None where the method needs none.

    Raises:
        InputError: If the method needs a meta set and there is none, or it cannot be fed.
    """
    if not method.needs_meta_set:
        return None
    if meta is None:
        raise InputError(
            f"Method {method.name!r} learns from a clean meta set, and none was given. Pass one (a few clean"
            " examples per class are enough; --num_meta on the command line), or take method 'ce'."
        )
    size = meta_batch_size or batch_size
    if meta_batch_size is None and batch_size >= 1:
        size = min(size, example_count(meta, preprocessing, batch_size))
        size -= size % num_replicas
    # Meta batches have no epochs, so an endless dataset of them needs no number of steps.
    is_endless = isinstance(meta, tf.data.Dataset) and meta.cardinality() == tf.data.INFINITE_CARDINALITY
    return feeds.training_feed(
        meta, batch_size=size, seed=seed, stream="meta", preprocessing=preprocessing, augment=augment,
        steps_per_epoch=1 if is_endless else None, num_classes=num_classes,
    )  # fmt: skip


def example_count(meta, preprocessing, largest: int) -> int:
    """How many examples the meta set has, of a dataset counted to `largest` at most.

    Raises:
        InputError: If it is no set, or has none.
    """
    if not isinstance(meta, tf.data.Dataset):
        table, _ = feeds.as_table(meta, preprocessing, "meta")
        return len(table)
    meta = feeds.pairs(meta, "meta")
    if meta.element_spec[1].shape[0] == largest:
        return largest
    counted = meta.map(lambda image, label: label).unbatch().take(largest)
    count = int(counted.reduce(np.int64(0), lambda total, _: total + 1))
    if not count:
        raise InputError("The meta dataset has no examples; give at least one.")
    return count


def iterators(feed, meta_feed, step: int, strategy):
    """An iterator of each feed's batches.

    Args:
        feed: The training feed.
        meta_feed: The meta feed, or None.
        step: Where both begin, from 0.
        strategy: Under which they are used.
    """
    share = workers.share(strategy)
    train_iterator = replicas.iterator(feed.batches(step, share), strategy)
    if meta_feed is None:
        return train_iterator, train_iterator  # the second is never drawn from
    return train_iterator, replicas.iterator(meta_feed.batches(step, share), strategy)


def measured_sets(validation_data, test_data, more_tests: dict | None) -> dict:
    """The sets measured after each epoch, by the beginning of their names in the history.

    Args:
        validation_data: Or None.
        test_data: Or None.
        more_tests: {name: set}, or None.

    Raises:
        InputError: If one of `more_tests` has a name that is taken.
    """
    sets = {"val": validation_data, "test": test_data}
    for name, data in (more_tests or {}).items():
        # "meta_accuracy" is what the steps say of the meta batches.
        if name in (*sets, "meta", ""):
            raise InputError(f"A further test set is called {name!r}, which is taken; choose another name.")
        sets[name] = data
    return {name: data for name, data in sets.items() if data is not None}


def check_measured_sets(sets: dict, model, preprocessing, strategy) -> None:
    """Refuses before the first step what could not be measured after an epoch.

    The labels of datasets are unknown before they are read; those out of range are told when they are.

    Args:
        sets: As from `measured_sets`.
        model: The built Keras model that is to be trained.
        preprocessing: For tables.
        strategy: Under which the sets are measured.

    Raises:
        InputError: If a set cannot be measured, or its images or labels do not fit the model.
    """
    for name, data in sets.items():
        evaluation_feed(data, preprocessing, name, strategy, model)


def evaluation_feed(data, preprocessing, name: str, strategy, model=None) -> tf.data.Dataset:
    """This worker's shares of the batches of a whole set.

    Args:
        data: Arrays (images, labels), a `tf.data.Dataset` of batches, or an `ExampleTable`.
        preprocessing: For tables.
        name: For messages.
        strategy: Under which it is measured.
        model: The Keras model that is measured, which images and labels must fit; None checks neither.

    Raises:
        InputError: If it cannot be measured.
    """
    batch_size = EVALUATION_BATCH_SIZE * strategy.num_replicas_in_sync
    if not isinstance(data, tf.data.Dataset):
        data, preprocessing = feeds.as_table(data, preprocessing, name)
    num_classes = None
    if model is not None:
        check_fits(data, model, name)
        num_classes = model_shapes(model)[1][-1]
    return feeds.evaluation_feed(data, batch_size, preprocessing, name, workers.share(strategy), num_classes)


def check_fits(data, model, name: str) -> None:
    """Refuses a set to be measured that does not fit a model.

    Args:
        data: A table or a `tf.data.Dataset` of batches (image, label), whose labels cannot be known yet.
        model: A built Keras model whose output is [B, K].
        name: Of the set.

    Raises:
        InputError: If a label is outside [0, K), or the images have another shape.
    """
    if isinstance(data, ExampleTable):
        if len(data):
            check_labels(data.given_labels, model, name)
        check_images(data.images.shape[1:], model, name)
    else:
        check_images(feeds.pairs(data, name).element_spec[0].shape[1:], model, name)


def check_feed(feed, model, num_replicas: int) -> None:
    """Refuses a feed that does not fit a model.

    Args:
        feed: As from `training_feed`.
        model: A built Keras model whose output is [B, K].
        num_replicas: How many replicas share each batch.

    Raises:
        InputError: If the batch cannot be split evenly, a label is outside [0, K), or the images have another shape.
    """
    if feed.batch_size < 1 or feed.batch_size % num_replicas:
        raise InputError(
            f"A batch of {feed.batch_size} cannot be split over {num_replicas} replicas evenly; choose a positive"
            f" multiple of {num_replicas}."
        )
    if feed.labels is not None:
        check_labels(feed.labels, model, feed.stream)
    check_images(feed.image_shape, model, feed.stream)


def check_labels(labels: np.ndarray, model, name: str) -> None:
    """Refuses labels that a model has no output for.

    Args:
        labels: [N] integers, N at least 1.
        model: A built Keras model whose output is [B, K].
        name: Of the set.

    Raises:
        InputError: If a label is outside [0, K).
    """
    num_classes = model_shapes(model)[1][-1]
    if not (0 <= labels.min() and labels.max() < num_classes):
        raise InputError(
            f"The {name} labels reach from {labels.min()} to {labels.max()}, but the model has {num_classes}"
            f" outputs, for labels 0 to {num_classes - 1}. Renumber the labels or widen the model."
        )


def check_images(shape, model, name: str) -> None:
    """Refuses images that a model does not take.

    Args:
        shape: Of one image; None for dimensions that are unknown.
        model: A built Keras model.
        name: Of the set.

    Raises:
        InputError: If the model takes images of another shape.
    """
    expected, _ = model_shapes(model)
    if isinstance(expected, tuple) and not tf.TensorShape(shape).is_compatible_with(expected[1:]):
        raise InputError(
            f"The {name} images have shape {tuple(shape)}, but the model {model.name!r} takes"
            f" {tuple(expected[1:])}. Build the model for the images' shape."
        )
