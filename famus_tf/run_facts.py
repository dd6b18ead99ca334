"""What results.json says of a run before its first step."""

import dataclasses
import json

from famus_tf import run_splits
from famus_tf.config import Config
from famus_tf.data import corruption, label_files
from famus_tf.data.examples import Splits


def run_facts(config: Config, splits: Splits, model, flag_lines: list[str]) -> dict:
    """What results.json says of a run before its first step, JSON-able."""
    train = splits.train
    measured = None
    if train.true_labels is not None:
        measured = corruption.measured_noise_rate(train.given_labels, train.true_labels)
    return {
        "dataset": {
            "name": config.data.dataset,
            "sizes": {part: len(table) for part, table in run_splits.tables(splits).items()},
            "class_names": list(splits.class_names),
            "image_shape": list(splits.image_shape),
            "preprocessing": dataclasses.asdict(splits.preprocessing),
        },
        "noise": {
            "type": config.data.noise_type,
            "rate": config.data.noise_rate,
            "measured_rate": measured,
            "labels_sha256": label_files.labels_hash(train.ids, train.given_labels),
        },
        "model": {"name": config.model, "parameters": int(model.count_params())},
        "method": config.method.name,
        "learns_weights": config.method.meta_model is not None,
        "seed": config.run.seed,
        "flags": flag_lines,
    }


def alike_on_all_workers(facts: dict) -> str:
    """What workers that train together must have in common; folders may be called otherwise on each machine.

    Args:
        facts: As from `run_facts`.
    """
    flag_lines = [line for line in facts["flags"] if not line.partition("=")[0].endswith("_dir")]
    return json.dumps([flag_lines, facts["dataset"]["sizes"], facts["noise"]["labels_sha256"], facts["model"]])
