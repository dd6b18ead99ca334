"""The trainer on small networks: what it accepts, what it returns, what it refuses, and that it can go on."""

import dataclasses
import json
import re
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from famus_tf import registry
from famus_tf.errors import InputError
from famus_tf.runs.checkpoints import Checkpointer
from famus_tf.runs.deferred_interrupt import deferred_interrupt
from famus_tf.trainer import Trainer
from tests.tiny_networks import IMAGE_SHAPE, NUM_CLASSES, conv_network, example_arrays

TRAIN, META, TEST = example_arrays(40, 0), example_arrays(12, 1), example_arrays(10, 2)


def make_trainer(name="mwnet_famus", *, seed=0, strategy=None, model=None, steps_per_call=3, **settings):
    if "famus" in name or "random" in name:
        settings = {"gated_variables": 6, **settings}
    settings = {"learning_rate": 0.1, "layer_block": 2, **settings}
    if model is None:
        with (strategy or tf.distribute.get_strategy()).scope():
            model = conv_network(synchronized=strategy is not None)
    method = registry.make_method(name, **settings)
    return Trainer(model, method, seed=seed, steps_per_call=steps_per_call, strategy=strategy)


def fit(trainer, **settings):
    settings = {"epochs": 2, "batch_size": 8, "meta_batch_size": 6, "verbose": 0, **settings}
    return trainer.fit(TRAIN, META, validation_data=TEST, **settings)


def all_values(trainer):
    return {name: [v.numpy() for v in variables] for name, variables in trainer.variables.items()}


def assert_equal_runs(left, right):
    for name, values in all_values(left).items():
        for one, other in zip(values, all_values(right)[name], strict=True):
            np.testing.assert_array_equal(one, other, err_msg=name)
    np.testing.assert_array_equal(left.example_weights, right.example_weights)
    assert left.history == right.history


class StopAfterCalls(keras.callbacks.Callback):
    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def on_train_batch_end(self, batch, logs=None):
        self.calls -= 1
        if self.calls == 0:
            self.model.stop_training = True


def test_two_replicas_train_like_one(two_replicas):
    one = make_trainer("mwnet", model=conv_network(synchronized=True), momentum=0.5)
    two = make_trainer("mwnet", strategy=two_replicas, momentum=0.5)
    fit(one, epochs=1)
    fit(two, epochs=1)
    for left, right in zip(one.model.get_weights(), two.model.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, atol=2e-4)
    np.testing.assert_allclose(one.example_weights, two.example_weights, atol=2e-3)
    np.testing.assert_allclose(one.history["val_loss"], two.history["val_loss"], rtol=1e-3)


def test_fit_returns_keras_history_with_a_value_per_epoch():
    history = fit(make_trainer(), test_data=TEST)
    assert isinstance(history, keras.callbacks.History)
    assert history.epoch == [0, 1]
    for name in ("loss", "accuracy", "meta_loss", "open_gates", "val_accuracy", "val_loss", "test_accuracy"):
        assert len(history.history[name]) == 2, name


def test_fitting_on_continues_the_count_and_the_history():
    trainer = make_trainer("ce")
    fit(trainer, epochs=1)
    history = fit(trainer, epochs=3)
    assert trainer.step == 15
    assert history.epoch == [0, 1, 2]
    assert len(history.history["val_accuracy"]) == 3


def test_train_steps_ends_within_an_epoch_and_still_evaluates():
    trainer = make_trainer("ce")
    history = fit(trainer, train_steps=7)
    assert trainer.step == 7
    assert len(history.history["val_accuracy"]) == 2


@pytest.mark.parametrize("then", [(15,), (7, 8, 15), (9, 10, 15)])
def test_an_epoch_that_was_measured_within_and_goes_on_stands_once_in_the_history(then):
    whole, again = make_trainer("ce"), make_trainer("ce")
    expected = fit(whole, epochs=3)
    history = fit(again, train_steps=7)
    for train_steps in then:
        assert (history.epoch, len(history.history["loss"])) == ([0, 1], 2)
        history = fit(again, train_steps=train_steps)
    assert_equal_runs(whole, again)
    assert history.epoch == expected.epoch == [0, 1, 2]
    assert history.history == expected.history


def test_a_first_epoch_that_goes_on_and_is_stopped_leaves_no_history():
    trainer = make_trainer("ce")
    fit(trainer, train_steps=1)
    ended_with = []
    end = keras.callbacks.LambdaCallback(on_train_end=ended_with.append)
    history = fit(trainer, callbacks=[StopAfterCalls(1), end])
    assert (trainer.step, trainer.history) == (4, {})
    assert (history.epoch, history.history, ended_with) == ([], {}, [{}])


def test_a_fit_with_epochs_of_another_length_is_refused_unless_it_is_told_of_the_former(tmp_path):
    trainer, restored = make_trainer("ce"), make_trainer("ce")
    fit(trainer, epochs=1)
    Checkpointer(tmp_path, trainer, interval_s=1e9).save()
    Checkpointer(tmp_path, restored, interval_s=1e9).restore()
    message = (
        "The training so far had 5 steps per epoch and this fit has 10, so its epochs could not be counted; give"
        " the former batch size or steps_per_epoch=5, or make a new Trainer."
    )
    for each in (trainer, restored):
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            fit(each, batch_size=4)
        assert len(fit(each, batch_size=4, steps_per_epoch=5).history["loss"]) == 2
        assert each.step == 10
    # As in a checkpoint from before the number was kept.
    trainer.set_host_state({name: v for name, v in trainer.host_state().items() if name != "steps_per_epoch"})
    fit(trainer, batch_size=20, epochs=6)
    assert trainer.step == 12


def test_fewer_steps_than_an_epoch_has_are_shown_as_many_as_they_are(capsys):
    fit(make_trainer("ce"), train_steps=2, verbose=2)
    assert [line.split(" ")[0] for line in capsys.readouterr().out.splitlines() if line] == ["2/2"]


def test_example_weights_are_known_for_every_example_of_the_last_batches():
    trainer = make_trainer("mwnet")
    assert trainer.example_weights is None
    fit(trainer, train_steps=1)
    assert np.isfinite(trainer.example_weights).sum() == 8
    np.testing.assert_allclose(np.nansum(trainer.example_weights), 8.0, rtol=1e-5)


def test_another_number_of_examples_is_another_set_of_which_nothing_is_known_yet():
    trainer = make_trainer("ce")
    fit(trainer, epochs=1)
    trainer._examples.bad_rows = {39}
    larger = example_arrays(50, 3)
    trainer.fit(larger, batch_size=8, train_steps=6, steps_per_epoch=5, verbose=0)
    assert trainer.example_weights.shape == (50,)
    assert np.isfinite(trainer.example_weights).sum() == 8
    assert trainer.bad_rows == []
    # The examples of a dataset have no rows.
    trainer.fit(tf.data.Dataset.from_tensor_slices(TRAIN).batch(8), batch_size=8, train_steps=7, verbose=0)
    assert trainer.example_weights is None


def test_further_test_sets_are_measured_under_their_names():
    trainer = make_trainer("ce")
    history = fit(trainer, test_data=META, more_tests={"imagenet": TEST}, epochs=1)
    assert trainer.history["imagenet_accuracy"] == trainer.history["val_accuracy"]  # the same set
    assert trainer.history["imagenet_loss"] != trainer.history["test_loss"]
    assert history.history["imagenet_accuracy"] == trainer.history["imagenet_accuracy"]


@pytest.mark.parametrize("name", ["val", "test", "meta", ""])
def test_further_test_sets_with_a_name_that_is_taken_are_refused(name):
    with pytest.raises(InputError, match=f"is called '{name}', which is taken"):
        fit(make_trainer("ce"), more_tests={name: TEST})


def test_an_epoch_of_as_many_steps_as_asked_for_and_balanced_batches():
    trainer = make_trainer("ce")
    seen = []

    class Rows(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(trainer.step)

    fit(trainer, steps_per_epoch=2, batch_size=6, class_balanced=True, epochs=3, callbacks=[Rows()])
    assert seen == [2, 4, 6]
    assert len(trainer.history["val_accuracy"]) == 3
    # 36 examples in balanced batches: 12 of each class, where a class is gone through before any comes again.
    feed, _ = trainer.make_feeds(TRAIN, None, batch_size=6, class_balanced=True)
    for batch in feed.batches(0).take(4):
        assert np.bincount(batch["label"], minlength=3).tolist() == [2, 2, 2]


def test_examples_that_could_not_be_read_weigh_nothing_and_are_remembered():
    trainer = make_trainer("ce")
    train_step = trainer.method.train_step

    def with_unreadable(batch, meta_batch, step):
        result = train_step(batch, meta_batch, step)
        weights = tf.where(batch["index"] % 10 == 3, -1.0, result.example_weights)
        return dataclasses.replace(result, example_weights=weights)

    trainer.method.train_step = with_unreadable
    fit(trainer, epochs=1)
    assert trainer.bad_rows == [3, 13, 23, 33]
    np.testing.assert_array_equal(trainer.example_weights, np.where(np.arange(40) % 10 == 3, 0.0, 1.0))
    other = make_trainer("ce")
    other.set_host_state(json.loads(json.dumps(trainer.host_state())))
    assert other.bad_rows == [3, 13, 23, 33]


def test_a_stop_requested_in_a_callback_ends_fit_in_good_order_and_fit_goes_on():
    trainer = make_trainer("ce", steps_per_call=2)

    class Ask(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if trainer.step == 2:
                trainer.request_stop()

    fit(trainer, callbacks=[Ask()])
    assert trainer.step == 3  # the next call's first step
    fit(trainer)
    whole = make_trainer("ce")
    fit(whole)
    assert_equal_runs(trainer, whole)


@pytest.mark.parametrize("ends_early", [False, True])
def test_a_stop_requested_too_late_to_stop_anything_does_not_stop_the_next_fit(ends_early):
    trainer = make_trainer("ce")

    class Ask(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                trainer.request_stop()
                self.model.stop_training = ends_early

    fit(trainer, epochs=2 if ends_early else 1, callbacks=[Ask()])
    assert trainer.step == 5
    fit(trainer)
    assert trainer.step == 10


# Ctrl-C.


def interrupting(action, then=0):
    """The action, and Ctrl-C before it returns; or after so many actions more."""
    calls = []

    def interrupted(*arguments, **settings):
        result = action(*arguments, **settings)
        calls.append(result)
        if len(calls) == then + 1:
            signal.raise_signal(signal.SIGINT)
        return result

    return interrupted


@pytest.mark.parametrize("where", ["the epoch's first call", "the epoch's last call", "the epoch's record"])
def test_ctrl_c_loses_nothing_of_the_steps_done(where, monkeypatch):
    whole, trainer = make_trainer("ce"), make_trainer("ce")
    fit(whole)
    with monkeypatch.context() as patch:
        if where == "the epoch's record":
            scalars = interrupting(Trainer.epoch_scalars.fget, then=2)  # after those of the two calls
            patch.setattr(Trainer, "epoch_scalars", property(scalars))
        else:
            patch.setattr(trainer._loop, "run", interrupting(trainer._loop.run, then=int("last" in where)))
        with pytest.raises(KeyboardInterrupt):
            fit(trainer)
    stood_at = {"the epoch's first call": (3, False), "the epoch's last call": (5, True)}.get(where, (5, False))
    assert (trainer.step, trainer.awaits_evaluation) == stood_at
    assert len(trainer.history.get("val_loss", [])) == len(trainer.history.get("loss", [])) == (where[-1] == "d")
    fit(trainer)
    assert_equal_runs(trainer, whole)


def test_a_second_ctrl_c_does_not_wait():
    done = []
    with pytest.raises(KeyboardInterrupt):
        with deferred_interrupt():
            signal.raise_signal(signal.SIGINT)
            done.append("after the first")
            signal.raise_signal(signal.SIGINT)
            done.append("after the second")
    assert done == ["after the first"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_who_handles_ctrl_c_goes_on_to():
    heard = []
    former = signal.signal(signal.SIGINT, lambda *_: heard.append("Ctrl-C"))
    try:
        with deferred_interrupt():
            signal.raise_signal(signal.SIGINT)
            assert heard == ["Ctrl-C"]
    finally:
        signal.signal(signal.SIGINT, former)


def test_a_tf_dataset_of_batches_trains_too():
    def dataset(data, batch_size):
        return tf.data.Dataset.from_tensor_slices(data).batch(batch_size)

    trainer = make_trainer()
    history = trainer.fit(
        dataset(TRAIN, 8), dataset(META, 6), validation_data=dataset(TEST, 4), epochs=2, batch_size=8,
        meta_batch_size=6, verbose=0,
    )  # fmt: skip
    assert trainer.step == 10
    assert trainer.tracing_count == 1
    assert history.history["val_accuracy"] == [trainer.history["val_accuracy"][0], trainer.history["val_accuracy"][1]]
    measured = trainer.evaluate(TEST)
    assert measured["accuracy"] == pytest.approx(history.history["val_accuracy"][-1])


def test_a_dataset_with_other_batches_is_rebatched():
    trainer = make_trainer("ce")
    trainer.fit(tf.data.Dataset.from_tensor_slices(TRAIN).batch(7), epochs=1, batch_size=10, verbose=0)
    assert trainer.step == 4


def test_any_keras_callback_runs(tmp_path):
    rates = []

    class Rates(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            rates.append(float(self.model.optimizer.learning_rate))

    callbacks = [
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor="val_accuracy", save_best_only=True),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.TensorBoard(tmp_path / "events", histogram_freq=1, write_graph=True),
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.ReduceLROnPlateau(monitor="val_loss", patience=1, min_delta=1e9, factor=0.5),
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
        Rates(),
    ]
    trainer = make_trainer("ce")
    history = fit(trainer, epochs=3, callbacks=callbacks)
    assert keras.saving.load_model(tmp_path / "best.keras").output_shape == (None, NUM_CLASSES)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 4
    assert list((tmp_path / "events").rglob("*tfevents*"))
    np.testing.assert_allclose(rates, [0.09, 0.0405, 0.018225], rtol=1e-5)
    assert history.history["learning_rate"] == pytest.approx([0.09, 0.0405, 0.018225], rel=1e-5)


@pytest.mark.parametrize("shape", ["None", "one", "nested"])
def test_callbacks_come_as_keras_takes_them(shape):
    begun = []
    one, other = (keras.callbacks.LambdaCallback(on_epoch_begin=lambda e, logs, i=i: begun.append(i)) for i in (1, 2))
    fit(make_trainer("ce"), epochs=1, callbacks={"None": None, "one": one, "nested": [[one], (other, None)]}[shape])
    assert begun == {"None": [], "one": [1], "nested": [1, 2]}[shape]


def test_early_stopping_stops_and_restores_the_best_weights():
    stopper = keras.callbacks.EarlyStopping(
        monitor="val_accuracy", min_delta=2.0, patience=1, restore_best_weights=True
    )
    trainer = make_trainer("ce")
    fit(trainer, epochs=9, callbacks=[stopper])
    assert trainer.step == 10


def test_the_models_own_optimizer_comes_back_after_fit():
    model = conv_network()
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy")
    own = model.optimizer
    trainer = make_trainer("ce", model=model)
    fit(trainer, epochs=1)
    assert model.optimizer is own


def test_dropout_goes_on_where_it_stood(tmp_path):
    def trainer():
        return make_trainer("ce", model=conv_network(dropout=0.5), steps_per_call=2)

    whole = trainer()
    fit(whole)
    stopped = trainer()
    fit(stopped, callbacks=[StopAfterCalls(1)])
    Checkpointer(tmp_path, stopped, interval_s=1e9).save()
    resumed = trainer()
    Checkpointer(tmp_path, resumed, interval_s=1e9).restore()
    fit(resumed)
    assert_equal_runs(whole, resumed)


def model_ending_in(activation):
    return keras.Sequential(
        [keras.Input(IMAGE_SHAPE), keras.layers.Flatten(), keras.layers.Dense(NUM_CLASSES, activation=activation)]
    )


@pytest.mark.parametrize("name", ["ce", "mwnet_famus"])
def test_a_model_that_ends_in_a_softmax_is_refused(name):
    with pytest.raises(InputError, match="ends in softmax .*logits are expected"):
        make_trainer(name, model=model_ending_in("softmax"), gated_variables=2)


def test_a_method_that_was_not_made_is_refused():
    with pytest.raises(InputError, match=r"^The method is 'mwnet'; make it with famus_tf\.make_method\(\.\.\.\)\.$"):
        Trainer(conv_network(), "mwnet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 1.5}, "epochs is 1.5; give a whole number of 0 or more."),
        ({"epochs": None}, "epochs is None; give a whole number of 0 or more."),
        ({"train_steps": 2.5}, "train_steps is 2.5; give a whole number of 0 or more."),
        ({"train_steps": -1}, "train_steps is -1; give a whole number of 0 or more."),
        ({"batch_size": 16.0}, "batch_size is 16.0; give a whole number of 1 or more."),
        ({"batch_size": True}, "batch_size is True; give a whole number of 1 or more."),
        ({"meta_batch_size": "6"}, "meta_batch_size is '6'; give a whole number of 1 or more."),
        ({"steps_per_epoch": 0}, "steps_per_epoch is 0; give a whole number of 1 or more."),
    ],
)
def test_a_number_that_is_not_a_whole_one_is_refused(change, message):
    trainer = make_trainer("mwnet")
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        fit(trainer, **change)
    assert (trainer.step, trainer.history) == (0, {})


@pytest.mark.parametrize("number", [0, 2.0])
def test_a_number_of_steps_per_call_that_is_not_a_whole_one_is_refused(number):
    with pytest.raises(InputError, match=f"^steps_per_call is {number}; give a whole number of 1 or more\\.$"):
        make_trainer("ce", steps_per_call=number)


def test_numbers_of_numpy_are_numbers():
    trainer = make_trainer("ce", steps_per_call=np.int64(3))
    # 100 epochs of 5 steps are more than an int8 holds.
    fit(trainer, epochs=np.int8(100), batch_size=np.uint8(8), callbacks=StopAfterCalls(1))
    assert trainer.step == 3
    fit(trainer, train_steps=np.int32(4))
    assert trainer.step == 4


def test_a_model_without_weights_is_refused():
    with pytest.raises(InputError, match="has no weights yet"):
        make_trainer("ce", model=keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)]))


def test_a_model_made_outside_the_scope_is_refused(two_replicas):
    with pytest.raises(InputError, match="outside the strategy's scope"):
        Trainer(conv_network(), registry.make_method("ce"), strategy=two_replicas)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": (TRAIN[0], TRAIN[1] + 1)}, "labels reach from 1 to 3"),
        ({"train": (TRAIN[0], TRAIN[1][:-1])}, "40 images but 39 labels"),
        ({"train": (TRAIN[0], np.eye(3)[TRAIN[1]])}, "One-hot labels"),
        ({"train": (TRAIN[0][:, :4], TRAIN[1])}, r"shape \(4, 6, 2\), but the model .* takes \(6, 6, 2\)"),
        ({"train": "TRAIN"}, "is a str; a pair of arrays"),
        ({"batch_size": 41}, "larger than the train set of 40"),
        ({"meta": None}, "learns from a clean meta set"),
        ({"meta_batch_size": 13}, "larger than the meta set of 12"),
    ],
)
def test_sets_that_do_not_fit_are_refused(change, message):
    arguments = {"train": TRAIN, "meta": META, "batch_size": 8, "meta_batch_size": 6, "verbose": 0, **change}
    trainer = make_trainer()
    with pytest.raises(InputError, match=message):
        trainer.fit(arguments.pop("train"), arguments.pop("meta"), **arguments)
    assert trainer.step == 0


def test_a_batch_that_cannot_be_split_evenly_is_refused(two_replicas):
    with pytest.raises(InputError, match="cannot be split over 2 replicas"):
        fit(make_trainer("ce", strategy=two_replicas), batch_size=7)
