"""The study's conclusions in at most ten sentences: what the terminal prints and the page opens with."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from frostline.reporting import judged as j
from frostline.reporting.naming import shortened
from frostline.reporting.reading import Answers, RunRead, Told, note
from frostline.reporting.tried import Row, of_network, pareto

MOST_LINES = 10
# What a file that is JSON, and not what it should be, comes to.
DAMAGE = (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError, OverflowError)
# Words for a number: similarity as `frostline measure` words it; gaps in calibration that one may act on.
NEAR, FAR = 0.55, 0.25
GOOD_CALIBRATION, FAIR_CALIBRATION = 0.03, 0.08
BASIS = {
    "test part": "measured on the test part, images that no choice has seen",
    "out of fold": "estimated from models that learned from four fifths of the images, each asked about the "
    "rest",
    "short runs": "a first estimate, from short runs on part of the images; the model was trained for longer",
    "cross-validation": "estimated by cross-validation on the training images",
    "val part": "measured on the val part, which also chose the weights, so a little flattering",
}


@dataclass(frozen=True)
class Found:
    """What the sections share: worked out once."""

    told: Told
    rows: list[Row]
    answers: Answers | None  # that the model is judged by
    doubts: Answers | None  # that labels are doubted by
    doubtful: list[int]


@dataclass(frozen=True)
class Headline:
    """The figure that stands first. Rates 0–1."""

    strategy: str
    model: str
    accuracy: float
    low: float
    high: float
    basis: str
    optimism: float | None


def forgotten_line(found: dict[str, Any]) -> str:
    """Say what `remembering.Forgetting.as_dict` holds."""
    apart = _learned_line(found.get("learned"))
    if found["before"] is None:
        return f"What the network forgot can't be told: it had learned from every image asked about.{apart}"
    before, after, lost = (100 * float(found[key]) for key in ("before", "after", "lost"))
    span = "" if found["low"] is None else f" ({100 * found['low']:.1f} to {100 * found['high']:.1f})"
    return (
        f"Of {counted(int(found['n_images']), 'image')} of its own classes the network answered "
        f"{before:.1f} % right before adapting and {after:.1f} % after, through its own head: {lost:.1f} "
        f"points{span} forgotten.{apart}"
    )


def _learned_line(learned: dict[str, Any] | None) -> str:
    """Say what was seen on images that the network had learned from: no measure of new images."""
    if not learned:
        return ""
    return (
        f" Already learned before, n = {learned['n_images']}, no measure of new images: "
        f"{100 * learned['before']:.1f} % right before and {100 * learned['after']:.1f} % after."
    )


def percent(value: float) -> str:
    """A fraction as people read it."""
    return f"{100 * value:.1f} %"


def between(low: float, high: float) -> str:
    """An interval as people read it."""
    return f"{100 * low:.1f}–{100 * high:.1f} %"


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 image`, `1,204 images`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def headline(found: Found) -> Headline | None:
    """Return the one figure: the comparison's own where there is one, else that of the run that answers."""
    try:
        return _headline(found)
    except DAMAGE as error:
        note(found.told, f"The headline is left out: {found.told.path} holds a damaged figure ({error!r}).")
        return None


def _headline(found: Found) -> Headline | None:
    told = found.told
    run = told.answering
    if run is None or run.result is None:
        return None
    if found.answers is None:
        return _of_fit(told, run)
    race = told.comparison.result if told.comparison else None
    model = str(run.result["model"])
    if race and race.get("run") == run.path:
        held = race["out_of_fold"]
        if race["accuracy"] is not None:
            return Headline(
                race["winner"], model, race["accuracy"], race["low"], race["high"], "test part", None
            )
        if held["accuracy"] is not None:
            return Headline(
                race["winner"],
                model,
                held["accuracy"],
                held["low"],
                held["high"],
                "out of fold" if held.get("share", 1.0) == 1.0 else "short runs",
                held["optimism"],
            )
    accuracy, low, high = j.interval(told, found.answers)
    return Headline(run.strategy, model, accuracy, low, high, found.answers.basis, None)


def _of_fit(told: Told, run: RunRead) -> Headline | None:
    """Return what `fit` says of a model that has no table of answers: a probe that was cross-validated."""
    fit = told.fit
    if fit is None or fit["accuracy"] is None or run.name != PurePath(str(fit["run"])).name:
        return None
    return Headline(
        run.strategy, str(fit["model"]), fit["accuracy"], fit["low"], fit["high"], fit["basis"], None
    )


def conclusions(found: Found, study: str = "") -> list[str]:
    """Return at most ten sentences, the most important first.

    `study` is the folder as it was named; a page, the same bytes wherever the folder lies, has its last part.
    """
    parts: list[Callable[[Found], list[str]]] = [
        _result,
        _verdict,
        _against_probe,
        _images,
        _network,
        _weakest,
        _labels,
        _trust,
        _advice,
    ]
    lines: list[str] = []
    for part in parts:
        try:
            lines += part(found)
        except DAMAGE as error:
            note(found.told, f"A sentence is left out: {found.told.path} holds a damaged figure ({error!r}).")
    return [*lines[: MOST_LINES - 1], next_step(found, study)]


def next_step(found: Found, study: str = "") -> str:
    """Say what to type next."""
    if found.told.answering is None:
        return "Nothing is finished yet: the command that began this study goes on where it stopped."
    named = study or found.told.path.name or str(found.told.path)
    return f"Label new images: frostline predict {shlex.quote(named)} IMAGES"


def _result(found: Found) -> list[str]:
    head = headline(found)
    if head is None:
        done = [row for row in found.rows if row.accuracy is not None]
        if not done:
            return []
        best = done[0]
        over = found.told.comparison is not None and found.told.comparison.result is not None
        so_far = "" if over else "So far "
        return [f"{so_far}{best.title} leads with {percent(best.accuracy or 0.0)} on {best.on}."]
    return [
        (
            f"{head.strategy} on {head.model} answers {percent(head.accuracy)} of new images right "
            f"({between(head.low, head.high)}): {basis(head)}."
        )
    ]


def basis(head: Headline) -> str:
    """Say what kind of figure the headline is."""
    if not head.optimism:
        return BASIS[head.basis]
    return f"{BASIS[head.basis]}, lowered by {100 * head.optimism:.1f} points for being the pick of several"


def _verdict(found: Found) -> list[str]:
    race = found.told.comparison
    if race is None:
        return []
    if race.result is None:
        done = sum(row.count for row in found.rows)
        return [f"The comparison is not finished: {counted(done, 'run')} so far."]
    return [str(line) for line in race.result["verdict"] if "test part" not in str(line)][:2]


def _against_probe(found: Found) -> list[str]:
    """What thawing bought beside the cheapest thing that can be done, and for how much more time."""
    mine = of_network(found.told, found.rows)
    probe = next((row for row in mine if row.strategy.startswith("linear_probe")), None)
    best = next((row for row in mine if row.winner), None)
    if not probe or not best or probe is best or not (probe.seconds and best.seconds):
        return []
    if probe.accuracy is None or best.accuracy is None:
        return []
    gain = 100 * (best.accuracy - probe.accuracy)
    word = "more" if gain >= 0 else "less"
    clear = probe.high is not None and best.low is not None and best.low > probe.high
    sure = "" if clear or gain < 0 else ", though the intervals overlap"
    what = "Training a head" if best.cut is not None and best.cut == probe.cut else "Letting layers learn"
    times = best.seconds / probe.seconds
    return [
        (
            f"{what} ({best.strategy}) reached {abs(gain):.1f} points {word} than a linear probe on the "
            f"frozen network{sure}, for {times:.{0 if times >= 3 else 1}f} times its time "
            f"({duration(best.seconds)} against {duration(probe.seconds)} a run)."
        )
    ]


def _images(found: Found) -> list[str]:
    data = found.told.data
    if data is None:
        return []
    extra = []
    if data.set_aside:
        extra.append(f"{counted(len(data.set_aside), 'file')} set aside as unusable")
    copies = len(data.samples) - len({sample.digest for sample in data.samples})
    if copies:
        extra.append(counted(copies, "exact copy", "exact copies"))
    if data.conflicts:
        extra.append(f"{counted(len(data.conflicts), 'picture')} with two different labels")
    tail = f"; {', '.join(extra)}" if extra else ""
    return [
        f"{counted(len(data.samples), 'image')} in {counted(len(data.classes), 'class', 'classes')}{tail}."
    ]


def _network(found: Found) -> list[str]:
    signals = found.told.signals
    near = (signals or {}).get("similarity")
    if not near:
        return []
    value = near["value"]
    word = "close to" if value >= NEAR else ("far from" if value < FAR else "at some distance from")
    meaning = {
        "close to": "its features fit as they are",
        "far from": "letting layers learn tends to pay",
    }.get(word, "letting some layers learn may pay")
    return [
        f"The images lie {word} what the network was trained on (similarity {value:.2f} of 1): {meaning}."
    ]


def _weakest(found: Found) -> list[str]:
    if found.answers is None:
        return []
    row = j.classes(found.answers)[0]
    if row.recall == 1.0:
        return ["Every class was recognised without a mistake."]
    names = found.answers.classes
    taken = (
        f", most often taken for {shortened(names[row.taken_for], 30)}" if row.taken_for is not None else ""
    )
    return [
        (
            f"Hardest class: {shortened(names[row.place], 30)}, {percent(row.recall)} of "
            f"{counted(row.images, 'image')} recognised{taken}."
        )
    ]


def _labels(found: Found) -> list[str]:
    if not found.doubtful:
        return []
    many = len(found.doubtful)
    return [
        (
            f"{counted(many, 'image')} may be mislabelled: look before you correct, since hard images "
            "that are labelled right look just the same."
        )
    ]


def _trust(found: Found) -> list[str]:
    if found.answers is None:
        return []
    got = j.calibration(found.answers)
    word = (
        "Its probabilities can be taken at their word"
        if got.error <= GOOD_CALIBRATION
        else "Its probabilities are roughly right"
        if got.error <= FAIR_CALIBRATION
        else "Don't take its probabilities at their word"
    )
    gap = "" if got.error <= GOOD_CALIBRATION else f"; the mean gap is {100 * got.error:.1f} points"
    said, right = percent(got.said), percent(got.right)
    return [f"{word}: it says {said} on average and is right {right} of the time{gap}."]


def _advice(found: Found) -> list[str]:
    """Whether what experience advised has proved right."""
    advice = found.told.advice
    if advice is None:
        return []
    name = str(advice["recommended"])
    known = of_network(found.told, found.rows)
    mine = next((row for row in known if row.strategy == name and row.whole), None)
    if mine is None or mine.accuracy is None:
        return [f"Experience had advised {name}; it was not run to its end here."]
    if mine.winner:
        return [f"Experience had advised {name}, and it won."]
    best = next((row for row in found.rows if row.winner), None)
    if best is None or best.accuracy is None:
        return [f"Experience had advised {name}; it reached {percent(mine.accuracy)}."]
    apart = 100 * (best.accuracy - mine.accuracy)
    return [
        (
            f"Experience had advised {name}; it reached {percent(mine.accuracy)}, "
            f"{abs(apart):.1f} points {'below' if apart >= 0 else 'above'} the winner."
        )
    ]


def cheapest_good(rows: list[Row]) -> str:
    """Name those than which nothing is both cheaper and better."""
    names: list[Any] = [row.strategy for row in pareto(rows)]
    return ", ".join(names)
