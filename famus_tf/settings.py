"""From settings, a value for every flag by name, to the frozen records of `config.py`.

The command line and `registry.make_method` both come through here, so a flag and a keyword of the same name cannot
mean different things.
"""

import os
from collections.abc import Mapping

from famus_tf.config import (
    DataConfig,
    LayerSamplerConfig,
    MetaModelConfig,
    MethodConfig,
    OptimizerConfig,
    RunConfig,
)
from famus_tf.errors import InputError

_BASE = {
    "name": "optimizer",
    "learning_rate": "learning_rate",
    "momentum": "momentum",
    "nesterov": "nesterov",
    "l2_coefficient": "l2_coefficient",
    "decay_factor": "decay_factor",
}
_META = {
    "name": "meta_optimizer",
    "learning_rate": "meta_learning_rate",
    "momentum": "meta_momentum",
    "nesterov": "meta_nesterov",
    "l2_coefficient": "meta_l2",
}
_GATES = {
    "name": "sampler_optimizer",
    "learning_rate": "sampler_learning_rate",
    "momentum": "sampler_momentum",
}
_META_MODEL = {
    "name": "meta_model",
    "hidden_units": "meta_hidden_units",
    "weight_normalization": "weight_normalization",
    "mlc_reduction": "mlc_reduction",
}
_LAYER_SAMPLER = {
    "name": "layer_sampler",
    "variant": "sampler_variant",
    "gated_variables": "gated_variables",
    "num_random_layers": "num_random_layers",
    "layer_block": "layer_block",
    "expected_active_layers": "expected_active_layers",
    "budget_weight": "budget_weight",
    "gradient_matching_weight": "gradient_matching_weight",
    "temperature": "sampler_temperature",
}
_DATA = (
    "dataset",
    "data_dir",
    "num_meta",
    "num_validation",
    "num_train",
    "noise_type",
    "noise_rate",
    "augment",
    "label_set",
    "labels_csv",
    "meta_set",
    "image_size",
    "imbalance_factor",
    "imagenet_dir",
    "max_bad_fraction",
)
_RUN = (
    "epochs",
    "train_steps",
    "batch_size",
    "meta_batch_size",
    "seed",
    "num_replicas",
    "steps_per_call",
    "checkpoint_interval_s",
    "steps_per_epoch",
    "class_balanced",
    "strategy",
    "mixed_precision",
    "on_nonfinite",
    "deterministic",
)

_WITH_LABEL_SETS = ("cifar10n", "cifar100n", "red_mini_imagenet")
_WITH_PICTURES = ("folder", "tfds", "clothing1m", "webvision", "red_mini_imagenet")

METHOD_SETTINGS = (
    *_META_MODEL.values(),
    *_META.values(),
    *_LAYER_SAMPLER.values(),
    *_GATES.values(),
    *_BASE.values(),
    "decay_steps",
)
"""The flags that a method is built from, besides its name."""


def data_config(settings: Mapping[str, object]) -> DataConfig:
    """Returns the record of the data.

    Args:
        settings: A value for every flag.

    Raises:
        InputError: If a value is out of its range; the message names the flag.
    """
    return DataConfig(**{name: settings[name] for name in _DATA})


def run_config(settings: Mapping[str, object]) -> RunConfig:
    """Returns the record of the run; an unset `--model_dir` becomes a folder under `runs/` that says what it holds.

    Args:
        settings: A value for every flag.

    Raises:
        InputError: If a value is out of its range; the message names the flag.
    """
    model_dir = settings["model_dir"]
    if model_dir is None:
        noise = settings["noise_type"]
        if noise != "none":
            noise += f"-{settings['noise_rate']:g}"
        dataset = settings["dataset"].replace("/", "-").replace(":", "-")
        name = f"{dataset}-{method_name(settings)}-{noise}-seed{settings['seed']}"
        model_dir = os.path.join("runs", name)
    model_dir = os.path.expanduser(model_dir)
    return RunConfig(model_dir=model_dir, **{name: settings[name] for name in _RUN})


def method_name(settings: Mapping[str, object]) -> str:
    """Returns the name of what the settings compose: "ce", "mwnet", "mwnet_famus", and so on.

    It is `--method` unless the user typed another `--meta_model` or `--layer_sampler`, so that a record never says
    "mwnet" of a run that used FaMUS.

    Args:
        settings: A value for every flag.
    """
    meta_model, layer_sampler = settings["meta_model"], settings["layer_sampler"]
    if meta_model == "none":
        return "ce"
    return meta_model if layer_sampler == "all" else f"{meta_model}_{layer_sampler}"


def method_config(settings: Mapping[str, object], steps_per_epoch: int | None = None) -> MethodConfig:
    """Returns the record of the method.

    Args:
        settings: A value for every flag.
        steps_per_epoch: How many batches the training set fills. It turns `--decay_epochs` into steps where
            `--steps_per_epoch` leaves that to the data; not needed where `--decay_epochs` is empty.

    Raises:
        InputError: If a value is out of its range or the parts do not go together; the message names the flag.
        ValueError: If `steps_per_epoch` is needed and None.
    """
    meta_model = None
    if settings["meta_model"] != "none":
        meta_model = MetaModelConfig(optimizer=_optimizer(settings, _META), **_fields(settings, _META_MODEL))
    return MethodConfig(
        name=method_name(settings),
        base=_optimizer(settings, _BASE, decay_steps=_decay_steps(settings, steps_per_epoch)),
        meta_model=meta_model,
        layer_sampler=LayerSamplerConfig(optimizer=_optimizer(settings, _GATES), **_fields(settings, _LAYER_SAMPLER)),
    )


def check(settings: Mapping[str, object]) -> None:
    """Refuses what can be known to be wrong before any data are read.

    Args:
        settings: A value for every flag.

    Raises:
        InputError: If a value is out of its range, or values do not go together.
    """
    data = data_config(settings)
    run = run_config(settings)
    method = method_config(settings, steps_per_epoch=1)
    _check_dataset_flags(data)
    if method.meta_model is None:
        return
    if data.num_meta == 0 and data.dataset == "folder" and data.meta_set != "given":
        return  # takes what is in DIR/meta
    if data.num_meta == 0:
        raise InputError(
            f"Method {method.name!r} learns from a clean meta set, and --num_meta=0 leaves none. Give a number (a few"
            " examples per class are enough), or --method=ce."
        )
    if run.meta_batch_size > data.num_meta:
        raise InputError(
            f"--meta_batch_size={run.meta_batch_size} is larger than the meta set, --num_meta={data.num_meta}. Lower"
            " the one or raise the other."
        )


def _check_dataset_flags(data: DataConfig) -> None:
    """Refuses flags that a dataset would pass over, and says which dataset heeds them."""
    name = data.dataset.partition(":")[0]
    for flag, value, heeded_by in (
        ("label_set", data.label_set, _WITH_LABEL_SETS),
        ("labels_csv", data.labels_csv, ("folder",)),
        ("image_size", data.image_size or None, _WITH_PICTURES),
        ("imagenet_dir", data.imagenet_dir, ("webvision",)),
    ):
        if value is not None and name not in heeded_by:
            raise InputError(
                f"--{flag}={value} means nothing to --dataset={data.dataset}; it is for {', '.join(heeded_by)}. Leave"
                " it out."
            )
    if name.endswith("_lt") and data.imbalance_factor == 1.0:
        raise InputError(
            f"--dataset={name} with --imbalance_factor=1 has no long tail; give a factor above 1, such as 100, or"
            f" --dataset={name.removesuffix('_lt')}."
        )
    if name == "folder" and data.data_dir is None and data.labels_csv is None:
        raise InputError(
            "--dataset=folder needs --data_dir=DIR, with one directory of pictures per class, or --labels_csv=FILE, a"
            " table with the columns path,label."
        )


def _decay_steps(settings: Mapping[str, object], steps_per_epoch: int | None) -> tuple[int, ...]:
    if settings["decay_steps"] or not settings["decay_epochs"]:
        return settings["decay_steps"]
    epochs = settings["decay_epochs"]
    if any(epoch < 0 for epoch in epochs) or list(epochs) != sorted(set(epochs)):
        raise InputError(f"--decay_epochs must increase from 0 or more; got {list(epochs)}.")
    steps_per_epoch = settings["steps_per_epoch"] or steps_per_epoch
    if steps_per_epoch is None:
        raise ValueError("steps_per_epoch is needed to turn --decay_epochs into steps; got None.")
    return tuple(epoch * steps_per_epoch for epoch in epochs)


def _fields(settings: Mapping[str, object], flags: Mapping[str, str]) -> dict[str, object]:
    """Returns {record's field: value} from {record's field: flag}."""
    return {field: settings[flag] for field, flag in flags.items()}


def _optimizer(settings: Mapping[str, object], flags: Mapping[str, str], **more) -> OptimizerConfig:
    """Builds one of the three optimizers' records, with messages that name its own flags."""
    try:
        return OptimizerConfig(**_fields(settings, flags), **more)
    except InputError as error:
        message = str(error)  # it speaks of the base optimizer's flags
        for field, flag in flags.items():
            message = message.replace(f"--{_BASE[field]} ", f"--{flag} ")
        raise InputError(message) from None
