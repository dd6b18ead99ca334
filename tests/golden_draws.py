"""What a seed draws, written down: label noise, splits, batch order, crops and flips.

`tests/golden/*.json` hold a hash of each draw and its first values; `test_golden.py` compares them. All of it is whole
numbers and ids, so it is equal on every platform. If the test fails, a seed no longer means what it meant in published
runs. To see what changed:

    python -m tests.golden_draws                 # which draws differ, and their first values, recorded and now
    python -m tests.golden_draws --dump=FOLDER   # every value now, a line each; do so on both versions and diff
    python -m tests.golden_draws --write         # records what is drawn now; say in CHANGELOG.md that seeds changed
"""

import argparse
import hashlib
import json
import pathlib
import sys

import numpy as np

from famus_tf.data import corruption, feeds, splitting
from famus_tf.data.examples import Dataset, ExampleTable, Preprocessing

FOLDER = pathlib.Path(__file__).parent / "golden"
NUM_CLASSES, NUM_EXAMPLES, SIDE = 10, 400, 16
SEED = 7
FIRST_VALUES = 12


def table(count=NUM_EXAMPLES, name="train"):
    """Examples whose images say where each pixel stood: (row, column, 0)."""
    grid = np.stack([*np.mgrid[:SIDE, :SIDE], np.zeros((SIDE, SIDE))], axis=-1).astype(np.uint8)
    # Uneven classes, in no order, by arithmetic alone.
    labels = np.array([(i * i + i // 7) % NUM_CLASSES for i in range(count)], np.int32)
    ids = np.array([f"{name}_{i:05d}" for i in range(count)])
    return ExampleTable(ids=ids, images=np.tile(grid, (count, 1, 1, 1)), given_labels=labels, true_labels=labels.copy())


# Under this normalisation an input is the pixel's own number, up to rounding.
PREPROCESSING = Preprocessing(
    mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255), padding=2, padding_mode="reflect", flip=True
)


def noise():
    """{noise type: the noisy labels}."""
    examples = table()
    return {
        f"{noise_type}, rate 0.4": corruption.corrupt(
            examples.given_labels, examples.ids, noise_type=noise_type, noise_rate=0.4, num_classes=NUM_CLASSES,
            seed=SEED, coarse_labels=(0, 0, 1, 1, 2, 2, 3, 3, 4, 4), dataset_name="cifar10",
        ).tolist()
        for noise_type in sorted(corruption.NOISE_TYPES)
    }  # fmt: skip


def splits():
    """{part: ids in order}, whole and with a long tail."""
    dataset = Dataset(
        name="golden", train=table(), test=table(20, "test"), class_names=tuple("abcdefghij"),
        preprocessing=PREPROCESSING,
    )  # fmt: skip
    drawn = {}
    for title, settings in {"even": {}, "long tail, factor 8": {"imbalance_factor": 8.0}}.items():
        done = splitting.split(dataset, num_meta=20, num_validation=30, num_train=100, seed=SEED, **settings)
        # The tail is made after the meta set has left.
        for part in ("validation", "train") if drawn else ("meta", "validation", "train"):
            drawn[f"{title}: {part}"] = getattr(done, part).ids.tolist()
    whole_tail = splitting.split(dataset, seed=SEED, imbalance_factor=8.0)
    drawn["long tail, factor 8: all of it"] = whole_tail.train.ids.tolist()
    return drawn


def batches(stream, start_step, num_steps, **settings):
    """Batches of a feed, as arrays."""
    feed = feeds.training_feed(
        table(), batch_size=40, seed=SEED, stream=stream, preprocessing=PREPROCESSING, augment=True, **settings
    )
    return list(feed.batches(start_step).take(num_steps).as_numpy_iterator())


def order():
    """{stream: rows, batch after batch}, over the end of an epoch of ten steps."""
    cases = {
        "train": batches("train", 0, 12),
        "train, from step 1000000": batches("train", 1_000_000, 2),
        "meta": batches("meta", 0, 12),
        "train, 4 steps per epoch": batches("train", 0, 6, steps_per_epoch=4),
        "train, class-balanced": batches("train", 0, 12, class_balanced=True),
    }
    return {name: np.concatenate([batch["index"] for batch in drawn]).tolist() for name, drawn in cases.items()}


def crops_and_flips():
    """{stream: [top, left, is flipped] of each example, batch after batch}, read off the finished images."""
    drawn = {}
    for stream in ("train", "meta"):
        images = np.rint(np.concatenate([batch["image"] for batch in batches(stream, 0, 3)])).astype(int)
        middle = SIDE // 2
        is_flipped = images[:, middle, middle, 1] > images[:, middle, middle + 1, 1]
        column = np.where(is_flipped, images[:, middle, SIDE - 1 - middle, 1], images[:, middle, middle, 1])
        places = np.stack([images[:, middle, middle, 0] - middle, column - middle, is_flipped], axis=1)
        drawn[stream] = (places + [PREPROCESSING.padding, PREPROCESSING.padding, 0]).tolist()
    return drawn


DRAWS = {"noise": noise, "splits": splits, "order": order, "crops_and_flips": crops_and_flips}


def record(values):
    """What is written down of one draw."""
    text = json.dumps(values, separators=(",", ":"))
    return {"count": len(values), "first": values[:FIRST_VALUES], "sha256": hashlib.sha256(text.encode()).hexdigest()}


def recorded(name):
    """{draw: record} of one file."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def main(argv):
    """Compares, dumps or writes; the exit code is the number of draws that differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--dump", type=pathlib.Path)
    options = parser.parse_args(argv)
    num_differing = 0
    for name, draw in DRAWS.items():
        values = draw()
        records = {key: record(value) for key, value in values.items()}
        if options.write:
            FOLDER.mkdir(exist_ok=True)
            lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(records.items()))
            (FOLDER / f"{name}.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
        if options.dump:
            for key, value in values.items():
                path = options.dump / name / f"{key.replace(' ', '_')}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(f"{json.dumps(each)}\n" for each in value), encoding="utf-8")
        old = recorded(name)
        for key in sorted(old.keys() | records.keys()):
            if old.get(key) != records.get(key):
                num_differing += 1
                print(f"{name}.json, {key}:\n  recorded {old.get(key)}\n  now      {records.get(key)}")
    print(f"{num_differing} draws differ.")
    return num_differing


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
