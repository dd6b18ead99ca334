"""Several machines that train together: which worker this process is, what it is fed, and what all agree on.

Every worker runs the same program and computes the same order of global batches; each takes its own part of every
batch. What a step reduces, it reduces over the replicas of all workers, so all of them hold the same weights at every
step, and one of them, the chief, can do all the writing.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os

import tensorflow as tf

from famus_tf.errors import InputError

EXAMPLE = (
    'TF_CONFIG=\'{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}\''
)
_JOBS = ("chief", "worker")
# Numbers what the workers ask each other, so that an answer to another question is noticed.
_QUESTIONS = itertools.count(1)


class WorkerLostError(Exception):
    """Another worker ended or cannot be reached, so no further step is possible in this process."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """All workers, and which of them this is.

    Attributes:
        addresses: "host:port" of each worker; the first is the chief.
        index: This worker's position among them.
    """

    addresses: tuple[str, ...]
    index: int

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes the run folder and talks to the user."""
        return self.index == 0

    def __str__(self) -> str:
        """Which worker this is, for people."""
        return f"worker {self.index} of {len(self.addresses)} ({self.addresses[self.index]})"


def cluster_from(text: str | None) -> Cluster:
    """Reads TF_CONFIG.

    Args:
        text: The variable's value; None where it is not set.

    Raises:
        InputError: If it is not set, is not what TensorFlow prescribes, or names jobs that do not train.
    """
    if not text:
        raise InputError(
            "--strategy=multi_worker reads the workers' addresses from the environment variable TF_CONFIG, which is not"
            f" set. For worker 0 of two: {EXAMPLE}"
        )
    try:
        config = json.loads(text)
        jobs = {job: tuple(addresses) for job, addresses in config["cluster"].items() if len(addresses)}
        task, index = config["task"]["type"], int(config["task"]["index"])
        texts = [address for addresses in jobs.values() for address in addresses]
        if not all(address.rpartition(":")[0] and address.rpartition(":")[2].isdigit() for address in texts):
            raise ValueError("an address is not host:port")
        if not 0 <= index < len(jobs[task]):
            raise ValueError(f"there is no {task} {index}")
        if len(set(texts)) < len(texts):
            raise ValueError("an address occurs twice")
        if not set(jobs) <= set(_JOBS) or len(jobs.get("chief", ())) > 1:
            raise ValueError("jobs other than 'worker' (and one 'chief') take no part here")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(f"TF_CONFIG={text!r} cannot be used ({reason}). For worker 0 of two: {EXAMPLE}") from error
    return _cluster(jobs, task, index)


def this_cluster() -> Cluster:
    """The workers that this process's TF_CONFIG names.

    Raises:
        InputError: As `cluster_from`.
    """
    return cluster_from(os.environ.get("TF_CONFIG"))


def _cluster(jobs, task: str, index: int) -> Cluster:
    addresses = {job: tuple(jobs.get(job, ())) for job in _JOBS}
    before = len(addresses["chief"]) if task == "worker" else 0
    return Cluster(addresses["chief"] + addresses["worker"], before + index)


def cluster_of(strategy: tf.distribute.Strategy) -> Cluster:
    """The workers of a strategy; one without an address where it is of one machine."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return Cluster(("",), 0)
    resolver = strategy.cluster_resolver
    jobs = resolver.cluster_spec().as_dict()
    return _cluster(jobs, resolver.task_type, resolver.task_id) if jobs else Cluster(("",), 0)


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


def filled_up(batch: dict, num_parts: int) -> dict:
    """A batch of which equal parts can be taken: one for evaluation with copies of its last example at its end.

    An empty part would not do: convolutions of nothing fail on a CPU.

    Args:
        batch: {name: [B, ...]}, B at least 1; filling is allowed only where there is a "mask" [B] float32, which is 0
            for it.
        num_parts: How many parts there will be.

    Returns:
        {name: [B', ...]}, B' the next multiple of `num_parts`.
    """
    if "mask" not in batch:
        return batch
    sizes = {values.shape[0] for values in batch.values()}
    size = sizes.pop() if len(sizes) == 1 else None
    if size is not None and size % num_parts == 0:
        return batch
    size = tf.shape(batch["mask"])[0] if size is None else size
    positions = tf.range(-(-size // num_parts) * num_parts)
    filled = {name: tf.gather(values, tf.minimum(positions, size - 1)) for name, values in batch.items()}
    return {**filled, "mask": filled["mask"] * tf.cast(positions < size, tf.float32)}


def part_of(batch: dict, part: int, num_parts: int) -> dict:
    """One of equal parts of a batch that can be divided so.

    Args:
        batch: {name: [B, ...]}.
        part: Which, from 0.
        num_parts: How many.

    Returns:
        {name: [B / num_parts, ...]}.
    """

    def rows(values):
        length = (values.shape[0] if values.shape[0] is not None else tf.shape(values)[0]) // num_parts
        return values[part * length : (part + 1) * length]

    return {name: rows(values) for name, values in batch.items()}


def iterator(dataset: tf.data.Dataset, strategy: tf.distribute.MultiWorkerMirroredStrategy):
    """An iterator of this worker's parts of global batches, each split over its replicas.

    TensorFlow's own sharding is not asked: it looks for files to divide, and divides elements otherwise. Here the parts
    of all workers are exactly the one global batch that every worker's dataset yields.

    Args:
        dataset: Of global batches that can be divided, dictionaries; the same on every worker.
        strategy: Of several workers.
    """
    # All workers have equally many batches, so nobody needs to ask the others in every step whether there is one more.
    strategy.extended.experimental_enable_get_next_as_optional = False

    def of_worker(context):
        num_local = context.num_replicas_in_sync // context.num_input_pipelines
        first = context.input_pipeline_id * num_local

        def parts(batch):
            mine = [part_of(batch, first + i, context.num_replicas_in_sync) for i in range(num_local)]
            return {name: tf.stack([part[name] for part in mine]) for name in batch}

        # One element for each replica of this worker in turn.
        return dataset.map(parts).unbatch().prefetch(2 * num_local)

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
