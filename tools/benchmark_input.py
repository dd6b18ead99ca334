"""What `tools.benchmark --input` measures: how long training steps wait for pictures to be read, decoded and augmented.

Every step is timed twice: on one batch that stays in memory, and on batches out of JPEG files as clothing1m's are
prepared. What the second takes longer is the input's: the time that a step waits for it, and that decoding takes from
the cores which compute the step.
"""

import pathlib
import statistics
import time

import numpy as np
import tensorflow as tf

from famus_tf import replicas
from famus_tf.data import pipeline
from famus_tf.data.examples import ExampleTable, Preprocessing
from famus_tf.data.pictures import PictureFiles
from famus_tf.runs.compiled_loop import CompiledLoop
from tools import benchmark_contenders as contenders

NUM_PICTURES = 256
SHORTEST_SIDE, LONGEST_SIDE = 256, 500  # pixels
JPEG_QUALITY = 90
SHORTER_SIDE_TO_CUT = 256 / 224
NUM_BATCHES_BEFORE, NUM_BATCHES_ALONE = 10, 30
# Clothing1M's, which are ImageNet's.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SEED = 0


def make_pictures(folder: pathlib.Path, count: int, size: int) -> PictureFiles:
    """Writes JPEG files of many sizes.

    Args:
        folder: Where.
        count: How many.
        size: Height and width in pixels that the network sees.
    """
    draw = np.random.default_rng(_SEED)
    paths = np.array([f"{number:05d}.jpg".encode() for number in range(count)])
    for path in paths:
        height, width = draw.integers(SHORTEST_SIDE, LONGEST_SIDE + 1, 2)
        encoded = tf.io.encode_jpeg(smooth_noise(height, width, draw), quality=JPEG_QUALITY)
        (folder / path.decode()).write_bytes(encoded.numpy())
    return PictureFiles(folder, paths, (size, size))


def smooth_noise(height: int, width: int, draw: np.random.Generator) -> tf.Tensor:
    """Makes an image with as much of every detail as photographs have: the finer, the fainter.

    Noise of ever finer grids is resized to the image and summed, its deviation in proportion to the grid's spacing;
    colours vary half as much as brightness does.

    Args:
        height: In pixels.
        width: In pixels.
        draw: Where the noise comes from.

    Returns:
        [height, width, 3] uint8.
    """
    image = np.full((height, width, 3), 128.0, np.float32)
    spacing = 128
    while spacing >= 1:
        grid = (-(-height // spacing) + 1, -(-width // spacing) + 1)
        noise = draw.standard_normal((*grid, 1)) + 0.5 * draw.standard_normal((*grid, 3))
        resized = tf.image.resize(noise, (height, width), method="bicubic" if spacing > 1 else "bilinear").numpy()
        image += 3.0 * spacing**0.5 * resized
        spacing //= 2
    return tf.saturate_cast(tf.round(image), tf.uint8)


class FedContender:
    """A method on our compiled loop, on one resident batch or on batches out of files."""

    def __init__(self, name: str, setting: contenders.Setting, pictures: PictureFiles):
        """Builds it; nothing is traced yet.

        Args:
            name: A method.
            setting: Of the benchmark.
            pictures: What it trains on.
        """
        method = contenders.make_method(name, setting)
        method.build(setting.network(), seed=0, num_replicas=1)
        self._strategy = tf.distribute.get_strategy()
        self._loop = CompiledLoop(method, self._strategy)
        self._feeds = {stream: batches(pictures, setting, stream) for stream in ("train", "meta")}
        self._resident = {
            stream: tf.data.Dataset.from_tensors(next(iter(feed))).repeat() for stream, feed in self._feeds.items()
        }

    def run(self, num_steps: int, *, is_fed: bool) -> float:
        """Seconds per step of `num_steps` steps.

        A step goes before that is not timed. With it the pipeline's buffers fill up, so that in the steps that are
        timed as many batches are made as are used. The pipeline ends with the turn: it would go on decoding in the
        next contender's.

        Args:
            num_steps: How many are timed.
            is_fed: Whether the batches come out of files, or the same one from memory.
        """
        datasets = self._feeds if is_fed else self._resident
        iterators = [replicas.iterator(datasets[stream], self._strategy) for stream in ("train", "meta")]
        self._loop.run(*iterators, 1)
        started = time.perf_counter()
        self._loop.run(*iterators, num_steps)
        return (time.perf_counter() - started) / num_steps

    @property
    def tracing_count(self) -> int:
        """How often the loop was traced."""
        return self._loop.tracing_count


def batches(pictures: PictureFiles, setting: contenders.Setting, stream: str) -> tf.data.Dataset:
    """Endless batches of pictures, prepared as clothing1m's: shorter side 256 for 224, cut at random, flipped.

    Args:
        pictures: N of them.
        setting: Of the benchmark; a batch must not be larger than N.
        stream: "train" or "meta".
    """
    labels = np.arange(len(pictures), dtype=np.int32) % setting.num_classes
    shorter_side = round(setting.image_size * SHORTER_SIDE_TO_CUT)
    return pipeline.training_batches(
        ExampleTable(pictures.names, pictures, labels),
        batch_size=setting.batch_size,
        steps_per_epoch=len(pictures) // setting.batch_size,
        seed=_SEED,
        stream=stream,
        preprocessing=Preprocessing(mean=MEAN, std=STD, flip=True, shorter_side=shorter_side, crop="random"),
        augment=True,
    )


def measure(names: list[str], setting: contenders.Setting, folder: pathlib.Path, rounds: int, steps: int) -> dict:
    """Measures everything.

    Args:
        names: Methods.
        setting: Of the benchmark.
        folder: An empty one, for the pictures.
        rounds: Turns that everything takes; medians are over these.
        steps: Steps in a turn.

    Returns:
        {"setting", "rounds", "steps", "pictures": {"count", "mean_bytes"}, "input_ms_per_batch", "contenders": {name:
        {"resident_ms_per_step", "fed_ms_per_step", "input_share", "tracing_count"}}}, JSON-able.
    """
    pictures = make_pictures(folder, max(NUM_PICTURES, setting.batch_size), setting.image_size)
    racers = {name: FedContender(name, setting, pictures) for name in names}
    for racer in racers.values():
        racer.run(1, is_fed=False)  # traces
    alone, turns = [], {(name, is_fed): [] for name in names for is_fed in (False, True)}
    for _ in range(rounds):
        alone.append(seconds_per_batch_alone(batches(pictures, setting, "train")))
        for (name, is_fed), seconds in turns.items():
            seconds.append(racers[name].run(steps, is_fed=is_fed))
    of = {}
    for name in names:
        resident, fed = (1e3 * statistics.median(turns[name, is_fed]) for is_fed in (False, True))
        of[name] = {
            "resident_ms_per_step": resident,
            "fed_ms_per_step": fed,
            "input_share": (fed - resident) / fed,
            "tracing_count": racers[name].tracing_count,
        }
    return {
        "setting": vars(setting),
        "rounds": rounds,
        "steps": steps,
        "pictures": {"count": len(pictures), "mean_bytes": float(pictures.stored_bytes().mean())},
        "input_ms_per_batch": 1e3 * statistics.median(alone),
        "contenders": of,
    }


def seconds_per_batch_alone(feed: tf.data.Dataset) -> float:
    """Seconds that the pipeline needs for a batch when nothing else is at work.

    Some batches go before that are not timed; those that were made ahead are used up by then.

    Args:
        feed: Endless batches.
    """
    iterator = iter(feed)
    for _ in range(NUM_BATCHES_BEFORE):
        next(iterator)
    started = time.perf_counter()
    for _ in range(NUM_BATCHES_ALONE):
        next(iterator)
    return (time.perf_counter() - started) / NUM_BATCHES_ALONE


def table(figures: dict) -> str:
    """Lays out what `measure` returns.

    Args:
        figures: From there.
    """
    setting, pictures = figures["setting"], figures["pictures"]
    size, batch = setting["image_size"], setting["batch_size"]
    lines = [
        f"{setting['model']}, {size}x{size} pixels, batch {batch} + {batch}, gates on"
        f" {setting['gated_variables'] or 'all'} variables; medians of {figures['rounds']} turns of"
        f" {figures['steps']} steps, taken alternately",
        f"{pictures['count']} JPEG files of {SHORTEST_SIDE} to {LONGEST_SIDE} pixels a side,"
        f" {pictures['mean_bytes'] / 1e3:.0f} kB on average, quality {JPEG_QUALITY}",
        "",
        f"input pipeline alone: {figures['input_ms_per_batch']:.1f} ms per batch,"
        f" {1e3 * batch / figures['input_ms_per_batch']:.0f} pictures per second",
        "",
        f"{'ms/step':<14}{'resident':>10}{'from files':>12}{'input':>9}",
    ]
    for name, facts in figures["contenders"].items():
        lines.append(
            f"{name:<14}{facts['resident_ms_per_step']:>10.1f}{facts['fed_ms_per_step']:>12.1f}"
            f"{100 * facts['input_share']:>7.1f} %"
        )
    retraced = [name for name, facts in figures["contenders"].items() if facts["tracing_count"] != 1]
    return "\n".join([*lines, "", f"traced more than once: {', '.join(retraced) or 'none'}"])
