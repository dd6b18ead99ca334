"""Long-tailed class sizes: from the largest class to the smallest by a constant factor, as the field makes them.

Class 0 is the head and class K - 1 the tail (Cui et al., Class-Balanced Loss, CVPR 2019, and the codes that followed).
Who stays is decided where the training set is split.
"""

import numpy as np

from famus_tf.errors import InputError


def class_counts(largest: int, num_classes: int, imbalance_factor: float) -> np.ndarray:
    """Returns how many examples each class keeps: n_i = int(n_max (1/IF)^(i/(K-1))), truncated.

    In Python's float64 and in just this form, as the official codes have it: other forms give one example less where
    the result is a whole number. n_max is 5000 (CIFAR-10) or 500 (CIFAR-100) in the codes of the class-balanced loss,
    LDAM and BBN; MW-Net (its class-imbalance code), Jamal et al. and hence FaMUS (CVPR 2021, Table 8) first take ten
    examples of each class out for the meta set, which leaves 4990 and 490.

    Args:
        largest: n_max, the size of class 0, 1 or more.
        num_classes: The number of classes K, 2 or more.
        imbalance_factor: IF, the size of class 0 over that of class K - 1, 1 or more.

    Returns:
        [K] int64, descending.

    Raises:
        InputError: If an argument is outside of what is stated above, or a class would keep no example.
    """
    if num_classes < 2:
        raise InputError(f"A long tail needs at least 2 classes, got {num_classes}.")
    if not 1.0 <= imbalance_factor < float("inf"):
        raise InputError(f"--imbalance_factor is {imbalance_factor}; it must be 1 or more.")
    smaller = 1.0 / imbalance_factor
    counts = [int(largest * smaller ** (label / (num_classes - 1.0))) for label in range(num_classes)]
    if counts[-1] < 1:
        raise InputError(
            f"--imbalance_factor={imbalance_factor:g} leaves the smallest class without an example, because the largest"
            f" has {largest}; give a factor of at most {largest}."
        )
    return np.array(counts, dtype=np.int64)
