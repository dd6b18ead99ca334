"""The records that carry a dataset: its examples, how to prepare them, its splits.

Every example has a name, its `id`, which stays with it through splitting, label noise, training and
the label report. Chance that belongs to an example (is it in the meta set? is its label corrupted?)
is a function of a seed and that id, `uniform_draws`, and of nothing else.
"""

import dataclasses
import hashlib
from collections.abc import Iterable

import numpy as np

from famus_tf.data.pictures import AbstractPictures
from famus_tf.errors import InputError

PADDING_MODES = ("reflect", "zero")
CROPS = ("random", "center")
CHANNEL_ORDERS = ("rgb", "bgr")
_BYTES_PER_DRAW = 8
_MOST_DRAWS = hashlib.blake2b.MAX_DIGEST_SIZE // _BYTES_PER_DRAW


@dataclasses.dataclass(frozen=True, eq=False)
class ExampleTable:
    """Images with their labels and names, one row per example.

    Attributes:
        ids: [N] unicode strings, unique, for example "train_00012"; or bytes strings (UTF-8), which
            take a quarter of the memory. For picture files it is their array of paths itself.
        images: [N, H, W, C] uint8, pixels in 0..255; or float32, for images that a user has
            prepared and that go to the network as they are; or pictures that stay on disk, as if
            [N, H, W, 3] uint8.
        given_labels: [N] int32 in [0, K), the labels that training sees; they may be noisy.
        true_labels: [N] int32 in [0, K), or None when they are unknown.
    """

    ids: np.ndarray
    images: np.ndarray | AbstractPictures
    given_labels: np.ndarray
    true_labels: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Checks lengths, types and ranks.

        Raises:
            InputError: If an array has another type, rank or length than stated above, if a label
                is negative, or if two examples have the same id.
        """
        _check_array("ids", self.ids, rank=1, types=(np.str_, np.bytes_), wanted="unicode strings [N]")
        if not isinstance(self.images, AbstractPictures):
            _check_array(
                "images",
                self.images,
                rank=4,
                types=(np.uint8, np.float32),
                wanted="uint8 (or float32) [N, H, W, C]",
            )
        num_examples = len(self.ids)
        if len(self.images) != num_examples:
            raise InputError(f"images has {len(self.images)} rows and ids has {num_examples}: make them equal.")
        for name in ("given_labels", "true_labels"):
            labels = getattr(self, name)
            if labels is None and name == "true_labels":
                continue
            _check_array(name, labels, rank=1, types=(np.int32,), wanted="int32 [N]")
            if len(labels) != num_examples:
                raise InputError(f"{name} has {len(labels)} rows and ids has {num_examples}: make them equal.")
            if num_examples and labels.min() < 0:
                raise InputError(f"{name} holds {labels.min()}; labels are 0 or more.")
        _check_unique(self.ids)

    def __len__(self) -> int:
        """Returns the number of examples N."""
        return len(self.ids)

    def take(self, row_indices: np.ndarray) -> "ExampleTable":
        """Returns a table of the rows `row_indices` ([M] integers in [0, N)), in that order."""
        row_indices = np.asarray(row_indices, dtype=np.int64)
        images = self.images[row_indices]
        shares_names = isinstance(images, AbstractPictures) and self.images.names is self.ids
        return ExampleTable(
            ids=images.names if shares_names else self.ids[row_indices],
            images=images,
            given_labels=self.given_labels[row_indices],
            true_labels=None if self.true_labels is None else self.true_labels[row_indices],
        )

    def with_given_labels(self, labels: np.ndarray) -> "ExampleTable":
        """Returns the same examples with other given labels ([N] int32); the true labels stay."""
        return dataclasses.replace(self, given_labels=labels)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input.

    Pictures that stay on disk are resized (bilinear, antialiased) and cut to the table's H and W when they are decoded.

    Attributes:
        mean: Mean of each of the C channels, on the scale where a pixel is in [0, 1].
        std: Standard deviation of each channel, same scale, above 0.
        padding: Width in pixels of the border that a random crop may reach into; 0 for no such cropping. For sets whose
            images all have one size.
        padding_mode: "reflect" (mirrored without repeating the edge) or "zero" (black pixels,
            before normalisation).
        flip: Whether half of the training images are mirrored left to right.
        shorter_side: For pictures on disk: the shorter side is resized to this many pixels, at least H and W, and then
            H x W are cut out; 0 resizes straight to H x W, whatever the picture's proportions.
        crop: Which window is cut out of an augmented picture after that: "random" or "center". Without augmentation,
            and so for every test, it is the central one.
        channel_order: "rgb", or "bgr" for a network that takes the scaled blue first; mean and std are in the images'
            own order in any case.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: int = 0
    padding_mode: str = "reflect"
    flip: bool = False
    shorter_side: int = 0
    crop: str = "random"
    channel_order: str = "rgb"

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            InputError: If a value is outside of what is stated above.
        """
        if len(self.mean) != len(self.std) or not self.mean:
            raise InputError(f"mean {self.mean} and std {self.std} must both have one number per channel.")
        if not all(value > 0 for value in self.std):
            raise InputError(f"std is {self.std}; every standard deviation must be above 0.")
        if self.padding < 0:
            raise InputError(f"padding is {self.padding} pixels; it must be 0 or more.")
        if self.padding_mode not in PADDING_MODES:
            raise InputError(f"padding_mode is '{self.padding_mode}'; choose one of {', '.join(PADDING_MODES)}.")
        if self.shorter_side < 0:
            raise InputError(f"shorter_side is {self.shorter_side} pixels; it must be 0 or more.")
        if self.shorter_side and self.padding:
            raise InputError(
                f"shorter_side is {self.shorter_side} and padding {self.padding} pixels: an image is cut once, out of"
                " what resizing or what padding leaves; set one of them to 0."
            )
        if self.crop not in CROPS:
            raise InputError(f"crop is '{self.crop}'; choose one of {', '.join(CROPS)}.")
        if self.channel_order not in CHANNEL_ORDERS:
            raise InputError(f"channel_order is '{self.channel_order}'; choose one of {', '.join(CHANNEL_ORDERS)}.")


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset as its authors distribute it, before any splitting or label noise.

    Attributes:
        name: Its name, for example "cifar10".
        train: The training examples.
        test: The test examples; nothing ever changes them.
        class_names: The K class names, in label order.
        preprocessing: How its images become inputs.
        coarse_labels: The superclass of each of the K classes, when the dataset has superclasses.
        validation: The authors' own validation examples, when they give some.
        meta: The authors' own clean training examples, when they give some.
        more_tests: Further test sets by name, for example {"imagenet": ...}.
        notes: What its user should be told before training, whole sentences.
    """

    name: str
    train: ExampleTable
    test: ExampleTable
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    coarse_labels: tuple[int, ...] | None = None
    validation: ExampleTable | None = None
    meta: ExampleTable | None = None
    more_tests: dict[str, ExampleTable] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks that the parts fit together.

        Raises:
            InputError: If a label is K or more, image shapes differ, or a per-class or per-channel
                list has another length.
        """
        tables = {"train": self.train, "test": self.test, "validation": self.validation, "meta": self.meta}
        _check_tables(tables, self.more_tests, self.class_names, self.preprocessing)
        if self.coarse_labels is not None and len(self.coarse_labels) != len(self.class_names):
            raise InputError(
                f"{self.name} has {len(self.coarse_labels)} coarse labels for "
                f"{len(self.class_names)} classes; "
                "there must be one per class."
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """What one run trains on, learns its weights from, selects by and is tested on.

    Attributes:
        train: Training examples; their given labels may be noisy.
        test: Test examples, untouched.
        meta: The small clean set that the meta-model learns from, not part of `train`; None without
            one.
        validation: Held-out examples with the same label noise as `train`; None without one.
        class_names: The K class names, in label order.
        preprocessing: How images become inputs.
        more_tests: Further test sets by name, untouched.
        notes: What its user should be told before training, whole sentences.
    """

    train: ExampleTable
    test: ExampleTable
    meta: ExampleTable | None
    validation: ExampleTable | None
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    more_tests: dict[str, ExampleTable] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks that the parts fit together.

        Raises:
            InputError: If a label is K or more, image shapes differ, or the channels do not fit.
        """
        tables = {"train": self.train, "test": self.test, "meta": self.meta, "validation": self.validation}
        _check_tables(tables, self.more_tests, self.class_names, self.preprocessing)

    @property
    def num_classes(self) -> int:
        """The number of classes K."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (H, W, C) of every image."""
        return tuple(self.train.images.shape[1:])


def id_text(example_id: str | bytes) -> str:
    """Returns an id as text; bytes that are not UTF-8 (an odd file name) become hexadecimal escapes."""
    return example_id.decode(errors="backslashreplace") if isinstance(example_id, bytes) else str(example_id)


def uniform_draws(ids: Iterable[str | bytes], *, seed: int, purpose: str, num_draws: int) -> np.ndarray:
    """Returns uniform random numbers that belong to examples, whatever their order or the platform.

    Draw j of an id is the j-th 8 bytes of blake2b("purpose, seed, id"), its upper 53 bits taken as
    a fraction.

    Args:
        ids: N strings; bytes strings count as the text whose UTF-8 they are.
        seed: Any integer.
        purpose: What the numbers decide, for example "meta"; different purposes give independent
            numbers.
        num_draws: How many numbers per id, 1 to 8.

    Returns:
        [N, num_draws] float64 in [0, 1).

    Raises:
        InputError: If `num_draws` is not in 1..8.
    """
    if not 1 <= num_draws <= _MOST_DRAWS:
        raise InputError(f"num_draws is {num_draws}; it must be 1 to {_MOST_DRAWS}.")
    start = hashlib.blake2b(f"{purpose}\n{int(seed)}\n".encode(), digest_size=_BYTES_PER_DRAW * num_draws)
    digests = bytearray()
    for example_id in ids:
        state = start.copy()
        state.update(bytes(example_id) if isinstance(example_id, bytes) else str(example_id).encode())
        digests += state.digest()
    integers = np.frombuffer(digests, dtype="<u8").reshape(-1, num_draws)
    return (integers >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _check_array(name: str, array: np.ndarray, *, rank: int, types: tuple[type, ...], wanted: str) -> None:
    if not isinstance(array, np.ndarray):
        got = type(array).__name__
    elif array.ndim != rank or array.dtype.type not in types:
        got = f"{array.dtype} {list(array.shape)}"
    else:
        return
    raise InputError(f"{name} must be a NumPy array of {wanted}, got {got}; convert it with astype or reshape.")


def _check_unique(ids: np.ndarray) -> None:
    # Tables that were split are in the order of their ids, and then no sorting is needed.
    if (ids[:-1] < ids[1:]).all():
        return
    in_order = np.sort(ids)
    repeats = in_order[1:][in_order[1:] == in_order[:-1]]
    if len(repeats):
        names, counts = np.unique(repeats, return_counts=True)
        name = names[counts.argmax()]
        raise InputError(f"The id '{id_text(name)}' occurs {counts.max() + 1} times; make ids unique.")


def _check_tables(
    tables: dict[str, ExampleTable | None],
    more_tests: dict[str, ExampleTable],
    class_names: tuple[str, ...],
    preprocessing: Preprocessing,
) -> None:
    tables = tables | {f"more_tests['{name}']": table for name, table in more_tests.items()}
    tables = {name: table for name, table in tables.items() if table is not None}
    num_classes = len(class_names)
    image_shape = tables["train"].images.shape[1:]
    if len(preprocessing.mean) != image_shape[-1]:
        raise InputError(f"Images have {image_shape[-1]} channels, mean and std have {len(preprocessing.mean)}.")
    if 0 < preprocessing.shorter_side < max(image_shape[:2]):
        raise InputError(
            f"shorter_side is {preprocessing.shorter_side} pixels, but {image_shape[0]} x {image_shape[1]} are to be"
            " cut out of what it leaves; make it at least as large."
        )
    for name, table in tables.items():
        if table.images.shape[1:] != image_shape:
            raise InputError(
                f"{name} images have shape {table.images.shape[1:]}, train images {image_shape}: resize them alike."
            )
        for labels in (table.given_labels, table.true_labels):
            if labels is not None and len(labels) and labels.max() >= num_classes:
                raise InputError(
                    f"{name} holds the label {labels.max()}, but {num_classes} classes have labels "
                    f"0 to {num_classes - 1}."
                )
