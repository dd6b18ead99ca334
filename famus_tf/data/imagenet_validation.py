"""Pictures of some classes from ILSVRC12's validation set, however they were unpacked.

Four ways are in use and are read in place: a folder per synset (`n01440764/*.JPEG`), a folder per label number (`0` to
`49`, DivideMix' code), all pictures in one folder as the archive unpacks (`ILSVRC2012_val_00000001.JPEG` ...), and the
TFRecords of tensorflow-datasets (`imagenet2012/5.1.0`). Pictures find their labels by synset, never by the order of
folders or files; only folders that the user has numbered are taken by number.
"""

import importlib.util
import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from famus_tf.data import dataset_folder, list_files, record_features
from famus_tf.data.examples import ExampleTable
from famus_tf.data.pictures import AbstractPictures, PictureFiles, PictureRecords, index_records
from famus_tf.errors import InputError

PICTURES_PER_CLASS = 50
_FLAG = "--imagenet_dir"
_DATASET = "ILSVRC12 validation"
_HOLDS = (
    "a folder per synset (n01440764 ...) or label (0 ...), ILSVRC2012_val_*.JPEG, or imagenet2012-validation.tfrecord-*"
)
_EXTENSIONS = (".jpeg", ".jpg", ".png")
_FLAT_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.(?:JPEG|jpeg|jpg|JPG|png)")
_TRAINING_NAME = re.compile(r"n\d{8}_\d+\.")
_RECORD_FILES = "imagenet2012-validation.tfrecord-*-of-*"
_RECORD_LABELS = "label.labels.txt"
_NUM_RECORD_LABELS = 1000
# Which synset each of the 50,000 pictures shows, in their order, as ILSVRC12 publishes it.
_TRUTH = ("datasets", "imagenet2012", "validation_labels.txt")


def load(folder: str | os.PathLike, synsets: Sequence[str], size: tuple[int, int]) -> ExampleTable:
    """Returns the validation pictures of some synsets.

    Args:
        folder: Where they lie, in one of the ways that the module lists.
        synsets: K WordNet ids, for example "n01440764"; the position of a synset is its label here.
        size: (H, W) in pixels that the network sees.

    Returns:
        The pictures in the order of their labels (TFRecords: in the order of their names), ids their paths or names.

    Raises:
        InputError: If the folder is in none of these ways, holds training pictures, or lacks pictures of a synset; or
            if a TFRecord or the list of the records' labels is damaged.
    """
    root = dataset_folder.locate(
        folder, flag=_FLAG, dataset=_DATASET, holds=_HOLDS, is_it=lambda place: _way(place, synsets) is not None
    )
    way = _way(root, synsets)
    if way == "records":
        return _load_records(_record_folder(root), synsets, size)
    if way == "synsets":
        paths, labels = _list_folders(root, dict(zip(synsets, range(len(synsets)), strict=True)))
    elif way == "numbers":
        paths, labels = _list_folders(root, _numbered_folders(root, len(synsets)))
    elif way == "flat":
        paths, labels = _list_flat(root, synsets)
    else:
        raise InputError(
            f"{_FLAG}={folder} holds no ILSVRC12 validation pictures that could be found; expected {_HOLDS}. Point"
            " the flag at the folder of the pictures, or leave it out to test on WebVision alone."
        )
    _refuse_training_pictures(root, paths)
    ids = np.array([os.fsencode(path) for path in paths], dtype="S")
    return _table(ids, PictureFiles(root, ids, size), labels, synsets, root)


def _way(root: pathlib.Path, synsets: Sequence[str]) -> str | None:
    if _record_folder(root) is not None:
        return "records"
    if any((root / synset).is_dir() for synset in synsets):
        return "synsets"
    if _numbered_folders(root, len(synsets)):
        return "numbers"
    with os.scandir(root) as entries:
        return "flat" if any(_FLAT_NAME.fullmatch(entry.name) for entry in entries) else None


def _record_folder(root: pathlib.Path) -> pathlib.Path | None:
    """Returns the newest prepared version in a tensorflow-datasets folder, a dataset's folder or a version's."""
    for pattern in ("", "[0-9]*.[0-9]*.[0-9]*/", "imagenet2012/[0-9]*.[0-9]*.[0-9]*/"):
        folders = {file.parent for file in root.glob(pattern + _RECORD_FILES)}
        if folders:
            return max(folders, key=lambda folder: [int(part) for part in re.findall(r"\d+", folder.name)])
    return None


def _numbered_folders(root: pathlib.Path, num_classes: int) -> dict[str, int]:
    """Returns folder name -> label of the folders called 0 to K-1, with or without leading zeros."""
    with os.scandir(root) as entries:
        names = [entry.name for entry in entries if re.fullmatch(r"[0-9]{1,4}", entry.name) and entry.is_dir()]
    return {name: int(name) for name in sorted(names, key=int) if int(name) < num_classes}


def _list_folders(root: pathlib.Path, labels_by_folder: dict[str, int]) -> tuple[list[str], np.ndarray]:
    folders = {folder: label for folder, label in labels_by_folder.items() if (root / folder).is_dir()}
    paths, labels = [], []
    for folder, label in folders.items():
        names = sorted(name for name in os.listdir(root / folder) if _is_picture_name(name))
        paths += [f"{folder}/{name}" for name in names]
        labels += [label] * len(names)
    if not paths:
        first = next(iter(folders))
        raise InputError(
            f"{root} has the folders of {len(folders)} classes, and none holds a picture; expected"
            f" {root / first}/ILSVRC2012_val_*.JPEG and so on, {PICTURES_PER_CLASS} in each folder and not in folders"
            " below it. Put the validation pictures there."
        )
    return paths, np.array(labels, dtype=np.int32)


def _is_picture_name(name: str) -> bool:
    # macOS leaves a hidden "._NAME.JPEG" beside each file that it copies.
    return name.lower().endswith(_EXTENSIONS) and not name.startswith(".")


def _list_flat(root: pathlib.Path, synsets: Sequence[str]) -> tuple[list[str], np.ndarray]:
    labels_by_synset = {synset: label for label, synset in enumerate(synsets)}
    truth = [labels_by_synset.get(synset, -1) for synset in _validation_synsets()]
    found = []
    for name in os.listdir(root):
        match = _FLAT_NAME.fullmatch(name)
        if match and 1 <= int(match[1]) <= len(truth) and truth[int(match[1]) - 1] >= 0:
            found.append((truth[int(match[1]) - 1], name))
    found.sort()
    return [name for _, name in found], np.array([label for label, _ in found], dtype=np.int32)


def _validation_synsets() -> list[str]:
    """Returns the synset of each of the 50,000 validation pictures, from the list in tensorflow-datasets."""
    package = importlib.util.find_spec("tensorflow_datasets")  # importing it takes seconds
    file = pathlib.Path(package.submodule_search_locations[0]).joinpath(*_TRUTH)
    try:
        return file.read_text(encoding="utf-8").split()
    except OSError as error:
        raise InputError(
            f"The installed tensorflow-datasets has no {file}, which says what each ILSVRC2012_val_*.JPEG shows."
            " Install tensorflow-datasets 4.9.10, or sort the pictures into folders by synset."
        ) from error


def _refuse_training_pictures(root: pathlib.Path, paths: list[str]) -> None:
    for path in paths:
        if _TRAINING_NAME.match(os.path.basename(path)):
            raise InputError(
                f"{_FLAG}={root} holds {path}, a picture of ILSVRC12's training set; expected the validation set, whose"
                f" pictures are called ILSVRC2012_val_*.JPEG. Point the flag at the folder that was made of"
                " ILSVRC2012_img_val.tar."
            )


def _load_records(folder: pathlib.Path, synsets: Sequence[str], size: tuple[int, int]) -> ExampleTable:
    files = record_features.find_shards(folder, "imagenet2012-validation")
    names = _read_record_labels(folder / _RECORD_LABELS)
    index = index_records(files)
    features = record_features.read_features(files, index, ("label", "file_name"))
    labels_by_synset = {synset: label for label, synset in enumerate(synsets)}
    rows, labels, ids = [], [], []
    for row, (label, name) in enumerate(zip(features["label"], features["file_name"], strict=True)):
        if not isinstance(label, int) or not isinstance(name, bytes) or not 0 <= label < len(names):
            raise InputError(
                f"{files[index.file_numbers[row]]}, record {index.record_numbers[row]}: expected a label from 0 to"
                f" {len(names) - 1} and a file_name, found {label!r} and {name!r}. Prepare imagenet2012 again."
            )
        if names[label] in labels_by_synset:
            rows.append(row)
            labels.append(labels_by_synset[names[label]])
            ids.append(name)
    order = np.argsort(np.array(ids, dtype="S"), kind="stable")
    rows = np.array(rows, dtype=np.int64)[order]
    pictures = PictureRecords(files, index.take(rows), "image", size)
    return _table(np.array(ids, dtype="S")[order], pictures, np.array(labels, dtype=np.int32)[order], synsets, folder)


def _read_record_labels(file: pathlib.Path) -> list[str]:
    """Returns the synset that each label of the records means."""
    remedy = "Copy it from where tensorflow-datasets prepared imagenet2012."
    if not file.is_file():
        raise InputError(f"{file} is missing, which says which synset each label of the TFRecords is. {remedy}")
    names = " ".join(list_files.read_lines(file, remedy)).split()
    if len(names) != _NUM_RECORD_LABELS:
        what = f"names {len(names)} synsets" if names else "is empty"
        raise InputError(
            f"{file} {what}; expected {_NUM_RECORD_LABELS:,} synsets, line k for label k of the TFRecords. {remedy}"
        )
    return names


def _table(
    ids: np.ndarray, images: AbstractPictures, labels: np.ndarray, synsets: Sequence[str], folder: pathlib.Path
) -> ExampleTable:
    counts = np.bincount(labels, minlength=len(synsets))
    if not counts.all():
        absent = [f"{synsets[label]} (label {label})" for label in np.flatnonzero(counts == 0)]
        more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
        raise InputError(
            f"{folder} holds ILSVRC12 validation pictures of {len(synsets) - len(absent)} of {len(synsets)} synsets;"
            f" none of {', '.join(absent[:5])}{more}. Expected {PICTURES_PER_CLASS} of each; add the missing ones."
        )
    return ExampleTable(ids=ids, images=images, given_labels=labels, true_labels=labels)
