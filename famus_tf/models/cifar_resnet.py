"""ResNet-32 for CIFAR, the network of MW-Net (flip noise, long tails) and LDAM."""

import keras

from famus_tf.models.arguments import check_build_arguments
from famus_tf.models.convolution import padded_convolution
from famus_tf.models.initializers import kaiming_normal, torch_default_bias
from famus_tf.models.normalization import batch_normalization

_WIDTHS = (16, 32, 64)
_BLOCKS_PER_STAGE = 5


def build(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    seed: int = 0,
    synchronized: bool = False,
) -> keras.Model:
    """Builds ResNet-32: a 3x3 stem and three stages of five basic blocks of 16, 32 and 64 channels.

    He et al., 2016, https://arxiv.org/abs/1512.03385, section 4.2, with the parameter-free
    shortcuts (option A). Convolution and linear kernels are N(0, 2/fan_in) and the linear bias is
    PyTorch's default, as in MW-Net's code. With 3 channels and 10 classes: 464,154 trainable
    parameters.

    Differs from the paper: option A there adds the new channels at the end; here, as in the code of
    MW-Net and LDAM, half of them come before the old ones and half after.

    Args:
        input_shape: (H, W, C) of one image; H and W at least 4 pixels.
        num_classes: K, at least 2.
        seed: of the initial weights, >= 0; the same seed gives the same weights.
        synchronized: True computes the batch statistics over all replicas.

    Returns:
        A functional model from images [B, H, W, C] to logits [B, K], float32. The 15 blocks are
        named "block01_" to "block15_".

    Raises:
        InputError: an argument is out of range.
    """
    check_build_arguments("cifar_resnet", input_shape, num_classes, seed, minimum_side=4)
    inputs = keras.Input(input_shape, name="images")
    x = padded_convolution(
        inputs,
        _WIDTHS[0],
        initializer=kaiming_normal(seed, "stem_conv/kernel"),
        name="stem_conv",
    )
    x = batch_normalization("stem_bn", synchronized=synchronized)(x)
    x = keras.layers.ReLU(name="stem_relu")(x)
    block = 0
    for stage, width in enumerate(_WIDTHS):
        for position in range(_BLOCKS_PER_STAGE):
            block += 1
            x = _basic_block(
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
        kernel_initializer=kaiming_normal(seed, "logits/kernel"),
        bias_initializer=torch_default_bias(seed, "logits/bias", fan_in=_WIDTHS[-1]),
        name="logits",
    )(x)
    return keras.Model(inputs, logits, name="resnet_32")


def _basic_block(
    inputs: keras.KerasTensor,
    width: int,
    *,
    stride: int,
    prefix: str,
    seed: int,
    synchronized: bool,
) -> keras.KerasTensor:
    """Returns relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))."""
    x = inputs
    for unit, unit_stride in ((1, stride), (2, 1)):
        name = f"{prefix}conv{unit}"
        x = padded_convolution(
            x,
            width,
            stride=unit_stride,
            initializer=kaiming_normal(seed, f"{name}/kernel"),
            name=name,
        )
        x = batch_normalization(f"{prefix}bn{unit}", synchronized=synchronized)(x)
        if unit == 1:
            x = keras.layers.ReLU(name=f"{prefix}relu1")(x)
    shortcut = inputs
    if stride > 1:
        shortcut = _option_a_shortcut(inputs, width, stride=stride, prefix=prefix)
    x = keras.layers.Add(name=f"{prefix}add")([x, shortcut])
    return keras.layers.ReLU(name=f"{prefix}relu2")(x)


def _option_a_shortcut(inputs: keras.KerasTensor, width: int, *, stride: int, prefix: str) -> keras.KerasTensor:
    """Every stride-th pixel, with zero channels before and after, from stock layers alone.

    A stock layer loads without this package, which a Lambda does not.
    """
    # The mean over a 1x1 window is the pixel itself: x[:, ::stride, ::stride, :].
    x = keras.layers.AveragePooling2D(1, strides=stride, name=f"{prefix}shortcut_slice")(inputs)
    new_channels = (width - inputs.shape[-1]) // 2
    # Told "channels_first", the layer takes [B, H, W, C] for [B, channels, rows, columns]: the
    # padded "columns" are the channels.
    return keras.layers.ZeroPadding2D(
        ((0, 0), (new_channels, new_channels)),
        data_format="channels_first",
        name=f"{prefix}shortcut_pad",
    )(x)
