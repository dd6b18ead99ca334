"""The lines before and after a run, word for word."""

import copy

import pytest

from famus_tf import run_facts, run_splits
from famus_tf.config import Config, DataConfig, MethodConfig, RunConfig
from famus_tf.runs import closing_summary
from famus_tf.runs.run_folder import RunFolder

FACTS = {
    "dataset": {"name": "digits", "sizes": {"train": 1097, "meta": 100, "validation": 0, "test": 500}},
    "noise": {"type": "symmetric", "rate": 0.4, "measured_rate": 0.3555},
    "model": {"name": "small_cnn", "parameters": 123_456},
    "method": "mwnet_famus",
    "seed": 3,
}
RESULTS = {
    "steps": 44,
    "history": {"loss": [1.0, 0.5]},
    "accuracy": {
        "last_epoch": {"test_accuracy": 0.75, "epoch": 2},
        "best_on_test": {"test_accuracy": 0.8125, "epoch": 1},
        "best_on_validation": {"test_accuracy": 0.8, "epoch": 1},
    },
    "seconds_per_step": 0.01234,
    "tracing_seconds": 9.87,
    "learns_weights": True,
    "weights": {"mean_weight_clean": 1.239, "mean_weight_corrupted": 0.4},
    "open_rate_of_gates": {"block03/conv/kernel": 0.25, "logits/bias": 1.0},
}


def lines(tmp_path, **changes):
    results = copy.deepcopy(RESULTS) | changes
    folder = RunFolder(tmp_path)
    shown = closing_summary.closing_lines(results, folder, "python -m famus_tf.train --method=ce")
    return [line.replace(str(tmp_path), "runs/x") for line in shown]


def test_further_accuracies_have_a_line_each(tmp_path):
    history = RESULTS["history"] | {
        "accuracy": [0.1], "test_accuracy": [0.5], "test_top5_accuracy": [0.9, 0.95], "imagenet_accuracy": [0.25],
    }  # fmt: skip
    assert [line for line in lines(tmp_path, history=history) if "last epoch" in line][1:] == [
        "  test top-5 accuracy, last epoch     0.9500",
        "  imagenet accuracy, last epoch       0.2500",
    ]


def test_bad_pictures_are_counted_by_part(tmp_path):
    shown = lines(tmp_path, bad_pictures={"train": 1200, "test": 1})
    assert "  pictures that cannot be used        1,200 train, 1 test: left out, listed in bad_pictures.csv" in shown


def test_the_end_of_a_run_word_for_word(tmp_path):
    assert lines(tmp_path) == [
        "Done: 44 steps, 2 epochs.",
        "  test accuracy, last epoch           0.7500",
        "  test accuracy, best on validation   0.8000  (epoch 1, chosen on the validation set)",
        "  test accuracy, best on test         0.8125  (epoch 1, chosen on the test set: optimistic)",
        "  time per step                       12.3 ms  (and 9.9 s once for tracing)",
        "  mean weight of clean labels         1.24",
        "  mean weight of wrong labels         0.40",
        "  gated layer, bottom to top          open in this share of the steps",
        "    conv/kernel                       25.0 %",
        "    logits/bias                       100.0 %",
        "  run folder                          runs/x/",
        "    figures, model, labels            results.json, model.keras, labels.csv",
        "    curves                            tensorboard --logdir runs/x/tensorboard",
        "Compare with: python -m famus_tf.train --method=ce",
    ]


def test_what_is_not_known_is_not_said(tmp_path):
    shown = lines(tmp_path, accuracy={}, seconds_per_step=None, tracing_seconds=None, weights={}, open_rate_of_gates={})
    assert shown == [
        "Done: 44 steps, 2 epochs.",
        "  run folder                          runs/x/",
        "    figures, model, labels            results.json, model.keras, labels.csv",
        "    curves                            tensorboard --logdir runs/x/tensorboard",
        "Compare with: python -m famus_tf.train --method=ce",
    ]


def test_a_run_that_went_on_has_a_time_per_step_and_maybe_no_tracing(tmp_path):
    assert "  time per step                       12.3 ms" in lines(tmp_path, tracing_seconds=None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights": {"mean_weight_corrupted": 0.4}}, [False, True]),  # every label is wrong
        ({"weights": {"mean_weight_clean": 1.0}}, [False, False]),  # none is: one mean says nothing
        ({"learns_weights": False}, [False, False]),
    ],
)
def test_mean_weights_are_told_where_they_say_something(tmp_path, changes, said):
    shown = "\n".join(lines(tmp_path, **changes))
    assert ["mean weight of clean" in shown, "mean weight of wrong" in shown] == said


def test_the_opening_line_word_for_word():
    assert closing_summary.opening_line(FACTS, {"device": "CPU (x86_64)", "num_replicas": 1}) == (
        "CPU (x86_64), 1 replica | digits: 1097 train, 100 meta, 500 test; symmetric noise 0.4, 35.5 % of the labels"
        " wrong | small_cnn, 0.12 M parameters | mwnet_famus, seed 3"
    )


def test_the_opening_line_without_known_truth_on_two_replicas():
    facts = FACTS | {"noise": {"type": "symmetric", "rate": 0.0, "measured_rate": None}}
    line = closing_summary.opening_line(facts, {"device": "V100, V100", "num_replicas": 2})
    assert line.startswith("V100, V100, 2 replicas | digits: ")
    assert "; no noise added | small_cnn" in line


class Network:
    def count_params(self):
        return 123_456


def test_no_noise_is_told_as_such_whatever_rate_a_recipe_sets():
    data = DataConfig(dataset="digits", noise_type="none", noise_rate=0.4)
    run = Config(data=data, model="small_cnn", method=MethodConfig(name="ce"), run=RunConfig(model_dir="x"))
    facts = run_facts.run_facts(run, run_splits.load_splits(data, 0), Network(), [])
    assert (facts["noise"]["type"], facts["noise"]["rate"], facts["noise"]["measured_rate"]) == ("none", 0.0, 0.0)
    assert closing_summary.opening_line(facts, {"device": "CPU (x86_64)", "num_replicas": 1}) == (
        "CPU (x86_64), 1 replica | digits: 1297 train, 500 test; no noise added, 0.0 % of the labels wrong"
        " | small_cnn, 0.12 M parameters | ce, seed 0"
    )
