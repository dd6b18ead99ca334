"""`keras:<Name>`: any network of `keras.applications`, made ready for the methods here."""

import inspect
from collections.abc import Mapping
from typing import Any

import keras

from famus_tf.config import nearest_hint
from famus_tf.errors import InputError
from famus_tf.models import graph_config
from famus_tf.models.arguments import check_build_arguments

PREFIX = "keras:"


def names() -> tuple[str, ...]:
    """The names of all networks of the installed `keras.applications`, for instance "ResNet50V2"."""
    return tuple(name for name in dir(keras.applications) if name[0].isupper())


def check_name(name: str, label: str = "The network") -> None:
    """Refuses a name that `keras.applications` does not have.

    Args:
        name: Without the prefix `keras:`.
        label: Begins the message.

    Raises:
        InputError: Listing the known names and the nearest.
    """
    known = names()
    if name in known:
        return
    same_letters = [other for other in known if other.casefold() == name.casefold()]
    hint = nearest_hint(PREFIX + name, [PREFIX + other for other in same_letters or known])
    raise InputError(
        f"{label} is {PREFIX + name!r}, and keras.applications of Keras {keras.__version__} has no such network.{hint}"
        f" It has {', '.join(known)}."
    )


def build(
    name: str,
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    seed: int = 0,
    synchronized: bool = False,
    momentum: float | None = None,
    layer_names: Mapping[str, str] | None = None,
) -> keras.Model:
    """Builds a network of `keras.applications` with random weights and fused batch normalisation.

    The architecture, the constants and the distributions of the initial weights are the stock network's; its variables
    are the same in number, order and shape, so `initial_weights.load` takes its weight files. The classifier has no
    softmax; where it is a `Dense` layer it is called "logits" (MobileNet and MobileNetV3 end in a 1x1 convolution and
    keep their names). Layers that Keras names by a number counted through the process are counted anew, so that names,
    and with them the initial weights, depend on nothing but the arguments.

    Differs from the stock networks: EfficientNet, EfficientNetV2, ConvNeXt and MobileNetV3 are built without the layers
    that scale pixels 0..255, since images are scaled before they reach a network here; see `input_scaling`.

    Args:
        name: As in `keras.applications`.
        input_shape: (H, W, C) of one image; each network has a smallest H and W (mostly 32 pixels).
        num_classes: K, at least 2.
        seed: Of the initial weights (and of dropout), >= 0; the same seed gives the same weights.
        synchronized: True computes the batch statistics over all replicas.
        momentum: The weight of the old value in every batch normalisation's moving statistics; None keeps the stock
            network's (0.99 mostly).
        layer_names: {name in a fresh session: another name} of layers that are to be called otherwise.

    Returns:
        A functional model from images [B, H, W, C] to logits [B, K].

    Raises:
        InputError: If the name is unknown, an argument is out of range, or the network does not take such images.
    """
    check_name(name)
    check_build_arguments(PREFIX + name, input_shape, num_classes, seed, minimum_side=1)
    config = graph_config.without_input_preprocessing(_stock_network(name, input_shape, num_classes).get_config())
    config = graph_config.with_layer_names(config, graph_config.session_independent_names(config))
    config = graph_config.with_layer_names(config, _own_names(config) | dict(layer_names or {}))
    config = graph_config.with_fused_normalization(config, synchronized=synchronized, momentum=momentum)
    return keras.Model.from_config(graph_config.with_seeds(config, seed))


def _stock_network(name: str, input_shape: tuple[int, int, int], num_classes: int) -> keras.Model:
    make = getattr(keras.applications, name)
    options = {}
    if "include_preprocessing" in inspect.signature(make).parameters:
        options["include_preprocessing"] = False
    try:
        return make(
            weights=None, classes=num_classes, input_shape=tuple(input_shape), classifier_activation=None, **options
        )
    except ValueError as error:
        height, width, channels = input_shape
        raise InputError(
            f"{PREFIX + name} cannot take images of {height}x{width} pixels and {channels} channels (Keras says:"
            f" {str(error).splitlines()[0].rstrip('.')}). Give larger images (--image_size where pictures are read from"
            " files) or another network, such as small_cnn."
        ) from error


def _own_names(config: dict[str, Any]) -> dict[str, str]:
    """New names of the input and, where it is dense, of the classifier."""
    names = {layer["name"]: "images" for layer in config["layers"] if layer["class_name"] == "InputLayer"}
    last = config["layers"][-1]
    if last["class_name"] == "Dense":
        names[last["name"]] = "logits"
    return names
