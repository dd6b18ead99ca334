"""What `tools.benchmark` measures: stock Keras' fit, our loop with each method, its three stages, the pipeline."""

import dataclasses
import statistics
import time

import keras
import numpy as np
import tensorflow as tf

from famus_tf import registry
from famus_tf.data import pipeline
from famus_tf.data.examples import ExampleTable, Preprocessing
from famus_tf.models.normalization import plain_copy
from famus_tf.runs.compiled_loop import CompiledLoop

KERAS_FIT = "keras fit"
NUM_EXAMPLES = 2048
PREPROCESSING = Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3, padding=4, padding_mode="reflect", flip=True)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all contenders share.

    Attributes:
        model: A registered network.
        image_size: Height and width, pixels.
        num_classes: K.
        batch_size: Of training and of meta batches.
        gated_variables: Of the *_famus methods; 0 gates all.
    """

    model: str
    image_size: int
    num_classes: int
    batch_size: int
    gated_variables: int

    def network(self):
        """The network, the same weights every time."""
        shape = (self.image_size, self.image_size, 3)
        return registry.build_model(self.model, shape, self.num_classes, seed=0, synchronized=False)

    def batches(self, stream: str):
        """Endless augmented batches of made-up images."""
        draw = np.random.default_rng(0)
        count = max(NUM_EXAMPLES, self.batch_size)
        table = ExampleTable(
            ids=np.array([str(i) for i in range(count)]),
            images=draw.integers(0, 256, (count, self.image_size, self.image_size, 3), dtype=np.uint8),
            given_labels=draw.integers(0, self.num_classes, count, dtype=np.int32),
        )
        return pipeline.training_batches(
            table, batch_size=self.batch_size, steps_per_epoch=count // self.batch_size, seed=0, stream=stream,
            start_step=0, preprocessing=PREPROCESSING, augment=True,
        )  # fmt: skip


def make_method(name: str, setting: Setting):
    """A method with the benchmark's settings."""
    extra = {"gated_variables": setting.gated_variables} if name.endswith("_famus") else {}
    # No L2: the stock optimizer that plain training is compared with has none either.
    return registry.make_method(name, learning_rate=0.05, nesterov=True, **extra)


class LoopContender:
    """A method on our compiled loop."""

    def __init__(self, name: str, setting: Setting):
        """Builds it; nothing is traced yet."""
        method = make_method(name, setting)
        strategy = tf.distribute.get_strategy()
        method.build(setting.network(), seed=0, num_replicas=1)
        self._loop = CompiledLoop(method, strategy)
        self._iterators = iter(setting.batches("train")), iter(setting.batches("meta"))

    def run(self, num_steps: int) -> float:
        """Seconds per step of `num_steps` steps."""
        started = time.perf_counter()
        self._loop.run(*self._iterators, num_steps)
        return (time.perf_counter() - started) / num_steps

    @property
    def tracing_count(self) -> int:
        """How often the loop was traced."""
        return self._loop.tracing_count


class BatchClock(keras.callbacks.Callback):
    """Notes when each batch of a fit ends."""

    def on_train_begin(self, logs=None):
        """Starts anew."""
        self.ends = []

    def on_train_batch_end(self, batch, logs=None):
        """Notes the time."""
        self.ends.append(time.perf_counter())


class KerasFitContender:
    """The same network with stock batch norm under `model.fit`, Keras' defaults."""

    tracing_count = 1

    def __init__(self, setting: Setting):
        """Builds and compiles it."""
        self._model = plain_copy(setting.network())
        self._model.compile(
            optimizer=keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        self._data = setting.batches("train").map(lambda batch: (batch["image"], batch["label"]))

    def run(self, num_steps: int) -> float:
        """Seconds per step between the ends of the first and the last of `num_steps` + 1 batches."""
        clock = BatchClock()
        self._model.fit(self._data, steps_per_epoch=num_steps + 1, shuffle=False, verbose=0, callbacks=[clock])
        return (clock.ends[-1] - clock.ends[0]) / num_steps


def make(name: str, setting: Setting):
    """The contender of a name: "keras fit" or a method."""
    return KerasFitContender(setting) if name == KERAS_FIT else LoopContender(name, setting)


class StageContender:
    """A method's step cut off after its first, second or third stage; the differences are the stages' times."""

    def __init__(self, name: str, setting: Setting):
        """Builds the three functions."""
        self._method = make_method(name, setting)
        self._method.build(setting.network(), seed=0, num_replicas=1)
        self._batch = next(iter(setting.batches("train")))
        self._meta_batch = next(iter(setting.batches("meta")))
        self._functions = [tf.function(stage) for stage in (self._virtual, self._meta, self._actual)]

    def run(self, num_steps: int) -> list[float]:
        """Seconds per step up to the end of each stage."""
        seconds = []
        for function in self._functions:
            started = time.perf_counter()
            for _ in range(num_steps):
                function().numpy()
            seconds.append((time.perf_counter() - started) / num_steps)
        return seconds

    # Each returns a number that depends on all the stage computes, so that the graph keeps it.

    def _virtual(self):
        virtual = self._method.virtual_train(self._batch, tf.constant(0, tf.int64))
        return touch(virtual.weights) + touch([virtual.cotangent]) + touch(virtual.gated)

    def _meta(self):
        virtual = self._method.virtual_train(self._batch, tf.constant(0, tf.int64))
        meta = self._method.meta_train(virtual, self._meta_batch, tf.constant(0, tf.int64))
        return touch(virtual.weights) + touch(meta.gradient) + touch(meta.gate_gradient)

    def _actual(self):
        step = self._method.train_step(self._batch, self._meta_batch, tf.constant(0, tf.int64))
        return touch([value for _, value in step.assignments])


def touch(tensors) -> tf.Tensor:
    """A cheap number that depends on one element of each tensor."""
    return tf.add_n([tf.cast(tf.reshape(tensor, [-1])[0], tf.float32) for tensor in tensors] or [tf.zeros([])])


def input_ms_per_batch(setting: Setting, num_batches: int = 50) -> float:
    """Milliseconds the pipeline alone needs for a batch, no one else at work."""
    batches = iter(setting.batches("train"))
    for _ in range(5):
        next(batches)
    started = time.perf_counter()
    for _ in range(num_batches):
        next(batches)
    return 1e3 * (time.perf_counter() - started) / num_batches


def measure_times(
    names: list[str], setting: Setting, rounds: int, steps: int, with_stages: bool, figures: dict
) -> None:
    """Times all contenders in turns and puts the medians into `figures`.

    Args:
        names: Contenders, as for `make`.
        setting: What they share.
        rounds: Turns each takes.
        steps: Steps in a turn.
        with_stages: Whether to split the steps of methods with a meta step.
        figures: {"contenders": {name: {}}}, filled in place.
    """
    of = figures["contenders"]
    racers, first_calls = {}, {}
    for name in names:
        racers[name] = make(name, setting)
        started = time.perf_counter()
        racers[name].run(1)
        first_calls[name] = time.perf_counter() - started
    turns = {name: [] for name in names}
    for _ in range(rounds):
        for name, racer in racers.items():
            turns[name].append(racer.run(steps))
    for name, racer in racers.items():
        seconds = statistics.median(turns[name])
        of[name]["ms_per_step"] = 1e3 * seconds
        # The first call's time, less that of its step.
        of[name]["tracing_seconds"] = max(first_calls[name] - seconds, 0.0)
        of[name]["tracing_count"] = racer.tracing_count
    figures |= {"rounds": rounds, "steps": steps, "input_ms_per_batch": input_ms_per_batch(setting)}
    if with_stages:
        for name in names:
            if name not in (KERAS_FIT, "ce"):
                of[name]["stages_ms"] = stage_times(name, setting, rounds, steps)


def stage_times(name: str, setting: Setting, rounds: int, steps: int) -> dict[str, float]:
    """Milliseconds of virtual-train, meta-train and actual-train of a method."""
    stages = StageContender(name, setting)
    stages.run(1)
    turns = np.array([stages.run(steps) for _ in range(rounds)])
    ends = 1e3 * np.median(turns, axis=0)
    virtual, meta, actual = ends[0], ends[1] - ends[0], ends[2] - ends[1]
    return {"virtual-train": float(virtual), "meta-train": float(meta), "actual-train": float(actual)}
