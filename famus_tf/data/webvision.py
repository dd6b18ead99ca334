"""mini-WebVision: the first 50 classes of WebVision 1.0's Google pictures (W. Li et al., 2017), read in place.

MentorNet (ICML 2018) introduced the subset, DivideMix and FaMUS test on it. The pictures are the resized ones,
`google_resized_256.tar` and `val_images_256.tar`; the lists are those of `info.tar`, in `info` or beside the pictures.
The test set is WebVision's own validation set of these classes; with --imagenet_dir, ILSVRC12's validation pictures of
the same synsets are a second one.
"""

import itertools
import pathlib
import re

from famus_tf.config import DataConfig
from famus_tf.data import dataset_folder, imagenet_validation, list_files
from famus_tf.data.examples import Dataset, Preprocessing
from famus_tf.data.list_files import ListFile
from famus_tf.errors import InputError

NUM_CLASSES = 50
NUM_LISTED_CLASSES = 1000  # of WebVision 1.0; 2.0 has 5000
IMAGE_SIZE = 299
SHORTER_SIDE = 320  # for IMAGE_SIZE; other sizes in proportion
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as in DivideMix' code

TRAIN_LIST, TEST_LIST, SYNSETS = "train_filelist_google.txt", "val_filelist.txt", "synsets.txt"
TRAIN_FOLDER, TEST_FOLDER = "google", "val_images_256"

_FIRST_SYNSET = "n01440764"
_PUBLISHED_COUNTS = {"train": 65_944, "test": 2_500}
_HOLDS = "info/, google/ and val_images_256/"
_REMEDY = "Get info.tar of WebVision 1.0 again and unpack it there."
_CONTENTS = {
    TRAIN_LIST: "'google/q0001/... <label>' per line",
    TEST_LIST: "'val000001.jpg <label>' per line, 50,000",
    SYNSETS: "'n01440764 tench, Tinca tinca' and so on, line k for label k, 1,000",
}


def expected_counts(config: DataConfig) -> dict[str, int]:
    """Returns how many pictures each part has as published: "train", "test" and, if read, "imagenet"."""
    imagenet = {"imagenet": NUM_CLASSES * imagenet_validation.PICTURES_PER_CLASS} if config.imagenet_dir else {}
    return _PUBLISHED_COUNTS | imagenet


def load(config: DataConfig) -> Dataset:
    """Returns mini-WebVision: 65,944 pictures found by Google for 50 classes, and 2,500 labelled ones to test on.

    Differs from DivideMix' code in the training crop: that one cuts out 8 to 100 % of a picture and stretches it
    (RandomResizedCrop), here a window of fixed size is cut out.

    Args:
        config: `data_dir`, the dataset's folder; `image_size`, the side of the crop, 0 for 299; `imagenet_dir`, where
            the ILSVRC12 validation pictures lie, in one of the ways that `imagenet_validation` lists, or None.

    Returns:
        The dataset. Ids are the paths of the lists. The labels of `train` are the search words' and its true labels are
        unknown. `more_tests` holds "imagenet" if `imagenet_dir` is set.

    Raises:
        InputError: If a file or folder is missing, a line is wrong, the synsets are not in ascending order, or the
            labels are those of WebVision 2.0.
    """
    root = dataset_folder.locate(
        config.data_dir,
        flag="--data_dir",
        dataset="WebVision",
        holds=_HOLDS,
        is_it=lambda folder: _find(folder, TRAIN_LIST).is_file() and (folder / TRAIN_FOLDER).is_dir(),
    )
    dataset_folder.require_files((root / "info", root), _CONTENTS, dataset="WebVision", remedy=_REMEDY)
    _require_folders(root)
    synsets, class_names = _read_synsets(_find(root, SYNSETS))
    train, test = (_read_list(_find(root, name)) for name in (TRAIN_LIST, TEST_LIST))
    size = config.image_size or IMAGE_SIZE
    more_tests = {}
    if config.imagenet_dir:
        more_tests["imagenet"] = imagenet_validation.load(config.imagenet_dir, synsets, (size, size))
    counts = {"train": len(train), "test": len(test)} | {name: len(table) for name, table in more_tests.items()}
    return Dataset(
        name="webvision",
        train=list_files.picture_table(train, root, size, is_clean=False),
        test=list_files.picture_table(test, root / TEST_FOLDER, size, is_clean=True),
        more_tests=more_tests,
        class_names=class_names,
        notes=dataset_folder.notes_on_counts("webvision", counts, expected_counts(config)),
        preprocessing=Preprocessing(
            mean=MEAN, std=STD, flip=True, shorter_side=round(size * SHORTER_SIDE / IMAGE_SIZE), crop="random"
        ),
    )


def _find(root: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the list of that name in `info`, or else where it would be beside the pictures."""
    file = root / "info" / name
    return file if file.is_file() else root / name


def _require_folders(root: pathlib.Path) -> None:
    for name, archive, other in (
        (TRAIN_FOLDER, "google_resized_256.tar", "q0001"),
        (TEST_FOLDER, "val_images_256.tar", "val_images"),
    ):
        if (root / name).is_dir():
            continue
        hint = f"Unpack {archive} there."
        if (root / archive).is_file():
            hint = f"{archive} is there: unpack it."
        elif (root / other).is_dir():
            hint += f" {root / other} is there, but {'lacks that level' if name == TRAIN_FOLDER else 'is not resized'}."
        raise InputError(f"WebVision lacks the folder {root / name}, where its lists' pictures lie. {hint}")


def _read_synsets(file: pathlib.Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the WordNet ids and the first names of the 50 classes, in label order; the whole file is checked."""
    lines = list_files.read_lines(file, _REMEDY)
    if len(lines) > NUM_LISTED_CLASSES:
        raise InputError(f"{file} has {len(lines)} lines; expected {NUM_LISTED_CLASSES}. {_which_version(len(lines))}")
    if len(lines) < NUM_CLASSES:
        raise InputError(f"{file} has {len(lines)} lines; expected {NUM_LISTED_CLASSES}, line k for label k. {_REMEDY}")
    matches = [re.fullmatch(r"(n\d{8})\s+([^,]*\S)\s*(,.*)?", line) for line in lines]
    if None in matches:
        row = matches.index(None)
        raise InputError(
            f"{file}, line {row + 1}: found '{lines[row]}'; expected a synset and its names, as in 'n01440764 tench,"
            f" Tinca tinca'. {_REMEDY}"
        )
    synsets, names = tuple(match[1] for match in matches), tuple(match[2] for match in matches)
    _check_order(file, synsets)
    return synsets[:NUM_CLASSES], names[:NUM_CLASSES]


def _check_order(file: pathlib.Path, synsets: tuple[str, ...]) -> None:
    """Raises `InputError`, naming the line, unless the synsets ascend from ILSVRC12's first one."""
    for row, synset in enumerate(synsets):
        if synset in synsets[:row]:
            raise InputError(
                f"{file}, line {row + 1}: {synset} was already in line {synsets.index(synset) + 1}; expected every"
                f" synset once. {_REMEDY}"
            )
    if synsets[0] != _FIRST_SYNSET:
        raise InputError(
            f"{file}, line 1: found {synsets[0]}; expected {_FIRST_SYNSET}, since WebVision 1.0 lists the synsets of"
            f" ILSVRC12 in ascending order and line k names label k. {_REMEDY}"
        )
    for row, (before, synset) in enumerate(itertools.pairwise(synsets), start=1):
        if synset < before:
            raise InputError(
                f"{file}, line {row + 1}: {synset} comes after {before}; expected ascending synsets, since line k names"
                f" label k and WebVision 1.0 lists them so. {_REMEDY}"
            )


def _read_list(file: pathlib.Path) -> ListFile:
    rows = list_files.read(file, with_labels=True, without_prefix=f"{TEST_FOLDER}/", remedy=_REMEDY)
    top = int(rows.labels.argmax())
    if rows.labels[top] >= NUM_LISTED_CLASSES:
        row = int((rows.labels >= NUM_LISTED_CLASSES).argmax())
        raise InputError(
            f"{rows.where(row)}: the label {rows.labels[row]}; expected 0 to {NUM_LISTED_CLASSES - 1}."
            f" {_which_version(int(rows.labels[top]) + 1)}"
        )
    kept = rows.take(rows.labels < NUM_CLASSES)
    if not len(kept):
        raise InputError(f"{file} has no label below {NUM_CLASSES}, which mini-WebVision is made of. {_REMEDY}")
    list_files.check_unique(kept)
    return kept


def _which_version(num_classes: int) -> str:
    return (
        f"These are {num_classes} classes, as of WebVision 2.0, whose labels mean other classes; mini-WebVision is part"
        " of WebVision 1.0. Get info.tar of 1.0."
    )
