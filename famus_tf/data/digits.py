"""Handwritten digits, 8 x 8 pixels, from scikit-learn: a real dataset that needs no download.

1,797 images of ten classes with grey levels 0 to 16 (E. Alpaydin and C. Kaynak, UCI Machine
Learning Repository).
"""

import numpy as np

from famus_tf.config import DataConfig
from famus_tf.data import splitting
from famus_tf.data.examples import Dataset, ExampleTable, Preprocessing

NUM_TEST = 500
_TEST_SEED = 0  # part of the dataset's definition here: the test set is the same in every run
_GREY_LEVELS = 16.0

PREPROCESSING = Preprocessing(
    mean=(0.305309,),  # over all pixels of all 1,797 images after scaling to 0..255
    std=(0.375886,),
    padding=1,
    padding_mode="zero",
    flip=False,  # a mirrored digit is another sign
)


def load(config: DataConfig | None = None) -> Dataset:
    """Returns the digits: 1,297 training and 500 test examples.

    scikit-learn distributes one set without a test part. The test set here is fixed, 50 of each
    class, chosen by a hash of the ids. Ids are "digits_00000" to "digits_01796", the position in
    scikit-learn's file.

    Args:
        config: Not used; present because every dataset is loaded alike.

    Returns:
        The dataset, images [N, 8, 8, 1] uint8 with the 17 grey levels spread over 0..255.
    """
    del config
    import sklearn.datasets  # here: importing it takes a second, and other datasets do not need it

    digits = sklearn.datasets.load_digits()
    images = np.round(digits.images * (255.0 / _GREY_LEVELS)).astype(np.uint8)[..., np.newaxis]
    labels = digits.target.astype(np.int32)
    ids = np.array([f"digits_{position:05d}" for position in range(len(labels))])
    table = ExampleTable(ids=ids, images=images, given_labels=labels, true_labels=labels)

    quotas = splitting.balanced_quotas(NUM_TEST, 10)
    test_rows = splitting.draw_rows(ids, labels, quotas, seed=_TEST_SEED, purpose="digits test set")
    train_rows = np.setdiff1d(np.arange(len(table)), test_rows)
    return Dataset(
        name="digits",
        train=table.take(train_rows),
        test=table.take(test_rows),
        class_names=tuple(str(digit) for digit in range(10)),
        preprocessing=PREPROCESSING,
    )
