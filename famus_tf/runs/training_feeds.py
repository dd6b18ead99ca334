"""The two feeds that training draws from: the noisy training set's and the clean meta set's."""

import tensorflow as tf

from famus_tf import replicas, workers
from famus_tf.data import feeds
from famus_tf.errors import InputError
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
    feed = feeds.training_feed(
        train, batch_size=batch_size, seed=seed, stream="train", preprocessing=preprocessing, augment=augment,
        steps_per_epoch=steps_per_epoch, class_balanced=class_balanced,
    )  # fmt: skip
    of_meta = meta_feed(
        meta, method=method, batch_size=batch_size, meta_batch_size=meta_batch_size, num_replicas=num_replicas,
        seed=seed, preprocessing=preprocessing, augment=augment,
    )  # fmt: skip
    for each in filter(None, (feed, of_meta)):
        feeds.check_feed(each, model, num_replicas)
    return feed, of_meta


def meta_feed(meta, *, method, batch_size, meta_batch_size, num_replicas, seed, preprocessing, augment):
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
    if meta_batch_size is None and not isinstance(meta, tf.data.Dataset):
        table, _ = feeds.as_table(meta, preprocessing, "meta")
        size = min(size, len(table))
        size -= size % num_replicas
    # Meta batches have no epochs, so an endless dataset of them needs no number of steps.
    is_endless = isinstance(meta, tf.data.Dataset) and meta.cardinality() == tf.data.INFINITE_CARDINALITY
    return feeds.training_feed(
        meta, batch_size=size, seed=seed, stream="meta", preprocessing=preprocessing, augment=augment,
        steps_per_epoch=1 if is_endless else None,
    )  # fmt: skip


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


def evaluation_feed(data, preprocessing, name: str, strategy) -> tf.data.Dataset:
    """This worker's shares of the batches of a whole set.

    Args:
        data: Arrays (images, labels), a `tf.data.Dataset` of batches, or an `ExampleTable`.
        preprocessing: For tables.
        name: For messages.
        strategy: Under which it is measured.

    Raises:
        InputError: If it cannot be measured.
    """
    batch_size = EVALUATION_BATCH_SIZE * strategy.num_replicas_in_sync
    return feeds.evaluation_feed(data, batch_size, preprocessing, name, workers.share(strategy))
