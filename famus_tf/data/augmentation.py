"""Random crops, flips and normalisation of a whole batch at once.

All randomness comes in as an argument, so each function is pure: the same inputs give the same
images, eagerly, in a `tf.function` and in a `tf.data` pipeline.
"""

import numpy as np
import tensorflow as tf

from famus_tf.data.examples import Preprocessing
from famus_tf.errors import InputError

NUM_DRAWS = 3
"""Random numbers per image that `pad_crop_flip` takes: crop's top, crop's left, flip."""


def normalize(images: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Returns (image / 255 - mean) / std, channels in the order that the network takes.

    Args:
        images: [B, H, W, C] of any number type, pixels in 0..255; H, W and C known.
        preprocessing: Mean and standard deviation of each channel, for pixels in [0, 1], and the order of the result's
            channels.

    Returns:
        [B, H, W, C] float32.
    """
    height, width, _ = _image_shape(images)
    # One multiplication and one addition with whole rows of pixels: broadcasting over the short
    # channel axis is several times slower on a CPU.
    mean, std = np.float64(preprocessing.mean), np.float64(preprocessing.std)
    scale = np.tile(1.0 / (255.0 * std), height * width).astype(np.float32)
    offset = np.tile(-mean / std, height * width).astype(np.float32)
    flat = tf.reshape(tf.cast(images, tf.float32), [-1, scale.size])
    scaled = tf.reshape(flat * scale + offset, [-1, *images.shape[1:]])
    return scaled[..., ::-1] if preprocessing.channel_order == "bgr" else scaled


def pad_crop_flip(images: tf.Tensor, draws: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Pads each image, cuts a random window of the old size, and mirrors half of the images.

    Mirroring swaps left and right. The window's top and left edge are uniform over the 2 padding +
    1 places each. Padding is done on pixels, before normalisation, as torchvision does: "zero" is
    black, not the mean colour.

    Args:
        images: [B, H, W, C] of any number type; H, W and C known.
        draws: [B, 3] float32 in [0, 1): top, left, flip (mirrored when below 0.5).
        preprocessing: Gives the padding in pixels, its mode, and whether to flip at all.

    Returns:
        [B, H, W, C] of the type of `images`.

    Raises:
        InputError: If "reflect" padding is as large as the image or larger.
    """
    height, width, channels = _image_shape(images)
    padding, reflects = preprocessing.padding, preprocessing.padding_mode == "reflect"
    if reflects and padding >= min(height, width):
        raise InputError(
            f"Reflecting {padding} pixels needs images larger than that, got {height} x {width}; "
            "use a smaller padding or padding_mode 'zero'."
        )
    if not padding and not preprocessing.flip:
        return images
    draws = tf.ensure_shape(draws, [None, NUM_DRAWS])
    rows = _window(draws[:, 0], height, padding)
    columns = _window(draws[:, 1], width, padding)
    if preprocessing.flip:
        columns = tf.where(draws[:, 2:] < 0.5, columns[:, ::-1], columns)

    # One gather of pixels out of the flattened batch; the padded images are never built.
    num_pixels = tf.shape(images)[0] * (height * width)
    image_starts = tf.range(0, num_pixels, height * width)[:, tf.newaxis]
    pixels = tf.reshape(images, [-1, channels])
    if reflects:
        row_starts = image_starts + _mirrored(rows, height) * width
        sources = row_starts[:, :, tf.newaxis] + _mirrored(columns, width)[:, tf.newaxis, :]
    else:
        # A black pixel is appended; a row or column outside of the image leads to it or beyond.
        pixels = tf.pad(pixels, [[0, 1], [0, 0]])
        row_starts = tf.where(_is_inside(rows, height), image_starts + rows * width, num_pixels)
        columns = tf.where(_is_inside(columns, width), columns, num_pixels)
        sources = row_starts[:, :, tf.newaxis] + columns[:, tf.newaxis, :]
        sources = tf.minimum(sources, num_pixels)
    result = tf.gather(pixels, sources)
    return tf.ensure_shape(result, [images.shape[0], height, width, channels])


def _window(draws: tf.Tensor, length: int, padding: int) -> tf.Tensor:
    """Returns [B, length] int32 consecutive source positions in [-padding, length + padding)."""
    num_places = 2 * padding + 1
    # The minimum, because a float32 product may be rounded up to num_places.
    start = tf.minimum(tf.cast(draws * num_places, tf.int32), num_places - 1)
    return start[:, tf.newaxis] - padding + tf.range(length)


def _mirrored(positions: tf.Tensor, length: int) -> tf.Tensor:
    """Mirrors positions in (-length, 2 length - 1) into [0, length), without repeating the edge."""
    return length - 1 - tf.abs(length - 1 - tf.abs(positions))


def _is_inside(positions: tf.Tensor, length: int) -> tf.Tensor:
    return (positions >= 0) & (positions < length)


def _image_shape(images: tf.Tensor) -> tuple[int, int, int]:
    shape = tf.TensorShape(images.shape)
    if shape.rank != 4 or None in shape[1:].as_list():
        raise InputError(f"images must have a known shape [B, H, W, C], got {shape}.")
    return tuple(shape[1:].as_list())
