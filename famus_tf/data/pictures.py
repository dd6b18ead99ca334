"""Sets of encoded pictures that stay on disk: files in a folder, or records of TFRecord files.

A set of a million pictures is a few arrays: its names or its places in files. A picture is read and decoded when a
batch asks for it (see `pipeline.py`), and forgotten after. `ExampleTable.images` takes such a set in place of an array.
Which of them cannot be used, and why, `picture_checks.py` tells.
"""

import abc
import concurrent.futures
import dataclasses
import functools
import itertools
import os
import struct
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from famus_tf.data import decoding
from famus_tf.errors import InputError

# One byte each; the padding at the end of NumPy's fixed-length strings vanishes.
_BYTE_STRINGS = (b"", *(bytes([value]) for value in range(1, 256)))
# A TFRecord is an 8-byte length, its 4-byte checksum, the data, and their 4-byte checksum.
_HEAD_BYTES, _FOOT_BYTES = 12, 4
_READ_BUFFER_BYTES = 1 << 16
# Folders that are listed at a time (threads that wait for a disk), and entries that are looked up at a time.
_NUM_LISTERS, _ENTRIES_PER_CHUNK = 8, 4096
MISSING = -1
"""In place of the size of a picture that is not there."""


class AbstractPictures(abc.ABC):
    """N encoded pictures on disk that look like an array [N, H, W, 3] of uint8 until one asks for pixels.

    Attributes:
        size: (H, W) in pixels, what the network is to see; the pictures themselves may have any size.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, 3)."""
        return (len(self), *self.size, 3)

    @property
    def names(self) -> np.ndarray | None:
        """[N] bytes strings where the set has names of its own, which a table may share as its ids; None otherwise."""
        return None

    @abc.abstractmethod
    def __len__(self) -> int:
        """Returns the number of pictures N."""

    @abc.abstractmethod
    def __getitem__(self, row_indices: np.ndarray) -> "AbstractPictures":
        """Returns the set of the rows `row_indices` ([M] integers in [0, N)), in that order."""

    @abc.abstractmethod
    def read(self, row: tf.Tensor) -> tf.Tensor:
        """Returns the bytes of one picture, a scalar string, inside a graph.

        Args:
            row: Scalar int64 in [0, N).

        Raises:
            tf.errors.OpError: While the graph runs, if the picture cannot be read.
        """

    @abc.abstractmethod
    def read_bytes(self, row: int, most: int | None = None) -> bytes:
        """Returns the bytes of one picture, outside of graphs.

        Args:
            row: In [0, N).
            most: How many at most; None for all.

        Raises:
            OSError: If they cannot be read.
        """

    @abc.abstractmethod
    def source_name(self, row: int) -> str:
        """Returns where a picture lies, for messages: a path, or "file.tfrecord, record 12"."""

    @abc.abstractmethod
    def stored_bytes(self) -> np.ndarray:
        """Returns how large each picture is on disk, [N] int64 in bytes, or `MISSING`; no picture is opened."""

    def encoded(self, row: tf.Tensor) -> tf.Tensor:
        """As `read`, but "" where the picture cannot be read."""
        return decoding.unless_it_fails(self.read, row, tf.constant(""))


class PictureFiles(AbstractPictures):
    """One file per picture, all below one folder.

    Attributes:
        folder: What the paths begin at.
        paths: [N] bytes strings (NumPy "S"), relative to `folder`.
        size: (H, W) in pixels that the network sees.
    """

    def __init__(self, folder: str | os.PathLike, paths: np.ndarray, size: tuple[int, int]):
        """Takes the paths as they are, without looking at the files.

        Raises:
            InputError: If the paths are not an array [N] of bytes strings, or the size is not two positive numbers.
        """
        if not isinstance(paths, np.ndarray) or paths.ndim != 1 or paths.dtype.kind != "S":
            got = f"{paths.dtype} {list(paths.shape)}" if isinstance(paths, np.ndarray) else type(paths).__name__
            raise InputError(
                f"paths must be a NumPy array [N] of bytes strings, got {got}; numpy.char.encode makes one."
            )
        self.folder = os.fspath(folder)
        self.paths = paths
        self.size = _checked_size(size)

    @property
    def names(self) -> np.ndarray:
        """The paths."""
        return self.paths

    def __len__(self) -> int:
        """Returns the number of pictures N."""
        return len(self.paths)

    def __getitem__(self, row_indices: np.ndarray) -> "PictureFiles":
        """Returns the set of the rows `row_indices`, in that order."""
        return PictureFiles(self.folder, self.paths[np.asarray(row_indices)], self.size)

    def read(self, row: tf.Tensor) -> tf.Tensor:
        """Reads the file."""
        # [N, L] bytes instead of N strings, which cost TensorFlow 24 bytes each and a heap block if they are long.
        path_bytes = tf.gather(self._path_bytes, row)
        path = tf.strings.reduce_join(tf.gather(tf.constant(_BYTE_STRINGS), tf.cast(path_bytes, tf.int32)))
        return tf.io.read_file(tf.strings.join([os.path.join(self.folder, ""), path]))

    def read_bytes(self, row: int, most: int | None = None) -> bytes:
        """Reads the file."""
        with open(self.source_name(row), "rb", buffering=0) as file:
            return file.read(-1 if most is None else most)

    def stored_bytes(self) -> np.ndarray:
        """Lists every folder once, which on a network disk is far less work than to ask for one path at a time."""
        order = np.argsort(self.paths, kind="stable")
        paths = self.paths[order]
        sizes = np.full(len(paths), MISSING, np.int64)
        folders = {os.path.dirname(path) for path in paths}
        with concurrent.futures.ThreadPoolExecutor(_NUM_LISTERS) as listers:
            for places, found_sizes in listers.map(lambda folder: self._listed(folder, paths), folders):
                sizes[places] = found_sizes
        # What no listing showed may still be there under another spelling, such as "./a.jpg".
        for place in np.flatnonzero(sizes == MISSING):
            path = os.path.join(os.fsencode(self.folder), paths[place])
            sizes[place] = os.path.getsize(path) if os.path.isfile(path) else MISSING
        result = np.empty_like(sizes)
        result[order] = sizes
        return result

    def source_name(self, row: int) -> str:
        """The path."""
        return os.path.join(self.folder, os.fsdecode(self.paths[row]))

    def _listed(self, folder: bytes, paths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the places in `paths` (sorted) of the files of one folder, and their sizes."""
        places, sizes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        try:
            with os.scandir(os.path.join(os.fsencode(self.folder), folder)) as entries:
                while chunk := list(itertools.islice(entries, _ENTRIES_PER_CHUNK)):
                    chunk = [(os.path.join(folder, entry.name), entry) for entry in chunk]
                    # Longer names than the longest path would make NumPy copy the paths; they are nobody's.
                    chunk = [(name, entry) for name, entry in chunk if len(name) <= paths.dtype.itemsize]
                    names = np.array([name for name, _ in chunk], paths.dtype)
                    found = np.minimum(np.searchsorted(paths, names), len(paths) - 1)
                    wanted = np.flatnonzero(paths[found] == names)
                    places.append(found[wanted])
                    sizes.append(np.array([_entry_size(chunk[number][1]) for number in wanted], np.int64))
        except OSError:
            pass  # The caller asks for each path of such a folder.
        return np.concatenate(places), np.concatenate(sizes)

    @functools.cached_property
    def _path_bytes(self) -> tf.Tensor:
        paths = np.ascontiguousarray(self.paths)
        return _on_cpu(paths.view(np.uint8).reshape(len(paths), paths.dtype.itemsize))


@dataclasses.dataclass(frozen=True, eq=False)
class RecordIndex:
    """Where N records lie in some TFRecord files.

    Attributes:
        file_numbers: [N] int32, positions in the list of files.
        record_numbers: [N] int32, counted from 0 in each file.
        offsets: [N] int64, where a record's data begins, in bytes from the file's start.
        lengths: [N] int64, of a record's data in bytes.
    """

    file_numbers: np.ndarray
    record_numbers: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        """Returns the number of records N."""
        return len(self.offsets)

    def take(self, row_indices: np.ndarray) -> "RecordIndex":
        """Returns the places of the rows `row_indices` ([M] integers in [0, N)), in that order."""
        arrays = (getattr(self, field.name)[np.asarray(row_indices)] for field in dataclasses.fields(self))
        return RecordIndex(*arrays)


def index_records(files: Sequence[str | os.PathLike]) -> RecordIndex:
    """Finds the records of TFRecord files by their framing alone; no data is read.

    Args:
        files: Paths of files that are not compressed.

    Returns:
        The places of all records, file by file.

    Raises:
        InputError: If a file cannot be opened, or ends within a record.
    """
    columns = tuple([] for _ in range(4))
    for file_number, path in enumerate(files):
        offsets, lengths = _index_file(os.fspath(path))
        numbers = np.arange(len(offsets), dtype=np.int32)
        for column, part in zip(columns, (np.full_like(numbers, file_number), numbers, offsets, lengths), strict=True):
            column.append(part)
    types = (np.int32, np.int32, np.int64, np.int64)
    return RecordIndex(*(np.concatenate([*c, np.zeros(0, t)]).astype(t) for c, t in zip(columns, types, strict=True)))


class PictureRecords(AbstractPictures):
    """Pictures inside the `tf.train.Example` records of TFRecord files.

    Attributes:
        files: Paths of the TFRecord files.
        index: Where the N records lie in them.
        feature_key: Which bytes feature of a record is the encoded picture.
        size: (H, W) in pixels that the network sees.
    """

    def __init__(self, files: Sequence[str | os.PathLike], index: RecordIndex, feature_key: str, size: tuple[int, int]):
        """Takes the places as they are; `index_records` finds them.

        Raises:
            InputError: If the size is not two positive numbers.
        """
        self.files = tuple(os.fspath(path) for path in files)
        self.index = index
        self.feature_key = feature_key
        self.size = _checked_size(size)

    def __len__(self) -> int:
        """Returns the number of pictures N."""
        return len(self.index)

    def __getitem__(self, row_indices: np.ndarray) -> "PictureRecords":
        """Returns the set of the rows `row_indices`, in that order."""
        return PictureRecords(self.files, self.index.take(row_indices), self.feature_key, self.size)

    def read(self, row: tf.Tensor) -> tf.Tensor:
        """Reads the record from its place and takes the feature out."""
        file_numbers, offsets, lengths = self._places
        file_number, offset, length = (tf.gather(column, row) for column in (file_numbers, offsets, lengths))
        # TensorFlow reads a part of a file nowhere but here: the part is a "fixed length" between header and footer.
        records = tf.data.FixedLengthRecordDataset(
            tf.gather(tf.constant(self.files), file_number),
            record_bytes=length,
            header_bytes=offset,
            footer_bytes=tf.gather(self._file_sizes, file_number) - offset - length,
            buffer_size=_READ_BUFFER_BYTES,
        )
        features = {self.feature_key: tf.io.FixedLenFeature([], tf.string)}
        return tf.io.parse_single_example(records.get_single_element(), features)[self.feature_key]

    def read_bytes(self, row: int, most: int | None = None) -> bytes:
        """Reads the record from its place and takes the feature out."""
        with open(self.files[self.index.file_numbers[row]], "rb") as file:
            file.seek(int(self.index.offsets[row]))
            record = file.read(int(self.index.lengths[row]))
        try:
            values = tf.train.Example.FromString(record).features.feature[self.feature_key].bytes_list.value
        except Exception as error:  # The class of a parsing error differs between versions of protobuf.
            raise OSError(f"{self.source_name(row)} is no tf.train.Example") from error
        if len(values) != 1:
            raise OSError(f"{self.source_name(row)} has no bytes feature '{self.feature_key}'")
        return values[0][:most]

    def stored_bytes(self) -> np.ndarray:
        """Looks at the files' sizes alone; a picture's own size is taken for its record's."""
        ends = self.index.offsets + self.index.lengths
        file_sizes = np.array([_file_size(path) for path in self.files], np.int64)
        return np.where(ends <= file_sizes[self.index.file_numbers], self.index.lengths, MISSING)

    def source_name(self, row: int) -> str:
        """The file and the record's number in it."""
        return f"{self.files[self.index.file_numbers[row]]}, record {self.index.record_numbers[row]}"

    @functools.cached_property
    def _places(self) -> tuple[tf.Tensor, ...]:
        return tuple(_on_cpu(column) for column in (self.index.file_numbers, self.index.offsets, self.index.lengths))

    @functools.cached_property
    def _file_sizes(self) -> tf.Tensor:
        return _on_cpu(np.array([_file_size(path) for path in self.files], np.int64))


def _entry_size(entry: os.DirEntry) -> int:
    return entry.stat().st_size if entry.is_file() else MISSING


def _file_size(path: str) -> int:
    return os.path.getsize(path) if os.path.isfile(path) else 0


def _index_file(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the offsets and lengths, [n] int64 each, of the records of one file."""
    offsets, lengths = [], []
    try:
        with open(path, "rb", buffering=0) as file:
            end = os.fstat(file.fileno()).st_size
            position = 0
            while position < end:
                head = os.pread(file.fileno(), _HEAD_BYTES, position)
                length = struct.unpack("<Q", head[:8])[0] if len(head) == _HEAD_BYTES else end
                offset = position + _HEAD_BYTES
                position = offset + length + _FOOT_BYTES
                if position > end:
                    raise InputError(
                        f"{path} is cut off in record {len(offsets)}, or is no TFRecord file: it has {end} bytes and"
                        f" record {len(offsets)} would end at byte {position}. Fetch or prepare the file anew."
                    )
                offsets.append(offset)
                lengths.append(length)
    except OSError as error:
        raise InputError(f"The TFRecord file {path} cannot be read: {error.strerror}. Check its path.") from error
    return np.array(offsets, np.int64), np.array(lengths, np.int64)


def _checked_size(size: tuple[int, int]) -> tuple[int, int]:
    if len(size) != 2 or not all(isinstance(side, (int, np.integer)) and side > 0 for side in size):
        raise InputError(f"size is {size}; height and width in pixels, both positive, are expected.")
    return int(size[0]), int(size[1])


def _on_cpu(array: np.ndarray) -> tf.Tensor:
    # An eager tensor even where a graph is being traced: it is kept for the next graph, and a dataset captures it
    # without writing it into its own (which may not exceed 2 GB).
    with tf.init_scope(), tf.device("CPU:0"):
        return tf.constant(array)
