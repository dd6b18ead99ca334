"""`--weights`: a network begins with the weights of a local file, all but the classifier if the classes differ."""

import dataclasses
import re

import keras
import numpy as np

from famus_tf.errors import InputError
from famus_tf.models import graph_config, weight_files
from famus_tf.models.weight_files import StoredLayer, WeightFile

_MOST_MISMATCHES = 3
# EfficientNet's stock form keeps the mean and variance of its inputs in such a layer; it is left out here.
_INPUT_NORMALIZATION = re.compile(r"normalization(_\d+)?")


@dataclasses.dataclass(frozen=True)
class LoadedWeights:
    """What `load` did.

    Attributes:
        path: The file.
        num_layers: How many layers of the network took their weights from it.
        kept: Names of the layers that keep their random weights: none, or the classifier.
        reason: Why it keeps them; "" if none does.
    """

    path: str
    num_layers: int
    kept: tuple[str, ...]
    reason: str

    @property
    def sentence(self) -> str:
        """What was done, for a log."""
        done = f"{self.num_layers} layers begin with the weights of {self.path}"
        return (
            f"{done}; {', '.join(self.kept)} keeps its random ones, since {self.reason}." if self.kept else f"{done}."
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Target:
    """A layer of the network that wants weights; `name` and `place` as in `StoredLayer`."""

    name: str
    place: str
    variables: list

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [tuple(variable.shape) for variable in self.variables]


def load(model: keras.Model, path) -> LoadedWeights:
    """Sets the weights of all layers from a file, whatever the number of classes that the file was trained for.

    Layers are found by their names. Where the file's names are others (Keras numbers layers without a name through the
    process) they are found as Keras itself finds them: by their order in `.h5` files, by their class and its count in
    `.keras` and `.weights.h5` files. Shapes must agree. The classifier, the last layer with weights, keeps its initial
    weights if the file has none for it (files called "notop") or has them for another number of classes. Nothing is
    changed unless everything fits.

    Args:
        model: A built functional model with a classifier on top; inside its strategy's scope if there is one.
        path: Of a `.keras`, `.weights.h5` or `.h5` file, for instance `model.keras` of a run folder.

    Returns:
        What was loaded and what was not.

    Raises:
        InputError: If the file cannot be read, or another layer than the classifier does not fit.
    """
    file = weight_files.read(path)
    *trunk, classifier = _targets(model, inside_models=not file.is_ordered)
    stored = _partners(model, trunk, file)
    used = {id(layer) for layer in stored}
    left = [layer for layer in file.layers if id(layer) not in used and not _scales_inputs(layer)]
    if len(left) > 1 or (left and not _is_classifier_like(left[0], classifier)):
        raise InputError(
            f"--weights={file.path} is of another network than {model.name!r}: beyond the network's layers it holds"
            f" {len(left)} more, the first of them {_called(left[0])}. Give the file of the same network."
        )
    targets, reason = trunk, "the file has none for it"
    if left and _shapes(left[0]) == classifier.shapes:
        targets, stored, reason = [*trunk, classifier], [*stored, left[0]], ""
    elif left:
        classes = left[0].arrays[0].shape[-1]
        reason = f"the file's are for {classes} classes instead of {classifier.shapes[0][-1]}"
    for target, layer in zip(targets, stored, strict=True):
        for variable, array in zip(target.variables, layer.arrays, strict=True):
            variable.assign(np.asarray(array, dtype=variable.dtype))
    return LoadedWeights(str(file.path), len(targets), (classifier.name,) if reason else (), reason)


def _targets(model: keras.Model, *, inside_models: bool, prefix: str = "") -> list[_Target]:
    """The layers that have weights, in order; those of models inside the model one by one, or each model as a whole."""
    targets, counts = [], {}
    for layer in model.layers:
        kind = _stock_kind(graph_config.snake_case(type(layer).__name__))
        number = counts[kind] = counts.get(kind, -1) + 1
        place = f"{prefix}{kind}_{number}" if number else f"{prefix}{kind}"
        if inside_models and isinstance(layer, keras.Model):
            targets += _targets(layer, inside_models=True, prefix=f"{place}/")
        elif layer.weights:
            # `trainable_weights` would be empty in a frozen layer.
            weights = sorted(layer.weights, key=lambda weight: not weight.trainable)
            targets.append(_Target(layer.name, place, weights))
    return targets


def _stock_kind(place: str) -> str:
    """Our own normalisation layer is the stock layer in another form."""
    return place.replace("fused_batch_normalization", "batch_normalization")


def _partners(model: keras.Model, trunk: list[_Target], file: WeightFile) -> list[StoredLayer]:
    """For each layer of the network but the classifier, the file's layer; they fit each other."""
    proposals = [_by_name(trunk, file), _by_order(trunk, file) if file.is_ordered else _by_place(trunk, file)]
    for proposal in proposals:
        if not _mismatches(trunk, proposal):
            return proposal
    mismatches = min((_mismatches(trunk, proposal) for proposal in proposals), key=len)
    more = len(mismatches) - _MOST_MISMATCHES
    raise InputError(
        f"--weights={file.path} does not fit the network {model.name!r}, which has {len(trunk) + 1} layers with weights"
        f" (the file: {len(file.layers)}): {'; '.join(mismatches[:_MOST_MISMATCHES])}"
        f"{f'; and {more} more' if more > 0 else ''}. Give the file of the same network."
    )


def _by_name(trunk: list[_Target], file: WeightFile) -> list[StoredLayer | None]:
    by_name = {layer.name: layer for layer in file.layers}
    return [by_name.get(target.name) for target in trunk]


def _by_place(trunk: list[_Target], file: WeightFile) -> list[StoredLayer | None]:
    by_place = {_stock_kind(layer.place): layer for layer in file.layers}
    return [by_place.get(target.place) for target in trunk]


def _by_order(trunk: list[_Target], file: WeightFile) -> list[StoredLayer | None]:
    layers = [layer for layer in file.layers if not _scales_inputs(layer)]
    return (layers + [None] * len(trunk))[: len(trunk)]


def _scales_inputs(layer: StoredLayer) -> bool:
    return bool(_INPUT_NORMALIZATION.fullmatch(layer.name) or _INPUT_NORMALIZATION.fullmatch(layer.place))


def _shapes(layer: StoredLayer) -> list[tuple[int, ...]]:
    return [array.shape for array in layer.arrays]


def _mismatches(trunk: list[_Target], proposal: list[StoredLayer | None]) -> list[str]:
    """One clause per layer that the proposal does not fit."""
    found = []
    for target, layer in zip(trunk, proposal, strict=True):
        if layer is None:
            found.append(f"nothing in the file for {target.name}")
        elif _shapes(layer) != target.shapes:
            found.append(f"{target.name} has shapes {target.shapes}, the file's {_called(layer)} {_shapes(layer)}")
    return found


def _is_classifier_like(layer: StoredLayer, classifier: _Target) -> bool:
    """Whether a layer of the file differs from the classifier by no more than the number of classes."""
    ours = [shape[:-1] for shape in classifier.shapes]
    return [shape[:-1] for shape in _shapes(layer)] == ours


def _called(layer: StoredLayer) -> str:
    return layer.name or layer.place
