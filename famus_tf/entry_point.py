"""How a program starts and ends: one clear sentence for a mistake, no traceback, a meaningful exit code."""

import sys

from famus_tf.errors import InputError

EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 130


def run(main, argv: list[str]) -> int:
    """Runs a program's main function.

    Args:
        main: A function of the arguments (the program's name first).
        argv: The arguments.

    Returns:
        The exit code: 0, 2 after a user's mistake, 130 after Ctrl-C.
    """
    try:
        main(argv)
    except InputError as mistake:
        print(f"Error: {mistake}", file=sys.stderr)
        return EXIT_MISTAKE
    except KeyboardInterrupt:
        print("\nInterrupted. The same command again goes on from the newest checkpoint.", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0
