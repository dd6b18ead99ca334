"""Tests of famus_tf.data.augmentation."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from famus_tf.data import augmentation
from famus_tf.data.examples import Preprocessing
from famus_tf.errors import InputError

PLAIN = Preprocessing(mean=(0.5,), std=(0.25,))
REFLECT = dataclasses.replace(PLAIN, padding=2, padding_mode="reflect", flip=True)
ZERO = dataclasses.replace(REFLECT, padding_mode="zero")


def random_images(num_images=50, height=6, width=5, channels=3):
    return np.random.default_rng(0).integers(1, 256, (num_images, height, width, channels), dtype=np.uint8)


def random_draws(num_images=50):
    return np.random.default_rng(1).random((num_images, 3), dtype=np.float32)


def crop_one_by_one(images, draws, preprocessing):
    """An independent reference: NumPy's own padding, a slice, a mirror."""
    padding = preprocessing.padding
    mode = {"reflect": "reflect", "zero": "constant"}[preprocessing.padding_mode]
    results = []
    for image, (top_draw, left_draw, flip_draw) in zip(images, draws, strict=True):
        top, left = int(top_draw * (2 * padding + 1)), int(left_draw * (2 * padding + 1))
        padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode=mode)
        window = padded[top : top + image.shape[0], left : left + image.shape[1]]
        results.append(window[:, ::-1] if preprocessing.flip and flip_draw < 0.5 else window)
    return np.stack(results)


def test_normalize_is_pixel_over_255_minus_mean_over_std():
    images = np.array([0, 51, 255], np.uint8).reshape(1, 1, 3, 1)
    # (0 - .5) / .25, (.2 - .5) / .25, (1 - .5) / .25
    np.testing.assert_allclose(augmentation.normalize(images, PLAIN)[0, 0, :, 0], [-2.0, -1.2, 2.0], rtol=1e-6)


def test_normalize_treats_each_channel_by_itself_and_takes_floats():
    preprocessing = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125))
    images = random_images()
    expected = (images / 255.0 - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    for given in (images, images.astype(np.float32)):
        result = augmentation.normalize(tf.constant(given), preprocessing)
        assert result.dtype == tf.float32
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_normalize_gives_blue_first_where_the_network_takes_it_so():
    rgb = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125))
    expected = augmentation.normalize(random_images(), rgb).numpy()[..., [2, 1, 0]]
    bgr = dataclasses.replace(rgb, channel_order="bgr")
    np.testing.assert_array_equal(augmentation.normalize(random_images(), bgr), expected)
    with pytest.raises(InputError, match="channel_order is 'grb'; choose one of rgb, bgr"):
        dataclasses.replace(rgb, channel_order="grb")


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("padding_mode", ["reflect", "zero"])
@pytest.mark.parametrize("flip", [False, True])
def test_crops_equal_padding_and_slicing_one_by_one(padding, padding_mode, flip):
    preprocessing = dataclasses.replace(PLAIN, padding=padding, padding_mode=padding_mode, flip=flip)
    images, draws = random_images(), random_draws()
    result = augmentation.pad_crop_flip(tf.constant(images), tf.constant(draws), preprocessing)
    assert result.dtype == tf.uint8
    np.testing.assert_array_equal(result, crop_one_by_one(images, draws, preprocessing))


def test_zero_padding_may_exceed_the_image():
    preprocessing = dataclasses.replace(ZERO, padding=9)
    images, draws = random_images(), random_draws()
    result = augmentation.pad_crop_flip(tf.constant(images), tf.constant(draws), preprocessing)
    np.testing.assert_array_equal(result, crop_one_by_one(images, draws, preprocessing))


def test_the_extreme_draws_reach_the_extreme_windows_and_not_beyond():
    images = np.arange(1, 10, dtype=np.uint8).reshape(1, 3, 3, 1)
    preprocessing = dataclasses.replace(ZERO, padding=1, flip=False)
    below_one = np.nextafter(np.float32(1), np.float32(0))
    first = augmentation.pad_crop_flip(images_of(images), tf.constant([[0.0, 0.0, 0.0]]), preprocessing)
    last = augmentation.pad_crop_flip(images_of(images), tf.constant([[below_one] * 3]), preprocessing)
    assert first[0, :, :, 0].numpy().tolist() == [[0, 0, 0], [0, 1, 2], [0, 4, 5]]
    assert last[0, :, :, 0].numpy().tolist() == [[5, 6, 0], [8, 9, 0], [0, 0, 0]]


def images_of(array):
    return tf.constant(array)


def test_reflection_does_not_repeat_the_edge():
    images = np.arange(1, 5, dtype=np.uint8).reshape(1, 1, 4, 1).repeat(3, axis=1)
    preprocessing = dataclasses.replace(REFLECT, padding=2, flip=False)
    result = augmentation.pad_crop_flip(images_of(images), tf.constant([[0.5, 0.0, 0.9]]), preprocessing)
    assert result[0, 0, :, 0].numpy().tolist() == [3, 2, 1, 2]


def test_flip_is_decided_by_one_half():
    images = np.arange(1, 4, dtype=np.uint8).reshape(1, 1, 3, 1).repeat(2, axis=0)
    preprocessing = dataclasses.replace(PLAIN, flip=True)
    draws = tf.constant([[0.0, 0.0, 0.499], [0.0, 0.0, 0.5]])
    result = augmentation.pad_crop_flip(images_of(images), draws, preprocessing)
    assert result[:, 0, :, 0].numpy().tolist() == [[3, 2, 1], [1, 2, 3]]


def test_nothing_to_do_returns_the_images():
    images = tf.constant(random_images())
    result = augmentation.pad_crop_flip(images, tf.constant(random_draws()), PLAIN)
    np.testing.assert_array_equal(result, images)


@pytest.mark.parametrize("preprocessing", [REFLECT, ZERO])
def test_eager_function_and_pipeline_give_equal_results(preprocessing):
    preprocessing = dataclasses.replace(preprocessing, mean=(0.5,) * 3, std=(0.2,) * 3)
    images, draws = tf.constant(random_images()), tf.constant(random_draws())

    def augment(images, draws):
        return augmentation.normalize(augmentation.pad_crop_flip(images, draws, preprocessing), preprocessing)

    eager = augment(images, draws)
    mapped = tf.data.Dataset.from_tensor_slices((images, draws)).batch(20).map(augment)
    np.testing.assert_array_equal(tf.function(augment)(images, draws), eager)
    np.testing.assert_array_equal(np.concatenate(list(mapped.as_numpy_iterator())), eager)
    assert mapped.element_spec.shape.as_list() == [None, 6, 5, 3]


def test_reflecting_more_than_the_image_is_refused():
    with pytest.raises(InputError, match="Reflecting 5 pixels needs images larger than that, got 6 x 5"):
        augmentation.pad_crop_flip(
            tf.constant(random_images()),
            tf.constant(random_draws()),
            dataclasses.replace(REFLECT, padding=5),
        )


def test_images_of_another_rank_are_refused():
    with pytest.raises(InputError, match="known shape"):
        augmentation.normalize(tf.zeros([3, 4, 1]), PLAIN)
