"""The run folder: what is no run folder is refused and left alone."""

import json
import pathlib

import pytest

from famus_tf.errors import InputError
from famus_tf.runs.run_folder import RunFolder

SCALED = {"dataset": {"preprocessing": {"mean": [0.5], "std": [0.25]}}}


def failing(error):
    def fail(*arguments, **settings):
        raise error

    return fail


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_looking_at_a_new_folder_makes_nothing(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "new")
    assert folder.flag_lines() is None
    assert names(tmp_path) == []


def test_the_parts_lie_where_the_readme_says(tmp_path):
    folder = RunFolder(tmp_path)
    parts = (folder.flags, folder.results, folder.labels, folder.model, folder.checkpoints, folder.tensorboard)
    assert [path.relative_to(tmp_path).as_posix() for path in parts] == [
        "flags.txt", "results.json", "labels.csv", "model.keras", "checkpoints", "tensorboard",
    ]  # fmt: skip


def test_a_home_folder_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert RunFolder("~/run").path == pathlib.Path("/somewhere/run")


def test_create_makes_the_folders_above_and_keeps_the_first_flags(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "one")
    folder.create(["--seed=1", "--epochs=2"])
    assert folder.flags.read_text() == "--seed=1\n--epochs=2\n"
    RunFolder(folder.path).create(["--seed=2"])
    assert RunFolder(folder.path).flag_lines() == ["--seed=1", "--epochs=2"]
    assert names(folder.path) == ["flags.txt"]


def test_an_empty_folder_is_taken(tmp_path):
    folder = RunFolder(tmp_path)
    folder.create(["--seed=1"])
    assert names(tmp_path) == ["flags.txt"]


def test_a_file_in_its_place_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(InputError, match=r"--model_dir=.*/run is a file; a folder, .* is expected"):
        RunFolder(tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="holds other files and no flags.txt, so it is not a run folder"):
        RunFolder(tmp_path)
    assert names(tmp_path) == ["thesis.tex"]


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pathlib.Path, "iterdir", failing(PermissionError(13, "Permission denied")))
    with pytest.raises(InputError, match=r"cannot be read \(\[Errno 13\] Permission denied\). Give another path"):
        RunFolder(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    monkeypatch.setattr(pathlib.Path, "mkdir", failing(PermissionError(13, "Permission denied")))
    with pytest.raises(InputError, match=r"--model_dir=.*/run cannot be written to \(.*denied\). Give another path"):
        folder.create(["--seed=1"])


def test_a_path_below_a_file_is_refused(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(InputError, match="cannot be written to"):
        RunFolder(tmp_path / "note.txt" / "run").create(["--seed=1"])


def test_flags_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "flags.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"flags.txt cannot be read \(.*\). Give another --model_dir"):
        RunFolder(tmp_path).flag_lines()


def strict_json(path):
    def refuse(text):
        raise ValueError(f"{text} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_results_come_back_as_they_were(tmp_path):
    folder = RunFolder(tmp_path)
    results = SCALED | {"steps": 3, "history": {"loss": [0.5, 0.25]}, "noise": None, "name": "ä"}
    folder.write_results(results)
    assert folder.read_results() == results
    assert folder.read_results(["steps", "history.loss"]) == results
    assert strict_json(folder.results) == results


def test_figures_that_are_no_numbers_are_written_as_null(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_results({"history": {"loss": [0.5, float("nan")]}, "deeper": [{"rate": float("inf")}], "steps": 3})
    assert strict_json(folder.results) == {"history": {"loss": [0.5, None]}, "deeper": [{"rate": None}], "steps": 3}


def test_results_that_are_missing_are_named(tmp_path):
    with pytest.raises(InputError, match="has no results.json, so no run has got that far there"):
        RunFolder(tmp_path).read_results()


@pytest.mark.parametrize("content", [b'{"steps": 3', b"", b"\xff\xff", b"[1, 2]"])
def test_damaged_results_are_named(tmp_path, content):
    folder = RunFolder(tmp_path)
    folder.results.write_bytes(content)
    with pytest.raises(InputError, match=r"results.json cannot be read \(.*\). Run the training again"):
        folder.read_results()


@pytest.mark.parametrize(
    ("results", "needed", "lacking"),
    [
        ({}, None, "dataset.preprocessing.mean, dataset.preprocessing.std"),
        ({"dataset": [1]}, None, "dataset.preprocessing.mean, dataset.preprocessing.std"),
        ({"dataset": {"preprocessing": {"mean": [0.5], "std": None}}}, None, "dataset.preprocessing.std"),
        (SCALED, ["dataset.preprocessing.mean", "steps"], "steps"),
    ],
)
def test_entries_that_results_lack_are_named(tmp_path, results, needed, lacking):
    folder = RunFolder(tmp_path)
    folder.write_results(results)
    with pytest.raises(InputError) as caught:
        folder.read_results(*([needed] if needed else []))
    assert str(caught.value) == (
        f"{folder.results} lacks {lacking}, which a run writes there, so the file is damaged or of something else. Run"
        " the training again."
    )


def test_litter_of_a_killed_writer_is_removed_and_nothing_else(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create(["--seed=1"])
    kept = {"flags.txt", "results.json", "model.keras", ".notes", ".results", "labels.csv"}
    for name in (*kept, ".results.json.x7_a", ".flags.txt.1", ".labels.csv.2", ".model.keras.part.keras"):
        (folder.path / name).touch()
    folder.remove_litter()
    assert {path.name for path in folder.path.iterdir()} == kept


class Unfinished:
    def save(self, path):
        path.write_text("half a mod")
        raise OSError(28, "No space left on device")


def test_a_model_that_cannot_be_saved_leaves_the_old_one_and_no_part(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create([])
    folder.model.write_text("the old one")
    with pytest.raises(OSError, match="No space left"):
        folder.save_model(Unfinished())
    assert folder.model.read_text() == "the old one"
    assert {path.name for path in folder.path.iterdir()} == {"flags.txt", "model.keras"}
