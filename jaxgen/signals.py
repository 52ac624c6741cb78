"""Ctrl-C and SIGTERM: a run that is stopped saves, says how to go on, and exits with the usual code.

Light to import: the command line answers signals before anything heavy is loaded.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """A signal stopped the run; what was done is saved, if there is a run directory.

    Attributes:
        signal_number: the signal; a process that ends by it has the exit code 128 + signal_number.
        step: the number of steps done.
    """

    def __init__(self, signal_number: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name} after step {step}")
        self.signal_number, self.step = signal_number, step


class Watch:
    """A signal handler that raises KeyboardInterrupt, and remembers.

    What it raises is lost in callbacks of C++ and of the garbage collector; `raise_if_caught` raises it again.

    Attributes:
        caught: the number of the last signal, or None.
    """

    def __init__(self) -> None:
        self.caught: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Is called by Python, between two instructions of the main thread."""
        self.caught = number
        raise KeyboardInterrupt

    def install(self) -> None:
        """Answers both signals from now on."""
        for number in _SIGNALS:
            signal.signal(number, self)


def exit_at_once() -> None:
    """Makes both signals end the process with one line: for the start, when there is nothing to save."""

    def leave(number: int, frame: FrameType | None) -> None:
        os.write(2, b"jaxgen: interrupted\n")
        os._exit(128 + number)

    for number in _SIGNALS:
        signal.signal(number, leave)


def raise_if_caught() -> None:
    """Raises the KeyboardInterrupt of a `Watch` that was lost on its way."""
    if _caught_before() is not None:
        raise KeyboardInterrupt


@contextlib.contextmanager
def collected(forward: bool = False) -> Iterator[list[int]]:
    """Collects the first signal, to be answered between steps; a second one acts as it did before.

    Args:
        forward: whether SIGTERM is left to JAX, which tells the other processes of it; Ctrl-C becomes one then.

    Yields:
        A list that the signal's number is appended to; one that came before, and was lost, is in it already.
    """
    before = _caught_before()
    caught: list[int] = [] if before is None or forward else [before]
    if before is not None and forward:
        os.kill(os.getpid(), signal.SIGTERM)
    previous: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        if forward:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            caught.append(number)
        _restore(previous)

    with contextlib.suppress(ValueError):  # not in the main thread: signals are not ours to catch
        for number in _SIGNALS[:1] if forward else _SIGNALS:
            previous[number] = signal.signal(number, handle)
    try:
        yield caught
    finally:
        _restore(previous)


def _caught_before() -> int | None:
    handler = signal.getsignal(signal.SIGINT)
    return handler.caught if isinstance(handler, Watch) else None


def _restore(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None:  # else one that isn't Python's, which can't be put back
            signal.signal(number, handler)
