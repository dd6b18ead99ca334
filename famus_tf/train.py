"""Trains a classifier on noisy labels: `python -m famus_tf.train --dataset=digits --method=mwnet_famus`.

`--help` lists every flag. The same command again goes on from where a stopped run stood.
"""

import signal
import sys

from absl import flags, logging

from famus_tf import command_text, entry_point, options, quiet_start
from famus_tf.errors import InputError
from famus_tf.runs import interruption
from famus_tf.runs.run_folder import RunFolder


def check_same_run(folder: RunFolder, flag_lines: list[str]) -> None:
    """Refuses to continue a run under other settings.

    Args:
        folder: The run folder; a new one passes.
        flag_lines: Of the run to come.

    Raises:
        InputError: If a flag that changes results differs; the message names all of them.
    """
    previous = folder.flag_lines()
    if previous is None:
        return
    differing = options.differing_flags(previous, flag_lines)
    if differing:
        changes = (f"--{name} was {old or 'unset'} and is now {new or 'unset'}" for name, old, new in differing)
        raise InputError(
            f"The run in {folder.path}/ was made with other flags: {'; '.join(changes)}. Give another --model_dir for a"
            " new run, or the old flags to go on with this one."
        )


def main(argv: list[str]) -> None:
    """Reads the options, builds what they name and trains it."""
    with interruption.StopOnSignals(
        entry_point.leaving_before_training(), signals=(signal.SIGTERM,), ends_the_program=True
    ):
        _main(argv)


def _main(argv: list[str]) -> None:
    options.define_flags()
    if options.asks_for_help(argv):
        print(options.help_text(argv))
        return
    options.parse_flags(argv)
    flag_lines = options.flag_lines()
    # A mistake in the folder is told before TensorFlow and the data are loaded, which takes seconds.
    check_same_run(RunFolder(options.run_config().model_dir), flag_lines)
    logging.use_absl_handler()
    wants_chatter = flags.FLAGS["verbosity"].value >= logging.INFO
    quiet_start.import_tensorflow(show_chatter=wants_chatter)
    from famus_tf import run_endings, run_splits, training_job

    run_endings.gather_workers(options.run_config())
    splits = run_splits.load_splits(options.data_config(), options.run_config().seed)
    config = options.config(steps_per_epoch=max(len(splits.train) // options.run_config().batch_size, 1))
    training_job.train(config, splits, flag_lines, command_text.comparison(argv[1:], config.method.name), "auto")


if __name__ == "__main__":
    sys.exit(entry_point.run(main, sys.argv))
