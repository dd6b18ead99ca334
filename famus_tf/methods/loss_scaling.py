"""Loss scaling: what keeps float16 from flushing small gradients and tangents to zero.

float16 knows no positive number below 6e-8 and none above 65504. A step of a meta-method crosses the network, computing
in float16, in two kinds of linear passes, and each kind has a factor of its own, put on what enters the pass and taken
off in float32 from what leaves it; so the mathematics does not change.

Backward passes (cotangents in, gradients out: of virtual-train, of the validation loss, of actual-train) take the
factor S on the cotangent. As in Micikevicius et al., Mixed Precision Training, ICLR 2018, section 3.2, with the usual
dynamics: halved when a gradient is not finite, doubled after `GROWTH_STEPS` steps without that.

The tangent pass (t in, ż out) runs forward, through the same layers and in float16 too. S does not serve it: t = −α r q
is tiny (a rate times a gradient), yet what comes out is the change of the activations by the virtual step, which is of
the order of the activations, so that t times a usual S overflows at the top of the network while t alone underflows at
the bottom. But t is known before the pass begins, and the pass is linear; so the tangents are brought to a largest
entry of H, and what comes out is divided by the same number. That does away with the rate, the gates and the size of
the gradients; what is left, the network's gain, H follows with the dynamics of S. (At random weights H may be 2⁶ in
ResNet-32, 2⁸ in WRN-16-4 and the small network; the meta-gradient is the same from 2⁻⁸ on, to four digits.)

Nothing else is scaled: ⟨u, ż⟩, the gates' products and the virtual weights are float32 and of scaled-back values.
bfloat16 has the range of float32 and needs none of this.
"""

import dataclasses
import typing

import tensorflow as tf

from famus_tf.finiteness import finite_flags
from famus_tf.methods import method

GROWTH_STEPS = 2000
# Initial, smallest and largest values. Where something is not finite at the smallest value, the fault is not the
# scale's, and nothing is hidden.
GRADIENT_SCALE = (2.0**15, 1.0, 2.0**24)
TANGENT_SCALE = (2.0**4, 2.0**-8, 2.0**12)


def next_scale(scale, good_steps, is_finite, smallest: float, largest: float):
    """The dynamics of a scale.

    Args:
        scale: Scalar float32 > 0.
        good_steps: Scalar int64, steps since the scale last changed.
        is_finite: Scalar bool, whether all that was computed with it is finite.
        smallest: The scale does not go below.
        largest: Nor above.

    Returns:
        The next scale and the next count.
    """
    is_due = good_steps + 1 >= GROWTH_STEPS
    grown = tf.where(is_due, tf.minimum(2.0 * scale, largest), scale)
    scale = tf.where(is_finite, grown, tf.maximum(0.5 * scale, smallest))
    return scale, tf.where(is_finite & ~is_due, good_steps + 1, tf.zeros_like(good_steps))


def computes_in_float16(model) -> bool:
    """Whether some layer of a Keras model computes in float16."""
    return any(layer.compute_dtype == "float16" for layer in model._flatten_layers())


@typing.final
class DynamicScale:
    """A scale and its count of good steps, kept in variables."""

    def __init__(self, initial: float, smallest: float, largest: float):
        """Makes the variables, inside the strategy's scope."""
        self._smallest, self._largest = smallest, largest
        self._scale = tf.Variable(initial, dtype=tf.float32, trainable=False)
        self._good_steps = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.variables = [self._scale, self._good_steps]

    @property
    def value(self):
        """The scale, a scalar float32."""
        return tf.convert_to_tensor(self._scale)

    def recovered(self, tensors, factor):
        """Takes a factor off what left a pass.

        Args:
            tensors: float32, scaled by `factor`.
            factor: Scalar float32.

        Returns:
            The tensors divided by it, and whether all are finite. If one is not, they are zeros, so that the rest of
            a step that will not count is finite; but as they are where this scale cannot become smaller.
        """
        is_finite = tf.reduce_all(finite_flags(tensors))
        is_hidden = ~is_finite & (self.value > self._smallest)
        return [tf.where(is_hidden, tf.zeros_like(t), t / factor) for t in tensors], is_finite

    def settled(self, is_finite):
        """What becomes of a step.

        Args:
            is_finite: Scalar bool, equal on all replicas: whether all that was `recovered` in the step was finite.

        Returns:
            Whether the step counts, and (variable, new value) pairs of this scale.
        """
        counts = is_finite | (self.value <= self._smallest)
        new_values = next_scale(self.value, tf.convert_to_tensor(self._good_steps), is_finite,
                                self._smallest, self._largest)  # fmt: skip
        return counts, list(zip(self.variables, new_values, strict=True))


@typing.final
class LossScaling:
    """The two scales of a method whose network computes in float16; changes nothing for any other network.

    A step with an overflow stores nothing but the smaller scale: its other assignments are the old values, and all it
    returns is finite. (Its example weights are those of gradients 0.) A loss that is itself not finite is no overflow
    of a scale, and stays visible in the step's scalars.

    Attributes:
        is_active: Whether anything is scaled.
        variables: To be saved.
        scalar_names: What `settled` appends to a step's scalars.
    """

    def __init__(self, model):
        """Makes the variables, inside the strategy's scope.

        Args:
            model: The built Keras model.
        """
        self.is_active = computes_in_float16(model)
        self.variables, self.scalar_names = [], ()
        if self.is_active:
            self._gradients, self._tangents = DynamicScale(*GRADIENT_SCALE), DynamicScale(*TANGENT_SCALE)
            self.variables = [*self._gradients.variables, *self._tangents.variables]
            self.scalar_names = ("loss_scale", "tangent_scale", "skipped_rate")

    def scaled(self, value):
        """A cotangent, a loss or a share of one, times S.

        Args:
            value: A tensor or number.
        """
        return self._gradients.value * value if self.is_active else value

    def gradients(self, scaled):
        """Gradients of what was scaled, without S.

        Args:
            scaled: float32, already summed over replicas, so that all of them see the same.

        Returns:
            The gradients (see `DynamicScale.recovered`), and whether they are finite.
        """
        return self._gradients.recovered(scaled, self._gradients.value) if self.is_active else (scaled, True)

    def tangents(self, tangents):
        """Tangents with a largest entry of H, so that they cross the network within float16's range.

        Args:
            tangents: A list of float32 tensors, equal on all replicas.

        Returns:
            The scaled tangents, and the factor on them, to be given to `logit_tangent`.
        """
        if not self.is_active:
            return tangents, None
        largest = tf.reduce_max([tf.reduce_max(tf.abs(t)) for t in tangents])
        # Below this, a virtual step changes no float32 weight; without a bound the factor would overflow.
        factor = self._tangents.value / tf.where(largest > 1e-30, largest, tf.ones_like(largest))
        return [factor * t for t in tangents], factor

    def logit_tangent(self, scaled, factor):
        """ż without the factor, and whether it is finite on this replica.

        Args:
            scaled: [B, K] float32, B per replica.
            factor: As from `tangents`.
        """
        if not self.is_active:
            return scaled, True
        (tangent,), is_finite = self._tangents.recovered([scaled], factor)
        return tangent, is_finite

    def settled(self, result: method.StepResult, gradients_are_finite, tangents_are_finite=True) -> method.StepResult:
        """The step as it is to be stored: without effect, but for the scales, if something overflowed.

        Args:
            result: The step as computed.
            gradients_are_finite: Whether all `gradients` of the step were; equal on all replicas.
            tangents_are_finite: Likewise of the tangents.
        """
        if not self.is_active:
            return result
        gradients_are_finite = tf.convert_to_tensor(gradients_are_finite)
        # Gradients that are not finite make tangents that are not: no fault of H.
        tangents_are_finite = tf.convert_to_tensor(tangents_are_finite) | ~gradients_are_finite
        gradients_count, gradient_updates = self._gradients.settled(gradients_are_finite)
        tangents_count, tangent_updates = self._tangents.settled(tangents_are_finite)
        counts = gradients_count & tangents_count
        kept = [(v, tf.where(counts, new, tf.convert_to_tensor(v))) for v, new in result.assignments]
        said = [self._gradients.value, self._tangents.value, tf.cast(~counts, tf.float32)]
        return dataclasses.replace(
            result,
            assignments=[*kept, *gradient_updates, *tangent_updates],
            scalars=tf.concat([result.scalars, tf.stack(said)], axis=0),
        )
