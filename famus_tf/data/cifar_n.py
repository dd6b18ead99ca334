"""CIFAR-10N and CIFAR-100N: CIFAR with labels by people, wrong ones included (Wei et al., ICLR 2022).

The images are CIFAR's, from a tensorflow-datasets folder; the labels are the authors' files, from
https://github.com/UCSC-REAL/cifar-10-100n. Three kinds are read, the first that is found:

- `CIFAR-10_human.pt`, in the order of the original CIFAR files;
- `CIFAR-10_human_ordered.npy` and `CIFAR-10_human_annotations.csv` (as tensorflow-datasets has its users make it), in
  the order in which tensorflow-datasets stores CIFAR; `image_order_c10.npy` says which image is which.

Labels and images are joined by the images' ids, and before anything is trained the clean labels in the file are
compared with CIFAR's own, one by one: in the wrong order nine tenths of the labels would be wrong, and training would
not fail, only learn nothing.
"""

import contextlib
import csv
import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np

from famus_tf.config import DataConfig, check_choice
from famus_tf.data import cifar, pickled_arrays, tfds_folder
from famus_tf.data.examples import Dataset
from famus_tf.errors import InputError

_SOURCE = "https://github.com/UCSC-REAL/cifar-10-100n"
_SUBFOLDERS = (
    "",
    "data",
    "cifar10n",
    "cifar100n",
    "cifar-10-100n",
    "cifar-10-100n/data",
    "cifar10n/data",
    "cifar100n/data",
)


@dataclasses.dataclass(frozen=True)
class _Variant:
    """What distinguishes the two datasets.

    Attributes:
        name: Of the dataset here.
        cifar: Of the images' dataset.
        stem: What the names of the label files begin with.
        order_file: Which image is which in the files that are in tensorflow-datasets' order.
        label_sets: {name here: the names of the set in the authors' files}; the first is the default.
        noise_rates: {name here: which share of the set's labels is wrong, in percent}, as the authors' files have it.
    """

    name: str
    cifar: str
    stem: str
    order_file: str
    label_sets: dict[str, tuple[str, ...]]
    noise_rates: dict[str, float]


_CIFAR10N = _Variant(
    name="cifar10n",
    cifar="cifar10",
    stem="CIFAR-10_human",
    order_file="image_order_c10.npy",
    label_sets={
        "aggregate": ("aggre_label",),
        "random1": ("random_label1",),
        "random2": ("random_label2",),
        "random3": ("random_label3",),
        "worst": ("worse_label",),
    },
    noise_rates={"aggregate": 9.01, "random1": 17.23, "random2": 18.12, "random3": 17.64, "worst": 40.21},
)
_CIFAR100N = _Variant(
    name="cifar100n",
    cifar="cifar100",
    stem="CIFAR-100_human",
    order_file="image_order_c100.npy",
    label_sets={"fine": ("noisy_label", "noise_label")},  # the .pt file's name for it, and the others'
    noise_rates={"fine": 40.20},
)


def published_noise_rate(config: DataConfig) -> float | None:
    """Returns how many percent of a label set are wrong as published; None for other datasets than these two."""
    for variant in (_CIFAR10N, _CIFAR100N):
        if config.dataset == variant.name:
            return variant.noise_rates[_label_set(variant, config)]
    return None


def load_cifar10n(config: DataConfig) -> Dataset:
    """Returns CIFAR-10N; 9.0 % (aggregate), 17.2, 18.1, 17.6 % (random1 to 3) or 40.2 % (worst) of labels are wrong.

    Args:
        config: `data_dir` as in `cifar.load_cifar10`; the label files lie there, or in a folder `data`, `cifar10n` or
            `cifar-10-100n` below. `label_set`: "aggregate" (the default: the majority of three people), "random1",
            "random2", "random3" (each person), or "worst" (a wrong label wherever one of the three gave one).

    Returns:
        The dataset: given labels are people's, true labels CIFAR's. The test set is CIFAR's.

    Raises:
        InputError: If the label set is unknown, CIFAR or the label file is missing or damaged, or the file's clean
            labels are not CIFAR's.
    """
    return _load(_CIFAR10N, config, cifar.load_cifar10)


def load_cifar100n(config: DataConfig) -> Dataset:
    """Returns CIFAR-100N with its 100 fine classes; 40.2 % of the labels are wrong.

    Args:
        config: As in `load_cifar10n`; the one `label_set` is "fine".

    Returns:
        The dataset: given labels are people's, true labels CIFAR's. The test set is CIFAR's.

    Raises:
        InputError: As `load_cifar10n`.
    """
    return _load(_CIFAR100N, config, cifar.load_cifar100)


def _load(variant: _Variant, config: DataConfig, load_cifar) -> Dataset:
    label_set = _label_set(variant, config)
    root = tfds_folder.data_root(config.data_dir)
    path = _find_labels(variant, root)
    columns, in_file_order = _read(path)
    noisy = _column(columns, variant.label_sets[label_set], path)
    clean = _column(columns, ("clean_label",), path)

    dataset = load_cifar(config)
    positions = cifar.positions(dataset.train.ids)
    if len(clean) != len(positions) or positions.max() >= len(clean):
        raise InputError(
            f"{path} has {len(clean):,} labels and {variant.cifar} {len(positions):,} training images; expected as many"
            f" labels as images. Fetch the file again from {_SOURCE}."
        )
    if len(noisy) != len(clean) or noisy.min() < 0 or noisy.max() >= len(dataset.class_names):
        raise InputError(
            f"{path}: its {len(noisy):,} labels of set '{label_set}' run from {noisy.min()} to {noisy.max()}; expected"
            f" {len(clean):,} of 0 to {len(dataset.class_names) - 1}. Fetch the file again from {_SOURCE}."
        )
    order = None if in_file_order else _read_order(variant, root, path, len(clean))
    true = np.empty(len(clean), np.int64)
    true[positions] = dataset.train.true_labels
    if not np.array_equal(_in_original_order(clean, order), true):
        what = _difference(_in_original_order(clean, order), true, path, dataset)
        raise InputError(f"{what} {_explanation(variant, config, clean, true, order)}")

    given = _in_original_order(noisy, order)[positions].astype(np.int32)
    return dataclasses.replace(
        dataset,
        name=variant.name,
        train=dataset.train.with_given_labels(given),
        notes=(f"Noisy labels: {path}, set '{label_set}'.",),
    )


def _label_set(variant: _Variant, config: DataConfig) -> str:
    label_set = config.label_set or next(iter(variant.label_sets))
    check_choice("--label_set", label_set, variant.label_sets)
    return label_set


def _find_labels(variant: _Variant, root: pathlib.Path) -> pathlib.Path:
    names = [f"{variant.stem}.pt", f"{variant.stem}_ordered.npy", f"{variant.stem}_annotations.csv"]
    empty = []
    for name in names:
        for path in _places(root, name):
            if path.is_file():
                if path.stat().st_size:
                    return path
                empty.append(path)
    if empty:
        raise InputError(
            f"{empty[0]} is empty (0 bytes), as it is in some copies of the authors' repository; fetch {names[0]} from"
            f" {_SOURCE} (folder data) and put it into {root}."
        )
    raise InputError(
        f"The labels of {variant.name} are missing: none of {', '.join(names)} is in {root} or its folders"
        f" {', '.join(_SUBFOLDERS[1:])}. Fetch {names[0]} from {_SOURCE} (folder data) and put it into {root}."
    )


def _places(root: pathlib.Path, name: str) -> list[pathlib.Path]:
    return [root / folder / name for folder in _SUBFOLDERS]


def _read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], bool]:
    """Returns {name in the file: [N] int64}, and whether they are in the order of the original CIFAR files."""
    if path.suffix == ".pt":
        return pickled_arrays.read_torch(path), True
    if path.suffix == ".npy":
        return pickled_arrays.read_numpy(path), False
    return _read_csv(path), False


def _read_csv(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *rows = csv.reader(file)
        table = np.array(rows, dtype=object).astype(np.int64)
        if table.ndim != 2 or table.shape[1] != len(header):
            raise ValueError(f"{len(header)} names in the first line, and lines of other lengths")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the file.") from error
    except (ValueError, csv.Error) as error:  # the second of a web page, whose lines may be too long for a field
        raise InputError(
            f"{path} is no table of labels ({error}); expected a line of names and lines of whole numbers. Make it"
            f" again from {path.name.replace('annotations.csv', 'ordered.npy')}."
        ) from error
    return {name: table[:, column] for column, name in enumerate(header)}


def _column(columns: dict[str, np.ndarray], names: tuple[str, ...], path: pathlib.Path) -> np.ndarray:
    for name in names:
        if name in columns and columns[name].ndim == 1 and len(columns[name]):
            return columns[name]
    raise InputError(
        f"{path} has no list '{names[0]}', only {', '.join(sorted(columns)) or 'nothing'}; fetch it again from"
        f" {_SOURCE}."
    )


def _order_path(variant: _Variant, root: pathlib.Path, beside: pathlib.Path) -> pathlib.Path | None:
    # In the authors' repository it lies in the folder above the labels.
    places = [beside.parent / variant.order_file, beside.parent.parent / variant.order_file]
    return next((path for path in [*places, *_places(root, variant.order_file)] if path.is_file()), None)


def _read_order(variant: _Variant, root: pathlib.Path, labels: pathlib.Path, count: int) -> np.ndarray:
    """Returns [N] int64, the original position of the i-th label of a file in tensorflow-datasets' order."""
    path = _order_path(variant, root, labels)
    if path is None:
        raise InputError(
            f"{labels} is in the order of tensorflow-datasets, and {variant.order_file}, which says which image is"
            f" which, is not in {labels.parent}, in the folder above, or in {root}. Fetch it, or {variant.stem}.pt,"
            f" which does not need it, from {_SOURCE}."
        )
    try:
        order = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({error}); fetch it again from {_SOURCE}.") from error
    if order.dtype.kind not in "iu" or not np.array_equal(np.sort(order, axis=None), np.arange(count)):
        raise InputError(
            f"{path} does not hold each of 0 to {count - 1} once, so it is not the order of {count:,} images; fetch it"
            f" again from {_SOURCE}."
        )
    return order.astype(np.int64)


def _in_original_order(labels: np.ndarray, order: np.ndarray | None) -> np.ndarray:
    if order is None:
        return labels
    arranged = np.empty_like(labels)
    arranged[order] = labels
    return arranged


def _difference(clean: np.ndarray, true: np.ndarray, path: pathlib.Path, dataset: Dataset) -> str:
    """Says how many of the file's clean labels are not CIFAR's, and which is the first; both [N], original order."""
    differ = np.flatnonzero(clean != true)
    first, names = int(differ[0]), dataset.class_names
    found = names[clean[first]] if 0 <= clean[first] < len(names) else "no class"
    return (
        f"{path} does not belong to these images: {len(differ):,} of its {len(clean):,} clean labels are not"
        f" {dataset.name}'s, the first that of training image {first}, which is {clean[first]} ({found}) in the file"
        f" and {true[first]} ({names[true[first]]}) in {dataset.name}."
    )


def _explanation(
    variant: _Variant, config: DataConfig, clean: np.ndarray, true: np.ndarray, order: np.ndarray | None
) -> str:
    """Finds out in which order the labels of a file are, and says what to do.

    Args:
        variant: Which dataset.
        config: Where it lies.
        clean: [N] the file's clean labels, in the file's order.
        true: [N] CIFAR's labels, in the original order.
        order: [N] The order that was assumed; None for the original one.
    """
    use = f"Use the authors' {variant.stem}.pt from {_SOURCE}."
    if order is not None and np.array_equal(clean, true):
        return f"Its labels are in the order of the original files, not of tensorflow-datasets as its name says. {use}"
    for name, permutation in _known_orders(variant, config, len(clean)):
        if np.array_equal(clean, true[permutation]):
            return f"Its labels are in the order of {name}, not of the original files. {use}"
    return f"No known order of the images explains it. {use}"


def _known_orders(variant: _Variant, config: DataConfig, count: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (what it is, [N] the original position of the i-th) of the orders that label files are known to have."""
    root = tfds_folder.data_root(config.data_dir)
    labels = root / "data" / variant.stem
    with contextlib.suppress(InputError):  # without that file, or with a bad one, the folder itself may tell
        order = _read_order(variant, root, labels, count)
        yield f"tensorflow-datasets (as {_order_path(variant, root, labels)} has it)", order
    stored = cifar.storage_order(variant.cifar, config)
    if len(stored) == count:
        yield f"tensorflow-datasets (as {root / variant.cifar} stores it)", stored
