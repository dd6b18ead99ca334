"""Plain training with cross-entropy: the yardstick, on the same loop and the same data as every method."""

import tensorflow as tf

from famus_tf import losses, optimizers
from famus_tf.config import MethodConfig
from famus_tf.meta.meta_gradient import forward_pass, only_valid
from famus_tf.meta.meta_model import logit_cotangent, plain_objective
from famus_tf.methods import loss_scaling, method


class Supervised(method.AbstractMethod):
    """w ← w − α ∇ (1/n) Σ_i ℓ_i, n the global batch; examples that are not valid count in n only."""

    def __init__(self, config: MethodConfig):
        """Takes the settings."""
        self.name = config.name
        self._config = config

    def build(self, model, *, seed: int, num_replicas: int) -> None:
        """Makes the optimizer's slots and, for float16, the loss scale."""
        del seed
        self.check_is_free()
        method.check_ends_in_logits(model)
        self._num_replicas = num_replicas
        self._all_sum = method.reduction(num_replicas)
        self._optimizer = optimizers.Optimizer(self._config.base)
        self._optimizer.build(model.trainable_variables)
        self._scaling = loss_scaling.LossScaling(model)
        self.scalar_names = ("loss", "accuracy", "learning_rate", *self._scaling.scalar_names)
        self._model = model

    @property
    def variables(self) -> list:
        """The optimizer's and the loss scale's."""
        return [*self._optimizer.variables, *self._scaling.variables]

    @property
    def base_optimizer(self) -> optimizers.Optimizer:
        """The optimizer of the network."""
        return self._optimizer

    def train_step(self, batch, meta_batch, step) -> method.StepResult:
        """One forward and one backward pass."""
        del meta_batch
        valid = batch.get("valid")
        global_batch_size = batch["label"].shape[0] * self._num_replicas
        labels = only_valid(batch["label"], valid)
        weights, state = method.model_values(self._model)
        training = forward_pass(self._model, weights, state, batch["image"], valid=valid)
        cotangent = logit_cotangent(lambda z: plain_objective(z, labels, global_batch_size), training.logits)
        scaled = self._scaling.scaled
        gradients = training.gradient(scaled(cotangent), penalty_share=scaled(1.0 / self._num_replicas))
        loss = plain_objective(training.logits, labels, global_batch_size)
        hits = tf.reduce_sum(losses.correct_predictions(training.logits, labels)) / global_batch_size
        gradients, loss, hits = self._all_sum([gradients, loss, hits])
        gradients, is_finite = self._scaling.gradients(gradients)
        result = method.StepResult(
            assignments=[
                *self._optimizer.updates(weights, gradients, step),
                *method.state_assignments(self._model, training.state),
            ],
            scalars=tf.stack([tf.cast(scalar, tf.float32) for scalar in (loss, hits, self._optimizer.rate(step))]),
            example_weights=method.weights_of_all(tf.ones_like(training.logits[:, 0], tf.float32), valid),
        )
        return self._scaling.settled(result, is_finite)
