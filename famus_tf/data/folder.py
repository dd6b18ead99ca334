"""A user's own pictures: one directory per class, or a table of paths and labels.

Directories: `DIR/<class>/*.jpg`, or `DIR/train/<class>/*.jpg`. Beside either there may be `DIR/meta` (a few pictures
of each class whose labels are certain), `DIR/val` and `DIR/test`, each with the same class directories. The pictures of
a class may lie in further directories. Parts may also be called training, valid, validation and testing, in any case of
letters.

A table: `--labels_csv=FILE` with the columns `path,label` and, if wanted, `split` (a part's name; empty is train).
Paths are relative to --data_dir, or to the table's own directory where --data_dir is not set. A few files may be
missing: the check of bad pictures counts them.

Labels of such data are not known to be true, so the meta set can only come from pictures that the user vouches for.
"""

import pathlib
import re

import numpy as np

from famus_tf.config import DataConfig
from famus_tf.data import folder_listing, folder_table, splitting
from famus_tf.data.examples import Dataset, ExampleTable, Preprocessing
from famus_tf.data.pictures import PictureFiles
from famus_tf.errors import InputError

IMAGE_SIZE = 96  # pixels; small, so that a first run on a CPU takes minutes
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
_RESIZED_TO_CUT = 256 / 224  # shorter side to window, as is usual on ImageNet
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
_NUM_CLASSES_SHOWN = 10
_TEST_SHARE = 0.1
_TEST_SEED = 0  # part of the dataset's definition: the test set is the same in every run


def load(config: DataConfig) -> Dataset:
    """Returns the pictures of a folder, which stay on disk until a batch asks for them.

    Without a test part a tenth of each class's training pictures, at least one, becomes the test set; which ones
    follows from their paths alone, so all runs are tested on the same. A note says so.

    Args:
        config: `data_dir`, the folder, and `labels_csv`, see above; one of the two is needed. `image_size`, the side of
            the network's square input in pixels; 0 for 96. `num_meta` is looked at to refuse early what cannot be.

    Returns:
        The dataset. Class names are the directories' names (or the table's labels), sorted, as numbers where all are
        whole numbers; ids are the paths, as bytes. True labels are unknown, except those of `meta`. Pictures are
        resized so that the shorter side is 8/7 of the input's, and cut: at random and mirrored for training, in the
        middle for tests.

    Raises:
        InputError: If the folder or table is missing, cannot be read, or has no pictures, one class, a class without
            pictures, also in `meta` if there is one, or, in another part than train, with a name of its own; if the
            table's lines are wrong; or if a meta set is asked for and there are no pictures for it.
    """
    listing = _list(config)
    class_names = _class_names(listing)
    tables = {part: _table(listing, part, class_names, config.image_size or IMAGE_SIZE) for part in listing.parts}
    notes = list(listing.notes)
    if "meta" in tables:
        _require_every_class_in_meta(tables["meta"], class_names, listing)
    if "meta" not in tables and config.meta_set != "given":
        how = (
            f"put a few pictures of each class whose labels are certain into {listing.place_of('meta')}, or train"
            " without: --method=ce --num_meta=0"
        )
        if config.num_meta:
            raise InputError(
                f"--num_meta={config.num_meta} asks for clean pictures, and {listing.where} has none that are known to"
                f" be: {how}."
            )
        notes.append(f"There is no meta set; for methods that learn from one, {how}.")
    if "test" not in tables:
        tables["train"], tables["test"] = _split_off_test(tables["train"], class_names, listing)
        notes.append(
            f"{listing.where} has no test part: {len(tables['test'])} of"
            f" {len(tables['train']) + len(tables['test'])} training pictures are set aside to test on, with the labels"
            " they have."
        )
    size = config.image_size or IMAGE_SIZE
    return Dataset(
        name="folder",
        train=tables["train"],
        test=tables["test"],
        validation=tables.get("val"),
        meta=tables.get("meta"),
        class_names=class_names,
        preprocessing=Preprocessing(
            mean=MEAN, std=STD, flip=True, shorter_side=round(size * _RESIZED_TO_CUT), crop="random"
        ),
        notes=tuple(notes),
    )


def _list(config: DataConfig) -> folder_listing.Listing:
    root = pathlib.Path(config.data_dir).expanduser() if config.data_dir else None
    if root is not None and not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise InputError(
            f"--data_dir={config.data_dir} {what}; expected a folder of pictures, one directory per class."
        )
    if config.labels_csv:
        return folder_table.read_table(pathlib.Path(config.labels_csv).expanduser(), root)
    if root is None:
        raise InputError(
            "--dataset=folder needs --data_dir=DIR, with one directory of pictures per class, or --labels_csv=FILE, a"
            " table with the columns path,label."
        )
    return folder_listing.read_directories(root)


def _class_names(listing: folder_listing.Listing) -> tuple[str, ...]:
    """Returns the classes to train on, in the order of their labels."""
    names = set(listing.parts["train"].class_names)
    if len(names) < 2:
        fault = f"{listing.where} has one class, '{min(names)}'; expected two or more."
        below = pathlib.Path(listing.folder, min(names))
        if not listing.table and "train" not in listing.directories and folder_listing.holds_a_dataset(below):
            raise InputError(
                f"{fault} It seems a level too high, as {below} holds parts or classes of its own: set"
                f" --data_dir={below}."
            )
        raise InputError(f"{fault} {listing.how_to_have_classes}")
    if all(_WHOLE_NUMBER.fullmatch(name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _require_every_class_in_meta(
    meta: ExampleTable, class_names: tuple[str, ...], listing: folder_listing.Listing
) -> None:
    """Raises for classes without meta pictures: a balanced meta set would silently be drawn from the others alone."""
    counts = np.bincount(meta.given_labels, minlength=len(class_names))
    lacking = [class_names[label] for label in np.flatnonzero(counts == 0)]
    if not lacking:
        return
    shown = ", ".join(lacking[:_NUM_CLASSES_SHOWN]) + (", ..." if len(lacking) > _NUM_CLASSES_SHOWN else "")
    raise InputError(
        f"{listing.where} has meta pictures of {len(class_names) - len(lacking)} of {len(class_names)} classes, and"
        f" none of {shown}; expected some of each. Put a few whose labels are certain into {listing.place_of('meta')},"
        f" or remove {listing.place_of('meta', '')} and train without: --method=ce --num_meta=0."
    )


def _table(listing: folder_listing.Listing, part: str, class_names: tuple[str, ...], size: int) -> ExampleTable:
    rows = listing.parts[part]
    labels = {name: label for label, name in enumerate(class_names)}
    strangers = sorted(set(rows.class_names) - set(class_names))
    if strangers:
        raise InputError(
            f"Class '{strangers[0]}' has pictures in {listing.place_of(part, strangers[0])} and none to train on; the"
            f" classes of the training pictures are {', '.join(class_names)}. Rename it, or add training pictures of"
            " it."
        )
    paths = np.array(rows.paths, dtype=np.bytes_)
    given = np.array([labels[name] for name in rows.class_names], dtype=np.int32)
    order = np.argsort(paths)
    paths, given = paths[order], given[order]
    pictures = PictureFiles(listing.folder, paths, (size, size))
    return ExampleTable(pictures.names, pictures, given, given if part == "meta" else None)


def _split_off_test(
    train: ExampleTable, class_names: tuple[str, ...], listing: folder_listing.Listing
) -> tuple[ExampleTable, ExampleTable]:
    counts = np.bincount(train.given_labels, minlength=len(class_names))
    if counts.min() < 2:
        raise InputError(
            f"Class '{class_names[int(counts.argmin())]}' has one picture, and {listing.where} has no test part, for"
            f" which one of each class is set aside: add pictures of it, or put pictures to test on into"
            f" {listing.place_of('test')}."
        )
    quotas = np.maximum(1, (counts * _TEST_SHARE).astype(np.int64))
    rows = splitting.draw_rows(train.ids, train.given_labels, quotas, seed=_TEST_SEED, purpose="folder test set")
    return train.take(np.setdiff1d(np.arange(len(train)), rows)), train.take(rows)
