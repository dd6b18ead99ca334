"""N steps are k steps, a restart and N - k steps, bit for bit, for every method; and a restart costs no replay."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from famus_tf import registry
from famus_tf.data import feeds, pipeline
from famus_tf.data.examples import ExampleTable
from famus_tf.runs.checkpoints import Checkpointer
from tests import restarts
from tests.restarts import NUM_EPOCHS, RecordedTrainer, SaveAt, StopRequestAt, ask_within_evaluation, differing


@pytest.mark.parametrize("name", registry.method_names())
def test_four_restarts_in_a_row_change_nothing(name, tmp_path):
    restarts.assert_restarts_change_nothing(name, tmp_path)


@pytest.fixture(scope="module")
def half_done(tmp_path_factory):
    """An undisturbed run's final state, a checkpoint of its step 10 of 12, within an epoch, and a trainer for it."""
    folder = tmp_path_factory.mktemp("half_done")
    whole, again = RecordedTrainer("mwnet_famus"), RecordedTrainer("mwnet_famus")
    whole.fit(SaveAt(Checkpointer(folder, whole.trainer, interval_s=1e9), whole.trainer, 10))
    return folder, whole.state(), again


def forget(recorded, variables):
    """Takes variables back to what they were when the trainer was made."""
    lost = {id(variable.value if isinstance(variable, keras.Variable) else variable) for variable in variables}
    found = [i for i, variable in enumerate(recorded.variables) if id(variable) in lost]
    assert len(found) == len(lost) > 0
    for i in found:
        recorded.variables[i].assign(recorded.initial[i])


PIECES = {
    "nothing": lambda trainer: [],
    "momentum": lambda trainer: trainer.method.base_optimizer.variables[2:],
    "batch norm statistics": lambda trainer: [v for v in trainer.model.non_trainable_variables if "moving" in v.path],
    "dropout's seed": lambda trainer: [v for v in trainer.model.variables if "seed" in v.path],
    "the weighting network": lambda trainer: trainer.method.meta_model.variables,
    "gates": lambda trainer: trainer.method.layer_sampler.variables,
    "the step": lambda trainer: trainer.variables["loop"],
}


@pytest.mark.parametrize("piece", PIECES)
def test_a_state_with_a_piece_missing_is_seen(piece, half_done):
    folder, expected, again = half_done
    again.scramble() if again.trainer.step else None
    again.restore(folder)
    lost = PIECES[piece](again.trainer)
    if piece != "nothing":
        forget(again, lost)
    again.fit()
    assert bool(differing(expected, again.state())) == (piece != "nothing")


@pytest.mark.parametrize(
    ("piece", "seen_in"),
    [("scalar_sums", "history"), ("steps_summed", "history"), ("history", "accuracies"), ("example_weights", None)],
)
def test_a_state_without_what_the_host_knows_is_seen(piece, seen_in, half_done):
    folder, expected, again = half_done
    fresh = again.fresh_host_state
    again.restore(folder)
    if piece == "example_weights":
        again.trainer.example_weights[:] = np.nan
    else:
        again.trainer.set_host_state(again.trainer.host_state() | {piece: fresh[piece]})
    again.fit()
    found = differing(expected, again.state())
    assert found
    assert seen_in is None or seen_in in found


@pytest.mark.parametrize("epoch", [1, NUM_EPOCHS])
@pytest.mark.parametrize("where", ["in the last step", "in the validation set", "in the test set"])
def test_a_stop_at_an_epochs_end_leaves_its_evaluation_to_the_next_start(epoch, where, tmp_path):
    stopped, whole = RecordedTrainer("ce", steps_per_call=1), RecordedTrainer("ce")
    whole.fit()
    stopped.fit(epochs=epoch - 1)
    checkpointer = Checkpointer(tmp_path, stopped.trainer, interval_s=1e9)
    callbacks = [checkpointer]
    if where == "in the last step":
        callbacks.append(StopRequestAt(stopped.trainer, 4 * epoch - 1))
        measured = ask_within_evaluation(stopped.trainer, at_batch=77)
    else:
        measured = ask_within_evaluation(stopped.trainer, at_batch=1 if where == "in the validation set" else 2)
    stopped.fit(*callbacks)
    assert len(measured) == {"in the last step": 0, "in the validation set": 1, "in the test set": 2}[where]
    assert (stopped.trainer.step, stopped.trainer.awaits_evaluation) == (4 * epoch, True)
    assert len(stopped.trainer.history.get("loss", [])) == epoch - 1

    stopped.scramble()
    checkpointer = stopped.restore(tmp_path)
    epochs = []
    history = stopped.fit(checkpointer, keras.callbacks.LambdaCallback(on_epoch_end=lambda e, logs: epochs.append(e)))
    assert epochs == list(range(epoch - 1, NUM_EPOCHS))
    assert history.epoch == list(range(NUM_EPOCHS))
    assert differing(whole.state(), stopped.state()) == []
    # The evaluation has changed the state of this step, so it is saved once more where the run ends with it.
    stopped.scramble()
    stopped.restore(tmp_path)
    assert (stopped.trainer.step, stopped.trainer.awaits_evaluation) == (12, False)


def test_a_damaged_newest_checkpoint_costs_steps_but_changes_nothing(tmp_path):
    whole, again = RecordedTrainer("ce"), RecordedTrainer("ce")
    checkpointer = Checkpointer(tmp_path, whole.trainer, interval_s=1e9)
    whole.fit(SaveAt(checkpointer, whole.trainer, 4), SaveAt(checkpointer, whole.trainer, 6))
    data = tmp_path / "ckpt-6.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    again.restore(tmp_path)
    assert again.trainer.step == 4
    again.fit()
    assert differing(whole.state(), again.state()) == []


@pytest.mark.parametrize("stream", ["train", "meta"])
@pytest.mark.parametrize("start_step", [10, 100_000])
def test_a_late_start_makes_its_batch_and_none_before(stream, start_step, monkeypatch):
    made, shuffled_rows = [], pipeline._shuffled_rows

    def noting(step, **arguments):
        def note(number):
            made.append(int(number))
            return number

        return shuffled_rows(tf.ensure_shape(tf.py_function(note, [step], tf.int64), []), **arguments)

    def table_feed():
        images, labels = restarts.TRAIN
        table = ExampleTable(
            ids=np.array([f"e{i}" for i in range(len(labels))]),
            images=images,
            given_labels=labels.astype(np.int32),
            true_labels=None,
        )
        return feeds.TableFeed(table, batch_size=8, seed=4, stream=stream)

    # The same batch, reached through the ten before it.
    expected = list(table_feed().batches(start_step - 10).take(11))[-1]
    monkeypatch.setattr(pipeline, "_shuffled_rows", noting)
    batch = next(iter(table_feed().batches(start_step).take(1)))
    assert min(made) == start_step  # and, read ahead, some after it
    for name in ("index", "image", "label"):
        np.testing.assert_array_equal(batch[name], expected[name])
