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
from famus_tf.runs import nonfinite, training_feeds
from famus_tf.runs.callback_list import callback_list, forget_epochs_from, headlines, set_history
from famus_tf.runs.compiled_loop import MAX_NONFINITE_IN_A_ROW, CompiledLoop
from famus_tf.runs.deferred_interrupt import deferred_interrupt
from famus_tf.runs.evaluation import Evaluator
from famus_tf.runs.example_record import ExampleRecord
from famus_tf.runs.step_record import StepRecord
from famus_tf.runs.stop_request import StopRequest
from famus_tf.runs.whole_number import whole_number


class Trainer:
    """Trains a Keras model, unchanged, by a method.

    Attributes:
        model: The user's model; its weights are what training changes.
        method: How it is trained.
        history: Every epoch's logs so far, {name: [value per epoch]}.
        nonfinite: What happens after a step that is not finite: whom it tells, how it goes back to a checkpoint.
        awaits_evaluation: True from an epoch's last step until the epoch has been evaluated and its logs recorded.
    """

    def __init__(
        self,
        model: keras.Model,
        method: AbstractMethod,
        *,
        seed: int = 0,
        steps_per_call: int = 20,
        on_nonfinite: str = "stop",
        strategy: tf.distribute.Strategy | None = None,
    ):
        """Builds the method's variables for the model.

        Args:
            model: A built Keras model with one output of logits [B, K]. Under a strategy of several replicas it must
                have been made inside the strategy's scope.
            method: As from `famus_tf.make_method`.
            seed: Of the order, the augmentation and everything the method draws.
            steps_per_call: Steps inside one call of the compiled loop; callbacks hear of each call's last step.
            on_nonfinite: What to do when a loss, a weight, a gate or a meta-parameter becomes NaN or Inf. The step is
                never stored. "stop" raises, "skip" goes on with the next step, "restore" goes back to the newest
                checkpoint (`nonfinite.restore`) and leaves that step out.
            strategy: None takes the current one.

        Raises:
            InputError: If the model is not built, does not end in logits, or is not the strategy's, if the method is
                not a method, `steps_per_call` not a whole number, or `on_nonfinite` unknown.
        """
        if not isinstance(method, AbstractMethod):
            raise InputError(f"The method is {method!r}; make it with famus_tf.make_method(...).")
        self.model = model
        self.method = method
        self.seed = seed
        self.strategy = strategy or tf.distribute.get_strategy()
        self._steps_per_call = whole_number("steps_per_call", steps_per_call, least=1)
        replicas.check_model(model, self.strategy)
        with self.strategy.scope():
            method.build(model, seed=seed, num_replicas=self.strategy.num_replicas_in_sync)
        self.nonfinite = nonfinite.NonFiniteGuard(on_nonfinite, MAX_NONFINITE_IN_A_ROW)
        self._stop_request = StopRequest()
        self._loop = CompiledLoop(
            method, self.strategy, stop_request=self._stop_request, ends_at_nonfinite=on_nonfinite != "skip",
            variable_names=nonfinite.variable_names(model, method),
        )  # fmt: skip
        self._evaluator = Evaluator(model, self.strategy, self._stop_request)
        self.history: dict[str, list[float]] = {}
        self._examples = ExampleRecord()
        self._record = StepRecord(method.scalar_names)
        self.awaits_evaluation = False
        self._steps_per_epoch: int | None = None  # of the steps done so far; unknown before and in old checkpoints

    @property
    def step(self) -> int:
        """Steps done."""
        return self._loop.step

    def epochs_done(self, steps_per_epoch: int) -> int:
        """Whole epochs behind the trainer; one whose evaluation is still to come is not."""
        return (self.step - self.awaits_evaluation) // steps_per_epoch

    @property
    def example_weights(self) -> np.ndarray | None:
        """[N] float32, each training example's newest weight: see `ExampleRecord`; None where there are no rows."""
        return self._examples.weights

    @property
    def bad_rows(self) -> list[int]:
        """Rows of the training examples whose pictures could not be decoded, ascending; their weight is 0."""
        return sorted(self._examples.bad_rows)

    @property
    def nonfinite_steps(self) -> list[int]:
        """Numbers, from 1, of the steps left out because they were not finite, ascending."""
        return [step + 1 for step in sorted(self.nonfinite.left_out)]

    @property
    def epoch_scalars(self) -> dict[str, float]:
        """Means over the current epoch's stored steps so far; NaN where none was stored."""
        return self._record.epoch_scalars

    @property
    def call_scalars(self) -> dict[str, float]:
        """Means over the stored steps of the newest call, all of the method's scalars; {} where none was stored."""
        return self._record.call_scalars

    @property
    def seconds_per_step(self) -> float:
        """Mean wall time of a step, tracing, evaluation and callbacks excluded; NaN before."""
        return self._record.seconds_per_step

    @property
    def tracing_seconds(self) -> float:
        """How long the first call took; NaN before."""
        return self._record.tracing_seconds

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
        parts = (self._record, self._examples, self.nonfinite)
        own = {
            "history": self.history,
            "awaits_evaluation": self.awaits_evaluation,
            "steps_per_epoch": self._steps_per_epoch,
        }
        return own | {name: value for part in parts for name, value in part.state().items()}

    def set_host_state(self, state: dict) -> None:
        """Takes back what `host_state` gave."""
        self.history = state["history"]
        self.awaits_evaluation = state.get("awaits_evaluation", False)
        self._steps_per_epoch = state.get("steps_per_epoch")
        for part in (self._record, self._examples, self.nonfinite):
            part.set_state(state)

    def request_stop(self) -> None:
        """Ends a running `fit` after its current step, or within an evaluation, which the next `fit` then begins with.

        From any thread. The next `fit` goes on from there.
        """
        self._stop_request.make()

    def evaluate(self, data, *, preprocessing: Preprocessing | None = None, name: str = "test") -> dict[str, float]:
        """Accuracy and loss over a whole set.

        Args:
            data: Arrays (images, labels), a `tf.data.Dataset` of batches, or an `ExampleTable`.
            preprocessing: For tables.
            name: For messages.

        Returns:
            As `Evaluator.evaluate`: {"accuracy": in [0, 1], "loss": in nats, ...}.
        """
        return self._evaluator.evaluate(
            training_feeds.evaluation_feed(data, preprocessing, name, self.strategy, self.model)
        )

    def fit(
        self,
        train,
        meta=None,
        *,
        validation_data=None,
        test_data=None,
        more_tests: dict | None = None,
        epochs: int = 1,
        train_steps: int | None = None,
        batch_size: int = 100,
        meta_batch_size: int | None = None,
        preprocessing: Preprocessing | None = None,
        augment: bool = True,
        steps_per_epoch: int | None = None,
        class_balanced: bool = False,
        callbacks=(),
        verbose="auto",
    ) -> keras.callbacks.History:
        """Trains until `epochs` epochs (or `train_steps` steps) are done in all, from wherever the trainer stands.

        Args:
            train: Arrays (images, given labels), a `tf.data.Dataset` of batches, or an `ExampleTable`.
            meta: Likewise, the clean set; for methods that learn weights.
            validation_data: Likewise; measured after each epoch as `val_...`.
            test_data: Likewise; measured after each epoch as `test_...`, and never used for anything else.
            more_tests: {name: likewise}, further test sets; measured after each epoch as `{name}_...`.
            epochs: Passes over the training set, those already done included.
            train_steps: Total steps instead of epochs.
            batch_size: Global; divisible by the number of replicas.
            meta_batch_size: Global; None takes `batch_size`, or the whole meta set if that is smaller.
            preprocessing: For tables.
            augment: For tables: whether train and meta batches are augmented.
            steps_per_epoch: Training batches that count as one epoch; None for as many as the set fills. Datasets of
                unknown or endless length need it.
            class_balanced: For tables and arrays: whether every batch takes as many examples of each class.
            callbacks: Any Keras callbacks: a list, which may hold lists, one of them, or None.
            verbose: As in `keras.Model.fit`; "auto" shows a progress bar on a terminal and a line per epoch elsewhere.

        Returns:
            Keras' history of all epochs of this trainer.

        Raises:
            InputError: If the sets, the batches and the method do not fit each other, a number is not a whole one, or
                epochs have another number of steps than those so far.
            NonFiniteError: After a step that was not finite, see `on_nonfinite`; the trainer stands before that step.
        """
        feed, meta_feed = self.make_feeds(
            train, meta, batch_size=batch_size, meta_batch_size=meta_batch_size, preprocessing=preprocessing,
            augment=augment, steps_per_epoch=steps_per_epoch, class_balanced=class_balanced,
        )  # fmt: skip
        sets = training_feeds.measured_sets(validation_data, test_data, more_tests)
        training_feeds.check_measured_sets(sets, self.model, preprocessing, self.strategy)
        if train_steps is None:
            last_step = whole_number("epochs", epochs, least=0) * feed.steps_per_epoch
        else:
            last_step = whole_number("train_steps", train_steps, least=0)
        self._begin(feed)
        with callback_list(self, callbacks, verbose, last_step, feed.steps_per_epoch) as listeners:
            iterators = None
            while (self.step < last_step or self.awaits_evaluation) and not self.model.stop_training:
                iterators = iterators or training_feeds.iterators(feed, meta_feed, self.step, self.strategy)
                went_back = self._run_epoch(iterators, feed, last_step, sets, preprocessing, listeners)
                iterators = None if went_back else iterators
            listeners.on_train_end({name: values[-1] for name, values in headlines(self.history).items()})
            # One that came too late to be seen is met too, or it would end the next `fit`, which nobody meant.
            self._stop_request.meet()
            return listeners._history

    def make_feeds(self, train, meta, **settings):
        """The feeds that `fit` draws from; calling it beforehand checks what `fit` would refuse.

        Args:
            train: As for `fit`.
            meta: As for `fit`.
            **settings: `batch_size` and, as for `fit`, `meta_batch_size`, `preprocessing`, `augment`, `steps_per_epoch`
                and `class_balanced`.

        Returns:
            The training feed and the meta feed; the latter None where the method needs none.

        Raises:
            InputError: If the sets, the batches and the method do not fit each other, or a number is not a whole one.
        """
        for name in ("batch_size", "meta_batch_size", "steps_per_epoch"):
            if settings.get(name) is not None:
                settings[name] = whole_number(name, settings[name], least=1)
        return training_feeds.make_feeds(
            train, meta, model=self.model, method=self.method, seed=self.seed,
            num_replicas=self.strategy.num_replicas_in_sync, **settings,
        )  # fmt: skip

    def _begin(self, feed) -> None:
        """What is known of the examples and the epochs is made to fit the training feed.

        Raises:
            InputError: If its epochs have another number of steps than those so far.
        """
        so_far, now = self._steps_per_epoch, feed.steps_per_epoch
        if self.step and so_far and so_far != now:
            raise InputError(
                f"The training so far had {so_far} steps per epoch and this fit has {now}, so its epochs could not be"
                f" counted; give the former batch size or steps_per_epoch={so_far}, or make a new Trainer."
            )
        self._steps_per_epoch = now
        self._examples.begin(None if feed.labels is None else len(feed.labels))

    def _run_epoch(self, iterators, feed, last_step, sets, preprocessing, listeners) -> bool:
        """From where the trainer stands to the epoch's end (or the last step), evaluation included.

        Returns:
            Whether training went back to a checkpoint instead.
        """
        steps_per_epoch = feed.steps_per_epoch
        epoch = self.epochs_done(steps_per_epoch)
        end = min((epoch + 1) * steps_per_epoch, last_step)
        if self.step == epoch * steps_per_epoch:
            self._record.begin_epoch()
        else:
            forget_epochs_from(epoch, self.history, listeners)  # measured where an earlier `fit` ended within it
        listeners.on_epoch_begin(epoch)
        while self.step < end and not self.model.stop_training:
            count = min(self._steps_per_call, end - self.step)
            listeners.on_train_batch_begin(self.step % steps_per_epoch)
            # An interrupt between the steps and what is kept of them would lose their epoch's evaluation for ever.
            with deferred_interrupt():
                went_back = self._call(iterators, count, feed)
                if went_back:
                    self._begin(feed)
                else:
                    self.awaits_evaluation = self.step == end
            if went_back:
                set_history(listeners, self.history)  # other callbacks keep what they know
                return True
            listeners.on_train_batch_end((self.step - 1) % steps_per_epoch, self._logs())
            if self._loop.was_stopped:
                return False
        if self.step < end:
            return False
        measured = self._evaluator.evaluate_unless_stopped(
            (name, training_feeds.evaluation_feed(data, preprocessing, name, self.strategy, self.model))
            for name, data in sets.items()
        )
        if measured is None:
            self.model.stop_training = True
            return False
        with deferred_interrupt():
            for name, value in {**self.epoch_scalars, **measured}.items():
                self.history.setdefault(name, []).append(value)
            self.awaits_evaluation = False
        listeners.on_epoch_end(epoch, {**self._logs(), **measured})
        return False

    def _logs(self) -> dict[str, float]:
        """The epoch's means so far."""
        return headlines(self.epoch_scalars)

    def _call(self, iterators, count: int, feed) -> bool:
        """One call of the compiled loop, and what the host keeps of it.

        Returns:
            Whether training went back to a checkpoint.

        Raises:
            NonFiniteError: If training is to stop.
        """
        first, traced = self.step, self.tracing_count
        count, is_stored = self.nonfinite.next_steps(first, count)
        started = time.perf_counter()
        with feeds.told_label_mistakes():
            results = self._loop.run(*iterators, count, is_stored=is_stored)
        seconds = time.perf_counter() - started
        self.model.stop_training |= self._loop.was_stopped
        self._record.add_time(seconds, len(results.scalars), has_traced=self.tracing_count > traced)
        stored = ~results.nonfinite.any(axis=1) & is_stored
        self._record.add(results.scalars[stored])
        self._examples.update(results.indices[stored], results.weights[stored])
        if not is_stored:
            return False
        rate = self.method.base_optimizer.rate
        return self.nonfinite.meet(
            nonfinite.events(
                first, results, self._loop.checked_names, feed=feed, rate=rate, action=self.nonfinite.action
            )
        )
