"""Measures a finished run's saved model again: `python -m famus_tf.evaluate --model_dir=runs/...`.

Reads the run folder alone (its model.keras and results.json) and the dataset, and says whether the accuracy that the
run reported for its last epoch holds.
"""

import pathlib
import sys
import zipfile

from absl import flags, logging

from famus_tf import entry_point, options, quiet_start
from famus_tf.errors import InputError
from famus_tf.runs.run_folder import SCALING, RunFolder

# What is read from results.json.
NEEDED = (*SCALING, "accuracy.last_epoch.test_accuracy", "environment.tensorflow")
# Share of the test set whose prediction rounding may turn.
MIXED_PRECISION_TOLERANCE = 0.01


def run_folder(argv: list[str]) -> tuple[RunFolder, dict]:
    """The run folder of the command line and its results; the flags become those the run was made with.

    Raises:
        InputError: If there is no finished run, or its results.json is damaged.
    """
    typed = options.typed_flags(argv)
    if typed["model_dir"] is None:
        raise InputError("--model_dir is missing: the run folder to evaluate, such as runs/digits-mwnet_famus-...")
    folder = RunFolder(typed["model_dir"])
    if not folder.path.is_dir():
        raise InputError(f"--model_dir={folder.path} does not exist. Give the folder of a run.")
    results = folder.read_results(NEEDED)
    if not folder.model.exists():
        raise InputError(f"{folder.path} has no model.keras, so its run is not finished. Run its command again.")
    # What is typed (a moved --data_dir, say) wins over what the run was made with.
    options.parse_flags([argv[0], f"--flagfile={folder.flags}", *argv[1:]])
    return folder, results


def load_model(path: pathlib.Path):
    """The Keras model of a `.keras` file.

    Raises:
        InputError: If the file cannot be read.
    """
    import keras

    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):  # of which Keras says that there is no such file
                raise ValueError(f"damaged or cut short after {path.stat().st_size:,} bytes")
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras raises many kinds for a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} cannot be read ({reason}); run the training's command again to save it.") from error


def main(argv: list[str]) -> None:
    """Loads, measures, prints."""
    options.define_flags()
    if options.asks_for_help(argv):
        print(f"{__doc__}\nFlags: --model_dir=FOLDER (needed), --data_dir=FOLDER if the dataset has moved.")
        return
    folder, results = run_folder(argv)
    logging.use_absl_handler()
    quiet_start.import_tensorflow(show_chatter=flags.FLAGS["verbosity"].value >= logging.INFO)
    import tensorflow as tf

    from famus_tf import run_splits
    from famus_tf.data import feeds
    from famus_tf.data.examples import Preprocessing
    from famus_tf.runs.evaluation import EVALUATION_BATCH_SIZE, Evaluator

    # As recorded, since a run that began with --weights may have scaled its images otherwise.
    try:
        preprocessing = Preprocessing(**results["dataset"]["preprocessing"])
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{folder.results} has a dataset.preprocessing that cannot be used ({error}). Run the training again."
        ) from error
    model = load_model(folder.model)
    splits = run_splits.load_splits(options.data_config(), options.run_config().seed)
    batches = feeds.evaluation_feed(splits.test, EVALUATION_BATCH_SIZE, preprocessing, "test")
    measured = Evaluator(model, tf.distribute.get_strategy()).evaluate(batches)
    reported = results["accuracy"]["last_epoch"]["test_accuracy"]
    print(f"test accuracy, measured now          {measured['accuracy']:.4f}  ({len(splits.test)} examples)")
    print(f"test accuracy, reported by the run   {reported:.4f}  (last epoch)")
    # A run of mixed precision measured itself in it, and the saved network computes in float32.
    tolerance = MIXED_PRECISION_TOLERANCE if options.run_config().mixed_precision != "float32" else 0.0
    if abs(measured["accuracy"] - reported) * len(splits.test) > 0.5 + tolerance * len(splits.test):
        raise InputError(
            "The two differ. The model file or the dataset is not the one the run ended with, or another version of"
            f" TensorFlow computes otherwise (the run's: {results['environment']['tensorflow']}, now {tf.__version__})."
        )
    print("They agree.")


if __name__ == "__main__":
    sys.exit(entry_point.run(main, sys.argv))
