"""Subclassed Keras models, which keep no shapes of their own and whose call may take no `training`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from famus_tf import registry
from famus_tf.errors import InputError
from famus_tf.methods import method
from famus_tf.runs import training_feeds
from famus_tf.trainer import Trainer
from tests.tiny_networks import IMAGE_SHAPE, NUM_CLASSES, draw_weights, example_arrays

layers = keras.layers


TRAIN, META, TEST = example_arrays(24, 0), example_arrays(8, 1), example_arrays(10, 2)


class Network(keras.Model):
    """Convolution, batch norm, dropout and a dense head."""

    def __init__(self, end=None, **settings):
        super().__init__(**settings)
        self.convolution = layers.Conv2D(4, 3, activation="tanh")
        self.norm = layers.BatchNormalization(momentum=0.9)
        self.dropout = layers.Dropout(0.5, seed=5)
        self.flatten = layers.Flatten()
        self.head = layers.Dense(NUM_CLASSES)
        self.end = end or (lambda logits: logits)

    def call(self, images, training=False):
        x = self.norm(self.convolution(images), training=training)
        return self.end(self.head(self.flatten(self.dropout(x, training=training))))


class WithoutTraining(keras.Model):
    """A network whose call takes images alone."""

    def __init__(self):
        super().__init__()
        self.flatten = layers.Flatten()
        self.head = layers.Dense(NUM_CLASSES)

    def call(self, images):
        return self.head(self.flatten(images))


def functional():
    """The same as `Network`, written as a functional model."""
    x = inputs = keras.Input(IMAGE_SHAPE)
    x = layers.BatchNormalization(momentum=0.9)(layers.Conv2D(4, 3, activation="tanh")(x))
    x = layers.Flatten()(layers.Dropout(0.5, seed=5)(x))
    return draw_weights(keras.Model(inputs, layers.Dense(NUM_CLASSES)(x)))


def called(model):
    """The model after one call on a batch, with drawn weights."""
    model(np.zeros((2, *IMAGE_SHAPE), np.float32))
    return draw_weights(model)


def trained(model, name, strategy=None):
    settings = {"gated_variables": 2} if name == "mwnet_famus" else {}
    trainer = Trainer(model, registry.make_method(name, learning_rate=0.1, **settings), strategy=strategy)
    trainer.fit(TRAIN, META, validation_data=TEST, batch_size=8, epochs=1, verbose=0)
    assert trainer.step == 3
    return trainer


@pytest.mark.parametrize("name", ["ce", "mwnet_famus"])
def test_a_subclassed_model_trains_as_the_same_functional_one(name):
    subclassed, written_out = trained(called(Network()), name), trained(functional(), name)
    start = functional().get_weights()
    for one, other, before in zip(subclassed.model.get_weights(), written_out.model.get_weights(), start, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        assert np.abs(one - before).max() > 1e-4
    for key in ("loss", "accuracy", "val_loss", "val_accuracy"):
        np.testing.assert_allclose(subclassed.history[key], written_out.history[key], rtol=1e-5)
    # The draws of dropout are counted as well: one a step.
    assert [v.numpy().tolist() for v in subclassed.model.non_trainable_variables if "seed" in v.path] == [[5, 3]]


@pytest.mark.parametrize("name", ["ce", "mwnet"])
def test_a_model_whose_call_takes_images_alone_trains(name):
    losses = trained(called(WithoutTraining()), name).history
    assert np.isfinite(losses["loss"]).all()
    assert np.isfinite(losses["val_loss"]).all()


def test_a_subclassed_model_trains_on_two_replicas(two_replicas):
    with two_replicas.scope():
        model = called(WithoutTraining())
    one, two = trained(called(WithoutTraining()), "ce"), trained(model, "ce", two_replicas)
    for left, right in zip(one.model.get_weights(), two.model.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)


def test_the_shapes_of_a_subclassed_model_are_those_it_was_called_on():
    inputs, outputs = method.model_shapes(called(Network()))
    assert inputs[1:] == IMAGE_SHAPE
    assert outputs == (None, NUM_CLASSES)


def test_a_model_that_was_built_without_a_call_is_refused():
    model = Network(name="uncalled")
    with pytest.warns(UserWarning, match="does not have a `build"):
        model.build((None, *IMAGE_SHAPE))
    with pytest.raises(InputError, match="The model 'uncalled' does not know the shape of its input. Call it once"):
        method.model_shapes(model)


def test_images_that_a_subclassed_model_was_not_called_on_are_refused():
    trainer = Trainer(called(Network(name="users")), registry.make_method("ce"))
    wrong = TRAIN[0][:, :5], TRAIN[1]
    message = r"images have shape \(5, 6, 2\), but the model 'users' takes \(6, 6, 2\)"
    with pytest.raises(InputError, match=f"The train {message}"):
        trainer.make_feeds(wrong, None, batch_size=8)
    with pytest.raises(InputError, match=f"The val {message}"):
        training_feeds.check_measured_sets({"val": wrong}, trainer.model, None, trainer.strategy)


@pytest.mark.parametrize("end", [tf.nn.softmax, keras.ops.softmax, layers.Softmax()])
def test_a_softmax_within_a_subclassed_model_is_found(end):
    model = called(Network(end, name="users"))
    with pytest.raises(InputError, match=r"^The model 'users' ends in a softmax; logits are expected\. Remove"):
        method.check_ends_in_logits(model)
    assert method.check_ends_in_logits(called(Network())) == NUM_CLASSES
