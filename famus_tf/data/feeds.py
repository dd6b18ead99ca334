"""Feeds: whatever a user trains on, as batches {"index", "image", "label"} that can begin at any step.

Tables whose pictures stay on disk add "valid" to their batches, see `pipeline.training_batches`.
"""

import contextlib
import dataclasses
import re

import numpy as np
import tensorflow as tf

from famus_tf.data import batch_shares, pipeline
from famus_tf.data.batch_shares import WHOLE, Share
from famus_tf.data.examples import ExampleTable, Preprocessing
from famus_tf.errors import InputError

# How the sentence begins and ends that a dataset's wrong label is told with, amid what TensorFlow wraps it in.
LABEL_MISTAKE = re.compile(r"The labels of a batch of the \S+ dataset reach .*? or widen the model\.", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class TableFeed:
    """Batches of a table, in an order computed from (seed, stream, step).

    Attributes:
        table: The examples.
        batch_size: Global.
        seed: Of the order and the augmentation.
        stream: Names this feed's own randomness ("train", "meta").
        preprocessing: None takes the images as they are.
        augment: Whether to augment as `preprocessing` says.
        epoch_steps: Batches that count as one epoch; None for as many as the table fills.
        class_balanced: Whether every batch takes as many examples of each class (by given label).
    """

    table: ExampleTable
    batch_size: int
    seed: int
    stream: str
    preprocessing: Preprocessing | None = None
    augment: bool = False
    epoch_steps: int | None = None
    class_balanced: bool = False

    def __post_init__(self):
        """Checks that one batch can be filled, and that the table holds as many as an epoch asks for."""
        if self.batch_size > len(self.table):
            raise InputError(
                f"The {self.stream} batch of {self.batch_size} is larger than the {self.stream} set of"
                f" {len(self.table)} examples. Lower the batch size to at most {len(self.table)}."
            )
        if self.batch_size >= 1 and self.epoch_steps is not None:
            pipeline.check_steps(
                self.table, self.batch_size, self.epoch_steps, self.stream, class_balanced=self.class_balanced
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass."""
        return self.epoch_steps or len(self.table) // self.batch_size

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of one image."""
        return self.table.images.shape[1:]

    @property
    def labels(self) -> np.ndarray:
        """[N] given labels."""
        return self.table.given_labels

    def batches(self, start_step: int, share: Share = WHOLE) -> tf.data.Dataset:
        """Endless global batches from a step on, or a share of each."""
        return pipeline.training_batches(
            self.table,
            batch_size=self.batch_size,
            steps_per_epoch=self.steps_per_epoch,
            seed=self.seed,
            stream=self.stream,
            start_step=start_step,
            preprocessing=self.preprocessing,
            augment=self.augment,
            class_balanced=self.class_balanced,
            share=share,
        )


@dataclasses.dataclass(frozen=True)
class DatasetFeed:
    """Batches of a user's own `tf.data.Dataset` of (image, label), in its own order.

    Beginning at a later step skips what comes before, so resuming is as exact, and as fast, as the dataset itself.

    Attributes:
        dataset: Of (image, label) in batches of `batch_size`.
        batch_size: Global.
        steps_per_epoch: Batches that count as one epoch.
        stream: For messages.
        num_classes: K; a label outside [0, K) is an error of the batch, see `told_label_mistakes`. None checks nothing.
    """

    dataset: tf.data.Dataset
    batch_size: int
    steps_per_epoch: int
    stream: str = "train"
    num_classes: int | None = None

    @property
    def image_shape(self) -> tuple[int | None, ...]:
        """Of one image."""
        return tuple(self.dataset.element_spec[0].shape[1:])

    @property
    def labels(self) -> None:
        """Unknown before they are read."""
        return None

    def batches(self, start_step: int, share: Share = WHOLE) -> tf.data.Dataset:
        """Endless global batches from a step on, or a share of each; the index is -1."""

        def as_batch(image, label):
            index = tf.fill([self.batch_size], -1)
            label = tf.cast(checked_labels(label, self.num_classes, self.stream), tf.int32)
            batch = {"index": index, "image": tf.cast(image, tf.float32), "label": label}
            return batch_shares.share_of(batch, share)

        return self.dataset.repeat().skip(start_step).map(as_batch).prefetch(tf.data.AUTOTUNE)


def checked_labels(labels, num_classes: int | None, name: str):
    """The labels of a dataset's batch, which are an error of TensorFlow's where they are outside [0, K).

    They are checked as they come: int32 would make 1 of 2³² + 1.

    Args:
        labels: [B] integers.
        num_classes: K; None checks nothing.
        name: Of the dataset, for the message.
    """
    if num_classes is None:
        return labels
    wide = tf.cast(labels, tf.int64)
    reach = tf.strings.as_string(tf.stack([tf.reduce_min(wide), tf.reduce_max(wide)]))
    mistake = tf.strings.join([
        f"The labels of a batch of the {name} dataset reach from ", reach[0], " to ", reach[1],
        f", but the model has {num_classes} outputs, for labels 0 to {num_classes - 1}. Renumber the labels or widen"
        " the model.",
    ])  # fmt: skip
    are_right = tf.reduce_all((wide >= 0) & (wide < num_classes))
    with tf.control_dependencies([tf.debugging.Assert(are_right, [mistake])]):
        return tf.identity(labels)


@contextlib.contextmanager
def told_label_mistakes():
    """Tells a label that `checked_labels` met, while batches are drawn inside, in one sentence.

    Raises:
        InputError: In place of TensorFlow's error.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        mistake = LABEL_MISTAKE.search(error.message)
        if mistake is None:
            raise
        raise InputError(mistake.group()) from None


def table_from_arrays(images, labels, name: str) -> ExampleTable:
    """A table of a user's arrays; the ids are their positions.

    Args:
        images: [N, ...] numbers, already scaled as the network expects them.
        labels: [N] or [N, 1] integers.
        name: For messages, and the first part of the ids.

    Raises:
        InputError: If the arrays are empty or do not fit each other, or the labels are not whole numbers of int32.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"The {name} labels have shape {labels.shape} and dtype {labels.dtype}; whole numbers of shape [N] are"
            " expected. One-hot labels? Take numpy.argmax(labels, axis=1)."
        )
    if len(images) != len(labels):
        raise InputError(f"The {name} set has {len(images)} images but {len(labels)} labels; give as many of each.")
    if not len(labels):
        raise InputError(f"The {name} set has no examples; give at least one.")
    largest = np.iinfo(np.int32).max
    if labels.max() > largest or labels.min() < -largest:
        raise InputError(
            f"The {name} labels reach from {labels.min()} to {labels.max()}; 0 to {largest} is expected at most."
            " Number the classes 0, 1, 2 and so on."
        )
    return ExampleTable(
        ids=np.array([f"{name}_{i:08d}" for i in range(len(labels))]),
        images=images if images.dtype == np.uint8 else images.astype(np.float32),
        given_labels=labels.astype(np.int32),
        true_labels=None,
    )


def pairs(dataset: tf.data.Dataset, name: str) -> tf.data.Dataset:
    """Checks that a dataset yields batches (image, label) and flattens labels [B, 1] to [B].

    Raises:
        InputError: If its elements are anything else, or their rank is unknown.
    """
    spec = dataset.element_spec
    is_pair = isinstance(spec, tuple) and len(spec) == 2 and all(isinstance(part, tf.TensorSpec) for part in spec)
    if not is_pair or spec[0].shape.rank in (None, 0) or spec[1].shape.rank not in (1, 2):
        raise InputError(
            f"The {name} dataset must yield batches (image, label) of known rank; its elements are {spec}."
        )
    labels = spec[1]
    if (labels.shape.rank == 2 and labels.shape[1] != 1) or not labels.dtype.is_integer:
        raise InputError(
            f"The {name} dataset yields labels of shape {labels.shape} and dtype {labels.dtype.name}; whole numbers of"
            " shape [B] are expected. One-hot labels? Map them with tf.argmax(label, axis=1)."
        )
    if labels.shape.rank == 1:
        return dataset
    return dataset.map(lambda image, label: (image, tf.squeeze(label, axis=1)))


def dataset_feed(
    dataset: tf.data.Dataset, batch_size: int, steps_per_epoch: int | None, name: str, num_classes: int | None = None
) -> DatasetFeed:
    """A feed of a user's dataset, rebatched to full batches of `batch_size` where it has others.

    Args:
        dataset: Of (image, label), batched.
        batch_size: Global.
        steps_per_epoch: None takes the number of full batches, counted if it is unknown.
        name: "train" or "meta", for messages.
        num_classes: K, to check the labels against; None checks nothing.

    Raises:
        InputError: If the elements are not (image, label), or the dataset is endless or too small.
    """
    dataset = pairs(dataset, name)
    if batch_size < 1:
        raise InputError(f"The {name} batch size is {batch_size}; it must be 1 or more.")
    if dataset.element_spec[1].shape[0] != batch_size:
        dataset = dataset.unbatch().batch(batch_size, drop_remainder=True)
    count = steps_per_epoch
    if count is None:
        count = int(dataset.cardinality())
        if count == tf.data.UNKNOWN_CARDINALITY:
            count = int(dataset.reduce(np.int64(0), lambda total, _: total + 1))
    if count == tf.data.INFINITE_CARDINALITY:
        raise InputError(f"The {name} dataset is endless. Give steps_per_epoch, or end it with take(...).")
    if count <= 0:
        argument = "meta_batch_size" if name == "meta" else "batch_size"
        raise InputError(
            f"The {name} dataset is smaller than one batch of {batch_size}. Give a smaller {argument}, or a larger"
            " dataset."
        )
    return DatasetFeed(dataset, batch_size, count, name, num_classes)


def evaluation_feed(
    data, batch_size: int, preprocessing: Preprocessing | None, name: str, share: Share = WHOLE, num_classes=None
) -> tf.data.Dataset:
    """Finite batches {"image", "label", "mask"} of a table, of arrays (images, labels) or of a batched dataset.

    Args:
        data: The set.
        batch_size: Global, for tables and arrays; a dataset keeps its own.
        preprocessing: For tables; None takes the images as they are.
        name: For messages.
        share: The share of every batch that is made. A batch that cannot be divided is filled up, with mask 0.
        num_classes: K, to check the labels of datasets against as they are read; None checks nothing.

    Raises:
        InputError: If the set is none of the three, is empty, or has no end.
    """
    if isinstance(data, tf.data.Dataset):
        check_measurable(data, name)

        def as_batch(image, label):
            label = checked_labels(label, num_classes, name)
            batch = {"image": tf.cast(image, tf.float32), "label": label, "mask": tf.ones_like(label, tf.float32)}
            return batch_shares.share_of(batch_shares.filled_up(batch, share.count), share)

        return pairs(data, name).map(as_batch).prefetch(tf.data.AUTOTUNE)
    table, preprocessing = as_table(data, preprocessing, name)
    batch_size = max(min(batch_size, len(table)), 1)
    batch_size += -batch_size % share.count
    return pipeline.evaluation_batches(table, batch_size=batch_size, preprocessing=preprocessing, share=share)


def check_measurable(dataset: tf.data.Dataset, name: str) -> None:
    """Refuses a dataset that is known to have no end or no examples.

    Raises:
        InputError: If it is so.
    """
    count = dataset.cardinality()
    if count == tf.data.INFINITE_CARDINALITY:
        raise InputError(f"The {name} dataset is endless, so it cannot be measured whole. End it with take(...).")
    if count == 0:
        raise InputError(f"The {name} dataset has no examples; give at least one.")


def as_table(data, preprocessing: Preprocessing | None, name: str):
    """A table and its preprocessing from a table or from arrays (images, labels), which are taken as they are.

    Raises:
        InputError: If `data` is neither.
    """
    if isinstance(data, ExampleTable):
        return data, preprocessing
    if isinstance(data, (tuple, list)) and len(data) == 2:
        return table_from_arrays(*data, name), None
    raise InputError(
        f"The {name} set is a {type(data).__name__}; a pair of arrays (images, labels), a tf.data.Dataset of batches"
        " (image, label) or an ExampleTable is expected."
    )


def training_feed(
    data,
    *,
    batch_size: int,
    seed: int,
    stream: str,
    preprocessing: Preprocessing | None,
    augment: bool,
    steps_per_epoch: int | None = None,
    class_balanced: bool = False,
    num_classes: int | None = None,
):
    """A feed of whatever the user gave: a table, arrays (images, labels) or a batched `tf.data.Dataset`.

    Args:
        data: The set.
        batch_size: Global.
        seed: Of the order and the augmentation.
        stream: "train" or "meta"; also names the set in messages.
        preprocessing: For tables.
        augment: For tables.
        steps_per_epoch: None for as many as the set fills. Needed for datasets of unknown or endless length.
        class_balanced: Whether every batch takes as many examples of each class (by given label); for tables and
            arrays. `steps_per_epoch` may then be more than the set fills.
        num_classes: K, to check the labels of datasets against as they are read; None checks nothing.

    Raises:
        InputError: If the data cannot be fed.
    """
    if isinstance(data, tf.data.Dataset):
        if class_balanced:
            raise InputError(
                f"The {stream} set is a tf.data.Dataset, whose order is its own, and balanced classes were asked for."
                " Give a table or arrays, or balance the dataset yourself (tf.data.Dataset.rejection_resample)."
            )
        return dataset_feed(data, batch_size, steps_per_epoch, stream, num_classes)
    table, preprocessing = as_table(data, preprocessing, stream)
    return TableFeed(table, batch_size, seed, stream, preprocessing, augment, steps_per_epoch, class_balanced)
