"""Virtual-train and meta-train: the exact meta-gradient from nested tapes, without waste, and its textbook form.

Let z be the training batch's logits, u(θ) = ∂J/∂z the cotangent of a meta-model's inner objective, and
g(θ) = (∂z/∂w)ᵀ u(θ) the training gradient. The virtual weights are ŵ = w − α g (Eq. (3): plain SGD, no momentum, no
L2), q = ∂L_val(ŵ)/∂ŵ is the validation gradient, and the one-step meta-gradient is

    ∂L_val/∂θ = ∂/∂θ ⟨u(θ), ż⟩,   ż = (∂z/∂w) t,   t_l = −α r_l q_l   (+ λ₂ ∂L_g/∂g_L at the last layer).

For MW-Net ⟨u, ż⟩ is Σ_i over all layers of Eq. (7)'s inner products; the gates r_l of Eq. (9) only enter t. Since g is
linear in u, ż is the gradient of ⟨g, t⟩ with respect to u: one nested tape used as forward-mode differentiation, on the
activations of the one forward pass that actual-train uses too. Which layers are differentiated is decided inside the
graph, by the lowest open gate (`switch_on_lowest_open`), so closed lower layers cost nothing.
"""

import dataclasses
import inspect

import tensorflow as tf

from famus_tf import losses

ZERO = tf.UnconnectedGradients.ZERO
# Positions in between take the next lower cut. More branches buy little time and each is a graph to trace and to hold
# in memory; fewer differentiate visibly more than the gates ask for.
MAX_CUTS = 6


@dataclasses.dataclass(frozen=True)
class ForwardPass:
    """One differentiable forward pass of a batch.

    Attributes:
        weights: w, the trainable variables' values.
        logits: z, [B, K] float32 (float64 for a float64 network), B per replica; of the valid examples alone where some
            are not.
        state: The non-trainable variables' next values (batch norm statistics, seeds).
        penalty: Scalar, the sum of the network's own regularisation losses.
        tape: Persistent; has recorded `logits` and `penalty` from `weights`.
    """

    weights: list
    logits: tf.Tensor
    state: list
    penalty: tf.Tensor
    tape: tf.GradientTape

    def gradient(self, cotangent, *, penalty_share=None):
        """(∂z/∂w)ᵀ u, plus a share of the penalty's gradient.

        Args:
            cotangent: u, [B, K].
            penalty_share: None for none, or 1 / number of replicas where the gradients are going to be summed over
                them; times the scale of a scaled cotangent.

        Returns:
            A gradient per weight.
        """
        targets, cotangents = [self.logits], [cotangent]
        if penalty_share is not None:
            targets.append(self.penalty)
            cotangents.append(penalty_share * tf.ones_like(self.penalty))
        return self.tape.gradient(targets, self.weights, output_gradients=cotangents, unconnected_gradients=ZERO)


def only_valid(values, valid):
    """The rows of the valid examples.

    Args:
        values: [B, ...].
        valid: [B], above 0 for valid examples; None where all are.

    Returns:
        [B', ...], B' how many are valid.
    """
    return values if valid is None else tf.gather(values, tf.where(valid > 0.0)[:, 0])


def forward_pass(model, weights, state, images, positions=None, valid=None) -> ForwardPass:
    """Runs the network in training mode at given weights, leaving its variables alone.

    Args:
        model: A built Keras model whose output is logits.
        weights: Values for its trainable variables.
        state: Values for its non-trainable variables.
        images: [B, H, W, C], B per replica.
        positions: Of the weights that gradients will be asked for; None for all. What lies below the lowest of them is
            not recorded, which keeps the tracing of each branch of `switch_on_lowest_open` short.
        valid: [B], above 0 for valid examples; None where all are. The others pass through the network (what stands in
            for them is in the batch's statistics), but have no logits, and so no part in any gradient or tangent.
    """
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(weights if positions is None else [weights[p] for p in positions])
        logits, new_state, penalties = model.stateless_call(
            weights, state, images, return_losses=True, **training_argument(model)
        )
        logits = tf.cast(logits, tf.float64 if logits.dtype == tf.float64 else tf.float32)
        logits = only_valid(logits, valid)
        # The penalty of a layer's output has the dtype that the layer computes in.
        penalty = tf.add_n([tf.cast(p, logits.dtype) for p in penalties]) if penalties else tf.zeros([], logits.dtype)
    return ForwardPass(weights, logits, new_state, penalty, tape)


def training_argument(model) -> dict:
    """{"training": True} where the model's call names it, as `keras.Model.fit` passes it; elsewhere nothing."""
    return {"training": True} if "training" in inspect.signature(model.call).parameters else {}


def recorded_gradient(pass_: ForwardPass, cotangent):
    """The training gradient under a tape that watches u, so that tangents can be drawn from it.

    Args:
        pass_: The training batch's forward pass.
        cotangent: u, [B, K].

    Returns:
        The gradients (this replica's share), and the persistent tape that recorded them from `cotangent`.
    """
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(cotangent)
        gradients = pass_.gradient(cotangent)
    return gradients, tape


def virtual_weights(weights, gradients, learning_rate):
    """ŵ = w − α g, Eq. (3).

    Args:
        weights: w.
        gradients: g, reduced over replicas.
        learning_rate: α, scalar.
    """
    return [w - tf.cast(learning_rate, w.dtype) * tf.cast(g, w.dtype) for w, g in zip(weights, gradients, strict=True)]


def cut_points(owners, num_always: int) -> tuple[int, ...]:
    """Where the differentiated part of the network may begin, as numbers of gated layers, increasing from 0.

    A cut lies where a Keras layer begins: what one layer owns (a batch norm's scale and offset, a kernel and its bias)
    costs one backward pass whether one or all of it is asked for.

    Args:
        owners: [L], for each gated layer, bottom to top, what says which Keras layer owns it.
        num_always: How many of the topmost are differentiated whatever their gates say.

    Returns:
        At most `MAX_CUTS` cuts, evenly over the Keras layers; the last is L − `num_always`, the dearest 0.
    """
    last = max(len(owners) - num_always, 0)
    borders = [0, *(cut for cut in range(1, last) if owners[cut] != owners[cut - 1]), last]
    most = min(MAX_CUTS, len(borders))
    return tuple(sorted({borders[round((len(borders) - 1) * k / max(most - 1, 1))] for k in range(most)}))


def lowest_open(gates):
    """The number of the lowest open gate; L if none is open.

    Args:
        gates: [L], 0 or 1, bottom to top.

    Returns:
        Scalar int32.
    """
    count = gates.shape[0]
    return tf.reduce_min(tf.where(gates > 0.5, tf.range(count), count))


def switch_on_lowest_open(gates, cuts: tuple[int, ...], branch):
    """Runs `branch(c)` for the highest cut c that lies at or below the lowest open gate; only that branch runs.

    Args:
        gates: [L], 0 or 1; None where nothing is to be decided and all layers are taken.
        cuts: As from `cut_points`.
        branch: A function of a Python integer that returns tensors, of the same shapes for each cut. No collective may
            stand in it (nor in what it differentiates).
    """
    if gates is None or len(cuts) == 1:
        return branch(cuts[0])
    number = tf.reduce_sum(tf.cast(tf.constant(cuts) <= lowest_open(gates), tf.int32)) - 1
    return tf.switch_case(number, [lambda c=c: branch(c) for c in cuts])


def validation_gradients(tape, loss, weights, positions, gates, cuts):
    """q_l = ∂L_val(ŵ)/∂ŵ_l at and above the lowest open gate, zeros below it.

    Args:
        tape: Persistent; has recorded `loss` from `weights`.
        loss: L_val (this replica's share), scalar.
        weights: ŵ.
        positions: Of the gated layers in `weights`.
        gates: [L] or None; see `switch_on_lowest_open`.
        cuts: As from `cut_points`.

    Returns:
        A list of L gradients (this replica's share).
    """
    gated = [weights[p] for p in positions]

    def branch(cut):
        below = [tf.zeros_like(w) for w in gated[:cut]]
        above = tape.gradient(loss, gated[cut:], unconnected_gradients=ZERO) if gated[cut:] else []
        return below + above

    return switch_on_lowest_open(gates, cuts, branch)


def logit_tangent(tape, gradients, cotangent, tangents, gates, cuts):
    """ż = (∂z/∂w) t: the gradient of ⟨g, t⟩ with respect to u.

    Args:
        tape: Persistent; has recorded `gradients` from `cotangent`.
        gradients: g of the gated layers (this replica's share), L of them.
        cotangent: u, [B, K].
        tangents: t of the gated layers; those below the lowest open gate are zero.
        gates: [L] or None; see `switch_on_lowest_open`.
        cuts: As from `cut_points`.

    Returns:
        [B, K].
    """

    def branch(cut):
        if not gradients[cut:]:
            return tf.zeros_like(cotangent)
        return tape.gradient(gradients[cut:], cotangent, output_gradients=tangents[cut:], unconnected_gradients=ZERO)

    return switch_on_lowest_open(gates, cuts, branch)


def gate_gradient(gates, training_gradients, validation_gradients, learning_rate):
    """∂L_c/∂r_l: −α⟨g_l, q_l⟩ at an open gate, +α⟨g_l, q_l⟩ at a closed one.

    An open gate multiplies the gradient by r, a closed one by 1 − r, as the official code's straight-through form does.
    Below the lowest open gate only L_r acts, whether or not q is at hand there: how many cuts the graph has, and if it
    branches at all, must not change how the gates learn.

    Args:
        gates: [L], 0 or 1.
        training_gradients: g_l, reduced over replicas.
        validation_gradients: q_l, reduced over replicas.
        learning_rate: α.

    Returns:
        [L] float32.
    """
    products = [
        tf.reduce_sum(tf.cast(g, tf.float32) * tf.cast(q, tf.float32))
        for g, q in zip(training_gradients, validation_gradients, strict=True)
    ]
    signs = tf.where(gates > 0.5, -1.0, 1.0) * tf.cast(tf.range(gates.shape[0]) >= lowest_open(gates), tf.float32)
    return signs * tf.cast(learning_rate, tf.float32) * tf.stack(products)


def meta_gradient(objective, parameters, logits, tangent):
    """∂/∂θ ⟨u(θ), ż⟩.

    Args:
        objective: J as a function of (logits, parameters), scalar (this replica's share).
        parameters: θ, a list of tensors.
        logits: z, [B, K].
        tangent: ż, [B, K], held constant.

    Returns:
        A gradient per parameter (this replica's share).
    """
    with tf.GradientTape(watch_accessed_variables=False) as outer_tape:
        outer_tape.watch(parameters)
        with tf.GradientTape(watch_accessed_variables=False) as inner_tape:
            inner_tape.watch(logits)
            value = objective(logits, parameters)
        cotangent = inner_tape.gradient(value, logits, unconnected_gradients=ZERO)
        product = tf.reduce_sum(cotangent * tf.stop_gradient(tangent))
    return outer_tape.gradient(product, parameters, unconnected_gradients=ZERO)


def textbook_meta_gradient(
    model,
    weights,
    state,
    training_batch,
    meta_batch,
    objective,
    parameters,
    learning_rate,
    positions,
    gates,
    matching_loss,
):
    """The same meta-gradient written as the papers write it: an outer tape around an inner tape. Slow; for reading.

    Args:
        model: A built Keras model whose output is logits.
        weights: w.
        state: Values of the non-trainable variables.
        training_batch: (images, labels) of the whole step; one replica only.
        meta_batch: (images, labels).
        objective: J as a function of (logits, labels, parameters), scalar.
        parameters: θ.
        learning_rate: α.
        positions: Of the gated layers.
        gates: [L], 0 or 1.
        matching_loss: λ₂ L_g as a function of (training gradients, validation gradients) of all weights; or None.

    Returns:
        The meta-gradient of θ and the gradient of L_c with respect to the gates (over all of them).
    """
    images, labels = training_batch
    meta_images, meta_labels = meta_batch
    opened = dict(zip(positions, tf.unstack(gates), strict=True))
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as outer_tape:
        outer_tape.watch(parameters)
        outer_tape.watch(list(opened.values()))
        # Virtual-train, Eq. (3).
        with tf.GradientTape(watch_accessed_variables=False) as inner_tape:
            inner_tape.watch(weights)
            logits, _ = model.stateless_call(weights, state, images, **training_argument(model))
            value = objective(logits, labels, parameters)
        gradients = inner_tape.gradient(value, weights, unconnected_gradients=ZERO)
        looked_ahead = []
        for position, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
            gate = opened.get(position, tf.zeros_like(gates[0]))
            is_open = gate > 0.5
            # ŵ always takes the full gradient; a closed gate only hides where it came from, Eq. (9).
            step = gate * gradient if is_open else (1.0 - gate) * tf.stop_gradient(gradient)
            looked_ahead.append(weight - learning_rate * step)
        # Meta-train, Eq. (4).
        with tf.GradientTape(watch_accessed_variables=False) as validation_tape:
            validation_tape.watch(looked_ahead)
            meta_logits, _ = model.stateless_call(looked_ahead, state, meta_images, **training_argument(model))
            loss = tf.reduce_mean(losses.cross_entropy(meta_logits, meta_labels))
        if matching_loss is not None:
            with outer_tape.stop_recording():
                validation = validation_tape.gradient(loss, looked_ahead, unconnected_gradients=ZERO)
            total = loss + matching_loss(gradients, validation)
        else:
            total = loss
    meta_gradients = outer_tape.gradient(total, parameters, unconnected_gradients=ZERO)
    gate_gradients = outer_tape.gradient(loss, list(opened.values()), unconnected_gradients=ZERO)
    return meta_gradients, tf.stack(gate_gradients)
