"""From the bytes of a picture to uint8 pixels of the wanted size, inside a graph.

The format is told by the content, never by a file's name: JPEG (grey and CMYK too), PNG (palette, alpha, 16 bits), GIF
(its first frame), WebP and BMP. Alpha is dropped, and EXIF orientation is not looked at, as in torchvision's loaders.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

# By how much libjpeg can shrink a picture while it decodes it, for nearly nothing.
_JPEG_RATIOS = (1, 2, 4, 8)
_JPEG_START, _BMP_START = b"\xff\xd8\xff", b"BM"
# Where a BMP file says how long its second header is, and how many bits a pixel takes.
_BMP_HEADER_LENGTH_AT, _BMP_BITS_AT = 14, 28


def decode(
    encoded: tf.Tensor, size: tuple[int, int], *, shorter_side: int = 0, place: tf.Tensor | None = None
) -> tf.Tensor:
    """Returns a picture's pixels at the wanted size.

    A JPEG much larger than needed is shrunk by 2, 4 or 8 while it is decoded, as far as both sides stay at least as
    large as they are to become; what remains is done by `resize_and_cut`. Differs from decoding in full: single pixels
    by a few units.

    Args:
        encoded: Scalar string, the bytes of a picture of any size.
        size: (H, W) of the result in pixels.
        shorter_side: See `resize_and_cut`.
        place: See `resize_and_cut`.

    Returns:
        [H, W, 3] uint8, RGB.

    Raises:
        tf.errors.InvalidArgumentError: While the graph runs, if the bytes are no picture, or only a part of one.
    """
    image = tf.cond(
        tf.strings.substr(encoded, 0, len(_JPEG_START)) == _JPEG_START,
        lambda: _decode_jpeg(encoded, size, shorter_side),
        lambda: _decode_other(encoded),
    )
    return resize_and_cut(tf.ensure_shape(image, [None, None, 3]), size, shorter_side=shorter_side, place=place)


def resize_and_cut(
    image: tf.Tensor, size: tuple[int, int], *, shorter_side: int = 0, place: tf.Tensor | None = None
) -> tf.Tensor:
    """Resizes an image, bilinear and antialiased, and cuts a window out; only the window's pixels are computed.

    Args:
        image: [h, w, 3] uint8.
        size: (H, W) of the result in pixels.
        shorter_side: To how many pixels the shorter side is resized, the longer in proportion (but neither below H and
            W); 0 resizes straight to (H, W).
        place: [2] float32 in [0, 1), where the window's top and left edge lie among the possible places; None for the
            central window.

    Returns:
        [H, W, 3] uint8, rounded.
    """
    sides = tf.shape(image)[:2]
    resized = tf.constant(size, tf.int32)
    offset = tf.zeros([2], tf.int32)
    if shorter_side:
        exact = tf.cast(sides, tf.float64) * (shorter_side / tf.cast(tf.reduce_min(sides), tf.float64))
        resized = tf.maximum(tf.cast(tf.round(exact), tf.int32), resized)
        room = resized - tf.constant(size, tf.int32)
        # The minimum, because a float32 product may be rounded up to room + 1.
        offset = (
            room // 2 if place is None else tf.minimum(tf.cast(place * tf.cast(room + 1, tf.float32), tf.int32), room)
        )
    # What tf.image.resize(..., antialias=True) calls too, with an origin of 0.
    window = tf.raw_ops.ScaleAndTranslate(
        images=image[tf.newaxis],
        size=tf.constant(size, tf.int32),
        scale=tf.cast(resized, tf.float32) / tf.cast(sides, tf.float32),
        translation=-tf.cast(offset, tf.float32),
        kernel_type="triangle",
        antialias=True,
    )
    return tf.ensure_shape(tf.saturate_cast(tf.round(window[0]), tf.uint8), [*size, 3])


def unless_it_fails(function: Callable[[tf.Tensor], Any], argument: Any, fallback: Any) -> Any:
    """Calls a function inside a graph and catches what it raises there, which TensorFlow has no operation for.

    A dataset can ignore the errors of its elements, so the call becomes a dataset of one element, and another follows
    in case there is none. That costs 0.1 to 0.2 ms, a tenth of what it takes to decode and resize a photograph.

    Args:
        function: Of the argument.
        argument: A tensor or a nest of tensors.
        fallback: What is returned in place of the function's result; of the same structure, types and shapes.

    Returns:
        What the function returns, or `fallback`.
    """
    attempt = tf.data.Dataset.from_tensors(argument).map(function).ignore_errors()
    return attempt.concatenate(tf.data.Dataset.from_tensors(fallback)).take(1).get_single_element()


def _decode_jpeg(encoded: tf.Tensor, size: tuple[int, int], shorter_side: int) -> tf.Tensor:
    sides = tf.image.extract_jpeg_shape(encoded)[:2]
    needed = tf.constant(size, tf.int32)
    if shorter_side:
        needed = tf.maximum(needed, shorter_side)
    # Both sides for the shorter one's sake: the longer has at least as much to spare.
    spare = tf.reduce_min(sides // needed)
    number = tf.reduce_sum(tf.cast(spare >= tf.constant(_JPEG_RATIOS[1:]), tf.int32))

    def branch(ratio):
        # The accurate transform: the fast one differs from other libraries' pixels.
        return lambda: tf.io.decode_jpeg(encoded, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")

    return tf.switch_case(number, [branch(ratio) for ratio in _JPEG_RATIOS])


def _decode_other(encoded: tf.Tensor) -> tf.Tensor:
    return tf.cond(
        (tf.strings.substr(encoded, 0, len(_BMP_START)) == _BMP_START)
        & (tf.strings.length(encoded) > _BMP_BITS_AT)
        & (_byte_at(encoded, _BMP_BITS_AT) == 8),
        lambda: _decode_palette_bmp(encoded),
        lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
    )


def _decode_palette_bmp(encoded: tf.Tensor) -> tf.Tensor:
    # TensorFlow takes the places in the palette for grey levels.
    numbers = tf.io.decode_bmp(encoded, channels=0)[:, :, 0]
    palette_at = _BMP_HEADER_LENGTH_AT + _byte_at(encoded, _BMP_HEADER_LENGTH_AT)
    palette = tf.io.decode_raw(tf.strings.substr(encoded, palette_at, 4 * 256), tf.uint8)
    colors = tf.reshape(palette[: tf.size(palette) // 4 * 4], [-1, 4])[:, 2::-1]  # stored as blue, green, red, unused
    return tf.gather(colors, tf.cast(numbers, tf.int32))


def _byte_at(encoded: tf.Tensor, position: int) -> tf.Tensor:
    """Returns one byte as an int32; 0 beyond the end."""
    one = tf.io.decode_raw(tf.strings.substr(tf.strings.join([encoded, "\0" * (position + 1)]), position, 1), tf.uint8)
    return tf.cast(one[0], tf.int32)
