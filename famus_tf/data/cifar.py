"""CIFAR-10 and CIFAR-100 (A. Krizhevsky, 2009), read from a tensorflow-datasets folder.

Images are joined with everything else by tensorflow-datasets' `id` ("train_00000" ...), the
position in the original training files, and tables are in that order; label lists of the field are
in file order too. The order in which tensorflow-datasets stores examples is a shuffled one and is
never relied on.
"""

import contextlib
import os
import pathlib
import re
import sys
from collections.abc import Iterator

import numpy as np

from famus_tf.data.examples import Dataset, ExampleTable, Preprocessing
from famus_tf.errors import InputError

PREPROCESSING = Preprocessing(  # MW-Net's code (NeurIPS 2019), for CIFAR-10 and CIFAR-100 alike
    mean=(125.3 / 255, 123.0 / 255, 113.9 / 255),
    std=(63.0 / 255, 62.1 / 255, 66.7 / 255),
    padding=4,
    padding_mode="reflect",
    flip=True,
)

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

CIFAR100_SUPERCLASSES = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}
"""The 20 superclasses of CIFAR-100 in the order of their labels, each with its five classes."""

CIFAR100_CLASSES = tuple(sorted(name for members in CIFAR100_SUPERCLASSES.values() for name in members))
CIFAR100_COARSE_LABELS = tuple(
    next(label for label, members in enumerate(CIFAR100_SUPERCLASSES.values()) if name in members)
    for name in CIFAR100_CLASSES
)

_IMAGE_SHAPE = (32, 32, 3)
_READ_BATCH = 1000


def load_cifar10(data_dir: str | os.PathLike | None = None) -> Dataset:
    """Returns CIFAR-10: 50,000 training and 10,000 test images of ten classes.

    Args:
        data_dir: The tensorflow-datasets folder, which holds `cifar10/<version>`; None for
            $TFDS_DATA_DIR or ~/tensorflow_datasets. A missing dataset is downloaded into it.

    Returns:
        The dataset, images [N, 32, 32, 3] uint8; `PREPROCESSING` is MW-Net's.

    Raises:
        InputError: If the dataset is neither there nor can be downloaded, or its files are damaged.
    """
    return _load("cifar10", data_dir, CIFAR10_CLASSES, None)


def load_cifar100(data_dir: str | os.PathLike | None = None) -> Dataset:
    """Returns CIFAR-100: 50,000 training and 10,000 test images of 100 classes in 20 superclasses.

    Args:
        data_dir: The tensorflow-datasets folder, which holds `cifar100/<version>`; None for
            $TFDS_DATA_DIR or ~/tensorflow_datasets. A missing dataset is downloaded into it.

    Returns:
        The dataset, images [N, 32, 32, 3] uint8, with coarse labels; `PREPROCESSING` is MW-Net's.

    Raises:
        InputError: If the dataset is neither there nor can be downloaded, or its files are damaged.
    """
    return _load("cifar100", data_dir, CIFAR100_CLASSES, CIFAR100_COARSE_LABELS)


def _load(
    name: str,
    data_dir: str | os.PathLike | None,
    class_names: tuple[str, ...],
    coarse_labels: tuple[int, ...] | None,
) -> Dataset:
    data_dir = pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    folder = _prepared_folder(data_dir, name)
    if folder is None:
        _download_or_explain(name, data_dir)
        folder = _prepared_folder(data_dir, name)
        if folder is None:
            raise InputError(f"tensorflow-datasets downloaded {name}, but left no version of it in {data_dir / name}.")
    with _explaining_damage(name, folder):
        train, test = _read(folder, "train"), _read(folder, "test")
        return Dataset(
            name=name,
            train=train,
            test=test,
            class_names=class_names,
            preprocessing=PREPROCESSING,
            coarse_labels=coarse_labels,
        )


def _prepared_folder(data_dir: pathlib.Path, name: str) -> pathlib.Path | None:
    """Returns the newest `<data_dir>/<name>/<version>` that holds a prepared dataset, or None."""
    versions = []
    try:
        for folder in (data_dir / name).iterdir():
            if re.fullmatch(r"\d+\.\d+\.\d+", folder.name) and (folder / "dataset_info.json").is_file():
                versions.append((tuple(int(part) for part in folder.name.split(".")), folder))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{data_dir / name} cannot be listed ({error.strerror}); check the folder.") from error
    return max(versions)[1] if versions else None


def _download_or_explain(name: str, data_dir: pathlib.Path) -> None:
    try:
        _download(name, data_dir)
    except Exception as error:
        # Whatever stopped it (network, disk, checksum), the way out is the same.
        raise InputError(
            f"{name} is not in {data_dir} (looked for "
            f"{data_dir / name}/<version>/dataset_info.json), and downloading it failed: "
            f"{type(error).__name__}: {error}. On a machine with network, run\n"
            '  python -c "import tensorflow_datasets as tfds; '
            f"tfds.load('{name}', data_dir='DIR')\"\n"
            f"and copy DIR/{name} to {data_dir / name}, or pass the folder that already holds "
            f"{name} as --data_dir."
        ) from error


def _download(name: str, data_dir: pathlib.Path) -> None:
    with _quiet_tfds() as tfds:
        try:
            tfds.builder(name, data_dir=os.fspath(data_dir)).download_and_prepare()
        finally:
            sys.stdout.write("\n")  # tensorflow-datasets says what it downloads and leaves the line open


def _read(folder: pathlib.Path, split: str) -> ExampleTable:
    with _quiet_tfds() as tfds:
        builder = tfds.builder_from_directory(os.fspath(folder))
        reading = tfds.ReadConfig(try_autocache=False)  # it is read once
        batches = builder.as_dataset(split=split, batch_size=_READ_BATCH, shuffle_files=False, read_config=reading)
        parts = list(tfds.as_numpy(batches))
    missing = {"id", "image", "label"} - set(builder.info.features)
    if missing:
        raise InputError(f"it has no feature '{missing.pop()}'; prepare version 3.0.2 or newer")
    if not parts:
        raise InputError(f"its {split} split is empty")
    ids = np.concatenate([part["id"] for part in parts]).astype(np.str_)
    images = np.concatenate([part["image"] for part in parts])
    if images.shape[1:] != _IMAGE_SHAPE:
        raise InputError(f"its {split} images have shape {images.shape[1:]}, not {_IMAGE_SHAPE}")
    labels = np.concatenate([part["label"] for part in parts]).astype(np.int32)
    order = np.argsort(ids)
    labels = labels[order]
    return ExampleTable(ids=ids[order], images=images[order], given_labels=labels, true_labels=labels)


@contextlib.contextmanager
def _explaining_damage(name: str, folder: pathlib.Path) -> Iterator[None]:
    """Turns what reading a damaged folder raises into an InputError that names the folder."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{name} in {folder} cannot be used: {error}") from error
    except Exception as error:
        # TensorFlow, tensorflow-datasets, protobuf and JSON each raise exceptions of their own.
        raise InputError(
            f"{name} in {folder} cannot be read; a file is damaged or missing. Delete the folder "
            f"and prepare it again. tensorflow-datasets says: {type(error).__name__}: {error}"
        ) from error


@contextlib.contextmanager
def _quiet_tfds() -> Iterator:
    """Yields the tensorflow_datasets module, its log lines and progress bars off meanwhile."""
    import tensorflow_datasets as tfds  # here, because only CIFAR needs it
    from absl import logging

    verbosity = logging.get_verbosity()
    tfds.disable_progress_bar()
    logging.set_verbosity(logging.ERROR)
    try:
        yield tfds
    finally:
        logging.set_verbosity(verbosity)
