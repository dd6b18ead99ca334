"""Wide residual networks, WRN-depth-width; WRN-28-10 is MW-Net's and L2R's network in FaMUS."""

import keras

from famus_tf.errors import InputError
from famus_tf.models.arguments import check_build_arguments
from famus_tf.models.convolution import padded_convolution
from famus_tf.models.initializers import kaiming_normal, torch_default_kernel
from famus_tf.models.normalization import batch_normalization

_STEM_WIDTH = 16
_STAGE_WIDTHS = (16, 32, 64)


def build(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    depth: int,
    width: int,
    seed: int = 0,
    synchronized: bool = False,
) -> keras.Model:
    """Builds WRN-depth-width: a 3x3 stem of 16 channels and three stages of (depth - 4) / 6 blocks.

    Zagoruyko and Komodakis, 2016, https://arxiv.org/abs/1605.07146, as MW-Net's code has it: the
    stride is on a block's first convolution; where the shape changes, the 1x1 shortcut convolution
    takes the activated input; no dropout; batch normalisation and ReLU before the pooling.
    Convolution kernels are N(0, 2/fan_out), the linear kernel is PyTorch's default and the linear
    bias is zero. WRN-28-10 with 3 channels and 10 classes: 36,479,194 trainable parameters.

    Differs from L2R's WRN-28-10 (dropout 0.3, batch normalisation without scale) and from MLC's
    WRN-40-2 (leaky ReLU, biases, stride on the second convolution, shortcut from the raw input).

    Args:
        input_shape: (H, W, C) of one image; H and W at least 4 pixels.
        num_classes: K, at least 2.
        depth: number of layers, 6n + 4 with n >= 1.
        width: factor on the stages' 16, 32 and 64 channels, >= 1.
        seed: of the initial weights, >= 0; the same seed gives the same weights.
        synchronized: True computes the batch statistics over all replicas.

    Returns:
        A functional model from images [B, H, W, C] to logits [B, K], float32. The (depth - 4) / 2
        blocks are named "block01_", "block02_" and so on.

    Raises:
        InputError: an argument is out of range.
    """
    if not isinstance(depth, int) or depth < 10 or (depth - 4) % 6 != 0:
        raise InputError(f"wide_resnet got depth={depth!r} and expected 6n + 4 with n >= 1, such as 10, 16, 28 or 40.")
    if not isinstance(width, int) or width < 1:
        raise InputError(f"wide_resnet got width={width!r} and expected an integer of 1 or more, such as 10.")
    check_build_arguments("wide_resnet", input_shape, num_classes, seed, minimum_side=4)
    inputs = keras.Input(input_shape, name="images")
    x = padded_convolution(
        inputs,
        _STEM_WIDTH,
        initializer=kaiming_normal(seed, "stem_conv/kernel", mode="fan_out"),
        name="stem_conv",
    )
    block = 0
    for stage, stage_width in enumerate(_STAGE_WIDTHS):
        for position in range((depth - 4) // 6):
            block += 1
            x = _wide_block(
                x,
                stage_width * width,
                stride=2 if stage > 0 and position == 0 else 1,
                prefix=f"block{block:02d}_",
                seed=seed,
                synchronized=synchronized,
            )
    x = batch_normalization("final_bn", synchronized=synchronized)(x)
    x = keras.layers.ReLU(name="final_relu")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    logits = keras.layers.Dense(
        num_classes, kernel_initializer=torch_default_kernel(seed, "logits/kernel"), name="logits"
    )(x)
    return keras.Model(inputs, logits, name=f"wide_resnet_{depth}_{width}")


def _wide_block(
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
        initializer = kaiming_normal(seed, f"{prefix}{name}/kernel", mode="fan_out")
        return padded_convolution(tensor, width, initializer=initializer, name=prefix + name, **arguments)

    activated = batch_normalization(f"{prefix}bn1", synchronized=synchronized)(inputs)
    activated = keras.layers.ReLU(name=f"{prefix}relu1")(activated)
    x = convolution(activated, "conv1", stride=stride)
    x = batch_normalization(f"{prefix}bn2", synchronized=synchronized)(x)
    x = keras.layers.ReLU(name=f"{prefix}relu2")(x)
    x = convolution(x, "conv2")
    shortcut = inputs
    # Only a change of width calls for a convolution: every strided block also changes the width.
    if inputs.shape[-1] != width:
        shortcut = convolution(activated, "shortcut_conv", kernel_size=1, stride=stride)
    return keras.layers.Add(name=f"{prefix}add")([x, shortcut])
