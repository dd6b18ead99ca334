"""What the host keeps of the steps: means of what they said, and how long they took."""

import numpy as np


class StepRecord:
    """Means over the epoch and over the newest call, and times.

    Attributes:
        call_scalars: {name: mean over the stored steps of the newest call}; {} where none was stored.
        tracing_seconds: How long the first, tracing call took; NaN before.
    """

    def __init__(self, scalar_names):
        """Takes the names of what the steps say, in their order."""
        self._names = tuple(scalar_names)
        self._sums = np.zeros(len(self._names))
        self._steps_summed = 0
        self._timed_steps, self._timed_seconds = 0, 0.0
        self.tracing_seconds = float("nan")
        self.call_scalars: dict[str, float] = {}

    def begin_epoch(self) -> None:
        """Forgets the sums of the epoch before."""
        self._sums[:] = 0.0
        self._steps_summed = 0

    def add(self, scalars) -> None:
        """Takes what the stored steps of a call said.

        Args:
            scalars: [steps, S] float32.
        """
        means = scalars.mean(axis=0).tolist() if len(scalars) else []
        self.call_scalars = dict(zip(self._names, means, strict=False))
        for row in scalars:
            # Step by step in float64: the sum does not depend on how the steps were grouped into calls.
            self._sums += row
        self._steps_summed += len(scalars)

    def add_time(self, seconds: float, num_steps: int, *, has_traced: bool) -> None:
        """Takes how long a call of `num_steps` steps took."""
        if has_traced:
            self.tracing_seconds = seconds
        else:
            self._timed_steps += num_steps
            self._timed_seconds += seconds

    @property
    def epoch_scalars(self) -> dict[str, float]:
        """Means over the epoch's stored steps so far; NaN where there are none."""
        means = self._sums / self._steps_summed if self._steps_summed else self._sums * np.nan
        return dict(zip(self._names, means.tolist(), strict=True))

    @property
    def seconds_per_step(self) -> float:
        """Mean over all steps but those of tracing calls; NaN before."""
        return self._timed_seconds / self._timed_steps if self._timed_steps else float("nan")

    def state(self) -> dict:
        """What there is to save, JSON-able."""
        return {
            "scalar_sums": self._sums.tolist(),
            "steps_summed": self._steps_summed,
            "timed_steps": self._timed_steps,
            "timed_seconds": self._timed_seconds,
        }

    def set_state(self, state: dict) -> None:
        """Takes back what `state` gave."""
        self._sums = np.array(state["scalar_sums"])
        self._steps_summed = state["steps_summed"]
        self._timed_steps, self._timed_seconds = state["timed_steps"], state["timed_seconds"]
