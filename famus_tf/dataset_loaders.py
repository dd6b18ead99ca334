"""The datasets by name, each with what loads it.

Loaders import their module when they are called, so that asking for names costs nothing.
"""


def _load_digits(config):
    from famus_tf.data import digits

    return digits.load(config)


def _load_cifar10(config):
    from famus_tf.data import cifar

    return cifar.load_cifar10(config)


def _load_cifar100(config):
    from famus_tf.data import cifar

    return cifar.load_cifar100(config)


def _load_cifar10n(config):
    from famus_tf.data import cifar_n

    return cifar_n.load_cifar10n(config)


def _load_cifar100n(config):
    from famus_tf.data import cifar_n

    return cifar_n.load_cifar100n(config)


def _load_cifar10_lt(config):
    from famus_tf.data import cifar

    return cifar.load_cifar10_lt(config)


def _load_cifar100_lt(config):
    from famus_tf.data import cifar

    return cifar.load_cifar100_lt(config)


def _load_clothing1m(config):
    from famus_tf.data import clothing1m

    return clothing1m.load(config)


def _load_webvision(config):
    from famus_tf.data import webvision

    return webvision.load(config)


def _load_red_mini_imagenet(config):
    from famus_tf.data import red_mini_imagenet

    return red_mini_imagenet.load(config)


def _load_folder(config):
    from famus_tf.data import folder

    return folder.load(config)


def load_tfds(config):
    """Loads `tfds:<name>`."""
    from famus_tf.data import tfds_dataset

    return tfds_dataset.load(config)


DATASETS = {
    "digits": _load_digits,
    "cifar10": _load_cifar10,
    "cifar100": _load_cifar100,
    "cifar10n": _load_cifar10n,
    "cifar100n": _load_cifar100n,
    "cifar10_lt": _load_cifar10_lt,
    "cifar100_lt": _load_cifar100_lt,
    "clothing1m": _load_clothing1m,
    "webvision": _load_webvision,
    "red_mini_imagenet": _load_red_mini_imagenet,
    "folder": _load_folder,
}
"""Name -> load(DataConfig) -> `Dataset`; those of tensorflow-datasets go by the pattern `tfds:<name>`."""
