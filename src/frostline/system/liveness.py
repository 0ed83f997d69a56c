"""Is that process still alive? A process writes down who it is; another asks, on the same machine or not.

A number alone won't do, as it is given out again: the second at which the process was started goes with it.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cache

import psutil

CLOCK_S = 1.0  # by which two readings of a process's start may differ


@dataclass(frozen=True)
class ProcessId:
    """One process of one machine, for good: host name, number, and start in seconds since 1970."""

    host: str
    number: int
    started: float

    @classmethod
    def own(cls) -> ProcessId:
        """Return this process's."""
        return _own(os.getpid())

    @property
    def is_local(self) -> bool:
        """Whether it is of this machine."""
        return self.host == socket.gethostname()

    def runs(self, *, elsewhere: bool = True) -> bool:
        """Whether the process still runs; `elsewhere` is the answer for another machine's.

        One that may not be looked at runs, for all that can be seen.
        """
        if not self.is_local:
            return elsewhere
        try:
            return bool(abs(psutil.Process(self.number).create_time() - self.started) < CLOCK_S)
        except psutil.NoSuchProcess:
            return False
        except (psutil.Error, OverflowError, ValueError):
            return True


@cache
def _own(number: int) -> ProcessId:  # of a forked child it is another one
    return ProcessId(socket.gethostname(), number, psutil.Process(number).create_time())


def began_after(number: int, second: float) -> bool:
    """Whether the process with this number is gone, or began after that second (since 1970)."""
    try:
        return bool(psutil.Process(number).create_time() > second)
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, OverflowError):
        return False
