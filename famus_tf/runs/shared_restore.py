"""Restoring a checkpoint on several workers: all the same one, or none."""

from famus_tf import workers
from famus_tf.errors import InputError

NOTHING, FAILED = -1, -2


def restore(checkpointer, trainer) -> bool:
    """Restores the newest checkpoint that is whole into the trainers of all workers.

    The chief chooses: it alone looks for damage and removes what is damaged, and only it writes later. What the others
    see in the folder at that moment, which may be an older view of it, does not matter.

    Args:
        checkpointer: A `Checkpointer`, of the same folder on all workers.
        trainer: Its `Trainer`.

    Returns:
        Whether there was one.

    Raises:
        InputError: On all workers, if one of them cannot restore it; the trainers must not be used then.
    """
    strategy = trainer.strategy
    if workers.count(strategy) == 1:
        return checkpointer.restore()
    step, mistake = NOTHING, None
    try:
        if workers.is_chief(strategy) and checkpointer.restore():
            step = trainer.step
    except InputError as error:
        step, mistake = FAILED, error
    step = workers.chiefs(step, strategy)
    try:
        if step >= 0 and not workers.is_chief(strategy):
            checkpointer.restore_step(step)
    except InputError as error:
        mistake = error
    num_failed = workers.total(int(mistake is not None), strategy)
    if mistake is not None:
        raise mistake
    if num_failed:
        raise InputError(
            f"{num_failed} of the {workers.count(strategy)} workers cannot restore the checkpoint; their messages say"
            " why. --model_dir must lie in a file system that all workers share."
        )
    return step >= 0
