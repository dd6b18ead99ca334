"""Batches of pictures that stay on disk: read and decoded several at a time, the unreadable ones replaced."""

import tensorflow as tf

from famus_tf.data import decoding
from famus_tf.data.examples import Preprocessing
from famus_tf.data.pictures import AbstractPictures


def decoded_batches(
    pictures: AbstractPictures,
    plans: tf.data.Dataset,
    batch_size: int,
    preprocessing: Preprocessing | None,
    *,
    crops_anywhere: bool,
) -> tf.data.Dataset:
    """Reads and decodes the rows of a dataset of batches.

    Args:
        pictures: The set.
        plans: Of dictionaries: "row" int64 [B], of which those from N on give nothing; for random crops "draws" float32
            [B, 3] as for `augmentation.pad_crop_flip`; and anything else of B rows.
        batch_size: B.
        preprocessing: Says how pictures are resized; None resizes them straight to the set's size.
        crops_anywhere: Whether crops are random; otherwise central.

    Returns:
        The same dictionaries with "image" uint8 [B, H, W, 3], black where there is none, and "valid" float32 [B].
    """
    shorter_side = 0 if preprocessing is None else preprocessing.shorter_side
    nothing = tf.zeros([*pictures.size, 3], tf.uint8), tf.constant(0.0)

    def read_and_decode(element: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        place = element["draws"][:2] if crops_anywhere else None
        encoded = pictures.read(element["row"])
        return decoding.decode(encoded, pictures.size, shorter_side=shorter_side, place=place), tf.constant(1.0)

    def with_picture(element: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        image, valid = tf.cond(
            element["row"] < len(pictures),
            lambda: decoding.unless_it_fails(read_and_decode, element, nothing),
            lambda: nothing,
        )
        return {**element, "image": image, "valid": valid}

    # One by one, so that all cores decode and none waits for the slowest picture of a batch.
    elements = plans.unbatch().map(with_picture, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return elements.batch(batch_size, drop_remainder=True)


def with_good_pictures(images: tf.Tensor, valid: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Puts the first good picture of a batch in the place of each that could not be decoded.

    Args:
        images: [B, H, W, 3] uint8.
        valid: [B] float32, 0 where there is none.

    Returns:
        The images, and the row that each came from, [B] int32; nothing is changed where no picture is good.
    """
    is_good = valid > 0.0
    first_good = tf.argmax(is_good, output_type=tf.int32)
    source = tf.where(is_good, tf.range(tf.size(valid)), first_good)
    return tf.cond(tf.reduce_all(is_good), lambda: images, lambda: tf.gather(images, source)), source
