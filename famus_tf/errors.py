"""The one exception that a user's mistake raises."""


class InputError(ValueError):
    """A mistake in what the user gave: a flag, a folder, an array, a model.

    The message says what was received, what was expected and how to mend it. The entry points print it without a
    traceback and exit with code 2; from Python it is an ordinary `ValueError`.
    """
