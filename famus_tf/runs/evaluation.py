"""Accuracy and loss over a whole set, each example counted exactly once."""

import tensorflow as tf

from famus_tf import losses, replicas

# Per replica. Large enough to keep the cores busy, small enough for any network's activations.
EVALUATION_BATCH_SIZE = 250


class Evaluator:
    """Evaluates one model in inference mode, over all replicas of a strategy.

    One compiled function serves every set whose batches have the same shape.
    """

    def __init__(self, model, strategy):
        """Takes what is to be evaluated.

        Args:
            model: A built Keras model whose output is logits.
            strategy: The `tf.distribute.Strategy` the model was made under.
        """
        self._model = model
        self._strategy = strategy
        self._sums = tf.function(self._batch_sums)

    def evaluate(self, dataset) -> dict[str, float]:
        """Measures a finite dataset.

        Args:
            dataset: Of {"image": [B, H, W, C], "label": [B], "mask": [B] float32}, B global; the mask is 0 for padding.

        Returns:
            {"accuracy": in [0, 1], "loss": mean cross-entropy in nats}.

        Raises:
            ValueError: If the dataset is empty.
        """
        # Counts and hits are whole numbers and exact in float64 whatever the size; losses lose nothing either.
        hits = loss = count = 0.0
        for batch in replicas.iterator(dataset, self._strategy):
            batch_hits, batch_loss, batch_count = (float(value) for value in self._sums(batch))
            hits, loss, count = hits + batch_hits, loss + batch_loss, count + batch_count
        if count == 0:
            raise ValueError("Nothing to evaluate: the dataset holds no examples. Give a set of at least one.")
        return {"accuracy": hits / count, "loss": loss / count}

    def _batch_sums(self, batch):
        """Hits, summed loss and count of a global batch."""
        sums = self._strategy.run(self._replica_sums, args=(batch,))
        return self._strategy.reduce("SUM", sums, axis=None)

    def _replica_sums(self, batch):
        logits = tf.cast(self._model(batch["image"], training=False), tf.float32)
        example_losses = losses.cross_entropy(logits, batch["label"])
        hits = losses.correct_predictions(logits, batch["label"])
        mask = batch["mask"]
        # where, not a product: padding must not count even where its loss is not finite.
        masked = [tf.where(mask > 0, values, tf.zeros_like(values)) for values in (hits, example_losses, mask)]
        return tuple(tf.reduce_sum(values) for values in masked)
