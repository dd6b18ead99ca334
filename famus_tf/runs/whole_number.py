"""Numbers that users give, where only whole ones make sense."""

import numpy as np

from famus_tf.errors import InputError


def whole_number(name: str, value, *, least: int) -> int:
    """The number given for an argument, as Python's own kind; NumPy's are taken too.

    Raises:
        InputError: If it is no whole number, or below `least`.
    """
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= least:
        return int(value)
    raise InputError(f"{name} is {value!r}; give a whole number of {least} or more.")
