"""Several machines that train together: which worker this process is, what it is fed, and what all agree on.

Every worker runs the same program and computes the same order of global batches; each makes its own share of every
batch. What a step reduces, it reduces over the replicas of all workers, so all of them hold the same weights at every
step, and one of them, the chief, can do all the writing.
"""

import contextlib
import functools
import hashlib
import itertools
import os

import tensorflow as tf

from famus_tf.cluster import Cluster, cluster_from, cluster_of
from famus_tf.data import batch_shares
from famus_tf.data.batch_shares import Share
from famus_tf.errors import InputError

# Numbers what the workers ask each other, so that an answer to another question is noticed.
_QUESTIONS = itertools.count(1)


class WorkerLostError(Exception):
    """Another worker ended or cannot be reached, so no further step is possible in this process."""


def count(strategy: tf.distribute.Strategy) -> int:
    """How many workers train together."""
    return len(cluster_of(strategy).addresses)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process does the writing; true where there is no other."""
    return cluster_of(strategy).is_chief


def make_strategy(num_replicas: int) -> tf.distribute.MultiWorkerMirroredStrategy:
    """The strategy of the workers that TF_CONFIG names; returns when all of them have come.

    Args:
        num_replicas: GPUs that each worker takes, as many on every worker; 0 takes all. Without a GPU a worker is one
            replica.

    Raises:
        InputError: If TF_CONFIG is missing or garbled, there are too few GPUs, TensorFlow is at work already, or this
            worker's address cannot be listened on.
        WorkerLostError: If the others do not come within an hour, or go away at once.
    """
    return _made_strategy(os.environ.get("TF_CONFIG"), num_replicas)


@functools.cache
def _made_strategy(config: str | None, num_replicas: int) -> tf.distribute.MultiWorkerMirroredStrategy:
    cluster = cluster_from(config)
    gpus = tf.config.list_physical_devices("GPU")
    if num_replicas > max(len(gpus), 1):
        raise InputError(
            f"--num_replicas={num_replicas} was asked for, but {cluster} has {len(gpus)} GPU(s). With"
            " --strategy=multi_worker it is the number of GPUs that each worker takes; a worker without a GPU is one"
            " replica."
        )
    try:
        if num_replicas and gpus:
            tf.config.set_visible_devices(gpus[:num_replicas], "GPU")
        with lost_workers_told(cluster):
            # Without CommunicationOptions(timeout_seconds=...): TensorFlow keeps a sleeping thread for each collective
            # operation until its time is up, thousands of them after seconds. A lost worker is noticed without it, by
            # its missing heartbeats, within about ten seconds.
            return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise InputError(
            "Several workers must be brought together before anything else uses TensorFlow; make the strategy first."
        ) from error
    except (tf.errors.UnknownError, tf.errors.InternalError) as error:
        raise InputError(
            f"This process, {cluster}, cannot listen on its address ({_first_line(error)}). Give every worker the"
            " address of its own machine, with a free port."
        ) from error


@contextlib.contextmanager
def lost_workers_told(cluster: Cluster):
    """Turns what TensorFlow raises when another worker is gone into one sentence.

    Args:
        cluster: Of this process.

    Yields:
        Nothing.

    Raises:
        WorkerLostError: Where TensorFlow said so.
    """
    try:
        yield
    except tf.errors.OpError as error:
        gone = (tf.errors.UnavailableError, tf.errors.DeadlineExceededError, tf.errors.AbortedError)
        is_lost = isinstance(error, gone) or "Collective ops is aborted" in str(error)
        if len(cluster.addresses) == 1 or not is_lost:
            raise
        raise WorkerLostError(
            f"Another worker was lost: it ended, or cannot be reached; this is {cluster}. The same command again, on"
            " every worker, goes on from the newest checkpoint."
        ) from error


def _first_line(error: tf.errors.OpError) -> str:
    return (str(error.message).splitlines() or [type(error).__name__])[0]


def share(strategy: tf.distribute.Strategy) -> Share:
    """This worker's share of every global batch; the whole where it is alone."""
    cluster = cluster_of(strategy)
    return Share(cluster.index, len(cluster.addresses))


def iterator(dataset: tf.data.Dataset, strategy: tf.distribute.MultiWorkerMirroredStrategy):
    """An iterator of this worker's shares of global batches, each split over its replicas.

    TensorFlow's own sharding is not asked: it looks for files to divide, and divides elements otherwise. Here the
    shares of all workers are exactly one global batch.

    Args:
        dataset: Of this worker's shares, as `share` says, dictionaries of rows that its replicas can divide.
        strategy: Of several workers.
    """
    # All workers have equally many batches, so nobody needs to ask the others in every step whether there is one more.
    strategy.extended.experimental_enable_get_next_as_optional = False

    def of_worker(context):
        num_local = context.num_replicas_in_sync // context.num_input_pipelines

        def of_replicas(batch):
            shares = [batch_shares.share_of(batch, Share(i, num_local)) for i in range(num_local)]
            return {name: tf.stack([of_replica[name] for of_replica in shares]) for name in batch}

        # One element for each replica of this worker in turn.
        return dataset.map(of_replicas).unbatch().prefetch(2 * num_local)

    return iter(strategy.distribute_datasets_from_function(of_worker))


def total(number: int, strategy: tf.distribute.Strategy) -> int:
    """The sum of a number (int64) over the workers; every worker must ask, and hears the same.

    Raises:
        WorkerLostError: If what came together was not the same question on all workers.
    """
    num_workers = count(strategy)
    if num_workers == 1:
        return number
    question = next(_QUESTIONS)

    @tf.function
    def reduced(mine):
        def share():
            is_first = _replica_id() % (strategy.num_replicas_in_sync // num_workers) == 0
            return tf.where(is_first, mine, tf.zeros_like(mine))

        return strategy.reduce("SUM", strategy.run(share), axis=None)

    answer, questions = reduced(tf.constant([number, question], tf.int64)).numpy().tolist()
    if questions != num_workers * question:
        raise WorkerLostError(
            f"The workers are out of step with each other; this is {cluster_of(strategy)}. The same command again, on"
            " every worker, goes on from the newest checkpoint."
        )
    return answer


def _replica_id():
    return tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32)


def any_of(flag: tf.Tensor, strategy: tf.distribute.Strategy) -> tf.Tensor:
    """Whether a flag is up on any worker; in a graph, and every worker must ask.

    Args:
        flag: Scalar bool, this worker's.
        strategy: Under which all run.

    Returns:
        Scalar bool, the same on all workers.
    """
    if count(strategy) == 1:
        return flag
    return strategy.reduce("SUM", strategy.run(lambda: tf.cast(flag, tf.float32)), axis=None) > 0.0


def chiefs(number: int, strategy: tf.distribute.Strategy) -> int:
    """The chief's number (int64); every worker must ask, and hears the same."""
    return total(number if is_chief(strategy) else 0, strategy)


def check_alike(text: str, strategy: tf.distribute.Strategy) -> None:
    """Refuses workers that were started with different settings or data; they would wait for each other in vain.

    Args:
        text: What must be the same on all workers.
        strategy: Every worker must ask.

    Raises:
        InputError: On every worker, if any differs from the chief.
    """
    digest = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")
    differs = digest != chiefs(digest, strategy)
    num_differing = total(int(differs), strategy)
    if num_differing:
        me = cluster_of(strategy)
        who = f"This one, {me}, has" if differs else f"{num_differing} of the {len(me.addresses)} workers have"
        raise InputError(
            f"{who} other flags or other data than worker 0. Give the same command on every worker, and the same data."
        )
