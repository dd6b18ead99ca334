"""How a run ends when it does not simply finish: stopped, out of room, left by another worker."""

import contextlib

from famus_tf import replicas, workers
from famus_tf.cluster import this_cluster
from famus_tf.config import RunConfig
from famus_tf.entry_point import EXIT_NOT_WRITTEN, EXIT_RUN_AGAIN, ProgramEnd
from famus_tf.runs.run_folder import RunFolder
from famus_tf.runs.write_failures import CHECKPOINT, WriteFailures
from famus_tf.trainer import Trainer


@contextlib.contextmanager
def lost_workers_ending_the_run(config: RunConfig):
    """Ends the program in good order where another worker is gone, with the exit code for "run me again".

    Args:
        config: Of the run; nothing happens unless it has several workers.

    Yields:
        Nothing.

    Raises:
        ProgramEnd: If TensorFlow says so.
    """
    if config.strategy != "multi_worker":
        yield
        return
    try:
        with workers.lost_workers_told(this_cluster()):
            yield
    except workers.WorkerLostError as lost:
        raise ProgramEnd(str(lost), EXIT_RUN_AGAIN) from lost


def gather_workers(config: RunConfig) -> None:
    """Makes the strategy of the run, which must come before anything else that uses TensorFlow's devices.

    Args:
        config: Of the run. Where it has several workers, each says which it is, and waits for the others.

    Raises:
        InputError: If the devices or the workers are not there as asked for.
        ProgramEnd: If a worker went away again.
    """
    if config.strategy == "multi_worker":
        chief = this_cluster().addresses[0]
        print(f"This is {this_cluster()}. Worker 0 ({chief}) reports and writes. Waiting for all.", flush=True)
    with lost_workers_ending_the_run(config):
        replicas.make_strategy(config.num_replicas, config.strategy)


def end_early(trainer: Trainer, last_step: int, folder: RunFolder, failures: WriteFailures) -> None:
    """Ends a run that was asked to stop, after its checkpoint; every worker must come here.

    Args:
        trainer: Knows how far it came.
        last_step: Steps asked for.
        folder: The `RunFolder`.
        failures: Of the run.

    Raises:
        ProgramEnd: Always.
    """
    # All workers hear of it, and so wait for the chief's checkpoint; those that end otherwise would start again alone.
    if workers.chiefs(int(CHECKPOINT in failures.missing), trainer.strategy):
        check_written(failures)
        raise ProgramEnd("Error: worker 0 could not write the checkpoint; it says why.", EXIT_NOT_WRITTEN)
    where = f"step {trainer.step} of {last_step}" + ", before its evaluation" * trainer.awaits_evaluation
    unwritten = "".join(f" Not written: {what} ({why})." for what, why in failures.missing.items())
    raise ProgramEnd(
        f"Stopped at {where}; the state is saved in {folder.path}/. The same command again goes on from"
        f" there.{unwritten}",
        EXIT_RUN_AGAIN,
    )


def check_written(failures: WriteFailures) -> None:
    """Repeats at the end what could not be written.

    Args:
        failures: Of the run.

    Raises:
        ProgramEnd: If something is missing still.
    """
    if failures.missing:
        missing = "; ".join(f"{what}: {why}" for what, why in failures.missing.items())
        raise ProgramEnd(
            f"Error: not everything could be written ({missing}). Make room, or mend the disk; the same command again"
            " goes on from the newest checkpoint and writes what is missing.",
            EXIT_NOT_WRITTEN,
        )
