"""The lines that a person reads before and after a run."""

ROW = "  {:<36}{}"
LABELS = {
    "last_epoch": ("test accuracy, last epoch", ""),
    "best_on_validation": ("test accuracy, best on validation", "epoch {epoch}, chosen on the validation set"),
    "best_on_test": ("test accuracy, best on test", "epoch {epoch}, chosen on the test set: optimistic"),
}


def share(value: float) -> str:
    """A share in [0, 1] as a percentage."""
    return f"{100 * value:.1f} %"


def opening_line(facts: dict, environment: dict) -> str:
    """Device, replicas, dataset, sizes and measured noise, in one line.

    Args:
        facts: The "dataset", "noise", "model" and "method" parts of results.json.
        environment: Its "environment" part.
    """
    dataset, noise = facts["dataset"], facts["noise"]
    replicas = environment["num_replicas"]
    noise_text = f"{noise['type']} noise {noise['rate']:g}" if noise["rate"] else "no noise added"
    if noise["measured_rate"] is not None:
        noise_text += f", {share(noise['measured_rate'])} of the labels wrong"
    sizes = ", ".join(f"{count} {part}" for part, count in dataset["sizes"].items() if count)
    return (
        f"{environment['device']}, {replicas} replica{'s' * (replicas > 1)}"
        f" | {dataset['name']}: {sizes}; {noise_text}"
        f" | {facts['model']['name']}, {facts['model']['parameters'] / 1e6:.2f} M parameters"
        f" | {facts['method']}, seed {facts['seed']}"
    )


def closing_lines(results: dict, folder, comparison: str) -> list[str]:
    """What a person wants to know at the end.

    Args:
        results: As in results.json.
        folder: The `RunFolder`.
        comparison: A command that runs the same job by another method.
    """
    lines = [f"Done: {results['steps']} steps, {len(results['history'].get('loss', []))} epochs."]
    for name, (label, remark) in LABELS.items():
        if name in results["accuracy"]:
            fact = results["accuracy"][name]
            remark = f"  ({remark.format(**fact)})" if remark else ""
            lines.append(ROW.format(label, f"{fact['test_accuracy']:.4f}{remark}"))
    lines += more_accuracies(results["history"])
    if results["seconds_per_step"] is not None:
        tracing = results["tracing_seconds"]
        once = f"  (and {tracing:.1f} s once for tracing)" if tracing is not None else ""
        lines.append(ROW.format("time per step", f"{1e3 * results['seconds_per_step']:.1f} ms{once}"))
    if results.get("nonfinite_steps"):
        lines.append(ROW.format("steps left out", f"{results['nonfinite_steps']}  (NaN or Inf: nonfinite.jsonl)"))
    weights = results["weights"]
    if results["learns_weights"] and "mean_weight_corrupted" in weights:
        if "mean_weight_clean" in weights:  # not where every label is wrong
            lines.append(ROW.format("mean weight of clean labels", f"{weights['mean_weight_clean']:.2f}"))
        lines.append(ROW.format("mean weight of wrong labels", f"{weights['mean_weight_corrupted']:.2f}"))
    gates = results["open_rate_of_gates"]
    if gates:
        lines.append(ROW.format("gated layer, bottom to top", "open in this share of the steps"))
        lines += [ROW.format("  " + "/".join(name.split("/")[-2:]), share(rate)) for name, rate in gates.items()]
    if results.get("bad_pictures"):
        counts = ", ".join(f"{count:,} {part}" for part, count in results["bad_pictures"].items())
        lines.append(ROW.format("pictures that cannot be used", f"{counts}: left out, listed in bad_pictures.csv"))
    lines += [
        ROW.format("run folder", f"{folder.path}/"),
        ROW.format("  figures, model, labels", "results.json, model.keras, labels.csv"),
        ROW.format("  curves", f"tensorboard --logdir {folder.tensorboard}"),
        f"Compare with: {comparison}",
    ]
    return lines


def more_accuracies(history: dict) -> list[str]:
    """A line for each further accuracy of the last epoch: top-5, and those of further test sets.

    Args:
        history: {name: [value per epoch]}.
    """
    told = ("accuracy", "meta_accuracy", "test_accuracy", "val_accuracy", "val_top5_accuracy")
    return [
        ROW.format(f"{name.replace('_', ' ').replace('top5', 'top-5')}, last epoch", f"{values[-1]:.4f}")
        for name, values in history.items()
        if name.endswith("_accuracy") and name not in told
    ]
