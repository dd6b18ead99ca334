"""The exceptions whose message is all that a user needs; the entry points print it without a traceback."""


class InputError(ValueError):
    """A mistake in what the user gave: a flag, a folder, an array, a model.

    The message says what was received, what was expected and how to mend it. The entry points print it without a
    traceback and exit with code 2; from Python it is an ordinary `ValueError`.
    """


class NonFiniteError(InputError):
    """Training came upon NaN or Inf and stopped; the weights are those before it.

    The message says in which step, where, with which examples, and what to do. The entry points exit with code 1: the
    command itself was in order.
    """
