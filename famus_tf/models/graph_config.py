"""Changes to a functional model's configuration before the model is made from it: names, seeds, normalisation.

All functions take what `model.get_config()` gives and return a new configuration; the graph of layers stays the same,
but for the layers that `without_input_preprocessing` takes out.
"""

import re
from collections.abc import Mapping
from typing import Any

import keras

from famus_tf.models.initializers import variable_seed
from famus_tf.models.normalization import FusedBatchNormalization

_INPUT_PREPROCESSING = ("Rescaling", "Normalization")


def with_fused_normalization(config: Any, *, synchronized: bool, momentum: float | None = None) -> Any:
    """Every `keras.layers.BatchNormalization`, at any depth, becomes a `FusedBatchNormalization` of the same name.

    Args:
        config: Of a functional model, or a part of it.
        synchronized: Whether batch statistics are taken over all replicas.
        momentum: The weight of the old value in the moving statistics; None keeps each layer's own.
    """
    if isinstance(config, (list, tuple)):
        return type(config)(
            with_fused_normalization(part, synchronized=synchronized, momentum=momentum) for part in config
        )
    if not isinstance(config, dict):
        return config
    changed = {
        key: with_fused_normalization(part, synchronized=synchronized, momentum=momentum)
        for key, part in config.items()
    }
    if config.get("class_name") == "BatchNormalization" and config.get("module") == "keras.layers":
        entry = keras.saving.get_registered_name(FusedBatchNormalization)
        changed.update(module=None, class_name="FusedBatchNormalization", registered_name=entry)
        changed["config"]["synchronized"] = synchronized
        if momentum is not None:
            changed["config"]["momentum"] = momentum
    return changed


def with_seeds(config: Any, seed: int, owner: str = "") -> Any:
    """Every initialiser draws from a seed of its own that depends on `seed` and the variable's name alone.

    Dropout layers without a seed get one in the same way.

    Args:
        config: Of a functional model, or a part of it.
        seed: >= 0.
        owner: The name of the layer that `config` is a part of.
    """
    if isinstance(config, (list, tuple)):
        return type(config)(with_seeds(part, seed, owner) for part in config)
    if not isinstance(config, dict):
        return config
    changed = {}
    for key, part in config.items():
        inner = part["name"] if key == "config" and isinstance(part, dict) and "name" in part else owner
        part = with_seeds(part, seed, inner)
        if key.endswith("_initializer") and isinstance(part, dict) and "seed" in part["config"]:
            part["config"]["seed"] = variable_seed(seed, f"{owner}/{key.removesuffix('_initializer')}")
        elif key == "seed" and "name" in config and part is None:
            part = variable_seed(seed, f"{owner}/seed")
        changed[key] = part
    return changed


def session_independent_names(config: dict[str, Any]) -> dict[str, str]:
    """For each layer that Keras named by itself, its name in a fresh session.

    Keras numbers the layers of a class through the whole process ("conv2d_94"), so a network's second copy has other
    names than its first, and its seeds and saved weights would change with them.

    Returns:
        {name: new name} of the automatically named layers; layers with names of their own are not in it.
    """
    numbers: dict[str, list[int]] = {}
    for layer in config["layers"]:
        kind, number = _automatic_name(layer)
        if kind:
            numbers.setdefault(kind, []).append(number)
    names = {}
    for kind, found in numbers.items():
        for new, old in enumerate(sorted(found)):
            names[_numbered(kind, old)] = _numbered(kind, new)
    return names


def _automatic_name(layer: dict[str, Any]) -> tuple[str, int]:
    """The class's part and the number of a name that Keras gave by itself; ("", 0) for any other."""
    kind = snake_case(layer["class_name"])
    match = re.fullmatch(rf"{kind}(?:_(\d+))?", layer["name"])
    return (kind, int(match[1] or 0)) if match else ("", 0)


def _numbered(kind: str, number: int) -> str:
    return f"{kind}_{number}" if number else kind


def snake_case(class_name: str) -> str:
    """A class's name as Keras writes it in layers' names and weight files, "Conv2D" as "conv2d"."""
    separated = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", class_name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", separated).lower()


def with_layer_names(config: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Gives layers of a functional model new names, also where other layers take their outputs.

    Args:
        config: Of a functional model; layers of models inside it keep their names.
        names: {name: new name}; layers that are not in it keep theirs.
    """
    config = _with_sources(config, names)
    for layer in config["layers"]:
        layer["name"] = layer["config"]["name"] = names.get(layer["name"], layer["name"])
    return config


def without_input_preprocessing(config: dict[str, Any]) -> dict[str, Any]:
    """Takes out the layers that scale the images, where they stand directly behind the input.

    Args:
        config: Of a functional model.
    """
    sources = {}
    inputs = {layer["name"] for layer in config["layers"] if layer["class_name"] == "InputLayer"}
    for layer in config["layers"]:
        if layer["class_name"] in _INPUT_PREPROCESSING:
            (tensor,) = layer["inbound_nodes"][0]["args"]
            source = tensor["config"]["keras_history"][0]
            source = sources.get(source, source)
            if source in inputs:
                sources[layer["name"]] = source
    kept = [layer for layer in config["layers"] if layer["name"] not in sources]
    return _with_sources({**config, "layers": kept}, sources)


def _with_sources(config: Any, names: Mapping[str, str]) -> Any:
    """A deep copy in which every reference to a layer's output names another layer."""
    if isinstance(config, (list, tuple)):
        # "input_layers" and "output_layers" hold such references outside of any tensor.
        if len(config) == 3 and isinstance(config[0], str) and all(isinstance(index, int) for index in config[1:]):
            return type(config)([names.get(config[0], config[0]), *config[1:]])
        return type(config)(_with_sources(part, names) for part in config)
    if isinstance(config, dict):
        return {key: _with_sources(part, names) for key, part in config.items()}
    return config
