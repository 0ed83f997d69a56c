"""Write advice in sentences, with the numbers that it is based on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from frostline.advice.forecast import UNKNOWN, Forecast, ForecastModel, choose_strategy, clearly_better
from frostline.advice.knowledge import Facts, Trial
from frostline.config import SAME_TIME
from frostline.sentences import signed
from frostline.strategies import parse

# 1 of 104 runs took longer than this times the prediction on an idle machine, more on a busy one
# (docs/LOG.md 2026-11-25); a budget is a hard limit.
TIME_MARGIN = 1.35
# 80 % interval of what a run takes, in predicted seconds, on a machine that others use: 744 runs, of which it
# holds 79 % on sets left out (docs/LOG.md 2026-11-29). On a quiet machine runs are nearer.
SECONDS_SPAN = (0.75, 1.45)
UNFREEZING = ("lp_ft(refit_layers=4)", "lp_ft")  # what gains are told of: the first that was tried
PLAIN_PROBE = "linear_probe(layers=last)"
NOT_DIFFERENT = "not significantly different"
PLAINEST = "linear_probe"  # closed-form, nothing to tune: the start if nothing is known


@dataclass(frozen=True)
class Inputs:
    """What a recommendation is based on. `expected` is empty if `facts` is `None`."""

    facts: Facts | None
    model: ForecastModel
    expected: Mapping[str, Forecast]
    seconds: Mapping[str, float]
    over_budget: Mapping[str, str]  # why it does not fit the budget; empty if it does
    pick: str
    runner_up: str | None
    regrets: Mapping[str, float] = field(default_factory=dict)  # of the pick, 0–1, by earlier image set


def minutes(seconds: float) -> str:
    """Return a duration as text, in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{max(0.1, seconds):.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def seconds_between(low: float, high: float) -> str:
    """Return an interval of durations as text; the unit once if it is the same."""
    ends = minutes(low).split(), minutes(high).split()
    if ends[0] == ends[1]:
        return minutes(high)
    first = ends[0][0] if ends[0][1] == ends[1][1] else minutes(low)
    return f"{first}–{minutes(high)}"


def enough(seconds: float) -> str:
    """Return a duration as text, rounded up."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 5400 else f"{math.ceil(seconds / 360) / 10:.1f} h"


def room(size_bytes: float) -> str:
    """Return a size in megabytes as text, rounded up."""
    return f"{math.ceil(size_bytes / 1e6):,} MB"


def points(difference: float) -> str:
    """Return a difference of accuracies as text, in points."""
    return f"{100 * difference:.1f} points"


def reason(inputs: Inputs, name: str) -> str:
    """Return in a few words how an option compares with the recommended one."""
    if inputs.over_budget[name]:
        return f"does not fit: {inputs.over_budget[name]}"
    if inputs.facts is None:
        return "recommended" if name == inputs.pick else ""
    if name == inputs.pick:
        feasible = [e for n, e in inputs.expected.items() if not inputs.over_budget[n]]
        best = max(feasible, key=lambda e: e.accuracy)
        if best.strategy == name:
            return "recommended"
        return f"recommended: {'best on average' if _by_default(inputs) else 'as good, and cheaper'}"
    gap = inputs.expected[name].accuracy - inputs.expected[inputs.pick].accuracy
    time_ratio = inputs.seconds[name] / inputs.seconds[inputs.pick]
    time_text = f"{time_ratio:.1f} × the time" if time_ratio >= 1 else f"1/{1 / time_ratio:.1f} the time"
    if 1 / SAME_TIME <= time_ratio <= SAME_TIME:
        time_text = "the same time"
    error = inputs.model.difference_error(name, inputs.pick)
    if error == UNKNOWN:
        return f"{signed(100 * gap)} points, hardly tried beside it, {time_text}"
    if abs(gap) <= error:
        return f"{NOT_DIFFERENT}, {time_text}"
    return f"{signed(100 * gap)} points, {time_text}"


def unknown(images: int, fewest: int, pick: str) -> tuple[str, ...]:
    """Return why nothing can be forecast, and what to do; at least `fewest` images can be measured."""
    if images < fewest:
        why = f"{images} training images are too few to measure, so nothing can be forecast."
    else:
        why = "No class has two independent images, so nothing can be forecast."
    return why, f"{pick} is {'the simplest start' if pick == PLAINEST else 'the cheapest that fits'}."


def why(inputs: Inputs, similarity_text: str) -> tuple[str, ...]:
    """Return two sentences: why the strategy is recommended, and which is next."""
    assert inputs.facts is not None
    forecast = inputs.expected[inputs.pick]
    span = f"{100 * forecast.low:.0f}–{100 * forecast.high:.0f} %"
    facts = inputs.facts
    expectation = (
        f"With {facts.images:,} training images of {facts.classes} classes, {similarity_text} "
        f"and {_frozen_text(facts)}, {inputs.pick} is expected to reach "
        f"{100 * forecast.accuracy:.0f} % ({span}) on new images, in about "
        f"{minutes(inputs.seconds[inputs.pick])}."
    )
    if inputs.runner_up is None:
        return (expectation,)
    next_forecast = inputs.expected[inputs.runner_up]
    takes = minutes(inputs.seconds[inputs.runner_up])
    runner_up = f"{inputs.runner_up} ({100 * next_forecast.accuracy:.0f} %, {takes})"
    following = f"next is {runner_up}"
    default = inputs.expected.get(inputs.model.default)
    if inputs.model.departs_from_default and default is not None and default.strategy != inputs.pick:
        name = inputs.model.deciding(inputs.pick, default.strategy, facts)
        reason = (
            f"On average {default.strategy} was best ({100 * default.accuracy:.0f} % here), but {name} is "
            f"{inputs.model.evidence[name](facts):.2f}, {inputs.model.typical[name]:.2f} in earlier trials"
        )
    elif _by_default(inputs) and forecast.accuracy < next_forecast.accuracy:
        reason = (
            f"It was best on average on the {len(inputs.model.sets)} image sets of earlier trials, where "
            "choosing another by forecast gained nothing that is proven"
        )
    elif forecast.accuracy > next_forecast.accuracy and clearly_better(inputs.model, forecast, next_forecast):
        gap = points(forecast.accuracy - next_forecast.accuracy)
        reason, following = f"It is {gap} ahead of the next, {runner_up}", ""
    else:
        reason, following = f"In earlier trials it is not significantly different from {runner_up}", ""
        lead = inputs.model.mean_lead(inputs.pick, inputs.runner_up, inputs.facts)
        cheaper = inputs.seconds[inputs.runner_up] < inputs.seconds[inputs.pick]
        reason += f", which was {points(lead)} worse on average" if cheaper and lead > 0 else ""
    return expectation, "; ".join(filter(None, (reason, expected_loss(inputs), following))) + "."


def _frozen_text(facts: Facts) -> str:
    if facts.linear_probe is not None:
        return f"{PLAINEST} at {100 * facts.linear_probe:.0f} % out of fold"
    return f"probes of the frozen network's best three stages at {100 * facts.frozen:.0f} % on average"


def expected_loss(inputs: Inputs) -> str:
    """Return what the choice is expected to lose, as text; empty if nothing is known of it."""
    if not inputs.regrets:
        return ""
    worst = max(inputs.regrets, key=inputs.regrets.__getitem__)
    mean = sum(inputs.regrets.values()) / len(inputs.regrets)
    return (
        f"it is expected to lose {points(mean)} to whichever turns out best ("
        f"{points(inputs.regrets[worst])} on images like the worst of {len(inputs.regrets)} sets)"
    )


def _by_default(inputs: Inputs) -> bool:
    """Whether the recommended strategy is the default, independent of what was measured."""
    return inputs.pick == inputs.model.default and not inputs.model.departs_from_default


def outlook(trials: Sequence[Trial], *, plain_timm: bool = False) -> str:
    """Return a sentence about what unfreezing layers gained over a linear probe in earlier trials.

    With `plain_timm` both have heads that read the last stage alone.
    """
    probe, unfreezing = (PLAIN_PROBE, UNFREEZING[-1:]) if plain_timm else (PLAINEST, UNFREEZING)
    gains: dict[str, list[float]] = {}
    for trial in trials:
        tried = [name for name in unfreezing if name in trial.accuracy]
        if probe in trial.accuracy and tried:
            gains.setdefault(trial.set, []).append(trial.accuracy[tried[0]] - trial.accuracy[probe])
    if not gains:
        return ""
    means = [100 * sum(values) / len(values) for values in gains.values()]
    return (
        f"With more minutes, unfreezing layers gained {sum(means) / len(means):.0f} points on average in "
        f"earlier trials ({min(means):.0f} to {max(means):.0f} on {len(means)} image sets)."
    )


def changes(inputs: Inputs, with_more: Forecast | None) -> tuple[str, ...]:
    """Return what would change the recommendation: more time, less time, more images."""
    if inputs.facts is None or with_more is None:
        return ()
    lines = []
    best = choose_strategy(inputs.model, inputs.facts, inputs.seconds)
    if best.strategy != inputs.pick:
        lines.append(
            f"With {enough(TIME_MARGIN * inputs.seconds[best.strategy])} and enough memory and disk: "
            f"{best.strategy}, {points(best.accuracy - inputs.expected[inputs.pick].accuracy)} more."
        )
    cheaper_than_half = {
        n: s
        for n, s in inputs.seconds.items()
        if s <= inputs.seconds[inputs.pick] / 2 and not inputs.over_budget[n]
    }
    if cheaper_than_half:
        quickest = choose_strategy(inputs.model, inputs.facts, cheaper_than_half)
        loss = max(0.0, inputs.expected[inputs.pick].accuracy - quickest.accuracy)
        lines.append(
            f"With only {enough(TIME_MARGIN * inputs.seconds[quickest.strategy])}: {quickest.strategy}, "
            f"{points(loss)} less."
        )
    if parse(inputs.pick).refit_layers:
        plain = str(replace(parse(inputs.pick), refit_layers=None))
        if plain in inputs.expected:
            loss = inputs.expected[inputs.pick].accuracy - inputs.expected[plain].accuracy
            lines.append(f"For weights that timm loads alone: {plain}, {points(max(0.0, loss))} less.")
    if with_more.strategy != inputs.pick:
        lines.append(f"With 4 × the images: {with_more.strategy}.")
    return tuple(lines)
