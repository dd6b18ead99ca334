"""Algorithm 1 of FaMUS: any meta-model with any layer sampler.

What several replicas mean: one big batch. The virtual gradient, the weights' normaliser, the validation gradient, the
meta-gradient and the actual gradient are sums over replicas of shares that were divided by *global* sizes, so N
replicas of B give the step of one replica of N·B (batch norm synchronised, see `models/normalization.py`). Gates look
at reduced gradients and draw stateless noise, so they are equal on all replicas.

Traps kept out of here: Keras' mean-reducing losses divide by the number of replicas by themselves; Keras' optimizers
sum gradients over replicas and decouple weight decay; calling a model twice updates batch norm twice (here only the
training batch's pass is committed, once).

Examples that are not valid (their pictures could not be decoded) have no logits, see `meta_gradient.forward_pass`: they
contribute to no sum of losses, weights or gradients, training and meta batch alike. What is divided by a batch size is
still divided by the whole one.

Where the network computes in float16, what crosses it is scaled (see `loss_scaling.py`); S is the scale of cotangents.
"""

import dataclasses

import tensorflow as tf

from famus_tf import losses, optimizers
from famus_tf.config import MethodConfig
from famus_tf.meta import gradient_sampler, meta_gradient
from famus_tf.meta.layer_sampling import AbstractLayerSampler, last_layer_positions, layer_owners
from famus_tf.meta.meta_model import AbstractMetaModel, logit_cotangent
from famus_tf.methods import loss_scaling, method


@dataclasses.dataclass(frozen=True)
class VirtualTrain:
    """What virtual-train leaves behind for the other two stages.

    Attributes:
        training: The one forward pass of the training batch.
        labels: [B] int32 given labels; of the valid examples alone.
        valid: [B] float32, 1 for valid examples and 0 for others; None where all are.
        global_batch_size: Examples of the step over all replicas, valid or not.
        state: Values of the non-trainable variables before the step.
        parameters: θ.
        rate: α of this step.
        cotangent: S u, [B, K], u = ∂J/∂z.
        recorded: S g of the gated layers, this replica's share, recorded by `tape` from `cotangent`.
        tape: See `recorded`.
        weights: ŵ.
        gated: The gated layers' training gradients that gates and L_g look at, reduced over replicas.
        is_finite: Whether no gradient overflowed; equal on all replicas.
    """

    training: meta_gradient.ForwardPass
    labels: tf.Tensor
    valid: tf.Tensor | None
    global_batch_size: int
    state: list
    parameters: list
    rate: tf.Tensor
    cotangent: tf.Tensor
    recorded: list
    tape: tf.GradientTape
    weights: list
    gated: list
    is_finite: bool | tf.Tensor


@dataclasses.dataclass(frozen=True)
class MetaTrain:
    """What meta-train decides.

    Attributes:
        gradient: ∂L^val/∂θ, this replica's share.
        gates: [L], 0 or 1.
        gate_gradient: ∂(L_c + λ₁ L_r)/∂η, or [] where nothing is learned about layers.
        is_informed: Scalar bool: some layer contributed, so θ may move.
        loss: L_c, global.
        accuracy: On the meta batch at ŵ, global.
        is_finite: Whether no validation gradient overflowed; equal on all replicas.
        tangent_is_finite: Whether this replica's tangents did not.
    """

    gradient: list
    gates: tf.Tensor
    gate_gradient: list
    is_informed: tf.Tensor
    loss: tf.Tensor
    accuracy: tf.Tensor
    is_finite: bool | tf.Tensor
    tangent_is_finite: bool | tf.Tensor


class MetaReweighting(method.AbstractMethod):
    """Virtual-train, meta-train, actual-train, sharing one forward pass of the training batch."""

    needs_meta_set = True

    def __init__(self, config: MethodConfig, meta_model: AbstractMetaModel, layer_sampler: AbstractLayerSampler):
        """Composes the method.

        Args:
            config: For the base optimizer and the name.
            meta_model: What weighs the examples.
            layer_sampler: Which layers' meta-gradient is computed.
        """
        self.name = config.name
        self._config = config
        self.meta_model = meta_model
        self.layer_sampler = layer_sampler

    def build(self, model, *, seed: int, num_replicas: int) -> None:
        """Makes the variables of the optimizers, the meta-model and the gates."""
        self.check_is_free()
        num_classes = method.check_ends_in_logits(model)
        self._num_replicas = num_replicas
        self._all_sum = method.reduction(num_replicas)
        self._optimizer = optimizers.Optimizer(self._config.base)
        self._optimizer.build(model.trainable_variables)
        self._scaling = loss_scaling.LossScaling(model)
        self.meta_model.build(num_classes, seed)
        self.layer_sampler.build(model, seed)
        self._last_layer = last_layer_positions(model)
        self._owners = layer_owners(model)
        # A collective may not stand in a branch, and a synchronised batch norm's backward pass holds one.
        self._may_branch = not (num_replicas > 1 and has_synchronized_layer(model))
        gate_names = (f"gate/{model.trainable_variables[p].path}" for p in self.layer_sampler.positions)
        self.scalar_names = (
            "loss", "accuracy", "learning_rate", "meta_loss", "meta_accuracy", "meta_gradient_norm", "zero_weight_rate",
            *(() if self.layer_sampler.is_static else ("open_gates", *gate_names)), *self._scaling.scalar_names,
        )  # fmt: skip
        self._model = model

    @property
    def variables(self) -> list:
        """The optimizer's, the meta-model's, the layer sampler's and the loss scale's."""
        return [
            *self._optimizer.variables,
            *self.meta_model.variables,
            *self.layer_sampler.variables,
            *self._scaling.variables,
        ]

    @property
    def base_optimizer(self) -> optimizers.Optimizer:
        """The optimizer of the network."""
        return self._optimizer

    def train_step(self, batch, meta_batch, step) -> method.StepResult:
        """Algorithm 1, one iteration."""
        virtual = self.virtual_train(batch, step)
        meta = self.meta_train(virtual, meta_batch, step)
        return self.actual_train(virtual, meta, step)

    def virtual_train(self, batch, step) -> VirtualTrain:
        """Looks one plain SGD step ahead, Eq. (3), and gathers what the gates look at, Eq. (8).

        Args:
            batch: {"image": [B, H, W, C], "label": [B]}, and perhaps "valid"; B per replica.
            step: Scalar int64.
        """
        valid = batch.get("valid")
        global_batch_size = batch["label"].shape[0] * self._num_replicas
        labels = meta_gradient.only_valid(batch["label"], valid)
        weights, state = method.model_values(self._model)
        training = meta_gradient.forward_pass(self._model, weights, state, batch["image"], valid=valid)
        parameters = self.meta_model.parameters(training.logits, labels, global_batch_size)
        rate = self._optimizer.rate(step)
        objective = lambda z: self._objective(z, labels, parameters, global_batch_size)[0]  # noqa: E731
        cotangent = logit_cotangent(objective, training.logits)
        scaled = self._scaling.scaled(cotangent)
        gradients, tape = meta_gradient.recorded_gradient(training, scaled)
        gated_of = lambda all_gradients: [all_gradients[p] for p in self.layer_sampler.positions]  # noqa: E731
        recorded, gated, is_finite = gated_of(gradients), [], True
        if self.meta_model.moves_virtual_weights:
            gradients, is_finite = self._scaling.gradients(self._all_sum(gradients))
            weights = meta_gradient.virtual_weights(weights, gradients, rate)
            gated = gated_of(gradients)
        elif not self.layer_sampler.is_static:
            seen = self.meta_model.gate_cotangent(training.logits, labels, cotangent, global_batch_size)
            gradients = gated_of(training.gradient(self._scaling.scaled(seen)))
            gated, is_finite = self._scaling.gradients(self._all_sum(gradients))
        return VirtualTrain(
            training, labels, valid, global_batch_size, state, parameters, rate, scaled, recorded, tape, weights, gated,
            is_finite,
        )  # fmt: skip

    def meta_train(self, virtual: VirtualTrain, meta_batch, step) -> MetaTrain:
        """Computes the meta-gradient, Eq. (4), of the layers of Eq. (9), with the losses of Eq. (12).

        Args:
            virtual: As from `virtual_train`.
            meta_batch: {"image": [M, H, W, C], "label": [M]}, and perhaps "valid"; M per replica.
            step: Scalar int64.
        """
        sampler = self.layer_sampler
        matches = sampler.gradient_matching_weight > 0.0
        learned = sampler.parameters()
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as gate_tape:
            gate_tape.watch(learned)
            gates = sampler.gates(learned, virtual.gated, step)
            budget = sampler.budget_loss(gates)
        branching = gates if self._may_branch and not sampler.is_static else None
        owners = [self._owners[position] for position in sampler.positions]
        cuts = meta_gradient.cut_points(owners, len(self._last_layer) if matches else 0)
        validation, loss, hits = self._validation(virtual, meta_batch)
        with validation.tape:
            scaled = self._scaling.scaled(loss)
        seen = meta_gradient.validation_gradients(
            validation.tape, scaled, virtual.weights, sampler.positions, branching, cuts
        )
        seen, loss, hits = self._all_sum([seen, loss, hits])
        seen, is_finite = self._scaling.gradients(seen)

        # t_l = −α r_l q_l, Eq. (9), and λ₂ ∂L_g/∂g_L, Eq. (11), at the last layer.
        tangents = [-tf.cast(virtual.rate * r, q.dtype) * q for r, q in zip(tf.unstack(gates), seen, strict=True)]
        if matches:
            tangents = self._with_gradient_matching(tangents, virtual.gated, seen)
        tangents, factor = self._scaling.tangents(tangents)
        tangent = meta_gradient.logit_tangent(
            virtual.tape, virtual.recorded, virtual.cotangent, tangents, branching, cuts
        )
        tangent, tangent_is_finite = self._scaling.logit_tangent(tangent, factor)
        gradient = meta_gradient.meta_gradient(
            lambda logits, values: self._objective(logits, virtual.labels, values, virtual.global_batch_size)[0],
            virtual.parameters,
            virtual.training.logits,
            tangent,
        )
        gate_gradient = []
        if learned:
            from_budget = gate_tape.gradient(budget, gates, unconnected_gradients=meta_gradient.ZERO)
            from_loss = meta_gradient.gate_gradient(gates, virtual.gated, seen, virtual.rate)
            gate_gradient = gate_tape.gradient(
                gates, learned, output_gradients=from_loss + from_budget, unconnected_gradients=meta_gradient.ZERO
            )
        is_informed = tf.constant(True) if matches else tf.reduce_any(gates > 0.5)
        return MetaTrain(gradient, gates, gate_gradient, is_informed, loss, hits, is_finite, tangent_is_finite)

    def actual_train(self, virtual: VirtualTrain, meta: MetaTrain, step) -> method.StepResult:
        """Moves θ, η and w, Eq. (5): the same w and batch as virtual-train, so the same forward pass.

        Args:
            virtual: As from `virtual_train`.
            meta: As from `meta_train`.
            step: Scalar int64.
        """
        training, labels, global_batch_size = virtual.training, virtual.labels, virtual.global_batch_size
        parameters, meta_assignments = self._moved_parameters(virtual.parameters, meta, step)
        objective = lambda z: self._objective(z, labels, parameters, global_batch_size)  # noqa: E731
        cotangent = logit_cotangent(lambda z: objective(z)[0], training.logits)
        scaled = self._scaling.scaled
        gradients = training.gradient(scaled(cotangent), penalty_share=scaled(1.0 / self._num_replicas))
        loss, example_weights = objective(training.logits)
        hits = tf.reduce_sum(losses.correct_predictions(training.logits, labels)) / global_batch_size
        zeros = tf.reduce_sum(tf.cast(example_weights == 0.0, tf.float32)) / global_batch_size
        # Gradients are seen reduced, and so alike, by all replicas; tangents are each replica's own.
        overflows = tf.cast(tf.logical_not(meta.tangent_is_finite), tf.float32)
        gradients, loss, hits, zeros, overflows = self._all_sum([gradients, loss, hits, zeros, overflows])
        gradients, is_finite = self._scaling.gradients(gradients)
        norm = self._gradient_norm(meta.gradient)
        scalars = [loss, hits, virtual.rate, meta.loss, meta.accuracy, norm, zeros]
        if not self.layer_sampler.is_static:
            scalars += [tf.reduce_sum(meta.gates), *tf.unstack(meta.gates)]
        result = method.StepResult(
            assignments=[
                *self._optimizer.updates(training.weights, gradients, step),
                *meta_assignments,
                *method.state_assignments(self._model, training.state),
            ],
            scalars=tf.stack([tf.cast(scalar, tf.float32) for scalar in scalars]),
            example_weights=method.weights_of_all(example_weights, virtual.valid),
        )
        is_finite = tf.logical_and(tf.logical_and(virtual.is_finite, meta.is_finite), is_finite)
        return self._scaling.settled(result, is_finite, overflows == 0.0)

    def _objective(self, logits, labels, parameters, global_batch_size=None):
        """J and the example weights; the size is None where all examples are valid."""
        global_batch_size = global_batch_size or labels.shape[0] * self._num_replicas
        return self.meta_model.inner_objective(logits, labels, parameters, global_batch_size, self._all_sum)

    def _validation(self, virtual: VirtualTrain, meta_batch):
        """The forward pass at ŵ, its state dropped; this replica's shares of L_c and of the accuracy."""
        valid = meta_batch.get("valid")
        global_meta_size = meta_batch["label"].shape[0] * self._num_replicas
        labels = meta_gradient.only_valid(meta_batch["label"], valid)
        validation = meta_gradient.forward_pass(
            self._model, virtual.weights, virtual.state, meta_batch["image"], self.layer_sampler.positions, valid
        )
        with validation.tape:
            loss = tf.reduce_sum(losses.cross_entropy(validation.logits, labels)) / global_meta_size
        hits = tf.reduce_sum(losses.correct_predictions(validation.logits, labels)) / global_meta_size
        return validation, loss, hits

    def _with_gradient_matching(self, tangents, training_gradients, validation_gradients):
        """Adds λ₂ ∂L_g/∂g_L to the last layer's tangents."""
        count = len(self._last_layer)
        last = training_gradients[-count:]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(last)
            loss = gradient_sampler.gradient_matching_loss(
                last, validation_gradients[-count:], self.layer_sampler.variant
            )
        weight = self.layer_sampler.gradient_matching_weight
        added = [weight * g for g in tape.gradient(loss, last, unconnected_gradients=meta_gradient.ZERO)]
        return [*tangents[:-count], *(t + a for t, a in zip(tangents[-count:], added, strict=True))]

    def _moved_parameters(self, parameters, meta: MetaTrain, step):
        """θ' and what keeps it; θ stays where no layer contributed (momentum and L2 would move it otherwise)."""
        moved, kept = self.meta_model.updated_parameters(parameters, meta.gradient, step, self._all_sum)
        if not self.layer_sampler.is_static and kept:
            kept = [(v, tf.where(meta.is_informed, new, tf.convert_to_tensor(v))) for v, new in kept]
            moved = [tf.where(meta.is_informed, new, old) for new, old in zip(moved, parameters, strict=True)]
        if meta.gate_gradient:
            learned = self.layer_sampler.parameters()
            kept = [*kept, *self.layer_sampler.updates(learned, meta.gate_gradient, step)]
        return moved, kept

    def _gradient_norm(self, gradient):
        """‖∂L/∂θ‖ of the summed shares; per-example parameters (L2R's ε) live on their replicas, so squares add up."""
        if not self.meta_model.variables and gradient[0].shape.rank == 1:
            return tf.sqrt(self._all_sum(tf.reduce_sum(tf.square(gradient[0]))))
        return tf.linalg.global_norm(self._all_sum(gradient))


def has_synchronized_layer(model) -> bool:
    """Whether some layer of the model reduces over replicas in its own call."""
    layers = model._flatten_layers() if hasattr(model, "_flatten_layers") else model.layers
    return any(getattr(layer, "synchronized", False) for layer in layers)
