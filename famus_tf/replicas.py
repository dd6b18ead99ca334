"""Which devices share each step, and what each of them gets."""

import functools

import tensorflow as tf

from famus_tf import optimizers, workers
from famus_tf.config import STRATEGIES, check_choice
from famus_tf.data import batch_shares
from famus_tf.errors import InputError


def make_strategy(num_replicas: int, kind: str = "mirrored") -> tf.distribute.Strategy:
    """One replica where there is one device, `MirroredStrategy` over several, its sibling over several machines.

    Args:
        num_replicas: 0 takes every GPU, or the CPU where there is none; more takes that many GPUs, or splits the CPU
            into that many logical devices where there is none.
        kind: "mirrored" for the devices of this machine; "multi_worker" for those of all machines that TF_CONFIG names,
            where `num_replicas` counts the GPUs of each and the call returns when all have come.

    Returns:
        The strategy.

    Raises:
        InputError: If there are fewer GPUs than asked for, or the CPU was already in use with fewer logical devices; if
            the kind is unknown; if TF_CONFIG does not serve.
        WorkerLostError: If the other machines do not come.
    """
    check_choice("--strategy", kind, STRATEGIES)
    if kind == "multi_worker":
        return workers.make_strategy(num_replicas)
    gpus = tf.config.list_physical_devices("GPU")
    if num_replicas > len(gpus) > 0:
        raise InputError(
            f"--num_replicas={num_replicas} was asked for, but this machine has {len(gpus)} GPU(s)."
            f" Choose at most {len(gpus)}."
        )
    count = num_replicas or max(len(gpus), 1)
    if count == 1:
        return tf.distribute.get_strategy()
    if not gpus:
        split_cpu(count)
    return mirrored(tuple(f"{'GPU' if gpus else 'CPU'}:{i}" for i in range(count)))


@functools.cache
def mirrored(devices: tuple[str, ...]) -> tf.distribute.MirroredStrategy:
    """The one `MirroredStrategy` over these devices.

    There may be only one: every strategy numbers its collective operations from the same start, and a second one over
    the same devices fails with "Shape mismatch in the collective instance" for the rest of the process.
    """
    return tf.distribute.MirroredStrategy(list(devices))


def split_cpu(count: int) -> None:
    """Makes at least `count` logical devices of the CPU.

    Raises:
        InputError: If TensorFlow is already running with fewer.
    """
    cpu = tf.config.list_physical_devices("CPU")[0]
    configured = tf.config.get_logical_device_configuration(cpu) or [None]
    if len(configured) >= count:
        return
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    except RuntimeError as error:
        raise InputError(
            f"{count} replicas on the CPU need {count} logical devices, and TensorFlow is already running with"
            f" {len(configured)}. Make the strategy before anything else uses TensorFlow."
        ) from error


def iterator(dataset: tf.data.Dataset, strategy: tf.distribute.Strategy):
    """An iterator of batches, each split over the replicas where there are several.

    Args:
        dataset: Of global batches; under several workers, of this one's `workers.share` of each. Those of evaluation,
            which have a "mask", are filled up where they cannot be divided.
        strategy: Under which they are used.
    """
    num_replicas = strategy.num_replicas_in_sync
    if num_replicas == 1:
        return iter(dataset)
    num_workers = workers.count(strategy)
    if isinstance(dataset.element_spec, dict) and "mask" in dataset.element_spec:
        dataset = dataset.map(lambda batch: batch_shares.filled_up(batch, num_replicas // num_workers))
    if num_workers > 1:
        return workers.iterator(dataset, strategy)
    return iter(strategy.experimental_distribute_dataset(dataset))


def global_rows(values, strategy: tf.distribute.Strategy) -> tf.Tensor:
    """Puts together what the replicas have of a global batch, in its order.

    Args:
        values: As from `strategy.run`: [B, ...], B per replica.
        strategy: Under which it ran.

    Returns:
        [number of replicas * B, ...], with the rows of all workers on each of them.
    """
    if workers.count(strategy) > 1:
        return strategy.gather(values, axis=0)
    return tf.concat(strategy.experimental_local_results(values), axis=0)


def check_model(model, strategy) -> None:
    """Refuses a model that cannot be trained under the strategy.

    Raises:
        InputError: If it is not built, or was made outside the scope of a strategy of several replicas.
    """
    if not model.built:
        raise InputError(
            f"The model {model.name!r} has no weights yet. Call it once on a batch, or give its first layer an input"
            " shape, before handing it to the Trainer."
        )
    if strategy.num_replicas_in_sync > 1:
        for variable in optimizers.as_tf_variables(model.variables):
            if not strategy.extended.variable_created_in_scope(variable):
                raise InputError(
                    f"The model {model.name!r} was made outside the strategy's scope, and there are"
                    f" {strategy.num_replicas_in_sync} replicas. Make it inside `with strategy.scope():`."
                )
