"""Measures of this process: seconds, and the peak memory of one run among several. Imports no torch."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import TracebackType

import psutil

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def resident_bytes() -> int:
    """Return the memory this process holds now."""
    return int(psutil.Process().memory_info().rss)


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # names of mallopt's parameters (malloc.h)
_imported: list[int] = []  # set once


# What a run imports late: brought before its clock begins, so that its seconds and memory are its own.
LATE = ("timm.data", "sklearn.metrics", "sklearn.svm", "scipy.optimize")


def prepare_process(*, trains: bool = True) -> None:
    """Let the C library reuse freed memory, note what the imports hold, and import what training needs late.

    Every function that loads a network (`trains` False) or trains calls it; only the first call of each does
    anything.
    """
    if not _imported:
        reuse_freed_memory()
        _imported.append(resident_bytes())
    if trains:
        with set_apart():
            for module in LATE:
                import_module(module)


def imported_baseline_bytes() -> int:
    """Return the memory in bytes that this process held when everything was imported."""
    prepare_process(trains=False)
    return _imported[0]


@contextmanager
def set_apart() -> Iterator[None]:
    """Count what this process comes to hold inside as imported, not as a run's: libraries brought late."""
    before = resident_bytes()
    try:
        yield
    finally:
        if _imported:  # else all of it is in the baseline that is still to be taken
            _imported[0] += max(0, resident_bytes() - before)


class PeakMemory:
    """The most memory held inside a `with` block, in bytes above `baseline_bytes`.

    A process's high-water mark never falls by itself, so a second run would inherit the first one's.
    Linux can reset it (`5` into `/proc/self/clear_refs`, man proc_pid_clear_refs); elsewhere the
    resident size is sampled every 10 ms, which can miss a short peak.
    """

    def __init__(self, baseline_bytes: int) -> None:
        self.baseline_bytes = baseline_bytes
        self.exact = False
        self._peak = 0
        self._stop = threading.Event()
        self._sampler: threading.Thread | None = None

    def __enter__(self) -> PeakMemory:
        _give_back()
        try:
            _CLEAR.write_text("5")
            self.exact = True
        except OSError:
            self._sampler = threading.Thread(target=self._sample, daemon=True)
            self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._peak = max(self._peak, self._high_water())
        self._stop.set()

    @property
    def bytes(self) -> int:
        """The peak so far above the baseline, never below 0."""
        peak = max(self._peak, self._high_water()) if not self._stop.is_set() else self._peak
        return max(0, peak - self.baseline_bytes)

    def _high_water(self) -> int:
        if not self.exact:
            return max(self._peak, resident_bytes())
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return resident_bytes()

    def _sample(self) -> None:
        while not self._stop.wait(0.01):
            self._peak = max(self._peak, resident_bytes())


def _give_back() -> None:
    """Ask the C library to return freed pages, so that one run's leavings are not the next one's peak."""
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):  # another C library: nothing to ask
            return


def reuse_freed_memory() -> None:
    """Ask the C library to keep freed memory for the next use, large blocks too, instead of giving it back.

    Each step and each frozen batch asks for the same large blocks again, and fresh ones must be filled with
    zeros by the kernel first: without this a head took 1.5 times the processor time, at 30 % less memory
    (docs/LOG.md 2026-11-24). glibc only; `PeakMemory` still gives back what is free between runs.
    """
    if sys.platform == "linux":
        try:
            mallopt = ctypes.CDLL("libc.so.6").mallopt
        except (OSError, AttributeError):  # another C library: it has its own ways
            return
        for parameter, value in (_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 * 2**20):
            mallopt(parameter, value)


def process_s() -> float:
    """Return the seconds since this process was started, to a hundredth; 0 where the clock was set back."""
    return max(0.0, time.time() - float(psutil.Process().create_time()))


class Stopwatch:
    """Wall seconds since it was made, and those that had gone by before."""

    def __init__(self, before_s: float = 0.0) -> None:
        self._start = time.perf_counter() - before_s

    @property
    def seconds(self) -> float:
        """Seconds since it was made, and those before."""
        return time.perf_counter() - self._start
