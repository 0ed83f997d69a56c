"""How long `fit` may take: what it allows itself, the floor it refuses below, what measuring takes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from frostline import profiling
from frostline.advice import Advice
from frostline.data import Manifest
from frostline.errors import UsageError
from frostline.models import Backbone
from frostline.selection import ENDING_S, MEASURING, CandidateCost, Terms, expected_s
from frostline.system.timing import Stopwatch
from frostline.training import pass_s, refusal

# Without --minutes: what the race is expected to take, within these bounds. Choices: long enough that a race
# on a few hundred images ends by itself, short enough to wait for.
LEAST_MINUTES, MOST_MINUTES = 2.0, 30.0
# Measuring listens to at most so many images on so many passes (all stages, the pretrained classifier, rows
# for the learning curve): see frostline.diagnostics.
LISTENED, PASSES = 500, 3


def default_minutes(advice: Advice, raced: Sequence[str], folds: int, repeats: int) -> float:
    """Return what a race among these is expected to take, within bounds."""
    known = {option.strategy: option.cost.seconds for option in advice.options}
    each = [known[name] for name in raced if name in known]
    typical = statistics.fmean(each) if each else 0.0
    terms = Terms(folds, repeats, limit_s=math.inf, closing_s=ENDING_S)
    seconds = expected_s([CandidateCost(typical, typical)] * len(raced), terms)
    return min(MOST_MINUTES, max(LEAST_MINUTES, math.ceil(seconds / 60)))


def demand_time(
    backbone: Backbone, data: Manifest, minutes: float | None, threads: int | None, watch: Stopwatch
) -> None:
    """Refuse a limit that is shorter than a probe and its figures take. Raises `UsageError`."""
    if minutes is None:
        return
    images = len(data.samples)
    floor_s = watch.seconds + images * pass_s(backbone, data, data.samples, threads) + ENDING_S
    if floor_s > 60.0 * minutes:
        raise UsageError(refusal(minutes, floor_s, "loading, one linear probe and its figures"))


def demand_measuring(
    backbone: Backbone, data: Manifest, minutes: float | None, threads: int | None, watch: Stopwatch
) -> None:
    """Refuse a limit that is shorter than giving advice takes. Raises `UsageError`."""
    if minutes is None:
        return
    floor_s = watch.seconds + measuring_s(backbone, data, threads) + ENDING_S
    if floor_s > 60.0 * minutes:
        raise UsageError(
            f"{refusal(minutes, floor_s, 'loading, measuring the network and the images, and the end')} "
            "Or name strategies, which need no measuring."
        )


def measuring_s(backbone: Backbone, data: Manifest, threads: int | None) -> float:
    """Return roughly the seconds that measuring the images and timing the network take."""
    images = min(len(data.part("train")), LISTENED)
    ready = profiling.ready(backbone, threads=threads, classes=len(data.classes))
    timing_s = 0.0 if ready else MEASURING * profiling.timing_s(backbone, threads)
    return timing_s + PASSES * images * pass_s(backbone, data, data.samples, threads)
