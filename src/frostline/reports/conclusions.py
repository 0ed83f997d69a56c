"""The study's conclusions in at most ten sentences: what the terminal prints and the page opens with."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from frostline import sentences
from frostline.reports import prediction_table as j
from frostline.reports.display_names import shortened
from frostline.reports.study_reader import Answers, Told, note
from frostline.reports.tried_strategies import Row, of_network, pareto, runs, stage_count
from frostline.sentences import between, counted, percent

MOST_LINES = 10
# What a file that is JSON, and not what it should be, comes to.
DAMAGE = (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError, OverflowError)
# Words for a number: similarity as `frostline measure` words it; gaps in calibration that one may act on.
NEAR, FAR = 0.55, 0.25
GOOD_CALIBRATION, FAIR_CALIBRATION = 0.03, 0.08


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
    """The figure that stands first; `record` is as `frostline.sentences` says."""

    strategy: str
    model: str
    record: dict[str, Any]

    @property
    def accuracy(self) -> float:
        """A fraction 0–1."""
        return float(self.record["accuracy"])

    @property
    def low(self) -> float:
        """The lower end of the 95 % interval."""
        return float(self.record["low"])

    @property
    def high(self) -> float:
        """The upper end of the 95 % interval."""
        return float(self.record["high"])

    @property
    def basis(self) -> str:
        """What the figure is of, in words."""
        return sentences.basis(self.record)

    @property
    def caveats(self) -> list[str]:
        """What it must not be read without, in sentences."""
        return sentences.caveats(self.record)


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


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def headline(found: Found) -> Headline | None:
    """Return the one figure: the comparison's own where there is one, else that of the run that answers."""
    try:
        return _headline(found)
    except DAMAGE as error:
        note(found.told, f"The headline is left out: {found.told.path} holds a damaged figure ({error!r}).")
        return None


def _headline(found: Found) -> Headline | None:
    run = found.told.answering
    record = _record(found)
    if run is None or run.result is None or record is None or record["accuracy"] is None:
        return None
    race = found.told.comparison.result if found.told.comparison else None
    name = race["winner"] if race and race.get("run") == run.path else run.strategy
    return Headline(str(name), str(run.result["model"]), record)


def _record(found: Found) -> dict[str, Any] | None:
    """Return the record of the accuracy: the one that was stored, where one was of the run that answers."""
    told, run = found.told, found.told.answering
    if run is None or run.result is None:
        return None
    stored = [told.comparison.result if told.comparison else None, told.fit]
    record = next((one["headline"] for one in stored if one and one.get("run") == run.path), None)
    if record is not None and (record["accuracy"] is not None or found.answers is None):
        return {**record, "test_looks": told.test_looks or record.get("test_looks")}
    if run.result.get("accuracy") is not None:
        return {
            **run.result,
            "basis": "test part",
            "images": run.result["n_test"],
            "test_looks": told.test_looks,
        }
    if found.answers is None:
        return None
    accuracy, low, high = j.interval(told, found.answers)
    return {
        **(j.balance(told, found.answers) or {}),
        "accuracy": accuracy,
        "low": low,
        "high": high,
        "basis": found.answers.basis,
        "images": found.answers.images,
    }


def basis(found: Found) -> str:
    """Say which images the answers are about: the headline's where they are the same."""
    answers, head = found.answers, headline(found)
    assert answers is not None
    if head is not None and (head.record["basis"] == answers.basis or answers.basis == "out of fold"):
        return sentences.basis({**head.record, "optimism": None})
    return sentences.basis(
        {"basis": answers.basis, "images": answers.images, "pool": answers.images, "folds": 0}
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
        record = _record(found)
        if record is not None and record.get("note"):
            return [str(record["note"])]
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
            f"({between(head.low, head.high)}): {head.basis}."
        ),
        *head.caveats,
    ]


def _verdict(found: Found) -> list[str]:
    race = found.told.comparison
    if race is None:
        return []
    if race.result is None:
        return [f"The comparison is not finished: {counted(runs(found.told, found.rows), 'run')} so far."]
    return [str(line) for line in race.result["verdict"]][:2]


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
    sure = _apart(found, probe, best)
    what = "Training a head" if best.cut is not None and best.cut == probe.cut else "Letting layers learn"
    times = best.seconds / probe.seconds
    return [
        (
            f"{what} ({best.strategy}) reached {abs(gain):.1f} points {word} than a linear probe on the "
            f"frozen network{sure}, for {times:.{0 if times >= 3 else 1}f} times its time "
            f"({duration(best.seconds)} against {duration(probe.seconds)} a run)."
        )
    ]


def _apart(found: Found, probe: Row, best: Row) -> str:
    """Say whether the two can be told from each other: as the verdict does, where there was one."""
    race = found.told.comparison.result if found.told.comparison else None
    if race is None:
        clear = None not in (probe.high, best.low) and (best.low or 0.0) > (probe.high or 0.0)
        return "" if clear else ", though the intervals overlap"
    pair = {probe.title, best.title}
    pairs = [row for row in race["differences"] if {row["leader"], row["other"]} == pair]
    if not pairs:
        return ", though they were not tried often enough to tell"
    return "" if pairs[0]["separated"] else ", too close to call"


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
    lie = f"The images lie {word} what the network was trained on (similarity {value:.2f} of 1)"
    return [f"{lie}: {_meaning(found, word)}."]


def _meaning(found: Found, word: str) -> str:
    """What the distance comes to: what was chosen where something was, else what it lets expect."""
    best = next((row for row in found.rows if row.winner), None)
    if best is not None and best.cut is not None and (top := stage_count(found.told, best.one)):
        frozen = best.cut >= top - 1
        return "its features were used as they are" if frozen else "layers that learn were chosen"
    return {
        "close to": "its features may fit as they are",
        "far from": "letting layers learn tends to pay",
    }.get(word, "letting some layers learn may pay")


def _weakest(found: Found) -> list[str]:
    if found.answers is None:
        return []
    rows, names = j.classes(found.answers), found.answers.classes
    row = rows[0]
    if row.recall == 1.0:
        every = "Every class" if len(rows) == len(names) else "Every class that was asked"
        return [f"{every} was recognised without a mistake."]
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
    return [f"{word}: of the images asked it says {said} on average, and {right} were right{gap}."]


def _advice(found: Found) -> list[str]:
    """Whether what experience advised has proved right."""
    advice = found.told.advice
    if advice is None:
        return []
    name = str(advice["recommended"])
    known = of_network(found.told, found.rows)
    mine = next((row for row in known if row.strategy == name and row.whole), None)
    if mine is None or mine.accuracy is None:
        answering = found.told.answering
        if answering is not None and answering.strategy == name:
            return [f"Experience had advised {name}, which answers."]
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
