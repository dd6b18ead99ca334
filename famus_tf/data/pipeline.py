"""From a table of examples to batches.

The order is computed, never stored: which examples form step t, and how each is cropped and
flipped, is a function of (seed, stream, t). A run that stops at any step goes on from there bit for
bit, and there is no iterator or shuffle buffer to save.

Pictures that stay on disk are read and decoded here, several at a time, a few batches ahead. One that
cannot be decoded neither stops a run nor leaves a gap: a good one of the same batch stands in its
place, and the batch says so.
"""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from famus_tf.data import augmentation, batch_shares, class_balance, picture_batches
from famus_tf.data.batch_shares import WHOLE, Share
from famus_tf.data.examples import ExampleTable, Preprocessing
from famus_tf.data.pictures import AbstractPictures
from famus_tf.errors import InputError

LABEL_CHOICES = ("given", "true")
_END_OF_TIME = np.iinfo(np.int64).max
_PICTURE_BATCHES_AHEAD = 2


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
    class_balanced: bool = False,
    share: Share = WHOLE,
) -> tf.data.Dataset:
    """Returns shuffled batches from global step `start_step` on.

    An epoch is `steps_per_epoch` batches; it visits no example twice. The N - steps_per_epoch *
    batch_size examples it leaves out are others in every epoch. With `class_balanced` every batch
    holds equally many examples of each class instead, as `class_balance.balanced_order` says.

    Args:
        table: The examples.
        batch_size: The global batch B, over all replicas.
        steps_per_epoch: Batches per epoch, at most N // B unless `class_balanced`.
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
        class_balanced: Whether every batch takes as many examples of each class (by given label).
        share: The share of every global batch that is made; B must be divisible by their number.
            The others are neither read nor decoded.

    Returns:
        A dataset of dictionaries, of B / share.count rows each: "index" int32 [B], the rows in
        `table`; "image" float32 [B, H, W, C], normalised; "label" int32 [B], the given labels.
        Where the table's pictures stay on disk, also "valid" float32 [B]: 0 where the picture could
        not be decoded. Image and label are there those of the first good example in the batch, or
        in the share (zeros if there is none), and the index is the unreadable example's own.

    Raises:
        InputError: If the batch is larger than the table, an epoch asks for more than the table
            has, or a number is out of range.
    """
    check_steps(table, batch_size, steps_per_epoch, stream, class_balanced=class_balanced)
    num_examples = len(table)
    end_step = _END_OF_TIME if num_steps is None else num_steps
    if not 0 <= start_step <= end_step:
        raise InputError(f"start_step is {start_step}; it must be 0 or more and at most num_steps, {num_steps}.")
    order_seed, augmentation_seed = _stream_seeds(seed, stream)
    labels = _in_memory(table.given_labels)
    augments = augment and preprocessing is not None
    if class_balanced:
        batch_rows_of = class_balance.balanced_order(table.given_labels, batch_size=batch_size, seed=int(order_seed))
    else:
        batch_rows_of = functools.partial(
            _shuffled_rows,
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
            num_examples=num_examples,
            order_seed=order_seed,
        )

    def rows_of(step: tf.Tensor) -> tf.Tensor:
        return batch_shares.rows_of(batch_rows_of(step), share)

    def draws_of(step: tf.Tensor) -> tf.Tensor:
        seed = tf.stack([augmentation_seed, step])
        draws = tf.random.stateless_uniform([batch_size, augmentation.NUM_DRAWS], seed=seed, alg="philox")
        return batch_shares.rows_of(draws, share)

    def finished(index: tf.Tensor, images: tf.Tensor, draws: tf.Tensor, label: tf.Tensor) -> dict[str, tf.Tensor]:
        if augments:
            images = augmentation.pad_crop_flip(images, draws, preprocessing)
        return {
            "index": tf.cast(index, tf.int32),
            "image": _network_inputs(images, preprocessing),
            "label": label,
        }

    steps = tf.data.Dataset.range(start_step, end_step)
    if isinstance(table.images, AbstractPictures):
        plans = steps.map(lambda step: {"row": rows_of(step), "draws": draws_of(step)})
        crops_anywhere = augments and preprocessing.crop == "random"
        decoded = picture_batches.decoded_batches(
            table.images, plans, batch_size // share.count, preprocessing, crops_anywhere=crops_anywhere
        )

        def make_picture_batch(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            images, source = picture_batches.with_good_pictures(batch["image"], batch["valid"])
            label = tf.gather(labels, tf.gather(batch["row"], source))
            label *= tf.cast(tf.reduce_any(batch["valid"] > 0.0), tf.int32)
            return {**finished(batch["row"], images, batch["draws"], label), "valid": batch["valid"]}

        return _mapped(decoded, make_picture_batch, _PICTURE_BATCHES_AHEAD)
    images = _in_memory(table.images)

    def make_batch(step: tf.Tensor) -> dict[str, tf.Tensor]:
        index = rows_of(step)
        draws = draws_of(step) if augments else None
        return finished(index, tf.gather(images, index), draws, tf.gather(labels, index))

    return _mapped(steps, make_batch)


def check_steps(
    table: ExampleTable, batch_size: int, steps_per_epoch: int, stream: str, *, class_balanced: bool
) -> None:
    """Refuses what `training_batches` refuses.

    Args:
        table: As there, and so are the others.
        batch_size: See `table`.
        steps_per_epoch: See `table`.
        stream: See `table`.
        class_balanced: See `table`.

    Raises:
        InputError: If the batch is larger than the table, or an epoch asks for more than the table has.
    """
    _check_table(table, batch_size)
    num_examples = len(table)
    if batch_size > num_examples:
        raise InputError(
            f"A batch of {batch_size} cannot be drawn from {num_examples} examples ({stream}); use a smaller batch."
        )
    most = num_examples // batch_size
    if steps_per_epoch < 1 or (steps_per_epoch > most and not class_balanced):
        raise InputError(
            f"steps_per_epoch is {steps_per_epoch}; {num_examples} examples ({stream}) in batches "
            f"of {batch_size} make 1 to {most} steps."
        )


def evaluation_batches(
    table: ExampleTable,
    *,
    batch_size: int,
    preprocessing: Preprocessing | None,
    labels: str = "given",
    share: Share = WHOLE,
) -> tf.data.Dataset:
    """Returns every example once, in the table's order, normalised and not augmented.

    All batches have the same shape, so that a compiled step is traced once: the last one is filled
    up with copies of the last example whose mask is 0.

    Args:
        table: The examples.
        batch_size: The global batch B, over all replicas.
        preprocessing: How images become inputs; None passes them on as they are, as float32.
        labels: "given" or "true".
        share: The share of every global batch that is made, as for `training_batches`.

    Returns:
        A finite dataset of dictionaries, of B / share.count rows each: "image" float32 [B, H, W,
        C]; "label" int32 [B]; "mask" float32 [B], 1 for an example and 0 for filling. The masks of
        all shares sum to N, less the number of pictures that could not be decoded: the mask is 0
        for them too.

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
    label_column = _in_memory(chosen_labels)
    num_batches = -(-num_examples // batch_size)
    steps = tf.data.Dataset.range(num_batches)

    def positions(step: tf.Tensor) -> tf.Tensor:
        return step * batch_size + batch_shares.rows_of(tf.range(batch_size, dtype=tf.int64), share)

    if isinstance(table.images, AbstractPictures):
        plans = steps.map(lambda step: {"row": positions(step)})
        decoded = picture_batches.decoded_batches(
            table.images, plans, batch_size // share.count, preprocessing, crops_anywhere=False
        )

        def make_picture_batch(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            images, source = picture_batches.with_good_pictures(batch["image"], batch["valid"])
            row = tf.minimum(tf.gather(batch["row"], source), num_examples - 1)
            return {
                "image": _network_inputs(images, preprocessing),
                "label": tf.gather(label_column, row),
                "mask": batch["valid"],
            }

        batches = _mapped(decoded, make_picture_batch, _PICTURE_BATCHES_AHEAD)
        return batches.apply(tf.data.experimental.assert_cardinality(num_batches))
    images = _in_memory(table.images)

    def make_batch(step: tf.Tensor) -> dict[str, tf.Tensor]:
        position = positions(step)
        row = tf.minimum(position, num_examples - 1)
        return {
            "image": _network_inputs(tf.gather(images, row), preprocessing),
            "label": tf.gather(label_column, row),
            "mask": tf.cast(position < num_examples, tf.float32),
        }

    return _mapped(steps, make_batch)


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


def _mapped(
    steps: tf.data.Dataset,
    make_batch: Callable[[Any], dict[str, tf.Tensor]],
    batches_ahead: int = tf.data.AUTOTUNE,
) -> tf.data.Dataset:
    batches = steps.map(make_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(batches_ahead)


def _check_table(table: ExampleTable, batch_size: int) -> None:
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; it must be 1 or more.")
    if not len(table):
        raise InputError("The table has no examples; there is nothing to make batches of.")
