"""The compiled loop with a method that a test can follow: steps counted, one trace, a row of scalars per step."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from famus_tf.methods.method import AbstractMethod, StepResult
from famus_tf.runs import compiled_loop
from famus_tf.runs.compiled_loop import CompiledLoop
from famus_tf.runs.stop_request import StopRequest

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
    scalars, indices, weights, nonfinite = loop.run(iter(batches(0, 2)), iter(batches(50, 1)), 3)
    np.testing.assert_array_equal(scalars, np.float32([[0, 0 + 1, 50], [1, 2 + 3, 51], [2, 4 + 5, 52]]))
    np.testing.assert_array_equal(indices, np.int32([[100, 101], [102, 103], [104, 105]]))
    np.testing.assert_array_equal(weights, np.float32([[0, 10], [20, 30], [40, 50]]))
    np.testing.assert_array_equal(nonfinite, np.zeros((3, len(loop.checked_names)), bool))
    assert (scalars.dtype, indices.dtype, weights.dtype) == (np.float32, np.int32, np.float32)


def test_steps_are_counted_over_calls_and_other_numbers_of_steps_do_not_retrace():
    method = Follower()
    loop = CompiledLoop(method, ONE_REPLICA)
    iterators = iter(batches(0, 2)), iter(batches(50, 1))
    said = []
    for num_steps, steps_done in [(3, 3), (1, 4), (4, 8), (3, 11)]:
        scalars = loop.run(*iterators, num_steps).scalars
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
    for part in range(4):
        np.testing.assert_array_equal(np.concatenate([each[part] for each in singly]), together[part])


def test_a_restored_counter_is_where_the_steps_go_on():
    loop = CompiledLoop(Follower(), ONE_REPLICA)
    (counter,) = loop.variables
    counter.assign(40)
    scalars = loop.run(iter(batches(0, 2)), iter(batches(50, 1)), 2).scalars
    assert scalars[:, 0].tolist() == [40.0, 41.0]
    assert loop.step == 42


def test_a_method_without_a_meta_set_draws_no_meta_batch():
    loop = CompiledLoop(Follower(needs_meta_set=False), ONE_REPLICA)
    iterator = iter(batches(0, 2))
    # The training iterator twice, as the trainer gives it.
    scalars = loop.run(iterator, iterator, 2).scalars
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
    second = loop.run(*distributed, 1)
    scalars, indices, weights, _ = (np.concatenate(parts) for parts in zip(first, second, strict=True))
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


# Ending early.


class Stopper(Follower):
    """Asks for a stop, from Python and in another thread, during the step that a test names."""

    def __init__(self, stops_in_step):
        super().__init__()
        self.stops_in_step = stops_in_step
        self.stop_request = StopRequest()

    def train_step(self, batch, meta_batch, step):
        def ask(number):
            if int(number) == self.stops_in_step:
                thread = threading.Thread(target=self.stop_request.make)
                thread.start()
                thread.join()
            return number

        step = tf.ensure_shape(tf.numpy_function(ask, [step], tf.int64), [])
        return super().train_step(batch, meta_batch, step)


def test_a_stop_requested_by_another_thread_ends_the_call_after_the_current_step():
    method = Stopper(stops_in_step=2)
    loop = CompiledLoop(method, ONE_REPLICA, stop_request=method.stop_request)
    iterators = iter(batches(0, 2)), iter(batches(50, 1))
    results = loop.run(*iterators, 100)
    assert [len(part) for part in results] == [3, 3, 3, 3]
    assert results.scalars[:, 0].tolist() == [0.0, 1.0, 2.0]
    assert (loop.step, loop.was_stopped) == (3, True)
    assert float(method.total.numpy()) == sum(range(6))
    # The request is met, and the next call goes on at the next batch.
    results = loop.run(*iterators, 2)
    assert results.indices.tolist() == [[106, 107], [108, 109]]
    assert (loop.step, loop.was_stopped, loop.tracing_count) == (5, False, 1)


def test_a_stop_requested_between_calls_ends_the_next_after_one_step():
    stop_request = StopRequest()
    loop = CompiledLoop(Follower(), ONE_REPLICA, stop_request=stop_request)
    stop_request.make()
    assert len(loop.run(iter(batches(0, 2)), iter(batches(50, 1)), 5).scalars) == 1
    assert (loop.step, loop.was_stopped) == (1, True)


# Steps that are not finite.


class Spoiler(Follower):
    """Makes one of its values NaN or Inf in some steps; counts its steps in a whole number, which is always finite."""

    scalar_names = SCALARS
    name = "spoiler"

    def __init__(self, what, value=np.nan, steps=(1,), strategy=ONE_REPLICA):
        super().__init__(strategy)
        self.what, self.value, self.steps = what, value, list(steps)
        with strategy.scope():
            self.other = tf.Variable(tf.zeros([3]))
            self.count = tf.Variable(0)

    def train_step(self, batch, meta_batch, step):
        result = super().train_step(batch, meta_batch, step)
        is_spoilt = tf.reduce_any(step == tf.constant(self.steps, tf.int64))
        # On two replicas only the second one sees it, as one bad example does.
        is_spoilt &= tf.reduce_any(batch["label"] % 4 == 3)

        def spoilt(tensor, what):
            if what != self.what:
                return tensor
            flat = tf.reshape(tensor, [-1])
            flat = tf.concat([flat[:-1], tf.where(is_spoilt, self.value, flat[-1:])], axis=0)
            return tf.reshape(flat, tensor.shape)

        total = spoilt(result.assignments[0][1], "total")
        other = spoilt(self.other + 1.0, "other")
        return StepResult(
            assignments=[(self.total, total), (self.other, other), (self.count, self.count + 1)],
            scalars=spoilt(result.scalars, "scalar"),
            example_weights=spoilt(result.example_weights, "weights"),
        )


NAMES = [*SCALARS, "the example weights", "sum of labels", "Variable:0"]


def spoilt_loop(what, value=np.nan, steps=(1,), strategy=ONE_REPLICA, **settings):
    method = Spoiler(what, value, steps, strategy)
    return method, CompiledLoop(method, strategy, variable_names={id(method.total): "sum of labels"}, **settings)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("what, column", [("scalar", 2), ("weights", 3), ("total", 4), ("other", 5)])
def test_a_step_that_is_not_finite_anywhere_stores_nothing_and_says_where(what, column, value):
    method, loop = spoilt_loop(what, value)
    results = loop.run(iter(batches(0, 4)), iter(batches(50, 1)), 3)
    assert list(loop.checked_names) == NAMES
    expected = np.zeros((3, 6), bool)
    expected[1, column] = True
    np.testing.assert_array_equal(results.nonfinite, expected)
    assert float(method.total.numpy()) == sum(range(0, 4)) + sum(range(8, 12))
    assert method.other.numpy().tolist() == [2.0, 2.0, 2.0]
    assert int(method.count.numpy()) == 2
    assert loop.step == 3
    assert results.indices[1].tolist() == [104, 105, 106, 107]


def test_on_two_replicas_what_one_of_them_sees_keeps_both_from_storing(two_replicas):
    method, loop = spoilt_loop("weights", strategy=two_replicas)
    distributed = [
        iter(two_replicas.experimental_distribute_dataset(dataset)) for dataset in (batches(0, 4), batches(50, 2))
    ]
    results = loop.run(*distributed, 3)
    assert results.nonfinite.any(axis=1).tolist() == [False, True, False]
    assert np.isnan(results.weights[1]).tolist() == [False, False, False, True]
    for copy in two_replicas.experimental_local_results(method.other):
        assert copy.numpy().tolist() == [2.0, 2.0, 2.0]


def test_a_large_but_finite_number_is_stored():
    """Its square overflows, so a check by sums of squares alone would take it for infinite."""
    method, loop = spoilt_loop("other", value=3e38)
    results = loop.run(iter(batches(0, 4)), iter(batches(50, 1)), 2)
    assert not results.nonfinite.any()
    assert method.other.numpy()[-1] == np.float32(3e38)


def test_a_loop_that_ends_at_such_a_step_does_not_count_it():
    method, loop = spoilt_loop("other", ends_at_nonfinite=True)
    results = loop.run(iter(batches(0, 4)), iter(batches(50, 1)), 3)
    assert results.nonfinite.any(axis=1).tolist() == [False, True]
    assert loop.step == 1
    assert method.other.numpy().tolist() == [1.0, 1.0, 1.0]


def test_a_step_left_out_on_request_draws_its_batch_and_stores_nothing():
    method, loop = spoilt_loop("nothing", ends_at_nonfinite=True)
    iterators = iter(batches(0, 4)), iter(batches(50, 1))
    loop.run(*iterators, 1)
    loop.run(*iterators, 1, is_stored=False)
    results = loop.run(*iterators, 1)
    assert (loop.step, loop.tracing_count) == (3, 1)
    assert results.indices.tolist() == [[108, 109, 110, 111]]
    assert method.other.numpy().tolist() == [2.0, 2.0, 2.0]


def test_too_many_in_a_row_end_the_call_even_across_calls():
    _, loop = spoilt_loop("other", steps=range(3, 100))
    iterators = iter(batches(0, 4)), iter(batches(50, 1))
    assert len(loop.run(*iterators, 10).scalars) == 10
    assert len(loop.run(*iterators, 50).scalars) == 3 + compiled_loop.MAX_NONFINITE_IN_A_ROW - 10
