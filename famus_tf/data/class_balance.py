"""Batches with equally many examples of each class, in an order that is computed and never stored.

Which examples form step t follows from (seed, t) alone, so that a run may begin at any step at no cost.
"""

import hashlib
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

# Constants of the SplitMix64 generator (Steele, Lea and Flood, OOPSLA 2014).
_INCREMENT = 0x9E3779B97F4A7C15
_MIXERS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31
# How often index_shuffle mixes; what tf.random.experimental.index_shuffle takes as well.
_SHUFFLE_ROUNDS = 4


def balanced_order(labels: np.ndarray, *, batch_size: int, seed: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the function that says which rows form a step's batch.

    Let K classes have examples. Every batch holds B // K examples of each, and B % K classes, others in every batch,
    give one more. Over lcm(K, B % K) / (B % K) batches all classes give equally many. Each class goes through its
    examples in passes: none comes again before all have come, and every pass has an order of its own. A class that is
    smaller than its part of a batch gives examples twice.

    Args:
        labels: [N] integers, N >= 1.
        batch_size: The global batch B, over all replicas.
        seed: Any integer.

    Returns:
        A function of a scalar int64 step >= 0 that returns rows [B] int64 in [0, N), in mixed order.
    """
    labels = np.asarray(labels)
    present, counts = np.unique(labels, return_counts=True)
    num_classes = len(present)
    with tf.device("CPU:0"):
        by_class = tf.constant(np.argsort(labels, kind="stable").astype(np.int32))
        class_sizes = tf.constant(counts.astype(np.int64))
        class_starts = tf.constant((np.cumsum(counts) - counts).astype(np.int64))
    whole, extra = divmod(batch_size, num_classes)
    # A cycle is as many batches as it takes until every class has given one more equally often. The classes stand in
    # one order during a cycle, and each batch's extra ones follow those of the batch before.
    shared = math.gcd(num_classes, extra) if extra else num_classes
    batches_per_cycle, extras_per_cycle = num_classes // shared, extra // shared
    # The batch slot by slot: the class's place in the cycle's order (an extra slot's is relative), and which of the
    # class's examples in this batch it is.
    whole_places = np.repeat(np.arange(num_classes, dtype=np.int64), whole)
    whole_numbers = np.tile(np.arange(whole, dtype=np.int64), num_classes)
    extra_places = np.arange(extra, dtype=np.int64)
    numbers = np.concatenate([whole_numbers, np.full(extra, whole, np.int64)])
    class_seed, example_seed, slot_seed = _three_seeds(seed)

    def rows(step: tf.Tensor) -> tf.Tensor:
        cycle = step // batches_per_cycle
        extras_before = (step % batches_per_cycle) * extra  # in this cycle, of all classes
        places = tf.concat([whole_places, (extras_before + extra_places) % num_classes], axis=0)
        class_number = _shuffled(places, _mixed(class_seed, cycle), tf.fill([batch_size], np.int64(num_classes - 1)))
        own_extras = cycle * extras_per_cycle + (extras_before - places + num_classes - 1) // num_classes
        drawn_before = step * whole + own_extras + numbers
        class_size = tf.gather(class_sizes, class_number)
        drawn_pass, position = drawn_before // class_size, drawn_before % class_size
        number = _shuffled(position, _mixed(example_seed, class_number, drawn_pass), class_size - 1)
        chosen = tf.gather(by_class, tf.gather(class_starts, class_number) + number)
        # Several replicas take neighbouring slots, so classes must not lie side by side.
        slots = tf.range(batch_size, dtype=tf.int64)
        slots = _shuffled(slots, _mixed(slot_seed, step), tf.fill([batch_size], np.int64(batch_size - 1)))
        return tf.cast(tf.gather(chosen, slots), tf.int64)

    return rows


def _shuffled(index: tf.Tensor, seed: tf.Tensor, max_index: tf.Tensor) -> tf.Tensor:
    """Returns where each index [n] int64 goes in the permutation of 0..max_index [n] named by its seed [n or 1, 3]."""
    # tf.random.experimental.index_shuffle refuses a seed per index, which the operation itself takes.
    seed = tf.broadcast_to(seed, [tf.size(index), 3])
    return tf.raw_ops.RandomIndexShuffle(index=index, seed=seed, max_index=max_index, rounds=_SHUFFLE_ROUNDS)


def _mixed(seed: np.uint64, *numbers: tf.Tensor) -> tf.Tensor:
    """Returns seeds [n, 3] uint64 ([1, 3] for scalars) that share nothing for different numbers (int64 >= 0)."""
    state = tf.constant(seed, tf.uint64)
    for number in numbers:
        state = _split_mix(state + tf.cast(number, tf.uint64))
    words = [_split_mix(state + tf.constant(word, tf.uint64)) for word in range(1, 4)]
    return tf.reshape(tf.stack(words, axis=-1), [-1, 3])


def _split_mix(state: tf.Tensor) -> tf.Tensor:
    """One step of SplitMix64: a bijection of 64-bit numbers after which neighbours have nothing in common."""
    state += tf.constant(_INCREMENT, tf.uint64)
    for shift, factor in _MIXERS:
        state = tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, tf.constant(shift, tf.uint64)))
        state *= tf.constant(factor, tf.uint64)
    return tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, tf.constant(_LAST_SHIFT, tf.uint64)))


def _three_seeds(seed: int) -> np.ndarray:
    digest = hashlib.blake2b(f"class balance\n{int(seed)}".encode(), digest_size=24).digest()
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)
