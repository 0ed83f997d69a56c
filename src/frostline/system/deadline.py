"""The time limit that work stands under, for work that has no clock of its own. Imports no torch.

A command with `--minutes` opens `within`; below it, work that takes seconds opens `work` and calls `unit`
between any two pieces. Where no further piece fits, `unit` raises `NoTime`. Without a limit, and outside of
`work`, nothing is ever raised: what follows training must not be cut off, and has its time set aside.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from frostline.errors import NoTime, StudyError
from frostline.progress import Progress
from frostline.system.timing import Stopwatch

# A choice: the neighbours of a shared machine made one and the same step wander by half (docs/LOG.md
# 2026-11-24).
MARGIN = 1.5
# Processor seconds from an error to the end of the process, of which the interpreter's own end is most: about
# 1.1 with torch imported (31.4 s by a clock outside where the last line came at 24.5, six times slowed down).
EXIT_S = 1.5
MOST_WAITING = 8.0  # largest slow-down by others that the end is reckoned with: a choice
LOADING = "loading the libraries, the images and the network"
LEAST_S = 0.01  # a timer of 0 never rings
READING = "loading and reading the images"
GOES_ON = "What is finished is saved: the same command resumes from there."


@dataclass(frozen=True)
class _Limit:
    minutes: float
    watch: Stopwatch
    reserve_s: float
    exits: bool = True  # whether the end of the process must be in time, too

    @property
    def after_s(self) -> float:
        """Seconds that must be left; the end takes as much longer as others have slowed this process down."""
        waiting = min(MOST_WAITING, max(1.0, self.watch.seconds / max(time.process_time(), 1e-9)))
        return self.reserve_s + (EXIT_S * waiting if self.exits else 0.0)

    @property
    def left_s(self) -> float:
        return 60.0 * self.minutes - self.after_s - self.watch.seconds


@dataclass(frozen=True)
class _Purpose:
    what: str
    expected_s: float = 0.0
    began: float = field(default_factory=time.perf_counter)

    @property
    def left_s(self) -> float:
        return self.expected_s - (time.perf_counter() - self.began)


@dataclass
class _Work:
    purpose: _Purpose
    limit: _Limit
    units: int
    began: float = field(default_factory=time.perf_counter)
    unit_began: float | None = None
    longest_s: float = 0.0
    done: int = -1

    def next(self) -> None:
        now = time.perf_counter()
        if self.unit_began is not None:
            self.longest_s = max(self.longest_s, now - self.unit_began)
        self.unit_began, self.done = now, self.done + 1
        if self.longest_s > self.limit.left_s:
            raise NoTime(self.refusal(now - self.began))

    def refusal(self, elapsed_s: float) -> str:
        """Say how much time this work needs from start to exit, by its pace so far."""
        by_pace_s = (self.units - self.done) * elapsed_s / max(1, self.done)
        still_s = max(by_pace_s, self.purpose.left_s, self.longest_s)
        floor_s = self.limit.watch.seconds + still_s + self.limit.after_s
        return f"{refusal(self.limit.minutes, floor_s, self.purpose.what)} {GOES_ON}"


class Rang(BaseException):
    """Raised by `alarm` at any place: like Ctrl-C it must not be taken for a fault of what it interrupts."""


_armed: list[_Limit] = []
_limit: ContextVar[_Limit | None] = ContextVar("the limit around", default=None)
_work: ContextVar[_Work | None] = ContextVar("the work around", default=None)
_purpose: ContextVar[_Purpose | None] = ContextVar("what the work is for", default=None)


def refusal(minutes: float, floor_s: float, what: str) -> str:
    """Say that a limit is too short, what it must hold, and how much would do."""
    enough = math.ceil(MARGIN * floor_s / 6) / 10  # the next machine second may be slower
    shown_s = max(round(floor_s), math.floor(60.0 * minutes) + 1)  # never as if the limit were enough
    return (
        f"--minutes {minutes:g} is less than the {shown_s} s that {what} need here; give at least {enough:g}."
    )


@contextmanager
def within(minutes: float | None, watch: Stopwatch, reserve_s: float = 0.0) -> Iterator[None]:
    """Let work inside the block end in time for `reserve_s` more seconds; `None` leaves the limit around.

    Parameters
    ----------
    minutes : float or None
        Time limit.
    watch : Stopwatch
        What the limit counts from.
    reserve_s : float
        Seconds that must be left for what follows the block, beside the end of the process.
    """
    if minutes is None:
        yield
        return
    token = _limit.set(_Limit(minutes, watch, reserve_s))
    try:
        yield
    finally:
        _limit.reset(token)


@contextmanager
def alarm(minutes: float | None, watch: Stopwatch) -> Iterator[None]:
    """Interrupt whatever runs inside the block, as Ctrl-C does, where the limit ends: raises `Rang` there.

    For imports, downloads and the like, which nothing else can stop; for the process's own commands, since it
    takes the signal SIGALRM. It ends with `disarm`. On a system without `setitimer`, and in another thread
    than the main one, only `unit` looks at the clock.
    """
    main = threading.current_thread() is threading.main_thread()
    if minutes is None or not main or not hasattr(signal, "setitimer"):
        yield
        return
    limit = _Limit(minutes, watch, 0.0)

    def ring(number: int, frame: Any) -> None:
        if not _armed:
            return
        if limit.left_s > 0:  # others have slowed this process down less than was reckoned with
            signal.setitimer(signal.ITIMER_REAL, max(LEAST_S, limit.left_s))
            return
        _armed.clear()
        raise Rang(f"{refusal(minutes, watch.seconds + limit.after_s, LOADING)} {GOES_ON}")

    before, began = signal.signal(signal.SIGALRM, ring), time.monotonic()
    _armed[:] = [limit]
    rings_s, every_s = signal.setitimer(signal.ITIMER_REAL, max(LEAST_S, limit.left_s))
    try:
        yield
    finally:
        disarm()
        signal.signal(signal.SIGALRM, before)
        if rings_s:  # the timer of a program around
            signal.setitimer(signal.ITIMER_REAL, max(LEAST_S, rings_s - (time.monotonic() - began)), every_s)


def disarm() -> None:
    """End the `alarm` around, if there is any: from here on work looks at the clock itself."""
    if _armed:
        _armed.clear()
        signal.setitimer(signal.ITIMER_REAL, 0.0)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Let work inside the block end within so many seconds from now, and in time for the limit around."""
    around = _limit.get()
    if around is not None:
        seconds = min(seconds, around.left_s)
    token = _limit.set(_Limit(seconds / 60.0, Stopwatch(), 0.0, exits=False))
    try:
        yield
    finally:
        _limit.reset(token)


@contextmanager
def lifted() -> Iterator[None]:
    """Let nothing inside the block be stopped: for work that keeps the limit itself."""
    token = _limit.set(None)
    try:
        yield
    finally:
        _limit.reset(token)


@contextmanager
def purpose(what: str, expected_s: float = 0.0) -> Iterator[None]:
    """Say in messages what the work inside the block is for.

    Parameters
    ----------
    what : str
        What is done, in the plural: "loading and timing the network".
    expected_s : float
        How many seconds all of it was predicted to take, if it was.
    """
    token = _purpose.set(_Purpose(what, expected_s))
    try:
        yield
    finally:
        _purpose.reset(token)


@contextmanager
def work(what: str, *, units: int = 0) -> Iterator[None]:
    """Let `unit` look at the clock inside the block.

    Parameters
    ----------
    what : str
        What is done, in the plural, where no `purpose` is around.
    units : int
        How many pieces there are, if that is known.
    """
    limit, outer = _limit.get(), _work.get()
    current = None if limit is None else _Work(_purpose.get() or _Purpose(what), limit, units)
    token = _work.set(current)
    try:
        yield
    finally:
        _work.reset(token)
        if outer is not None:
            outer.unit_began = None  # this block was no piece of it


def unit() -> None:
    """Begin the next piece of the work around. Raises `NoTime` if one as long as the longest doesn't fit."""
    current = _work.get()
    if current is not None:
        current.next()


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold a file lock, waiting for another process no longer than the limit around allows.

    Parameters
    ----------
    path : Path
        The lock.
    what : str
        What the other process does while it holds the lock, as "trains the first model".

    Raises
    ------
    StudyError
        If another process still holds it where the limit ends.
    """
    from filelock import FileLock, Timeout  # `--help` imports this module, and needs no lock

    limit = _limit.get()
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if limit is None else max(0.0, limit.left_s))
    except Timeout:
        assert limit is not None  # without one it waits
        raise StudyError(
            f"--minutes {limit.minutes:g} are over while another process {what} in {path.parent}. "
            "Wait for it, or stop it; the same command then resumes."
        ) from None
    try:
        yield
    finally:
        lock.release()


def telling(progress: Progress, what: str) -> Progress:
    """Return a `progress` that also looks at the clock, for work that says how far it is."""
    limit = _limit.get()
    if limit is None:
        return progress
    kinds: dict[str, _Work] = {}

    def checked(activity: str, done: int, total: int) -> None:
        progress(activity, done, total)
        current = kinds.setdefault(activity, _Work(_Purpose(what), limit, total))
        current.units = total
        if done < total:
            current.next()
            current.done = done

    return Progress.of(checked, progress.log)
