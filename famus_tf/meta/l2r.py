"""L2R: one fresh weight per example and step, read off the meta-gradient (Ren et al., ICML 2018)."""

import tensorflow as tf

from famus_tf import losses
from famus_tf.meta.meta_model import AbstractMetaModel, logit_cotangent, plain_objective


def rectified_weights(gradient, all_sum):
    """ε after one step from 0, cut at 0 and normalised: max(−∂L/∂ε, 0) / Σ, all zero where the sum is zero.

    Args:
        gradient: ∂L_val/∂ε, [B], B per replica.
        all_sum: Sums a tensor over replicas.

    Returns:
        [B] >= 0, summing over replicas to 1 or to 0.
    """
    weights = tf.maximum(-gradient, 0.0)
    total = all_sum(tf.reduce_sum(weights))
    return weights / tf.where(total == 0.0, tf.ones_like(total), total)


class LearningToReweight(AbstractMetaModel):
    """J = Σ_i ε_i ℓ_i. The virtual step is at ε = 0, so ŵ = w; the scales of ε's step and of α cancel.

    The gates of FaMUS look at the gradient of the plain mean loss, since the virtual gradient is zero.
    Differs from FaMUS: the paper does not say what its L2R variant's gates see.

    References:
        Ren et al., Learning to Reweight Examples, ICML 2018, Algorithm 1, Eq. (6) to (10).
    """

    moves_virtual_weights = False

    def build(self, num_classes: int, seed: int) -> None:
        """Nothing outlives a step."""

    @property
    def variables(self) -> list:
        """None."""
        return []

    def parameters(self, logits, labels, global_batch_size: int) -> list:
        """ε = 0, [B]."""
        del labels, global_batch_size
        return [tf.zeros_like(logits[:, 0])]

    def inner_objective(self, logits, labels, parameters, global_batch_size: int, all_sum):
        """Σ_i ε_i ℓ_i; see the class."""
        del all_sum
        (weights,) = parameters
        objective = tf.reduce_sum(weights * losses.cross_entropy(logits, labels))
        return objective, weights * global_batch_size

    def updated_parameters(self, parameters, meta_gradient, step, all_sum):
        """The rectified, normalised weights; nothing is kept."""
        del parameters, step
        (gradient,) = meta_gradient
        return [rectified_weights(gradient, all_sum)], []

    def gate_cotangent(self, logits, labels, cotangent, global_batch_size: int):
        """∂/∂z of the plain mean loss."""
        del cotangent
        return logit_cotangent(lambda z: plain_objective(z, labels, global_batch_size), logits)
