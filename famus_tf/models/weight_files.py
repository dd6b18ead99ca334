"""Reading the weights out of a Keras file: `.weights.h5` and `.keras` of Keras 3, `.h5` of any Keras.

The arrays are read as they lie in the file. Nothing is made from the configuration that a file may hold, so no code of
the file's author runs.
"""

import dataclasses
import io
import pathlib
import zipfile

import h5py
import numpy as np

from famus_tf.errors import InputError

_HDF5_MAGIC, _ZIP_MAGIC = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"
_TORCH_ENDINGS = (".pth", ".pt", ".pth.tar", ".t7", ".ckpt", ".safetensors", ".bin", ".pkl")
_WEIGHTS_IN_ARCHIVE = "model.weights.h5"
_ROOTS = ("layers", "_layer_checkpoint_dependencies")
_GIVE_KERAS = "Give a file that Keras wrote: .keras, .weights.h5 or .h5."


@dataclasses.dataclass(frozen=True, eq=False)
class StoredLayer:
    """One layer's weights in a file.

    Attributes:
        name: The layer's name; "" where the file does not tell.
        place: Where Keras 3 keeps it, "dense" or "sequential/conv2d_1": classes counted through the model. "" in files
            whose order tells.
        arrays: Trainable weights first, then the others.
    """

    name: str
    place: str
    arrays: tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class WeightFile:
    """What a file holds.

    Attributes:
        path: Where it lies.
        layers: All layers that have weights.
        is_ordered: Whether `layers` are in the network's order; otherwise their places tell what is what.
    """

    path: pathlib.Path
    layers: tuple[StoredLayer, ...]
    is_ordered: bool


def read(path) -> WeightFile:
    """Reads a file of weights.

    Args:
        path: Of a `.keras`, `.weights.h5` or `.h5` file; what it is is told by its content.

    Raises:
        InputError: If it is missing, no such file, or damaged.
    """
    path = pathlib.Path(path).expanduser()
    start = _first_bytes(path)
    try:
        if start.startswith(_HDF5_MAGIC):
            with h5py.File(path, "r") as file:
                return _from_hdf5(path, file)
        if start.startswith(_ZIP_MAGIC):
            with zipfile.ZipFile(path) as archive:
                return _from_archive(path, archive)
    except (OSError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"--weights={path} is damaged or cut short after {path.stat().st_size:,} bytes ({reason}). Copy or download"
            " it again."
        ) from error
    raise _stranger(path, start)


def _first_bytes(path: pathlib.Path) -> bytes:
    """The beginning of a file that must be there."""
    try:
        with path.open("rb") as file:
            start = file.read(256)
    except FileNotFoundError:
        raise InputError(f"--weights={path}: there is no such file. {_GIVE_KERAS}") from None
    except IsADirectoryError:
        inner = path / "model.keras"
        advice = f"Give the file in it: {inner}" if inner.exists() else _GIVE_KERAS
        raise InputError(f"--weights={path} is a folder, and a file is expected. {advice}") from None
    except OSError as error:
        raise InputError(f"--weights={path} cannot be read ({error.strerror}). {_GIVE_KERAS}") from error
    if not start:
        raise InputError(f"--weights={path} is an empty file. Copy or download it again.")
    return start


def _stranger(path: pathlib.Path, start: bytes) -> InputError:
    """The message about a file that Keras did not write."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        return InputError(
            f"--weights={path} is a web page and no weights: the download was answered with a page, perhaps of an error"
            " or a login. Open it in a browser to see what it says, and download again."
        )
    if text.startswith(b"version https://git-lfs"):
        return InputError(f"--weights={path} is a Git LFS pointer and no weights. Fetch the file: git lfs pull.")
    if path.name.lower().endswith(_TORCH_ENDINGS) or start.startswith(b"\x80\x02"):
        return _torch(path)
    return InputError(f"--weights={path} is no weights file of Keras (it begins with {start[:8]!r}). {_GIVE_KERAS}")


def _torch(path: pathlib.Path) -> InputError:
    return InputError(
        f"--weights={path} is a checkpoint of PyTorch, which cannot be read here. {_GIVE_KERAS} The ImageNet weights of"
        " keras.applications serve as well; or load the checkpoint in PyTorch, set its arrays in the Keras model"
        " (kernels are [height, width, in, out] there) and call model.save_weights('name.weights.h5')."
    )


def _from_archive(path: pathlib.Path, archive: zipfile.ZipFile) -> WeightFile:
    """Out of a `.keras` file."""
    names = archive.namelist()
    if _WEIGHTS_IN_ARCHIVE in names:
        with h5py.File(io.BytesIO(archive.read(_WEIGHTS_IN_ARCHIVE)), "r") as file:
            return _from_hdf5(path, file)
    if any(name.endswith("data.pkl") for name in names) or path.name.lower().endswith(_TORCH_ENDINGS):
        raise _torch(path)
    raise InputError(f"--weights={path} is an archive without {_WEIGHTS_IN_ARCHIVE}. {_GIVE_KERAS}")


def _from_hdf5(path: pathlib.Path, file: h5py.File) -> WeightFile:
    """Out of an open HDF5 file of either layout."""
    group = file.get("model_weights", file)
    is_ordered = "layer_names" in group.attrs or "layer_names0" in group.attrs
    layers = _in_order(group) if is_ordered else _in_places(file)
    if not layers:
        raise InputError(f"--weights={path} is an HDF5 file without any weights of a Keras model. {_GIVE_KERAS}")
    return WeightFile(path, tuple(layers), is_ordered)


def _in_order(group: h5py.Group) -> list[StoredLayer]:
    """The layers of a `.h5` file: an attribute lists their names, another one each layer's weights."""
    layers = []
    for name in _texts(group, "layer_names"):
        arrays = tuple(np.asarray(group[name][weight]) for weight in _texts(group[name], "weight_names"))
        if arrays:
            layers.append(StoredLayer(name, "", arrays))
    return layers


def _texts(group: h5py.Group, attribute: str) -> list[str]:
    """An attribute that is a list of texts; Keras cuts long lists up into "weight_names0", "weight_names1" and on."""
    chunks = [attribute] if attribute in group.attrs else []
    while not chunks or chunks[-1] != attribute:
        chunk = f"{attribute}{len(chunks)}"
        if chunk not in group.attrs:
            break
        chunks.append(chunk)
    return [text.decode() if isinstance(text, bytes) else str(text) for chunk in chunks for text in group.attrs[chunk]]


def _in_places(file: h5py.File) -> list[StoredLayer]:
    """The layers of Keras 3's layout: one group per layer, "layers/dense_1/vars/0" and on."""
    groups = []

    def visit(path, item):
        if isinstance(item, h5py.Group) and path.rpartition("/")[2] == "vars" and path.startswith(_ROOTS):
            if "seed_generator" not in path:
                groups.append((path, item))

    file.visititems(visit)
    layers = []
    for path, group in groups:
        place = "/".join(part for part in path.split("/")[:-1] if part not in _ROOTS)
        arrays = tuple(np.asarray(group[key]) for key in sorted(group, key=lambda key: (len(key), key)))
        if arrays:
            layers.append(StoredLayer(str(group.attrs.get("name", "")), place, arrays))
    return layers
