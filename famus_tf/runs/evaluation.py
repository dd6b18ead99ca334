"""Accuracy and loss over a whole set, each example counted exactly once."""

import numpy as np
import tensorflow as tf

from famus_tf import losses, replicas
from famus_tf.data import feeds
from famus_tf.errors import InputError
from famus_tf.methods.method import model_shapes
from famus_tf.runs.stop_request import StopRequest

TOP = 5
# Below, the five best of the classes say little.
LEAST_CLASSES_FOR_TOP = 20

# Per replica. Large enough to keep the cores busy, small enough for any network's activations.
EVALUATION_BATCH_SIZE = 250


class Evaluator:
    """Evaluates one model in inference mode, over all replicas of a strategy.

    One compiled function serves every set whose batches have the same shape.
    """

    def __init__(self, model, strategy, stop_request: StopRequest | None = None):
        """Takes what is to be evaluated.

        Args:
            model: A built Keras model whose output is logits.
            strategy: The `tf.distribute.Strategy` the model was made under.
            stop_request: What `evaluate_unless_stopped` looks at. None: nobody asks.
        """
        self._model = model
        self._num_classes = model_shapes(model)[1][-1]
        self._strategy = strategy
        self._stop_request = stop_request or StopRequest()
        self._sums = tf.function(self._batch_sums)

    def evaluate(self, dataset) -> dict[str, float]:
        """Measures a finite dataset.

        Args:
            dataset: Of {"image": [B, H, W, C], "label": [B], "mask": [B] float32}, B global; the mask is 0 for padding.

        Returns:
            {"accuracy": in [0, 1], "loss": mean cross-entropy in nats}, and "top5_accuracy" in [0, 1] where there are
            at least 20 classes.

        Raises:
            InputError: If the dataset is empty, or has a label that the model has no output for.
        """
        return self._measured(dataset, ends_at_stop=False)

    def evaluate_unless_stopped(self, named_datasets) -> dict[str, float] | None:
        """Measures several sets, unless a stop is requested on any worker, which is thereby met within a batch.

        Args:
            named_datasets: Of pairs (name, dataset as for `evaluate`).

        Returns:
            {"{name}_accuracy": ...}, with all that `evaluate` gives; None if it was stopped.

        Raises:
            InputError: If a dataset is empty, or has a label that the model has no output for.
        """
        measured = {}
        for name, dataset in named_datasets:
            of_set = self._measured(dataset, ends_at_stop=True)
            if of_set is None:
                return None
            measured.update({f"{name}_{key}": value for key, value in of_set.items()})
        return measured

    def _measured(self, dataset, *, ends_at_stop: bool) -> dict[str, float] | None:
        # Counts and hits are whole numbers and exact in float64 whatever the size; losses lose nothing either.
        sums = np.zeros(4)
        with feeds.told_label_mistakes():
            for batch in replicas.iterator(dataset, self._strategy):
                *batch_sums, num_asking = self._sums(batch).numpy().tolist()
                if ends_at_stop and num_asking:
                    self._stop_request.meet()
                    return None
                sums += batch_sums
        hits, loss, count, top_hits = sums.tolist()
        if count == 0:
            raise InputError("Nothing to evaluate: the dataset holds no examples. Give a set of at least one.")
        measured = {"accuracy": hits / count, "loss": loss / count}
        if self._num_classes >= LEAST_CLASSES_FOR_TOP:
            measured["top5_accuracy"] = top_hits / count
        return measured

    def _batch_sums(self, batch):
        """[5]: hits, summed loss, count and top-5 hits of a global batch; how many replicas are asked to stop."""
        is_asked = tf.cast(self._stop_request.is_made(), tf.float32)
        sums = self._strategy.run(self._replica_sums, args=(batch, is_asked))
        return self._strategy.reduce("SUM", sums, axis=None)

    def _replica_sums(self, batch, is_asked):
        logits = tf.cast(self._model(batch["image"], training=False), tf.float32)
        example_losses = losses.cross_entropy(logits, batch["label"])
        hits = losses.correct_predictions(logits, batch["label"])
        mask = batch["mask"]
        # where, not a product: padding must not count even where its loss is not finite.
        summed = (hits, example_losses, mask, top_hits(logits, batch["label"]))
        masked = [tf.where(mask > 0, values, tf.zeros_like(values)) for values in summed]
        # One tensor: a strategy of several workers with several GPUs each reduces no tuples.
        return tf.stack([*(tf.reduce_sum(values) for values in masked), is_asked])


def top_hits(logits, labels):
    """Whether each example's label is among the five classes with the largest logits.

    Of equal logits the lower class comes first, as with `losses.correct_predictions`; `tf.math.in_top_k` would count
    every label of a network that says the same of all classes. A label whose logit is NaN is no hit.

    Args:
        logits: [B, K] floating point.
        labels: [B] integers in [0, K).

    Returns:
        [B] float32, 1 for a hit and 0 for a miss.
    """
    labels = tf.cast(labels, tf.int32)[:, tf.newaxis]
    own = tf.gather(logits, labels, batch_dims=1)
    is_lower_class = tf.range(logits.shape[-1]) < labels
    is_ahead = (logits > own) | ((logits == own) & is_lower_class)
    rank = tf.reduce_sum(tf.cast(is_ahead, tf.int32), axis=1)
    return tf.cast((rank < TOP) & ~tf.math.is_nan(own[:, 0]), tf.float32)
