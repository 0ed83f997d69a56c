"""A hard limit on a run's wall time: training stops while there is still time to say what was learned.

What must come after training is kept free: the final figures of val and test, from timings of this machine,
and the files. Time that processes killed before have spent counts.
"""

from __future__ import annotations

import math
import time

from frostline import ranks, rates
from frostline.images import EVALUATION_BATCH, Tell
from frostline.strategy import settings
from frostline.timing import Stopwatch
from frostline.training.request import Request

LOOKED_AT = 8  # images decoded to measure how long that takes
# A choice: the neighbours of a shared machine made one and the same step wander by half (docs/LOG.md
# 2026-11-24).
MARGIN = 1.5
ENDING_S = 0.5  # weights, tables and thumbnails: 0.1 to 0.3 s for lite0 on a local disk


class OutOfTime(Exception):
    """Raised between two steps when the time is up; never seen outside of training."""


class Budget:
    """What is left of a run's time. Without a limit nothing is measured and nothing stops."""

    def __init__(self, limit_s: float | None, reserve_s: float, watch: Stopwatch) -> None:
        self._end_s = None if limit_s is None else limit_s - reserve_s
        self._watch = watch
        self._longest: dict[str, float] = {}  # seconds of the longest one of each kind of work
        self.earlier_s = 0.0  # spent by processes that were stopped

    def note(self, kind: str, began: float) -> None:
        """Note that a piece of work is done which began then (`time.perf_counter()`)."""
        self._longest[kind] = max(self._longest.get(kind, 0.0), time.perf_counter() - began)

    def late(self, kind: str) -> bool:
        """Whether no piece of work as long as the longest of its kind fits in any more."""
        if self._end_s is None:
            return False
        return self.earlier_s + self._watch.seconds + self._longest.get(kind, 0.0) > self._end_s

    def check(self, kind: str) -> None:
        """Raise `OutOfTime` where it is late, in all processes of a job if it is in one."""
        if self._end_s is not None and any(ranks.any_of(self.late(kind))):
            raise OutOfTime

    def telling(self, tell: Tell | None) -> Tell | None:
        """Return a `tell` that also looks at this process's clock, for work that says how far it is."""
        if self._end_s is None:
            return tell

        def checked(what: str, done: int, total: int) -> None:
            if tell:
                tell(what, done, total)
            if self.late(what):
                raise OutOfTime

        return checked


def begin(request: Request, watch: Stopwatch) -> Budget:
    """Start a run's budget; with a limit, estimate from timings what must be kept free for the end."""
    if request.minutes is None:
        return Budget(None, 0.0, watch)
    return Budget(60.0 * request.minutes, ranks.decided(lambda: _reserve_s(request)), watch)


def _reserve_s(request: Request) -> float:
    backbone, parts = request.backbone, ["val", "test"]
    if settings(request.strategy).bn == "recalibrate":
        parts.append("train")
    counts = [len(request.data.part(part)) for part in parts]
    if all(segment.cut for segment in request.segments()):  # frozen batches are filled up
        counts = [math.ceil(count / EVALUATION_BATCH) * EVALUATION_BATCH for count in counts]
    looked = [sample for part in parts for sample in request.data.part(part)][:LOOKED_AT]
    began = time.perf_counter()
    for sample in looked:
        backbone.preprocessing.crop(request.data.read(sample))
    decode_s = (time.perf_counter() - began) / max(1, len(looked))
    return ENDING_S + MARGIN * (rates.glimpse_s(backbone, request.threads) + decode_s) * sum(counts)
