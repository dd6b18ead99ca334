"""Which pictures a user's folder or table names, of which part and class each is, and what is wrong with it."""

import csv
import dataclasses
import os
import pathlib
from collections.abc import Iterator

from famus_tf.errors import InputError

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
_PARTS = {"train": "train", "meta": "meta", "val": "val", "validation": "val", "test": "test"}
_COLUMNS = ("path", "label", "split")
_NO_CLASSES = ("__MACOSX", "@eaDir")  # what unpacking and file servers leave behind
_NUM_ENDINGS_SHOWN = 5


@dataclasses.dataclass(eq=False)
class Rows:
    """The pictures of one part.

    Attributes:
        paths: As bytes, relative to the listing's folder.
        class_names: One per path.
    """

    paths: list[bytes] = dataclasses.field(default_factory=list)
    class_names: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, eq=False)
class Listing:
    """What a folder or table names.

    Attributes:
        folder: What the paths begin at.
        table: The table, or None for directories.
        parts: "train" and, if there are any, "meta", "val" and "test".
        notes: What the user should be told.
    """

    folder: str
    table: str | None
    parts: dict[str, Rows]
    notes: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """The folder or table, for messages."""
        return self.table or self.folder

    @property
    def how_to_have_classes(self) -> str:
        """How classes are told apart, a sentence."""
        if self.table:
            return "Every class has its own text in the column label."
        return "Every class has a directory of its own, its name the class's."

    def place_of(self, part: str, class_name: str = "<class>") -> str:
        """Where the pictures of a class in a part lie or belong."""
        if self.table:
            return f"lines of {self.table} with the split {part}"
        return os.path.join(self.folder, part, class_name)


def read_directories(root: pathlib.Path) -> Listing:
    """Lists the pictures of a folder that has a directory per class, or one per part and class.

    Files that do not end as pictures do (and hidden files and directories) are passed over; a note counts them.

    Args:
        root: An existing folder.

    Raises:
        InputError: If a directory cannot be listed, a class directory has no picture, there are pictures but no class
            directories, or nothing at all, or both `val` and `validation`.
    """
    top = _directories(root)
    by_part = "train" in top
    others = [name for name in top if name not in _PARTS]
    if "val" in top and "validation" in top:
        raise InputError(f"{root} has both 'val' and 'validation'; expected one of them. Merge or rename one.")
    ignored = _Ignored()
    parts = {}
    for name in [name for name in top if name in _PARTS]:
        part = _read_part(root, name, _directories(root / name), ignored)
        if part is None:
            raise InputError(
                f"{root / name} has no class directories; expected {root / name}/<class>/ with pictures. Fill it, or"
                " remove it."
            )
        parts[_PARTS[name]] = part
    notes = []
    if not by_part:
        part = _read_part(root, "", others, ignored)
        if part is None:
            raise InputError(_nothing_found(root))
        parts["train"] = part
    elif others:
        notes.append(f"Passed over in {root}, because it has a directory 'train': {', '.join(others)}.")
    return Listing(os.fspath(root), None, parts, (*notes, *ignored.notes(root)))


def read_table(path: pathlib.Path, root: pathlib.Path | None) -> Listing:
    """Lists the pictures of a table (CSV, UTF-8).

    Args:
        path: The table: a first line with the columns path, label and perhaps split, in any order; other columns are
            passed over.
        root: What its paths begin at; None for the table's own directory.

    Raises:
        InputError: If the table cannot be read, has no such columns, or a line has no path or label, an unknown split,
            a path that another line has, or one that is no file.
    """
    folder = root if root is not None else path.parent
    parts: dict[str, Rows] = {}
    lines: dict[str, int] = {}
    missing = []
    for line, columns in _table_lines(path):
        name, label, split = (columns[column].strip() for column in _COLUMNS)
        if not name or not label:
            raise InputError(f"{path}, line {line}: no {'label' if name else 'path'}; expected path,label. Add it.")
        part = _PARTS.get(split.lower() or "train")
        if part is None:
            raise InputError(f"{path}, line {line}: split '{split}'; expected train, meta, val or test, or nothing.")
        relative = os.path.relpath(name, folder) if os.path.isabs(name) else os.path.normpath(name)
        if relative in lines:
            raise InputError(
                f"{path}, line {line}: '{name}' is already in line {lines[relative]}; expected every picture once."
                " Delete one of the two."
            )
        lines[relative] = line
        if not (folder / relative).is_file():
            missing.append((line, name))
        rows = parts.setdefault(part, Rows())
        rows.paths.append(os.fsencode(relative))
        rows.class_names.append(label)
    if missing:
        line, name = missing[0]
        hint = " Between directories stands '/', not '\\'." if "\\" in name else ""
        raise InputError(
            f"{path}, line {line}: there is no file {folder / name}. That is so in {len(missing)} of {len(lines)}"
            f" lines; paths are taken from {'--data_dir' if root else 'the directory of the table'}, {folder}.{hint}"
        )
    if "train" not in parts:
        raise InputError(f"{path} names no training pictures; expected lines path,label.")
    return Listing(os.fspath(folder), os.fspath(path), parts)


class _Ignored:
    """Counts what was passed over."""

    def __init__(self):
        self._endings: dict[str, int] = {}

        self._loose = 0

    def add(self, name: str) -> None:
        ending = "hidden" if name.startswith(".") else os.path.splitext(name)[1].lower() or "no ending"
        self._endings[ending] = self._endings.get(ending, 0) + 1

    def add_outside(self, folder: pathlib.Path) -> None:
        """Counts the files that lie beside class directories."""
        with _listed(folder) as entries:
            for name in [entry.name for entry in entries if not entry.is_dir()]:
                if name.lower().endswith(PICTURE_ENDINGS) and not name.startswith("."):
                    self._loose += 1
                else:
                    self.add(name)

    def notes(self, root: pathlib.Path) -> list[str]:
        notes = []
        if self._loose:
            are = "1 picture that is" if self._loose == 1 else f"{self._loose} pictures that are"
            notes.append(f"Passed over in {root}: {are} in no class directory.")
        if not self._endings:
            return notes
        most = sorted(self._endings, key=lambda ending: (-self._endings[ending], ending))
        shown = ", ".join(most[:_NUM_ENDINGS_SHOWN]) + (", ..." if len(most) > _NUM_ENDINGS_SHOWN else "")
        count = sum(self._endings.values())
        files = "1 file that is no picture" if count == 1 else f"{count} files that are no pictures"
        return [*notes, f"Passed over in {root}: {files} ({shown})."]


def _read_part(root: pathlib.Path, part: str, class_names: list[str], ignored: _Ignored) -> Rows | None:
    """Returns the pictures of some class directories in a part's directory; None if there is no directory."""
    if not class_names:
        return None
    rows = Rows()
    ignored.add_outside(root / part)
    for name in class_names:
        if not _is_text(name):
            raise InputError(
                f"{root / part} has a directory whose name is no UTF-8 text ({os.fsencode(name)!r}); rename it."
            )
        relative = os.path.join(part, name)
        paths = list(_pictures(root, relative, ignored, set()))
        if not paths:
            raise InputError(
                f"{root / relative} has no pictures ({', '.join(PICTURE_ENDINGS)}); every class needs at least one."
                " Fill the directory, or remove it."
            )
        rows.paths += sorted(paths)
        rows.class_names += [name] * len(paths)
    return rows


def _pictures(root: pathlib.Path, relative: str, ignored: _Ignored, visited: set) -> Iterator[bytes]:
    """Yields the paths, relative to `root`, of the pictures in a directory and all below it."""
    with _listed(root / relative) as entries:
        status = os.stat(root / relative)
        if (status.st_dev, status.st_ino) in visited:  # a link to a directory above
            return
        visited.add((status.st_dev, status.st_ino))
        for entry in entries:
            path = os.path.join(relative, entry.name)
            if entry.name.startswith("."):
                ignored.add(entry.name)
            elif entry.is_dir():
                yield from _pictures(root, path, ignored, visited)
            elif entry.name.lower().endswith(PICTURE_ENDINGS):
                yield os.fsencode(path)
            else:
                ignored.add(entry.name)


def _directories(folder: pathlib.Path) -> list[str]:
    with _listed(folder) as entries:
        names = (entry.name for entry in entries if entry.is_dir())
        return sorted(name for name in names if not name.startswith(".") and name not in _NO_CLASSES)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _listed(folder: pathlib.Path):
    try:
        return os.scandir(folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be listed ({error.strerror}); check that you may read it.") from error


def _nothing_found(root: pathlib.Path) -> str:
    with _listed(root) as entries:
        loose = sum(entry.name.lower().endswith(PICTURE_ENDINGS) for entry in entries)
    what = f"has {loose} pictures and no class directories" if loose else "has no class directories"
    return (
        f"{root} {what}; expected {root}/<class>/ (or {root}/train/<class>/) with pictures. Sort them into one"
        " directory per class, or name them in a table for --labels_csv, with the columns path,label."
    )


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
