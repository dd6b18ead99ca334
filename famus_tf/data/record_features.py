"""Reads small features (labels, names) out of TFRecord files without reading the pictures beside them.

A record of ImageNet is a hundred kilobytes of JPEG and one number. TensorFlow's parsers want all of it; this walk over
protobuf's wire format steps across the picture, so that the 6.5 GB of 50,000 validation pictures need not leave the
disk for their labels. Source of the format: protobuf's encoding guide, and `tensorflow/core/example/feature.proto`.
"""

import mmap
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from famus_tf.data.pictures import RecordIndex
from famus_tf.errors import InputError

_VARINT, _EIGHT_BYTES, _LENGTH_DELIMITED, _FOUR_BYTES = 0, 1, 2, 5
_BYTES_LIST, _INT64_LIST = 1, 3
_LONGEST_VARINT = 10


def find_shards(folder: pathlib.Path, name: str) -> list[pathlib.Path]:
    """Returns the files "NAME.tfrecord-00000-of-00064" ... that tensorflow-datasets writes for one split, in order.

    Args:
        folder: Where they lie.
        name: What they begin with, for example "imagenet2012-validation".

    Returns:
        All of them; none if there is none.

    Raises:
        InputError: If some are there, but not as many as their names say.
    """
    files = sorted(folder.glob(f"{name}.tfrecord-*-of-*"))
    totals = sorted({file.name.rpartition("-")[2] for file in files})
    if files and (len(totals) > 1 or len(files) != int(totals[0])):
        raise InputError(
            f"{folder} holds {len(files)} files {name}.tfrecord-*-of-{'/'.join(totals)}; expected"
            f" {' or '.join(str(int(total)) for total in totals)}. Copy all of them from where they were prepared."
        )
    return files


def read_features(
    files: Sequence[str | os.PathLike], index: RecordIndex, keys: Sequence[str]
) -> dict[str, list[int | bytes | None]]:
    """Reads features that hold one integer or one string of bytes from `tf.train.Example` records.

    Args:
        files: The TFRecord files.
        index: Where the N records lie in them, file by file.
        keys: The features' names.

    Returns:
        For each key N values in the index's order; None where a record has no such feature, or one of several values
        or of floats.

    Raises:
        InputError: If a record is no `tf.train.Example`, or a file cannot be read.
    """
    found = {key: [] for key in keys}
    wanted = {key.encode(): key for key in keys}
    for file_number, file in enumerate(files):
        rows = np.flatnonzero(index.file_numbers == file_number)
        if not len(rows):
            continue
        try:
            with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
                for row in rows:
                    start = int(index.offsets[row])
                    try:
                        values = _example_values(data, start, start + int(index.lengths[row]), wanted)
                    except (ValueError, IndexError) as error:
                        raise InputError(
                            f"{os.fspath(file)}, record {index.record_numbers[row]}: expected a tf.train.Example,"
                            f" found something else ({error}). Fetch or prepare the file anew."
                        ) from error
                    for key, column in found.items():
                        column.append(values.get(key))
        except OSError as error:
            raise InputError(f"{os.fspath(file)} cannot be read ({error.strerror}); check the file.") from error
    return found


def _example_values(data: mmap.mmap, start: int, end: int, wanted: dict[bytes, str]) -> dict[str, int | bytes]:
    values = {}
    for number, _, features_start, features_end in _fields(data, start, end):
        if number != 1:
            continue
        for entry_number, _, entry_start, entry_end in _fields(data, features_start, features_end):
            if entry_number != 1:
                continue
            key, feature = b"", None
            for part, _, part_start, part_end in _fields(data, entry_start, entry_end):
                if part == 1:
                    key = data[part_start:part_end]
                elif part == 2:
                    feature = (part_start, part_end)
            if key in wanted and feature is not None:
                values[wanted[key]] = _single_value(data, *feature)
    return values


def _single_value(data: mmap.mmap, start: int, end: int) -> int | bytes | None:
    """Returns the one value of a `tf.train.Feature`, or None if there is not exactly one."""
    values = []
    for kind, _, list_start, list_end in _fields(data, start, end):
        for _, wire_type, value_start, value_end in _fields(data, list_start, list_end):
            if kind == _BYTES_LIST:
                values.append(data[value_start:value_end])
            elif kind == _INT64_LIST and wire_type == _VARINT:
                values.append(_varint(data, value_start, value_end)[0])
            elif kind == _INT64_LIST:  # packed
                while value_start < value_end:
                    value, value_start = _varint(data, value_start, value_end)
                    values.append(value)
    return values[0] if len(values) == 1 else None


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yields (field number, wire type, where its value begins, where it ends) for a message's fields."""
    while start < end:
        tag, start = _varint(data, start, end)
        wire_type = tag & 7
        if wire_type == _VARINT:
            stop = _varint(data, start, end)[1]
        elif wire_type == _LENGTH_DELIMITED:
            length, start = _varint(data, start, end)
            stop = start + length
        elif wire_type in (_EIGHT_BYTES, _FOUR_BYTES):
            stop = start + (8 if wire_type == _EIGHT_BYTES else 4)
        else:
            raise ValueError(f"wire type {wire_type}")
        if stop > end:
            raise ValueError("a field that ends behind its message")
        yield tag >> 3, wire_type, start, stop
        start = stop


def _varint(data: mmap.mmap, start: int, end: int) -> tuple[int, int]:
    """Returns a whole number, as a signed 64-bit one, and where the next byte is."""
    value = 0
    for place in range(_LONGEST_VARINT):
        if start + place >= end:
            raise ValueError("a number that ends behind its message")
        byte = data[start + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            value &= (1 << 64) - 1
            return value - (1 << 64) if value >> 63 else value, start + place + 1
    raise ValueError("a number of more than ten bytes")
