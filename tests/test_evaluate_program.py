"""What `famus_tf.evaluate` says of run folders whose files are damaged; of whole ones see test_train.py."""

import copy
import json
import zipfile

import keras
import pytest

from famus_tf import entry_point, evaluate, run_splits
from famus_tf.config import DataConfig
from famus_tf.runs.run_folder import RunFolder

FLAGS = ["--dataset=digits", "--method=ce", "--noise_rate=0"]
RESULTS = {
    "dataset": {"preprocessing": {"mean": [0.0], "std": [1.0]}},
    "accuracy": {"last_epoch": {"test_accuracy": 0.5, "epoch": 1}},
    "environment": {"tensorflow": "2.99"},
}


pytestmark = pytest.mark.usefixtures("logging_as_before", "own_flags")


@pytest.fixture
def folder(tmp_path):
    """A run folder whose network takes every digit for a 0."""
    folder = RunFolder(tmp_path / "run")
    folder.create(FLAGS)
    folder.write_results(RESULTS)
    image = keras.Input((8, 8, 1))
    logits = keras.layers.Dense(10, kernel_initializer="zeros")(keras.layers.Flatten()(image))
    folder.save_model(keras.Model(image, logits))
    return folder


def run(folder):
    return entry_point.run(evaluate.main, ["famus_tf.evaluate", f"--model_dir={folder.path}"])


def test_the_network_that_reported_its_accuracy_agrees(folder, capsys):
    labels = run_splits.load_splits(DataConfig(dataset="digits"), 0).test.true_labels
    results = copy.deepcopy(RESULTS)
    results["accuracy"]["last_epoch"]["test_accuracy"] = float((labels == 0).mean())
    folder.write_results(results)
    assert run(folder) == 0
    assert capsys.readouterr().out.endswith("They agree.\n")


@pytest.mark.parametrize(
    ("changes", "lacking"),
    [
        ({"accuracy": {}}, "accuracy.last_epoch.test_accuracy"),
        ({"environment": None}, "environment.tensorflow"),
        (
            dict.fromkeys(RESULTS),
            "dataset.preprocessing.mean, dataset.preprocessing.std, accuracy.last_epoch.test_accuracy,"
            " environment.tensorflow",
        ),
    ],
)
def test_what_results_json_lacks_is_named(changes, lacking, folder, capsys):
    folder.write_results(RESULTS | changes)
    assert run(folder) == 2
    assert capsys.readouterr() == (
        "",
        f"Error: {folder.results} lacks {lacking}, which a run writes there, so the file is damaged or of something"
        " else. Run the training again.\n",
    )


@pytest.mark.parametrize(
    ("preprocessing", "reason"),
    [
        ({"mean": [0.0], "std": [1.0], "flop": True}, "got an unexpected keyword argument 'flop'"),
        ({"mean": [0.0], "std": [1.0, 1.0]}, "must both have one number per channel."),
        ({"mean": 0.0, "std": 1.0}, "object of type 'float' has no len()"),
    ],
)
def test_a_preprocessing_that_cannot_be_used_is_named(preprocessing, reason, folder, capsys):
    folder.results.write_text(json.dumps(RESULTS | {"dataset": {"preprocessing": preprocessing}}))
    assert run(folder) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: {folder.results} has a dataset.preprocessing that cannot be used (")
    assert line.endswith(f"{reason}). Run the training again.")


@pytest.mark.parametrize("size", [0, 3000])
def test_a_model_that_was_cut_short_is_not_called_missing(size, folder, capsys):
    whole = folder.model.read_bytes()
    assert len(whole) > size
    folder.model.write_bytes(whole[:size])
    assert run(folder) == 2
    assert capsys.readouterr().err == (
        f"Error: {folder.model} cannot be read (damaged or cut short after {size:,} bytes); run the training's command"
        " again to save it.\n"
    )


def test_an_archive_of_something_else_is_no_model(folder, capsys):
    with zipfile.ZipFile(folder.model, "w") as archive:
        archive.writestr("thesis.tex", "mine")
    assert run(folder) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: {folder.model} cannot be read (")
    assert "config.json" in line
    assert line.endswith("); run the training's command again to save it.")


def test_a_folder_in_the_models_place_is_named(folder, capsys):
    folder.model.unlink()
    folder.model.mkdir()
    assert run(folder) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: {folder.model} cannot be read ([Errno 21] Is a directory: ")
