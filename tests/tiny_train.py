"""`famus_tf.train` with a network that is traced in seconds: `python -m tests.tiny_train WRITES --flag=value ...`.

Where the environment variable TINY_TRAIN_BAD_ROW is set, that row of the training set holds NaN.

Every file or folder that this process makes, opens for writing, moves or removes through Python is noted in the file
WRITES, a line each.
"""

import dataclasses
import os
import sys

import keras
import numpy as np

from famus_tf import entry_point, registry, run_splits, train

EVENTS = {"os.mkdir": (0,), "os.rename": (0, 1), "os.remove": (0,), "os.rmdir": (0,), "shutil.rmtree": (0,)}


def build(input_shape, num_classes, *, seed=0, synchronized=False, mixed_precision="float32"):
    """One convolution with batch norm, pooling, dropout and a head."""
    del mixed_precision
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    x = inputs = keras.Input(input_shape)
    x = layers.Conv2D(4, 3, strides=2, use_bias=False, name="block01_conv")(x)
    x = layers.BatchNormalization(momentum=0.9, synchronized=synchronized, name="block01_norm")(x)
    x = layers.Activation("relu")(x)
    x = layers.Dropout(0.2, seed=5)(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(num_classes, name="logits")(x), name="tiny")


def spoil_row(row):
    """Has every run in this process train on a set with NaN in one picture."""
    load_splits = run_splits.load_splits

    def spoilt(*arguments):
        splits = load_splits(*arguments)
        images = splits.train.images.astype(np.float32)
        images[row] = np.nan
        return dataclasses.replace(splits, train=dataclasses.replace(splits.train, images=images))

    run_splits.load_splits = spoilt


def note_writes(path):
    """Notes this process's own writes from now on."""
    # Unbuffered, so that nothing is lost when the process is killed.
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(event, arguments):
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            os.write(handle, f"open {arguments[0]}\n".encode())
        for position in EVENTS.get(event, ()):
            os.write(handle, f"{event} {arguments[position]}\n".encode())

    sys.addaudithook(note)


if __name__ == "__main__":
    note_writes(sys.argv.pop(1))
    registry.MODELS["small_cnn"] = build
    if "TINY_TRAIN_BAD_ROW" in os.environ:
        spoil_row(int(os.environ["TINY_TRAIN_BAD_ROW"]))
    sys.exit(entry_point.run(train.main, sys.argv))
