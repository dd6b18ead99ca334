"""What pretrained networks expect of their inputs: how pixels become the numbers that the weights were trained on."""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class InputScaling:
    """How an image becomes an input: x = (pixel / 255 - mean) / std, then the channels in `channel_order`.

    Attributes:
        mean: Of red, green and blue, as shares of 255 (always in this order, whatever `channel_order`).
        std: Likewise, above 0.
        channel_order: "rgb", or "bgr" where the network takes the scaled blue first.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channel_order: str = "rgb"


TORCH = InputScaling(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet's training images, as in torchvision."""

CAFFE = InputScaling(
    mean=(123.68 / 255, 116.779 / 255, 103.939 / 255), std=(1 / 255, 1 / 255, 1 / 255), channel_order="bgr"
)
"""Pixels 0..255 minus ImageNet's mean, blue first, as in Caffe."""

SYMMETRIC = InputScaling(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""[-1, 1]."""

_SYMMETRIC_ABOUT_128 = InputScaling(mean=(128 / 255,) * 3, std=(128 / 255,) * 3)

_OF_FAMILIES = (
    (r"ResNet\d+|VGG\d+", CAFFE),
    (r"ResNet\d+V2|Inception\w+|Xception|MobileNet\w*|NASNet\w+", SYMMETRIC),
    (r"DenseNet\d+|ConvNeXt\w+|EfficientNetB\d|EfficientNetV2B\d", TORCH),
    (r"EfficientNetV2[SML]", _SYMMETRIC_ABOUT_128),
)


def of_application(name: str) -> InputScaling | None:
    """What the ImageNet weights that Keras distributes for one of its networks expect.

    For the networks whose stock form scales its input itself (EfficientNet, EfficientNetV2, ConvNeXt, MobileNetV3) this
    is what their own layers do, since `keras_applications.build` leaves those layers out.

    Args:
        name: As in `keras.applications`, for instance "ResNet50".

    Returns:
        None for a network that is not in the table.
    """
    return next((scaling for pattern, scaling in _OF_FAMILIES if re.fullmatch(pattern, name)), None)
