"""The interface between a training method and the loop that runs it."""

import abc
import dataclasses

import keras
import numpy as np
import tensorflow as tf

from famus_tf import optimizers
from famus_tf.errors import InputError
from famus_tf.meta.meta_gradient import training_argument

# Between the seeds of one replica and the next. Keras takes seeds modulo 2³¹ − 2; this is about its golden section, so
# that the replicas' seeds are far from each other and from the small numbers that people choose.
SEED_DISTANCE = 1_327_217_885
UNREADABLE = -1.0
"""In a step's example weights: the example's picture could not be decoded, and another took its place in the batch."""
SQUASHING = ("softmax", "sigmoid", "log_softmax")
# Layers and operations of Keras that give out the numbers that they are given.
PASSING_ON = ("Reshape", "Flatten", "Dropout", "Identity", "ActivityRegularization", "Squeeze")
# To be looked at for probabilities.
PROBED_EXAMPLES = 4


@dataclasses.dataclass(frozen=True)
class StepResult:
    """What a step wants stored and said.

    Attributes:
        assignments: (variable, new value) pairs; each is this replica's copy, equal on all replicas.
        scalars: [S] float32 in the order of the method's `scalar_names`, global over replicas.
        example_weights: [B] float32, B per replica; 1 is plain training's weight. -1 marks an example that is not
            valid, because its picture could not be decoded; it had no part in the step.
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
    _model: keras.Model | None = None

    @abc.abstractmethod
    def build(self, model, *, seed: int, num_replicas: int) -> None:
        """Makes the method's variables, inside the strategy's scope.

        Args:
            model: The built Keras model, its output logits.
            seed: Of everything the method draws.
            num_replicas: How many replicas take each step together.

        Raises:
            InputError: If the method cannot train the model, or is built already.
        """

    def check_is_free(self) -> None:
        """Refuses a second `build`, after which the first model would no longer be trained.

        Raises:
            InputError: If the method is built already.
        """
        if self._model is not None:
            raise InputError(
                f"This method {self.name!r} belongs to another Trainer already, of the model {self._model.name!r};"
                " make a method per Trainer."
            )

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
            batch: {"index": [B] int32, "image": [B, H, W, C] float32, "label": [B] int32}, B per replica; it may hold
                "valid", [B] float32, too. An example that is 0 there contributes nothing to any gradient; means over
                the batch still divide by B.
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
    """The model's trainable and non-trainable values as tensors, for `stateless_call`.

    The seeds of dropout and its like are stored alike on all replicas; here each replica gets seeds of its own, or all
    of them would draw the same mask for their different examples. `state_assignments` takes the difference out again.
    """
    weights = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
    state = [tf.convert_to_tensor(v.value) for v in model.non_trainable_variables]
    shifts = seed_shifts(model)
    return weights, [value if shift is None else value + shift for value, shift in zip(state, shifts, strict=True)]


def seed_shifts(model) -> list:
    """What sets this replica's random draws apart: for each non-trainable variable the tensor to add, or None.

    A Keras seed's state is (seed, number of draws done), and a draw adds 1 to the second; so a shift of the first can
    be taken out after the draws. Replica 0 draws as one replica alone does.
    """
    context = tf.distribute.get_replica_context()
    variables = model.non_trainable_variables
    if context is None or context.num_replicas_in_sync == 1:
        return [None] * len(variables)
    distance = SEED_DISTANCE * tf.cast(context.replica_id_in_sync_group, tf.int64)
    is_seed = [variable.path.rpartition("/")[2] == "seed_generator_state" for variable in variables]
    return [
        tf.cast(tf.stack([distance, tf.zeros_like(distance)]), variable.value.dtype) if found else None
        for variable, found in zip(variables, is_seed, strict=True)
    ]


def weights_of_all(weights, valid):
    """Example weights of a whole batch from those of its valid examples.

    Args:
        weights: [B'], B' how many are valid.
        valid: [B], above 0 for valid examples; None where all are.

    Returns:
        [B] float32, `UNREADABLE` for examples that are not valid.
    """
    weights = tf.cast(weights, tf.float32)
    if valid is None:
        return weights
    return tf.tensor_scatter_nd_update(tf.fill(valid.shape, UNREADABLE), tf.where(valid > 0.0), weights)


def state_assignments(model, new_state) -> list:
    """Pairs that commit the state a forward pass from `model_values` returned, equal on all replicas.

    The state is the statistics of batch norm and the seeds of random layers.
    """
    targets = optimizers.as_tf_variables(model.non_trainable_variables)
    shifts = seed_shifts(model)
    values = [value if shift is None else value - shift for value, shift in zip(new_state, shifts, strict=True)]
    return list(zip(targets, replica_means(model, values), strict=True))


def replica_means(model, state) -> list:
    """State with the mean over replicas for what each of them computed from its own examples.

    Such are the moving statistics of a batch norm that is not synchronised. Left apart, they would make evaluation
    depend on which replica sees an example, and a checkpoint would hold the first replica's.

    Args:
        model: The Keras model.
        state: New values of its non-trainable variables.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return state
    layers = model._flatten_layers() if hasattr(model, "_flatten_layers") else model.layers
    alike = {id(v) for layer in layers if getattr(layer, "synchronized", False) for v in layer.non_trainable_variables}
    pairs = enumerate(zip(model.non_trainable_variables, state, strict=True))
    apart = [i for i, (variable, value) in pairs if value.dtype.is_floating and id(variable) not in alike]
    if not apart:
        return state
    means = context.all_reduce(tf.distribute.ReduceOp.MEAN, [state[i] for i in apart])
    by_position = dict(zip(apart, means, strict=True))
    return [by_position.get(i, value) for i, value in enumerate(state)]


def model_shapes(model):
    """The shapes of a built model's input and output, the batch first: also of a subclassed one, which keeps neither.

    Args:
        model: A Keras model that is functional or sequential, or was called once on a batch.

    Returns:
        Both; lists (or dictionaries) of shapes where there are several.

    Raises:
        InputError: If the model does not know what it was called on.
    """
    if hasattr(model, "input_shape"):
        return model.input_shape, model.output_shape
    shape = (model.get_build_config() or {}).get("input_shape")
    if not model.weights or not isinstance(shape, tuple) or not all(size is None or size > 0 for size in shape):
        raise InputError(
            f"The model {model.name!r} does not know the shape of its input. Call it once on a batch of images before"
            " handing it over; its call must take them as its one argument besides training."
        )
    outputs = model.compute_output_spec(keras.KerasTensor((None, *shape[1:])))
    shapes = keras.tree.map_structure(lambda output: tuple(output.shape), outputs)
    return shape, list(shapes) if isinstance(outputs, (list, tuple)) else shapes


def check_ends_in_logits(model) -> int:
    """Refuses a network that cannot be trained on logits.

    Args:
        model: A built Keras model.

    Returns:
        K, the number of classes.

    Raises:
        InputError: If the output is not [B, K], is that of a softmax or sigmoid, or variables are kept in half
            precision.
    """
    _, shape = model_shapes(model)
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[-1] is None or shape[-1] < 2:
        raise InputError(
            f"The model {model.name!r} has output shape {shape}; one output of shape (None, number of classes >= 2)"
            " is expected. End it with Dense(number of classes)."
        )
    ending = squashing_end(model)
    if ending:
        raise InputError(
            f"The model {model.name!r} ends in {ending}; logits are expected."
            " Remove the activation of the last layer (keras.applications: classifier_activation=None)."
        )
    if not model.trainable_variables:
        raise InputError(f"The model {model.name!r} has no trainable variables; set trainable=True on some layer.")
    halves = [v.path for v in model.trainable_variables if v.dtype in ("float16", "bfloat16")]
    if halves:
        raise InputError(
            f"The model {model.name!r} keeps {halves[0]!r} and {len(halves) - 1} more variables in half precision,"
            " where small updates are lost; float32 variables are expected. Build it under the policy 'mixed_float16'"
            " or 'mixed_bfloat16', which computes in half precision and keeps variables in float32."
        )
    return int(shape[-1])


def squashing_end(model) -> str:
    """What makes probabilities of a model's logits, in words; "" where nothing does.

    Args:
        model: A built Keras model whose output is [B, K].
    """
    last = last_operation(model)
    kind, activation = type(last).__name__, getattr(getattr(last, "activation", None), "__name__", "")
    if activation in SQUASHING:
        return f"{activation} ({last.name!r})"
    if kind in ("Softmax", "LogSoftmax", "Sigmoid"):
        return f"a {kind} layer ({last.name!r})"
    # A Dense layer without activation gives logits for certain; of anything else the numbers must tell.
    if (isinstance(last, keras.layers.Dense) and activation == "linear") or not gives_probabilities(model):
        return ""
    return "a softmax" + (f" ({last.name!r})" if last is not None else "")


def last_operation(model):
    """The operation that gives a functional or sequential model's output its values; None where it cannot be seen.

    What passes values on unchanged is passed over, and models within the model are looked into.
    """
    tensor = model.outputs[0] if isinstance(getattr(model, "outputs", None), list) and model.outputs else None
    while tensor is not None:
        operation, node_index, _ = tensor._keras_history
        if isinstance(operation, keras.Model):
            return last_operation(operation)
        is_linear = getattr(operation, "activation", None) is keras.activations.linear
        if type(operation).__name__ not in PASSING_ON and not (type(operation).__name__ == "Activation" and is_linear):
            return operation
        tensor = operation._inbound_nodes[node_index].input_tensors[0]
    return None


def gives_probabilities(model) -> bool:
    """Whether a model's outputs for a few drawn images are nowhere negative and sum to 1, as no logits do.

    Nothing of the model changes. One that takes images of any size, or several inputs, is not tried.
    """
    shape, _ = model_shapes(model)
    if not isinstance(shape, tuple) or None in shape[1:]:
        return False
    images = np.random.default_rng(0).normal(size=(PROBED_EXAMPLES, *shape[1:])).astype(np.float32)
    inference = dict.fromkeys(training_argument(model), False)
    outputs, _ = model.stateless_call(*model_values(model), images, **inference)
    outputs = tf.cast(outputs, tf.float64).numpy()
    return bool((outputs >= 0.0).all() and np.allclose(outputs.sum(axis=1), 1.0, rtol=0.0, atol=1e-4))
