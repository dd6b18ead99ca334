"""From a table of examples to batches.

The order is computed, never stored: which examples form step t, and how each is cropped and
flipped, is a function of (seed, stream, t). A run that stops at any step goes on from there bit for
bit, and there is no iterator or shuffle buffer to save.
"""

import hashlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from famus_tf.data import augmentation
from famus_tf.data.examples import ExampleTable, Preprocessing
from famus_tf.errors import InputError

LABEL_CHOICES = ("given", "true")
_END_OF_TIME = np.iinfo(np.int64).max


def training_batches(
    table: ExampleTable,
    *,
    batch_size: int,
    steps_per_epoch: int,
    seed: int,
    preprocessing: Preprocessing | None,
    augment: bool,
    start_step: int = 0,
    num_steps: int | None = None,
    stream: str = "train",
) -> tf.data.Dataset:
    """Returns shuffled batches from global step `start_step` on.

    An epoch is `steps_per_epoch` batches; it visits no example twice. The N - steps_per_epoch *
    batch_size examples it leaves out are others in every epoch.

    Args:
        table: The examples.
        batch_size: The global batch B, over all replicas.
        steps_per_epoch: Batches per epoch, at most N // B.
        seed: Any integer.
        preprocessing: How images become inputs; None passes them on as they are, as float32, and
            nothing is augmented.
        augment: Whether to crop and flip as `preprocessing` says; otherwise images are normalised
            only.
        start_step: The global step of the first batch. Starting late costs no more than starting at
            0.
        num_steps: The global step at which the batches end, so that there are num_steps -
            start_step of them; None for no end.
        stream: A name; batches of different streams (such as "train" and "meta") are independent
            for the same seed.

    Returns:
        A dataset of dictionaries: "index" int32 [B], the rows in `table`; "image" float32 [B, H, W,
        C], normalised; "label" int32 [B], the given labels.

    Raises:
        InputError: If the batch is larger than the table, an epoch asks for more than the table
            has, or a number is out of range.
    """
    _check_table(table, batch_size)
    num_examples = len(table)
    if batch_size > num_examples:
        raise InputError(
            f"A batch of {batch_size} cannot be drawn from {num_examples} examples ({stream}); use a smaller batch."
        )
    if not 1 <= steps_per_epoch <= num_examples // batch_size:
        raise InputError(
            f"steps_per_epoch is {steps_per_epoch}; {num_examples} examples ({stream}) in batches "
            f"of {batch_size} "
            f"make 1 to {num_examples // batch_size} steps."
        )
    end_step = _END_OF_TIME if num_steps is None else num_steps
    if not 0 <= start_step <= end_step:
        raise InputError(f"start_step is {start_step}; it must be 0 or more and at most num_steps, {num_steps}.")
    order_seed, augmentation_seed = _stream_seeds(seed, stream)
    images, labels = _in_memory(table.images), _in_memory(table.given_labels)

    def make_batch(step: tf.Tensor) -> dict[str, tf.Tensor]:
        index = _shuffled_rows(step, batch_size, steps_per_epoch, num_examples, order_seed)
        batch_images = tf.gather(images, index)
        if augment and preprocessing is not None:
            draws = tf.random.stateless_uniform(
                [batch_size, augmentation.NUM_DRAWS],
                seed=tf.stack([augmentation_seed, step]),
                alg="philox",
            )
            batch_images = augmentation.pad_crop_flip(batch_images, draws, preprocessing)
        return {
            "index": tf.cast(index, tf.int32),
            "image": _network_inputs(batch_images, preprocessing),
            "label": tf.gather(labels, index),
        }

    return _mapped(tf.data.Dataset.range(start_step, end_step), make_batch)


def evaluation_batches(
    table: ExampleTable,
    *,
    batch_size: int,
    preprocessing: Preprocessing | None,
    labels: str = "given",
) -> tf.data.Dataset:
    """Returns every example once, in the table's order, normalised and not augmented.

    All batches have the same shape, so that a compiled step is traced once: the last one is filled
    up with copies of the last example whose mask is 0.

    Args:
        table: The examples.
        batch_size: The global batch B, over all replicas.
        preprocessing: How images become inputs; None passes them on as they are, as float32.
        labels: "given" or "true".

    Returns:
        A finite dataset of dictionaries: "image" float32 [B, H, W, C]; "label" int32 [B]; "mask"
        float32 [B], 1 for an example and 0 for filling. The masks sum to N.

    Raises:
        InputError: If the table is empty, the batch is below 1, or true labels are asked for and
            unknown.
    """
    _check_table(table, batch_size)
    if labels not in LABEL_CHOICES:
        raise InputError(f"labels is '{labels}'; choose one of {', '.join(LABEL_CHOICES)}.")
    chosen_labels = table.given_labels if labels == "given" else table.true_labels
    if chosen_labels is None:
        raise InputError("True labels were asked for, but this table has none; use labels='given'.")
    num_examples = len(table)
    images, label_column = _in_memory(table.images), _in_memory(chosen_labels)

    def make_batch(step: tf.Tensor) -> dict[str, tf.Tensor]:
        position = step * batch_size + tf.range(batch_size, dtype=tf.int64)
        row = tf.minimum(position, num_examples - 1)
        return {
            "image": _network_inputs(tf.gather(images, row), preprocessing),
            "label": tf.gather(label_column, row),
            "mask": tf.cast(position < num_examples, tf.float32),
        }

    return _mapped(tf.data.Dataset.range(-(-num_examples // batch_size)), make_batch)


def _network_inputs(images: tf.Tensor, preprocessing: Preprocessing | None) -> tf.Tensor:
    if preprocessing is None:
        return tf.cast(images, tf.float32)
    return tf.ensure_shape(augmentation.normalize(images, preprocessing), images.shape)


def _shuffled_rows(
    step: tf.Tensor, batch_size: int, steps_per_epoch: int, num_examples: int, order_seed: np.int64
) -> tf.Tensor:
    """Returns the rows [B] int64 of global step `step` (int64 scalar)."""
    epoch = step // steps_per_epoch
    position = (step % steps_per_epoch) * batch_size + tf.range(batch_size, dtype=tf.int64)
    # `index_shuffle` uses few bits of its seed: a plain epoch counter as seed gives 256 different
    # orders at most, and uneven ones. So the epoch goes through a generator first.
    epoch_seed = tf.random.stateless_uniform(
        [2],
        seed=tf.stack([order_seed, epoch]),
        minval=None,
        maxval=None,
        dtype=tf.int64,
        alg="philox",
    )
    last_row = tf.constant(num_examples - 1, tf.int64)
    return tf.random.experimental.index_shuffle(position, seed=epoch_seed, max_index=last_row)


def _stream_seeds(seed: int, stream: str) -> np.ndarray:
    """Returns two int64 seeds, for the order and for the augmentation."""
    digest = hashlib.blake2b(f"batches\n{int(seed)}\n{stream}".encode(), digest_size=16).digest()
    return np.frombuffer(digest, dtype="<i8").astype(np.int64)


def _in_memory(array: np.ndarray) -> tf.Tensor:
    # On the CPU, where tf.data runs; and an eager tensor, which a dataset captures without writing
    # it into its graph (a graph may not exceed 2 GB).
    with tf.device("CPU:0"):
        return tf.constant(array)


def _mapped(steps: tf.data.Dataset, make_batch: Callable[[tf.Tensor], dict[str, tf.Tensor]]) -> tf.data.Dataset:
    batches = steps.map(make_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(tf.data.AUTOTUNE)


def _check_table(table: ExampleTable, batch_size: int) -> None:
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; it must be 1 or more.")
    if not len(table):
        raise InputError("The table has no examples; there is nothing to make batches of.")
