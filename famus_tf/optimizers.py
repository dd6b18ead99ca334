"""Optimizers as the papers' codes have them: coupled L2, momentum in PyTorch's form, step schedules.

Why not Keras' optimizers: their `weight_decay` is decoupled (w shrinks beside the gradient, not through it), they sum
gradients over replicas behind the caller's back, and they cannot compute an update without applying it. A meta step
needs θ' before it is stored, and every gradient here is already reduced over replicas when it arrives.
"""

import keras
import tensorflow as tf

from famus_tf.config import OptimizerConfig


def sgd_update(value, gradient, velocity, *, learning_rate, momentum, nesterov, l2_coefficient):
    """One step of SGD with momentum and coupled L2.

    g ← g + λw;  v ← μv + g;  w ← w − α v, or w − α (g + μv) with Nesterov's momentum.

    Differs from Keras: the velocity is not scaled by the learning rate, so a drop of the rate acts at once on it.

    Args:
        value: w, any shape.
        gradient: g, same shape.
        velocity: v, same shape.
        learning_rate: α, scalar.
        momentum: μ.
        nesterov: Whether to look ahead.
        l2_coefficient: λ.

    Returns:
        The new value and the new velocity.
    """
    if l2_coefficient:
        gradient = gradient + l2_coefficient * value
    velocity = momentum * velocity + gradient
    direction = gradient + momentum * velocity if nesterov else velocity
    return value - learning_rate * direction, velocity


def adam_update(value, gradient, mean, square, count, *, learning_rate, l2_coefficient):
    """One step of Adam (Kingma & Ba, 2015, Algorithm 1; β₁ = 0.9, β₂ = 0.999, ε = 1e-8) with coupled L2.

    Args:
        value: w, any shape.
        gradient: g, same shape.
        mean: m, same shape.
        square: v, same shape, >= 0.
        count: Scalar, 1 in the first step.
        learning_rate: α, scalar.
        l2_coefficient: λ; g ← g + λw before anything else.

    Returns:
        The new value, mean and square.
    """
    if l2_coefficient:
        gradient = gradient + l2_coefficient * value
    mean = 0.9 * mean + 0.1 * gradient
    square = 0.999 * square + 0.001 * tf.square(gradient)
    count = tf.cast(count, value.dtype)
    unbiased_mean = mean / (1.0 - 0.9**count)
    unbiased_square = square / (1.0 - 0.999**count)
    return value - learning_rate * unbiased_mean / (tf.sqrt(unbiased_square) + 1e-8), mean, square


def as_tf_variables(variables):
    """The `tf.Variable`s behind Keras variables (others pass through), so that they can be read and assigned alike."""
    return [v.value if isinstance(v, keras.Variable) else v for v in variables]


class Optimizer:
    """Keeps the slots of a set of variables and computes, without applying, their next values.

    Keras callbacks that set `model.optimizer.learning_rate` find this object there during `Trainer.fit`; what they set
    is the base rate, which the schedule's factor still multiplies.
    """

    def __init__(self, config: OptimizerConfig):
        """Takes the settings; `build` makes the variables."""
        self._config = config
        self.built = False
        self._targets = []
        self._slots = []

    def build(self, variables) -> None:
        """Makes the slots. Call it inside the strategy's scope.

        Args:
            variables: The Keras or TensorFlow variables to move.
        """
        self.built = True
        self._targets = as_tf_variables(variables)
        num_slots = 2 if self._config.name == "adam" else 1
        self._base_rate = tf.Variable(self._config.learning_rate, dtype=tf.float32, trainable=False)
        self._count = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._slots = [
            [tf.Variable(tf.zeros(v.shape, v.dtype), trainable=False) for _ in range(num_slots)] for v in self._targets
        ]

    @property
    def learning_rate(self):
        """The base rate, before the schedule: scalar float32. Assigning it replaces it from the next step on."""
        return tf.convert_to_tensor(self._base_rate)

    @learning_rate.setter
    def learning_rate(self, rate) -> None:
        self._base_rate.assign(tf.cast(tf.convert_to_tensor(rate), tf.float32))

    @property
    def iterations(self):
        """Updates done: scalar int64."""
        return tf.convert_to_tensor(self._count)

    @property
    def variables(self):
        """All variables to be saved, in a fixed order."""
        return [self._base_rate, self._count, *(slot for slots in self._slots for slot in slots)]

    def rate(self, step):
        """The learning rate of a step: the base rate times the schedule's factor.

        Args:
            step: Scalar int64, 0 for the first step.

        Returns:
            Scalar float32.
        """
        rate = tf.convert_to_tensor(self._base_rate)
        for boundary in self._config.decay_steps:
            rate = tf.where(step >= boundary, rate * self._config.decay_factor, rate)
        return rate

    def updates(self, values, gradients, step):
        """The next values, as pairs that the caller assigns.

        Args:
            values: Current values of the variables given to `build`.
            gradients: Their gradients, already summed over replicas.
            step: Scalar int64.

        Returns:
            A list of (variable, new value): first the variables themselves in order, then the slots and the count.
        """
        config = self._config
        new_values, new_slots = [], []
        for value, gradient, slots in zip(values, gradients, self._slots, strict=True):
            rate = tf.cast(self.rate(step), value.dtype)
            if config.name == "adam":
                new_value, *updated = adam_update(
                    value, gradient, *slots, self._count + 1, learning_rate=rate, l2_coefficient=config.l2_coefficient
                )
            else:
                new_value, *updated = sgd_update(
                    value,
                    gradient,
                    *slots,
                    learning_rate=rate,
                    momentum=config.momentum,
                    nesterov=config.nesterov,
                    l2_coefficient=config.l2_coefficient,
                )
            new_values.append(new_value)
            new_slots.extend(zip(slots, updated, strict=True))
        return [*zip(self._targets, new_values, strict=True), *new_slots, (self._count, self._count + 1)]
