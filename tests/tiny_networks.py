"""Tiny networks, batches and test doubles for the tests of the meta step.

Every value is drawn by NumPy, so a network is the same in float32 and float64, on one replica and on two.
"""

import contextlib
import typing

import keras
import numpy as np
import tensorflow as tf

from famus_tf.config import LayerSamplerConfig, MetaModelConfig, MethodConfig, OptimizerConfig
from famus_tf.meta.gradient_sampler import GradientSampler
from famus_tf.meta.l2r import LearningToReweight
from famus_tf.meta.layer_sampling import AbstractLayerSampler, AllLayers, LayerBlock, RandomLayers
from famus_tf.meta.mlc import TransitionMatrix
from famus_tf.meta.mwnet import MetaWeightNet
from famus_tf.methods.meta_reweighting import MetaReweighting
from famus_tf.models.precision import computing_in, with_float32_logits

IMAGE_SHAPE = (6, 6, 2)
NUM_CLASSES = 3
FIRST_STEP = tf.constant(0, tf.int64)
# A power of two, so that the float32 rate is the same number in float64.
PLAIN_SGD = OptimizerConfig(learning_rate=0.5, momentum=0.0)
MOMENTUM_SGD = OptimizerConfig(learning_rate=0.125, momentum=0.9, nesterov=True, l2_coefficient=1e-3)


@contextlib.contextmanager
def double_precision():
    """Everything Keras makes inside is float64; the former settings come back at the end."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


def draw_weights(model, seed=0):
    """Gives every trainable variable drawn values; scales of batch norm (gamma) lie around 1."""
    random = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        center = 1.0 if variable.path.endswith("gamma") else 0.0
        variable.assign(center + 0.35 * random.normal(size=variable.shape))
    return model


def conv_network(
    *, num_blocks=2, batch_norm=True, synchronized=False, regularizer=None, dropout=0.0, precision="float32", **classes
):
    """Blocks of convolution, batch norm, smooth activation and average pooling under a dense head.

    `normalization=` names another class than the stock batch norm; `precision` is as in `registry.build_model`.
    """
    if precision != "float32":
        with computing_in(precision):
            model = conv_network(
                num_blocks=num_blocks, batch_norm=batch_norm, synchronized=synchronized, regularizer=regularizer,
                dropout=dropout, **classes,
            )  # fmt: skip
        return with_float32_logits(model)
    layers = keras.layers
    normalization = classes.get("normalization", layers.BatchNormalization)
    x = inputs = keras.Input(IMAGE_SHAPE)
    for block, (filters, activation) in enumerate([(3, "softplus"), (4, "tanh")][:num_blocks], start=1):
        name = f"block{block:02d}"
        x = layers.Conv2D(
            filters, 3, padding="same", use_bias=not batch_norm, kernel_regularizer=regularizer, name=f"{name}_conv"
        )(x)
        if batch_norm:
            x = normalization(momentum=0.9, synchronized=synchronized, name=f"{name}_norm")(x)
        x = layers.Activation(activation, name=f"{name}_activation")(x)
        x = layers.AveragePooling2D(2, name=f"{name}_pool")(x)
        if dropout:
            x = layers.Dropout(dropout, seed=5, name=f"{name}_dropout")(x)
    x = layers.Flatten(name="flatten")(x)
    return draw_weights(keras.Model(inputs, layers.Dense(NUM_CLASSES, name="logits")(x), name="tiny"))


def deep_dense_network(num_layers):
    """Many narrow tanh layers, so many gated variables: 2 · num_layers + 2."""
    x = inputs = keras.Input(IMAGE_SHAPE)
    x = keras.layers.Flatten()(x)
    for number in range(num_layers):
        x = keras.layers.Dense(4, activation="tanh", name=f"dense{number:02d}")(x)
    return draw_weights(keras.Model(inputs, keras.layers.Dense(NUM_CLASSES, name="logits")(x), name="deep"))


def example_arrays(count, seed):
    """Images and labels as a user has them, [count, H, W, C] float32 and [count], which a small network can learn."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, NUM_CLASSES, count)
    images = draw.normal(size=(count, *IMAGE_SHAPE)) + labels[:, None, None, None]
    return images.astype(np.float32), labels


def batch(size, seed, dtype="float32"):
    """{"index", "image", "label"} of `size` drawn examples, all classes among them."""
    random = np.random.default_rng(seed)
    labels = np.arange(size) % NUM_CLASSES
    images = random.normal(size=(size, *IMAGE_SHAPE)) + 0.4 * labels[:, None, None, None]
    random.shuffle(labels)
    return {
        "index": tf.range(size),
        "image": tf.constant(images, dtype),
        "label": tf.constant(labels, tf.int32),
    }


@typing.final
class ForcedGates(AbstractLayerSampler):
    """A test double whose gates are a variable that the test sets; η is an additive 0, so ∂L_c/∂η = ∂L_c/∂r."""

    def __init__(self, gates, positions=None):
        self._initial = gates
        self._given_positions = positions

    def build(self, model, seed):
        del seed
        self.positions = self._given_positions or tuple(range(len(model.trainable_variables)))
        gates = np.broadcast_to(np.asarray(self._initial, "float32"), [len(self.positions)])
        self.values = tf.Variable(gates, trainable=False)

    def parameters(self):
        return [tf.zeros([len(self.positions)])]

    def gates(self, parameters, gradients, step):
        del gradients, step
        return tf.convert_to_tensor(self.values) + parameters[0]


def layer_sampler(name, **settings):
    """A sampler by the name of the tests: "all", "famus", "official", "random" or "block"."""
    if name == "all":
        return AllLayers()
    if name == "block":
        return LayerBlock(LayerSamplerConfig(name="block", **settings))
    if name == "random":
        return RandomLayers(LayerSamplerConfig(name="random", **settings))
    variant = "official" if name == "official" else "paper"
    return GradientSampler(LayerSamplerConfig(name="famus", variant=variant, **settings))


def meta_model(name, **settings):
    """A meta-model by name."""
    if name == "l2r":
        return LearningToReweight()
    config = MetaModelConfig(name=name, **{"hidden_units": 6, **settings})
    return MetaWeightNet(config) if name == "mwnet" else TransitionMatrix(config)


def meta_method(model, name, sampler, *, base=PLAIN_SGD, seed=3, num_replicas=1, **settings):
    """A built method on a model."""
    method = MetaReweighting(MethodConfig(name="test", base=base), meta_model(name, **settings), sampler)
    method.build(model, seed=seed, num_replicas=num_replicas)
    return method


def commit(result):
    """Stores a step's assignments."""
    for variable, value in result.assignments:
        variable.assign(value)


def arrays(variables):
    """The current values, copied."""
    return [np.array((v.value if isinstance(v, keras.Variable) else v).numpy()) for v in variables]


def next_values(result, variables):
    """What a step would store in the variables (of Keras or TensorFlow), in their order."""
    by_id = {id(variable): value.numpy() for variable, value in result.assignments}
    return [by_id[id(v.value if isinstance(v, keras.Variable) else v)] for v in variables]


def assert_all_close(actual, expected, *, rtol=0.0, atol=0.0):
    """Compares lists of tensors or arrays pairwise."""
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(e), rtol=rtol, atol=atol)


def relative_error(actual, expected):
    """‖a − e‖ / ‖e‖ over all entries of two lists."""
    flat = [np.concatenate([np.ravel(np.asarray(x)) for x in values]) for values in (actual, expected)]
    return np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1])
