"""Many steps in one call of one compiled function, under a strategy.

A step that is not finite stores nothing: every new value is looked at before the first one is assigned, and all
replicas look at the same verdict.
"""

import typing

import numpy as np
import tensorflow as tf

from famus_tf import replicas, workers
from famus_tf.finiteness import finite_flags
from famus_tf.methods.method import reduction
from famus_tf.runs.stop_request import StopRequest

MAX_NONFINITE_IN_A_ROW = 20


class LoopResults(typing.NamedTuple):
    """What the steps of one call said, as NumPy arrays with a row per step done.

    Attributes:
        scalars: [steps, S] float32, the method's scalars.
        indices: [steps, B] int32, the rows of the global batches.
        weights: [steps, B] float32, the example weights.
        nonfinite: [steps, F] bool, what of `CompiledLoop.checked_names` was NaN or Inf. A step with any is not stored.
    """

    scalars: np.ndarray
    indices: np.ndarray
    weights: np.ndarray
    nonfinite: np.ndarray


class CompiledLoop:
    """Runs a method's steps and stores what they assign; counts the steps.

    Attributes:
        variables: The step counter, to be saved.
        checked_names: Of the F things looked at in every step; known once the loop was traced.
        was_stopped: Whether the newest call saw a request to stop, which is thereby met.
    """

    def __init__(
        self,
        method,
        strategy,
        *,
        stop_request: StopRequest | None = None,
        ends_at_nonfinite: bool = False,
        variable_names=None,
    ):
        """Makes the step counter.

        Args:
            method: A built `AbstractMethod`.
            strategy: The `tf.distribute.Strategy` it was built under.
            stop_request: Ends a running call, or the next one, after its current (first) step. None: nobody asks.
            ends_at_nonfinite: Whether a call ends with the first step that is not finite, which is then not counted;
                otherwise such a step counts, and `MAX_NONFINITE_IN_A_ROW` of them end the call.
            variable_names: {id of a `tf.Variable`: its name in messages}; others go by TensorFlow's names.
        """
        self._method = method
        self._strategy = strategy
        self._ends_at_nonfinite = ends_at_nonfinite
        self._variable_names = variable_names or {}
        self._all_sum = reduction(strategy.num_replicas_in_sync)
        self.checked_names: tuple[str, ...] = ()
        self.was_stopped = False
        self._nonfinite_in_a_row = 0
        with strategy.scope():
            self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._stop_request = stop_request or StopRequest()
        self.variables = [self._step]
        self._compiled = tf.function(self._run, reduce_retracing=False)

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self._step.numpy())

    @property
    def tracing_count(self) -> int:
        """How often the function was traced; 1 unless batch shapes change."""
        return self._compiled.experimental_get_tracing_count()

    def run(self, train_iterator, meta_iterator, num_steps: int, *, is_stored: bool = True) -> LoopResults:
        """Does `num_steps` steps, or fewer: at least one.

        It ends early after a step during which a stop was requested, and at steps that are not finite (see
        `__init__`).

        Args:
            train_iterator: Of global (or distributed) training batches.
            meta_iterator: Of meta batches; not drawn from where the method needs none.
            num_steps: How many, at least 1; another number does not retrace.
            is_stored: False leaves the steps out: they draw their batches and count, but assign nothing.

        Returns:
            A row per step done. Where the loop ends at a step that is not finite, its row is the last, and the step
            counter stands before it.

        Raises:
            RuntimeError: If the step counter did not move by exactly the number of steps counted.
        """
        before = self.step
        # Tensors, since a Python number would be traced anew for each value.
        results = self._compiled(
            train_iterator,
            meta_iterator,
            tf.constant(num_steps, tf.int32),
            tf.constant(is_stored),
            tf.constant(self._nonfinite_in_a_row, tf.int32),
        )
        *results, was_stopped = (result.numpy() for result in results)
        self.was_stopped = bool(was_stopped)
        if self.was_stopped:
            self._stop_request.meet()
        results = LoopResults(*results)
        is_bad = results.nonfinite.any(axis=1)
        for step_is_bad in is_bad:
            self._nonfinite_in_a_row = self._nonfinite_in_a_row + 1 if step_is_bad else 0
        counted = len(is_bad) - bool(self._ends_at_nonfinite and is_stored and is_bad[-1])
        if self.step != before + counted:
            raise RuntimeError(f"The loop went from step {before} to {self.step}, not to {before + counted}.")
        return results

    def _run(self, train_iterator, meta_iterator, num_steps, is_stored, in_a_row):
        scalars = tf.TensorArray(tf.float32, size=num_steps)
        indices = tf.TensorArray(tf.int32, size=num_steps)
        weights = tf.TensorArray(tf.float32, size=num_steps)
        nonfinite = tf.TensorArray(tf.bool, size=num_steps)
        first_step = tf.convert_to_tensor(self._step)
        done, counted = tf.constant(0), tf.constant(0)
        has_ended, is_stopped = tf.constant(False), tf.constant(False)
        while done < num_steps and not has_ended:
            batch = next(train_iterator)
            meta_batch = next(meta_iterator) if self._method.needs_meta_set else None
            step = first_step + tf.cast(done, tf.int64)
            # AutoGraph is for this loop: the step is graph code as it stands, and converting it doubles its tracing.
            replica_step = tf.autograph.experimental.do_not_convert(self._replica_step)
            scalar, flags, index, weight = self._strategy.run(replica_step, args=(batch, meta_batch, step, is_stored))
            # Scalars and flags are global and so equal on all replicas.
            flags = self._strategy.experimental_local_results(flags)[0]
            scalars = scalars.write(done, self._strategy.experimental_local_results(scalar)[0])
            indices = indices.write(done, replicas.global_rows(index, self._strategy))
            weights = weights.write(done, replicas.global_rows(weight, self._strategy))
            nonfinite = nonfinite.write(done, flags)
            is_bad = tf.reduce_any(flags)
            in_a_row = tf.where(is_bad, in_a_row + 1, 0)
            ends_here = is_bad & is_stored & self._ends_at_nonfinite
            done += 1
            counted += tf.cast(not ends_here, tf.int32)
            # Read at the step's end; nothing else would keep TensorFlow from reading it at its beginning.
            with tf.control_dependencies([flags]):
                is_stopped = workers.any_of(self._stop_request.is_made(), self._strategy)
            has_ended = ends_here | is_stopped | (in_a_row >= MAX_NONFINITE_IN_A_ROW)
        self._step.assign_add(tf.cast(counted, tf.int64))
        steps_done = tf.range(done)
        return *(array.gather(steps_done) for array in (scalars, indices, weights, nonfinite)), is_stopped

    def _replica_step(self, batch, meta_batch, step, is_stored):
        result = self._method.train_step(batch, meta_batch, step)
        # Whole numbers (seeds, counts) are always finite.
        checked = [(variable, value) for variable, value in result.assignments if value.dtype.is_floating]
        self.checked_names = (
            *self._method.scalar_names,
            "the example weights",
            *(self._variable_names.get(id(variable), variable.name) for variable, _ in checked),
        )
        finite = finite_flags([result.example_weights, *(value for _, value in checked)])
        finite = tf.concat([tf.math.is_finite(result.scalars), finite], axis=0)
        # Outside of the branch below: a collective may not stand in one.
        nonfinite = self._all_sum(tf.cast(~finite, tf.float32)) > 0.0

        def store():
            return tf.group([variable.assign(value) for variable, value in result.assignments])

        # One branch and not a `where` for each variable, which would copy every one of them.
        tf.cond(is_stored & ~tf.reduce_any(nonfinite), store, tf.no_op)
        return result.scalars, nonfinite, batch["index"], result.example_weights
