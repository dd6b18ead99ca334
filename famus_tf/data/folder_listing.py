"""Which pictures a user's folder holds, of which part and class each is, and what is wrong with it."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator

from famus_tf.data import picture_checks
from famus_tf.errors import InputError

# Files with these endings are taken unopened, so that a million of them are listed in seconds.
PICTURE_ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp")
# What lies beside pictures, often one per picture: annotations, downloads that were cut off, a camera's thumbnails.
_OTHER_ENDINGS = (".txt", ".xml", ".json", ".csv", ".part", ".crdownload", ".thm")
_PART_NAMES = {
    "train": ("train", "training"),
    "meta": ("meta",),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
PARTS = {name: part for part, names in _PART_NAMES.items() for name in names}
# What unpacking, file servers and systems leave behind, at any depth.
_NO_CLASSES = ("__MACOSX", "@eaDir", "#recycle", "@Recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")
_NUM_ENDINGS_SHOWN = 5
_FORMAT_BYTES = 12  # as many as tell a picture's format


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
        directories: Part -> its directory's own name, such as "Training"; empty for a table.
        notes: What the user should be told.
    """

    folder: str
    table: str | None
    parts: dict[str, Rows]
    directories: dict[str, str] = dataclasses.field(default_factory=dict)
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
        return os.path.join(self.folder, self.directories.get(part, part), class_name)


def read_directories(root: pathlib.Path) -> Listing:
    """Lists the pictures of a folder that has a directory per class, or one per part and class.

    The parts' directories may be called train or training, meta, val, valid or validation, test or testing, in any case
    of letters. Files that are no pictures, by their ending or else by their first bytes, and hidden files and
    directories are passed over; a note counts them.

    Args:
        root: An existing folder.

    Raises:
        InputError: If a directory cannot be listed, a class directory has no picture, there are pictures but no class
            directories, or nothing at all, or two directories are the same part.
    """
    top = _directories(root)
    directories = _part_directories(root, top)
    others = [name for name in top if name.lower() not in PARTS]
    ignored = _Ignored()
    parts = {}
    for part, name in directories.items():
        rows = _read_part(root, name, _directories(root / name), ignored)
        if rows is None:
            raise InputError(
                f"{root / name} has no class directories; expected {root / name}/<class>/ with pictures, as its name is"
                f" that of the part {part}. Fill it, or remove it, or rename it if it is a class."
            )
        parts[part] = rows
    notes = []
    if "train" not in directories:
        rows = _read_part(root, "", others, ignored)
        if rows is None:
            raise InputError(_nothing_found(root))
        parts["train"] = rows
    elif others:
        notes.append(
            f"Passed over in {root}, because it has a directory '{directories['train']}': {', '.join(others)}."
        )
    return Listing(os.fspath(root), None, parts, directories, (*notes, *ignored.notes(root)))


def holds_a_dataset(folder: pathlib.Path) -> bool:
    """Tells whether a directory that was taken for a class holds parts, or two or more classes, of its own.

    Args:
        folder: The directory.

    Raises:
        InputError: If it or a directory in it cannot be listed.
    """
    names = _directories(folder)
    if any(name.lower() in PARTS for name in names):
        return True
    return len(names) > 1 and all(any(_pictures(folder, name, _Ignored())) for name in names)


class _Ignored:
    """Counts what was passed over."""

    def __init__(self):
        self._endings: dict[str, int] = {}
        self._loose = 0
        self._unreadable: list[str] = []

    def add(self, name: str) -> None:
        ending = "hidden" if name.startswith(".") else os.path.splitext(name)[1].lower() or "no ending"
        self._endings[ending] = self._endings.get(ending, 0) + 1

    def add_unreadable(self, path: str) -> None:
        self._unreadable.append(path)

    def add_outside(self, root: pathlib.Path, relative: str) -> None:
        """Counts the files that lie beside class directories."""
        with _listed(root / relative) as entries:
            for entry in entries:
                is_directory = _is_directory(entry)
                if is_directory is None:
                    self.add_unreadable(os.path.join(relative, entry.name))
                elif not is_directory and _ends_as_picture(entry.name) and not entry.name.startswith("."):
                    self._loose += 1
                elif not is_directory:
                    self.add(entry.name)

    def notes(self, root: pathlib.Path) -> list[str]:
        notes = []
        if self._loose:
            are = "1 picture that is" if self._loose == 1 else f"{self._loose} pictures that are"
            notes.append(f"Passed over in {root}: {are} in no class directory.")
        if self._unreadable:
            entries = "1 entry" if len(self._unreadable) == 1 else f"{len(self._unreadable)} entries"
            first = os.fsencode(min(self._unreadable)).decode(errors="replace")
            notes.append(f"Passed over in {root}: {entries} that cannot be read, for example {first}.")
        if not self._endings:
            return notes
        most = sorted(self._endings, key=lambda ending: (-self._endings[ending], ending))
        shown = ", ".join(most[:_NUM_ENDINGS_SHOWN]) + (", ..." if len(most) > _NUM_ENDINGS_SHOWN else "")
        count = sum(self._endings.values())
        files = "1 file that is no picture" if count == 1 else f"{count} files that are no pictures"
        return [*notes, f"Passed over in {root}: {files} ({shown})."]


def _part_directories(root: pathlib.Path, names: list[str]) -> dict[str, str]:
    """Returns {part: the name of its directory} for those of some directories that are parts."""
    directories: dict[str, str] = {}
    for name in names:
        part = PARTS.get(name.lower())
        if part in directories:
            raise InputError(
                f"{root} has both '{directories[part]}' and '{name}'; expected one of them, as both are the part"
                f" {part}. Merge or rename one."
            )
        if part is not None:
            directories[part] = name
    return directories


def _read_part(root: pathlib.Path, part: str, class_names: list[str], ignored: _Ignored) -> Rows | None:
    """Returns the pictures of some class directories in a part's directory; None if there is no directory."""
    if not class_names:
        return None
    rows = Rows()
    ignored.add_outside(root, part)
    for name in class_names:
        if not _is_text(name):
            raise InputError(
                f"{root / part} has a directory whose name is no UTF-8 text ({os.fsencode(name)!r}); rename it."
            )
        relative = os.path.join(part, name)
        paths = list(_pictures(root, relative, ignored))
        if not paths:
            raise InputError(
                f"{root / relative} has no pictures (JPEG, PNG, GIF, BMP or WebP); every class needs at least one. Fill"
                " the directory, or remove it."
            )
        rows.paths += sorted(paths)
        rows.class_names += [name] * len(paths)
    return rows


def _pictures(root: pathlib.Path, relative: str, ignored: _Ignored) -> Iterator[bytes]:
    """Yields the paths, relative to `root`, of the pictures in a directory and all below it.

    What cannot be listed below it is passed over; the directory itself must be listable.
    """
    visited, waiting = set(), [relative]
    while waiting:
        directory = waiting.pop()
        try:
            entries = _listed(root / directory)
        except InputError:
            if directory == relative:
                raise
            ignored.add_unreadable(directory)
            continue
        with entries:
            status = os.stat(root / directory)
            if (status.st_dev, status.st_ino) in visited:  # a link to a directory above
                continue
            visited.add((status.st_dev, status.st_ino))
            for entry in entries:
                path = os.path.join(directory, entry.name)
                is_directory = _is_directory(entry)
                if entry.name.startswith("."):
                    ignored.add(entry.name)
                elif is_directory is None:
                    ignored.add_unreadable(path)
                elif is_directory:
                    waiting += [path] if entry.name not in _NO_CLASSES else []
                elif _is_picture(entry):
                    yield os.fsencode(path)
                else:
                    ignored.add(entry.name)


def _is_picture(entry: os.DirEntry) -> bool:
    """Tells a picture by its ending; only a file whose ending says nothing is opened."""
    if _ends_as_picture(entry.name):
        return True
    if entry.name.lower().endswith(_OTHER_ENDINGS):
        return False
    try:
        if not entry.is_file():  # whoever opens a pipe waits for ever
            return False
        with open(entry.path, "rb", buffering=0) as file:
            return picture_checks.picture_format(file.read(_FORMAT_BYTES)) is not None
    except OSError:
        return False


def _ends_as_picture(name: str) -> bool:
    return name.lower().endswith(PICTURE_ENDINGS)


def _is_directory(entry: os.DirEntry) -> bool | None:
    """None where it cannot be told, as of a link to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return None


def _directories(folder: pathlib.Path) -> list[str]:
    with _listed(folder) as entries:
        names = (entry.name for entry in entries if _is_directory(entry))
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
        loose = sum(_ends_as_picture(entry.name) for entry in entries)
    what = f"has {loose} pictures and no class directories" if loose else "has no class directories"
    return (
        f"{root} {what}; expected {root}/<class>/ (or {root}/train/<class>/) with pictures. Sort them into one"
        " directory per class, or name them in a table for --labels_csv, with the columns path,label."
    )
