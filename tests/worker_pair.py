"""Two workers on this machine, each a process of its own, that train together."""

import io
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
import zipfile

import h5py

ROOT = pathlib.Path(__file__).resolve().parents[1]
TRAINING = (
    "--dataset=digits", "--method=mwnet_famus", "--num_train=100", "--batch_size=20", "--meta_batch_size=20",
    "--seed=1", "--gated_variables=4", "--steps_per_call=2", "--checkpoint_interval_s=1e-6", "--train_steps=20",
)  # fmt: skip
LONGEST_S = 240.0


def tf_config(index=0, task="worker", **jobs):
    jobs = jobs or {"worker": ["a:1", "b:2"]}
    return json.dumps({"cluster": jobs, "task": {"type": task, "index": index}})


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("localhost", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Pair:
    """Two workers on this machine; worker 0 is the chief."""

    def __init__(self, folder, *more_flags, flags_of_second=()):
        self.folder = folder
        addresses = [f"localhost:{port}" for port in free_ports(2)]
        self.writes = [folder.parent / f"writes{index}.txt" for index in range(2)]
        for path in self.writes:
            path.unlink(missing_ok=True)
        self.processes = []
        for index in range(2):
            command = [sys.executable, "-m", "tests.tiny_train", str(self.writes[index]), *TRAINING, *more_flags]
            command += [f"--model_dir={folder}", "--strategy=multi_worker", *(flags_of_second if index else ())]
            environment = os.environ | {
                "TF_CONFIG": tf_config(index, worker=addresses), "TF_CPP_MIN_LOG_LEVEL": "3",
                "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1",
            }  # fmt: skip
            self.processes.append(
                subprocess.Popen(
                    command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
                )
            )

    def newest_step(self):
        names = [path.name for path in (self.folder / "checkpoints").glob("ckpt-*.index")]
        return max((int(re.search(r"\d+", name)[0]) for name in names), default=0)

    def wait_for_step(self, step):
        deadline = time.monotonic() + LONGEST_S
        while self.newest_step() < step:
            assert all(process.poll() is None for process in self.processes), self.ended()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def ended(self):
        """[(exit code, standard output, standard error)] of both, waited for."""
        results = []
        try:
            for process in self.processes:
                output, errors = process.communicate(timeout=LONGEST_S)
                results.append((process.returncode, output, errors))
        finally:
            for process in self.processes:
                process.kill()
        return results


def weights_in(folder):
    """{name: array} of the exported model."""
    arrays = {}
    with zipfile.ZipFile(folder / "model.keras") as archive:
        with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
            file.visititems(lambda name, item: arrays.update({name: item[()]}) if hasattr(item, "shape") else None)
    return arrays


def results_in(folder):
    return json.loads((folder / "results.json").read_text())
