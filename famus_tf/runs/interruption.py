"""Stopping in good order on a signal: the step under way is finished, and whoever trains hears that it should stop.

Python runs its signal handlers in the main thread, between two of its own instructions: while a compiled function
works through many steps there are none. But the interpreter notes every signal at once in a "wakeup" pipe, from C; a
thread reads that pipe here. `signal.set_wakeup_fd` describes the mechanism.
"""

import os
import signal
import threading
import time
import typing
from collections.abc import Callable

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# `timeout` and some schedulers signal the process and then its whole group, which is one wish that arrives twice.
ECHO_S = 1.0


def telling(request_stop: Callable[[], None]) -> Callable[[], None]:
    """A request to stop that says so on standard error, since the step under way may take a while."""

    def tell_and_request():
        os.write(2, b"\nStopping after this step, with a checkpoint. A second signal ends it at once.\n")
        request_stop()

    return tell_and_request


@typing.final
class StopOnSignals:
    """While it is open, SIGTERM and SIGINT (Ctrl-C) ask for a stop instead of ending the process.

        with StopOnSignals(trainer.request_stop) as signals:
            trainer.fit(...)

    A second signal, more than a second after the first, ends the process at once with exit code 128 + its number. A
    signal that the process ignores (as a shell's background jobs ignore Ctrl-C) stays ignored.

    Attributes:
        received: The number of the first signal, or None.
    """

    def __init__(
        self, request_stop: Callable[[], None], *, signals: tuple[int, ...] = SIGNALS, ends_the_program: bool = False
    ):
        """Takes what is to be done; installs nothing.

        Args:
            request_stop: Called once, in another thread, at the first signal.
            signals: Which to hear.
            ends_the_program: Whether nothing but the program's end comes after it. The signals are ignored then, or
                one that comes late would take the exit code away that says whether to run the program again.
        """
        self._signals, self._ends_the_program = signals, ends_the_program
        self.received: int | None = None
        self._request_stop = request_stop
        self._received_at = 0.0
        self._handlers = {}

    def __enter__(self):
        """Begins to listen.

        Raises:
            ValueError: Outside the main thread, where Python takes no signal handlers.
        """
        heard = [number for number in self._signals if signal.getsignal(number) is not signal.SIG_IGN]
        # Handlers that do nothing: without a handler of Python's own a signal is not noted in the pipe.
        self._handlers = {number: signal.signal(number, lambda *_: None) for number in heard}
        reading_end, self._writing_end = os.pipe()
        os.set_blocking(self._writing_end, False)
        self._former_end = signal.set_wakeup_fd(self._writing_end, warn_on_full_buffer=False)
        self._listener = threading.Thread(target=self._listen, args=(reading_end,), daemon=True)
        self._listener.start()
        return self

    def __exit__(self, *_):
        """Puts the former handlers back, unless the program ends here."""
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_IGN if self._ends_the_program else handler)
        signal.set_wakeup_fd(self._former_end)
        os.close(self._writing_end)
        self._listener.join()

    def _listen(self, reading_end: int) -> None:
        with open(reading_end, "rb", buffering=0) as pipe:
            while numbers := pipe.read(64):  # until the other end is closed
                for number in numbers:
                    if number in self._handlers:
                        self._hear(number)

    def _hear(self, number: int) -> None:
        if self.received is None:
            self.received, self._received_at = number, time.monotonic()
            self._request_stop()
        elif time.monotonic() - self._received_at > ECHO_S:
            os.write(2, b"\nStopped at once. The same command again goes on from the newest checkpoint.\n")
            os._exit(128 + number)
