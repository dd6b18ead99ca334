"""What a network computes in, given to its layers while it is built."""

import contextlib

import keras


@contextlib.contextmanager
def computing_in(precision: str):
    """Layers made inside compute in this precision and keep float32 variables; Keras' setting comes back at the end.

    Args:
        precision: "bfloat16" or "float16".
    """
    former = keras.config.dtype_policy()
    keras.config.set_dtype_policy(f"mixed_{precision}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(former)


def with_float32_logits(model: keras.Model) -> keras.Model:
    """Lets the last layer of a network compute in float32, whatever the layers below it do.

    Args:
        model: Functional; its last layer is the one that gives the logits.

    Returns:
        The same model.
    """
    model.layers[-1].dtype_policy = keras.DTypePolicy("float32")
    return model
