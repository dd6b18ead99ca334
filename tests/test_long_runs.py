"""Long runs stay flat: memory and traces do not grow with the steps, with all that a run has around it."""

import json
import os
import subprocess
import sys

import pytest

# One process for the whole measurement: RSS of a process that other tests have used says little.
PROGRAM = """
import ctypes, gc, json, os, pathlib, sys, tempfile
import keras
import numpy as np
from famus_tf import registry
from famus_tf.runs.checkpoints import Checkpointer
from famus_tf.runs.monitor import Monitor
from famus_tf.runs.run_folder import RunFolder
from famus_tf.trainer import Trainer

def resident():
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

draw = np.random.default_rng(0)
def examples(count):
    images = draw.normal(size=(count, 2, 2, 1)).astype(np.float32)
    return images, (images.sum(axis=(1, 2, 3)) > 0).astype(np.int32)

layers = [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.1),
          keras.layers.Dense(2)]
trainer = Trainer(keras.Sequential(layers), registry.make_method("mwnet", meta_hidden_units=4), on_nonfinite="skip")
folder = RunFolder(sys.argv[1])
folder.create([])
checkpointer = Checkpointer(folder.checkpoints, trainer, interval_s=0.5)
monitor = Monitor(folder, trainer, facts={}, is_clean=draw.random(800) < 0.6)
train, meta, test = examples(800), examples(20), examples(30)

def reach(steps, callbacks=()):
    trainer.fit(train, meta, validation_data=test, test_data=test, train_steps=steps, batch_size=16,
                meta_batch_size=8, callbacks=[monitor, checkpointer, *callbacks], verbose=0)
    return resident()

first, last = reach(500), reach(5000)
held = []
class Holder(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        held.append(np.ones(first // 100, np.uint8))
leaking = reach(5100, [Holder()])
print(json.dumps({"first": first, "last": last, "leaking": leaking, "traces": trainer.tracing_count,
                  "epochs": len(trainer.history["test_accuracy"]), "held": len(held),
                  "ms_per_step": 1e3 * trainer.seconds_per_step}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc and trims glibc's heap")
@pytest.mark.slow
def test_after_5000_steps_memory_is_that_of_500_and_the_loop_was_traced_once(tmp_path):
    # One arena and a fixed threshold: glibc's own tuning would grow the heap by turns.
    malloc = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "run")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=500, env={**os.environ, **malloc}
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert (facts["traces"], facts["epochs"]) == (1, 102)
    assert facts["last"] / facts["first"] < 1.02, facts
    # The control: five calls that keep a hundredth of that each are seen.
    assert facts["held"] >= 5
    assert facts["leaking"] / facts["last"] > 1.03, facts
