"""Names: which datasets, networks, meta-models, layer samplers and methods there are, and how each is built.

Builders import what they build when they are called, so that asking for names costs nothing.
"""

import re

from famus_tf import flag_table, recipe_files
from famus_tf.config import (
    LayerSamplerConfig,
    MetaModelConfig,
    MethodConfig,
    check_choice,
    nearest_hint,
)
from famus_tf.errors import InputError
from famus_tf.settings import METHOD_SETTINGS, method_config

_WIDE_RESNET = "wrn-<depth>-<width>"
_WIDE_RESNET_PATTERN = re.compile(r"wrn-([0-9]{1,4})-([0-9]{1,4})")


def _load_digits(data_dir):
    from famus_tf.data import digits

    return digits.load(data_dir)


def _load_cifar10(data_dir):
    from famus_tf.data import cifar

    return cifar.load_cifar10(data_dir)


def _load_cifar100(data_dir):
    from famus_tf.data import cifar

    return cifar.load_cifar100(data_dir)


def _build_small_cnn(input_shape, num_classes, **settings):
    from famus_tf.models import small_cnn

    return small_cnn.build(input_shape, num_classes, **settings)


def _build_resnet32(input_shape, num_classes, **settings):
    from famus_tf.models import cifar_resnet

    return cifar_resnet.build(input_shape, num_classes, **settings)


def _build_preact_resnet18(input_shape, num_classes, **settings):
    from famus_tf.models import preact_resnet

    return preact_resnet.build(input_shape, num_classes, **settings)


def _build_mwnet(config):
    from famus_tf.meta import mwnet

    return mwnet.MetaWeightNet(config)


def _build_l2r(config):
    from famus_tf.meta import l2r

    del config
    return l2r.LearningToReweight()


def _build_mlc(config):
    from famus_tf.meta import mlc

    return mlc.TransitionMatrix(config)


def _build_all_layers(config):
    from famus_tf.meta import layer_sampling

    del config
    return layer_sampling.AllLayers()


def _build_gradient_sampler(config):
    from famus_tf.meta import gradient_sampler

    return gradient_sampler.GradientSampler(config)


def _build_random_layers(config):
    from famus_tf.meta import layer_sampling

    return layer_sampling.RandomLayers(config)


def _build_layer_block(config):
    from famus_tf.meta import layer_sampling

    return layer_sampling.LayerBlock(config)


DATASETS = {"digits": _load_digits, "cifar10": _load_cifar10, "cifar100": _load_cifar100}
"""Name -> load(data_dir) -> `Dataset`."""

MODELS = {
    "small_cnn": _build_small_cnn,
    "resnet32": _build_resnet32,
    "preact_resnet18": _build_preact_resnet18,
}
"""Name -> build(input_shape, num_classes, *, seed, synchronized) -> Keras model; wide ResNets go by a pattern."""

META_MODELS = {"mwnet": _build_mwnet, "l2r": _build_l2r, "mlc": _build_mlc}
"""Name -> build(MetaModelConfig) -> `AbstractMetaModel`."""

LAYER_SAMPLERS = {
    "all": _build_all_layers,
    "famus": _build_gradient_sampler,
    "random": _build_random_layers,
    "block": _build_layer_block,
}
"""Name -> build(LayerSamplerConfig) -> `AbstractLayerSampler`."""


def dataset_names() -> tuple[str, ...]:
    """Returns the names of all datasets."""
    return tuple(DATASETS)


def model_names() -> tuple[str, ...]:
    """Returns the names of all networks; the last one is the pattern `wrn-<depth>-<width>`."""
    return (*MODELS, _WIDE_RESNET)


def method_names() -> tuple[str, ...]:
    """Returns the names of all methods."""
    return recipe_files.method_names()


def check_dataset_name(name: str, label: str = "The dataset") -> None:
    """Raises `InputError`, listing the known names and the nearest, unless `name` is a dataset's; `label` begins it."""
    check_choice(label, name, dataset_names())


def check_method_name(name: str, label: str = "The method") -> None:
    """Raises `InputError`, listing the known names and the nearest, unless `name` is a method's; `label` begins it."""
    check_choice(label, name, method_names())


def check_model_name(name: str, label: str = "The network") -> None:
    """Raises `InputError`, listing the known names and the nearest, unless `name` is a network's; `label` begins it."""
    if name in MODELS or _WIDE_RESNET_PATTERN.fullmatch(name):
        return
    hint = nearest_hint(name, (*MODELS, "wrn-28-10", "wrn-40-2", "wrn-16-4"))
    raise InputError(f"{label} must be one of {', '.join(model_names())}; got {name!r}.{hint}")


def load_dataset(name: str, data_dir: str | None = None):
    """Loads a dataset by name.

    Args:
        name: One of `dataset_names()`.
        data_dir: The folder of prepared datasets; None for the dataset's own default.

    Returns:
        A `famus_tf.data.examples.Dataset`, before any splitting or noise.

    Raises:
        InputError: If the name is unknown, or the data are not there.
    """
    check_dataset_name(name)
    return DATASETS[name](data_dir)


def build_model(
    name: str,
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    seed: int = 0,
    synchronized: bool = False,
):
    """Builds a network by name, inside the strategy's scope if there is one.

    Args:
        name: One of `model_names()`, for instance "wrn-28-10".
        input_shape: (H, W, C) of one image.
        num_classes: K.
        seed: Of the initial weights.
        synchronized: Whether batch statistics are taken over all replicas.

    Returns:
        A functional Keras model from images [B, H, W, C] to logits [B, K].

    Raises:
        InputError: If the name is unknown, or the network cannot be built for these images.
    """
    check_model_name(name)
    settings = {"seed": seed, "synchronized": synchronized}
    if name in MODELS:
        return MODELS[name](input_shape, num_classes, **settings)
    from famus_tf.models import wide_resnet

    depth, width = (int(part) for part in _WIDE_RESNET_PATTERN.fullmatch(name).groups())
    return wide_resnet.build(input_shape, num_classes, depth=depth, width=width, **settings)


def build_meta_model(config: MetaModelConfig):
    """Builds the `AbstractMetaModel` that a record names; its variables come with `build`."""
    return META_MODELS[config.name](config)


def build_layer_sampler(config: LayerSamplerConfig):
    """Builds the `AbstractLayerSampler` that a record names; its variables come with `build`."""
    return LAYER_SAMPLERS[config.name](config)


def build_method(config: MethodConfig):
    """Composes a method from its record.

    Args:
        config: `config.meta_model` None gives plain training; else any meta-model with any layer sampler.

    Returns:
        A `famus_tf.methods.method.AbstractMethod`, to be given to a `Trainer`.
    """
    if config.meta_model is None:
        from famus_tf.methods import supervised

        return supervised.Supervised(config)
    from famus_tf.methods import meta_reweighting

    return meta_reweighting.MetaReweighting(
        config, build_meta_model(config.meta_model), build_layer_sampler(config.layer_sampler)
    )


def named_method_config(name: str, **settings) -> MethodConfig:
    """Returns the record of a method by name; see `make_method`, which builds it."""
    check_method_name(name)
    values = flag_table.defaults()
    values.update(recipe_files.read(recipe_files.folder() / "methods" / f"{name}.flags"))
    for setting, value in settings.items():
        if setting not in METHOD_SETTINGS:
            raise InputError(
                f"{setting!r} is not a setting of a method.{nearest_hint(setting, METHOD_SETTINGS)} The settings are"
                f" {', '.join(sorted(METHOD_SETTINGS))}."
            )
        flag = flag_table.BY_NAME[setting]
        values[setting] = flag_table.from_text(flag, flag_table.to_text(flag, value))
    return method_config(values)


def make_method(name: str, **settings):
    """Builds a method by name, as `--method` does; the Python door to all methods.

    What a name stands for is read from its recipe in `flags/methods/`, so Python and the command line cannot differ.
    What depends on the dataset (the learning rate and its schedule) has the flags' general defaults here.

    Args:
        name: "ce", "mwnet", "l2r", "mlc", "mwnet_famus", "l2r_famus", "mlc_famus", "mwnet_random" or "mwnet_block".
        **settings: What departs from the recipe, each by the name of its flag (`python -m famus_tf.train --help`).
            The network's optimizer: optimizer ("sgd" or "adam"), learning_rate (0.1), momentum (0.9), nesterov (False),
            l2_coefficient (0.0), decay_steps (()), decay_factor (0.1). The meta-model: meta_learning_rate,
            meta_optimizer, meta_momentum, meta_nesterov, meta_l2, meta_hidden_units, weight_normalization,
            mlc_reduction. The layer sampler: sampler_variant, gated_variables (a number or "all"), num_random_layers,
            layer_block, expected_active_layers, budget_weight, gradient_matching_weight, sampler_temperature,
            sampler_optimizer, sampler_learning_rate, sampler_momentum.

    Returns:
        A `famus_tf.methods.method.AbstractMethod`, to be given to a `Trainer`.

    Raises:
        InputError: If the name or a setting is unknown, or a value is of the wrong kind or out of its range.

    Example:
        >>> method = famus_tf.make_method("mwnet_famus", learning_rate=0.05, gated_variables="all")
    """
    return build_method(named_method_config(name, **settings))
