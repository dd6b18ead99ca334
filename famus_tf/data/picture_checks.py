"""Which pictures of a set cannot be used, and why.

Three ways, from cheap to thorough: `cheap_bad_rows` lists folders, `check` also reads how each picture begins, and
`find_bad` can decode them all.
"""

import concurrent.futures
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf

from famus_tf.data import decoding
from famus_tf.data.pictures import MISSING, AbstractPictures

# What files begin with: the formats that are decoded, and what broken downloads leave in place of a picture.
_FORMATS = ((b"\xff\xd8\xff", "JPEG"), (b"\x89PNG\r\n\x1a\n", "PNG"), (b"GIF8", "GIF"), (b"BM", "BMP"))
_STRANGERS = (
    (b"II*\x00", "TIFF, which is not read"),
    (b"MM\x00*", "TIFF, which is not read"),
    (b"%PDF", "PDF, not a picture"),
    (b"PK\x03\x04", "ZIP, not a picture"),
    (b"\x1f\x8b", "gzip, not a picture"),
    (b"version https://git-lfs", "Git LFS pointer, not a picture"),
)
_MARKUP = ((b"<!doctype html", "HTML"), (b"<html", "HTML"), (b"<svg", "SVG"), (b"<?xml", "XML"))
_START_BYTES = _TAIL_BYTES = 64
# Threads that wait for a disk rather than compute, and rows that are handed to them at a time.
_NUM_READERS, _ROWS_PER_CHUNK = 8, 4096


def cheap_bad_rows(pictures: AbstractPictures) -> list[tuple[int, str]]:
    """Returns the pictures that are missing or empty, without opening one; a million files take seconds.

    Args:
        pictures: The set.

    Returns:
        (row, reason in words for a person), by row.
    """
    sizes = pictures.stored_bytes()
    reasons = {MISSING: "missing", 0: "empty file"}
    return [(int(row), reasons[int(sizes[row])]) for row in np.flatnonzero(sizes <= 0)]


def check(pictures: AbstractPictures, rows: Iterable[int]) -> list[tuple[int, str]]:
    """Returns the pictures that are missing, empty, or do not begin as a picture does; nothing is decoded.

    Args:
        pictures: The set.
        rows: Which of them to look at, each in [0, N).

    Returns:
        (row, reason in words for a person), in the order of `rows`.
    """
    return list(find_bad(pictures, rows))


def find_bad(
    pictures: AbstractPictures,
    rows: Iterable[int] | None = None,
    *,
    decode: bool = False,
    num_workers: int | None = None,
) -> Iterator[tuple[int, str]]:
    """Yields the pictures that cannot be used; several are looked at at a time.

    Args:
        pictures: The set.
        rows: Which of them to look at, each in [0, N); None for all.
        decode: Whether to decode each as training does; otherwise only its first bytes are read.
        num_workers: How many are looked at at a time; None chooses.

    Yields:
        (row, reason in words for a person), in the order of `rows`.
    """
    rows = np.arange(len(pictures)) if rows is None else np.array(list(rows), np.int64)
    if decode:
        yield from _undecodable(pictures, rows, num_workers)
        return
    with concurrent.futures.ThreadPoolExecutor(num_workers or _NUM_READERS) as readers:
        for start in range(0, len(rows), _ROWS_PER_CHUNK):
            chunk = rows[start : start + _ROWS_PER_CHUNK]
            reasons = readers.map(lambda row: _reason(pictures, row, _START_BYTES), chunk)
            yield from ((int(row), reason) for row, reason in zip(chunk, reasons, strict=True) if reason)


def picture_format(start: bytes) -> str | None:
    """Returns the name of a picture's format, or None if it is none of those that are decoded.

    Args:
        start: At least the first 12 bytes.
    """
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WebP"
    return next((name for magic, name in _FORMATS if start.startswith(magic)), None)


def why_no_picture(start: bytes) -> str | None:
    """Returns what a file is that does not begin as a picture, in words for a person; None for what may be one.

    Args:
        start: The first 64 bytes or more, or all if the file has fewer.
    """
    start = start[:_START_BYTES]
    if not start:
        return "empty file"
    if picture_format(start):
        return None
    for magic, reason in _STRANGERS:
        if start.startswith(magic):
            return reason
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for mark, name in _MARKUP:
        if text.lower().startswith(mark):
            return f"{name}, not a picture"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        return "text, not a picture"
    return f"no known picture format (it begins with the bytes {start[:8].hex(' ')})"


def why_undecodable(encoded: bytes) -> str:
    """Returns the likely reason, in words for a person, why decoding failed.

    Args:
        encoded: All bytes of the file.
    """
    reason = why_no_picture(encoded)
    if reason:
        return reason
    name = picture_format(encoded)
    return f"{'truncated' if _is_cut_off(name, encoded) else 'damaged'} {name}"


def _is_cut_off(name: str, encoded: bytes) -> bool:
    tail = encoded[-_TAIL_BYTES:]
    if name == "JPEG":
        return b"\xff\xd9" not in tail
    if name == "PNG":
        return b"IEND\xaeB`\x82" not in tail
    if name == "GIF":
        return not tail.rstrip(b"\0").endswith(b";")
    # BMP and WebP begin by saying how long they are.
    stated, before = (encoded[2:6], 0) if name == "BMP" else (encoded[4:8], 8)
    return len(encoded) < int.from_bytes(stated, "little") + before


def _undecodable(pictures: AbstractPictures, rows: np.ndarray, num_workers: int | None) -> Iterator[tuple[int, str]]:
    def is_decoded(row: tf.Tensor) -> tf.Tensor:
        # The result must depend on the pixels, or they would never be computed.
        return tf.reduce_max(decoding.decode(pictures.read(row), pictures.size)) >= 0

    def row_and_verdict(row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return row, decoding.unless_it_fails(is_decoded, row, tf.constant(False))

    with tf.device("CPU:0"):
        some_rows = tf.constant(rows)
    verdicts = tf.data.Dataset.from_tensor_slices(some_rows).map(
        row_and_verdict, num_parallel_calls=num_workers or tf.data.AUTOTUNE, deterministic=True
    )
    for row, is_good in verdicts.as_numpy_iterator():
        if not is_good:
            yield int(row), _reason(pictures, int(row))


def _reason(pictures: AbstractPictures, row: int, most: int | None = None) -> str | None:
    """Returns why a picture cannot be used: by its first `most` bytes, None if they are fine; or by all of them."""
    try:
        data = pictures.read_bytes(row, most)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    return why_undecodable(data) if most is None else why_no_picture(data)
