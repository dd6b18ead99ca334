"""Noise-robust and long-tail image classification by meta-learned example weighting made fast.

The public names load TensorFlow when they are first used, so that `--help` and mistyped flags answer at once.
"""

import importlib

_PUBLIC = {
    "Trainer": "famus_tf.trainer",
    "make_method": "famus_tf.registry",
    "make_strategy": "famus_tf.replicas",
    "InputError": "famus_tf.errors",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str):
    """Loads a public name."""
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'famus_tf' has no attribute {name!r}; it has {', '.join(_PUBLIC)}")
