"""Tests of famus_tf.optimizers against NumPy loops worked independently, and against Keras where they must agree."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from famus_tf.config import OptimizerConfig
from famus_tf.optimizers import Optimizer, as_tf_variables

SHAPES = [(2, 3), (3,)]
NUM_STEPS = 5
RATES = [0.1, 0.1, 0.02, 0.02, 0.02]  # A drop by 5 before step 2.


def drawn(seed):
    random = np.random.default_rng(seed)
    return [random.normal(size=shape) for shape in SHAPES]


def run(config, dtype=tf.float64, num_steps=NUM_STEPS):
    """The values after each step, with gradients that do not depend on them."""
    variables = [tf.Variable(v, dtype=dtype) for v in drawn(0)]
    optimizer = Optimizer(config)
    optimizer.build(variables)
    trajectory = []
    for step in range(num_steps):
        gradients = [tf.constant(g, dtype) for g in drawn(100 + step)]
        values = [tf.convert_to_tensor(v) for v in variables]
        for variable, value in optimizer.updates(values, gradients, tf.constant(step, tf.int64)):
            variable.assign(value)
        trajectory.append([v.numpy() for v in variables])
    return trajectory


def sgd_reference(momentum, nesterov, l2, num_steps=NUM_STEPS, rates=RATES):
    values = drawn(0)
    buffers = [np.zeros(shape) for shape in SHAPES]
    trajectory = []
    for step in range(num_steps):
        for i, gradient in enumerate(drawn(100 + step)):
            decayed = gradient + l2 * values[i]
            buffers[i] = momentum * buffers[i] + decayed
            direction = decayed + momentum * buffers[i] if nesterov else buffers[i]
            values[i] = values[i] - rates[step] * direction
        trajectory.append([v.copy() for v in values])
    return trajectory


def adam_reference(l2):
    values, means, squares = drawn(0), [0.0, 0.0], [0.0, 0.0]
    trajectory = []
    for step in range(NUM_STEPS):
        for i, gradient in enumerate(drawn(100 + step)):
            decayed = gradient + l2 * values[i]
            means[i] = 0.9 * means[i] + 0.1 * decayed
            squares[i] = 0.999 * squares[i] + 0.001 * decayed**2
            mean, square = means[i] / (1 - 0.9 ** (step + 1)), squares[i] / (1 - 0.999 ** (step + 1))
            values[i] = values[i] - RATES[step] * mean / (np.sqrt(square) + 1e-8)
        trajectory.append([v.copy() for v in values])
    return trajectory


def assert_same(trajectory, expected, rtol):
    for step, values in enumerate(expected):
        for actual, value in zip(trajectory[step], values, strict=True):
            np.testing.assert_allclose(actual, value, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("l2", [0.0, 0.05])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_follows_the_numpy_loop_through_a_drop_of_the_rate(momentum, nesterov, l2):
    config = OptimizerConfig(
        learning_rate=0.1, momentum=momentum, nesterov=nesterov, l2_coefficient=l2, decay_steps=(2,), decay_factor=0.2
    )
    # The rate is a float32 number, hence 1e-7 and not 1e-15.
    assert_same(run(config), sgd_reference(momentum, nesterov, l2), rtol=1e-7)


@pytest.mark.parametrize("l2", [0.0, 0.05])
def test_adam_follows_the_numpy_loop_through_a_drop_of_the_rate(l2):
    config = OptimizerConfig(name="adam", learning_rate=0.1, l2_coefficient=l2, decay_steps=(2,), decay_factor=0.2)
    assert_same(run(config), adam_reference(l2), rtol=1e-7)


def test_adams_first_step_is_the_rate_times_the_gradients_sign():
    (values,) = run(OptimizerConfig(name="adam", learning_rate=0.25), num_steps=1)
    for value, start, gradient in zip(values, drawn(0), drawn(100), strict=True):
        np.testing.assert_allclose(value, start - 0.25 * np.sign(gradient), rtol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_without_l2_at_a_constant_rate_equals_that_of_keras(nesterov):
    trajectory = run(OptimizerConfig(learning_rate=0.1, momentum=0.9, nesterov=nesterov), tf.float32)
    variables = [keras.Variable(v.astype("float32")) for v in drawn(0)]
    reference = keras.optimizers.SGD(0.1, momentum=0.9, nesterov=nesterov)
    reference.build(variables)
    for step in range(NUM_STEPS):
        reference.apply([tf.constant(g, tf.float32) for g in drawn(100 + step)], variables)
        assert_same([trajectory[step]], [[v.numpy() for v in variables]], rtol=2e-6)


def test_coupled_l2_enters_the_momentum_unlike_keras_weight_decay():
    config = OptimizerConfig(learning_rate=0.1, momentum=0.9, l2_coefficient=0.05)
    coupled = run(config)
    decoupled = drawn(0)
    buffers = [np.zeros(shape) for shape in SHAPES]
    for step in range(NUM_STEPS):
        for i, gradient in enumerate(drawn(100 + step)):
            buffers[i] = 0.9 * buffers[i] + gradient
            decoupled[i] = decoupled[i] * (1 - 0.1 * 0.05) - 0.1 * buffers[i]
    assert max(np.abs(a - b).max() for a, b in zip(coupled[-1], decoupled, strict=True)) > 1e-3


def test_the_schedule_multiplies_from_each_boundary_on():
    optimizer = Optimizer(OptimizerConfig(learning_rate=0.5, decay_steps=(3, 5), decay_factor=0.1))
    optimizer.build([tf.Variable(1.0)])
    rates = [float(optimizer.rate(tf.constant(step, tf.int64))) for step in range(8)]
    np.testing.assert_allclose(rates, [0.5, 0.5, 0.5, 0.05, 0.05, 0.005, 0.005, 0.005], rtol=1e-6)


def test_assigning_the_learning_rate_replaces_the_base_rate_that_the_schedule_multiplies():
    optimizer = Optimizer(OptimizerConfig(learning_rate=0.5, momentum=0.0, decay_steps=(1,), decay_factor=0.5))
    optimizer.build([tf.Variable(1.0)])
    assert float(optimizer.learning_rate) == 0.5

    @tf.function
    def rate(step):
        return optimizer.rate(step)

    assert [float(rate(tf.constant(step, tf.int64))) for step in (0, 1)] == [0.5, 0.25]
    optimizer.learning_rate = 2.0
    assert float(optimizer.learning_rate) == 2.0
    assert [float(rate(tf.constant(step, tf.int64))) for step in (0, 1)] == [2.0, 1.0]
    value = tf.constant(1.0)
    (_, moved), *_ = optimizer.updates([value], [tf.constant(0.25)], tf.constant(0, tf.int64))
    assert float(moved) == 0.5


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_updates_change_nothing_until_they_are_assigned(name):
    variable = tf.Variable([1.0, 2.0])
    optimizer = Optimizer(OptimizerConfig(name=name))
    optimizer.build([variable])
    before = [v.numpy() for v in [variable, *optimizer.variables]]
    arguments = [tf.convert_to_tensor(variable)], [tf.constant([1.0, -1.0])], tf.constant(0, tf.int64)
    assignments = optimizer.updates(*arguments)
    for value, old in zip([variable, *optimizer.variables], before, strict=True):
        np.testing.assert_array_equal(value.numpy(), old)
    assert assignments[0][0] is variable
    for target, value in assignments:
        target.assign(value)
    assert np.all(variable.numpy() != before[0])


@pytest.mark.parametrize(("name", "num_slots"), [("sgd", 1), ("adam", 2)])
def test_every_variable_that_a_later_step_reads_is_saved_and_assigned(name, num_slots):
    targets = [keras.Variable(np.ones((2, 3), "float32")), tf.Variable([1.0])]
    optimizer = Optimizer(OptimizerConfig(name=name))
    optimizer.build(targets)
    assert len(optimizer.variables) == 2 + num_slots * 2
    values = [tf.convert_to_tensor(v) for v in as_tf_variables(targets)]
    assigned = [v for v, _ in optimizer.updates(values, values, tf.constant(0, tf.int64))]
    # All of them but the base rate, which only a caller sets.
    wanted = [*as_tf_variables(targets), *optimizer.variables[1:]]
    assert {id(v) for v in assigned} == {id(v) for v in wanted}
    assert len(assigned) == len(wanted)


def test_gradients_and_values_of_different_number_are_refused():
    optimizer = Optimizer(OptimizerConfig())
    optimizer.build([tf.Variable(1.0)])
    with pytest.raises(ValueError):
        optimizer.updates([tf.constant(1.0)], [], tf.constant(0, tf.int64))
