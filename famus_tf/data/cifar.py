"""CIFAR-10 and CIFAR-100 (A. Krizhevsky, 2009), read from a tensorflow-datasets folder.

Images are joined with everything else by tensorflow-datasets' `id` ("train_00000" ...), the
position in the original training files, and tables are in that order; label lists of the field are
in file order too. The order in which tensorflow-datasets stores examples is a shuffled one and is
never relied on.
"""

import dataclasses

import numpy as np

from famus_tf.config import DataConfig
from famus_tf.data import tfds_folder
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


def load_cifar10(config: DataConfig) -> Dataset:
    """Returns CIFAR-10: 50,000 training and 10,000 test images of ten classes.

    Args:
        config: `data_dir` is the tensorflow-datasets folder, which holds `cifar10/<version>`; None for
            $TFDS_DATA_DIR or ~/tensorflow_datasets. A missing dataset is downloaded into it.

    Returns:
        The dataset, images [N, 32, 32, 3] uint8; `PREPROCESSING` is MW-Net's.

    Raises:
        InputError: If the dataset is neither there nor can be downloaded, or its files are damaged.
    """
    return _load("cifar10", config, CIFAR10_CLASSES, None)


def load_cifar100(config: DataConfig) -> Dataset:
    """Returns CIFAR-100: 50,000 training and 10,000 test images of 100 classes in 20 superclasses.

    Args:
        config: `data_dir` is the tensorflow-datasets folder, which holds `cifar100/<version>`; None for
            $TFDS_DATA_DIR or ~/tensorflow_datasets. A missing dataset is downloaded into it.

    Returns:
        The dataset, images [N, 32, 32, 3] uint8, with coarse labels; `PREPROCESSING` is MW-Net's.

    Raises:
        InputError: If the dataset is neither there nor can be downloaded, or its files are damaged.
    """
    return _load("cifar100", config, CIFAR100_CLASSES, CIFAR100_COARSE_LABELS)


def load_cifar10_lt(config: DataConfig) -> Dataset:
    """Returns CIFAR-10 whole, as `load_cifar10`: the tail is cut by `config.imbalance_factor` when it is split."""
    return dataclasses.replace(load_cifar10(config), name="cifar10_lt")


def load_cifar100_lt(config: DataConfig) -> Dataset:
    """Returns CIFAR-100 whole, as `load_cifar100`: the tail is cut by `config.imbalance_factor` when it is split."""
    return dataclasses.replace(load_cifar100(config), name="cifar100_lt")


def storage_order(name: str, config: DataConfig) -> np.ndarray:
    """Returns in what order tensorflow-datasets stores a training set.

    Args:
        name: "cifar10" or "cifar100".
        config: As in `load_cifar10`.

    Returns:
        [N] int64, the position in the original files of the i-th stored training image.

    Raises:
        InputError: As `load_cifar10`.
    """
    folder = tfds_folder.find_or_download(name, tfds_folder.data_root(config.data_dir))
    with tfds_folder.explaining_damage(name, folder):
        return positions(tfds_folder.read_columns(folder, "train", ("id",))["id"].astype(np.str_))


def positions(ids: np.ndarray) -> np.ndarray:
    """Returns the position in the original files, [N] int64, that each id ([N] "train_00012") ends with."""
    return np.array([int(name.rpartition("_")[2]) for name in ids.tolist()], dtype=np.int64)


def _load(
    name: str, config: DataConfig, class_names: tuple[str, ...], coarse_labels: tuple[int, ...] | None
) -> Dataset:
    folder = tfds_folder.find_or_download(name, tfds_folder.data_root(config.data_dir))
    with tfds_folder.explaining_damage(name, folder):
        return Dataset(
            name=name,
            train=_read(folder, "train"),
            test=_read(folder, "test"),
            class_names=class_names,
            preprocessing=PREPROCESSING,
            coarse_labels=coarse_labels,
        )


def _read(folder, split: str) -> ExampleTable:
    columns = tfds_folder.read_columns(folder, split, ("id", "image", "label"))
    ids, images, labels = columns["id"].astype(np.str_), columns["image"], columns["label"].astype(np.int32)
    if images.shape[1:] != _IMAGE_SHAPE:
        raise InputError(f"its {split} images have shape {images.shape[1:]}, not {_IMAGE_SHAPE}")
    order = np.argsort(ids)
    labels = labels[order]
    return ExampleTable(ids=ids[order], images=images[order], given_labels=labels, true_labels=labels)
