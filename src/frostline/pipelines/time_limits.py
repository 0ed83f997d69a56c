"""Time limits of `fit`: the default, the shortest that is accepted, and the time that measuring takes."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence

from frostline import profiling
from frostline.advice import Advice
from frostline.data import Manifest
from frostline.diagnostics import images_measured
from frostline.errors import UsageError
from frostline.feature_cache import FeatureCache
from frostline.models import Backbone
from frostline.selection import ENDING_S, MEASURING, CandidateCost, Terms, expected_s
from frostline.selection.trial_runner import LATE, LATE_S, MOST_WAITING
from frostline.system.deadline import refusal
from frostline.system.timing import Stopwatch
from frostline.training import pass_s

# Without --minutes: the predicted time of the comparison, within these bounds. Choices: long enough to finish
# a comparison on a few hundred images, short enough to wait for.
LEAST_MINUTES, MOST_MINUTES = 2.0, 30.0
# Passes of a frozen network that measuring an image stage by stage costs, float32 and statistics included:
# 2.3 of lite0 at 224 px (docs/LOG.md 2026-11-30), and a little for the probes.
STAGE_BY_STAGE = 3

# Seconds from the result to the end of the process: the page and what it imports. On two quiet cores 6.7 to
# 8.0 (n = 4, lite0; docs/LOG.md 2026-11-28). Beside other work half a minute was overrun by it.
PAGE_S = 7.0


def page_fits(minutes: float | None, watch: Stopwatch) -> bool:
    """Return whether the page can be written in time; scaled by how much others slow this process down."""
    if minutes is None:
        return True
    waiting = min(MOST_WAITING, max(1.0, watch.seconds / max(time.process_time(), 1e-9)))
    limit_s = 60.0 * minutes
    return watch.seconds + PAGE_S * waiting <= limit_s + max(LATE * limit_s, LATE_S)


def default_minutes(
    advice: Advice,
    strategies: Sequence[str],
    folds: int,
    repeats: int,
    times: Callable[[str], float] = lambda name: 1.0,
) -> float:
    """Return the predicted minutes of a comparison of these strategies, within bounds.

    `times` is how many times its own epochs a strategy of the advice is trained for.
    """
    predicted_s = {option.strategy: option.cost.seconds for option in advice.options}
    known_s = [times(name) * predicted_s[name] for name in strategies if name in predicted_s]
    typical = statistics.fmean(known_s) if known_s else 0.0
    terms = Terms(folds, repeats, limit_s=math.inf, closing_s=ENDING_S)
    seconds = expected_s([CandidateCost(typical, typical)] * len(strategies), terms)
    return min(MOST_MINUTES, max(LEAST_MINUTES, math.ceil(seconds / 60)))


def demand_time(
    backbone: Backbone, data: Manifest, minutes: float | None, threads: int | None, watch: Stopwatch
) -> None:
    """Raise `UsageError` if the time limit is shorter than a probe and its figures take."""
    if minutes is None:
        return
    images = len(data.samples)
    floor_s = watch.seconds + images * pass_s(backbone, data, data.samples, threads) + ENDING_S
    if floor_s > 60.0 * minutes:
        raise UsageError(refusal(minutes, floor_s, "loading, one linear probe and its figures"))


def demand_measuring(
    backbone: Backbone,
    data: Manifest,
    minutes: float | None,
    watch: Stopwatch,
    *,
    seed: int,
    threads: int | None,
    feature_cache: FeatureCache,
) -> None:
    """Raise `UsageError` if the time limit is shorter than measuring takes, which advice needs.

    Parameters
    ----------
    backbone
        The network.
    data
        The labelled images.
    minutes
        Time limit; `None` for no limit.
    watch
        Stopwatch that the time limit counts from.
    seed
        Seed of the images to measure.
    threads
        Torch threads.
    feature_cache
        Where features of frozen layers are kept.
    """
    if minutes is None:
        return
    measuring = measuring_s(backbone, data, seed=seed, threads=threads, feature_cache=feature_cache)
    floor_s = watch.seconds + measuring + ENDING_S
    if floor_s > 60.0 * minutes:
        raise UsageError(
            f"{refusal(minutes, floor_s, 'loading, measuring the network and the images, and the end')} "
            "Or name strategies, which need no measuring."
        )


def measuring_s(
    backbone: Backbone, data: Manifest, *, seed: int, threads: int | None, feature_cache: FeatureCache
) -> float:
    """Return roughly the seconds that measuring the images and timing the network take."""
    stage_by_stage, as_trained = images_measured(
        backbone, data, seed=seed, threads=threads, feature_cache=feature_cache
    )
    ready = profiling.ready(backbone, threads=threads, classes=len(data.classes))
    timing_s = 0.0 if ready else MEASURING * profiling.timing_s(backbone, threads)
    passes = STAGE_BY_STAGE * stage_by_stage + as_trained
    return timing_s + (passes * pass_s(backbone, data, data.samples, threads) if passes else 0.0)
