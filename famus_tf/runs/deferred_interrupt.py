"""Ctrl-C that waits until what belongs together is done."""

import contextlib
import signal
import threading


@contextlib.contextmanager
def deferred_interrupt():
    """While it is open, a first Ctrl-C waits; `KeyboardInterrupt` comes when it closes. A second one comes at once.

    Python raises `KeyboardInterrupt` between any two of its instructions, so also between a compiled call that has
    counted its steps and the line that takes what they said. Where somebody else handles Ctrl-C, as
    `runs/interruption.py` does, or outside the main thread, where it never arrives, nothing is changed.

    Raises:
        KeyboardInterrupt: At the end, if Ctrl-C was pressed meanwhile.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    received = []

    def remember(number, frame):
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if received:
        raise KeyboardInterrupt
