"""Reads label files that are pickles, of PyTorch or NumPy, without running anything that they hold.

A pickle is a program: read in the usual way, it may call any function of the machine it is read on. Here it can reach
nothing but the few names below, and each of them stands for a function of this file that builds a plain array of whole
numbers; neither PyTorch nor NumPy's own unpickling takes part.
"""

import os
import pickle
import zipfile
from typing import IO

import numpy as np

from famus_tf.errors import InputError

_STORAGE_TYPES = {
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
}


def read_torch(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads a dict of label lists that `torch.save` wrote (PyTorch 1.6 or newer: a zip archive).

    Args:
        path: The file. Its values may be NumPy arrays, tensors or lists, of whole numbers in one dimension.

    Returns:
        {key: [N] int64}; values of another kind are left out.

    Raises:
        InputError: If the file cannot be read, is no such archive, or names anything but arrays and their parts.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("data.pkl")]
            if len(names) != 1:
                raise InputError(f"{path} holds no data.pkl, so torch.save did not write it; fetch it again.")
            folder = names[0].removesuffix("data.pkl")
            with archive.open(names[0]) as file:
                return _arrays(_load(file, path, lambda key: archive.read(f"{folder}data/{key}")), path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); check the file.") from error
    except zipfile.BadZipFile as error:
        raise InputError(f"{path} is damaged, or not a file of torch.save ({error}); fetch it again.") from error


def read_numpy(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads a dict of label lists that `numpy.save` wrote (an array of one object, which it pickles).

    Args:
        path: The file. Its values may be NumPy arrays or lists, of whole numbers in one dimension.

    Returns:
        {key: [N] int64}; values of another kind are left out.

    Raises:
        InputError: If the file cannot be read, is no .npy file with one dict, or names anything but arrays and their
            parts.
    """
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, dtype = read_header[version](file)
            if shape != () or not dtype.hasobject:
                raise InputError(f"{path} holds an array {list(shape)} of {dtype}, not a dict of labels.")
            value = _load(file, path, None)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); check the file.") from error
    except (ValueError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is damaged, or no .npy file ({error}); fetch it again.") from error
    elements = value.elements if isinstance(value, _Array) else None
    return _arrays(elements[0] if isinstance(elements, list) and len(elements) == 1 else None, path)


class _DType:
    """Stands for a NumPy dtype: its letter code, and the byte order that its state gives."""

    def __init__(self, code: str, *_):
        self.code = str(code)
        self.order = "<"

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.order = state[1]

    def decode(self, data: bytes) -> np.ndarray:
        """The [N] whole numbers that the bytes hold."""
        dtype = np.dtype(self.order + self.code) if self.code[:1] in "iu" and self.code[1:].isdigit() else None
        if dtype is None:
            raise pickle.UnpicklingError(f"numbers of type '{self.code}' are no labels")
        return np.frombuffer(data, dtype=dtype)


class _Array:
    """Stands for a NumPy array until its state comes."""

    def __init__(self):
        self.elements: np.ndarray | list | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, _, data = state
        if not isinstance(dtype, _DType) or len(shape) > 1:
            raise pickle.UnpicklingError(f"an array of shape {shape} is no list of labels")
        if isinstance(data, list):
            self.elements = data
            return
        numbers = dtype.decode(data)
        if numbers.shape != tuple(shape):
            raise pickle.UnpicklingError(f"an array of shape {shape} has {len(numbers)} numbers")
        self.elements = numbers


def _new_array(*_) -> _Array:
    return _Array()


def _new_scalar(dtype: _DType, data: bytes) -> int:
    return int(dtype.decode(data)[0])


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"the encoding '{encoding}' is not used for arrays")
    return text.encode("latin1")


def _new_tensor(storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_) -> np.ndarray:
    if len(size) != 1 or tuple(stride) != (1,) or offset + size[0] > len(storage):
        raise pickle.UnpicklingError(f"a tensor of shape {tuple(size)} is no list of labels")
    return storage[offset : offset + size[0]]


_NAMES = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _new_array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _new_scalar for core in ("core", "_core")},
    ("numpy", "ndarray"): None,  # only ever an argument of _reconstruct
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): dict,
    ("torch._utils", "_rebuild_tensor_v2"): _new_tensor,
    **{("torch", name): code for name, code in _STORAGE_TYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Knows the names above and no others."""

    def __init__(self, file: IO[bytes], read_storage):
        super().__init__(file)
        self._read_storage = read_storage

    def find_class(self, module: str, name: str):
        if (module, name) not in _NAMES:
            raise _ForeignName(f"{module}.{name}")
        return _NAMES[module, name]

    def persistent_load(self, pid: tuple) -> np.ndarray:
        _, code, key, _, count = pid
        return np.frombuffer(self._read_storage(key), dtype=code)[:count]


class _ForeignName(Exception):
    """A pickle names something that no array needs."""


def _load(file: IO[bytes], path: str | os.PathLike, read_storage):
    try:
        return _Unpickler(file, read_storage).load()
    except _ForeignName as error:
        raise InputError(
            f"{path} was not read: it names the Python object {error}, which no list of labels needs, and reading it in"
            " the usual way would run it. Fetch the file from its authors."
        ) from None
    except Exception as error:  # a damaged pickle raises nearly anything
        raise InputError(
            f"{path} is damaged, or no file of labels ({type(error).__name__}: {error}); fetch it again."
        ) from error


def _arrays(value, path: str | os.PathLike) -> dict[str, np.ndarray]:
    if not isinstance(value, dict):
        raise InputError(f"{path} does not hold a dict of labels by name; fetch it again.")
    found = {}
    for key, values in value.items():
        elements = values.elements if isinstance(values, _Array) else values
        is_list = isinstance(elements, list) and all(type(element) is int for element in elements)
        if is_list or isinstance(elements, np.ndarray):
            found[str(key)] = np.asarray(elements, dtype=np.int64)
    return found
