"""Tests of famus_tf.data.decoding: every format, every defect, and resizing against its definition."""

import numpy as np
import pytest
import tensorflow as tf

from famus_tf.data import decoding
from tests import sample_pictures
from tests.sample_pictures import HEIGHT, WIDTH

OWN_SIZE = (HEIGHT, WIDTH)
NO_PICTURE = tf.zeros([*OWN_SIZE, 3], tf.uint8), tf.constant(False)


@tf.function
def decode_or_not(encoded):
    """The pixels and True, or black and False."""
    return decoding.unless_it_fails(lambda e: (decoding.decode(e, OWN_SIZE), True), encoded, NO_PICTURE)


@pytest.mark.parametrize("name", sample_pictures.formats())
def test_every_format_is_decoded_as_pillow_does(name):
    encoded = sample_pictures.formats()[name]
    image, is_good = decode_or_not(tf.constant(encoded))
    assert is_good and image.dtype == tf.uint8
    # Libraries differ in how they turn ink into light, and in nothing else.
    tolerance = 3 if name == "cmyk jpeg" else 0
    expected = sample_pictures.decoded_by_pillow(encoded).astype(int)
    np.testing.assert_allclose(image.numpy().astype(int), expected, rtol=0, atol=tolerance)
    assert np.ptp(expected) > 100


def test_16_bits_per_channel_lose_their_lower_8():
    deep = sample_pictures.scene().astype(np.uint16) * 256 + 199
    image, is_good = decode_or_not(tf.io.encode_png(deep))
    assert is_good
    np.testing.assert_array_equal(image, sample_pictures.scene())


def test_a_gif_shows_its_first_frame():
    still, animated = (decode_or_not(tf.constant(sample_pictures.formats()[n]))[0] for n in ("gif", "animated gif"))
    np.testing.assert_array_equal(still, animated)


@pytest.mark.parametrize("name", sample_pictures.defects())
def test_what_is_no_picture_gives_the_fallback(name):
    image, is_good = decode_or_not(tf.constant(sample_pictures.defects()[name]))
    assert not is_good
    np.testing.assert_array_equal(image, NO_PICTURE[0])


@pytest.mark.parametrize("start", [b"BM", b"RIFF", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
@pytest.mark.parametrize("rest", [b"", b"\0" * 60])
def test_a_format_s_first_bytes_alone_are_no_picture(start, rest):
    assert not decode_or_not(tf.constant(start + rest))[1]


def test_one_pixel_fills_the_picture():
    encoded = sample_pictures.encoded_by_pillow(np.full([1, 1, 3], (9, 99, 199), np.uint8), "PNG")
    image = decoding.decode(tf.constant(encoded), (3, 4), shorter_side=5)
    np.testing.assert_array_equal(image, np.broadcast_to(np.uint8([9, 99, 199]), [3, 4, 3]))


@pytest.mark.parametrize(
    ("height", "width", "size", "shorter_side", "resized"),
    [
        (40, 50, (16, 16), 20, (20, 25)),  # landscape, smaller
        (50, 40, (16, 16), 20, (25, 20)),  # portrait
        (9, 13, (16, 12), 18, (18, 26)),  # larger
        (31, 100, (16, 16), 17, (17, 55)),  # 54.84 is rounded up
        (40, 50, (16, 12), 0, (16, 12)),  # straight to the size
        (40, 50, (24, 16), 20, (24, 25)),  # never smaller than what is cut out
    ],
)
def test_the_center_is_cut_out_of_the_resized_picture(height, width, size, shorter_side, resized):
    image = sample_pictures.scene(height, width)
    whole = sample_pictures.resized_by_hand(image, *resized)
    top, left = (resized[0] - size[0]) // 2, (resized[1] - size[1]) // 2
    expected = whole[top : top + size[0], left : left + size[1]]
    result = decoding.resize_and_cut(tf.constant(image), size, shorter_side=shorter_side)
    np.testing.assert_allclose(result.numpy().astype(float), expected, rtol=0, atol=0.5 + 1e-3)


@pytest.mark.parametrize(
    ("place", "top", "left"),
    [
        ((0.0, 0.0), 0, 0),
        ((np.nextafter(np.float32(1), np.float32(0)),) * 2, 4, 9),  # 20 - 16 and 25 - 16
        ((0.5, 0.25), 2, 2),  # of 5 and 10 places
        ((0.19, 0.91), 0, 9),
    ],
)
def test_a_place_names_one_of_the_windows(place, top, left):
    image = sample_pictures.scene(40, 50)
    expected = sample_pictures.resized_by_hand(image, 20, 25)[top : top + 16, left : left + 16]
    place = tf.constant(place, tf.float32)
    result = decoding.resize_and_cut(tf.constant(image), (16, 16), shorter_side=20, place=place)
    np.testing.assert_allclose(result.numpy().astype(float), expected, rtol=0, atol=0.5 + 1e-3)


@pytest.mark.parametrize(
    ("height", "width", "size", "shorter_side", "ratio"),
    [
        (199, 300, (80, 80), 100, 1),
        (200, 300, (80, 80), 100, 2),
        (800, 801, (80, 80), 100, 8),
        (399, 1600, (80, 80), 100, 2),
        (400, 1600, (80, 80), 100, 4),
        (100, 400, (50, 40), 0, 2),  # the height has 2 to spare, the width 10
        (400, 100, (50, 40), 0, 2),
    ],
)
def test_a_large_jpeg_is_shrunk_while_it_is_decoded_as_far_as_it_may(height, width, size, shorter_side, ratio):
    encoded = tf.constant(sample_pictures.jpeg(height, width))

    def at(ratio):
        image = tf.io.decode_jpeg(encoded, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")
        return decoding.resize_and_cut(image, size, shorter_side=shorter_side).numpy().astype(int)

    result = decoding.decode(encoded, size, shorter_side=shorter_side).numpy().astype(int)
    np.testing.assert_array_equal(result, at(ratio))
    assert ratio == 1 or (result != at(1)).any()
    np.testing.assert_allclose(result, at(1), rtol=0, atol=12)
    assert np.abs(result - at(1)).mean() < 1.0


def test_only_what_fails_is_caught_and_the_rest_goes_on():
    def positive(x):
        with tf.control_dependencies([tf.debugging.assert_positive(x)]):
            return tf.identity(x), 2 * x

    numbers = tf.data.Dataset.from_tensor_slices([1, -2, 3])
    caught = numbers.map(lambda x: decoding.unless_it_fails(positive, x, (tf.constant(0), tf.constant(7))))
    assert [(int(a), int(b)) for a, b in caught] == [(1, 2), (0, 7), (3, 6)]
