"""Files that a reader sees whole: the old one or the new one, never a part, whatever stops the writer."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import IO


@contextlib.contextmanager
def writing(path: str | os.PathLike, *, newline: str | None = None) -> Iterator[IO[str]]:
    """Opens a text file that takes its name when it is complete and on the disk.

    Args:
        path: Where it will be.
        newline: As for `open`; "" for csv writers.

    Yields:
        The open file, UTF-8. An error inside leaves nothing behind and the old file as it was.

    Raises:
        OSError: If it cannot be written.
    """
    path = pathlib.Path(path)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        pathlib.Path(name).unlink(missing_ok=True)
        raise
