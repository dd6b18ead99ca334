"""Pictures that cannot be used: told before training, refused where they are many, listed in the run folder."""

import collections
import csv
import dataclasses
import os
from collections.abc import Iterable

from famus_tf import whole_files
from famus_tf.data import picture_checks
from famus_tf.data.examples import ExampleTable, id_text
from famus_tf.data.pictures import AbstractPictures
from famus_tf.errors import InputError

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
        if not bad or len(bad) / len(table) <= max_bad_fraction:
            continue
        worst, count = worst_folder(bad)
        raise InputError(
            f"{len(bad):,} of the {len(table):,} {part} pictures cannot be used, which is more than"
            f" --max_bad_fraction={max_bad_fraction:g} allows; {count:,} of them are in {worst}, for example"
            f" {bad[0].picture} ({bad[0].reason}). Get them again, or raise --max_bad_fraction;"
            " python -m tools.check_data lists them all."
        )


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
