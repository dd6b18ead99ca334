"""Clothing1M (T. Xiao et al., CVPR 2015): a million pictures of clothes with labels from shops' texts, read in place.

The authors give the pictures as `images/<digit>/<two digits>/<name>.jpg` and, in annotation.zip, lists of keys and
files that map a key to its label. Many codes read lists that users made from them instead, one "path label" per line.
Both are read here; lists may lie beside `images` or in `annotations`, and the folders 0 to 9 also directly in the
dataset's folder, as DivideMix' code wants them.

Training takes the noisy list only. The three clean lists are for selection, the test and the meta set.
"""

import pathlib
import re

import numpy as np

from famus_tf.config import DataConfig
from famus_tf.data import dataset_folder, list_files
from famus_tf.data.examples import Dataset, Preprocessing
from famus_tf.data.list_files import ListFile
from famus_tf.errors import InputError

CLASS_NAMES = (
    "T-Shirt",
    "Shirt",
    "Knitwear",
    "Chiffon",
    "Sweater",
    "Hoodie",
    "Windbreaker",
    "Jacket",
    "Downcoat",
    "Suit",
    "Shawl",
    "Dress",
    "Vest",
    "Underwear",
)
NUM_CLASSES = len(CLASS_NAMES)
IMAGE_SIZE = 224
SHORTER_SIDE = 256  # for IMAGE_SIZE; other sizes in proportion
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as its pretrained networks want them

TRAIN, VALIDATION, TEST, META = "train", "validation", "test", "meta"
OFFICIAL_LISTS = {
    TRAIN: "noisy_train_key_list.txt",
    VALIDATION: "clean_val_key_list.txt",
    TEST: "clean_test_key_list.txt",
    META: "clean_train_key_list.txt",
}
NOISY_LABELS, CLEAN_LABELS = "noisy_label_kv.txt", "clean_label_kv.txt"
REMADE_LISTS = {TRAIN: "noisy_train.txt", VALIDATION: "clean_val.txt", TEST: "clean_test.txt", META: "clean_train.txt"}
CATEGORY_NAMES = "category_names_eng.txt"

_PUBLISHED_COUNTS = {TRAIN: 1_000_000, VALIDATION: 14_313, TEST: 10_526, META: 47_570}
_HOLDS = "the lists and images/0 to images/9"
_REMEDY = "Get annotation.zip again from the dataset's authors and unpack it there."
_CONTENTS = {
    "noisy_train_key_list.txt": "one key per line, 1,000,000",
    "noisy_label_kv.txt": "'<key> <label>' per line, 1,037,497",
    "clean_label_kv.txt": "'<key> <label>' per line, 72,409",
    "clean_train_key_list.txt": "one key per line, 47,570",
    "clean_val_key_list.txt": "one key per line, 14,313",
    "clean_test_key_list.txt": "one key per line, 10,526",
    "noisy_train.txt": "'<path> <label>' per line, 1,000,000",
    "clean_train.txt": "'<path> <label>' per line, 47,570",
    "clean_val.txt": "'<path> <label>' per line, 14,313",
    "clean_test.txt": "'<path> <label>' per line, 10,526",
}


def expected_counts(config: DataConfig) -> dict[str, int]:
    """Returns how many pictures each part has as published: "train", "validation", "test" and, if wanted, "meta"."""
    return {part: _PUBLISHED_COUNTS[part] for part in _parts(config)}


def load(config: DataConfig) -> Dataset:
    """Returns Clothing1M: a million noisy training examples, the authors' clean validation and test sets.

    Differs from DivideMix' code, which normalises by (0.6959, 0.6537, 0.6371) and (0.3113, 0.3192, 0.3214): the mean
    and deviation here are ImageNet's, which the pretrained network was trained with.

    Args:
        config: `data_dir`, the dataset's folder; `image_size`, the side of the crop, 0 for 224. The clean training list
            becomes `Dataset.meta` if `meta_set` is "clean", or "train" with `num_meta` above 0, which can only mean it.

    Returns:
        The dataset. Ids are the pictures' keys without "images/". The labels of `train` are the noisy ones and its true
        labels are unknown; those of `validation`, `test` and `meta` are clean.

    Raises:
        InputError: If a file is missing, a line of it is wrong, a key has no label, lists overlap, the classes' names
            are others or in another order, or the pictures' folders are not there.
    """
    root = dataset_folder.locate(
        config.data_dir,
        flag="--data_dir",
        dataset="Clothing1M",
        holds=_HOLDS,
        is_it=lambda folder: _list_folder(folder) is not None and _has_pictures(folder),
    )
    lists = _read_lists(_list_folder(root) or root, _parts(config))
    _check_lists(lists)
    folder = _picture_folder(root, lists[TRAIN])
    size = config.image_size or IMAGE_SIZE
    tables = {
        part: list_files.picture_table(rows, folder, size, is_clean=part != TRAIN) for part, rows in lists.items()
    }
    return Dataset(
        name="clothing1m",
        train=tables[TRAIN],
        test=tables[TEST],
        validation=tables[VALIDATION],
        meta=tables.get(META),
        class_names=_class_names(root),
        notes=dataset_folder.notes_on_counts(
            "clothing1m", {part: len(rows) for part, rows in lists.items()}, _PUBLISHED_COUNTS
        ),
        preprocessing=Preprocessing(
            mean=MEAN, std=STD, flip=True, shorter_side=round(size * SHORTER_SIDE / IMAGE_SIZE), crop="random"
        ),
    )


def _parts(config: DataConfig) -> tuple[str, ...]:
    wants_meta = config.meta_set == "clean" or (config.meta_set == "train" and config.num_meta > 0)
    return (TRAIN, VALIDATION, TEST, META) if wants_meta else (TRAIN, VALIDATION, TEST)


def _list_places(root: pathlib.Path) -> tuple[pathlib.Path, ...]:
    return (root, root / "annotations", root / "annotation")


def _list_folder(root: pathlib.Path) -> pathlib.Path | None:
    """Returns the folder with most of the list files, or None if there is none."""
    names = (*OFFICIAL_LISTS.values(), NOISY_LABELS, CLEAN_LABELS, *REMADE_LISTS.values())
    counts = {folder: sum((folder / name).is_file() for name in names) for folder in _list_places(root)}
    best = max(counts, key=counts.get)
    return best if counts[best] else None


def _has_pictures(root: pathlib.Path) -> bool:
    return (root / "images").is_dir() or any((root / str(digit)).is_dir() for digit in range(10))


def _read_lists(folder: pathlib.Path, parts: tuple[str, ...]) -> dict[str, ListFile]:
    official = [OFFICIAL_LISTS[part] for part in parts] + [NOISY_LABELS, CLEAN_LABELS]
    remade = [REMADE_LISTS[part] for part in parts]
    # Whichever lists are nearer to being complete are the ones that the user has.
    names = min(official, remade, key=lambda names: np.mean([not (folder / name).is_file() for name in names]))
    dataset_folder.require_files(
        [folder],
        {name: _CONTENTS[name] for name in names},
        dataset="Clothing1M",
        remedy="The authors' annotation.zip holds noisy_train_key_list.txt and so on; unpack it there.",
    )
    if names is official:
        return _read_official(folder, parts)
    return {part: _read(folder / REMADE_LISTS[part], with_labels=True) for part in parts}


def _read_official(folder: pathlib.Path, parts: tuple[str, ...]) -> dict[str, ListFile]:
    keys = {part: _read(folder / OFFICIAL_LISTS[part], with_labels=False) for part in parts}
    lists = {}
    for name in (NOISY_LABELS, CLEAN_LABELS):
        labels = _read(folder / name, with_labels=True)
        for part in parts:
            if (part == TRAIN) == (name == NOISY_LABELS):
                found = list_files.look_up(keys[part], labels, _REMEDY)
                lists[part] = ListFile(keys[part].file, keys[part].paths, found, keys[part].line_numbers)
    return lists


def _read(file: pathlib.Path, *, with_labels: bool) -> ListFile:
    return list_files.read(
        file, with_labels=with_labels, num_classes=NUM_CLASSES, without_prefix="images/", remedy=_REMEDY
    )


def _check_lists(lists: dict[str, ListFile]) -> None:
    remedy = (
        "The published lists share none. A training list made from noisy_label_kv.txt must leave out the 37,497"
        " pictures that have clean labels too."
    )
    for part, rows in lists.items():
        list_files.check_unique(rows)
        for other in (TRAIN, META, VALIDATION):
            if other == part:
                break
            if other in lists:
                list_files.check_disjoint(rows, lists[other], remedy)


def _picture_folder(root: pathlib.Path, train: ListFile) -> pathlib.Path:
    """Returns the folder that keys without "images/" begin at."""
    starts = np.unique(train.paths.astype("S2"))  # b"0/" to b"9/"
    folders = sorted(start[:1].decode() for start in starts.tolist() if start[1:] == b"/")
    places = (root / "images", root)
    for place in places:
        if place.is_dir() and (not folders or any((place / name).is_dir() for name in folders)):
            return place
    packed = sorted(file.name for place in places if place.is_dir() for file in place.glob("*.tar*"))
    remedy = f"Unpack {', '.join(packed)}." if packed else "Unpack the archives of pictures there, or link to them."
    raise InputError(
        f"Clothing1M's pictures are missing: neither {places[0]} nor {root} holds a folder {_either(folders)}, which"
        f" {train.file} names; expected {places[0] / folders[0]} and so on. {remedy}"
    )


def _either(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _class_names(root: pathlib.Path) -> tuple[str, ...]:
    """Returns the names as the authors' file spells them, or the known ones without it."""
    for folder in _list_places(root):
        file = folder / CATEGORY_NAMES
        if file.is_file():
            return _read_class_names(file)
    return CLASS_NAMES


def _read_class_names(file: pathlib.Path) -> tuple[str, ...]:
    lines = list_files.read_lines(file, _REMEDY)
    names = {number: line for number, line in enumerate(lines, start=1) if line}
    if len(names) != NUM_CLASSES:
        raise InputError(f"{file} names {len(names)} classes; expected {NUM_CLASSES}. {_REMEDY}")
    # In another order every label would be shown under another class' name. Names that are not known may be spellings.
    known = {_bare(name): label for label, name in enumerate(CLASS_NAMES)}
    for label, (number, name) in enumerate(names.items()):
        if known.get(_bare(name), label) != label:
            raise InputError(
                f"{file}, line {number}: found the class '{name}'; expected '{CLASS_NAMES[label]}', which label"
                f" {label} means. {_REMEDY}"
            )
    return tuple(names.values())


def _bare(name: str) -> str:
    """Returns a name without what spellings of it differ in: case, spaces and hyphens."""
    return re.sub(r"[\s-]", "", name).casefold()
