"""What every meta-model offers: an inner objective J(z, y; θ), and how θ moves."""

import abc

import tensorflow as tf

from famus_tf import losses


class AbstractMetaModel(abc.ABC):
    """Weighs (or corrects) the training examples by parameters θ learned on the clean set.

    The meta step needs no more of a meta-model than a scalar objective of the logits: the gradient of the objective
    with respect to the logits is the cotangent that every training gradient starts from. `all_sum` below is a function
    that sums a tensor over replicas (the identity on one), differentiable once; "local" means this replica's share.

    Attributes:
        moves_virtual_weights: False where the virtual step is taken at weights zero, so that ŵ = w (L2R).
    """

    moves_virtual_weights = True

    @abc.abstractmethod
    def build(self, num_classes: int, seed: int) -> None:
        """Makes θ's variables, inside the strategy's scope.

        Args:
            num_classes: K.
            seed: Of the initial values.
        """

    @property
    @abc.abstractmethod
    def variables(self) -> list:
        """Everything that outlives a step (θ and its optimizer's slots), to be saved."""

    @abc.abstractmethod
    def parameters(self, logits, labels, global_batch_size: int) -> list:
        """θ as tensors, at the start of this step.

        Args:
            logits: [B, K], B per replica.
            labels: [B] int32.
            global_batch_size: Examples of the step over all replicas.
        """

    @abc.abstractmethod
    def inner_objective(self, logits, labels, parameters, global_batch_size: int, all_sum):
        """J(z, y; θ), and the weights it gives.

        Args:
            logits: z, [B, K], B per replica.
            labels: y, [B] int32.
            parameters: θ, as `parameters` gives it or as the meta step left it.
            global_batch_size: Examples of the step over all replicas.
            all_sum: Sums a tensor over replicas.

        Returns:
            The local share of J (its sum over replicas is J), and the example weights [B] scaled so that plain training
            has weight 1 for each example.
        """

    @abc.abstractmethod
    def updated_parameters(self, parameters, meta_gradient, step, all_sum):
        """θ' from θ and the local share of the meta-gradient.

        Args:
            parameters: θ, as `parameters` gave it.
            meta_gradient: ∂L_val/∂θ, this replica's share, same structure.
            step: Scalar int64.
            all_sum: Sums a tensor (or list of tensors) over replicas.

        Returns:
            θ' as tensors, and the list of (variable, new value) that keeps it.
        """

    def gate_cotangent(self, logits, labels, cotangent, global_batch_size: int):
        """The logit cotangent whose gradient the gates look at; the virtual step's own where that is not zero.

        Args:
            logits: [B, K], B per replica.
            labels: [B] int32.
            cotangent: ∂J/∂z, [B, K].
            global_batch_size: Examples of the step over all replicas.
        """
        del logits, labels, global_batch_size
        return cotangent


def plain_objective(logits, labels, global_batch_size: int):
    """The local share of the mean cross-entropy over the global batch.

    Args:
        logits: [B, K], B per replica.
        labels: [B] int32.
        global_batch_size: Examples of the step over all replicas.

    Returns:
        Scalar.
    """
    return tf.reduce_sum(losses.cross_entropy(logits, labels)) / global_batch_size


def logit_cotangent(objective, logits):
    """∂J/∂z of an objective.

    Args:
        objective: A function of the logits that returns a scalar.
        logits: [B, K].

    Returns:
        [B, K].
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(logits)
        value = objective(logits)
    return tape.gradient(value, logits, unconnected_gradients=tf.UnconnectedGradients.ZERO)
