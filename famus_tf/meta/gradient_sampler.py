"""The FaMUS gradient sampler Γ(η): a small gate network per variable, and its two losses L_r and L_g.

`variant="paper"` follows section 4.2 and 4.3 of the paper; `variant="official"` follows the authors' released code:

| | paper | official |
|---|---|---|
| pooling of the gradient | mean over all but the output dimension | sum over all but the output dimension |
| input of the gate network | the pooled gradient | standardised: (x − mean) / (unbiased std + 1e-9) |
| gate network | FC(128), PReLU, FC(2) | FC(128), PReLU, FC(128), PReLU, FC(2) |
| Gumbel-softmax temperature | 1 (not stated) | 5 |
| always open | nothing | the last layer (classifier kernel and bias) |
| L_r, Eq. (10) | (Σ_l r_l − K)² | (r − K)² of the topmost learned gate alone |
| L_g, Eq. (11) | ‖ḡ_L^tra − ḡ_L^val‖² of pooled means | mean of squared differences of row means and row stds |

The output dimension is the last one in Keras kernels (the first in PyTorch's). In both variants a gate learns from L_c
as the official code lets it: an open gate gets −α⟨g_l, q_l⟩, a closed one +α⟨g_l, q_l⟩.
"""

import keras
import tensorflow as tf

from famus_tf import optimizers
from famus_tf.config import LayerSamplerConfig
from famus_tf.errors import InputError
from famus_tf.meta.fan_in_uniform import fan_in_uniform
from famus_tf.meta.gumbel_select import GumbelSelect
from famus_tf.meta.layer_sampling import AbstractLayerSampler, last_layer_positions, top_positions

HIDDEN_UNITS = 128
TEMPERATURES = {"paper": 1.0, "official": 5.0}


def pooled_gradient(gradient, variant: str):
    """ḡ_l, the input of a gate: Avg-Pool of Eq. (8), or the official code's standardised sum.

    Args:
        gradient: Of one variable, any shape; its last dimension is the output dimension.
        variant: "paper" or "official".

    Returns:
        [D], D the output dimension (1 for a scalar).
    """
    rows = tf.reshape(gradient, [-1, gradient.shape[-1] if gradient.shape.rank else 1])
    if variant == "paper":
        return tf.reduce_mean(rows, axis=0)
    pooled = tf.reduce_sum(rows, axis=0)
    return (pooled - tf.reduce_mean(pooled)) / (unbiased_std(pooled, axis=0) + 1e-9)


def unbiased_std(values, axis: int):
    """Standard deviation with n − 1 in the denominator; 0 for a single value (with a zero gradient there)."""
    count = values.shape[axis]
    if count == 1:
        return tf.zeros_like(tf.reduce_sum(values, axis=axis))
    variance = tf.math.reduce_variance(values, axis=axis) * (count / (count - 1))
    safe = tf.where(variance > 0, variance, tf.ones_like(variance))
    return tf.where(variance > 0, tf.sqrt(safe), tf.zeros_like(variance))


def gradient_matching_loss(training_gradients, validation_gradients, variant: str):
    """L_g, Eq. (11), over the variables of the last layer.

    Args:
        training_gradients: g_L^tra, the gradients of the last layer's variables.
        validation_gradients: g_L^val, likewise; held constant.
        variant: "paper" or "official".

    Returns:
        Scalar >= 0.
    """
    total = 0.0
    for training, validation in zip(training_gradients, validation_gradients, strict=True):
        validation = tf.stop_gradient(validation)
        if variant == "paper":
            difference = pooled_gradient(training, "paper") - pooled_gradient(validation, "paper")
            total += tf.reduce_sum(tf.square(difference))
        else:
            total += mean_and_std_distance(training, validation)
    return total


def mean_and_std_distance(training, validation):
    """The official code's L_g of one variable: squared differences of the mean and of the std over a row, averaged.

    A row holds what leads to one output; a bias is one row.

    Args:
        training: [..., D] gradient.
        validation: Same shape.

    Returns:
        Scalar >= 0.
    """

    def rows(gradient):
        if gradient.shape.rank < 2:
            return tf.reshape(gradient, [-1, 1])
        return tf.reshape(gradient, [-1, gradient.shape[-1]])

    training, validation = rows(training), rows(validation)
    means = tf.reduce_mean(training, axis=0) - tf.reduce_mean(validation, axis=0)
    deviations = unbiased_std(training, axis=0) - unbiased_std(validation, axis=0)
    return tf.reduce_mean(tf.square(means) + tf.square(deviations))


def budget_loss(gates, expected_active_layers: float, variant: str):
    """L_r, Eq. (10), of the learned gates.

    Args:
        gates: [L'] learned gates, 0 or 1, bottom to top.
        expected_active_layers: K.
        variant: "paper" or "official".

    Returns:
        Scalar >= 0.
    """
    count = tf.reduce_sum(gates) if variant == "paper" else gates[-1]
    return tf.square(count - expected_active_layers)


def gate_network(dimensions: list[int], config: LayerSamplerConfig, seed: int) -> keras.Model:
    """One Keras model with an input per gated variable and an output [1, 2] of gate scores for each.

    It is float32 whatever the base network's precision.

    Args:
        dimensions: D of each pooled gradient.
        config: The sampler's settings.
        seed: Of the initial values (uniform ±1/√fan_in; PReLU with one shared slope of 0.25, as in PyTorch).
    """

    def dense(units, fan_in, name, offset):
        return keras.layers.Dense(
            units,
            kernel_initializer=fan_in_uniform(fan_in, seed + offset),
            bias_initializer=fan_in_uniform(fan_in, seed + offset + 1),
            dtype="float32",
            name=name,
        )

    inputs, scores = [], []
    for number, dimension in enumerate(dimensions):
        gradient = keras.Input((dimension,), dtype="float32", name=f"gradient{number:02d}")
        hidden, fan_in = gradient, dimension
        for layer in range(1 if config.variant == "paper" else 2):
            name, offset = f"gate{number:02d}_hidden{layer}", 100 * number + 10 * layer
            hidden = dense(HIDDEN_UNITS, fan_in, name, offset)(hidden)
            hidden = keras.layers.PReLU(
                alpha_initializer=keras.initializers.Constant(0.25),
                shared_axes=[1],
                dtype="float32",
                name=f"{name}_prelu",
            )(hidden)
            fan_in = HIDDEN_UNITS
        inputs.append(gradient)
        scores.append(dense(2, fan_in, f"gate{number:02d}_scores", 100 * number + 50)(hidden))
    return keras.Model(inputs, scores, name="gradient_sampler")


class GradientSampler(AbstractLayerSampler):
    """Learns, per variable, whether its part of the meta-gradient is worth computing.

    References:
        Xu et al., Faster Meta Update Strategy, CVPR 2021, sections 4.2 and 4.3, Eq. (8) to (12).
    """

    def __init__(self, config: LayerSamplerConfig):
        """Takes the settings; `build` makes the variables."""
        self._config = config
        self.gradient_matching_weight = config.gradient_matching_weight
        self.variant = config.variant

    def build(self, model, seed: int) -> None:
        """Makes the gate networks for the top `gated_variables` variables."""
        self._seed = seed
        self.positions = top_positions(model, self._config.gated_variables)
        always_open = set(last_layer_positions(model)) if self._config.variant == "official" else set()
        # Learned gates are the lower ones; the official variant keeps the last layer open above them.
        self._num_learned = sum(position not in always_open for position in self.positions)
        if self._num_learned == 0:
            raise InputError(
                f"--sampler_variant=official keeps the last layer's {len(always_open)} variables always open, and"
                f" --gated_variables={self._config.gated_variables} leaves no other to learn a gate for. Raise it."
            )
        learned = [model.trainable_variables[p] for p in self.positions[: self._num_learned]]
        dimensions = [int(v.shape[-1]) if len(v.shape) else 1 for v in learned]
        self.network = gate_network(dimensions, self._config, seed)
        temperature = self._config.temperature or TEMPERATURES[self._config.variant]
        self.select = GumbelSelect(temperature, dtype="float32")
        self.optimizer = optimizers.Optimizer(self._config.optimizer)
        self.optimizer.build(self.network.trainable_variables)

    @property
    def variables(self) -> list:
        """η and its optimizer's variables."""
        return [*optimizers.as_tf_variables(self.network.variables), *self.optimizer.variables]

    def parameters(self) -> list:
        """η's current values."""
        return [tf.convert_to_tensor(v.value) for v in self.network.trainable_variables]

    def gates(self, parameters, gradients, step):
        """Eq. (8); the Gumbel noise depends on (seed, step) alone, so the gates are equal on all replicas."""
        learned = gradients[: self._num_learned]
        pooled = [tf.cast(pooled_gradient(g, self._config.variant), tf.float32)[tf.newaxis] for g in learned]
        scores, _ = self.network.stateless_call(parameters, [], [tf.stop_gradient(p) for p in pooled])
        scores = tf.concat(tf.nest.flatten(scores), axis=0)
        seed = tf.stack([tf.cast(self._seed, tf.int64), step])
        gates = self.select(scores, tf.random.stateless_uniform(scores.shape, seed=seed))
        return tf.concat([gates, tf.ones([len(self.positions) - self._num_learned])], axis=0)

    def budget_loss(self, gates):
        """λ₁ L_r."""
        learned = gates[: self._num_learned]
        loss = budget_loss(learned, self._config.expected_active_layers, self._config.variant)
        return self._config.budget_weight * loss

    def updates(self, parameters, gradients, step) -> list:
        """One optimizer step on η."""
        return self.optimizer.updates(parameters, gradients, step)
