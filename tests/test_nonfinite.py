"""NaN and Inf in training: caught in their step, kept out of every variable, told; stopped at, skipped or undone."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from famus_tf import entry_point, registry, run_splits, training_job
from famus_tf.config import Config, DataConfig, MethodConfig, OptimizerConfig, RunConfig
from famus_tf.data import feeds
from famus_tf.errors import InputError, NonFiniteError
from famus_tf.finiteness import finite_flags
from famus_tf.runs import nonfinite
from famus_tf.runs.checkpoints import Checkpointer
from famus_tf.runs.write_failures import WriteFailures
from famus_tf.trainer import Trainer
from tests.tiny_networks import conv_network, example_arrays

BAD_ROW = 13
BATCH, STEPS = 8, 5  # steps per epoch


def with_inf(data, *rows):
    images = data[0].copy()
    images[list(rows), 2, 3, 1] = np.inf
    return images, data[1]


CLEAN, META, TEST = example_arrays(STEPS * BATCH, 0), example_arrays(12, 1), example_arrays(10, 2)
SPOILT = with_inf(CLEAN, BAD_ROW)


def make_trainer(name="ce", *, on_nonfinite="stop", strategy=None, steps_per_call=3, dropout=0.0):
    settings = {"gated_variables": 4} if "famus" in name else {}
    with (strategy or tf.distribute.get_strategy()).scope():
        model = conv_network(num_blocks=1, synchronized=strategy is not None, dropout=dropout)
    method = registry.make_method(name, learning_rate=0.1, **settings)
    return Trainer(model, method, steps_per_call=steps_per_call, on_nonfinite=on_nonfinite, strategy=strategy)


def fit(trainer, train=SPOILT, meta=META, **settings):
    settings = {"epochs": 2, "batch_size": BATCH, "meta_batch_size": 6, "verbose": 0, **settings}
    return trainer.fit(train, meta, test_data=TEST, **settings)


def bad_steps(num_steps):
    """Numbers, from 0, of the steps whose batch holds the bad row."""
    feed = feeds.training_feed(CLEAN, batch_size=BATCH, seed=0, stream="train", preprocessing=None, augment=False)
    batches = feed.batches(0).take(num_steps).as_numpy_iterator()
    return [step for step, batch in enumerate(batches) if BAD_ROW in batch["index"]]


def values_but_the_step(trainer):
    return [v.numpy() for owner in ("model", "method") for v in trainer.variables[owner]]


def assert_same_values(left, right):
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one, other)


def leaving_out(trainer, steps):
    trainer.nonfinite.left_out |= set(steps)
    return trainer


# Tensors.


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_each_tensor_that_is_not_finite_is_found(dtype):
    values = [[1.0, 2.0], [np.nan, 0.0], [], [0.0, -np.inf, 1.0], [[6e4], [-6e4]]]
    tensors = [tf.constant(value, dtype) for value in values]
    assert finite_flags(tensors).numpy().tolist() == [True, False, True, False, True]
    assert finite_flags([tensors[0], tensors[4]]).numpy().tolist() == [True, True]


# Stopping.


@pytest.mark.parametrize("name, steps_per_call", [("ce", 1), ("mwnet_famus", 3)])
def test_stopping_leaves_everything_as_it_was_before_the_step(name, steps_per_call):
    (step,) = bad_steps(STEPS)
    assert 0 < step
    trainer = make_trainer(name, steps_per_call=steps_per_call, dropout=0.5)
    with pytest.raises(NonFiniteError):
        fit(trainer)
    before = make_trainer(name, dropout=0.5)
    fit(before, CLEAN, train_steps=step)
    assert trainer.step == step
    assert_same_values(values_but_the_step(trainer), values_but_the_step(before))
    np.testing.assert_array_equal(trainer.example_weights, before.example_weights)
    # Nothing has changed, so the same happens again.
    with pytest.raises(NonFiniteError):
        fit(trainer)
    assert (trainer.step, trainer.nonfinite_steps) == (step, [])


def test_the_message_says_step_variables_examples_and_what_to_do():
    (step,) = bad_steps(STEPS)
    trainer = make_trainer()
    with pytest.raises(NonFiniteError) as caught:
        fit(trainer)
    message = str(caught.value)
    assert message.startswith(
        f"Step {step + 1} (epoch 1, learning rate 0.1) was not finite in loss, weight block01_conv/kernel,"
    ), message
    assert f"NaN or Inf is in the image of train_{BAD_ROW:08d} (row {BAD_ROW})." in message
    assert "nothing of it was stored" in message
    assert "--on_nonfinite=skip" in message
    assert "\n" not in message


def test_an_unknown_action_is_refused():
    with pytest.raises(InputError, match="on_nonfinite is 'ignore'; choose one of stop, skip, restore"):
        make_trainer(on_nonfinite="ignore")


# Skipping.


@pytest.mark.parametrize("name", ["ce", "mwnet_famus"])
def test_skipping_goes_on_as_if_the_batch_had_not_been(name):
    steps = bad_steps(2 * STEPS)
    trainer = make_trainer(name, on_nonfinite="skip", dropout=0.5)
    fit(trainer)
    assert (trainer.step, trainer.tracing_count) == (2 * STEPS, 1)
    assert trainer.nonfinite_steps == [step + 1 for step in steps]
    # Another way to the same end: clean images, and those very steps left out.
    other = leaving_out(make_trainer(name, dropout=0.5), steps)
    fit(other, CLEAN)
    assert_same_values(values_but_the_step(trainer), values_but_the_step(other))
    assert trainer.history == other.history
    assert np.isfinite([values for name, values in trainer.history.items() if name.endswith("loss")]).all()
    # The bad example never counted, and what shared its batches only where it was in another one.
    assert np.isnan(trainer.example_weights[BAD_ROW])
    np.testing.assert_array_equal(trainer.example_weights, other.example_weights)


def test_a_skipped_step_changes_no_variable_but_counts():
    (step,) = bad_steps(STEPS)
    trainer = make_trainer(on_nonfinite="skip", dropout=0.5)
    fit(trainer, train_steps=step)
    before = values_but_the_step(trainer)
    fit(trainer, train_steps=step + 1)
    assert trainer.step == step + 1
    assert_same_values(values_but_the_step(trainer), before)
    assert trainer.call_scalars == {}
    fit(trainer, train_steps=step + 2)
    assert np.abs(trainer.model.get_weights()[0] - before[0]).max() > 0.0


def test_without_the_check_the_run_is_lost(monkeypatch):
    """The negative control: what skipping is for."""
    monkeypatch.setattr("famus_tf.runs.compiled_loop.finite_flags", lambda tensors: tf.ones([len(tensors)], tf.bool))
    monkeypatch.setattr(tf.math, "is_finite", lambda tensor: tf.ones_like(tensor, tf.bool))
    trainer = make_trainer(on_nonfinite="skip")
    fit(trainer, epochs=1)
    assert np.isnan(trainer.model.get_weights()[0]).any()


def test_on_two_replicas_one_bad_example_keeps_both_from_storing(two_replicas):
    (step,) = bad_steps(STEPS)
    trainer = make_trainer(on_nonfinite="skip", strategy=two_replicas)
    model = trainer.variables["model"]

    def copies():
        return [[copy.numpy() for copy in two_replicas.experimental_local_results(v)] for v in model]

    fit(trainer, train_steps=step)
    before = copies()
    fit(trainer, train_steps=step + 1)
    assert trainer.nonfinite_steps == [step + 1]
    for (first, second), (first_before, second_before) in zip(copies(), before, strict=True):
        np.testing.assert_array_equal(first, first_before)
        np.testing.assert_array_equal(second, second_before)
    fit(trainer, train_steps=step + 2)
    assert np.abs(copies()[0][1] - before[0][1]).max() > 0.0


def test_a_bad_meta_example_is_noticed_too():
    trainer = make_trainer("mwnet")
    with pytest.raises(NonFiniteError, match="was not finite in .*meta_loss"):
        fit(trainer, CLEAN, with_inf(META, *range(12)))
    assert trainer.step == 0


def test_twenty_steps_in_a_row_end_a_run_that_skips():
    trainer = make_trainer(on_nonfinite="skip", steps_per_call=7)
    before = values_but_the_step(trainer)
    with pytest.raises(NonFiniteError, match="^20 steps in a row were not finite"):
        fit(trainer, with_inf(CLEAN, *range(len(CLEAN[0]))), epochs=9)
    assert trainer.nonfinite_steps == list(range(1, 21))
    assert_same_values(values_but_the_step(trainer), before)
    assert np.isnan(trainer.history["loss"]).all()


def test_a_continued_run_remembers_what_it_left_out(tmp_path):
    trainer = make_trainer(on_nonfinite="skip")
    fit(trainer, epochs=1)
    Checkpointer(tmp_path, trainer, interval_s=1e9).save()
    resumed = make_trainer(on_nonfinite="skip")
    Checkpointer(tmp_path, resumed, interval_s=1e9).restore()
    fit(resumed)
    assert resumed.nonfinite_steps == [step + 1 for step in bad_steps(2 * STEPS)]


# Going back.


class SaveAt(keras.callbacks.Callback):
    """Saves whenever one of some steps is done."""

    def __init__(self, checkpointer, trainer, steps):
        super().__init__()
        self.checkpointer, self.trainer, self.steps = checkpointer, trainer, steps

    def on_train_batch_end(self, batch, logs=None):
        if self.trainer.step in self.steps and not self.trainer.awaits_evaluation:
            self.checkpointer.save()


@pytest.fixture(scope="module")
def skipping_run():
    trainer = make_trainer(on_nonfinite="skip", dropout=0.5)
    return trainer, fit(trainer)


@pytest.mark.parametrize("saved_steps", [(), (1, 6), (1,)])
def test_going_back_ends_where_skipping_does(tmp_path, saved_steps, skipping_run):
    """Also where a whole epoch with its evaluation is undone, and where the checkpoint is that of step 0."""
    steps = bad_steps(2 * STEPS)
    skipping, expected = skipping_run
    trainer = make_trainer(on_nonfinite="restore", dropout=0.5, steps_per_call=1)
    checkpointer = Checkpointer(tmp_path, trainer, interval_s=1e9)
    checkpointer.save()
    restores = []

    def restore():
        came_from = trainer.step
        restores.append((came_from, checkpointer.restore(), trainer.step))
        return True

    trainer.nonfinite.restore = restore
    history = fit(trainer, callbacks=[SaveAt(checkpointer, trainer, saved_steps)])
    newest = [max([0, *(s for s in saved_steps if s <= step)]) for step in steps]
    assert restores == [(step, True, back) for step, back in zip(steps, newest, strict=True)]
    assert (trainer.step, trainer.tracing_count) == (2 * STEPS, 1)
    assert trainer.nonfinite_steps == [step + 1 for step in steps]
    assert_same_values(values_but_the_step(trainer), values_but_the_step(skipping))
    np.testing.assert_array_equal(trainer.example_weights, skipping.example_weights)
    assert trainer.history == skipping.history
    assert history.epoch == expected.epoch == [0, 1]
    assert history.history == expected.history


def test_on_two_replicas_going_back_ends_where_skipping_does(tmp_path, two_replicas):
    skipping = make_trainer(on_nonfinite="skip", dropout=0.5, strategy=two_replicas)
    fit(skipping)
    trainer = make_trainer(on_nonfinite="restore", dropout=0.5, strategy=two_replicas, steps_per_call=1)
    checkpointer = Checkpointer(tmp_path, trainer, interval_s=1e9)
    checkpointer.save()
    trainer.nonfinite.restore = checkpointer.restore
    fit(trainer, callbacks=[SaveAt(checkpointer, trainer, (1, 6))])
    assert trainer.nonfinite_steps == skipping.nonfinite_steps == [step + 1 for step in bad_steps(2 * STEPS)]
    for owner in ("model", "method"):
        for one, other in zip(trainer.variables[owner], skipping.variables[owner], strict=True):
            copies = [copy for v in (one, other) for copy in two_replicas.experimental_local_results(v)]
            assert_same_values([copy.numpy() for copy in copies], [copies[0].numpy()] * len(copies))
    assert trainer.history == skipping.history


def test_a_run_that_goes_back_and_is_stopped_each_time_gets_on(tmp_path, skipping_run):
    skipping, _ = skipping_run
    left_out = []
    for _ in range(6):
        # As after a restart of the program: only what is in the checkpoint is known.
        trainer = make_trainer(on_nonfinite="restore", dropout=0.5, steps_per_call=STEPS)
        checkpointer = Checkpointer(tmp_path, trainer, interval_s=1e9)
        if not checkpointer.restore():
            checkpointer.save()
        trainer.nonfinite.restore = checkpointer.restore
        # The request is there when the step is met that is not finite.
        trainer.nonfinite.listeners.append(lambda event, model=trainer.model: setattr(model, "stop_training", True))
        fit(trainer, callbacks=[checkpointer])
        left_out.append(trainer.nonfinite_steps)
        if trainer.step == 2 * STEPS:
            break
    first, second = (step + 1 for step in bad_steps(2 * STEPS))
    assert left_out == [[first], [first, second], [first, second]]
    assert trainer.history == skipping.history
    assert_same_values(values_but_the_step(trainer), values_but_the_step(skipping))


@pytest.mark.parametrize("restore", [None, lambda: False])
def test_without_a_checkpoint_there_is_no_going_back(restore):
    trainer = make_trainer(on_nonfinite="restore")
    trainer.nonfinite.restore = restore
    with pytest.raises(NonFiniteError, match="no checkpoint to go back to"):
        fit(trainer)
    assert trainer.step == bad_steps(STEPS)[0]


def test_going_back_ends_too_after_too_many_steps_in_a_row(tmp_path):
    trainer = make_trainer(on_nonfinite="restore")
    trainer.nonfinite.max_in_a_row = 4
    checkpointer = Checkpointer(tmp_path, trainer, interval_s=1e9)
    checkpointer.save()
    trainer.nonfinite.restore = checkpointer.restore
    with pytest.raises(NonFiniteError, match="^4 steps in a row were not finite"):
        fit(trainer, with_inf(CLEAN, *range(len(CLEAN[0]))), epochs=9)


# Where no example is to blame.


def test_a_meta_parameter_a_gate_a_slot_or_a_scalar_that_becomes_nan_is_named():
    trainer = make_trainer("mwnet_famus", on_nonfinite="skip")
    events = []
    trainer.nonfinite.listeners.append(events.append)
    method, train_step = trainer.method, trainer.method.train_step
    spoilt = [method.meta_model.variables[0], method.layer_sampler.variables[0], method.base_optimizer.variables[2]]
    step_of = {id(variable): step for step, variable in enumerate(spoilt, start=1)}
    gate = next(i for i, name in enumerate(method.scalar_names) if name.startswith("gate/"))
    factors = np.ones(len(method.scalar_names), np.float32)
    factors[gate] = np.nan

    def spoilt_step(batch, meta_batch, step):
        result = train_step(batch, meta_batch, step)
        assignments = [
            (v, tf.where(step == step_of[id(v)], np.nan * value, value) if id(v) in step_of else value)
            for v, value in result.assignments
        ]
        scalars = result.scalars * tf.where(step == 4, factors, 1.0)
        return dataclasses.replace(result, assignments=assignments, scalars=scalars)

    method.train_step = spoilt_step
    fit(trainer, CLEAN)
    assert [event["step"] for event in events] == [2, 3, 4, 5]
    expected = ["meta-parameter ", "gate parameter ", "the optimizer", "gate/"]
    assert [len(event["what"]) for event in events] == [1, 1, 1, 1]
    assert all(event["what"][0].startswith(name) for event, name in zip(events, expected, strict=True)), events
    assert all(np.isfinite(v.numpy()).all() for v in method.variables)
    assert nonfinite.sentence(events[0]).startswith("Step 2 (epoch 1, learning rate 0.1) was not finite in meta-param")


# The log.


def test_each_event_is_a_line_of_the_log(tmp_path):
    steps = bad_steps(2 * STEPS)
    trainer = make_trainer("mwnet", on_nonfinite="skip")
    trainer.nonfinite.listeners.append(nonfinite.NonFiniteLog(tmp_path / "nonfinite.jsonl", WriteFailures()))
    fit(trainer)
    lines = [json.loads(line) for line in (tmp_path / "nonfinite.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [step + 1 for step in steps]
    assert [line["epoch"] for line in lines] == [1, 2]
    for line in lines:
        assert line.keys() == {"step", "epoch", "what", "rows", "ids", "bad_rows", "learning_rate", "action"}
        assert len(line["rows"]) == BATCH and BAD_ROW in line["rows"]
        assert line["ids"] == [f"train_{row:08d}" for row in line["rows"]]
        assert line["bad_rows"] == [BAD_ROW]
        assert line["learning_rate"] == pytest.approx(0.1)
        assert line["action"] == "skip"
        assert {"loss", "the example weights", "weight logits/kernel", "state block01_norm/moving_mean"} < {
            *line["what"]
        }
        assert len(line["what"]) == len({*line["what"]})


def test_a_log_that_cannot_be_written_does_not_stop_training(tmp_path):
    failures = WriteFailures()
    nonfinite.NonFiniteLog(tmp_path / "missing" / "nonfinite.jsonl", failures)({"step": 1})
    assert list(failures.missing) == ["nonfinite.jsonl"]


def test_a_datasets_examples_have_no_rows():
    trainer = make_trainer(on_nonfinite="skip")
    events = []
    trainer.nonfinite.listeners.append(events.append)
    fit(trainer, tf.data.Dataset.from_tensor_slices(SPOILT).batch(BATCH), epochs=1)
    ((rows, ids),) = [(event["rows"], event["ids"]) for event in events]
    assert (rows, ids) == ([], [])
    assert trainer.nonfinite_steps == [BAD_ROW // BATCH + 1]


# From the command line.


def job(folder, on_nonfinite):
    """A run of the digits with a learning rate that no network survives."""
    config = Config(
        data=DataConfig(dataset="digits", num_train=60),
        model="small_cnn",
        method=MethodConfig(name="ce", base=OptimizerConfig(learning_rate=1e37)),
        run=RunConfig(model_dir=str(folder), epochs=9, batch_size=20, on_nonfinite=on_nonfinite),
    )
    return training_job.train(config, run_splits.load_splits(config.data, 0), ["--seed=0"], "", 0)


def test_a_job_that_stops_leaves_a_log_and_a_checkpoint_of_the_step_before(tmp_path, capsys):
    with pytest.raises(NonFiniteError) as caught:
        job(tmp_path / "run", "stop")
    (line,) = [json.loads(text) for text in (tmp_path / "run" / "nonfinite.jsonl").read_text().splitlines()]
    assert str(caught.value).startswith(f"Step {line['step']} (epoch 1, learning rate 1e+37) was not finite in ")
    assert (line["action"], len(line["ids"])) == ("stop", 20)
    assert all(name.startswith("digits_") for name in line["ids"])
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("ckpt-*.index")
    assert checkpoint.stem == f"ckpt-{line['step'] - 1}"
    capsys.readouterr()
    assert entry_point.run(lambda argv: raise_(caught.value), ["train"]) == 1
    assert capsys.readouterr().err == f"Error: {caught.value}\n"


def raise_(error):
    raise error


def test_a_job_that_goes_back_has_a_checkpoint_to_go_back_to(tmp_path, monkeypatch):
    monkeypatch.setattr("famus_tf.trainer.MAX_NONFINITE_IN_A_ROW", 2)
    with pytest.raises(NonFiniteError, match="^2 steps in a row were not finite"):
        job(tmp_path, "restore")
    events = [json.loads(text) for text in (tmp_path / "nonfinite.jsonl").read_text().splitlines()]
    assert [event["action"] for event in events] == ["restore", "restore"]
    assert events[1]["step"] == events[0]["step"] + 1


# The guard alone.


@pytest.mark.parametrize(
    "step, count, expected",
    [
        (0, 10, (4, True)),
        (4, 10, (1, False)),
        (5, 10, (1, False)),
        (6, 10, (10, True)),
        (2, 2, (2, True)),
        (3, 9, (1, True)),
    ],
)
def test_steps_to_leave_out_come_alone(step, count, expected):
    guard = nonfinite.NonFiniteGuard("restore", 20)
    guard.left_out = {4, 5}
    assert guard.next_steps(step, count) == expected
