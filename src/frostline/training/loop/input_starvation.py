"""How fast batches come beside how fast a GPU learns from them: whether it is starved."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from frostline.errors import option
from frostline.sentences import counted
from frostline.system import devices, numerics

# A GPU that learns from fewer images a second than this share of what its steps allow waits for pictures.
# A choice: below it a third more and over is lost, which is more than what follows an epoch takes.
STARVED = 0.75
AT_ONCE = 256  # steps whose events wait to be read: a choice


class TimingEvent(Protocol):
    """A moment on the device; torch's events are such."""

    def record(self) -> None:
        """Take the moment when the device gets here."""

    def query(self) -> bool:
        """Whether the device got here."""

    def elapsed_time(self, end: Any) -> float:
        """Return the milliseconds to a later mark."""


def _event() -> TimingEvent:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


class Pace:
    """Images, seconds, and the seconds of the device's steps, of the epochs that learn from pixels.

    Parameters
    ----------
    mark : callable or None
        Makes a `TimingEvent`; None: of the device computed on, where that is an NVIDIA GPU. Elsewhere nothing
        is timed: a processor decodes with the cores that compute.
    clock : callable
        Seconds, once the device has done what it was given.
    """

    def __init__(
        self, mark: Callable[[], TimingEvent] | None = None, clock: Callable[[], float] = numerics.now
    ) -> None:
        self._mark = mark or (_event if devices.current().type == "cuda" else None)
        self._clock = clock
        self._marks: list[tuple[TimingEvent, TimingEvent]] = []
        self._images, self._seconds, self._step_s = 0, 0.0, 0.0
        self._timing, self._pending = False, 0  # of the epoch under way

    @contextmanager
    def epoch(self, from_pixels: bool) -> Iterator[None]:
        """Time an epoch's steps, if they learn from pixels; one that is broken off does not count."""
        timed, self._timing, self._pending = self._mark is not None and from_pixels, False, 0
        began = self._clock() if timed else 0.0
        self._timing = timed
        try:
            yield
            if timed:
                seconds = self._clock() - began
                self._read()
                self._images, self._seconds = self._images + self._pending, self._seconds + seconds
        finally:
            self._timing = False
            self._marks.clear()

    @contextmanager
    def step(self, images: int) -> Iterator[None]:
        """Time a step on so many images, on the device."""
        if not self._timing or self._mark is None:
            yield
            return
        first, last = self._mark(), self._mark()
        first.record()
        yield
        last.record()
        self._marks.append((first, last))
        self._pending += images
        if len(self._marks) >= AT_ONCE:
            self._read(sum(1 for _ in itertools.takewhile(lambda pair: pair[1].query(), self._marks)))

    def _read(self, count: int | None = None) -> None:
        """Read the first `count` steps, which the device has done; None: all."""
        self._step_s += sum(first.elapsed_time(last) for first, last in self._marks[:count]) / 1000.0
        del self._marks[:count]

    def as_dict(self) -> dict[str, Any] | None:
        """Return images a second of the epochs and of the steps alone; `None` where nothing was timed."""
        if not self._images or self._seconds <= 0 or self._step_s <= 0:
            return None
        whole, step = self._images / self._seconds, self._images / self._step_s
        return {"images_per_s": whole, "step_images_per_s": step, "starved": whole < STARVED * step}


def starved_line(pace: dict[str, Any] | None, workers: int) -> str:
    """Return what to say of a GPU that waited for pictures; "" where it did not."""
    if not pace or not pace["starved"]:
        return ""
    return (
        f"The GPU waited for pictures: {pace['images_per_s']:,.0f} images a second came from "
        f"{counted(max(1, workers), 'decoding thread')}, and its steps alone take "
        f"{pace['step_images_per_s']:,.0f}. More cores ({option('workers')}), or smaller files, would make "
        "the run quicker."
    )
