"""Makes a run's splits of a dataset: meta set, long tail, validation set, label noise.

Which example goes where follows from a hash of (seed, example id), so it does not depend on the
order in which a dataset was read, on NumPy's generators or on the platform. Every table that comes
out is in the order of its ids.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from famus_tf.data import long_tail
from famus_tf.data.examples import Dataset, ExampleTable, Splits, uniform_draws
from famus_tf.errors import InputError


def split(
    dataset: Dataset,
    *,
    num_meta: int = 0,
    num_validation: int = 0,
    num_train: int = 0,
    seed: int = 0,
    corrupt: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    meta_set: str = "train",
    imbalance_factor: float = 1.0,
) -> Splits:
    """Splits a dataset into train, meta, validation and test, makes a long tail, and adds label noise.

    In this order: the meta set, balanced over classes and with true labels, leaves the training set (MW-Net,
    NeurIPS 2019, and its CIFAR code), or is drawn from the authors' own clean examples, which then are not trained on;
    the classes of the training set are cut to a long tail; the validation set is drawn from what remains, in proportion
    to its classes; the training set is cut down; and noise is added to training and validation alike, as a validation
    set cut from noisy data would have it. Meta and test stay clean.

    Where the authors give a validation set and `num_validation` is 0, theirs is used as it is, without noise; asking
    for a number takes a validation set out of the training examples instead, and leaves theirs aside.

    Where labels decide (quotas, the long tail) and the true ones are unknown, the given ones do.

    Differs from MW-Net's code: that one splits twice, for the training set with the run's seed and
    for the meta set with seed 1, so that with other seeds meta examples are also trained on.

    Args:
        dataset: The dataset as distributed.
        num_meta: Size of the clean meta set; see `balanced_quotas`. 0 for none.
        num_validation: Size of the validation set; see `proportional_quotas`. 0 for the authors' own, or none.
        num_train: How many of the examples that are left to train on, a fixed draw in proportion to the classes; 0 for
            all of them.
        seed: Decides which examples are drawn.
        corrupt: Maps (given labels [n] int32, ids [n]) to noisy labels [n] int32, for instance
            `functools.partial(corruption.corrupt, noise_type="symmetric", ...)`; None for no noise.
        meta_set: "train" takes the meta set out of the training examples, with true labels; "clean" out of
            `dataset.meta`; "given" out of the training examples, balanced by their given labels and with them, noise
            included, where nothing clean is to be had. Where the true labels of the training examples are unknown and
            there is a `dataset.meta`, "train" means "clean".
        imbalance_factor: Size of class 0 over that of class K - 1 after the meta set has been taken out; see
            `long_tail.class_counts`, whose n_max is the largest class. A class that has fewer examples than its place
            in the tail keeps them all. 1 leaves the classes alone.

    Returns:
        The splits. `meta` is None when `num_meta` is 0, `validation` when there is none.

    Raises:
        InputError: If a number is negative, a class has no training example to begin with or none
            left after the draws, a class cannot give its part of the meta set, a meta set is wanted but true labels are
            unknown and there are no clean examples, or validation asks for more than is left.
    """
    for name, value in (("num_meta", num_meta), ("num_validation", num_validation), ("num_train", num_train)):
        if value < 0:
            raise InputError(f"{name} is {value}; it must be 0 or more.")
    train = dataset.train.take(np.argsort(dataset.train.ids, kind="stable"))
    _require_every_class(_best_known_labels(train), dataset.class_names, "in the training set as distributed")

    meta, validation, notes = None, dataset.validation, list(dataset.notes)
    if num_meta:
        truth_is_unknown = dataset.meta is not None and train.true_labels is None
        if meta_set == "clean" or (meta_set == "train" and truth_is_unknown):
            meta = _draw_clean(dataset, num_meta, seed)
            train = train.take(np.flatnonzero(~np.isin(train.ids, meta.ids)))
            _require_every_class(
                _best_known_labels(train), dataset.class_names, "left for training beside the meta set"
            )
        else:
            meta, train = _take_meta(train, dataset.class_names, num_meta, seed, with_true_labels=meta_set == "train")
        if meta_set == "train" and truth_is_unknown:
            notes.append(f"The meta set of {num_meta} is drawn from the clean examples that come with the dataset.")
    if imbalance_factor != 1.0:
        train = _make_long_tail(train, dataset.class_names, imbalance_factor, seed)
    if num_validation:
        if validation is not None:
            notes.append(
                f"--num_validation={num_validation} is taken out of the training set; the {len(validation)} validation"
                " examples that come with the dataset are not used (0 would use them)."
            )
        validation, train = _take_validation(train, dataset.class_names, num_validation, seed)
    if num_train:
        train = _keep_some(train, dataset.class_names, num_train, seed)
    if corrupt is not None:
        train = train.with_given_labels(corrupt(train.given_labels, train.ids))
        if num_meta and meta_set == "given":
            meta = meta.with_given_labels(corrupt(meta.given_labels, meta.ids))
        if num_validation:
            validation = validation.with_given_labels(corrupt(validation.given_labels, validation.ids))
    return Splits(
        train=train,
        test=dataset.test,
        meta=meta,
        validation=validation,
        class_names=dataset.class_names,
        preprocessing=dataset.preprocessing,
        more_tests=dataset.more_tests,
        notes=tuple(notes),
    )


def balanced_quotas(total: int, num_classes: int) -> np.ndarray:
    """Shares `total` equally over classes; the first classes get one more if it does not divide.

    Args:
        total: The number of examples to share, 0 or more.
        num_classes: The number of classes K.

    Returns:
        [K] int64 counts that sum to `total`.
    """
    quotas = np.full(num_classes, total // num_classes, dtype=np.int64)
    quotas[: total % num_classes] += 1
    return quotas


def largest_balanced_total(class_counts: Sequence[int] | np.ndarray) -> int:
    """Returns the largest total whose `balanced_quotas` the classes can give.

    Args:
        class_counts: [K] examples that each class has.
    """
    counts = np.asarray(class_counts)
    smallest = int(counts.argmin())  # the first of the smallest: the classes before it can give one more
    return int(counts[smallest]) * len(counts) + smallest


def proportional_quotas(total: int, class_counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Shares `total` over classes in proportion to their sizes, by largest remainder.

    Args:
        total: The number of examples to share, at most the sum of `class_counts`.
        class_counts: [K] examples that each class has.

    Returns:
        [K] int64 counts that sum to `total`. Of equal remainders the lower class index gets the
        example.
    """
    counts = np.asarray(class_counts, dtype=np.int64)
    quotas, remainders = np.divmod(total * counts, counts.sum())
    first = np.argsort(-remainders, kind="stable")[: total - quotas.sum()]
    quotas[first] += 1
    return quotas


def draw_rows(
    ids: np.ndarray,
    labels: np.ndarray,
    quotas: Sequence[int] | np.ndarray,
    *,
    seed: int,
    purpose: str,
) -> np.ndarray:
    """Draws rows class by class: those whose hash of (purpose, seed, id) is smallest.

    Args:
        ids: [N] unique strings.
        labels: [N] int32 in [0, K).
        quotas: [K] how many rows to take from each class, at most what the class has.
        seed: Any integer.
        purpose: What the draw is for; different purposes draw independently.

    Returns:
        [sum of quotas] int64 row indices, ascending. The ids behind them do not depend on the order
        of the rows.
    """
    draws = uniform_draws(ids, seed=seed, purpose=purpose, num_draws=1)[:, 0]
    order = np.lexsort((ids, draws))  # by draw; the id would settle a tie
    chosen = [order[labels[order] == class_index][:quota] for class_index, quota in enumerate(quotas)]
    return np.sort(np.concatenate(chosen))


def _draw_clean(dataset: Dataset, num_meta: int, seed: int) -> ExampleTable:
    """Draws the meta set from the examples that the authors give as clean."""
    if dataset.meta is None:
        raise InputError(
            f"--meta_set=clean takes the meta set out of a dataset's own clean examples, and {dataset.name} comes with"
            " none; give --meta_set=train."
        )
    clean = dataset.meta.take(np.argsort(dataset.meta.ids, kind="stable"))
    labels = _best_known_labels(clean)
    quotas = balanced_quotas(num_meta, len(dataset.class_names))
    counts = np.bincount(labels, minlength=len(dataset.class_names))
    if (quotas > counts).any():
        short = int((quotas > counts).argmax())
        raise InputError(
            f"A meta set of {num_meta} takes {quotas[short]} examples of class '{dataset.class_names[short]}', of which"
            f" the dataset has {counts[short]} clean ones; ask for at most {largest_balanced_total(counts)}, or add"
            " clean examples of that class."
        )
    meta = clean.take(draw_rows(clean.ids, labels, quotas, seed=seed, purpose="meta"))
    labels = _best_known_labels(meta)
    return dataclasses.replace(meta, given_labels=labels, true_labels=labels)


def _take_meta(
    train: ExampleTable, class_names: tuple[str, ...], num_meta: int, seed: int, *, with_true_labels: bool
) -> tuple[ExampleTable, ExampleTable]:
    if with_true_labels and train.true_labels is None:
        raise InputError(
            f"A clean meta set of {num_meta} was asked for, but the true labels of this dataset are unknown and it"
            " comes with no clean examples; take labels as they are given (--meta_set=given), or train without a meta"
            " set (--method=ce --num_meta=0)."
        )
    labels = train.true_labels if with_true_labels else train.given_labels
    quotas = balanced_quotas(num_meta, len(class_names))
    counts = np.bincount(labels, minlength=len(class_names))
    if (quotas >= counts).any():
        short = int((quotas >= counts).argmax())
        raise InputError(
            f"A meta set of {num_meta} takes {quotas[short]} examples of class "
            f"'{class_names[short]}', which has "
            f"{counts[short]} and must keep at least one for training; ask for a smaller meta set."
        )
    meta, rest = _take_out(train, draw_rows(train.ids, labels, quotas, seed=seed, purpose="meta"))
    return (meta.with_given_labels(meta.true_labels) if with_true_labels else meta), rest


def _take_validation(
    train: ExampleTable, class_names: tuple[str, ...], num_validation: int, seed: int
) -> tuple[ExampleTable, ExampleTable]:
    if num_validation >= len(train):
        raise InputError(
            f"A validation set of {num_validation} was asked for, but {len(train)} training "
            "examples are left and "
            "some must remain; ask for a smaller one."
        )
    labels = _best_known_labels(train)
    quotas = proportional_quotas(num_validation, np.bincount(labels, minlength=len(class_names)))
    rows = draw_rows(train.ids, labels, quotas, seed=seed, purpose="validation")
    validation, rest = _take_out(train, rows)
    _require_every_class(
        _best_known_labels(rest),
        class_names,
        f"left for training after a validation set of {num_validation}",
    )
    return validation, rest


def _make_long_tail(
    train: ExampleTable, class_names: tuple[str, ...], imbalance_factor: float, seed: int
) -> ExampleTable:
    labels = _best_known_labels(train)
    counts = np.bincount(labels, minlength=len(class_names))
    quotas = long_tail.class_counts(int(counts.max()), len(class_names), imbalance_factor)
    rows = draw_rows(train.ids, labels, np.minimum(quotas, counts), seed=seed, purpose="long tail")
    return train.take(rows)


def _keep_some(train: ExampleTable, class_names: tuple[str, ...], num_train: int, seed: int) -> ExampleTable:
    if num_train > len(train):
        raise InputError(
            f"--num_train={num_train} examples were asked for, but {len(train)} are left to train on; ask for at most"
            " as many, or for 0 to take all."
        )
    labels = _best_known_labels(train)
    quotas = proportional_quotas(num_train, np.bincount(labels, minlength=len(class_names)))
    kept = train.take(draw_rows(train.ids, labels, quotas, seed=seed, purpose="train"))
    _require_every_class(_best_known_labels(kept), class_names, f"among {num_train} training examples")
    return kept


def _take_out(table: ExampleTable, rows: np.ndarray) -> tuple[ExampleTable, ExampleTable]:
    stays = np.ones(len(table), dtype=bool)
    stays[rows] = False
    return table.take(rows), table.take(np.flatnonzero(stays))


def _best_known_labels(table: ExampleTable) -> np.ndarray:
    return table.given_labels if table.true_labels is None else table.true_labels


def _require_every_class(labels: np.ndarray, class_names: tuple[str, ...], where: str) -> None:
    counts = np.bincount(labels, minlength=len(class_names))
    if not counts.all():
        empty = class_names[int(counts.argmin())]
        raise InputError(f"Class '{empty}' has no example {where}; every class needs at least one.")
