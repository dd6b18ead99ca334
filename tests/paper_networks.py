"""The networks of the papers as the tests build them: by name, small, and each only once."""

import functools

import numpy as np

from famus_tf.models import cifar_resnet, preact_resnet, small_cnn, wide_resnet

NUM_CLASSES = 7
BUILDERS = {
    "small_cnn": small_cnn.build,
    "cifar_resnet": cifar_resnet.build,
    "wide_resnet": functools.partial(wide_resnet.build, depth=10, width=2),
    "preact_resnet": preact_resnet.build,
}
COLOR, DIGITS, ODD = (32, 32, 3), (8, 8, 1), (17, 11, 3)


@functools.cache
def built_model(name, input_shape=COLOR, seed=0):
    return BUILDERS[name](input_shape, NUM_CLASSES, seed=seed)


def images(input_shape, batch=3):
    return np.random.default_rng(5).normal(size=(batch, *input_shape)).astype("float32")
