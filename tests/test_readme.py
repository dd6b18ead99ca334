"""The README's Python example, run as it is printed; only the download is replaced by made-up images."""

import pathlib
import re

import keras
import numpy as np

README = pathlib.Path(__file__).parents[1] / "README.md"


def python_blocks():
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_python_example_trains_an_unmodified_application_in_under_15_lines(tmp_path, monkeypatch):
    (example,) = python_blocks()
    assert len([line for line in example.splitlines() if line.strip()]) < 15

    def made_up(count):
        draw = np.random.default_rng(count)
        images = draw.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        return images, (np.arange(count) % 10).astype(np.uint8)[:, np.newaxis]

    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: (made_up(1100), made_up(50)))
    monkeypatch.chdir(tmp_path)
    # One epoch, and smaller batches of the same code, so that it takes seconds.
    example = example.replace("epochs=10", "epochs=1, verbose=0").replace("batch_size=100", "batch_size=20")
    names = {}
    exec(compile(example, str(README), "exec"), names)
    assert names["trainer"].step == 5
    assert np.isfinite(names["history"].history["meta_loss"]).all()
    assert np.isfinite(names["trainer"].example_weights).all()
    assert keras.saving.load_model(tmp_path / "model.keras").output_shape == (None, 10)
