"""Signals that ask a process to leave are heard between two steps, when the state can be kept.

They are raised again at once, so that whoever handled them before does: Ctrl-C is a `KeyboardInterrupt`,
SIGTERM ends the process; a handler that returns lets the training go on. A second signal is not waited for,
unless a launcher stands between: it passes on what the terminal has sent to its processes already.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from frostline.distributed import process_group
from frostline.errors import TrainingError

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # those that the system knows


class Leave:
    """Called with what keeps the state, between two steps: where a signal has come, the process leaves."""

    def __init__(self, came: list[int], handle: Callable[[], None]) -> None:
        self._came, self._handle = came, handle

    @property
    def signalled(self) -> bool:
        """Whether a signal has come to this process."""
        return bool(self._came)

    def __call__(self, keep: Callable[[], None], *, others: bool = False) -> None:
        """Keep the state and leave, where this process was asked to, or `others` of its job were."""
        if self.signalled:
            keep()
            self._handle()
        elif others:
            keep()
            raise TrainingError(
                "Another process of this job was asked to stop. What is finished is kept; the same command "
                "resumes."
            )


@contextmanager
def heard() -> Iterator[Leave]:
    """Yield `leave(keep)`: where a signal has come it keeps the state and lets the signal be handled.

    Signals that are ignored stay so. Outside the main thread nothing is heard.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield Leave(came, lambda: None)
        return
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    before = {n: h for n in numbers if (h := signal.getsignal(n)) not in (signal.SIG_IGN, None)}

    def note(number: int, frame: Any) -> None:
        came.append(number)
        if len(came) > 1 and process_group.size() == 1:
            handle()

    def listen() -> None:
        for number in before:
            signal.signal(number, note)

    def handle() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)
        number = came[0]
        came.clear()
        signal.raise_signal(number)

    def handle_and_listen() -> None:
        handle()
        listen()

    listen()
    try:
        yield Leave(came, handle_and_listen)
    except TrainingError:  # which says more than the signal that a launcher sends on its account
        if process_group.size() > 1:
            came.clear()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            handle()
