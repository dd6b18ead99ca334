"""The compiled loop with a method that a test can follow: steps counted, one trace, a row of scalars per step."""

import numpy as np
import pytest
import tensorflow as tf

from famus_tf.methods.method import AbstractMethod, StepResult
from famus_tf.runs.compiled_loop import CompiledLoop

ONE_REPLICA = tf.distribute.get_strategy()
SCALARS = ("step", "label_sum", "meta_label_sum")


class Follower(AbstractMethod):
    """Says its step and the sums of the labels it is given; adds the training labels up in a variable."""

    name = "follower"
    scalar_names = SCALARS
    base_optimizer = None

    def __init__(self, strategy=ONE_REPLICA, needs_meta_set=True):
        self.needs_meta_set = needs_meta_set
        with strategy.scope():
            self.total = tf.Variable(0.0)

    def build(self, model, *, seed, num_replicas):
        pass

    @property
    def variables(self):
        return [self.total]

    def train_step(self, batch, meta_batch, step):
        def all_sum(labels):
            share = tf.reduce_sum(tf.cast(labels, tf.float32))
            return tf.distribute.get_replica_context().all_reduce("SUM", share)

        labels = all_sum(batch["label"])
        meta_labels = all_sum(meta_batch["label"]) if self.needs_meta_set else tf.constant(-1.0)
        return StepResult(
            assignments=[(self.total, self.total + labels)],
            scalars=tf.stack([tf.cast(step, tf.float32), labels, meta_labels]),
            example_weights=10.0 * tf.cast(batch["label"], tf.float32),
        )


def batches(first_label, batch_size):
    """Batches of the labels first_label, first_label + 1, ..., at rows 100 + label."""
    labels = tf.data.Dataset.range(first_label, first_label + 1000, output_type=tf.int32)

    def as_batch(label):
        return {"index": 100 + label, "label": label}

    return labels.batch(batch_size, drop_remainder=True).map(as_batch)


def test_each_step_has_its_row_of_scalars_rows_and_weights():
    loop = CompiledLoop(Follower(), ONE_REPLICA)
    scalars, indices, weights = loop.run(iter(batches(0, 2)), iter(batches(50, 1)), 3)
    np.testing.assert_array_equal(scalars, np.float32([[0, 0 + 1, 50], [1, 2 + 3, 51], [2, 4 + 5, 52]]))
    np.testing.assert_array_equal(indices, np.int32([[100, 101], [102, 103], [104, 105]]))
    np.testing.assert_array_equal(weights, np.float32([[0, 10], [20, 30], [40, 50]]))
    assert (scalars.dtype, indices.dtype, weights.dtype) == (np.float32, np.int32, np.float32)


def test_steps_are_counted_over_calls_and_other_numbers_of_steps_do_not_retrace():
    method = Follower()
    loop = CompiledLoop(method, ONE_REPLICA)
    iterators = iter(batches(0, 2)), iter(batches(50, 1))
    said = []
    for num_steps, steps_done in [(3, 3), (1, 4), (4, 8), (3, 11)]:
        scalars, _, _ = loop.run(*iterators, num_steps)
        assert scalars.shape == (num_steps, 3)
        assert loop.step == steps_done
        said += scalars[:, 0].tolist()
    assert said == list(range(11))
    assert loop.tracing_count == 1
    assert float(method.total.numpy()) == sum(range(22))  # every batch was drawn once, and every assignment made once


def test_grouping_steps_otherwise_changes_nothing():
    one_by_one, at_once = (CompiledLoop(Follower(), ONE_REPLICA) for _ in range(2))
    iterators = iter(batches(0, 2)), iter(batches(50, 1))
    singly = [one_by_one.run(*iterators, 1) for _ in range(4)]
    together = at_once.run(iter(batches(0, 2)), iter(batches(50, 1)), 4)
    for part in range(3):
        np.testing.assert_array_equal(np.concatenate([each[part] for each in singly]), together[part])


def test_a_restored_counter_is_where_the_steps_go_on():
    loop = CompiledLoop(Follower(), ONE_REPLICA)
    (counter,) = loop.variables
    counter.assign(40)
    scalars, _, _ = loop.run(iter(batches(0, 2)), iter(batches(50, 1)), 2)
    assert scalars[:, 0].tolist() == [40.0, 41.0]
    assert loop.step == 42


def test_a_method_without_a_meta_set_draws_no_meta_batch():
    loop = CompiledLoop(Follower(needs_meta_set=False), ONE_REPLICA)
    iterator = iter(batches(0, 2))
    # The training iterator twice, as the trainer gives it.
    scalars, _, _ = loop.run(iterator, iterator, 2)
    np.testing.assert_array_equal(scalars[:, 1:], np.float32([[1, -1], [5, -1]]))
    assert next(iterator)["label"].numpy().tolist() == [4, 5]


def test_another_batch_size_is_traced_anew():
    loop = CompiledLoop(Follower(), ONE_REPLICA)
    loop.run(iter(batches(0, 2)), iter(batches(50, 1)), 1)
    loop.run(iter(batches(0, 3)), iter(batches(50, 1)), 1)
    assert loop.tracing_count == 2


def test_two_replicas_share_each_batch_and_their_rows_come_in_order(two_replicas):
    method = Follower(two_replicas)
    loop = CompiledLoop(method, two_replicas)
    distributed = [
        iter(two_replicas.experimental_distribute_dataset(dataset)) for dataset in (batches(0, 4), batches(50, 2))
    ]
    first = loop.run(*distributed, 2)
    scalars, indices, weights = (np.concatenate(parts) for parts in zip(first, loop.run(*distributed, 1), strict=True))
    np.testing.assert_array_equal(scalars, np.float32([[0, 6, 101], [1, 22, 105], [2, 38, 109]]))
    np.testing.assert_array_equal(indices, 100 + np.arange(12).reshape(3, 4))
    np.testing.assert_array_equal(weights, 10.0 * np.arange(12).reshape(3, 4))
    assert (loop.step, loop.tracing_count) == (3, 1)
    assert float(method.total.numpy()) == sum(range(12))


def test_a_counter_that_something_else_moves_is_noticed():
    class Meddler(Follower):
        def train_step(self, batch, meta_batch, step):
            result = super().train_step(batch, meta_batch, step)
            return StepResult([(loop.variables[0], step + 5)], result.scalars, result.example_weights)

    loop = CompiledLoop(Meddler(), ONE_REPLICA)
    with pytest.raises(RuntimeError, match="The loop went from step 0 to 6, not to 1"):
        loop.run(iter(batches(0, 2)), iter(batches(50, 1)), 1)
