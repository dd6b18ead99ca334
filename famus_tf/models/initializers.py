"""Initialisers of the papers' networks, each variable drawing from a seed of its own.

Stock Keras initialisers only, so a saved model loads without this package. Keras' own `HeNormal` is
a truncated normal and its default is Glorot's; the papers' code (PyTorch) uses neither.
"""

import math

import keras
import numpy as np


def variable_seed(seed: int, variable_name: str) -> int:
    """The seed of one variable: a fixed mix of the builder's seed and the variable's name.

    Args:
        seed: the builder's seed, >= 0.
        variable_name: unique in the model, e.g. "block01_conv1/kernel".

    Returns:
        An integer in [0, 2**31).
    """
    mixed = np.random.SeedSequence([seed, *variable_name.encode()]).generate_state(1)[0]
    return int(mixed) & 0x7FFFFFFF


def kaiming_normal(seed: int, variable_name: str, *, mode: str = "fan_in") -> keras.initializers.Initializer:
    """N(0, 2 / fan), untruncated: PyTorch's `kaiming_normal_` for ReLU.

    He et al., 2015, https://arxiv.org/abs/1502.01852, equations (10) and (14).

    Args:
        seed: the builder's seed, >= 0.
        variable_name: unique in the model.
        mode: "fan_in" (k·k·C_in of a convolution) or "fan_out" (k·k·C_out).
    """
    return keras.initializers.VarianceScaling(
        scale=2.0,
        mode=mode,
        distribution="untruncated_normal",
        seed=variable_seed(seed, variable_name),
    )


def torch_default_kernel(seed: int, variable_name: str) -> keras.initializers.Initializer:
    """U(-1/√fan_in, 1/√fan_in), PyTorch's default for convolutions and linear layers.

    PyTorch writes it as `kaiming_uniform_(a=√5)`, whose bound √(6 / ((1 + 5) fan_in)) is the same.

    Args:
        seed: the builder's seed, >= 0.
        variable_name: unique in the model.
    """
    return keras.initializers.VarianceScaling(
        scale=1.0 / 3.0,  # Keras' bound is √(3 scale / fan_in).
        mode="fan_in",
        distribution="uniform",
        seed=variable_seed(seed, variable_name),
    )


def torch_default_bias(seed: int, variable_name: str, *, fan_in: int) -> keras.initializers.Initializer:
    """U(-1/√fan_in, 1/√fan_in), PyTorch's default for biases.

    Args:
        seed: the builder's seed, >= 0.
        variable_name: unique in the model.
        fan_in: of the kernel that the bias belongs to.
    """
    bound = 1.0 / math.sqrt(fan_in)
    return keras.initializers.RandomUniform(minval=-bound, maxval=bound, seed=variable_seed(seed, variable_name))
