"""Shares of a batch: together they are the batch, and every example of an uneven one counts once."""

import numpy as np
import pytest
import tensorflow as tf

from famus_tf.data import batch_shares
from famus_tf.data.batch_shares import Share


def shares_of(batch, count):
    return [batch_shares.share_of(batch, Share(index, count)) for index in range(count)]


def test_the_shares_of_a_batch_are_the_batch():
    batch = {"index": tf.range(6), "image": tf.reshape(tf.range(24.0), [6, 2, 2, 1])}
    shares = shares_of(batch, 3)
    assert [share["index"].numpy().tolist() for share in shares] == [[0, 1], [2, 3], [4, 5]]
    np.testing.assert_array_equal(np.concatenate([share["image"] for share in shares]), batch["image"])


@pytest.mark.parametrize("is_static", [True, False])
@pytest.mark.parametrize(("size", "num_shares"), [(7, 2), (7, 3), (5, 4), (1, 3), (4, 2)])
def test_every_example_of_an_uneven_batch_counts_in_exactly_one_share(size, num_shares, is_static):
    length = size if is_static else None
    spec = {"label": tf.TensorSpec([length], tf.int32), "mask": tf.TensorSpec([length], tf.float32)}

    def shares_of_filled(batch):
        filled = batch_shares.filled_up(batch, num_shares)
        return shares_of(filled, num_shares)

    graph = tf.function(shares_of_filled, input_signature=[spec])
    shares = graph({"label": tf.range(size), "mask": tf.ones([size])})
    lengths = {len(share["label"]) for share in shares}
    assert lengths == {-(-size // num_shares)}
    if is_static:
        assert {share["label"].shape[0] for share in graph.get_concrete_function().structured_outputs} == lengths
    counted = [
        int(row) for share in shares for row, mask in zip(share["label"], share["mask"], strict=True) if mask > 0
    ]
    assert counted == list(range(size))


def test_filling_of_the_whole_batch_stays_filling():
    batch = {"label": tf.range(4), "mask": tf.constant([1.0, 1.0, 1.0, 0.0])}
    assert batch_shares.filled_up(batch, 2) is batch
    assert batch_shares.filled_up(batch, 3)["mask"].numpy().tolist() == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]


def test_a_training_batch_is_never_filled_up():
    batch = {"index": tf.range(5)}
    assert batch_shares.filled_up(batch, 2) is batch
