"""Batch normalisation with TensorFlow's fused kernel, and its way back to a stock Keras model.

Keras 3 builds batch normalisation from moments and elementwise operations; TensorFlow's fused
kernel computes the same function several times faster. Differentiating the kernel's gradient once
more, as the logit tangent of the meta-gradient does, falls back to elementwise operations again, so
this file also gives the kernel a cheap second pullback. Batch normalisation: Ioffe and Szegedy,
2015, https://arxiv.org/abs/1502.03167, section 3.
"""

from typing import Any

import keras
import tensorflow as tf

from famus_tf.errors import InputError

_FUSED_DTYPES = ("float32", "bfloat16", "float16")


def fused_training_normalization(
    inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalises a batch by its own statistics, with the fused kernel.

    Exact to second order under nested tapes, and its gradient is linear in the cotangent. The
    gradient of that gradient with respect to the cotangent (the tangent, see `_pullback`) costs one
    more call of the kernel instead of a re-derivation from elementwise operations.

    Args:
        inputs: [B, H, W, C], float32, bfloat16 or float16; B is the batch of this replica.
        gamma: [C] float32, the scale.
        beta: [C] float32, the offset.
        epsilon: added to the variance.

    Returns:
        The normalised batch ([B, H, W, C], dtype of `inputs`), and the batch's mean and biased
        variance (both [C] float32). No gradient flows through the last two: they are for moving
        averages only.
    """

    @tf.custom_gradient
    def normalize(x, scale, offset):
        unused = tf.constant([], tf.float32)
        y, mean, corrected_variance, *reserves = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=scale, offset=offset, mean=unused, variance=unused,
            epsilon=epsilon, is_training=True,
        )  # fmt: skip
        # The kernel returns the sum of squares over n - 1 (n, when n = 1).
        num_values = tf.reduce_prod(tf.cast(tf.shape(x)[:-1], tf.float32))
        variance = corrected_variance * ((num_values - 1.0) / num_values)

        def gradient(y_cotangent, *_):
            return _pullback(y_cotangent, x, scale, mean, variance, reserves, epsilon)

        return (y, mean, variance), gradient

    outputs, mean, variance = normalize(inputs, gamma, beta)
    return outputs, tf.stop_gradient(mean), tf.stop_gradient(variance)


def _pullback(
    cotangent: tf.Tensor,
    inputs: tf.Tensor,
    gamma: tf.Tensor,
    mean: tf.Tensor,
    variance: tf.Tensor,
    reserves: list[tf.Tensor],
    epsilon: float,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Gradients of normalisation in training mode, themselves cheaply differentiable.

    With x̂ = (x - mean) / σ the pullback of a cotangent u is
        dx = (γ/σ) (u - mean(u) - x̂ mean(u x̂)),   dγ = Σ u x̂,   dβ = Σ u.
    The map u -> dx is symmetric, so the derivative of <dx, a> + <dγ, b> + <dβ, c> with respect to u
    is that same map applied to a, plus x̂ b + c.

    Args:
        cotangent: u, [B, H, W, C], dtype of `inputs`.
        inputs: x, [B, H, W, C].
        gamma: γ, [C] float32.
        mean: the batch's mean, [C] float32.
        variance: the batch's biased variance, [C] float32.
        reserves: the three values that the forward kernel keeps for its gradient.
        epsilon: added to the variance.

    Returns:
        dx ([B, H, W, C]), dγ ([C]) and dβ ([C]).
    """

    # Every tensor that the gradients are made of is an argument: in a graph, `tf.custom_gradient`
    # looks for variables between the arguments and the results, and would find the whole network
    # otherwise.
    @tf.custom_gradient
    def pull_back(u, x, scale, mean, variance, *reserves):
        def kernel(kernel_cotangent):
            dx, dscale, doffset, _, _ = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=kernel_cotangent, x=x, scale=scale,
                reserve_space_1=reserves[0], reserve_space_2=reserves[1],
                reserve_space_3=reserves[2], epsilon=epsilon, is_training=True,
            )  # fmt: skip
            return dx, dscale, doffset

        def gradient(dx_cotangent, dscale_cotangent, doffset_cotangent):
            # x̂ b + c as one multiply and one add over the batch.
            slope = dscale_cotangent * tf.math.rsqrt(variance + epsilon)
            affine = tf.cast(x, tf.float32) * slope + (doffset_cotangent - mean * slope)
            u_gradient = kernel(dx_cotangent)[0] + tf.cast(affine, x.dtype)
            # Second order proper, by TensorFlow's own rule; a graph drops it where it is not used.
            with tf.GradientTape() as tape:
                tape.watch([x, scale])
                pulled_back = kernel(u)
            x_gradient, scale_gradient = tape.gradient(
                pulled_back,
                [x, scale],
                output_gradients=[dx_cotangent, dscale_cotangent, doffset_cotangent],
            )
            return u_gradient, x_gradient, scale_gradient, None, None, None, None, None

        return kernel(u), gradient

    return pull_back(cotangent, inputs, gamma, mean, variance, *reserves)


@keras.saving.register_keras_serializable(package="famus_tf")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` computed by TensorFlow's fused kernel.

    Constructor, variables, their names and the configuration are the stock layer's. So is the
    function, moving statistics included: `momentum` is the weight of the old value, and the moving
    variance takes the biased batch variance (sum of squares over n). The kernel serves
    channels-last inputs [B, H, W, C] of float32, bfloat16 or float16; float64, other ranks, a mask,
    another axis, `renorm=True` and `synchronized=True` take the stock formula, which is why the two
    must agree.

    Differs from PyTorch, the framework of the papers' code, whose running variance takes the sum of
    squares over n - 1. With n = B·H·W the relative difference is 1/n (about 0.001 for 64 maps of
    4x4), and it reaches only inference; agreeing with the stock layer keeps one replica,
    synchronised replicas and the exported plain model the same function.
    """

    def call(self, inputs, training=None, mask=None):
        """Normalises `inputs`, updating the moving statistics when training and trainable.

        Args:
            inputs: [B, H, W, C] for the kernel, anything the stock layer takes otherwise; the
                statistics are those of this replica's batch unless `synchronized`.
            training: Python bool; None means False. A layer with `trainable=False` normalises by
                its moving statistics in either case, as the stock layer does.
            mask: as in the stock layer.

        Returns:
            A tensor of the shape of `inputs` and of the layer's compute dtype.
        """
        if not self._kernel_serves(inputs, mask):
            return super().call(inputs, training=training, mask=mask)
        moving_mean = tf.cast(self.moving_mean, tf.float32)
        moving_variance = tf.cast(self.moving_variance, tf.float32)
        gamma = tf.cast(self.gamma, tf.float32) if self.scale else tf.ones_like(moving_mean)
        beta = tf.cast(self.beta, tf.float32) if self.center else tf.zeros_like(moving_mean)
        if training and self.trainable:
            outputs, mean, variance = fused_training_normalization(inputs, gamma, beta, self.epsilon)
            new_weight = 1.0 - self.momentum
            self.moving_mean.assign(moving_mean * self.momentum + mean * new_weight)
            self.moving_variance.assign(moving_variance * self.momentum + variance * new_weight)
        else:
            outputs, _, _ = tf.compat.v1.nn.fused_batch_norm(
                inputs,
                gamma,
                beta,
                mean=moving_mean,
                variance=moving_variance,
                epsilon=self.epsilon,
                is_training=False,
            )
        return tf.cast(outputs, self.compute_dtype)

    def _kernel_serves(self, inputs: tf.Tensor, mask: tf.Tensor | None) -> bool:
        return (
            mask is None
            and not self.synchronized
            and not getattr(self, "renorm", False)
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and keras.backend.standardize_dtype(inputs.dtype) in _FUSED_DTYPES
        )


def batch_normalization(name: str, *, synchronized: bool) -> FusedBatchNormalization:
    """The normalisation layer of every network here, with PyTorch's default constants.

    Momentum 0.9 is PyTorch's 0.1, which is the weight of the new value.

    Args:
        name: the layer's name.
        synchronized: True computes the batch statistics over all replicas.
    """
    return FusedBatchNormalization(momentum=0.9, epsilon=1e-5, synchronized=synchronized, name=name)


def plain_copy(model: keras.Model) -> keras.Model:
    """Copies a model so that it needs nothing but stock Keras to load and run.

    Every `FusedBatchNormalization`, at any depth, becomes a `keras.layers.BatchNormalization` of
    the same name with `synchronized=False`; weights, names and `trainable` flags are kept. A copy
    of a network of mixed precision computes in float32, as its weights are: that runs, and gives
    the same numbers, everywhere. The copy is not compiled. It is made from the configuration and
    not by `keras.models.clone_model`, which copies the compilation (and with it losses and
    optimizers that only this package knows) and does not reach inside wrappers such as
    `TimeDistributed`.

    Args:
        model: a built functional or sequential model. A functional model of a class of its own
            becomes a plain `keras.Model`.

    Returns:
        The copy, or `model` itself when it holds no `FusedBatchNormalization`.

    Raises:
        InputError: the model holds such a layer and is subclassed or not built, so that its graph
            of layers is not known.
    """
    if not _fused_layer_names(model):
        return model
    if not model.built:
        raise InputError(
            f"plain_copy got the model '{model.name}', which is not built and has no weights to "
            "copy. Call it once, or give it an input shape, first."
        )
    config = _graph_config(model)
    hidden = _fused_layer_names(model) - _configured_fused_layer_names(config)
    if hidden:
        raise InputError(
            f"plain_copy cannot replace the layers {sorted(hidden)} of the model '{model.name}': "
            "they are inside a subclassed layer or model that builds them itself. Build the model "
            "with the functional interface, or use keras.layers.BatchNormalization there."
        )
    model_class = keras.Sequential if isinstance(model, keras.Sequential) else keras.Model
    custom_objects = {
        type(layer).__name__: type(layer)
        for layer in model._flatten_layers(include_self=False)
        if not type(layer).__module__.startswith("keras.")
    }
    config = _in_float32(_without_fused_layers(config))
    copy = model_class.from_config(config, custom_objects=custom_objects)
    copy.set_weights(model.get_weights())
    return copy


def _graph_config(model: keras.Model) -> dict[str, Any]:
    """The configuration of a functional or sequential model; InputError for any other."""
    try:
        config = model.get_config()
    except NotImplementedError:
        config = {}
    if isinstance(model, keras.Sequential) or {"layers", "input_layers", "output_layers"} <= set(config):
        return config
    raise InputError(
        f"plain_copy got the model '{model.name}' of the subclassed type {type(model).__name__}, "
        "whose graph of layers is not known, and expected a functional or sequential model. Build "
        "the model with the functional interface, or use keras.layers.BatchNormalization in it."
    )


def _fused_layer_names(model: keras.Model) -> set[str]:
    return {layer.name for layer in model._flatten_layers() if isinstance(layer, FusedBatchNormalization)}


def _is_fused_layer(config: dict[str, Any]) -> bool:
    registered_name = keras.saving.get_registered_name(FusedBatchNormalization)
    return config.get("registered_name") == registered_name


def _configured_fused_layer_names(config: Any) -> set[str]:
    """The names of the fused layers that a configuration spells out, at any depth."""
    if isinstance(config, dict):
        names = {config["config"]["name"]} if _is_fused_layer(config) else set()
        return names.union(*map(_configured_fused_layer_names, config.values()))
    if isinstance(config, (list, tuple)):
        return set().union(*map(_configured_fused_layer_names, config))
    return set()


def _without_fused_layers(config: Any) -> Any:
    """The configuration with every fused layer's entry turned into a stock layer's."""
    if isinstance(config, (list, tuple)):
        return type(config)(_without_fused_layers(entry) for entry in config)
    if not isinstance(config, dict):
        return config
    replaced = {key: _without_fused_layers(value) for key, value in config.items()}
    if _is_fused_layer(config):
        replaced.update(module="keras.layers", class_name="BatchNormalization", registered_name=None)
        replaced["config"]["synchronized"] = False
    return replaced


def _in_float32(config: Any) -> Any:
    """The configuration with every policy of mixed precision turned into that of its variables."""
    if isinstance(config, (list, tuple)):
        return type(config)(_in_float32(entry) for entry in config)
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy" and config["config"]["name"].startswith("mixed_"):
        return {**config, "config": {"name": "float32"}}
    return {key: _in_float32(value) for key, value in config.items()}
