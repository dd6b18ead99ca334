"""Frozen records that hold everything one run is. Each checks itself when it is built.

Nothing here reads a flag: `options.py` turns flags into these records, and Python callers build them directly. Messages
call each setting by its flag, which is its name in `famus_tf.make_method` too.
"""

import dataclasses
import difflib
from collections.abc import Iterable

from famus_tf.errors import InputError

META_MODELS = ("mwnet", "l2r", "mlc")
LAYER_SAMPLERS = ("all", "famus", "random", "block")
SAMPLER_VARIANTS = ("paper", "official")
OPTIMIZERS = ("sgd", "adam")
WEIGHT_NORMALIZATIONS = ("sum", "batch_size")
REDUCTIONS = ("mean", "sum")
NOISE_TYPES = ("symmetric", "symmetric_excluded", "asymmetric", "flip", "flip2", "hierarchical", "pairflip", "none")
META_SETS = ("train", "clean", "given")
STRATEGIES = ("mirrored", "multi_worker")
PRECISIONS = ("float32", "bfloat16", "float16")
ON_NONFINITE = ("stop", "skip", "restore")
# Seeds are int64 in TensorFlow; the other half of the positive ones is room for what the gates' layers add to theirs.
MAX_SEED = 2**62 - 1


def nearest_hint(name: str, known: Iterable[str]) -> str:
    """Returns " Did you mean ...?" with the known name that is most like `name`, or "" if none is like it."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raises `InputError` unless `value` is one of `choices`; the message lists them and names the nearest."""
    choices = tuple(choices)
    if value not in choices:
        hint = nearest_hint(str(value), choices)
        raise InputError(f"{name} must be one of {', '.join(choices)}; got {value!r}.{hint}")


def check_at_least(name: str, value: float, minimum: float) -> None:
    """Raises `InputError` unless `value >= minimum`."""
    if not value >= minimum:
        raise InputError(f"{name} must be at least {minimum}; got {value}.")


def check_at_most(name: str, value: float, maximum: float) -> None:
    """Raises `InputError` unless `value <= maximum`."""
    if not value <= maximum:
        raise InputError(f"{name} must be at most {maximum}; got {value}.")


def check_positive(name: str, value: float) -> None:
    """Raises `InputError` unless `value` is positive and finite."""
    if not 0.0 < value < float("inf"):
        raise InputError(f"{name} must be a positive, finite number; got {value}.")


def check_rate(name: str, value: float) -> None:
    """Raises `InputError` unless `value` lies in [0, 1]."""
    if not 0.0 <= value <= 1.0:
        hint = f" A percentage? Then give {value / 100:g}." if 1.0 < value <= 100.0 else ""
        raise InputError(f"{name} must be a share between 0 and 1; got {value}.{hint}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How one set of variables moves.

    Attributes:
        name: "sgd" or "adam".
        learning_rate: The base rate, > 0.
        momentum: For sgd, in [0, 1).
        nesterov: For sgd.
        l2_coefficient: Coupled L2 (added to the gradient, so it enters the momentum), >= 0, as in the papers' codes.
        decay_steps: Global steps after which the rate is multiplied by `decay_factor`, increasing.
        decay_factor: > 0.
    """

    name: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    l2_coefficient: float = 0.0
    decay_steps: tuple[int, ...] = ()
    decay_factor: float = 0.1

    def __post_init__(self):
        """Checks every field."""
        check_choice("--optimizer", self.name, OPTIMIZERS)
        check_positive("--learning_rate", self.learning_rate)
        check_at_least("--l2_coefficient", self.l2_coefficient, 0.0)
        check_positive("--decay_factor", self.decay_factor)
        if not 0.0 <= self.momentum < 1.0:
            raise InputError(f"--momentum must be in [0, 1); got {self.momentum}.")
        if self.nesterov and self.momentum == 0.0:
            raise InputError("--nesterov needs --momentum above 0; got 0. Set one or drop the other.")
        if any(step < 0 for step in self.decay_steps) or list(self.decay_steps) != sorted(set(self.decay_steps)):
            raise InputError(f"--decay_steps must increase from 0 or more; got {list(self.decay_steps)}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaModelConfig:
    """Which meta-model Ψ(θ) weighs the examples, and how θ moves.

    Attributes:
        name: "mwnet", "l2r" or "mlc".
        optimizer: For mwnet; mlc uses only its learning rate (one closed-form step from T = I); l2r ignores it.
        hidden_units: Width of MW-Net's one hidden layer.
        weight_normalization: For mwnet, "sum" divides by the global sum of weights, "batch_size" by the global batch.
        mlc_reduction: "mean" or "sum" of the batch's losses; the official MLC code sums.
    """

    name: str
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-3, nesterov=True, l2_coefficient=5e-4)
    hidden_units: int = 100
    weight_normalization: str = "sum"
    mlc_reduction: str = "mean"

    def __post_init__(self):
        """Checks every field."""
        check_choice("--meta_model", self.name, META_MODELS)
        check_at_least("--meta_hidden_units", self.hidden_units, 1)
        check_choice("--weight_normalization", self.weight_normalization, WEIGHT_NORMALIZATIONS)
        check_choice("--mlc_reduction", self.mlc_reduction, REDUCTIONS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerSamplerConfig:
    """Which layers' meta-gradient is computed.

    Attributes:
        name: "all", "famus", "random" or "block".
        variant: For famus, "paper" or "official" (see `meta/gradient_sampler.py` for the differences).
        gated_variables: How many variables, counted from the top, may be open; 0 means the whole network.
        num_random_layers: For random, how many of the gated variables are open in each step.
        layer_block: For block, the residual block's number, 1 at the bottom.
        expected_active_layers: K of Eq. (10).
        budget_weight: λ₁ of Eq. (12), the weight of L_r.
        gradient_matching_weight: λ₂ of Eq. (12), the weight of L_g.
        temperature: Of the Gumbel-softmax; None takes the variant's (paper 1, official 5).
        optimizer: How the gates' variables η move.
    """

    name: str = "all"
    variant: str = "paper"
    gated_variables: int = 15
    num_random_layers: int = 4
    layer_block: int = 1
    expected_active_layers: float = 4.0
    budget_weight: float = 0.1
    gradient_matching_weight: float = 0.1
    temperature: float | None = None
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=0.1)

    def __post_init__(self):
        """Checks every field."""
        check_choice("--layer_sampler", self.name, LAYER_SAMPLERS)
        check_choice("--sampler_variant", self.variant, SAMPLER_VARIANTS)
        check_at_least("--gated_variables", self.gated_variables, 0)
        check_at_least("--num_random_layers", self.num_random_layers, 1)
        check_at_least("--layer_block", self.layer_block, 1)
        check_at_least("--expected_active_layers", self.expected_active_layers, 0.0)
        check_at_least("--budget_weight", self.budget_weight, 0.0)
        check_at_least("--gradient_matching_weight", self.gradient_matching_weight, 0.0)
        if self.temperature is not None:
            check_positive("--sampler_temperature", self.temperature)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """One training method: how w moves, and what weighs the examples.

    Attributes:
        name: As in `--method`; for messages and records.
        base: The base network's optimizer.
        meta_model: None for plain training.
        layer_sampler: Used only with a meta-model.
    """

    name: str
    base: OptimizerConfig = OptimizerConfig()
    meta_model: MetaModelConfig | None = None
    layer_sampler: LayerSamplerConfig = LayerSamplerConfig()

    def __post_init__(self):
        """Checks the combination."""
        if self.meta_model is None and self.layer_sampler.name != "all":
            raise InputError(
                f"--layer_sampler={self.layer_sampler.name} chooses layers of a meta-gradient, and method {self.name!r}"
                " has none. Choose a method with a meta-model (mwnet, l2r or mlc), or --layer_sampler=all."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which examples, split and corrupted how.

    Attributes:
        dataset: A registered name.
        data_dir: Where prepared datasets lie; None for the dataset's own default.
        num_meta: Size of the clean meta set, taken out of the training set.
        num_validation: Size of the noisy validation set, taken out of the training set.
        num_train: How many of the examples that are left to train on; 0 takes all.
        noise_type: See `data/corruption.py`.
        noise_rate: In [0, 1]; with the noise type "none", 0 whatever was given.
        augment: Whether training and meta batches are augmented as the dataset prescribes.
        label_set: Which of a dataset's own sets of noisy labels; None for the dataset's default.
        labels_csv: For "folder", a file path,label[,split] instead of one directory per class.
        meta_set: "train" takes the meta set out of the training set, with true labels; "clean" out of the dataset's own
            clean examples; "given" out of the training set as its given labels say, mistakes included.
        image_size: Side in pixels of the network's square input, for pictures read from files; 0 for the dataset's.
        imbalance_factor: Size of the largest class over that of the smallest, made by leaving examples out; 1: as is.
        imagenet_dir: For "webvision", where the ILSVRC12 validation pictures lie; None leaves that test out.
        max_bad_fraction: In [0, 1], the share of unreadable pictures above which a run is refused.
    """

    dataset: str
    data_dir: str | None = None
    label_set: str | None = None
    labels_csv: str | None = None
    meta_set: str = "train"
    image_size: int = 0
    imbalance_factor: float = 1.0
    imagenet_dir: str | None = None
    max_bad_fraction: float = 0.01
    num_meta: int = 0
    num_validation: int = 0
    num_train: int = 0
    noise_type: str = "symmetric"
    noise_rate: float = 0.0
    augment: bool = True

    def __post_init__(self):
        """Checks every field."""
        check_at_least("--num_meta", self.num_meta, 0)
        check_at_least("--num_validation", self.num_validation, 0)
        check_at_least("--num_train", self.num_train, 0)
        check_choice("--noise_type", self.noise_type, NOISE_TYPES)
        check_rate("--noise_rate", self.noise_rate)
        if self.noise_type == "none":  # a recipe may still set a rate, of which nothing comes
            object.__setattr__(self, "noise_rate", 0.0)
        check_choice("--meta_set", self.meta_set, META_SETS)
        check_at_least("--image_size", self.image_size, 0)
        check_at_least("--imbalance_factor", self.imbalance_factor, 1.0)
        check_rate("--max_bad_fraction", self.max_bad_fraction)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How long, how seeded, where.

    Attributes:
        model_dir: The run folder.
        epochs: Passes over the training set; used when `train_steps` is None.
        train_steps: Total steps, or None.
        steps_per_epoch: Training batches that count as one epoch; 0 for as many as the set fills.
        class_balanced: Whether every batch takes as many examples of each class (by given label).
        batch_size: Global training batch.
        meta_batch_size: Global meta batch.
        seed: Of the splits, the noise, the initial weights, the order, the augmentation and the gates; in [0, 2⁶²).
        num_replicas: 0 takes every GPU (or one CPU device); more than 0 takes that many devices.
        steps_per_call: Steps inside one call of the compiled loop.
        checkpoint_interval_s: Seconds between checkpoints, at least; one more is written when training ends.
        strategy: "mirrored" for the devices of one machine; "multi_worker" for those of several, from TF_CONFIG.
        mixed_precision: What the network computes in; its variables and the meta-gradient's products stay in float32.
        on_nonfinite: What happens to a step whose loss or update is NaN or Inf: "stop" the run, "skip" the step, or
            "restore" the newest checkpoint and skip the step there.
        deterministic: Whether TensorFlow's deterministic kernels are asked for; CPUs are deterministic without.
    """

    model_dir: str
    epochs: int = 1
    train_steps: int | None = None
    steps_per_epoch: int = 0
    class_balanced: bool = False
    strategy: str = "mirrored"
    mixed_precision: str = "float32"
    on_nonfinite: str = "stop"
    deterministic: bool = False
    batch_size: int = 100
    meta_batch_size: int = 100
    seed: int = 0
    num_replicas: int = 0
    steps_per_call: int = 20
    checkpoint_interval_s: float = 300.0

    def __post_init__(self):
        """Checks every field."""
        check_at_least("--epochs", self.epochs, 1)
        if self.train_steps is not None:
            check_at_least("--train_steps", self.train_steps, 1)
        check_at_least("--steps_per_epoch", self.steps_per_epoch, 0)
        check_choice("--strategy", self.strategy, STRATEGIES)
        check_choice("--mixed_precision", self.mixed_precision, PRECISIONS)
        check_choice("--on_nonfinite", self.on_nonfinite, ON_NONFINITE)
        check_at_least("--batch_size", self.batch_size, 1)
        check_at_least("--meta_batch_size", self.meta_batch_size, 1)
        check_at_least("--seed", self.seed, 0)
        check_at_most("--seed", self.seed, MAX_SEED)
        check_at_least("--num_replicas", self.num_replicas, 0)
        check_at_least("--steps_per_call", self.steps_per_call, 1)
        check_positive("--checkpoint_interval_s", self.checkpoint_interval_s)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything one run is.

    Attributes:
        data: What is trained on.
        model: The network's registered name.
        weights: A local file of weights that the network begins with; None begins with random ones.
        method: How it is trained.
        run: How long, where.
    """

    data: DataConfig
    model: str
    weights: str | None = None
    method: MethodConfig
    run: RunConfig
