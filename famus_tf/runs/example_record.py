"""What is known of each training example while training goes on: its newest weight, and whether it could be read."""

import numpy as np

from famus_tf.methods.method import UNREADABLE


class ExampleRecord:
    """The newest weight of every training example.

    Attributes:
        weights: [N] float32, 1 is plain training's, 0 for unreadable examples, NaN before an example's first batch;
            None where the examples have no rows.
        bad_rows: The rows of the unreadable examples met so far.
    """

    def __init__(self):
        """Knows of no examples."""
        self.weights: np.ndarray | None = None
        self.bad_rows: set[int] = set()

    def begin(self, num_examples: int | None) -> None:
        """Makes room for the examples, unless there is; another number of them are other examples.

        Args:
            num_examples: How many there are; None where they have no rows.
        """
        if num_examples == (None if self.weights is None else len(self.weights)):
            return
        self.weights = None if num_examples is None else np.full(num_examples, np.nan, np.float32)
        self.bad_rows = set()

    def update(self, indices, weights) -> None:
        """Takes what steps said.

        Args:
            indices: [steps, B] int32 rows; -1 where they are unknown.
            weights: [steps, B] float32, in step order; `UNREADABLE` for pictures that could not be decoded.
        """
        indices, weights = indices.ravel(), weights.ravel()
        is_bad = weights == UNREADABLE
        self.bad_rows.update(indices[is_bad & (indices >= 0)].tolist())
        if self.weights is not None:
            # In step order, so that an example seen twice keeps its newest weight.
            self.weights[indices] = np.where(is_bad, np.float32(0.0), weights)

    def state(self) -> dict:
        """What there is to save, JSON-able."""
        weights = self.weights
        return {
            "example_weights": None if weights is None else weights.tobytes().hex(),
            "bad_rows": sorted(self.bad_rows),
        }

    def set_state(self, state: dict) -> None:
        """Takes back what `state` gave."""
        weights = state["example_weights"]
        self.weights = None if weights is None else np.frombuffer(bytes.fromhex(weights), np.float32).copy()
        self.bad_rows = set(state.get("bad_rows", ()))
