"""The select layer at the end of each gate: a hard choice forward, a soft one backward."""

import keras
import tensorflow as tf


def gumbel_noise(uniform):
    """Standard Gumbel noise from uniform draws: −log(−log u).

    Args:
        uniform: Any shape, in [0, 1); cut away from 0 and 1 so that the noise is finite.

    Returns:
        Same shape and dtype.
    """
    tiny = 1e-7
    uniform = tf.clip_by_value(uniform, tiny, 1.0 - tiny)
    return -tf.math.log(-tf.math.log(uniform))


@keras.saving.register_keras_serializable(package="famus_tf")
class GumbelSelect(keras.layers.Layer):
    """Straight-through Gumbel-softmax over {closed, open}; returns the gate r ∈ {0, 1}.

    Forward, r is the hard choice argmax(logits + noise). Backward, the gradient is that of the soft choice,
    softmax((logits + noise) / temperature).

    References:
        Jang, Gu & Poole, Categorical Reparameterization with Gumbel-Softmax, ICLR 2017, section 2.2.
        Xu et al., Faster Meta Update Strategy, CVPR 2021, section 4.2.
    """

    def __init__(self, temperature: float = 1.0, **kwargs):
        """Makes the layer.

        Args:
            temperature: > 0; the higher, the softer the backward pass.
            **kwargs: Of `keras.layers.Layer`.
        """
        super().__init__(**kwargs)
        self.temperature = temperature

    def call(self, logits, uniform):
        """Chooses.

        Args:
            logits: [..., 2], scores of closed and open.
            uniform: Same shape, draws in [0, 1), the only randomness.

        Returns:
            [...], 0 or 1.
        """
        scores = logits + gumbel_noise(uniform)
        soft = tf.nn.softmax(scores / self.temperature)[..., 1]
        hard = tf.cast(scores[..., 1] > scores[..., 0], soft.dtype)
        # soft − soft is exactly 0, so the value is exactly 0 or 1.
        return hard + (soft - tf.stop_gradient(soft))

    def get_config(self):
        """The constructor's arguments."""
        return {**super().get_config(), "temperature": self.temperature}
