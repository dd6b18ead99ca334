"""Which strategy a number of replicas gives, with and without GPUs."""

import pytest
import tensorflow as tf

from famus_tf import replicas
from famus_tf.errors import InputError


@pytest.fixture
def machine(monkeypatch):
    """Makes a machine of so many GPUs, and a MirroredStrategy that only says over what it was made."""
    list_devices = tf.config.list_physical_devices
    # TensorFlow must be at work already, as in a process that has made its first tensor.
    tf.constant(0)

    def make(num_gpus):
        gpus = [tf.config.PhysicalDevice(f"/physical_device:GPU:{i}", "GPU") for i in range(num_gpus)]
        monkeypatch.setattr(
            tf.config, "list_physical_devices", lambda kind: gpus if kind == "GPU" else list_devices(kind)
        )
        # The cache keeps the real strategy that other tests share.
        monkeypatch.setattr(replicas, "mirrored", lambda devices: ("mirrored", list(devices)))

    return make


@pytest.mark.parametrize(("num_gpus", "num_replicas"), [(0, 0), (0, 1), (1, 0), (1, 1), (4, 1)])
def test_one_replica_is_the_default_strategy(machine, num_gpus, num_replicas):
    machine(num_gpus)
    strategy = replicas.make_strategy(num_replicas)
    assert strategy is tf.distribute.get_strategy()
    assert strategy.num_replicas_in_sync == 1


@pytest.mark.parametrize(
    ("num_gpus", "num_replicas", "devices"),
    [
        (2, 0, ["GPU:0", "GPU:1"]),
        (3, 2, ["GPU:0", "GPU:1"]),
        (3, 3, ["GPU:0", "GPU:1", "GPU:2"]),
        (0, 2, ["CPU:0", "CPU:1"]),
    ],
)
def test_several_replicas_are_mirrored_over_as_many_devices(machine, num_gpus, num_replicas, devices):
    machine(num_gpus)
    assert replicas.make_strategy(num_replicas) == ("mirrored", devices)


def test_more_replicas_than_gpus_are_refused(machine):
    machine(2)
    message = r"--num_replicas=3 was asked for, but this machine has 2 GPU\(s\). Choose at most 2."
    with pytest.raises(InputError, match=message):
        replicas.make_strategy(3)


def test_more_replicas_than_the_running_cpu_has_devices_are_refused(machine):
    machine(0)
    message = "3 replicas on the CPU need 3 logical devices, and TensorFlow is already running with 2."
    with pytest.raises(InputError, match=message):
        replicas.make_strategy(3)


def test_the_cpu_is_split_where_tensorflow_does_not_run_yet(monkeypatch):
    made = {}
    monkeypatch.setattr(tf.config, "get_logical_device_configuration", lambda device: None)
    monkeypatch.setattr(tf.config, "set_logical_device_configuration", made.__setitem__)
    replicas.split_cpu(3)
    ((device, configurations),) = made.items()
    assert device.device_type == "CPU"
    assert len(configurations) == 3


def test_the_shared_strategy_of_two_replicas_runs_on_the_split_cpu(two_replicas):
    assert two_replicas.num_replicas_in_sync == 2
    # A second strategy over the same devices would break the first.
    assert replicas.make_strategy(2) is two_replicas
    names = [device.name for device in tf.config.list_logical_devices("CPU")]
    assert names == ["/device:CPU:0", "/device:CPU:1"]


def test_the_strategy_over_the_same_devices_is_made_once(two_replicas):
    assert replicas.make_strategy(2) is two_replicas
