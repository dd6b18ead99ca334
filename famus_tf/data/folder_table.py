"""A user's own pictures as a table of paths and labels says: `path,label[,split]`, a line each."""

import csv
import os
import pathlib
from collections.abc import Iterator

from famus_tf.data.folder_listing import PARTS, Listing, Rows
from famus_tf.errors import InputError

_COLUMNS = ("path", "label", "split")


def read_table(path: pathlib.Path, root: pathlib.Path | None) -> Listing:
    """Lists the pictures of a table (CSV, UTF-8).

    Args:
        path: The table: a first line with the columns path, label and perhaps split, in any order; other columns are
            passed over.
        root: What its paths begin at; None for the table's own directory.

    Raises:
        InputError: If the table cannot be read, has no such columns, a line has no path or label, an unknown split or
            a path that another line has, or more than half of the paths are no files. Fewer stay in the listing: they
            are for the check of bad pictures to count.
    """
    folder = root if root is not None else path.parent
    parts: dict[str, Rows] = {}
    lines: dict[str, int] = {}
    missing = []
    for line, columns in _table_lines(path):
        name, label, split = (columns[column].strip() for column in _COLUMNS)
        if not name or not label:
            raise InputError(f"{path}, line {line}: no {'label' if name else 'path'}; expected path,label. Add it.")
        part = PARTS.get(split.lower() or "train")
        if part is None:
            raise InputError(f"{path}, line {line}: split '{split}'; expected train, meta, val or test, or nothing.")
        relative = os.path.relpath(name, folder) if os.path.isabs(name) else os.path.normpath(name)
        if relative in lines:
            raise InputError(
                f"{path}, line {line}: '{name}' is already in line {lines[relative]}; expected every picture once."
                " Delete one of the two."
            )
        lines[relative] = line
        if not os.path.isfile(folder / relative):  # of a name that is too long, pathlib's raises
            missing.append((line, name))
        rows = parts.setdefault(part, Rows())
        rows.paths.append(os.fsencode(relative))
        rows.class_names.append(label)
    if 2 * len(missing) > len(lines):
        line, name = missing[0]
        hint = " Between directories stands '/', not '\\'." if "\\" in name else ""
        raise InputError(
            f"{path}, line {line}: there is no file {folder / name}. That is so in {len(missing)} of {len(lines)}"
            f" lines; paths are taken from {'--data_dir' if root else 'the directory of the table'}, {folder}.{hint}"
            " Set --data_dir to the folder that the table's paths begin at, or correct them."
        )
    if "train" not in parts:
        raise InputError(f"{path} names no training pictures; expected lines path,label.")
    return Listing(os.fspath(folder), os.fspath(path), parts)


def _table_lines(path: pathlib.Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the line's number and {column: text} of every line that is not empty."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip().lower() for name in next(reader, [])]
            lacking = [name for name in _COLUMNS[:2] if name not in header]
            if lacking:
                hint = " It seems to be separated by ';': save it with commas." if ";" in "".join(header) else ""
                raise InputError(
                    f"{path} has the columns {', '.join(header) or '(none)'}; expected path,label[,split] in its first"
                    f" line, and '{lacking[0]}' is missing.{hint}"
                )
            places = {name: header.index(name) for name in _COLUMNS if name in header}
            for row in reader:
                if any(row):
                    texts = {name: row[place] if place < len(row) else "" for name, place in places.items()}
                    yield reader.line_num, {"split": "", **texts}
    except OSError as error:
        raise InputError(f"--labels_csv={path} cannot be read ({error.strerror}); check its path.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"--labels_csv={path} is no CSV text in UTF-8 ({error}); save it as such.") from error
