"""Names: which datasets, networks, meta-models, layer samplers and methods there are, and how each is built.

Builders import what they build when they are called, so that asking for names costs nothing.
"""

import pathlib
import sys

from absl import logging

from famus_tf import dataset_loaders, flag_table, network_builders, quiet_start, recipe_files
from famus_tf.config import (
    DataConfig,
    LayerSamplerConfig,
    MetaModelConfig,
    MethodConfig,
    check_choice,
    nearest_hint,
)
from famus_tf.data import tfds_folder
from famus_tf.errors import InputError
from famus_tf.network_builders import MODELS
from famus_tf.settings import METHOD_SETTINGS, method_config

_APPLICATIONS = {"resnet50": "ResNet50", "inception_resnet_v2": "InceptionResNetV2"}


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
    """Returns the names of all datasets; the last one is the pattern `tfds:<name>`."""
    return (*dataset_loaders.DATASETS, f"{tfds_folder.PREFIX}<name>")


def model_names() -> tuple[str, ...]:
    """Returns the names of all networks; the last two are the patterns `wrn-<depth>-<width>` and `keras:<Name>`."""
    return (*MODELS, network_builders.WIDE_RESNET, f"{network_builders.KERAS_APPLICATION}<Name>")


def method_names() -> tuple[str, ...]:
    """Returns the names of all methods."""
    return recipe_files.method_names()


def check_dataset_name(name: str, label: str = "The dataset") -> None:
    """Raises `InputError`, listing the known names and the nearest, unless `name` is a dataset's; `label` begins it."""
    if name.startswith(tfds_folder.PREFIX):
        tfds_folder.parse_name(name, label)
    else:
        check_choice(label, name, dataset_names())


def check_method_name(name: str, label: str = "The method") -> None:
    """Raises `InputError`, listing the known names and the nearest, unless `name` is a method's; `label` begins it."""
    check_choice(label, name, method_names())


def check_model_name(name: str, label: str = "The network") -> None:
    """Raises `InputError`, listing the known names and the nearest, unless `name` is a network's; `label` begins it."""
    if name in MODELS or network_builders.WIDE_RESNET_PATTERN.fullmatch(name):
        return
    if name.startswith(network_builders.KERAS_APPLICATION):
        if "tensorflow" not in sys.modules:  # flags are checked before the programs import it
            quiet_start.import_tensorflow(show_chatter=False)
        from famus_tf.models import keras_applications

        return keras_applications.check_name(name.removeprefix(network_builders.KERAS_APPLICATION), label)
    hint = nearest_hint(name, (*MODELS, "wrn-28-10", "wrn-40-2", "wrn-16-4"))
    raise InputError(f"{label} must be one of {', '.join(model_names())}; got {name!r}.{hint}")


def load_dataset(config: DataConfig):
    """Loads a dataset by name.

    Args:
        config: `dataset` is one of `dataset_names()`, for instance "tfds:mnist"; each loader says what else it heeds.

    Returns:
        A `famus_tf.data.examples.Dataset`, before any splitting or noise.

    Raises:
        InputError: If the name is unknown, or the data are not there or cannot be read.
    """
    check_dataset_name(config.dataset)
    try:
        return dataset_loaders.DATASETS.get(config.dataset, dataset_loaders.load_tfds)(config)
    except OSError as error:
        what = error.filename or config.data_dir or config.dataset
        raise InputError(
            f"{what} cannot be read ({error.strerror or error}); check that it is there and that you may read it."
        ) from error


def published_counts(config: DataConfig) -> dict[str, int]:
    """Returns part ("train", "test" ...) -> how many examples of it were published.

    Args:
        config: `dataset`, and what decides which parts are read. For `cifar10_lt` and `cifar100_lt` also `num_meta` and
            `imbalance_factor`: their "train" is the long tail of CIFAR's 50,000 images without the meta set.

    Returns:
        {} for datasets of whose counts nothing is known.

    Raises:
        InputError: If the meta set or the imbalance factor leaves a class without an image.
    """
    if config.dataset in ("cifar10", "cifar100", "cifar10n", "cifar100n"):
        return {"train": 50_000, "test": 10_000}
    from famus_tf.data import clothing1m, long_tail, red_mini_imagenet, splitting, webvision

    num_classes = {"cifar10_lt": 10, "cifar100_lt": 100}.get(config.dataset)
    if num_classes is not None:
        left = 50_000 // num_classes - splitting.balanced_quotas(config.num_meta, num_classes)
        tail = long_tail.class_counts(int(left.max()), num_classes, config.imbalance_factor)
        return {"train": int(tail.clip(max=left).sum()), "test": 10_000}

    modules = {"clothing1m": clothing1m, "webvision": webvision, "red_mini_imagenet": red_mini_imagenet}
    return modules[config.dataset].expected_counts(config) if config.dataset in modules else {}


def build_model(
    name: str,
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    seed: int = 0,
    synchronized: bool = False,
    weights: str | None = None,
    mixed_precision: str = "float32",
):
    """Builds a network by name, inside the strategy's scope if there is one.

    Args:
        name: One of `model_names()`, for instance "wrn-28-10" or "keras:MobileNetV2".
        input_shape: (H, W, C) of one image.
        num_classes: K.
        seed: Of the initial weights.
        synchronized: Whether batch statistics are taken over all replicas.
        weights: A local file of weights to begin with (`models/initial_weights.py`); None for random ones.
        mixed_precision: What the layers compute in, "float32", "bfloat16" or "float16"; variables and logits are
            float32 in any case.

    Returns:
        A functional Keras model from images [B, H, W, C] to logits [B, K].

    Raises:
        InputError: If the name is unknown, the network cannot be built for these images, or the weights cannot be read
            or are another network's.
    """
    check_model_name(name)
    model = network_builders.build(
        name, input_shape, num_classes, mixed_precision, seed=seed, synchronized=synchronized
    )
    if weights is not None:
        from famus_tf.models import initial_weights

        loaded = initial_weights.load(model, weights)
        logging.log(logging.WARNING if loaded.kept else logging.INFO, "%s", loaded.sentence)
    return model


def input_scaling(model: str, weights: str | None):
    """How images must be scaled for weights that a network begins with, where that is not the dataset's way.

    Beside the weights of a famus_tf run lies its results.json, which says how its images were scaled. Other files, for
    a network of `keras.applications`, are taken for its ImageNet weights.

    Args:
        model: The network's name.
        weights: The file, or None.

    Returns:
        A `famus_tf.models.input_scaling.InputScaling` of RGB images; None for the dataset's own mean and standard
        deviation.

    Raises:
        InputError: If the run's results.json cannot be read.
    """
    if weights is None:
        return None
    from famus_tf.models import input_scaling as scalings

    recorded = _recorded_preprocessing(weights)
    if recorded is None:
        return scalings.of_application(_APPLICATIONS.get(model, model.removeprefix(network_builders.KERAS_APPLICATION)))
    if len(recorded["mean"]) != 3:
        return None
    return scalings.InputScaling(tuple(recorded["mean"]), tuple(recorded["std"]), recorded.get("channel_order", "rgb"))


def _recorded_preprocessing(weights: str) -> dict | None:
    """The preprocessing of the famus_tf run that a file of weights comes from; None if it comes from none."""
    from famus_tf.runs import run_folder

    file = pathlib.Path(weights).expanduser()
    if not file.with_name("flags.txt").exists():
        return None
    return run_folder.RunFolder(file.parent).read_results()["dataset"]["preprocessing"]


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
