"""Networks by name: a builder for each, and two patterns of names.

Builders import what they build when they are called, so that asking for names costs nothing.
"""

import re

WIDE_RESNET = "wrn-<depth>-<width>"
WIDE_RESNET_PATTERN = re.compile(r"wrn-([0-9]{1,4})-([0-9]{1,4})")
KERAS_APPLICATION = "keras:"


def _build_small_cnn(input_shape, num_classes, **settings):
    from famus_tf.models import small_cnn

    return small_cnn.build(input_shape, num_classes, **settings)


def _build_resnet32(input_shape, num_classes, **settings):
    from famus_tf.models import cifar_resnet

    return cifar_resnet.build(input_shape, num_classes, **settings)


def _build_preact_resnet18(input_shape, num_classes, **settings):
    from famus_tf.models import preact_resnet

    return preact_resnet.build(input_shape, num_classes, **settings)


def _build_resnet50(input_shape, num_classes, **settings):
    from famus_tf.models import imagenet

    return imagenet.build_resnet50(input_shape, num_classes, **settings)


def _build_inception_resnet_v2(input_shape, num_classes, **settings):
    from famus_tf.models import imagenet

    return imagenet.build_inception_resnet_v2(input_shape, num_classes, **settings)


MODELS = {
    "small_cnn": _build_small_cnn,
    "resnet32": _build_resnet32,
    "preact_resnet18": _build_preact_resnet18,
    "resnet50": _build_resnet50,
    "inception_resnet_v2": _build_inception_resnet_v2,
}
"""Name -> build(input_shape, num_classes, *, seed, synchronized) -> Keras model; others go by the patterns."""


def build(name: str, input_shape, num_classes: int, mixed_precision: str = "float32", **settings):
    """Builds a network with random weights.

    Args:
        name: A key of `MODELS`, or a name that fits one of the patterns.
        input_shape: (H, W, C) of one image.
        num_classes: K.
        mixed_precision: What the layers compute in, as for `registry.build_model`.
        **settings: `seed` and `synchronized`, as there.

    Returns:
        A functional Keras model from images [B, H, W, C] to logits [B, K].

    Raises:
        InputError: If the network cannot be built for these images.
    """
    if mixed_precision != "float32":
        from famus_tf.models import precision

        with precision.computing_in(mixed_precision):
            return precision.with_float32_logits(build(name, input_shape, num_classes, **settings))
    if name in MODELS:
        return MODELS[name](input_shape, num_classes, **settings)
    if name.startswith(KERAS_APPLICATION):
        from famus_tf.models import keras_applications

        return keras_applications.build(name.removeprefix(KERAS_APPLICATION), input_shape, num_classes, **settings)
    from famus_tf.models import wide_resnet

    depth, width = (int(part) for part in WIDE_RESNET_PATTERN.fullmatch(name).groups())
    return wide_resnet.build(input_shape, num_classes, depth=depth, width=width, **settings)
