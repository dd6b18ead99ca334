"""Many steps in one call of one compiled function, under a strategy."""

import tensorflow as tf


class CompiledLoop:
    """Runs a method's steps and stores what they assign; counts the steps.

    Attributes:
        variables: The step counter, to be saved.
    """

    def __init__(self, method, strategy):
        """Makes the step counter.

        Args:
            method: A built `AbstractMethod`.
            strategy: The `tf.distribute.Strategy` it was built under.
        """
        self._method = method
        self._strategy = strategy
        with strategy.scope():
            self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
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

    def run(self, train_iterator, meta_iterator, num_steps: int):
        """Does `num_steps` steps.

        Args:
            train_iterator: Of global (or distributed) training batches.
            meta_iterator: Of meta batches; not drawn from where the method needs none.
            num_steps: How many; another number does not retrace.

        Returns:
            NumPy arrays: the method's scalars [steps, S] float32, and of the global batches the rows [steps, B] int32
            and the example weights [steps, B] float32.

        Raises:
            RuntimeError: If the step counter did not move by exactly `num_steps`.
        """
        before = self.step
        # A tensor, since a Python number would be traced anew for each value.
        results = self._compiled(train_iterator, meta_iterator, tf.constant(num_steps, tf.int32))
        results = tuple(result.numpy() for result in results)
        if self.step != before + num_steps:
            raise RuntimeError(f"The loop went from step {before} to {self.step}, not to {before + num_steps}.")
        return results

    def _run(self, train_iterator, meta_iterator, num_steps):
        scalars = tf.TensorArray(tf.float32, size=num_steps)
        indices = tf.TensorArray(tf.int32, size=num_steps)
        weights = tf.TensorArray(tf.float32, size=num_steps)
        for i in tf.range(num_steps):
            batch = next(train_iterator)
            meta_batch = next(meta_iterator) if self._method.needs_meta_set else None
            step = self._step + tf.cast(i, tf.int64)
            scalar, index, weight = self._strategy.run(self._replica_step, args=(batch, meta_batch, step))
            # Scalars are global and so equal on all replicas.
            scalars = scalars.write(i, self._strategy.experimental_local_results(scalar)[0])
            indices = indices.write(i, tf.concat(self._strategy.experimental_local_results(index), axis=0))
            weights = weights.write(i, tf.concat(self._strategy.experimental_local_results(weight), axis=0))
        self._step.assign_add(tf.cast(num_steps, tf.int64))
        return scalars.stack(), indices.stack(), weights.stack()

    def _replica_step(self, batch, meta_batch, step):
        result = self._method.train_step(batch, meta_batch, step)
        for variable, value in result.assignments:
            variable.assign(value)
        return result.scalars, batch["index"], result.example_weights
