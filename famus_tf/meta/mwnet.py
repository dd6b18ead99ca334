"""MW-Net: a small network that maps an example's loss to its weight (Shu et al., NeurIPS 2019)."""

import keras
import tensorflow as tf

from famus_tf import losses, optimizers
from famus_tf.config import MetaModelConfig
from famus_tf.meta.fan_in_uniform import fan_in_uniform
from famus_tf.meta.meta_model import AbstractMetaModel


def normalized_weights(weights, normalization: str, global_batch_size: int, all_sum):
    """Scales raw weights so that the weighted losses add up to the objective.

    Args:
        weights: v, [B] in (0, 1), B per replica.
        normalization: "sum" (v / Σv over the global batch, unchanged where Σv = 0) or "batch_size" (v / n).
        global_batch_size: n.
        all_sum: Sums a tensor over replicas.

    Returns:
        [B].
    """
    if normalization == "batch_size":
        return weights / global_batch_size
    total = all_sum(tf.reduce_sum(weights))
    return weights / tf.where(total == 0.0, tf.ones_like(total), total)


class MetaWeightNet(AbstractMetaModel):
    """Ψ(ℓ; θ): one hidden layer, ReLU, sigmoid. J = Σ_i v_i ℓ_i / Σ_i v_i with v_i = Ψ(ℓ_i; θ), ℓ_i held constant.

    Initialised as the official code (uniform ±1/√fan_in for kernels and biases), so that first weights are near 1/2 and
    vary smoothly with the loss.

    References:
        Shu et al., Meta-Weight-Net, NeurIPS 2019, section 2 and Algorithm 1; FaMUS, Eq. (1) to (5).
    """

    def __init__(self, config: MetaModelConfig):
        """Takes the settings; `build` makes the variables."""
        self._config = config

    def build(self, num_classes: int, seed: int) -> None:
        """Makes θ: [1, H], [H], [H, 1], [1] with H hidden units."""
        del num_classes
        hidden_units = self._config.hidden_units
        # Named, so that a mixed-precision policy for the base network leaves θ and the weights in full precision.
        dtype = keras.config.floatx()
        inputs = keras.Input((1,), dtype=dtype, name="losses")
        hidden = keras.layers.Dense(
            hidden_units,
            activation="relu",
            kernel_initializer=fan_in_uniform(1, seed),
            bias_initializer=fan_in_uniform(1, seed + 1),
            dtype=dtype,
            name="hidden",
        )(inputs)
        weights = keras.layers.Dense(
            1,
            activation="sigmoid",
            kernel_initializer=fan_in_uniform(hidden_units, seed + 2),
            bias_initializer=fan_in_uniform(hidden_units, seed + 3),
            dtype=dtype,
            name="weight",
        )(hidden)
        self.network = keras.Model(inputs, weights, name="meta_weight_net")
        self.optimizer = optimizers.Optimizer(self._config.optimizer)
        self.optimizer.build(self.network.trainable_variables)

    @property
    def variables(self) -> list:
        """θ and its optimizer's variables."""
        return [*optimizers.as_tf_variables(self.network.variables), *self.optimizer.variables]

    def weights(self, example_losses, parameters):
        """Ψ(ℓ; θ), not normalised.

        Args:
            example_losses: [B] >= 0, in nats. Held constant: no gradient flows back through them.
            parameters: θ.

        Returns:
            [B] in (0, 1).
        """
        inputs = tf.stop_gradient(example_losses)[:, tf.newaxis]
        weights, _ = self.network.stateless_call(parameters, [], inputs)
        return tf.cast(weights[:, 0], example_losses.dtype)

    def parameters(self, logits, labels, global_batch_size: int) -> list:
        """θ's current values."""
        del labels, global_batch_size
        return [tf.cast(tf.convert_to_tensor(v.value), logits.dtype) for v in self.network.trainable_variables]

    def inner_objective(self, logits, labels, parameters, global_batch_size: int, all_sum):
        """Eq. (1) over the batch; see the class. Differentiable in the logits and in θ."""
        example_losses = losses.cross_entropy(logits, labels)
        weights = self.weights(example_losses, parameters)
        shares = normalized_weights(weights, self._config.weight_normalization, global_batch_size, all_sum)
        return tf.reduce_sum(shares * example_losses), shares * global_batch_size

    def updated_parameters(self, parameters, meta_gradient, step, all_sum):
        """Eq. (4), with the optimizer's momentum and L2."""
        assignments = self.optimizer.updates(parameters, all_sum(meta_gradient), step)
        return [value for _, value in assignments[: len(parameters)]], assignments
