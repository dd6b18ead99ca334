"""Every flag as plain data: its name, group, kind, default and one line of help. Nothing here parses a command line.

The command line (`options.py`), the recipes and `registry.make_method` all read values through `from_text`, so that a
setting means the same wherever it is written.
"""

import dataclasses
import math

from famus_tf.config import (
    LAYER_SAMPLERS,
    META_MODELS,
    META_SETS,
    NOISE_TYPES,
    ON_NONFINITE,
    OPTIMIZERS,
    PRECISIONS,
    REDUCTIONS,
    SAMPLER_VARIANTS,
    STRATEGIES,
    WEIGHT_NORMALIZATIONS,
    DataConfig,
    LayerSamplerConfig,
    MetaModelConfig,
    OptimizerConfig,
    RunConfig,
    check_choice,
)
from famus_tf.errors import InputError

GROUPS = ("Data", "Network", "Method", "Layer sampler", "Optimisation", "Run")

_WANTED = {
    "text": "some text",
    "whole": "a whole number",
    "number": "a number",
    "switch": "true or false",
    "wholes": "whole numbers separated by commas",
    "count_or_all": "a whole number of 1 or more, or 'all'",
}
_TRUE, _FALSE = ("true", "t", "1", "yes"), ("false", "f", "0", "no")


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        name: As typed, without dashes.
        group: One of `GROUPS`.
        kind: One of "text", "whole", "number", "switch", "wholes" (a tuple) and "count_or_all" (0 stands for all).
        default: Where neither a recipe nor the user sets it. None for a flag that may be unset; such a flag, and a
            "wholes" flag, is unset by an empty text, as in `--train_steps=`.
        help: What it is, with its unit or range; without a final full stop.
        choices: The texts allowed, if they are few.
    """

    name: str
    group: str
    kind: str
    default: object
    help: str
    choices: tuple[str, ...] = ()


def from_text(flag: Flag, text: str):
    """Reads a flag's value; its range is checked later, by the record it goes to.

    Args:
        flag: Which.
        text: As typed, or as in a recipe.

    Returns:
        A str, int, float, bool or tuple of int by the flag's kind; None or () for an empty text.

    Raises:
        InputError: If the text is not of the flag's kind or not one of its choices.
    """
    text = text.strip()
    if not text and flag.kind == "wholes":
        return ()
    if not text and flag.default is None:
        return None
    if flag.choices:
        check_choice(f"--{flag.name}", text, flag.choices)
    try:
        return _read(flag.kind, text)
    except (ValueError, OverflowError):
        hint = " A comment must stand on a line of its own." if "#" in text else ""
        raise InputError(f"--{flag.name} must be {_WANTED[flag.kind]}; got {text!r}.{hint}") from None


def _read(kind: str, text: str):
    if kind == "whole":
        return int(text)
    if kind == "number":
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(text)
        return value
    if kind == "switch":
        if text.lower() not in _TRUE + _FALSE:
            raise ValueError(text)
        return text.lower() in _TRUE
    if kind == "wholes":
        return tuple(int(part) for part in text.split(","))
    if kind == "count_or_all":
        if text != "all" and int(text) < 1:
            raise ValueError(text)
        return 0 if text == "all" else int(text)
    if not text:
        raise ValueError(text)
    return text


def to_text(flag: Flag, value) -> str:
    """Writes a value so that `from_text` gives it back; "" for None and for the empty tuple.

    Args:
        flag: Which.
        value: As `from_text` returns it, or what a Python user would give for it (a list, "all", a NumPy number).
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, list)):
        return ",".join(str(part) for part in value)
    if flag.kind == "count_or_all" and value == 0:
        return "all"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e6:
        return str(int(value))
    return str(value)


def defaults() -> dict[str, object]:
    """Returns {name: default} of every flag."""
    return {flag.name: flag.default for flag in FLAGS}


def _data(name, kind, default, text, **more) -> Flag:
    return Flag(name, "Data", kind, default, text, **more)


def _method(name, kind, default, text, **more) -> Flag:
    return Flag(name, "Method", kind, default, text, **more)


def _sampler(name, kind, default, text, **more) -> Flag:
    return Flag(name, "Layer sampler", kind, default, text, **more)


def _optimisation(name, kind, default, text, **more) -> Flag:
    return Flag(name, "Optimisation", kind, default, text, **more)


def _run(name, kind, default, text, **more) -> Flag:
    return Flag(name, "Run", kind, default, text, **more)


_META = MetaModelConfig.optimizer
_GATES = LayerSamplerConfig.optimizer

FLAGS: tuple[Flag, ...] = (
    _data("dataset", "text", "digits", "which dataset, see above"),
    _data("data_dir", "text", DataConfig.data_dir, "folder of prepared datasets; unset: the dataset's own"),
    _data("label_set", "text", DataConfig.label_set, "which of the dataset's own noisy label sets; unset: its default"),
    _data("labels_csv", "text", DataConfig.labels_csv, "for folder: a file path,label[,split] instead of directories"),
    _data("image_size", "whole", DataConfig.image_size, "side of the network's input in pixels; 0: the dataset's"),
    _data("imagenet_dir", "text", DataConfig.imagenet_dir, "for webvision: where ILSVRC12's validation pictures lie"),
    _data("max_bad_fraction", "number", DataConfig.max_bad_fraction, "unreadable pictures tolerated, 0 to 1"),
    _data(
        "meta_set", "text", DataConfig.meta_set, "from train, from the set's clean examples, or from given labels",
        choices=META_SETS,
    ),
    _data("num_meta", "whole", DataConfig.num_meta, "examples in the clean meta set, taken from training"),
    _data("num_validation", "whole", DataConfig.num_validation, "noisy validation examples, taken from training"),
    _data("num_train", "whole", DataConfig.num_train, "examples left to train on, for a quick look; 0: all"),
    _data(
        "noise_type", "text", DataConfig.noise_type, "how labels go wrong: " + ", ".join(NOISE_TYPES),
        choices=NOISE_TYPES,
    ),
    _data("noise_rate", "number", DataConfig.noise_rate, "share of labels to corrupt, 0 to 1"),
    _data("imbalance_factor", "number", DataConfig.imbalance_factor, "largest class over smallest; 1: as it is"),
    _data("augment", "switch", DataConfig.augment, "augment train and meta batches as the dataset prescribes"),
    Flag("model", "Network", "text", "small_cnn", "which network, see above"),
    Flag("weights", "Network", "text", None, "local file of weights to begin with; unset: random ones"),
    _method("method", "text", "mwnet_famus", "which method, see above; sets this group and the next"),
    _method(
        "meta_model", "text", "none", "what learns from the clean set: none, " + ", ".join(META_MODELS),
        choices=("none", *META_MODELS),
    ),
    _method(
        "layer_sampler", "text", LayerSamplerConfig.name,
        "whose meta-gradient is computed: " + ", ".join(LAYER_SAMPLERS), choices=LAYER_SAMPLERS,
    ),
    _method("meta_optimizer", "text", _META.name, "for mwnet: sgd or adam", choices=OPTIMIZERS),
    _method("meta_learning_rate", "number", _META.learning_rate, "beta, above 0; for mwnet and mlc"),
    _method("meta_momentum", "number", _META.momentum, "for mwnet with sgd, 0 to below 1"),
    _method("meta_nesterov", "switch", _META.nesterov, "Nesterov's momentum, for mwnet with sgd"),
    _method("meta_l2", "number", _META.l2_coefficient, "coupled L2 of mwnet's weights, 0 or more"),
    _method("meta_hidden_units", "whole", MetaModelConfig.hidden_units, "width of mwnet's hidden layer, 1 or more"),
    _method(
        "weight_normalization", "text", MetaModelConfig.weight_normalization,
        "mwnet's weights are divided by their sum or batch_size", choices=WEIGHT_NORMALIZATIONS,
    ),
    _method(
        "mlc_reduction", "text", MetaModelConfig.mlc_reduction, "mlc's loss over a batch: mean or sum",
        choices=REDUCTIONS,
    ),
    _sampler(
        "sampler_variant", "text", LayerSamplerConfig.variant, "famus as the paper or the official code has it",
        choices=SAMPLER_VARIANTS,
    ),
    _sampler(
        "gated_variables", "count_or_all", LayerSamplerConfig.gated_variables,
        "how many, from the top, may be open; or 'all'",
    ),
    _sampler("num_random_layers", "whole", LayerSamplerConfig.num_random_layers, "s: open per step, for random"),
    _sampler("layer_block", "whole", LayerSamplerConfig.layer_block, "b: the residual block, 1 at the bottom"),
    _sampler(
        "expected_active_layers", "number", LayerSamplerConfig.expected_active_layers, "K of L_r, 0 or more"
    ),
    _sampler("budget_weight", "number", LayerSamplerConfig.budget_weight, "lambda_1, of L_r; 0 switches it off"),
    _sampler(
        "gradient_matching_weight", "number", LayerSamplerConfig.gradient_matching_weight,
        "lambda_2, of L_g; 0 switches it off",
    ),
    _sampler(
        "sampler_temperature", "number", LayerSamplerConfig.temperature,
        "of the Gumbel-softmax, above 0; unset: the variant's",
    ),
    _sampler("sampler_optimizer", "text", _GATES.name, "for the gates: sgd or adam", choices=OPTIMIZERS),
    _sampler("sampler_learning_rate", "number", _GATES.learning_rate, "delta, above 0"),
    _sampler("sampler_momentum", "number", _GATES.momentum, "for sgd, 0 to below 1"),
    _optimisation("optimizer", "text", OptimizerConfig.name, "for the network: sgd or adam", choices=OPTIMIZERS),
    _optimisation("learning_rate", "number", OptimizerConfig.learning_rate, "alpha, above 0"),
    _optimisation("momentum", "number", OptimizerConfig.momentum, "for sgd, 0 to below 1"),
    _optimisation("nesterov", "switch", OptimizerConfig.nesterov, "Nesterov's momentum, for sgd"),
    _optimisation("l2_coefficient", "number", OptimizerConfig.l2_coefficient, "coupled L2, 0 or more"),
    _optimisation("decay_epochs", "wholes", (), "epochs at which alpha decays, as 80,100"),
    _optimisation("decay_steps", "wholes", OptimizerConfig.decay_steps, "the same in steps; the later given wins"),
    _optimisation("decay_factor", "number", OptimizerConfig.decay_factor, "what alpha is multiplied by, above 0"),
    _optimisation("batch_size", "whole", RunConfig.batch_size, "training examples per step, over all replicas"),
    _optimisation("meta_batch_size", "whole", RunConfig.meta_batch_size, "meta examples per step, over all replicas"),
    _optimisation("epochs", "whole", RunConfig.epochs, "passes over the training set, 1 or more"),
    _optimisation("train_steps", "whole", RunConfig.train_steps, "steps instead of epochs; the later given wins"),
    _optimisation("steps_per_epoch", "whole", RunConfig.steps_per_epoch, "batches in an epoch; 0: the whole set"),
    _optimisation("class_balanced", "switch", RunConfig.class_balanced, "as many of each class in every batch"),
    _optimisation(
        "mixed_precision", "text", RunConfig.mixed_precision, "what the network computes in", choices=PRECISIONS
    ),
    _run("seed", "whole", RunConfig.seed, "of splits, noise, initial weights, order and gates, 0 to below 2^62"),
    _run("num_replicas", "whole", RunConfig.num_replicas, "devices; 0: every GPU, or one CPU"),
    _run(
        "strategy", "text", RunConfig.strategy, "mirrored: this machine; multi_worker: several, from TF_CONFIG",
        choices=STRATEGIES,
    ),
    _run("deterministic", "switch", RunConfig.deterministic, "deterministic kernels, for GPUs; slower"),
    _run(
        "on_nonfinite", "text", RunConfig.on_nonfinite, "after NaN or Inf: stop, skip the step, or restore",
        choices=ON_NONFINITE,
    ),
    _run("steps_per_call", "whole", RunConfig.steps_per_call, "steps in one compiled call, 1 or more"),
    _run("checkpoint_interval_s", "number", RunConfig.checkpoint_interval_s, "seconds between checkpoints"),
    _run("model_dir", "text", None, "run folder; unset: a name of the run's own under runs/"),
)  # fmt: skip
"""All flags, in the order of the help screen."""

BY_NAME: dict[str, Flag] = {flag.name: flag for flag in FLAGS}
