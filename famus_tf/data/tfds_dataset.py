"""Any image classification dataset of tensorflow-datasets: `--dataset=tfds:mnist`.

Small images of one size are held in memory; all others stay in their TFRecord files until a batch asks for them.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from famus_tf.config import DataConfig
from famus_tf.data import record_features, splitting, tfds_folder
from famus_tf.data.examples import Dataset, ExampleTable, Preprocessing
from famus_tf.data.pictures import PictureRecords, index_records
from famus_tf.errors import InputError

IMAGE_SIZE = 96  # pixels, for pictures of many sizes; small, so that a first run on a CPU takes minutes
MOST_BYTES_IN_MEMORY = 10**9
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
_RESIZED_TO_CUT = 256 / 224  # shorter side to window, as is usual on ImageNet
_PADDING_SHARE = 1 / 8  # of the image's side: 4 pixels on CIFAR's 32
_LABEL, _ID = "label", "id"
_TEST_SHARE = 0.1  # as in `famus_tf.data.folder`
_TEST_SEED = 0  # part of the dataset's definition: the test set is the same in every run

_Columns = tuple[np.ndarray, np.ndarray | PictureRecords, Sequence[bytes | None] | None]
"""Of one split: labels [N] int32, images, and the examples' own ids [N] or None."""


@dataclasses.dataclass(frozen=True)
class _Contents:
    """What the folder of a dataset says of itself.

    Attributes:
        image: Name of the feature that is the picture.
        shape: (H, W, C) of every image; None where they differ in size.
        has_ids: Whether examples have a feature "id".
        class_names: In label order.
        counts: {split: number of examples}.
        files: {split: its TFRecord files, in order}; None for files of another kind.
    """

    image: str
    shape: tuple[int, int, int] | None
    has_ids: bool
    class_names: tuple[str, ...]
    counts: dict[str, int]
    files: dict[str, tuple[str, ...]] | None


def load(config: DataConfig) -> Dataset:
    """Returns a dataset of tensorflow-datasets; its labels count as true.

    The test set is the split "test", and then "validation", where there is one, is the validation set; or else the test
    set is "validation"; or else a tenth of each class's training examples, at least one, the same ones in every run. A
    split with labels of -1, as contests hide them, is passed over. Notes say so. Ids are the dataset's own where it has
    a feature "id", and else the split and the position on disk, "train_00012".

    Images that all have one size are held in memory up to 1 GB, normalised by the mean and standard deviation of
    `train`, padded by an eighth of their side (mirrored) and cut; coloured ones are flipped, grey ones are not, as they
    may be digits or letters. Others stay on disk and are decoded for each batch, as `famus_tf.data.folder` does it.

    Args:
        config: `dataset`, "tfds:name[/config][:version]". `data_dir`, the folder of prepared datasets; None for
            $TFDS_DATA_DIR or ~/tensorflow_datasets. A missing dataset is downloaded into it. `image_size`, the side of
            the network's square input in pixels; 0 for the images' own, or 96 if they have many.

    Raises:
        InputError: If the name is not of that form, the dataset is neither there nor can be downloaded, its files are
            damaged, it is not one of pictures with one label each, training examples or all to test on have no labels,
            or a class is too small to take test examples from.
    """
    name, configuration, version = tfds_folder.parse_name(config.dataset)
    root = tfds_folder.data_root(config.data_dir)
    folder = tfds_folder.find_or_download(name, root, config=configuration, version=version)
    with tfds_folder.explaining_damage(config.dataset, folder):
        contents = _read_contents(folder)
        if "train" not in contents.counts:
            raise InputError(f"it has the splits {', '.join(contents.counts)}; expected 'train'")
        splits = [split for split in ("train", "test", "validation") if split in contents.counts]
        preprocessing = None
        if _fits_in_memory(contents, splits, config.image_size):
            columns = {split: _read_arrays(folder, split, contents) for split in splits}
        else:
            size, preprocessing = _picture_preprocessing(contents, config.image_size)
            columns = {split: _index_pictures(split, contents, size) for split in splits}
        tables, notes = _labelled(columns, config.dataset)
        if "validation" in tables and "test" not in tables:
            tables["test"] = tables.pop("validation")
            labelled = " with labels" if "test" in columns else ""
            notes.append(f"{config.dataset} has no split 'test'{labelled}; its 'validation' is the test set.")
        elif "test" not in tables:
            tables |= _split_off_test(tables["train"], contents.class_names)
            notes.append(
                f"{config.dataset} has no split 'test' or 'validation': {len(tables['test'])} of"
                f" {contents.counts['train']} training examples are set aside to test on."
            )
        return Dataset(
            name=config.dataset,
            train=tables["train"],
            test=tables["test"],
            validation=tables.get("validation"),
            class_names=contents.class_names,
            preprocessing=preprocessing or _array_preprocessing(tables["train"].images),
            notes=tuple(notes),
        )


def _read_contents(folder: pathlib.Path) -> _Contents:
    with tfds_folder.quiet_tfds() as tfds:
        info = tfds.builder_from_directory(os.fspath(folder)).info
        features = dict(sorted(info.features.items()))  # in its file they have no order
        images = [
            name
            for name, feature in features.items()
            if isinstance(feature, tfds.features.Image) and not isinstance(feature, tfds.features.LabeledImage)
        ]
        label = features.get(_LABEL)
        if len(images) != 1 or not isinstance(label, tfds.features.ClassLabel):
            raise InputError(
                f"its features are {', '.join(f'{name} ({type(f).__name__})' for name, f in features.items())};"
                " expected one Image and a ClassLabel 'label'"
            )
        image = features[images[0]]
        dtype = np.dtype(getattr(image.dtype, "as_numpy_dtype", image.dtype))  # TensorFlow's or NumPy's
        if dtype != np.uint8:
            raise InputError(f"its images are {dtype}; expected uint8")
        in_records = info.file_format == tfds.core.FileFormat.TFRECORD
        return _Contents(
            image=images[0],
            shape=None if None in image.shape else tuple(image.shape),
            has_ids=isinstance(features.get(_ID), tfds.features.Text),
            class_names=tuple(label.names),
            counts={split: found.num_examples for split, found in info.splits.items() if found.num_examples},
            files={
                split: tuple(os.fspath(folder / file) for file in sorted(found.filenames))
                for split, found in info.splits.items()
            }
            if in_records
            else None,
        )


def _fits_in_memory(contents: _Contents, splits: list[str], image_size: int) -> bool:
    if contents.shape is None or (image_size and contents.shape[:2] != (image_size, image_size)):
        return False
    return math.prod(contents.shape) * sum(contents.counts[split] for split in splits) <= MOST_BYTES_IN_MEMORY


def _labelled(columns: dict[str, _Columns], name: str) -> tuple[dict[str, ExampleTable], list[str]]:
    """Returns {split: its table} of the splits that have labels, and notes on the others.

    Raises:
        InputError: If training examples have none, or nothing that has is left to test on.
    """
    tables, notes = {}, []
    for split, (labels, images, own_ids) in columns.items():
        unlabelled = int(np.count_nonzero(labels < 0))
        if not unlabelled:
            tables[split] = ExampleTable(_ids(split, len(labels), own_ids), images, labels, labels)
        elif split == "train":
            raise InputError(
                f"{unlabelled} of {len(labels)} examples of its split 'train' have the label -1, which stands for none;"
                " expected a label for each"
            )
        else:
            notes.append(
                f"{name}: the split '{split}' is passed over, since {unlabelled} of its {len(labels)} examples have the"
                " label -1, which stands for none."
            )
    if len(tables) == 1 and notes:
        hidden = " and ".join(f"'{split}'" for split in columns if split != "train")
        raise InputError(
            f"examples of its {hidden} have the label -1, which stands for none; expected a split 'test' or"
            " 'validation' with labels to test on"
        )
    return tables, notes


def _split_off_test(train: ExampleTable, class_names: tuple[str, ...]) -> dict[str, ExampleTable]:
    """Returns "test", a share of each class, and "train", the examples that are left."""
    counts = np.bincount(train.given_labels, minlength=len(class_names))
    if counts.min() < 2:
        least = int(counts.argmin())
        raise InputError(
            "it has no split 'test' or 'validation', and the number of training examples of its class"
            f" '{class_names[least]}' is {counts[least]}; expected 2 or more, of which one is set aside to test on"
        )
    quotas = np.maximum(1, (counts * _TEST_SHARE).astype(np.int64))
    rows = splitting.draw_rows(train.ids, train.given_labels, quotas, seed=_TEST_SEED, purpose="tfds test set")
    return {"train": train.take(np.setdiff1d(np.arange(len(train)), rows)), "test": train.take(rows)}


def _read_arrays(folder: pathlib.Path, split: str, contents: _Contents) -> _Columns:
    features = (contents.image, _LABEL, *([_ID] if contents.has_ids else []))
    columns = tfds_folder.read_columns(folder, split, features)
    return columns[_LABEL].astype(np.int32), columns[contents.image], columns.get(_ID)


def _index_pictures(split: str, contents: _Contents, size: tuple[int, int]) -> _Columns:
    if contents.files is None:
        raise InputError("its pictures are not in TFRecord files; prepare it with file_format='tfrecord'")
    files = contents.files[split]
    index = index_records(files)
    keys = [_LABEL, _ID] if contents.has_ids else [_LABEL]
    columns = record_features.read_features(files, index, keys)
    if None in columns[_LABEL]:
        row = columns[_LABEL].index(None)
        raise InputError(
            f"{files[index.file_numbers[row]]}, record {index.record_numbers[row]} has no number '{_LABEL}'"
        )
    labels = np.array(columns[_LABEL], dtype=np.int32)
    return labels, PictureRecords(files, index, contents.image, size), columns.get(_ID)


def _ids(split: str, count: int, own) -> np.ndarray:
    """The ids [N], as bytes: a dataset's own ([N] bytes objects or None), if each has one that no other has."""
    if own is not None:
        own = [name for name in own if name]
        if len(set(own)) == count:
            return np.array(own, dtype=np.bytes_)
    width = max(5, len(str(count - 1)))
    return np.array([f"{split}_{position:0{width}d}" for position in range(count)], dtype=np.bytes_)


def _array_preprocessing(images: np.ndarray) -> Preprocessing:
    """Statistics of the training images [N, H, W, C], to six decimals, and augmentation by rules of thumb."""
    values = np.arange(256) / 255.0
    means, stds = [], []
    for channel in range(images.shape[-1]):
        shares = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., channel].size
        means.append(round(float(shares @ values), 6))
        variance = float(shares @ (values - shares @ values) ** 2)
        stds.append(round(math.sqrt(variance), 6) or 1.0)  # a channel of one value carries nothing
    padding = round(min(images.shape[1:3]) * _PADDING_SHARE)
    return Preprocessing(tuple(means), tuple(stds), padding=padding, flip=images.shape[-1] == 3)


def _picture_preprocessing(contents: _Contents, image_size: int) -> tuple[tuple[int, int], Preprocessing]:
    """Returns (H, W) of the network's input, and the preprocessing."""
    if contents.shape is not None and (not image_size or contents.shape[:2] == (image_size, image_size)):
        own = contents.shape[:2]
        return own, Preprocessing(MEAN, STD, padding=round(min(own) * _PADDING_SHARE), flip=True)
    size = image_size or IMAGE_SIZE
    return (size, size), Preprocessing(MEAN, STD, flip=True, shorter_side=round(size * _RESIZED_TO_CUT))
