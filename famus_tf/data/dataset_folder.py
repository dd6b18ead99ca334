"""Holds what a user has put on disk against what a dataset's authors publish: folder, files, counts."""

import os
import pathlib
from collections.abc import Callable, Iterable, Mapping

from famus_tf.errors import InputError


def locate(
    folder: str | os.PathLike | None,
    *,
    flag: str,
    dataset: str,
    holds: str,
    is_it: Callable[[pathlib.Path], bool],
) -> pathlib.Path:
    """Returns the folder that a flag names, unless the dataset lies a level above or below it.

    Args:
        folder: The flag's value.
        flag: Its name, for messages, for example "--data_dir".
        dataset: What is looked for, for messages.
        holds: What the right folder holds, for messages.
        is_it: Tells the right folder.

    Returns:
        The folder, which is a directory. If neither it nor a neighbour is the right one, the caller knows best what is
        missing.

    Raises:
        InputError: If the flag is not set, names no directory, or the parent, its parent or a child is the right one.
    """
    if not folder:
        raise InputError(f"{dataset} needs {flag}, the folder that holds {holds}; got none. Set {flag}=DIR.")
    root = pathlib.Path(folder).expanduser()
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise InputError(f"{flag}={folder} {what}; expected the folder of {dataset} that holds {holds}.")
    try:
        if is_it(root):
            return root
    except OSError as error:
        raise InputError(f"{flag}={folder} cannot be listed ({error.strerror}); check its permissions.") from error
    absolute = root.absolute()
    for place, candidates in (("deep", absolute.parents[:2]), ("high", _children(root))):
        for candidate in candidates:
            if _is_it_if_readable(is_it, candidate):
                raise InputError(
                    f"{flag}={folder} is a level too {place} for {dataset}: {holds} lie in {candidate}. Set"
                    f" {flag}={candidate}."
                )
    return root


def require_files(folders: Iterable[pathlib.Path], wanted: Mapping[str, str], *, dataset: str, remedy: str) -> None:
    """Checks that files are there.

    Args:
        folders: Where each may lie.
        wanted: File name -> what the file holds.
        dataset: For the message.
        remedy: The message's last sentence.

    Raises:
        InputError: If a file is in none of the folders; the message lists every such file with what it holds.
    """
    folders = list(folders)
    missing = [name for name in wanted if not any((folder / name).is_file() for folder in folders)]
    if missing:
        files = "; ".join(f"{name} ({wanted[name]})" for name in missing)
        places = " and ".join(str(folder) for folder in folders)
        raise InputError(
            f"{dataset} lacks {len(missing)} of {len(wanted)} files, looked for in {places}: {files}. {remedy}"
        )


def notes_on_counts(dataset: str, found: Mapping[str, int], published: Mapping[str, int]) -> tuple[str, ...]:
    """Returns a sentence for each part that has another number of pictures than was published.

    Args:
        dataset: Its name.
        found: Part ("train", "test" ...) -> how many pictures there are.
        published: The same as published; parts that are not in it have no sentence.
    """
    return tuple(
        f"{dataset}: {part} has {found[part]:,} pictures here; {published[part]:,} were published."
        for part in found
        if part in published and found[part] != published[part]
    )


def _children(folder: pathlib.Path) -> list[pathlib.Path]:
    with os.scandir(folder) as entries:
        return sorted(folder / entry.name for entry in entries if entry.is_dir())


def _is_it_if_readable(is_it: Callable[[pathlib.Path], bool], folder: pathlib.Path) -> bool:
    try:
        return is_it(folder)
    except OSError:  # somebody else's folder
        return False
