"""The interface between a training method and the loop that runs it."""

import abc
import dataclasses

import tensorflow as tf

from famus_tf import optimizers
from famus_tf.errors import InputError


@dataclasses.dataclass(frozen=True)
class StepResult:
    """What a step wants stored and said.

    Attributes:
        assignments: (variable, new value) pairs; each is this replica's copy, equal on all replicas.
        scalars: [S] float32 in the order of the method's `scalar_names`, global over replicas.
        example_weights: [B] float32, B per replica; 1 is plain training's weight.
    """

    assignments: list
    scalars: tf.Tensor
    example_weights: tf.Tensor


class AbstractMethod(abc.ABC):
    """One way to train a network. The loop calls `build` once and `train_step` in every replica and step.

    Attributes:
        name: As in `--method`.
        needs_meta_set: Whether `train_step` takes a meta batch.
        scalar_names: What `StepResult.scalars` holds, known after `build`.
    """

    name: str
    needs_meta_set = False
    scalar_names: tuple[str, ...] = ()

    @abc.abstractmethod
    def build(self, model, *, seed: int, num_replicas: int) -> None:
        """Makes the method's variables, inside the strategy's scope.

        Args:
            model: The built Keras model, its output logits.
            seed: Of everything the method draws.
            num_replicas: How many replicas take each step together.
        """

    @property
    @abc.abstractmethod
    def variables(self) -> list:
        """Everything to be saved besides the model's own variables, in a fixed order."""

    @property
    @abc.abstractmethod
    def base_optimizer(self) -> optimizers.Optimizer:
        """The optimizer of the network."""

    @abc.abstractmethod
    def train_step(self, batch, meta_batch, step) -> StepResult:
        """Computes, without storing, one step.

        Args:
            batch: {"index": [B] int32, "image": [B, H, W, C] float32, "label": [B] int32}, B per replica.
            meta_batch: Likewise, [M] per replica; None unless `needs_meta_set`.
            step: Scalar int64, 0 for the first step.
        """


def reduction(num_replicas: int):
    """The function that sums tensors over replicas: the identity on one.

    Args:
        num_replicas: How many replicas take each step together.

    Returns:
        A function of a tensor or list of tensors, to be called in replica context; differentiable once.
    """
    if num_replicas == 1:
        return lambda tensors: tensors
    return lambda tensors: tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensors)


def model_values(model):
    """The model's trainable and non-trainable values as tensors, for `stateless_call`."""
    weights = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
    state = [tf.convert_to_tensor(v.value) for v in model.non_trainable_variables]
    return weights, state


def state_assignments(model, new_state) -> list:
    """Pairs that commit the state a forward pass returned (batch norm statistics, seeds)."""
    return list(zip(optimizers.as_tf_variables(model.non_trainable_variables), new_state, strict=True))


def check_ends_in_logits(model) -> int:
    """Refuses a network that cannot be trained on logits.

    Args:
        model: A built Keras model.

    Returns:
        K, the number of classes.

    Raises:
        InputError: If the output is not [B, K], or the last layer applies a softmax or sigmoid.
    """
    shape = model.output_shape
    if isinstance(shape, list) or len(shape) != 2 or shape[-1] is None or shape[-1] < 2:
        raise InputError(
            f"The model {model.name!r} has output shape {shape}; one output of shape (None, number of classes >= 2)"
            " is expected. End it with Dense(number of classes)."
        )
    last = model.layers[-1]
    activation = getattr(getattr(last, "activation", None), "__name__", "")
    if activation in ("softmax", "sigmoid", "log_softmax") or type(last).__name__ == "Softmax":
        raise InputError(
            f"The model {model.name!r} ends in {activation or 'a Softmax layer'} ({last.name!r}); logits are expected."
            " Remove the activation of the last layer (keras.applications: classifier_activation=None)."
        )
    if not model.trainable_variables:
        raise InputError(f"The model {model.name!r} has no trainable variables; set trainable=True on some layer.")
    return int(shape[-1])
