"""Training from the first step to the last: feeds in, the compiled loop, evaluation, Keras callbacks around them.

Blind to method and data: what a step is, the method knows; what a batch is, the feed knows.
"""

import time

import keras
import numpy as np
import tensorflow as tf

from famus_tf import optimizers, replicas
from famus_tf.data import feeds
from famus_tf.data.examples import Preprocessing
from famus_tf.errors import InputError
from famus_tf.methods.method import AbstractMethod
from famus_tf.runs.callback_list import callback_list, headlines
from famus_tf.runs.compiled_loop import CompiledLoop
from famus_tf.runs.evaluation import EVALUATION_BATCH_SIZE, Evaluator


class Trainer:
    """Trains a Keras model, unchanged, by a method.

    Attributes:
        model: The user's model; its weights are what training changes.
        method: How it is trained.
        step: Steps done.
        history: Every epoch's logs so far, {name: [value per epoch]}.
        example_weights: [N] float32, each training example's newest weight (1 is plain training's; NaN before its first
            batch); None where the training set has no indices.
        call_scalars: {name: mean over the steps of the newest call}, all of the method's scalars.
        awaits_evaluation: True from an epoch's last step until the epoch has been evaluated and its logs recorded.
        seconds_per_step: Mean over all steps but those of the first, tracing call; NaN before.
        tracing_seconds: How long the first call took.
    """

    def __init__(
        self,
        model: keras.Model,
        method: AbstractMethod,
        *,
        seed: int = 0,
        steps_per_call: int = 20,
        strategy: tf.distribute.Strategy | None = None,
    ):
        """Builds the method's variables for the model.

        Args:
            model: A built Keras model with one output of logits [B, K]. Under a strategy of several replicas it must
                have been made inside the strategy's scope.
            method: As from `famus_tf.build_method`.
            seed: Of the order, the augmentation and everything the method draws.
            steps_per_call: Steps inside one call of the compiled loop; callbacks hear of each call's last step.
            strategy: None takes the current one.

        Raises:
            InputError: If the model is not built, does not end in logits, or is not the strategy's.
        """
        self.model = model
        self.method = method
        self.seed = seed
        self.strategy = strategy or tf.distribute.get_strategy()
        self._steps_per_call = steps_per_call
        replicas.check_model(model, self.strategy)
        with self.strategy.scope():
            method.build(model, seed=seed, num_replicas=self.strategy.num_replicas_in_sync)
        self._loop = CompiledLoop(method, self.strategy)
        self._evaluator = Evaluator(model, self.strategy)
        self.history: dict[str, list[float]] = {}
        self.example_weights: np.ndarray | None = None
        self.call_scalars: dict[str, float] = {}
        self._scalar_sums = np.zeros(len(method.scalar_names))
        self._steps_summed = 0
        self._timed_steps, self._timed_seconds = 0, 0.0
        self.tracing_seconds = float("nan")
        self.awaits_evaluation = False

    @property
    def step(self) -> int:
        """Steps done."""
        return self._loop.step

    @property
    def epoch_scalars(self) -> dict[str, float]:
        """Means over the current epoch's steps so far."""
        means = self._scalar_sums / max(self._steps_summed, 1)
        return dict(zip(self.method.scalar_names, means.tolist(), strict=True))

    @property
    def seconds_per_step(self) -> float:
        """Mean wall time of a step, tracing, evaluation and callbacks excluded."""
        return self._timed_seconds / self._timed_steps if self._timed_steps else float("nan")

    @property
    def tracing_count(self) -> int:
        """How often the compiled loop was traced; 1 unless batch shapes change."""
        return self._loop.tracing_count

    @property
    def variables(self) -> dict[str, list]:
        """All variables that a later step reads, by owner."""
        return {
            "model": optimizers.as_tf_variables(self.model.variables),
            "method": self.method.variables,
            "loop": self._loop.variables,
        }

    def host_state(self) -> dict:
        """What a later epoch reads besides the variables, JSON-able."""
        weights = self.example_weights
        return {
            "history": self.history,
            "scalar_sums": self._scalar_sums.tolist(),
            "steps_summed": self._steps_summed,
            "example_weights": None if weights is None else weights.tobytes().hex(),
            "timed_steps": self._timed_steps,
            "timed_seconds": self._timed_seconds,
        }

    def set_host_state(self, state: dict) -> None:
        """Takes back what `host_state` gave."""
        self.history = state["history"]
        self._scalar_sums = np.array(state["scalar_sums"])
        self._steps_summed = state["steps_summed"]
        self._timed_steps, self._timed_seconds = state["timed_steps"], state["timed_seconds"]
        if state["example_weights"] is not None:
            self.example_weights = np.frombuffer(bytes.fromhex(state["example_weights"]), np.float32).copy()

    def evaluate(self, data, *, preprocessing: Preprocessing | None = None, name: str = "test") -> dict[str, float]:
        """Accuracy and loss over a whole set.

        Args:
            data: Arrays (images, labels), a `tf.data.Dataset` of batches, or an `ExampleTable`.
            preprocessing: For tables.
            name: For messages.

        Returns:
            {"accuracy": in [0, 1], "loss": in nats}.
        """
        batch_size = EVALUATION_BATCH_SIZE * self.strategy.num_replicas_in_sync
        return self._evaluator.evaluate(feeds.evaluation_feed(data, batch_size, preprocessing, name))

    def fit(
        self,
        train,
        meta=None,
        *,
        validation_data=None,
        test_data=None,
        epochs: int = 1,
        train_steps: int | None = None,
        batch_size: int = 100,
        meta_batch_size: int | None = None,
        preprocessing: Preprocessing | None = None,
        augment: bool = True,
        steps_per_epoch: int | None = None,
        callbacks=(),
        verbose="auto",
    ) -> keras.callbacks.History:
        """Trains until `epochs` epochs (or `train_steps` steps) are done in all, from wherever the trainer stands.

        Args:
            train: Arrays (images, given labels), a `tf.data.Dataset` of batches, or an `ExampleTable`.
            meta: Likewise, the clean set; for methods that learn weights.
            validation_data: Likewise; measured after each epoch as `val_...`.
            test_data: Likewise; measured after each epoch as `test_...`, and never used for anything else.
            epochs: Passes over the training set, those already done included.
            train_steps: Total steps instead of epochs.
            batch_size: Global; divisible by the number of replicas.
            meta_batch_size: Global; None takes `batch_size`, or the whole meta set if that is smaller.
            preprocessing: For tables.
            augment: For tables: whether train and meta batches are augmented.
            steps_per_epoch: For datasets of unknown or endless length.
            callbacks: Any Keras callbacks.
            verbose: As in `keras.Model.fit`; "auto" shows a progress bar on a terminal and a line per epoch elsewhere.

        Returns:
            Keras' history of all epochs of this trainer.

        Raises:
            InputError: If the sets, the batches and the method do not fit each other.
        """
        feed, meta_feed = self.make_feeds(
            train, meta, batch_size=batch_size, meta_batch_size=meta_batch_size, preprocessing=preprocessing,
            augment=augment, steps_per_epoch=steps_per_epoch,
        )  # fmt: skip
        sets = {"val": validation_data, "test": test_data}
        sets = {name: data for name, data in sets.items() if data is not None}
        last_step = train_steps if train_steps is not None else epochs * feed.steps_per_epoch
        epochs = -(-last_step // feed.steps_per_epoch)
        if self.example_weights is None and feed.labels is not None:
            self.example_weights = np.full(len(feed.labels), np.nan, np.float32)
        with callback_list(self, callbacks, verbose, epochs, feed.steps_per_epoch) as listeners:
            iterators = self._iterators(feed, meta_feed)
            while self.step < last_step and not self.model.stop_training:
                self._run_epoch(iterators, feed.steps_per_epoch, last_step, sets, preprocessing, listeners)
            listeners.on_train_end({name: values[-1] for name, values in headlines(self.history).items()})
            return listeners._history

    def make_feeds(
        self, train, meta, *, batch_size, meta_batch_size=None, preprocessing=None, augment=True, steps_per_epoch=None
    ):
        """The feeds that `fit` draws from; calling it beforehand checks what `fit` would refuse.

        Args:
            train: As for `fit`, and so are the others.
            meta: See `train`.
            batch_size: See `train`.
            meta_batch_size: See `train`.
            preprocessing: See `train`.
            augment: See `train`.
            steps_per_epoch: See `train`.

        Returns:
            The training feed and the meta feed; the latter None where the method needs none.

        Raises:
            InputError: If the sets, the batches and the method do not fit each other.
        """
        feed = feeds.training_feed(
            train, batch_size=batch_size, seed=self.seed, stream="train", preprocessing=preprocessing,
            augment=augment, steps_per_epoch=steps_per_epoch,
        )  # fmt: skip
        meta_feed = self._meta_feed(meta, batch_size, meta_batch_size, preprocessing, augment)
        for each in filter(None, (feed, meta_feed)):
            feeds.check_feed(each, self.model, self.strategy.num_replicas_in_sync)
        return feed, meta_feed

    def _meta_feed(self, meta, batch_size, meta_batch_size, preprocessing, augment):
        if not self.method.needs_meta_set:
            return None
        if meta is None:
            raise InputError(
                f"Method {self.method.name!r} learns from a clean meta set, and none was given. Pass one (a few clean"
                " examples per class are enough; --num_meta on the command line), or take method 'ce'."
            )
        size = meta_batch_size or batch_size
        if meta_batch_size is None and not isinstance(meta, tf.data.Dataset):
            table, _ = feeds.as_table(meta, preprocessing, "meta")
            size = min(size, len(table))
            size -= size % self.strategy.num_replicas_in_sync
        # Meta batches have no epochs, so an endless dataset of them needs no number of steps.
        is_endless = isinstance(meta, tf.data.Dataset) and meta.cardinality() == tf.data.INFINITE_CARDINALITY
        return feeds.training_feed(
            meta, batch_size=size, seed=self.seed, stream="meta", preprocessing=preprocessing, augment=augment,
            steps_per_epoch=1 if is_endless else None,
        )  # fmt: skip

    def _iterators(self, feed, meta_feed):
        train_iterator = replicas.iterator(feed.batches(self.step), self.strategy)
        if meta_feed is None:
            return train_iterator, train_iterator  # the second is never drawn from
        return train_iterator, replicas.iterator(meta_feed.batches(self.step), self.strategy)

    def _run_epoch(self, iterators, steps_per_epoch, last_step, sets, preprocessing, listeners) -> None:
        """From where the trainer stands to the epoch's end (or the last step), evaluation included."""
        epoch = self.step // steps_per_epoch
        end = min((epoch + 1) * steps_per_epoch, last_step)
        if self.step % steps_per_epoch == 0:
            self._scalar_sums[:] = 0.0
            self._steps_summed = 0
        listeners.on_epoch_begin(epoch)
        while self.step < end and not self.model.stop_training:
            count = min(self._steps_per_call, end - self.step)
            listeners.on_train_batch_begin(self.step % steps_per_epoch)
            self._call(iterators, count)
            self.awaits_evaluation = self.step == end
            listeners.on_train_batch_end((self.step - 1) % steps_per_epoch, self._logs())
        if self.step < end:
            return
        measured = {}
        for name, data in sets.items():
            of_set = self.evaluate(data, preprocessing=preprocessing, name=name)
            measured.update({f"{name}_{key}": value for key, value in of_set.items()})
        for name, value in {**self.epoch_scalars, **measured}.items():
            self.history.setdefault(name, []).append(value)
        self.awaits_evaluation = False
        listeners.on_epoch_end(epoch, {**self._logs(), **measured})

    def _logs(self) -> dict[str, float]:
        """The epoch's means so far."""
        return headlines(self.epoch_scalars)

    def _call(self, iterators, count: int) -> None:
        """One call of the compiled loop, and what the host keeps of it."""
        traced = self.tracing_count
        started = time.perf_counter()
        scalars, indices, weights = self._loop.run(*iterators, count)
        seconds = time.perf_counter() - started
        if self.tracing_count > traced:
            self.tracing_seconds = seconds
        else:
            self._timed_steps += count
            self._timed_seconds += seconds
        self.call_scalars = dict(zip(self.method.scalar_names, scalars.mean(axis=0).tolist(), strict=True))
        for row in scalars:
            # Step by step in float64: the sum does not depend on how the steps were grouped into calls.
            self._scalar_sums += row
        self._steps_summed += count
        if self.example_weights is not None:
            # In step order, so that an example seen twice keeps its newest weight.
            self.example_weights[indices.ravel()] = weights.ravel()
