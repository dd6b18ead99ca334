"""All workers of a training run, and which of them this process is: what TF_CONFIG says."""

import dataclasses
import json
import os

import tensorflow as tf

from famus_tf.errors import InputError

EXAMPLE = (
    'TF_CONFIG=\'{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}\''
)
_JOBS = ("chief", "worker")


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
