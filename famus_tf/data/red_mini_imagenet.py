"""Red Mini-ImageNet of the Controlled Noisy Web Labels (L. Jiang et al., ICML 2020), read in place.

A share of mini-ImageNet's pictures is replaced by pictures that a web search found for the class and that people judged
to be wrong. The share is the dataset's name, 0.4 for `red_noise_nl_0.4`; which label would be right is not published.
FaMUS trains on 0.2, 0.4, 0.6 and 0.8 at 32 x 32 pixels and tests on the 5,000 clean validation pictures.

Three ways to have it are read: the split files with their pictures, as FaMUS' code and others arrange them; the
TFRecords of tensorflow-datasets (`controlled_noisy_web_labels/mini_imagenet_red`, 84 x 84 pixels); and the 32 x 32
TFRecords that FaMUS' authors give for their MentorMix baseline.
"""

import dataclasses
import os
import pathlib
import re

import numpy as np

from famus_tf.config import DataConfig
from famus_tf.data import dataset_folder, list_files, record_features
from famus_tf.data.examples import Dataset, ExampleTable, Preprocessing
from famus_tf.data.list_files import ListFile
from famus_tf.data.pictures import PictureFiles, PictureRecords, index_records
from famus_tf.errors import InputError

NUM_CLASSES = 100
LABEL_SETS = ("0.0", "0.05", "0.1", "0.15", "0.2", "0.3", "0.4", "0.5", "0.6", "0.8")
DEFAULT_LABEL_SET = "0.4"
MEAN, STD = (0.507, 0.487, 0.441), (0.267, 0.256, 0.276)  # CIFAR-100's, as in FaMUS' code
PADDING_BY_SIZE = {32: 4, 84: 8}  # FaMUS' code for 32; in proportion, and so assumed, for 84
IMAGE_SIZE = 32
VALIDATION_SPLIT = "clean_validation"

_TRAIN_COUNTS = dict.fromkeys(LABEL_SETS, 50_000) | {"0.3": 49_985, "0.4": 50_010, "0.5": 49_962, "0.8": 50_008}
_TEST_COUNT = 5_000
_HOLDS = "split/red_noise_nl_*, controlled_noisy_web_labels/mini_imagenet_red, or red_noise_nl_*/data (TFRecords)"
_DATASET = "Red Mini-ImageNet"
_REMEDY = "Get dataset_no_images.zip of Controlled Noisy Web Labels again and unpack it there."
_TFDS_NAME = "controlled_noisy_web_labels"


def expected_counts(config: DataConfig) -> dict[str, int]:
    """Returns how many pictures each part has as published: "train" and "test"."""
    return {"train": _TRAIN_COUNTS[_label_set(config)], "test": _TEST_COUNT}


def is_web_picture(ids: np.ndarray) -> np.ndarray:
    """Returns which ids ([N] bytes) name pictures from the web, [N] bool: those that are no name of mini-ImageNet.

    This is where labels may be wrong, and the published rate is its share. Not for the TFRecords of FaMUS' authors,
    which hold no names.
    """
    return ~np.array([re.match(rb"n\d{8}", name) is not None for name in ids.tolist()], dtype=bool)


def load(config: DataConfig) -> Dataset:
    """Returns Red Mini-ImageNet: about 50,000 training and 5,000 clean test pictures of 100 classes.

    Args:
        config: `data_dir`, the folder that holds it in one of the ways that the module lists; `label_set`, the noise
            rate in the dataset's name, one of `LABEL_SETS`, None for 0.4; `image_size`, 32 (0 means 32) or 84.

    Returns:
        The dataset. Ids are the pictures' names without ".jpg" (for the TFRecords of FaMUS' authors, split and place).
        The true labels of `train` are unknown. `meta` is those of its pictures that are not from the web, whose labels
        are mini-ImageNet's; they are in `train` too. The TFRecords of FaMUS' authors do not tell them apart, and `meta`
        is None.

    Raises:
        InputError: If the label set or size is not one of these, files or folders are missing, a line or record is
            wrong, or the pictures are too small for the size.
    """
    label_set = _label_set(config)
    size = config.image_size or IMAGE_SIZE
    if size not in PADDING_BY_SIZE:
        raise InputError(f"--image_size={size} is not a size of {_DATASET}; expected 32 or 84.")
    root = dataset_folder.locate(
        config.data_dir,
        flag="--data_dir",
        dataset=_DATASET,
        holds=_HOLDS,
        is_it=lambda folder: _reader(folder) is not None,
    )
    read = _reader(root)
    if read is None:
        raise InputError(f"--data_dir={config.data_dir} holds no {_DATASET}; expected {_HOLDS}. Point it there.")
    train, test = (read(root, split, size) for split in (f"red_noise_nl_{label_set}", VALIDATION_SPLIT))
    notes = dataset_folder.notes_on_counts(
        "red_mini_imagenet", {"train": len(train), "test": len(test)}, expected_counts(config)
    )
    meta = None
    if read is not _read_authors_records:
        is_web = is_web_picture(train.ids)
        notes += (
            f"red_mini_imagenet {label_set}: {is_web.sum():,} of {len(train):,} training pictures"
            f" ({is_web.mean():.1%}) are from the web.",
        )
        if not is_web.all():
            meta = train.take(np.flatnonzero(~is_web))
            meta = dataclasses.replace(meta, true_labels=meta.given_labels)
    return Dataset(
        name="red_mini_imagenet",
        train=train,
        test=test,
        meta=meta,
        class_names=_class_names(root),
        notes=notes,
        preprocessing=Preprocessing(mean=MEAN, std=STD, padding=PADDING_BY_SIZE[size], padding_mode="zero", flip=True),
    )


def _label_set(config: DataConfig) -> str:
    given = config.label_set or DEFAULT_LABEL_SET
    for label_set in LABEL_SETS:
        if given == label_set or (re.fullmatch(r"\d*\.?\d+", given) and float(given) == float(label_set)):
            return label_set
    raise InputError(f"--label_set={given} is not a noise rate of {_DATASET}; choose one of {', '.join(LABEL_SETS)}.")


def _reader(root: pathlib.Path):
    """Returns the function (root, split, size) -> `ExampleTable` that reads what the folder holds, or None."""
    if _tfds_folder(root) is not None:
        return _read_tfds
    if (root / "split" / VALIDATION_SPLIT).is_file() or any((root / "split").glob("red_noise_nl_*")):
        return _read_split
    if any(file.is_file() for file in root.glob("red_noise_nl_*/data*")):
        return _read_authors_records
    return None


# Split files with pictures.


def _read_split(root: pathlib.Path, split: str, size: int) -> ExampleTable:
    file = root / "split" / split
    if not file.is_file():
        there = sorted(path.name for path in file.parent.glob("red_noise_nl_*")) or ["none"]
        raise InputError(f"{file} is missing; there are {', '.join(there)}. {_REMEDY}")
    rows = list_files.read(file, with_labels=True, num_classes=NUM_CLASSES, remedy=_REMEDY)
    list_files.check_unique(rows)
    folder, paths = _picture_paths(root, split, rows, size)
    ids = np.array([os.path.splitext(os.path.basename(path))[0] for path in rows.paths.tolist()])
    return ExampleTable(
        ids=ids,
        images=PictureFiles(folder, paths, (size, size)),
        given_labels=rows.labels,
        true_labels=rows.labels if split == VALIDATION_SPLIT else None,
    )


def _picture_paths(root: pathlib.Path, split: str, rows: ListFile, size: int) -> tuple[pathlib.Path, np.ndarray]:
    """Returns a folder and the paths [N] of the split's pictures below it."""
    is_validation = split == VALIDATION_SPLIT
    small, large = ("validation_s32", "validation") if is_validation else (f"training_s32/{split}", f"training/{split}")
    for name in (small, large) if size == 32 else (large,):
        if (root / name).is_dir():
            by_label = (root / name / str(rows.labels[0])).is_dir()
            return root / name, _with_labels(rows) if by_label else rows.paths
    pools = [name for name in ("all_images", "noisy_images") if (root / name).is_dir()]
    if pools:
        return root, _from_pools(root, pools, rows.paths)
    if (root / small).is_dir():
        raise InputError(
            f"{root / small} holds pictures of 32 x 32 pixels, too few for --image_size={size}; expected {root / large}"
            " or all_images with pictures of 84 x 84. Get those, or drop --image_size."
        )
    raise InputError(
        f"{_DATASET}'s pictures of {split} are missing; expected {root / small}/<label>/<name>,"
        f" {root / large}/<label>/<name> or {root / 'all_images'}/<name>. Put the pictures into one of these."
    )


def _with_labels(rows: ListFile) -> np.ndarray:
    return np.array([b"%d/%s" % pair for pair in zip(rows.labels.tolist(), rows.paths.tolist(), strict=True)])


def _from_pools(root: pathlib.Path, pools: list[str], names: np.ndarray) -> np.ndarray:
    if len(pools) == 1:
        return list_files.with_folder(pools[0], names)
    first = set(os.listdir(os.fsencode(root / pools[0])))
    pool_of = [pools[0 if name in first else 1].encode() for name in names.tolist()]
    return np.array([b"%s/%s" % pair for pair in zip(pool_of, names.tolist(), strict=True)])


# TFRecords.


def _tfds_folder(root: pathlib.Path) -> pathlib.Path | None:
    """Returns the newest version in a tensorflow-datasets folder, or in any of the folders on the way to it."""
    version = "[0-9]*.[0-9]*.[0-9]*/"
    levels = ("", version, f"mini_imagenet_red/{version}", f"{_TFDS_NAME}/mini_imagenet_red/{version}")
    for level in levels:
        folders = {file.parent for file in root.glob(f"{level}{_TFDS_NAME}-*.tfrecord-*")}
        # The versions of mini_imagenet_blue look alike from inside.
        folders = {folder for folder in folders if folder.absolute().parent.name != "mini_imagenet_blue"}
        if folders:
            return max(folders, key=lambda folder: [int(part) for part in re.findall(r"\d+", folder.name)])
    return None


def _read_tfds(root: pathlib.Path, split: str, size: int) -> ExampleTable:
    folder = _tfds_folder(root)
    rate = split.removeprefix("red_noise_nl_")
    name = "validation" if split == VALIDATION_SPLIT else f"train_{round(100 * float(rate)):02d}"
    files = record_features.find_shards(folder, f"{_TFDS_NAME}-{name}")
    if not files:
        raise InputError(
            f"{folder} has no split {name}: expected {_TFDS_NAME}-{name}.tfrecord-00000-of-* and so on. Prepare it"
            " again with tensorflow-datasets, or copy the missing files."
        )
    labels, ids, pictures = _read_records(files, "image", "label", "id", size)
    order = np.argsort(ids, kind="stable")
    return _table(ids[order], pictures[order], labels[order], split)


def _read_authors_records(root: pathlib.Path, split: str, size: int) -> ExampleTable:
    if size != 32:
        raise InputError(
            f"{root} holds pictures of 32 x 32 pixels, too few for --image_size={size}. Use the split files with"
            " pictures of 84 x 84, or tensorflow-datasets' records, or drop --image_size."
        )
    files = sorted(file for file in root.glob(f"{split}/data*") if file.is_file())
    if not files:
        there = sorted({file.parent.name for file in root.glob("*/data*")})
        raise InputError(
            f"{root / split / 'data'} is missing; expected a TFRecord file. There are {', '.join(there)};"
            " add the split."
        )
    label_key = "image/class/fine_label" if split == VALIDATION_SPLIT else "image/class/label"
    labels, _, pictures = _read_records(files, "image/encoded", label_key, None, size)
    ids = np.array([b"%s_%05d" % (split.encode(), row) for row in range(len(labels))])
    return _table(ids, pictures, labels, split)


def _read_records(
    files: list[pathlib.Path], image_key: str, label_key: str, id_key: str | None, size: int
) -> tuple[np.ndarray, np.ndarray | None, PictureRecords]:
    """Returns labels [N] int32, ids [N] bytes (None without a key) and the pictures, in the files' order."""
    index = index_records(files)
    if not len(index):
        what = files[0] if len(files) == 1 else f"Each of {len(files)} files, {files[0]} and so on,"
        raise InputError(
            f"{what} is empty (no records); expected a record for each picture. Fetch or prepare the TFRecords anew."
        )
    keys = [label_key] if id_key is None else [label_key, id_key]
    features = record_features.read_features(files, index, keys)
    pictures = PictureRecords(files, index, image_key, (size, size))
    for row, label in enumerate(features[label_key]):
        if not isinstance(label, int) or not 0 <= label < NUM_CLASSES:
            found = "none" if label is None else repr(label)
            raise InputError(
                f"{pictures.source_name(row)}: expected a label from 0 to {NUM_CLASSES - 1} as '{label_key}', found"
                f" {found}. Fetch or prepare the file anew."
            )
        if id_key is not None and not isinstance(features[id_key][row], bytes):
            raise InputError(
                f"{pictures.source_name(row)}: expected the picture's name as '{id_key}', found none. Prepare the"
                " dataset anew."
            )
    ids = None if id_key is None else np.array(features[id_key], dtype="S")
    return np.array(features[label_key], dtype=np.int32), ids, pictures


def _table(ids: np.ndarray, pictures: PictureRecords, labels: np.ndarray, split: str) -> ExampleTable:
    return ExampleTable(
        ids=ids, images=pictures, given_labels=labels, true_labels=labels if split == VALIDATION_SPLIT else None
    )


def _class_names(root: pathlib.Path) -> tuple[str, ...]:
    """Returns the lines of class_name.txt if there are 100, else the labels as text."""
    file = root / "class_name.txt"
    if file.is_file():
        names = tuple(line for line in list_files.read_lines(file, _REMEDY) if line)
        if len(names) == NUM_CLASSES:
            return names
    return tuple(str(label) for label in range(NUM_CLASSES))
