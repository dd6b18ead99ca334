"""Reads the text files in which datasets list their pictures ("path label" or "path" on every line) or their classes.

A list of a million lines is read in a second or two, and no Python object per line is ever made: paths are one NumPy
array of bytes, as long as the longest of them. Windows line ends, tabs, a byte order mark, "./" before a path and empty
lines are accepted. Everything else is refused with the file, the line, what is there and what should be.
"""

import dataclasses
import os
import pathlib

import numpy as np

from famus_tf.data.examples import ExampleTable
from famus_tf.data.pictures import PictureFiles
from famus_tf.errors import InputError

_NEWLINE, _BACKSLASH, _SLASH, _ZERO, _NINE = b"\n\\/09"
_IS_SPACE = np.zeros(256, dtype=bool)
_IS_SPACE[list(b" \t\r\v\f")] = True
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LONGEST_LINE = 1000  # bytes; every path takes as much memory as the longest one
_LONGEST_LABEL = 9  # digits, so that every number fits an int32
_ROWS_AT_A_TIME = 1 << 16


@dataclasses.dataclass(frozen=True, eq=False)
class ListFile:
    """What a list file says, one row per line that is not empty, in the file's order.

    Attributes:
        file: Where it was read, for messages.
        paths: [N] bytes (dtype "S"), relative paths as in the file, without the prefix that was to be left out.
        labels: [N] int32, 0 or more; None for a file without labels.
        line_numbers: [N] int32, from 1.
    """

    file: str
    paths: np.ndarray
    labels: np.ndarray | None
    line_numbers: np.ndarray

    def __len__(self) -> int:
        """Returns the number of rows N."""
        return len(self.paths)

    def take(self, rows: np.ndarray) -> "ListFile":
        """Returns the rows `rows` ([M] integers, or [N] booleans), the same file's."""
        labels = None if self.labels is None else self.labels[rows]
        paths = self.paths[rows]
        width = max(1, int(np.char.str_len(paths).max(initial=1)))
        return ListFile(self.file, paths.astype(f"S{width}"), labels, self.line_numbers[rows])

    def where(self, row: int) -> str:
        """Returns "FILE, line 12" for messages."""
        return f"{self.file}, line {self.line_numbers[row]}"


def read(
    file: str | os.PathLike,
    *,
    with_labels: bool,
    num_classes: int | None = None,
    without_prefix: str = "",
    remedy: str = "Get the file again from where the dataset was published.",
) -> ListFile:
    """Reads a list file.

    Args:
        file: Its path.
        with_labels: Whether every line is "path label" (the label is what stands behind the last space or tab), or all
            of it the path.
        num_classes: K; labels must be below it. None takes any.
        without_prefix: Left out where a path begins with it, for example "images/".
        remedy: The last sentence of messages about a file that is empty or is no text.

    Returns:
        The rows.

    Raises:
        InputError: If the file cannot be read, is empty or no UTF-8 text, or a line has no label, a label that is no
            whole number below K, an absolute path, or more than 1000 bytes.
    """
    file = os.fspath(file)
    wanted = "'<path> <label>'" if with_labels else "'<path>'"
    data = _read_bytes(file, wanted, remedy)
    starts, ends, line_numbers = _find_lines(data)
    if not len(starts):
        raise InputError(f"{file} has only empty lines; expected lines {wanted}. {remedy}")
    lines = _Lines(file, data, starts, ends, line_numbers)
    lines.refuse(
        ends - starts > _LONGEST_LINE, f"the line is longer than {_LONGEST_LINE} bytes", f"expected {wanted}", remedy
    )

    labels, path_ends = None, ends
    if with_labels:
        labels, path_ends = _read_labels(lines, num_classes)
    path_starts = starts
    for prefix in ("./", without_prefix):
        path_starts = _without_prefix(data, path_starts, path_ends, prefix.encode())
    _check_paths(lines, path_starts, path_ends)
    return ListFile(file, _gather(data, path_starts, path_ends), labels, line_numbers)


def read_lines(file: str | os.PathLike, remedy: str) -> list[str]:
    """Reads a short text file, such as the names of a dataset's classes.

    Args:
        file: Its path.
        remedy: The last sentence of the message about a file that is no text.

    Returns:
        Its lines without the white space around them; line n is the item n - 1. Empty lines at the end are left out.

    Raises:
        InputError: If the file cannot be read, or is no UTF-8 text.
    """
    try:
        lines = [line.strip() for line in pathlib.Path(file).read_text(encoding="utf-8-sig").splitlines()]
    except OSError as error:
        raise InputError(
            f"{file} cannot be read ({error.strerror}); expected a text file. Check that it is there, is a file, and"
            " that you may read it."
        ) from error
    except UnicodeDecodeError as error:
        line_number = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{file}, line {line_number}: the byte 0x{error.object[error.start]:02x} is no UTF-8 text, which was"
            f" expected. Save the file as UTF-8. {remedy}"
        ) from error
    while lines and not lines[-1]:
        lines.pop()
    return lines


def look_up(wanted: ListFile, known: ListFile, remedy: str) -> np.ndarray:
    """Returns the label of each of `wanted`'s paths, as `known` gives it.

    Args:
        wanted: A list of M paths.
        known: A list of paths with labels. A path may occur again with the same label.
        remedy: The last sentence of the message about paths that `known` lacks.

    Returns:
        [M] int32, in the order of `wanted`.

    Raises:
        InputError: If a path is not in `known`, or is there with two labels.
    """
    order = np.argsort(known.paths, kind="stable")
    ordered, labels = known.paths[order], known.labels[order]
    conflicts = (ordered[1:] == ordered[:-1]) & (labels[1:] != labels[:-1])
    if conflicts.any():
        first, second = order[int(conflicts.argmax())], order[int(conflicts.argmax()) + 1]
        raise InputError(
            f"{known.where(second)}: '{_text(known.paths[second])}' has the label {known.labels[second]} here and"
            f" {known.labels[first]} in line {known.line_numbers[first]}; expected one. Delete the wrong line."
        )
    places, found = _find(wanted.paths, ordered)
    if not found.all():
        row = int((~found).argmax())
        raise InputError(
            f"{wanted.where(row)}: '{_text(wanted.paths[row])}' has no line in {known.file}; expected one with its"
            f" label. {_count(int((~found).sum()), len(found))} of {os.path.basename(wanted.file)} miss there. {remedy}"
        )
    return labels[places]


def check_unique(rows: ListFile) -> None:
    """Raises `InputError`, naming both lines, if a path occurs twice."""
    order = np.argsort(rows.paths, kind="stable")
    ordered = rows.paths[order]
    twice = ordered[1:] == ordered[:-1]
    if twice.any():
        second = int(order[1:][twice].min())  # the first line that repeats one
        first = int(order[np.flatnonzero(ordered == rows.paths[second])[0]])
        raise InputError(
            f"{rows.where(second)}: '{_text(rows.paths[second])}' was already in line {rows.line_numbers[first]};"
            f" expected every picture once. {_count(int(twice.sum()), len(rows))} repeat an earlier one: delete them,"
            " keeping of two labels the right one."
        )


def check_disjoint(held_out: ListFile, train: ListFile, remedy: str) -> None:
    """Raises `InputError`, naming a line of each, if a path is in both lists."""
    places, found = _find(train.paths, np.sort(held_out.paths))
    if found.any():
        row = int(found.argmax())
        other = int(np.flatnonzero(held_out.paths == train.paths[row])[0])
        raise InputError(
            f"{held_out.where(other)}: '{_text(train.paths[row])}' is also in {train.file}, line"
            f" {train.line_numbers[row]}; expected no picture in both. {_count(int(found.sum()), len(train))} of"
            f" {os.path.basename(train.file)} are. {remedy}"
        )


def with_folder(folder: str, paths: np.ndarray) -> np.ndarray:
    """Returns [N] bytes "folder/path" for the relative paths [N]."""
    return np.char.add(f"{folder}/".encode(), paths)


@dataclasses.dataclass(frozen=True, eq=False)
class _Lines:
    """The lines of a file while it is read; it knows how to complain about them."""

    file: str
    data: np.ndarray  # [bytes of the file] uint8
    starts: np.ndarray  # [N] int64
    ends: np.ndarray  # [N] int64, behind the last byte
    line_numbers: np.ndarray

    def refuse(self, bad: np.ndarray, found: str, expected: str, remedy: str) -> None:
        """Raises `InputError` about the first of the bad lines ([N] bool), if there is one."""
        if not bad.any():
            return
        row = int(bad.argmax())
        text = _text(self.data[self.starts[row] : min(self.ends[row], self.starts[row] + 100)].tobytes())
        raise InputError(
            f"{self.file}, line {self.line_numbers[row]}: {found} in '{text}'; {expected}."
            f" That is so in {_count(int(bad.sum()), len(bad))}. {remedy}"
        )


def _read_bytes(file: str, wanted: str, remedy: str) -> np.ndarray:
    try:
        data = np.fromfile(file, dtype=np.uint8)
    except OSError as error:
        raise InputError(
            f"{file} cannot be read ({error.strerror}); expected a text file with lines {wanted}. Check that it is"
            " there, is a file, and that you may read it."
        ) from error
    if not len(data):
        raise InputError(f"{file} is empty (0 bytes); expected lines {wanted}. {remedy}")
    if not data.all():
        raise InputError(
            f"{file} is no UTF-8 text: it holds zero bytes, as UTF-16 and binary files do; expected lines {wanted}."
            f" Save it as UTF-8. {remedy}"
        )
    return data[len(_BYTE_ORDER_MARK) :] if data[:3].tobytes() == _BYTE_ORDER_MARK else data


def _find_lines(data: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns where each line that is not empty begins and ends, [N] int64, and its number, [N] int32."""
    ends = np.flatnonzero(data == _NEWLINE)
    if not len(data) or data[-1] != _NEWLINE:
        ends = np.append(ends, len(data))
    starts = np.concatenate([[0], ends[:-1] + 1])
    _trim(data, starts, ends)
    kept = ends > starts
    return starts[kept], ends[kept], (np.flatnonzero(kept) + 1).astype(np.int32)


def _trim(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
    """Moves starts and ends, in place, over white space."""
    for bounds, step, inner in ((ends, -1, -1), (starts, 1, 0)):
        rows = np.flatnonzero(ends > starts)
        while len(rows):
            rows = rows[_IS_SPACE[data[bounds[rows] + inner]]]
            bounds[rows] += step
            rows = rows[ends[rows] > starts[rows]]


def _read_labels(lines: _Lines, num_classes: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the labels, [N] int32, and where the paths end, [N] int64."""
    data, starts, ends = lines.data, lines.starts, lines.ends
    spaces = np.concatenate([[-1], np.flatnonzero(_IS_SPACE[data])])
    last_spaces = spaces[np.searchsorted(spaces, ends) - 1]
    top = "" if num_classes is None else f" from 0 to {num_classes - 1}"
    lines.refuse(
        last_spaces < starts,
        "no label",
        f"expected '<path> <label>', the label a whole number{top}",
        "Write its label behind each such path, or delete the line.",
    )
    label_starts = last_spaces + 1
    is_number = ends - label_starts <= _LONGEST_LABEL
    labels = np.zeros(len(starts), dtype=np.int64)
    for place in range(min(_LONGEST_LABEL, int((ends - label_starts).max()))):
        rows = np.flatnonzero(label_starts + place < ends)
        digits = data[label_starts[rows] + place]
        is_number[rows] &= (digits >= _ZERO) & (digits <= _NINE)
        labels[rows] = labels[rows] * 10 + (digits.astype(np.int64) - _ZERO)
    bad = ~is_number if num_classes is None else ~is_number | (labels >= num_classes)
    if bad.any():
        row = int(bad.argmax())
        label = _text(data[label_starts[row] : ends[row]].tobytes())
        lines.refuse(
            bad,
            f"the label '{label}'",
            f"expected a whole number{top}",
            "Correct each such label, or check that the list belongs to this dataset.",
        )
    path_ends = label_starts.copy()
    _trim(data, starts.copy(), path_ends)
    return labels.astype(np.int32), path_ends


def _without_prefix(data: np.ndarray, starts: np.ndarray, ends: np.ndarray, prefix: bytes) -> np.ndarray:
    has_prefix = ends - starts > len(prefix)
    for place, byte in enumerate(prefix):
        rows = np.flatnonzero(has_prefix)
        has_prefix[rows] = data[starts[rows] + place] == byte
    return starts + len(prefix) * has_prefix


def _check_paths(lines: _Lines, starts: np.ndarray, ends: np.ndarray) -> None:
    lines.refuse(
        lines.data[starts] == _SLASH,
        "an absolute path",
        "expected a path relative to the dataset's folder",
        "Remove that folder's name from every line.",
    )
    backslashes = np.flatnonzero(lines.data == _BACKSLASH)
    if len(backslashes):
        after = np.append(backslashes, len(lines.data))[np.searchsorted(backslashes, starts)]
        lines.refuse(after < ends, "a '\\'", "expected '/' between folders", "Replace every '\\' by '/'.")


def _gather(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Returns the bytes between starts and ends, one string per row."""
    lengths = ends - starts
    width = int(lengths.max())
    columns = np.arange(width)
    table = np.zeros((len(starts), width), dtype=np.uint8)
    for first in range(0, len(starts), _ROWS_AT_A_TIME):
        rows = slice(first, first + _ROWS_AT_A_TIME)
        places = np.minimum(starts[rows, np.newaxis] + columns, len(data) - 1)
        table[rows] = np.where(columns < lengths[rows, np.newaxis], data[places], 0)
    return table.view(f"S{width}")[:, 0]


def _find(wanted: np.ndarray, ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns where each wanted string [M] stands in the sorted ones, and whether it is there at all."""
    order = np.argsort(wanted, kind="stable")  # searching in order is ten times as fast
    places = np.empty(len(wanted), dtype=np.int64)
    places[order] = np.searchsorted(ordered, wanted[order])
    np.minimum(places, len(ordered) - 1, out=places)
    return places, ordered[places] == wanted


def _text(line: bytes) -> str:
    return line.decode("utf-8", errors="replace")


def _count(count: int, total: int) -> str:
    return f"{count:,} of {total:,} lines"


def picture_table(rows: ListFile, folder: str | os.PathLike, size: int, *, is_clean: bool) -> ExampleTable:
    """Returns the table of a list's pictures; their paths are the ids.

    Args:
        rows: The list.
        folder: Where its paths begin.
        size: Side in pixels of the square that the network sees.
        is_clean: Whether the listed labels are the true ones, too.
    """
    return ExampleTable(
        ids=rows.paths,
        images=PictureFiles(folder, rows.paths, (size, size)),
        given_labels=rows.labels,
        true_labels=rows.labels if is_clean else None,
    )
