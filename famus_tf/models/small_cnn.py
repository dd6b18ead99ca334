"""A small convolutional network for 8x8 digits and 32x32 images on a CPU; it is from no paper."""

import keras

from famus_tf.models.arguments import check_build_arguments
from famus_tf.models.convolution import padded_convolution
from famus_tf.models.initializers import kaiming_normal
from famus_tf.models.normalization import batch_normalization

_WIDTHS = (32, 64, 128)


def build(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    seed: int = 0,
    synchronized: bool = False,
) -> keras.Model:
    """Builds up to three blocks of two convolutions, with max-pooling between them.

    Every convolution is 3x3 without bias, followed by batch normalisation and ReLU; the blocks have
    32, 64 and 128 channels. A block is left out when its feature maps would be smaller than 2x2, so
    images of 8x8 and more have three, of 4x4 two and of 2x2 one. Global average pooling and a
    linear layer give the logits. With three blocks, 3 channels and 10 classes: 288,746 trainable
    parameters.

    Args:
        input_shape: (H, W, C) of one image; H and W at least 2 pixels.
        num_classes: K, at least 2.
        seed: of the initial weights, >= 0; the same seed gives the same weights.
        synchronized: True computes the batch statistics over all replicas.

    Returns:
        A functional model from images [B, H, W, C] to logits [B, K], float32.

    Raises:
        InputError: an argument is out of range.
    """
    check_build_arguments("small_cnn", input_shape, num_classes, seed, minimum_side=2)
    num_blocks = sum(min(input_shape[:2]) >> block >= 2 for block in range(len(_WIDTHS)))
    inputs = keras.Input(input_shape, name="images")
    x = inputs
    for block, width in enumerate(_WIDTHS[:num_blocks], start=1):
        for unit in (1, 2):
            name = f"block{block:02d}_conv{unit}"
            x = padded_convolution(x, width, initializer=kaiming_normal(seed, f"{name}/kernel"), name=name)
            x = batch_normalization(f"block{block:02d}_bn{unit}", synchronized=synchronized)(x)
            x = keras.layers.ReLU(name=f"block{block:02d}_relu{unit}")(x)
        if block < num_blocks:
            x = keras.layers.MaxPooling2D(2, name=f"block{block:02d}_pool")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    logits = keras.layers.Dense(num_classes, kernel_initializer=kaiming_normal(seed, "logits/kernel"), name="logits")(x)
    return keras.Model(inputs, logits, name="small_cnn")
