"""Keras' callbacks around our training, as under `keras.Model.fit`."""

import contextlib
import sys

import keras

TOO_MUCH_FOR_A_LINE = (
    "learning_rate", "meta_gradient_norm", "zero_weight_rate", "loss_scale", "tangent_scale", "skipped_rate",
)  # fmt: skip


@contextlib.contextmanager
def callback_list(trainer, callbacks, verbose, last_step: int, steps_per_epoch: int):
    """Keras' callback list around training, with our optimizer where callbacks look for the learning rate.

    Args:
        trainer: The `Trainer`; its history so far becomes the beginning of Keras'.
        callbacks: Any Keras callbacks: a list, which may hold lists, one of them, or None.
        verbose: As in `keras.Model.fit`; "auto" shows a progress bar on a terminal and a line per epoch elsewhere.
        last_step: Steps that will be done at the end.
        steps_per_epoch: Steps in each epoch.

    Yields:
        The `keras.callbacks.CallbackList`, its training begun.
    """
    if verbose == "auto":
        verbose = 1 if sys.stdout.isatty() else 2
    model = trainer.model
    had_optimizer = getattr(model, "optimizer", None)
    model.optimizer = trainer.method.base_optimizer
    model.stop_training = False
    callbacks = [callback for callback in keras.tree.flatten(callbacks) if callback is not None]
    for callback in callbacks:
        complete_monitor_mode(callback)
    try:
        listeners = keras.callbacks.CallbackList(
            callbacks, add_history=True, add_progbar=verbose != 0, verbose=verbose,
            epochs=-(-last_step // steps_per_epoch), steps=min(steps_per_epoch, last_step), model=model,
        )  # fmt: skip
        listeners.on_train_begin()
        set_history(listeners, trainer.history)
        yield listeners
    finally:
        model.optimizer = had_optimizer


def set_history(listeners, history: dict) -> None:
    """Lets Keras' history hold what the trainer's holds.

    Args:
        listeners: The `keras.callbacks.CallbackList`.
        history: {name: [value per epoch]}.
    """
    listeners._history.history = {name: list(values) for name, values in headlines(history).items()}
    # Not from the steps done: an epoch that ended early, at the last step of a `fit`, stands in the history too.
    listeners._history.epoch = list(range(max(map(len, history.values()), default=0)))


def forget_epochs_from(epoch: int, history: dict, listeners) -> None:
    """Takes out what was measured of an epoch that now goes on.

    Args:
        epoch: From 0; those before it stay.
        history: The trainer's, {name: [value per epoch]}.
        listeners: The `keras.callbacks.CallbackList`.
    """
    for values_by_name in (history, listeners._history.history):
        for name in list(values_by_name):
            del values_by_name[name][epoch:]
            if not values_by_name[name]:
                del values_by_name[name]  # as before a first epoch
    del listeners._history.epoch[epoch:]


def headlines(logs: dict) -> dict:
    """The logs that callbacks and the progress bar get; the others are in `Trainer.history`."""
    return {name: value for name, value in logs.items() if "gate/" not in name and name not in TOO_MUCH_FOR_A_LINE}


def complete_monitor_mode(callback) -> None:
    """Tells a callback that watches an accuracy that more is better; Keras' own trainer has them look it up."""
    watches_accuracy = str(getattr(callback, "monitor", "")).endswith("accuracy")
    if watches_accuracy and getattr(callback, "mode", None) == "auto":
        callback.mode = "max"
