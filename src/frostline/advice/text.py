"""Advice in sentences a person understands, with the numbers that decided."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from frostline.advice.forecast import Expected, Model, chosen, separated
from frostline.advice.knowledge import Facts, Trial

# 1 of 104 runs took longer than this times the prediction, on a quiet machine; on a busy one more do
# (docs/LOG.md 2026-11-25): a budget is hard.
TIME_MARGIN = 1.35
PLAINEST = "linear_probe"  # solved for, nothing to tune: what to begin with where nothing is known
LEAST_GAIN = 0.005  # of accuracy: less is not worth a word
SAME_TIME = 1.05  # times as long: less is not worth a word either


@dataclass(frozen=True)
class Picture:
    """What a recommendation was drawn from. `expected` is empty where `facts` is `None`."""

    facts: Facts | None
    model: Model
    expected: Mapping[str, Expected]
    seconds: Mapping[str, float]
    refused: Mapping[str, str]  # why it does not fit the budget; empty where it does
    pick: str
    runner_up: str | None


def minutes(seconds: float) -> str:
    """Write a duration so that nobody must convert it."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{max(0.1, seconds):.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def enough(seconds: float) -> str:
    """Write a duration that is no shorter: what must be allowed for it."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 5400 else f"{math.ceil(seconds / 360) / 10:.1f} h"


def room(size_bytes: float) -> str:
    """Write a size that is no smaller: what must be allowed for it."""
    return f"{math.ceil(size_bytes / 1e6):,} MB"


def points(difference: float) -> str:
    """Write a difference of accuracies."""
    return f"{100 * difference:.1f} points"


def reason(picture: Picture, name: str) -> str:
    """Say in a few words how an option stands beside the recommended one."""
    p = picture
    if p.refused[name]:
        return f"does not fit: {p.refused[name]}"
    if p.facts is None:
        return "recommended" if name == p.pick else ""
    if name == p.pick:
        fitting = [e for n, e in p.expected.items() if not p.refused[n]]
        best = max(fitting, key=lambda e: e.accuracy)
        if best.strategy == name:
            return "recommended"
        return f"recommended: {'best on average' if _by_default(p) else 'as good, and cheaper'}"
    apart = p.expected[name].accuracy - p.expected[p.pick].accuracy
    times = p.seconds[name] / p.seconds[p.pick]
    dearer = f"{times:.1f} × the time" if times >= 1 else f"1/{1 / times:.1f} the time"
    if 1 / SAME_TIME <= times <= SAME_TIME:
        dearer = "the same time"
    close = abs(apart) <= p.model.apart(name, p.pick)
    return f"{'not separated' if close else f'{100 * apart:+.1f} points'}, {dearer}"


def unknown(images: int, fewest: int, pick: str) -> tuple[str, ...]:
    """Say why nothing can be forecast, and what to do then; `fewest` images can be measured on."""
    if images < fewest:
        why = f"{images} training images are too few to measure on, so nothing can be forecast."
    else:
        why = "No class has two images that may be parted, so nothing can be forecast."
    return why, f"{pick} is {'the plainest start' if pick == PLAINEST else 'the cheapest that fits'}."


def why(picture: Picture, near: str) -> tuple[str, ...]:
    """Say in two sentences why the recommended strategy is, and what comes next.

    `near` is what similarity says.
    """
    p = picture
    assert p.facts is not None
    mine = p.expected[p.pick]
    span = f"{100 * mine.low:.0f}–{100 * mine.high:.0f} %"
    first = (
        f"With {p.facts.images:,} training images of {p.facts.classes} classes, {near} and a ridge probe at "
        f"{100 * p.facts.probe:.0f} %, {p.pick} is expected to reach {100 * mine.accuracy:.0f} % "
        f"({span}) on new images, in about {minutes(p.seconds[p.pick])}."
    )
    if p.runner_up is None:
        return (first,)
    other = p.expected[p.runner_up]
    takes = minutes(p.seconds[p.runner_up])
    if _by_default(p) and mine.accuracy < other.accuracy:
        second = (
            f"It was best on average on the {len(set(p.model.sets))} image sets that were tried, where "
            "departing from it by such forecasts did not pay; "
            f"{p.runner_up} ({100 * other.accuracy:.0f} %, {takes}) is next."
        )
    elif mine.accuracy > other.accuracy and separated(p.model, mine, other):
        second = f"Next comes {p.runner_up}, {points(mine.accuracy - other.accuracy)} lower, in {takes}."
    else:
        second = (
            f"What was tried can't separate it from {p.runner_up} ({100 * other.accuracy:.0f} %), "
            f"which takes {takes}"
        )
        lead = p.model.average_lead(p.pick, p.runner_up, p.facts)
        cheaper = p.seconds[p.runner_up] < p.seconds[p.pick]
        second += f", but was {points(lead)} worse on average." if cheaper and lead > 0 else "."
    return first, second


def _by_default(picture: Picture) -> bool:
    """Whether the recommended strategy is the one that was best on average, whatever was measured."""
    return picture.pick == picture.model.default and not picture.model.departs


def outlook(trials: Sequence[Trial]) -> str:
    """Say what thawing brought over a frozen network in what was tried, before these images are measured."""
    gains = sorted(
        max(trial.accuracy.values()) - trial.accuracy["linear_probe"]
        for trial in trials
        if "linear_probe" in trial.accuracy
    )
    if not gains:
        return ""
    middle, low, high = (100 * gains[int(q * (len(gains) - 1))] for q in (0.5, 0.1, 0.9))
    return (
        f"More minutes, to thaw layers, brought {middle:.0f} points more on the image sets that were tried "
        f"({low:.0f} to {high:.0f})."
    )


def changes(picture: Picture, with_more: Expected | None) -> tuple[str, ...]:
    """Say what would change the recommendation: more time, less of it, more images."""
    p = picture
    if p.facts is None or with_more is None:
        return ()
    found = []
    best = chosen(p.model, p.facts, p.seconds)
    if best.strategy != p.pick:
        found.append(
            f"With {enough(TIME_MARGIN * p.seconds[best.strategy])} and room for it: {best.strategy}, "
            f"{points(best.accuracy - p.expected[p.pick].accuracy)} more."
        )
    cheap = {n: s for n, s in p.seconds.items() if s <= p.seconds[p.pick] / 2 and not p.refused[n]}
    if cheap:
        quick = chosen(p.model, p.facts, cheap)
        lost = max(0.0, p.expected[p.pick].accuracy - quick.accuracy)
        found.append(
            f"With only {enough(TIME_MARGIN * p.seconds[quick.strategy])}: {quick.strategy}, "
            f"{points(lost)} less."
        )
    if with_more.strategy != p.pick:
        found.append(f"With 4 × the images: {with_more.strategy}.")
    elif with_more.accuracy - p.expected[p.pick].accuracy > LEAST_GAIN:
        found.append(f"With 4 × the images still {p.pick}, then at about {100 * with_more.accuracy:.0f} %.")
    return tuple(found)
