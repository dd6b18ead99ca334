"""The convolution of the residual networks: no bias, and PyTorch's symmetric padding."""

import keras


def padded_convolution(
    inputs: keras.KerasTensor,
    filters: int,
    *,
    kernel_size: int = 3,
    stride: int = 1,
    initializer: keras.initializers.Initializer,
    name: str,
) -> keras.KerasTensor:
    """Convolves with (kernel_size - 1) / 2 zeros on every side, whatever the stride.

    Keras' `padding="same"` pads a strided convolution on the bottom and on the right only, which
    shifts the sampled positions by one pixel; so that case pads explicitly.

    Args:
        inputs: [B, H, W, C], symbolic.
        filters: number of output channels.
        kernel_size: odd side of the square kernel, in pixels.
        stride: in pixels, 1 or more.
        initializer: of the kernel.
        name: of the convolution layer; the padding layer's is `name` + "_pad".

    Returns:
        [B, ceil(H / stride), ceil(W / stride), filters], symbolic.
    """
    padding = "same"
    if stride > 1 and kernel_size > 1:
        inputs = keras.layers.ZeroPadding2D((kernel_size - 1) // 2, name=f"{name}_pad")(inputs)
        padding = "valid"
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=stride,
        padding=padding,
        use_bias=False,
        kernel_initializer=initializer,
        name=name,
    )(inputs)
