"""The run folder: where its parts lie, and how they are read and written."""

import contextlib
import json
import math
import os
import pathlib
from collections.abc import Iterable

from famus_tf import whole_files
from famus_tf.errors import InputError

# How the run's images were scaled: what every reader of results.json needs.
SCALING = ("dataset.preprocessing.mean", "dataset.preprocessing.std")


def finite(value):
    """The same JSON-able value with None for NaN and infinities, which JSON cannot hold."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class RunFolder:
    """One run's folder.

    Attributes:
        path: The folder.
        flags: flags.txt, which reproduces the run with --flagfile.
        results: results.json.
        labels: labels.csv, the given and true label of every training and validation example.
        model: model.keras.
        bad_pictures: bad_pictures.csv, the pictures that could not be used; there only if there were some.
        checkpoints: The folder of checkpoints.
        tensorboard: The folder of TensorBoard events.
    """

    def __init__(self, path):
        """Looks at the folder without touching it.

        Raises:
            InputError: If it exists and is something else than a run folder, or cannot be read.
        """
        self.path = pathlib.Path(path).expanduser()
        self.flags = self.path / "flags.txt"
        self.results = self.path / "results.json"
        self.labels = self.path / "labels.csv"
        self.model = self.path / "model.keras"
        self.bad_pictures = self.path / "bad_pictures.csv"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        try:
            is_file = self.path.exists() and not self.path.is_dir()
            is_foreign = self.path.is_dir() and not self.flags.exists() and any(self.path.iterdir())
        except OSError as error:
            raise InputError(f"--model_dir={path} cannot be read ({error}). Give another path.") from error
        if is_file:
            raise InputError(f"--model_dir={path} is a file; a folder, or a path where one can be made, is expected.")
        if is_foreign:
            raise InputError(
                f"--model_dir={path} holds other files and no flags.txt, so it is not a run folder. Give another path,"
                " or empty it."
            )

    def flag_lines(self) -> list[str] | None:
        """The lines of flags.txt, or None in a new folder.

        Raises:
            InputError: If the file cannot be read.
        """
        if not self.flags.exists():
            return None
        try:
            return self.flags.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{self.flags} cannot be read ({error}). Give another --model_dir.") from error

    def create(self, flag_lines: list[str]) -> None:
        """Makes the folder and writes flags.txt if there is none.

        Raises:
            InputError: If the folder cannot be written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not self.flags.exists():
                with whole_files.writing(self.flags) as file:
                    file.write("\n".join(flag_lines) + "\n")
        except OSError as error:
            raise InputError(f"--model_dir={self.path} cannot be written to ({error}). Give another path.") from error

    def remove_litter(self) -> None:
        """Removes what a writer that was killed left half-done; nobody else may be writing."""
        for part in (self.flags, self.results, self.labels, self.model, self.bad_pictures):
            for path in self.path.glob(f".{part.name}.*"):
                with contextlib.suppress(OSError):
                    path.unlink()

    def save_model(self, model) -> None:
        """Writes model.keras; a reader sees it whole or not at all.

        Args:
            model: A Keras model.
        """
        # Keras wants its own ending.
        part = self.path / f".{self.model.name}.part.keras"
        try:
            model.save(part)
            os.replace(part, self.model)
        finally:
            part.unlink(missing_ok=True)

    def write_results(self, results: dict) -> None:
        """Writes results.json; figures that are no numbers (the loss of a run that diverged) become null."""
        text = json.dumps(finite(results), indent=2, sort_keys=True, allow_nan=False)
        with whole_files.writing(self.results) as file:
            file.write(text + "\n")

    def read_results(self, needed: Iterable[str] = SCALING) -> dict:
        """Reads results.json.

        Args:
            needed: The entries that it must hold, with a dot before each deeper name.

        Raises:
            InputError: If it is missing or damaged, or lacks one of them.
        """
        try:
            results = json.loads(self.results.read_text(encoding="utf-8"))
            if not isinstance(results, dict):
                raise ValueError("no JSON object")
        except FileNotFoundError:
            raise InputError(
                f"{self.path} has no results.json, so no run has got that far there. Give the --model_dir of a run."
            ) from None
        except (OSError, ValueError) as error:
            raise InputError(f"{self.results} cannot be read ({error}). Run the training again.") from error
        lacking = [entry for entry in needed if not _holds(results, entry)]
        if lacking:
            raise InputError(
                f"{self.results} lacks {', '.join(lacking)}, which a run writes there, so the file is damaged or of"
                " something else. Run the training again."
            )
        return results


def _holds(results: dict, entry: str) -> bool:
    """Whether there is a value, not null, where the dotted name leads."""
    value = results
    for name in entry.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value is not None
