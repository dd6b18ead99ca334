"""The networks of the benchmarks with large images: ResNet-50 (Clothing1M) and Inception-ResNet-v2 (WebVision)."""

import keras

from famus_tf.models import keras_applications
from famus_tf.models.arguments import check_build_arguments

# PyTorch's 0.1, which is the weight of the new value: the papers' networks are PyTorch's.
_MOMENTUM = 0.9


def build_resnet50(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    seed: int = 0,
    synchronized: bool = False,
) -> keras.Model:
    """Builds ResNet-50 in the form of `keras.applications`, usually for 224x224 pixels.

    He et al., 2016, https://arxiv.org/abs/1512.03385, Table 1. DivideMix and MLNT start from ImageNet weights on
    Clothing1M, and FaMUS' supplement names the network without saying how it starts; `initial_weights.load` reads the
    ImageNet weights that Keras distributes, which expect the inputs that `input_scaling.CAFFE` describes. With 3
    channels and 10 classes: 23,555,082 trainable parameters.

    Differs from torchvision's ResNet-50, which the papers' codes take: the stride of a stage is on the first 1x1
    convolution of its first block, not on the 3x3 one; convolutions have biases; epsilon is 1.001e-5, not 1e-5; kernels
    start Glorot-uniform. The biases stand in front of batch normalisation and receive no gradient, yet each counts as
    one of FaMUS' layers: the last 15 variables are the last block, the classifier and one variable more here, the
    last block, the classifier and four more there.

    Differs from `keras.applications`: the momentum of the moving statistics is 0.9, as in PyTorch, and not 0.99.

    Args:
        input_shape: (H, W, C) of one image; H and W at least 32 pixels.
        num_classes: K, at least 2.
        seed: of the initial weights, >= 0; the same seed gives the same weights.
        synchronized: True computes the batch statistics over all replicas.

    Returns:
        A functional model from images [B, H, W, C] to logits [B, K]. The 16 blocks are named "conv2_block1_" to
        "conv5_block3_", as in `keras.applications`.

    Raises:
        InputError: an argument is out of range.
    """
    check_build_arguments("resnet50", input_shape, num_classes, seed, minimum_side=32)
    return keras_applications.build(
        "ResNet50", input_shape, num_classes, seed=seed, synchronized=synchronized, momentum=_MOMENTUM
    )


def build_inception_resnet_v2(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    seed: int = 0,
    synchronized: bool = False,
) -> keras.Model:
    """Builds Inception-ResNet-v2 in the form of `keras.applications`, usually for 299x299 pixels.

    Szegedy et al., 2017, https://arxiv.org/abs/1602.07261. DivideMix trains it from random weights on mini-WebVision.
    Batch normalisation has an offset and no scale. With 3 channels and 50 classes: 54,353,042 trainable parameters.

    Differs from `keras.applications`: the momentum of the moving statistics is 0.9, as in the papers' codes, and not
    0.99; and the 40 residual blocks, whose convolutions have no names there, are named "block01_" to "block40_".
    Differs from the papers' codes (PyTorch): kernels start Glorot-uniform; batch normalisation has a scale there.

    Args:
        input_shape: (H, W, C) of one image; H and W at least 75 pixels.
        num_classes: K, at least 2.
        seed: of the initial weights, >= 0; the same seed gives the same weights.
        synchronized: True computes the batch statistics over all replicas.

    Returns:
        A functional model from images [B, H, W, C] to logits [B, K]. Layers outside the residual blocks begin with
        "stem_", "mixed_5b_", "mixed_6a_", "mixed_7a_" or "conv_7b".

    Raises:
        InputError: an argument is out of range.
    """
    check_build_arguments("inception_resnet_v2", input_shape, num_classes, seed, minimum_side=75)
    return keras_applications.build(
        "InceptionResNetV2",
        input_shape,
        num_classes,
        seed=seed,
        synchronized=synchronized,
        momentum=_MOMENTUM,
        layer_names=inception_resnet_v2_layer_names(),
    )


def inception_resnet_v2_layer_names() -> dict[str, str]:
    """{name in a fresh session of Keras: our name} of Inception-ResNet-v2's layers.

    Keras numbers the convolutions without a name in the order in which the network's code makes them.
    """
    kinds = (("block35", 10, 6), ("block17", 20, 4), ("block8", 10, 4))
    before = {"block35": (("stem", 5), ("mixed_5b", 7)), "block17": (("mixed_6a", 4),), "block8": (("mixed_7a", 7),)}
    names, convolution, block = {}, 0, 0
    for kind, num_blocks, num_convolutions in kinds:
        sections = list(before[kind])
        for index in range(1, num_blocks + 1):
            block += 1
            prefix = f"block{block:02d}"
            sections.append((prefix, num_convolutions))
            keras_name = f"{kind}_{index}"
            names |= {
                f"{keras_name}_mixed": f"{prefix}_concatenate",
                f"{keras_name}_conv": f"{prefix}_up_conv",
                f"{keras_name}_ac": f"{prefix}_relu",
                _counted("custom_scale_layer", block - 1): f"{prefix}_add",
            }
        for prefix, count in sections:
            for number in range(1, count + 1):
                names |= {
                    _counted("conv2d", convolution): f"{prefix}_conv{number}",
                    _counted("batch_normalization", convolution): f"{prefix}_bn{number}",
                    _counted("activation", convolution): f"{prefix}_relu{number}",
                }
                convolution += 1
    # The last block ends without an activation.
    del names["block8_10_ac"]
    return names


def _counted(kind: str, number: int) -> str:
    return f"{kind}_{number}" if number else kind
