"""PreActResNet-18, the network of DivideMix and of FaMUS' official code."""

import keras

from famus_tf.models.arguments import check_build_arguments
from famus_tf.models.convolution import padded_convolution
from famus_tf.models.initializers import torch_default_bias, torch_default_kernel
from famus_tf.models.normalization import batch_normalization

_WIDTHS = (64, 128, 256, 512)
_BLOCKS_PER_STAGE = 2


def build(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    seed: int = 0,
    synchronized: bool = False,
) -> keras.Model:
    """Builds PreActResNet-18: a stem and four stages of two pre-activation blocks.

    Pre-activation blocks: He et al., 2016, https://arxiv.org/abs/1603.05027. As in DivideMix's code
    the stem is a 3x3 convolution of 64 channels with batch normalisation and ReLU, the stages have
    64, 128, 256 and 512 channels, and where the shape changes a 1x1 shortcut convolution takes the
    activated input. All kernels, and the linear bias, start as PyTorch's defaults do. With 3
    channels and 10
    classes: 11,171,274 trainable parameters.

    Differs from the paper: no batch normalisation and no ReLU come after the last block, again as
    in DivideMix's code. FaMUS' "last 15 tensors" are the last two blocks and the linear layer only
    then.

    Args:
        input_shape: (H, W, C) of one image; H and W at least 8 pixels.
        num_classes: K, at least 2.
        seed: of the initial weights, >= 0; the same seed gives the same weights.
        synchronized: True computes the batch statistics over all replicas.

    Returns:
        A functional model from images [B, H, W, C] to logits [B, K], float32. The 8 blocks are
        named "block01_" to "block08_".

    Raises:
        InputError: an argument is out of range.
    """
    check_build_arguments("preact_resnet", input_shape, num_classes, seed, minimum_side=8)
    inputs = keras.Input(input_shape, name="images")
    x = padded_convolution(
        inputs,
        _WIDTHS[0],
        initializer=torch_default_kernel(seed, "stem_conv/kernel"),
        name="stem_conv",
    )
    x = batch_normalization("stem_bn", synchronized=synchronized)(x)
    x = keras.layers.ReLU(name="stem_relu")(x)
    block = 0
    for stage, width in enumerate(_WIDTHS):
        for position in range(_BLOCKS_PER_STAGE):
            block += 1
            x = _preactivation_block(
                x,
                width,
                stride=2 if stage > 0 and position == 0 else 1,
                prefix=f"block{block:02d}_",
                seed=seed,
                synchronized=synchronized,
            )
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    logits = keras.layers.Dense(
        num_classes,
        kernel_initializer=torch_default_kernel(seed, "logits/kernel"),
        bias_initializer=torch_default_bias(seed, "logits/bias", fan_in=_WIDTHS[-1]),
        name="logits",
    )(x)
    return keras.Model(inputs, logits, name="preact_resnet_18")


def _preactivation_block(
    inputs: keras.KerasTensor,
    width: int,
    *,
    stride: int,
    prefix: str,
    seed: int,
    synchronized: bool,
) -> keras.KerasTensor:
    """Returns conv2(relu(bn2(conv1(a)))) + x with a = relu(bn1(x)).

    Where the shape changes, a 1x1 convolution of a takes the place of x.
    """

    def convolution(tensor, name, **arguments):
        initializer = torch_default_kernel(seed, f"{prefix}{name}/kernel")
        return padded_convolution(tensor, width, initializer=initializer, name=prefix + name, **arguments)

    activated = batch_normalization(f"{prefix}bn1", synchronized=synchronized)(inputs)
    activated = keras.layers.ReLU(name=f"{prefix}relu1")(activated)
    x = convolution(activated, "conv1", stride=stride)
    x = batch_normalization(f"{prefix}bn2", synchronized=synchronized)(x)
    x = keras.layers.ReLU(name=f"{prefix}relu2")(x)
    x = convolution(x, "conv2")
    shortcut = inputs
    if stride > 1 or inputs.shape[-1] != width:
        shortcut = convolution(activated, "shortcut_conv", kernel_size=1, stride=stride)
    return keras.layers.Add(name=f"{prefix}add")([x, shortcut])
