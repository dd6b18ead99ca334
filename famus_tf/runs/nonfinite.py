"""What happens after a step that was not finite: it is told, and training stops, skips it or goes back.

Of such a step nothing is stored, whatever happens next (see `runs/compiled_loop.py`): weights, batch norm's statistics,
meta-parameters, gates, optimizers and the seeds of dropout are those of the step before. Data order and learning rate
are functions of the step's number, so the steps after a skipped one are what they would have been.
"""

import json
import pathlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from famus_tf.data.examples import id_text
from famus_tf.errors import InputError, NonFiniteError

ACTIONS = ("stop", "skip", "restore")
MAX_NAMED = 5  # in messages; the log names all


class NonFiniteGuard:
    """Decides about steps that were not finite, and remembers those left out.

    Attributes:
        max_in_a_row: So many steps left out one after another end training.
        left_out: Numbers of the steps left out, from 0; a run that comes by such a step again leaves it out again.
        listeners: Called with each event, a JSON-able dictionary; see `events`.
        restore: Goes back to the newest checkpoint and tells whether there was one; for action "restore".
    """

    def __init__(self, action: str, max_in_a_row: int):
        """Takes what is to be done.

        Args:
            action: "stop" raises; "skip" leaves the step out; "restore" goes back to the newest checkpoint and leaves
                the step out when it comes again.
            max_in_a_row: So many steps left out one after another raise as well.

        Raises:
            InputError: If the action is none of the three.
        """
        if action not in ACTIONS:
            raise InputError(f"on_nonfinite is {action!r}; choose one of {', '.join(ACTIONS)}.")
        self.action = action
        self.max_in_a_row = max_in_a_row
        self.left_out: set[int] = set()
        self.listeners: list[Callable[[dict], None]] = []
        self.restore: Callable[[], bool] | None = None

    def next_steps(self, step: int, count: int) -> tuple[int, bool]:
        """Which steps to do in one call.

        Args:
            step: The next step's number, from 0.
            count: How many at most.

        Returns:
            How many steps, and whether they are stored: a step to be left out again comes alone, and is not.
        """
        if step in self.left_out:
            return 1, False
        return min((known - step for known in self.left_out if step < known < step + count), default=count), True

    def meet(self, events: list[dict]) -> bool:
        """Acts on the steps of one call that were not finite.

        Args:
            events: As from `events`, in step order.

        Returns:
            Whether training went back to a checkpoint.

        Raises:
            NonFiniteError: If training is to stop.
        """
        for event in events:
            for listener in self.listeners:
                listener(event)
            number = event["step"] - 1
            if self.action == "stop":
                raise NonFiniteError(
                    f"{sentence(event)} Lower --learning_rate in a new --model_dir, look at these examples, or go on"
                    " here with --on_nonfinite=skip, which leaves such steps out."
                )
            self.left_out.add(number)
            if all(number - back in self.left_out for back in range(self.max_in_a_row)):
                raise NonFiniteError(
                    f"{self.max_in_a_row} steps in a row were not finite and were left out. {sentence(event)} Lower"
                    " --learning_rate, or look for NaN and Inf in the images."
                )
        if not events or self.action != "restore":
            return False
        if self.restore is None or not self.restore():
            raise NonFiniteError(
                f"{sentence(events[-1])} There is no checkpoint to go back to. Take --on_nonfinite=skip, which leaves"
                " such steps out, or lower --learning_rate."
            )
        return True

    def state(self) -> dict:
        """What there is to save, JSON-able."""
        return {"steps_left_out": sorted(self.left_out)}

    def set_state(self, state: dict) -> None:
        """Takes back what `state` gave; what was learned since then is kept."""
        self.left_out |= set(state.get("steps_left_out", ()))


def events(first_step: int, results, names, *, feed, rate, action: str) -> list[dict]:
    """The steps of one call that were not finite, as lines of nonfinite.jsonl.

    Args:
        first_step: The number of the call's first step, from 0.
        results: The call's `LoopResults`.
        names: Of what the columns of `results.nonfinite` are about.
        feed: The training feed.
        rate: The learning rate as a function of the step's number (scalar int64, from 0).
        action: What happens next.

    Returns:
        A JSON-able dictionary for each, in step order: "step" and "epoch", both from 1; "what" was NaN or Inf; "rows"
        of the batch in the training set and their "ids", empty where it has none; "bad_rows", those whose image itself
        holds NaN or Inf; "learning_rate", null where it was not finite; "action".
    """
    found = []
    for i in np.flatnonzero(results.nonfinite.any(axis=1)).tolist():
        step = first_step + i
        learning_rate = float(f"{float(rate(tf.constant(step, tf.int64))):.7g}")  # as it was given: it is a float32
        found.append(
            {
                "step": step + 1,
                "epoch": step // feed.steps_per_epoch + 1,
                # Once each: all slots of an optimizer have one name.
                "what": list(dict.fromkeys(np.asarray(names)[results.nonfinite[i]].tolist())),
                **batch_facts(results.indices[i], getattr(feed, "table", None)),
                "learning_rate": learning_rate if np.isfinite(learning_rate) else None,
                "action": action,
            }
        )
    return found


def batch_facts(rows, table) -> dict[str, list]:
    """Which examples a batch held.

    Args:
        rows: [B] int32, their rows in the training set.
        table: The training set's `ExampleTable`, or None.

    Returns:
        {"rows", "ids", "bad_rows"}, all empty where there is no table.
    """
    if table is None:
        return {"rows": [], "ids": [], "bad_rows": []}
    bad_rows = rows[:0]
    if isinstance(table.images, np.ndarray) and np.issubdtype(table.images.dtype, np.floating):
        bad_rows = rows[~np.isfinite(table.images[rows]).reshape(len(rows), -1).all(axis=1)]
    return {
        "rows": rows.tolist(),
        "ids": [id_text(example_id) for example_id in table.ids[rows]],
        "bad_rows": bad_rows.tolist(),
    }


def sentence(happened: dict) -> str:
    """An event for a person."""
    examples = f" Its training batch: {shortened(happened['ids'])}." if happened["ids"] else ""
    if happened["bad_rows"]:
        by_row = dict(zip(happened["rows"], happened["ids"], strict=True))
        named = shortened([f"{by_row[row]} (row {row})" for row in happened["bad_rows"]])
        examples += f" NaN or Inf is in the image of {named}."
    return (
        f"Step {happened['step']} (epoch {happened['epoch']}, learning rate {happened['learning_rate']}) was not finite"
        f" in {shortened(happened['what'])}; nothing of it was stored.{examples}"
    )


def shortened(names: list[str]) -> str:
    """The first few names, and how many more."""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def variable_names(model, method) -> dict[int, str]:
    """What to call each `tf.Variable` in messages.

    Args:
        model: The Keras model.
        method: Its built method.

    Returns:
        {id: name}; a weight's is its path, and the others say whose they are.
    """
    names = {id(variable): f"{variable.name} of method {method.name}" for variable in method.variables}
    of_optimizer = "Variable"  # TensorFlow's name for what was given none
    optimizer = method.base_optimizer
    names |= {id(variable): "the optimizer" for variable in getattr(optimizer, "variables", ())}
    for part, owner in (("meta_model", "meta-parameter"), ("layer_sampler", "gate parameter")):
        variables = getattr(getattr(method, part, None), "variables", ())
        for variable in variables:
            is_slot = variable.name.startswith(of_optimizer)
            names[id(variable)] = f"the {owner}s' optimizer" if is_slot else f"{owner} {variable.name.split(':')[0]}"
    for variable in model.variables:
        kind = "weight" if variable.trainable else "state"
        names[id(variable.value)] = f"{kind} {variable.path}"
    return names


class NonFiniteLog:
    """Adds a line to nonfinite.jsonl for each event."""

    def __init__(self, path, failures):
        """Looks at nothing; the file is made with the first line.

        Args:
            path: Of the file.
            failures: The `WriteFailures` where a failure to write is noted.
        """
        self._path = pathlib.Path(path)
        self._failures = failures

    def __call__(self, happened: dict) -> None:
        """Adds one line; a step that comes twice, as after a restart, is there twice."""
        with self._failures.noting(self._path.name, can_be_made_up=False):
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(happened, sort_keys=True, allow_nan=False) + "\n")
