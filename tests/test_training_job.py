"""What `training_job` makes of settings before the first step."""

import numpy as np

from famus_tf import training_job
from famus_tf.config import DataConfig


def test_splits_follow_the_settings_and_only_noise_changes_labels():
    config = DataConfig(dataset="digits", num_meta=20, num_validation=50, num_train=300, noise_rate=0.5)
    splits = training_job.load_splits(config, seed=3)
    sizes = [len(table) for table in (splits.train, splits.meta, splits.validation, splits.test)]
    assert sizes == [300, 20, 50, 500]
    clean = training_job.clean_rows(splits)
    assert clean.dtype == bool
    # Symmetric noise includes the true class: 0.5 * 9/10 = 0.45 wrong; 300 draws deviate by 0.03.
    assert abs((~clean).mean() - 0.45) < 0.09
    assert (splits.meta.given_labels == splits.meta.true_labels).all()
    assert (splits.test.given_labels == splits.test.true_labels).all()
    again = training_job.load_splits(config, seed=3)
    np.testing.assert_array_equal(splits.train.given_labels, again.train.given_labels)


def test_no_noise_leaves_every_label_true():
    splits = training_job.load_splits(DataConfig(dataset="digits", noise_rate=0.0), seed=0)
    assert training_job.clean_rows(splits).all()
    assert splits.meta is None
    assert splits.validation is None
