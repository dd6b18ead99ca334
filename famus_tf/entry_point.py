"""How a program starts and ends: one clear sentence for a mistake, no traceback, a meaningful exit code."""

import contextlib
import io
import os
import stat
import sys
from collections.abc import Callable, Iterator

from famus_tf.errors import InputError, NonFiniteError

EXIT_NONFINITE = 1
EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 130
# The next two have these meanings in sysexits.h, and schedulers know them.
EXIT_NOT_WRITTEN = 74
EXIT_RUN_AGAIN = 75


class ProgramEnd(Exception):
    """Ends a program with a sentence and an exit code of its own.

    Attributes:
        exit_code: Of the process.
    """

    def __init__(self, sentence: str, exit_code: int):
        """Takes both.

        Args:
            sentence: For standard error.
            exit_code: Of the process.
        """
        super().__init__(sentence)
        self.exit_code = exit_code


def leaving_before_training() -> Callable[[], None]:
    """What to do on SIGTERM while a job loads: end at once, with the exit code for "run me again".

    Returns:
        A function that writes to what is standard error now, which is held back while TensorFlow is imported.
    """
    standard_error = os.dup(2)

    def leave():
        os.write(standard_error, b"\nStopped before training: there is nothing to save. Run the same command again.\n")
        os._exit(EXIT_RUN_AGAIN)

    return leave


def run(main, argv: list[str]) -> int:
    """Runs a program's main function.

    Args:
        main: A function of the arguments (the program's name first).
        argv: The arguments.

    Returns:
        The exit code: 0; 1 where training stopped at NaN or Inf; 2 after a user's mistake; 130 after Ctrl-C before
        training; 75 where a signal stopped training and the same command goes on (also SIGTERM before training, see
        `leaving_before_training`); 74 where something could not be written.
    """
    with lossy_output():
        try:
            main(argv)
        except NonFiniteError as failure:
            print(f"Error: {failure}", file=sys.stderr)
            return EXIT_NONFINITE
        except InputError as mistake:
            print(f"Error: {mistake}", file=sys.stderr)
            return EXIT_MISTAKE
        except ProgramEnd as end:
            print(end, file=sys.stderr)
            return end.exit_code
        except KeyboardInterrupt:
            print("\nInterrupted. The same command again goes on from the newest checkpoint.", file=sys.stderr)
            return EXIT_INTERRUPTED
        return 0


class _LossyFile(io.FileIO):
    """A file that swallows what its disk has no room for."""

    def write(self, data):
        """Returns how many bytes were written or lost: all."""
        with contextlib.suppress(OSError):
            return super().write(data)
        return len(data)


@contextlib.contextmanager
def lossy_output() -> Iterator[None]:
    """While inside, a line that is printed to a file on a full disk is lost, and does not end the program.

    Only standard output and error that go to a regular file (`... > log.txt`) are touched.
    """
    former = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    try:
        for name, stream in former.items():
            # Streams that somebody has replaced are his.
            if stream is not None and stream is getattr(sys, f"__{name}__"):
                stream.flush()
                if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                    raw = _LossyFile(stream.fileno(), "w", closefd=False)
                    text = io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, stream.errors, write_through=True)
                    text.reconfigure(line_buffering=stream.line_buffering)
                    setattr(sys, name, text)
        yield
    finally:
        for name, stream in former.items():
            getattr(sys, name).flush()
            setattr(sys, name, stream)
