"""Signals that ask a process to leave are heard between two steps, when the state can be kept.

They are raised again at once, so that whoever handled them before does: Ctrl-C is a `KeyboardInterrupt`,
SIGTERM ends the process; a handler that returns lets the training go on. A second signal is not waited for.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # those that the system knows

Leave = Callable[[Callable[[], None]], None]  # given what keeps the state


@contextmanager
def heard() -> Iterator[Leave]:
    """Yield `leave(keep)`: where a signal has come it keeps the state and lets the signal be handled.

    Signals that are ignored stay so. Outside the main thread nothing is heard.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda keep: None
        return
    came: list[int] = []
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    before = {n: h for n in numbers if (h := signal.getsignal(n)) not in (signal.SIG_IGN, None)}

    def note(number: int, frame: Any) -> None:
        came.append(number)
        if len(came) > 1:
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

    def leave(keep: Callable[[], None]) -> None:
        if came:
            keep()
            handle()
            listen()

    listen()
    try:
        yield leave
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            handle()
