"""MLC of Wang, Hu & Hu (CVPR 2020): a learned label transition matrix. It is not Meta Label Correction (AAAI 2021)."""

import tensorflow as tf

from famus_tf import losses
from famus_tf.config import MetaModelConfig
from famus_tf.meta.meta_model import AbstractMetaModel


def projected_transition(transition):
    """Cuts a transition matrix at 0 and divides each column by its sum, where that is not zero.

    Args:
        transition: [K, K].

    Returns:
        [K, K] >= 0, each column summing to 1 or 0.
    """
    transition = tf.maximum(transition, 0.0)
    total = tf.reduce_sum(transition, axis=0, keepdims=True)
    return transition / tf.where(total == 0.0, tf.ones_like(total), total)


class TransitionMatrix(AbstractMetaModel):
    """J = Σ_i ℓ(z_i T, y_i) (or its mean), T = I anew in every step, T' = project(T − β ∂L_val/∂T).

    T multiplies the logits, as in the official code (the paper writes a corrected prediction).
    Differs from the official code: the default is the mean over the batch, so that T = I is plain training; its sum is
    `mlc_reduction="sum"`. The virtual step takes the current rate α; the official code takes a fixed 1e-3.

    References:
        Wang, Hu & Hu, Training Noise-Robust Deep Neural Networks via Meta-Learning, CVPR 2020.
    """

    def __init__(self, config: MetaModelConfig):
        """Takes the settings."""
        self._config = config

    def build(self, num_classes: int, seed: int) -> None:
        """Nothing outlives a step but K."""
        del seed
        self._num_classes = num_classes

    @property
    def variables(self) -> list:
        """None."""
        return []

    def parameters(self, logits, labels, global_batch_size: int) -> list:
        """T = I, [K, K]."""
        del labels, global_batch_size
        return [tf.eye(self._num_classes, dtype=logits.dtype)]

    def inner_objective(self, logits, labels, parameters, global_batch_size: int, all_sum):
        """See the class. The weights are 1: MLC corrects labels and weighs nothing."""
        del all_sum
        (transition,) = parameters
        objective = tf.reduce_sum(losses.cross_entropy(tf.matmul(logits, transition), labels))
        if self._config.mlc_reduction == "mean":
            objective /= global_batch_size
        return objective, tf.ones_like(logits[:, 0])

    def updated_parameters(self, parameters, meta_gradient, step, all_sum):
        """One projected gradient step from T = I; nothing is kept."""
        del step
        (transition,), (gradient,) = parameters, all_sum(meta_gradient)
        return [projected_transition(transition - self._config.optimizer.learning_rate * gradient)], []
