"""The check of what the network builders are given."""

from famus_tf.errors import InputError


def check_build_arguments(
    network: str,
    input_shape: tuple[int, int, int],
    num_classes: int,
    seed: int,
    *,
    minimum_side: int,
) -> None:
    """Refuses shapes, class counts and seeds that a network cannot be built for.

    Args:
        network: the network's name, for the message.
        input_shape: (H, W, C) of one image, in pixels and channels.
        num_classes: K.
        seed: of the initial weights.
        minimum_side: the least H and W that the network takes, in pixels.

    Raises:
        InputError: naming the argument that is wrong.
    """
    sizes = tuple(input_shape)
    if len(sizes) != 3 or not all(isinstance(size, int) and size >= 1 for size in sizes):
        raise InputError(
            f"{network} got input_shape={input_shape!r} and expected three positive integers: the "
            "height, width and channels of one image, such as (32, 32, 3)."
        )
    if min(sizes[:2]) < minimum_side:
        raise InputError(
            f"{network} got images of {sizes[0]}x{sizes[1]} pixels and expected at least "
            f"{minimum_side}x{minimum_side}, because its strides would shrink less to nothing. Use "
            "larger images or the network small_cnn."
        )
    if not isinstance(num_classes, int) or num_classes < 2:
        raise InputError(f"{network} got num_classes={num_classes!r} and expected 2 or more.")
    if not isinstance(seed, int) or seed < 0:
        raise InputError(f"{network} got seed={seed!r} and expected an integer of 0 or more.")
