"""Labels as files: the CSV that a run folder keeps, read and written, and the hash that names a set of labels."""

import csv
import hashlib
import itertools
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from famus_tf import whole_files
from famus_tf.data.examples import ExampleTable, id_text
from famus_tf.errors import InputError

_COLUMNS = ("id", "given_label", "true_label")


def labels_hash(ids: np.ndarray, given_labels: np.ndarray) -> str:
    """Returns a name for a set of labels: the SHA-256 (hex) of its sorted "id:label" lines.

    Two runs with the same hash trained on the same labels, in whatever order they were read.

    Args:
        ids: [N] unicode or bytes (UTF-8), unique; the same text gives the same hash in either.
        given_labels: [N] integers.

    Raises:
        InputError: If the two differ in length.
    """
    if len(ids) != len(given_labels):
        raise InputError(f"{len(given_labels)} labels were given for {len(ids)} ids; there must be one per id.")
    labels = np.asarray(given_labels).tolist()
    lines = sorted(f"{name}:{int(label)}\n" for name, label in zip(map(id_text, ids), labels, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def save_labels(path: str | os.PathLike, table: ExampleTable) -> None:
    """Writes ids, given and true labels as CSV; a reader finds the whole file or none.

    Args:
        path: The file to write; its folder must exist. An existing file is replaced.
        table: The examples, written in their order. Unknown true labels are left empty.
    """
    with whole_files.writing(path, newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(_rows(table))


def _rows(table: ExampleTable) -> Iterator[tuple[str, int, int | str]]:
    true_labels = [""] * len(table) if table.true_labels is None else table.true_labels.tolist()
    return zip(map(id_text, table.ids), table.given_labels.tolist(), true_labels, strict=True)


def holds_labels_of(path: str | os.PathLike, table: ExampleTable) -> bool:
    """Returns whether a file is what `save_labels` would write of a table; only one line of it is held at a time.

    Args:
        path: The file.
        table: The examples.

    Raises:
        InputError: If the file cannot be read.
    """
    expected = itertools.chain([_COLUMNS], _rows(table))
    try:
        with pathlib.Path(path).open(encoding="utf-8", newline="") as file:
            pairs = itertools.zip_longest(csv.reader(file), expected, fillvalue=())
            return all(found == [str(value) for value in row] for found, row in pairs)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The label file {path} cannot be read ({error}); give another --model_dir.") from error


def load_labels(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Reads what `save_labels` wrote.

    Args:
        path: The CSV file.

    Returns:
        ids [N] unicode, given labels [N] int32, true labels [N] int32 or None when the file has
        none.

    Raises:
        InputError: If the file is missing, or a line is not "id,given_label,true_label" with whole
            numbers.
    """
    try:
        with pathlib.Path(path).open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except OSError as error:
        raise InputError(f"The label file {path} cannot be read ({error.strerror}); check its path.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a label file: it is no CSV text in UTF-8 ({error}).") from error
    if not rows or tuple(rows[0]) != _COLUMNS:
        raise InputError(f"{path} does not begin with the line '{','.join(_COLUMNS)}': not a label file.")
    has_true = len(rows) > 1 and len(rows[1]) == 3 and rows[1][2] != ""
    given_labels, true_labels = [], []
    for line, row in enumerate(rows[1:], start=2):
        try:
            _, given_label, true_label = row
            given_labels.append(int(given_label))
            true_labels.append(int(true_label) if has_true or true_label else -1)
        except ValueError as error:
            raise InputError(f"{path}, line {line}: expected an id and whole-number labels, got {row}.") from error
    ids = np.array([row[0] for row in rows[1:]], dtype=np.str_)
    true = np.array(true_labels, dtype=np.int32) if has_true else None
    return ids, np.array(given_labels, dtype=np.int32), true
