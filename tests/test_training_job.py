"""What `training_job` makes of settings before the first step."""

import numpy as np

from famus_tf import run_splits
from famus_tf.config import DataConfig


def test_splits_follow_the_settings_and_only_noise_changes_labels():
    config = DataConfig(dataset="digits", num_meta=20, num_validation=50, num_train=300, noise_rate=0.5)
    splits = run_splits.load_splits(config, seed=3)
    sizes = [len(table) for table in (splits.train, splits.meta, splits.validation, splits.test)]
    assert sizes == [300, 20, 50, 500]
    clean = run_splits.clean_rows(splits)
    assert clean.dtype == bool
    # Symmetric noise includes the true class: 0.5 * 9/10 = 0.45 wrong; 300 draws deviate by 0.03.
    assert abs((~clean).mean() - 0.45) < 0.09
    assert (splits.meta.given_labels == splits.meta.true_labels).all()
    assert (splits.test.given_labels == splits.test.true_labels).all()
    again = run_splits.load_splits(config, seed=3)
    np.testing.assert_array_equal(splits.train.given_labels, again.train.given_labels)


def test_a_long_tail_is_cut_on_request():
    splits = run_splits.load_splits(DataConfig(dataset="digits", num_meta=20, imbalance_factor=10.0), seed=3)
    counts = np.bincount(splits.train.given_labels)
    # The largest of the ten classes, about 130 without the two in the meta set, is class 0's place in the tail.
    assert counts[0] > 9 * counts[9] > 80
    assert (np.diff(counts) <= 0).all()


def test_all_clean_pictures_of_a_folder_are_its_meta_set_as_many_of_each_class(tmp_path):
    for name, count in (("ant/a", 3), ("bee/b", 3), ("meta/ant/a", 4), ("meta/bee/b", 2)):
        for number in range(count):
            path = tmp_path / f"{name}{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    splits = run_splits.load_splits(DataConfig(dataset="folder", data_dir=str(tmp_path), meta_set="clean"), seed=0)
    assert np.bincount(splits.meta.given_labels).tolist() == [3, 2]
    assert run_splits.clean_rows(splits) is None
    assert "has no test part" in splits.notes[-1]


def test_no_noise_leaves_every_label_true():
    splits = run_splits.load_splits(DataConfig(dataset="digits", noise_rate=0.0), seed=0)
    assert run_splits.clean_rows(splits).all()
    assert splits.meta is None
    assert splits.validation is None
