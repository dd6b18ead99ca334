"""Equal shares of a batch, for workers and replicas that each take one.

The shares of a batch, one after another, are the batch. So whoever makes its own share alone, as each worker does,
needs no word from the others.
"""

import typing

import tensorflow as tf


class Share(typing.NamedTuple):
    """One of equal shares of every batch.

    Attributes:
        index: Which, from 0.
        count: How many there are.
    """

    index: int = 0
    count: int = 1


WHOLE = Share()


def rows_of(values: tf.Tensor, share: Share) -> tf.Tensor:
    """A share of a tensor whose first dimension can be divided so.

    Args:
        values: [B, ...].
        share: Of B / share.count rows.

    Returns:
        [B / share.count, ...].
    """
    if share.count == 1:
        return values
    length = (values.shape[0] if values.shape[0] is not None else tf.shape(values)[0]) // share.count
    return values[share.index * length : (share.index + 1) * length]


def share_of(batch: dict, share: Share) -> dict:
    """A share of a batch that can be divided so: {name: [B, ...]} to {name: [B / share.count, ...]}."""
    return {name: rows_of(values, share) for name, values in batch.items()}


def filled_up(batch: dict, num_shares: int) -> dict:
    """A batch of which equal shares can be taken: one for evaluation with copies of its last example at its end.

    An empty share would not do: convolutions of nothing fail on a CPU.

    Args:
        batch: {name: [B, ...]}, B at least 1; filling is allowed only where there is a "mask" [B] float32, which is 0
            for it.
        num_shares: How many shares there will be.

    Returns:
        {name: [B', ...]}, B' the next multiple of `num_shares`.
    """
    if "mask" not in batch:
        return batch
    sizes = {values.shape[0] for values in batch.values()}
    size = sizes.pop() if len(sizes) == 1 else None
    if size is not None and size % num_shares == 0:
        return batch
    size = tf.shape(batch["mask"])[0] if size is None else size
    positions = tf.range(-(-size // num_shares) * num_shares)
    filled = {name: tf.gather(values, tf.minimum(positions, size - 1)) for name, values in batch.items()}
    return {**filled, "mask": filled["mask"] * tf.cast(positions < size, tf.float32)}
