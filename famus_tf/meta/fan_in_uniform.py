"""The initial values that the official PyTorch codes get by default, for the small networks of the meta step."""

import keras


def fan_in_uniform(fan_in: int, seed: int) -> keras.initializers.Initializer:
    """Uniform in ±1/√fan_in, for a dense layer's kernel and bias alike.

    Args:
        fan_in: Number of inputs of the layer, >= 1.
        seed: Of the draw.
    """
    limit = fan_in**-0.5
    return keras.initializers.RandomUniform(-limit, limit, seed=seed)
