"""Pictures that cannot be used: told before training, refused where they are many, listed in the run folder."""

import collections
import csv
import dataclasses
import os
from collections.abc import Iterable

import keras
import numpy as np

from famus_tf import whole_files
from famus_tf.data import picture_checks
from famus_tf.data.examples import ExampleTable, id_text
from famus_tf.data.pictures import AbstractPictures
from famus_tf.errors import InputError

# How many pictures of a part are read at their beginning before training, and up to how many are decoded; seconds.
MOST_OPENED, MOST_DECODED = 5000, 2000
COLUMNS = ("part", "row", "id", "picture", "reason")


@dataclasses.dataclass(frozen=True)
class BadPicture:
    """One picture that cannot be used.

    Attributes:
        part: "train", "meta", "validation", "test" or the name of a further test set.
        row: In the part's table.
        example_id: Of the example.
        picture: Where it lies; bytes of a name that are no UTF-8 are replaced, and so they are in the id.
        reason: In words for a person.
    """

    part: str
    row: int
    example_id: str
    picture: str
    reason: str


def find_cheap(tables: dict[str, ExampleTable]) -> list[BadPicture]:
    """Finds pictures that are missing or empty, without opening one.

    Args:
        tables: Part -> its examples; tables of arrays have no pictures to check.
    """
    return [
        described(part, table, row, reason)
        for part, table in with_pictures(tables).items()
        for row, reason in picture_checks.cheap_bad_rows(table.images)
    ]


def find_at_start(tables: dict[str, ExampleTable]) -> list[BadPicture]:
    """Finds what can be found in seconds, before training.

    All pictures are looked up; of each part up to `MOST_OPENED`, evenly spread, are read at their beginning; and small
    parts other than the training set, which no later step speaks of, are decoded.

    Args:
        tables: Part -> its examples.

    Returns:
        By part and row.
    """
    lists = [find_cheap(tables)]
    for part, table in with_pictures(tables).items():
        decode = part != "train" and len(table) <= MOST_DECODED
        reasons = picture_checks.find_bad(table.images, rows_opened(len(table)), decode=decode)
        lists.append([described(part, table, row, reason) for row, reason in reasons])
    return merged(*lists)


def rows_opened(num_examples: int) -> np.ndarray:
    """Returns the rows of a part that `find_at_start` opens, ascending: all, or `MOST_OPENED` evenly spread."""
    count = min(num_examples, MOST_OPENED)
    return np.arange(count, dtype=np.int64) * num_examples // max(count, 1)


def with_pictures(tables: dict[str, ExampleTable]) -> dict[str, ExampleTable]:
    """Returns the parts whose pictures lie on disk."""
    return {part: table for part, table in tables.items() if isinstance(table.images, AbstractPictures)}


def described(part: str, table: ExampleTable, row: int, reason: str) -> BadPicture:
    """Returns the record of one bad picture.

    Args:
        part: See `BadPicture`.
        table: The part's examples.
        row: Which of them.
        reason: In words for a person.
    """
    picture = id_text(os.fsencode(table.images.source_name(int(row))))
    return BadPicture(part, int(row), id_text(table.ids[row]), picture, reason)


def refuse_too_many(found: list[BadPicture], tables: dict[str, ExampleTable], max_bad_fraction: float) -> None:
    """Refuses a set of which too much cannot be used.

    Args:
        found: Its bad pictures.
        tables: Part -> its examples.
        max_bad_fraction: The share of a part, in [0, 1], that may be bad.

    Raises:
        InputError: If a part has more; the message names the part's worst folder.
    """
    for part, table in with_pictures(tables).items():
        bad = [picture for picture in found if picture.part == part]
        opened = set(rows_opened(len(table)).tolist())
        bad_opened = [picture for picture in bad if picture.row in opened]
        # Three standard errors, so that a set with as many as are allowed is not refused for an unlucky choice.
        most_opened = (
            max_bad_fraction + 3.0 * (max_bad_fraction * (1.0 - max_bad_fraction) / max(len(opened), 1)) ** 0.5
        )
        if bad and len(bad) / len(table) > max_bad_fraction:
            raise InputError(too_many(bad, f"the {len(table):,} {part} pictures", max_bad_fraction))
        if len(opened) < len(table) and len(bad_opened) / len(opened) > most_opened:
            raise InputError(too_many(bad_opened, f"{len(opened):,} {part} pictures looked at", max_bad_fraction))


def too_many(bad: list[BadPicture], of_which: str, max_bad_fraction: float) -> str:
    """Returns the sentence of a refusal, with the worst folder.

    Args:
        bad: At least one.
        of_which: Of how many pictures they are, in words.
        max_bad_fraction: The share, in [0, 1], that may be bad.
    """
    worst, count = worst_folder(bad)
    return (
        f"{len(bad):,} of {of_which} cannot be used, which is more than"
        f" --max_bad_fraction={max_bad_fraction:g} allows; {count:,} of them are in {worst}, for example"
        f" {bad[0].picture} ({bad[0].reason}). Get them again, or raise --max_bad_fraction;"
        " python -m tools.check_data lists them all."
    )


class Limit(keras.callbacks.Callback):
    """Ends training as soon as more training pictures could not be decoded than are allowed."""

    def __init__(self, table: ExampleTable, trainer, max_bad_fraction: float):
        """Takes what is watched.

        Args:
            table: The training examples.
            trainer: The `Trainer`.
            max_bad_fraction: The share of the table, in [0, 1], that may be bad.
        """
        super().__init__()
        self._table = table
        self._trainer = trainer
        self._max_bad_fraction = max_bad_fraction

    def on_train_batch_end(self, batch, logs=None):
        """Looks at how many there are so far.

        Raises:
            InputError: If they are too many.
        """
        rows = self._trainer.bad_rows
        if len(rows) / len(self._table) > self._max_bad_fraction:
            bad = met_in_training(self._table, rows)
            raise InputError(too_many(bad, f"the {len(self._table):,} train pictures", self._max_bad_fraction))


def worst_folder(found: list[BadPicture]) -> tuple[str, int]:
    """Returns the folder with the most bad pictures (the first of several such) and how many they are.

    Args:
        found: At least one.
    """
    folders = collections.Counter(os.path.dirname(picture.picture) for picture in found)
    return folders.most_common(1)[0]


def met_in_training(table: ExampleTable, rows: Iterable[int]) -> list[BadPicture]:
    """Describes the training pictures that could not be decoded when their turn came.

    Args:
        table: The training examples.
        rows: Which of them, each in [0, N), as in `Trainer.bad_rows`.

    Returns:
        By row, with the reason that is seen now. Tables of arrays have none.
    """
    rows = sorted(rows)
    if not rows or not isinstance(table.images, AbstractPictures):
        return []
    reasons = dict(picture_checks.find_bad(table.images, rows, decode=True))
    return [described("train", table, row, reasons.get(row, "could not be read at the time")) for row in rows]


def counts_by_part(found: list[BadPicture]) -> dict[str, int]:
    """Returns {part: how many of its pictures are bad}, parts without any left out."""
    return dict(collections.Counter(picture.part for picture in found))


def merged(*lists: list[BadPicture]) -> list[BadPicture]:
    """Returns every bad picture once, by part and row; what an earlier list says of it counts."""
    by_place: dict[tuple[str, int], BadPicture] = {}
    for found in lists:
        for picture in found:
            by_place.setdefault((picture.part, picture.row), picture)
    return [by_place[place] for place in sorted(by_place)]


def save(path, found: list[BadPicture]) -> None:
    """Writes the list as CSV; a reader finds the whole file or none.

    Args:
        path: The file; its folder must exist.
        found: What goes into it.

    Raises:
        OSError: If it cannot be written.
    """
    with whole_files.writing(path, newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(vars(picture).values() for picture in found)
