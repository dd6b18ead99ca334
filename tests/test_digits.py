"""Tests of famus_tf.data.digits."""

import numpy as np
import pytest
import sklearn.datasets

from famus_tf.config import DataConfig
from famus_tf.data import digits, label_files

# Recorded once: the test set must never change.
GOLDEN_TEST_SET = "c13dba7ff31c40dc7c163c7882d3baab9c0f26ad05979a4c41187bb2d50c9fa3"


@pytest.fixture(scope="module")
def dataset():
    return digits.load()


def test_sizes_types_and_names(dataset):
    assert (len(dataset.train), len(dataset.test)) == (1297, 500)
    assert dataset.train.images.shape == (1297, 8, 8, 1)
    assert dataset.class_names == tuple("0123456789")
    assert dataset.coarse_labels is None


def test_train_and_test_are_all_of_the_digits_once(dataset):
    ids = np.concatenate([dataset.train.ids, dataset.test.ids])
    assert sorted(ids) == [f"digits_{row:05d}" for row in range(1797)]


def test_the_test_set_is_balanced_and_fixed(dataset):
    assert np.bincount(dataset.test.given_labels).tolist() == [50] * 10
    assert label_files.labels_hash(dataset.test.ids, dataset.test.given_labels) == GOLDEN_TEST_SET


def test_pixels_are_the_17_grey_levels_over_0_to_255(dataset):
    assert len(np.unique(dataset.train.images)) == 17
    assert (dataset.train.images.min(), dataset.train.images.max()) == (0, 255)
    source = sklearn.datasets.load_digits()
    for table in (dataset.train, dataset.test):
        rows = [int(example_id[-5:]) for example_id in table.ids]
        assert np.abs(table.images[..., 0] / 255 * 16 - source.images[rows]).max() < 0.04  # half a step of 1/255
        np.testing.assert_array_equal(table.given_labels, source.target[rows])
        np.testing.assert_array_equal(table.true_labels, source.target[rows])


def test_mean_and_std_are_those_of_all_digits(dataset):
    pixels = np.concatenate([dataset.train.images, dataset.test.images]) / 255
    assert dataset.preprocessing.mean == pytest.approx((pixels.mean(),), abs=1e-6)
    assert dataset.preprocessing.std == pytest.approx((pixels.std(),), abs=1e-6)


def test_digits_are_shifted_by_one_pixel_at_most_and_never_mirrored(dataset):
    assert (dataset.preprocessing.padding, dataset.preprocessing.padding_mode) == (1, "zero")
    assert not dataset.preprocessing.flip


def test_a_data_dir_is_accepted_and_makes_no_difference(dataset, tmp_path):
    config = DataConfig(dataset="digits", data_dir=str(tmp_path))
    np.testing.assert_array_equal(digits.load(config).train.ids, dataset.train.ids)
