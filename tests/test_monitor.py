"""What a run tells: the three accuracies, the mean weights, results.json and the TensorBoard events."""

import json
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from famus_tf import registry
from famus_tf.runs import monitor
from famus_tf.runs.monitor import Monitor
from famus_tf.runs.run_folder import RunFolder
from famus_tf.trainer import Trainer
from tests.tiny_networks import IMAGE_SHAPE, NUM_CLASSES, batch

RESULTS = {
    "finished", "steps", "accuracy", "open_rate_of_gates", "weights", "seconds_per_step", "tracing_seconds",
    "nonfinite_steps", "environment", "history",
}  # fmt: skip
FACTS = {"dataset": {"name": "made up"}, "seed": 7}


# Figures worked by hand.


def test_the_three_accuracies():
    history = {"test_accuracy": [0.5, 0.9, 0.7], "val_accuracy": [0.6, 0.3, 0.4]}
    assert monitor.accuracies(history) == {
        "last_epoch": {"test_accuracy": 0.7, "epoch": 3},
        "best_on_validation": {"test_accuracy": 0.5, "epoch": 1},
        "best_on_test": {"test_accuracy": 0.9, "epoch": 2},
    }


def test_of_epochs_as_good_the_first_counts():
    history = {"test_accuracy": [0.1, 0.8, 0.2, 0.8], "val_accuracy": [0.3, 0.1, 0.6, 0.6]}
    chosen = monitor.accuracies(history)
    assert chosen["best_on_test"] == {"test_accuracy": 0.8, "epoch": 2}
    assert chosen["best_on_validation"] == {"test_accuracy": 0.2, "epoch": 3}


@pytest.mark.parametrize("history", [{"test_accuracy": [0.5]}, {"test_accuracy": [0.5], "val_accuracy": []}])
def test_without_a_validation_set_there_is_no_best_on_it(history):
    assert set(monitor.accuracies(history)) == {"last_epoch", "best_on_test"}


def test_without_a_test_set_there_are_no_test_accuracies():
    assert monitor.accuracies({"val_accuracy": [0.5]}) == {}
    assert monitor.accuracies({}) == {}


WEIGHTS = np.float32([1.0, 2.0, np.nan, 4.0, 0.5])


@pytest.mark.parametrize(
    ("weights", "is_clean", "facts"),
    [
        (WEIGHTS, [1, 0, 1, 1, 0], {"mean_weight_clean": 2.5, "mean_weight_corrupted": 1.25}),
        (WEIGHTS, [1, 1, 0, 1, 1], {"mean_weight_clean": 1.875}),  # the only corrupted one was not seen
        (WEIGHTS, [0, 0, 0, 0, 0], {"mean_weight_corrupted": 1.875}),
        (np.full(5, np.nan, np.float32), [1, 0, 1, 0, 1], {}),
        (WEIGHTS, None, {}),
        (None, [1, 0], {}),
    ],
)
def test_mean_weights_of_the_examples_seen(weights, is_clean, facts):
    is_clean = None if is_clean is None else np.array(is_clean, bool)
    assert monitor.weight_facts(weights, is_clean) == facts


def test_the_environment_without_a_gpu():
    facts = monitor.environment_facts(tf.distribute.get_strategy())
    assert facts["tensorflow"] == tf.__version__
    assert facts["keras"] == keras.__version__
    assert facts["numpy"] == np.__version__
    assert facts["device"].startswith("CPU (")
    assert facts["num_replicas"] == 1


def test_the_environment_names_every_gpu(monkeypatch):
    gpus = [types.SimpleNamespace(name=f"/physical_device:GPU:{i}") for i in range(2)]
    details = {gpus[0].name: {"device_name": "V100"}, gpus[1].name: {}}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: details[device.name])
    facts = monitor.environment_facts(tf.distribute.get_strategy())
    assert facts["device"] == "V100, /physical_device:GPU:1"


class StandIn:
    """As much of a trainer as a monitor knows."""

    def __init__(self, **changes):
        self.step = 12
        self.history = {"loss": [2.0, 1.0], "gate/a/kernel": [0.5, 1.0], "gate/b/bias": [0.0, 0.25]}
        self.example_weights = WEIGHTS
        self.nonfinite_steps = []
        self.seconds_per_step = 0.25
        self.tracing_seconds = float("nan")
        self.strategy = tf.distribute.get_strategy()
        self.method = types.SimpleNamespace(needs_meta_set=True, scalar_names=("loss",))
        self.call_scalars = {}
        vars(self).update(changes)


def stand_in_monitor(folder, is_clean=None, **changes):
    folder = RunFolder(folder)
    folder.create([])
    return Monitor(folder, StandIn(**changes), facts=FACTS, is_clean=is_clean), folder


def test_results_hold_the_facts_and_the_figures(tmp_path):
    own, _ = stand_in_monitor(tmp_path, is_clean=np.array([1, 0, 1, 1, 0], bool))
    results = own.results(finished=True)
    assert set(results) == RESULTS | FACTS.keys()
    assert (results["dataset"], results["seed"]) == (FACTS["dataset"], 7)
    assert (results["finished"], results["steps"]) == (True, 12)
    assert results["open_rate_of_gates"] == {"a/kernel": 0.75, "b/bias": 0.125}
    assert results["weights"] == {"mean_weight_clean": 2.5, "mean_weight_corrupted": 1.25}
    assert (results["seconds_per_step"], results["tracing_seconds"]) == (0.25, None)


def test_results_of_a_run_that_diverged_are_still_json(tmp_path):
    own, folder = stand_in_monitor(tmp_path, history={"loss": [2.0, float("nan")], "test_accuracy": [0.5, 0.1]})
    own.on_epoch_end(1)
    assert strict_json(folder.results)["history"] == {"loss": [2.0, None], "test_accuracy": [0.5, 0.1]}


def test_plain_training_has_no_weights_to_draw(tmp_path):
    own, folder = stand_in_monitor(tmp_path, method=types.SimpleNamespace(needs_meta_set=False, scalar_names=("loss",)))
    own.on_epoch_end(0)
    own.on_train_end()
    assert not [tag for tag in events(folder) if tag.startswith("example_weights")]


# A real run.

IS_CLEAN = np.array([1, 1, 0, 1, 1, 1, 0, 1], bool)


def strict_json(path):
    def refuse(text):
        raise ValueError(f"{text} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def events(folder):
    """{tag: {step: value}} of all TensorBoard events."""
    found = {}
    for path in sorted(folder.tensorboard.iterdir()):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = tf.make_ndarray(value.tensor)
    return found


class Recorder(keras.callbacks.Callback):
    """Keeps what the monitor should have told."""

    def __init__(self, trainer):
        super().__init__()
        self.trainer, self.scalars, self.weights = trainer, {}, {}

    def on_train_batch_end(self, batch, logs=None):
        self.scalars[self.trainer.step] = dict(self.trainer.call_scalars)

    def on_epoch_end(self, epoch, logs=None):
        self.weights[self.trainer.step] = self.trainer.example_weights.copy()


@pytest.fixture(scope="module")
def real_run(tmp_path_factory):
    """Two epochs of four steps, two steps a call: (folder, trainer, recorder)."""
    drawn = batch(8, seed=0)
    data = drawn["image"].numpy(), drawn["label"].numpy()
    model = keras.Sequential([keras.Input(IMAGE_SHAPE), keras.layers.Flatten(), keras.layers.Dense(NUM_CLASSES)])
    method = registry.make_method("mwnet_famus", gated_variables=2, learning_rate=0.125)
    trainer = Trainer(model, method, steps_per_call=2)
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    folder.create([])
    own, recorder = Monitor(folder, trainer, facts=FACTS, is_clean=IS_CLEAN), Recorder(trainer)
    trainer.fit(
        data, data, validation_data=data, test_data=data, batch_size=2, meta_batch_size=4, epochs=2, verbose=0,
        callbacks=[own, recorder],
    )  # fmt: skip
    return folder, trainer, recorder


def test_every_scalar_of_the_method_is_told_after_every_call(real_run):
    folder, trainer, recorder = real_run
    told = events(folder)
    gates = [f"gate/{variable.path}" for variable in trainer.model.trainable_variables]
    for tag in (
        "train/loss", "train/accuracy", "train/learning_rate", "train/meta_loss", "train/meta_accuracy",
        "train/meta_gradient_norm", "train/zero_weight_rate", "train/open_gates", *gates,
    ):  # fmt: skip
        assert sorted(told[tag]) == [2, 4, 6, 8], tag
        for step, value in told[tag].items():
            assert value == pytest.approx(recorder.scalars[step][tag.removeprefix("train/")], rel=1e-6), tag
    assert [float(rate) for rate in told["train/learning_rate"].values()] == 4 * [0.125]
    assert len(gates) == 2


def test_accuracies_and_losses_are_told_after_every_epoch(real_run):
    folder, trainer, _ = real_run
    told = events(folder)
    for part in ("val", "test"):
        for name in ("accuracy", "loss"):
            values = [told[f"{part}/{name}"][step] for step in (4, 8)]
            assert values == pytest.approx(trainer.history[f"{part}_{name}"], rel=1e-6)


def test_the_weights_distributions_are_told_of_all_clean_and_corrupted_examples(real_run):
    folder, _, recorder = real_run
    told = events(folder)
    for name, rows in (("all", IS_CLEAN | True), ("clean", IS_CLEAN), ("corrupted", ~IS_CLEAN)):
        assert sorted(told[f"example_weights/{name}"]) == [4, 8]
        for step, buckets in told[f"example_weights/{name}"].items():
            weights = recorder.weights[step][rows]
            assert buckets[:, 2].sum() == rows.sum()  # the counts
            assert (buckets[0, 0], buckets[-1, 1]) == pytest.approx((weights.min(), weights.max()), rel=1e-5)


def test_results_json_is_renewed_after_every_epoch(real_run):
    folder, trainer, _ = real_run
    results = strict_json(folder.results)
    assert set(results) == RESULTS | FACTS.keys()
    assert (results["finished"], results["steps"]) == (False, 8)
    assert results["history"] == trainer.history
    assert set(results["open_rate_of_gates"]) == {variable.path for variable in trainer.model.trainable_variables}
    assert results["weights"]["mean_weight_clean"] == pytest.approx(trainer.example_weights[IS_CLEAN].mean())
    assert results["seconds_per_step"] == trainer.seconds_per_step > 0


def test_events_that_cannot_be_written_are_told_of_once_and_begin_anew_when_there_is_room(tmp_path, caplog):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "flags.txt").touch()
    (tmp_path / "run" / "tensorboard").write_text("a file where the folder should be")
    told, folder = stand_in_monitor(tmp_path / "run", call_scalars={"loss": 1.0})
    told.on_train_batch_end(0)
    told.on_epoch_end(0)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "Could not write TensorBoard events"
    ]
    assert json.loads(folder.results.read_text())["steps"] == 12
    folder.tensorboard.unlink()
    told.on_epoch_end(1)
    told.on_train_batch_end(1)
    told.on_train_end()
    assert len(caplog.records) == 1
    assert len(list(folder.tensorboard.iterdir())) == 1
    # What was lost stays lost.
    assert set(told.failures.missing) == {"TensorBoard events"}


def test_results_that_cannot_be_written_are_told_of_and_made_good(tmp_path, caplog):
    told, folder = stand_in_monitor(tmp_path / "run")
    folder.results.mkdir()
    told.on_epoch_end(0)
    assert set(told.failures.missing) == {"results.json"}
    folder.results.rmdir()
    told.on_epoch_end(1)
    assert told.failures.missing == {}
    assert len(caplog.records) == 1
