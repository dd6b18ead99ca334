"""Which layers' meta-gradient is computed: the interface, and the samplers that learn nothing.

"Layer" means one trainable variable, as in the official code: a kernel, a bias, a batch norm's scale or its offset.
"""

import abc
import re

import tensorflow as tf

from famus_tf.config import LayerSamplerConfig
from famus_tf.errors import InputError


class AbstractLayerSampler(abc.ABC):
    """Gives, in every step, a gate r_l ∈ {0, 1} for each of the variables it may open.

    Attributes:
        positions: Which trainable variables may be open, as increasing positions in `model.trainable_variables`.
        is_static: True where all of `positions` are open in every step, so that nothing is decided in the graph.
        gradient_matching_weight: λ₂ of Eq. (12); 0 for all but FaMUS.
    """

    is_static = False
    gradient_matching_weight = 0.0
    positions: tuple[int, ...] = ()

    @abc.abstractmethod
    def build(self, model, seed: int) -> None:
        """Looks at the network and makes variables, inside the strategy's scope.

        Args:
            model: The built Keras model.
            seed: Of initial values and of every later draw.

        Raises:
            InputError: If the network does not have what the settings name.
        """

    @property
    def variables(self) -> list:
        """Everything to be saved; nothing unless the sampler learns."""
        return []

    def parameters(self) -> list:
        """η as tensors; empty unless the sampler learns."""
        return []

    @abc.abstractmethod
    def gates(self, parameters, gradients, step):
        """The gates of this step, equal on all replicas.

        Args:
            parameters: η.
            gradients: The training gradients of the variables at `positions`, reduced over replicas.
            step: Scalar int64.

        Returns:
            [L] float32, 0 or 1, L = len(positions); differentiable in η where the sampler learns.
        """

    def budget_loss(self, gates):
        """λ₁ L_r of Eq. (12) of gates [L]; a scalar, 0 unless the sampler learns."""
        return tf.zeros_like(gates[0])

    def updates(self, parameters, gradients, step) -> list:
        """The (variable, new value) pairs that move η; none unless the sampler learns."""
        del parameters, gradients, step
        return []


def top_positions(model, count: int) -> tuple[int, ...]:
    """Positions of the last `count` trainable variables, or of all where `count` is 0.

    Args:
        model: A built Keras model.
        count: >= 0.

    Raises:
        InputError: If the network has fewer trainable variables.
    """
    total = len(model.trainable_variables)
    if count > total:
        raise InputError(
            f"{count} gated variables were asked for, but the network has {total} trainable variables."
            f" Set --gated_variables to at most {total}, or to 'all'."
        )
    return tuple(range(total - count if count else 0, total))


def layer_owners(model) -> list[str]:
    """For each trainable variable, the path of the Keras layer that owns it."""
    return [v.path.rpartition("/")[0] for v in model.trainable_variables]


def last_layer_positions(model) -> tuple[int, ...]:
    """Positions of the variables of the last layer (the classifier's kernel and bias)."""
    owners = layer_owners(model)
    return tuple(position for position, owner in enumerate(owners) if owner == owners[-1])


def residual_blocks(model) -> list[tuple[int, ...]]:
    """The residual blocks, bottom to top, as positions of their trainable variables.

    A block is what shares a layer-name prefix that ends in "block" and a number: `block07_conv1` of our networks,
    `conv2_block1_1_conv` or `block_3_expand` of `keras.applications`.
    """
    blocks: dict[str, list[int]] = {}
    for position, variable in enumerate(model.trainable_variables):
        match = re.match(r"(?:.*/)?([^/]*?block_?\d+[a-z]?(?![a-z]))", variable.path)
        if match:
            blocks.setdefault(match.group(1), []).append(position)
    return [tuple(positions) for positions in blocks.values()]


class AllLayers(AbstractLayerSampler):
    """Every variable, always: the exact meta-gradient."""

    is_static = True

    def build(self, model, seed: int) -> None:
        """Takes all positions."""
        del seed
        self.positions = top_positions(model, 0)

    def gates(self, parameters, gradients, step):
        """All ones."""
        del parameters, gradients, step
        return tf.ones([len(self.positions)])


class LayerBlock(AbstractLayerSampler):
    """The variables of one residual block, always (FaMUS, Table 4, "pre-specified block")."""

    is_static = True

    def __init__(self, config: LayerSamplerConfig):
        """Takes the settings."""
        self._block = config.layer_block

    def build(self, model, seed: int) -> None:
        """Finds the block."""
        del seed
        blocks = residual_blocks(model)
        if self._block > len(blocks):
            raise InputError(
                f"--layer_block={self._block} was asked for, but this network has {len(blocks)} residual blocks."
                + (f" Choose 1 (bottom) to {len(blocks)} (top)." if blocks else " Choose another layer sampler.")
            )
        self.positions = blocks[self._block - 1]

    def gates(self, parameters, gradients, step):
        """All ones."""
        del parameters, gradients, step
        return tf.ones([len(self.positions)])


class RandomLayers(AbstractLayerSampler):
    """A fresh uniform choice of s gated variables in every step (FaMUS, Table 4, "random layers")."""

    def __init__(self, config: LayerSamplerConfig):
        """Takes the settings."""
        self._config = config

    def build(self, model, seed: int) -> None:
        """Takes the top variables."""
        self._seed = seed
        self.positions = top_positions(model, self._config.gated_variables)
        if self._config.num_random_layers > len(self.positions):
            raise InputError(
                f"--num_random_layers={self._config.num_random_layers} is more than the {len(self.positions)}"
                " variables that may be open. Lower it, or raise --gated_variables."
            )

    def gates(self, parameters, gradients, step):
        """Ones at s places that depend on (seed, step) alone."""
        del parameters, gradients
        draws = tf.random.stateless_uniform([len(self.positions)], seed=tf.stack([tf.cast(self._seed, tf.int64), step]))
        _, chosen = tf.math.top_k(draws, self._config.num_random_layers)
        return tf.reduce_sum(tf.one_hot(chosen, len(self.positions)), axis=0)
