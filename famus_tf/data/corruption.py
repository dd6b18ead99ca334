"""Seeded label noise: who gets a wrong label, and which.

All noise types are one mechanism. A type says where a corrupted label goes, as a [K, K] matrix Q;
the noise matrix is T = (1 - rate) I + rate Q, rows = true class; and each example's label is drawn
from its row of T by two uniform numbers that are a hash of (seed, example id).
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from famus_tf.data.examples import uniform_draws
from famus_tf.errors import InputError

_CIFAR10_NAMES = ("cifar10", "cifar10n", "cifar10_lt")
_CIFAR100_NAMES = ("cifar100", "cifar100n", "cifar100_lt")
_CIFAR10_LOOKALIKES = {9: 1, 2: 0, 3: 5, 5: 3, 4: 7}  # truck, bird, cat, dog, deer


@dataclasses.dataclass(frozen=True)
class _Classes:
    """What a noise type may need to know to say where labels go."""

    num_classes: int
    seed: int
    coarse_labels: tuple[int, ...] | None
    dataset_name: str | None


def corrupt(
    given_labels: np.ndarray,
    ids: np.ndarray,
    *,
    noise_type: str,
    noise_rate: float,
    num_classes: int,
    seed: int,
    coarse_labels: Sequence[int] | None = None,
    dataset_name: str | None = None,
) -> np.ndarray:
    """Returns labels with noise, each drawn on its own from its row of `noise_matrix`.

    Of an example's two uniform numbers the first decides whether the label changes, the second to
    which class, so that with one seed the examples that are wrong at rate 0.2 are also wrong at
    rate 0.4, with the same labels.

    The number of wrong labels is therefore binomial (Bernoulli per example), as in the official
    codes of MW-Net, Co-teaching, JoCoR, F-correction, INCV, M-correction and PENCIL. Differs from
    the codes of L2R, MLC, DivideMix, D2L and Joint-Optim, which corrupt an exact count.

    Args:
        given_labels: [N] int32 in [0, K), the labels before the noise.
        ids: [N] unicode strings, unique.
        noise_type: A name in `NOISE_TYPES`.
        noise_rate: In [0, 1]; what it means for each type is said in `noise_matrix`.
        num_classes: The number of classes K.
        seed: Any integer.
        coarse_labels: [K] superclass of each class, for the types that need it.
        dataset_name: The dataset's name, for the types that are defined for some datasets only.

    Returns:
        [N] int32 in [0, K).

    Raises:
        InputError: As `noise_matrix`, or if a label is not in [0, K), or if labels and ids differ
            in length.
    """
    labels = np.asarray(given_labels)
    if len(labels) != len(ids):
        raise InputError(f"{len(labels)} labels were given for {len(ids)} ids; there must be one per id.")
    if len(labels) and not (0 <= labels.min() and labels.max() < num_classes):
        raise InputError(f"Labels are {labels.min()} to {labels.max()}; {num_classes} classes need 0 to K - 1.")
    matrix = noise_matrix(
        noise_type,
        noise_rate,
        num_classes,
        seed=seed,
        coarse_labels=coarse_labels,
        dataset_name=dataset_name,
    )
    draws = uniform_draws(ids, seed=seed, purpose="label noise", num_draws=2)
    noisy = labels.astype(np.int32)
    for true_class in range(num_classes):
        wrong = matrix[true_class].copy()
        wrong[true_class] = 0.0
        cumulative = np.cumsum(wrong)
        rows = np.flatnonzero((labels == true_class) & (draws[:, 0] < cumulative[-1]))
        targets = np.searchsorted(cumulative, draws[rows, 1] * cumulative[-1], side="right")
        last_target = np.searchsorted(cumulative, cumulative[-1])  # rounding must not carry a draw past the row
        noisy[rows] = np.minimum(targets, last_target)
    return noisy


def noise_matrix(
    noise_type: str,
    noise_rate: float,
    num_classes: int,
    *,
    seed: int = 0,
    coarse_labels: Sequence[int] | None = None,
    dataset_name: str | None = None,
) -> np.ndarray:
    """Returns the probability of each given label for each true class.

    The types, with rho the noise rate:

    - `symmetric`: with probability rho a label drawn from all K classes, the true one included, so
      that rho (K-1)/K of the labels become wrong. FaMUS (CVPR
      2021), whose default it is here, MW-Net and DivideMix.
    - `symmetric_excluded`: the same over the K-1 other classes, so that rho of the labels become
      wrong. Co-teaching, JoCoR, F-correction, D2L, and MLC's default.
    - `asymmetric`: a class goes to one look-alike with probability rho. CIFAR-10: truck to
      automobile, bird to airplane, deer to horse, cat and dog to each other, so that rho/2 of all
      labels become wrong (F-correction, CVPR 2017). CIFAR-100: the next class of the same
      superclass, cyclically. Differs from the codes of F-correction and JoCoR, which take blocks of
      five consecutive classes for superclasses; CIFAR-100's fine classes are in alphabetical order
      and such blocks are not superclasses.
    - `flip`: each class goes to one random other class with probability rho (MW-Net's code).
    - `flip2`: each class goes to two random other classes with probability rho/2 each (MW-Net's
      code).
    - `hierarchical`: each class goes to the other classes of its superclass, rho/4 each on
      CIFAR-100 (MW-Net's code).
    - `pairflip`: class i goes to i + 1 modulo K with probability rho (Co-teaching, NeurIPS 2018).
    - `none`: no noise whatever the rate.

    Differs from MW-Net's code: the target classes of `flip` and `flip2` follow from the hash of
    (seed, class), not from NumPy's generator with seed 1.

    Args:
        noise_type: A name in `NOISE_TYPES`.
        noise_rate: rho, in [0, 1].
        num_classes: The number of classes K.
        seed: Decides the targets of `flip` and `flip2`.
        coarse_labels: [K] superclass of each class; `hierarchical` and CIFAR-100's `asymmetric`
            need it.
        dataset_name: The dataset's name; `asymmetric` needs it.

    Returns:
        [K, K] float64, row = true class, column = given label, rows summing to 1. cleanlab's noise
        matrix is the transpose.

    Raises:
        InputError: If the type is unknown or not defined for this dataset, the rate is not in
            [0, 1], or there are too few classes.
    """
    if noise_type not in NOISE_TYPES:
        raise InputError(f"noise_type is '{noise_type}'; choose one of {', '.join(NOISE_TYPES)}.")
    if not 0.0 <= noise_rate <= 1.0:
        hint = ""
        if 1.0 < noise_rate <= 100.0:
            hint = f" Did you mean {noise_rate / 100:g} ({noise_rate:g} %)?"
        raise InputError(f"noise_rate is {noise_rate}; it is a fraction and must be in [0, 1].{hint}")
    least_classes = 3 if noise_type == "flip2" else 2
    if num_classes < least_classes:
        raise InputError(f"noise_type '{noise_type}' needs at least {least_classes} classes, got {num_classes}.")
    if coarse_labels is not None and len(coarse_labels) != num_classes:
        raise InputError(f"coarse_labels has {len(coarse_labels)} entries for {num_classes} classes.")
    coarse = None if coarse_labels is None else tuple(int(label) for label in coarse_labels)
    targets = NOISE_TYPES[noise_type](_Classes(num_classes, seed, coarse, dataset_name))
    return (1.0 - noise_rate) * np.eye(num_classes) + noise_rate * targets


def measured_noise_rate(given_labels: np.ndarray, true_labels: np.ndarray) -> float:
    """Returns the fraction, in [0, 1], of labels that differ from the true ones.

    Args:
        given_labels: [N] integers.
        true_labels: [N] integers.

    Raises:
        InputError: If the two differ in length or are empty.
    """
    given, true = np.asarray(given_labels), np.asarray(true_labels)
    if given.shape != true.shape or not given.size:
        raise InputError(f"Given and true labels have shapes {given.shape} and {true.shape}: need equal, not empty.")
    return float(np.mean(given != true))


def _symmetric(classes: _Classes) -> np.ndarray:
    return np.full((classes.num_classes, classes.num_classes), 1.0 / classes.num_classes)


def _symmetric_excluded(classes: _Classes) -> np.ndarray:
    return (1.0 - np.eye(classes.num_classes)) / (classes.num_classes - 1)


def _asymmetric(classes: _Classes) -> np.ndarray:
    if classes.dataset_name in _CIFAR10_NAMES and classes.num_classes == 10:
        return np.eye(10)[[_CIFAR10_LOOKALIKES.get(label, label) for label in range(10)]]
    if classes.dataset_name in _CIFAR100_NAMES and classes.coarse_labels is not None:
        members = [_members(classes.coarse_labels, label) for label in range(classes.num_classes)]
        nexts = [group[(group.index(label) + 1) % len(group)] for label, group in enumerate(members)]
        return np.eye(classes.num_classes)[nexts]
    raise InputError(
        f"noise_type 'asymmetric' got dataset '{classes.dataset_name}' with {classes.num_classes} "
        "classes and "
        f"{'no ' if classes.coarse_labels is None else ''}superclasses; it is defined for cifar10 "
        "and for cifar100 "
        "(with superclasses). For other datasets take 'flip' or 'pairflip'."
    )


def _flip(classes: _Classes) -> np.ndarray:
    return np.eye(classes.num_classes)[_random_others(classes)[:, 0]]


def _flip2(classes: _Classes) -> np.ndarray:
    first, second = _random_others(classes).T
    identity = np.eye(classes.num_classes)
    return 0.5 * identity[first] + 0.5 * identity[second]


def _hierarchical(classes: _Classes) -> np.ndarray:
    if classes.coarse_labels is None:
        raise InputError("noise_type 'hierarchical' needs a dataset with superclasses, such as cifar100.")
    coarse = np.array(classes.coarse_labels)
    siblings = (coarse[:, None] == coarse[None, :]) & ~np.eye(classes.num_classes, dtype=bool)
    num_siblings = siblings.sum(axis=1, keepdims=True)
    if not num_siblings.all():
        raise InputError(f"Class {int(num_siblings.argmin())} is alone in its superclass: 'hierarchical' needs two.")
    return siblings / num_siblings


def _pairflip(classes: _Classes) -> np.ndarray:
    return np.roll(np.eye(classes.num_classes), 1, axis=1)


def _none(classes: _Classes) -> np.ndarray:
    return np.eye(classes.num_classes)


def _random_others(classes: _Classes) -> np.ndarray:
    """Returns [K, 2] int64: a random other class for each class, and (K > 2) yet another one."""
    num_classes = classes.num_classes
    own = np.arange(num_classes)
    draws = uniform_draws(map(str, own), seed=classes.seed, purpose="flip targets", num_draws=2)
    first = (draws[:, 0] * (num_classes - 1)).astype(np.int64)
    first += first >= own
    second = (draws[:, 1] * (num_classes - 2)).astype(np.int64)
    for taken in (
        np.minimum(own, first),
        np.maximum(own, first),
    ):  # ascending, so that each step skips one class
        second += second >= taken
    return np.stack([first, second], axis=1)


def _members(coarse_labels: tuple[int, ...], label: int) -> list[int]:
    return [other for other, coarse in enumerate(coarse_labels) if coarse == coarse_labels[label]]


NOISE_TYPES: dict[str, Callable[[_Classes], np.ndarray]] = {
    "symmetric": _symmetric,
    "symmetric_excluded": _symmetric_excluded,
    "asymmetric": _asymmetric,
    "flip": _flip,
    "flip2": _flip2,
    "hierarchical": _hierarchical,
    "pairflip": _pairflip,
    "none": _none,
}
"""The noise types by name; each gives Q [K, K], where a corrupted label of each true class goes."""
