"""The study's conclusions in at most ten sentences, for the terminal and the top of the page."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from frostline import sentences
from frostline.reports import prediction_table
from frostline.reports.display_names import shortened
from frostline.reports.study_reader import (
    PredictionTable,
    StudyContents,
    add_problem,
    read_operating_point,
)
from frostline.reports.tried_strategies import Row, rows_of_backbone, run_count, stage_count
from frostline.sentences import Basis, Closeness, between, counted, percent

MOST_LINES = 10
# Raised on a file that is valid JSON with unexpected content.
DAMAGED_FILE_ERRORS = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    IndexError,
    ZeroDivisionError,
    OverflowError,
)
# Thresholds of the wording: calibration errors that matter in practice.
DISTANCES = {
    Closeness.NEAR: "close to",
    Closeness.BETWEEN: "at some distance from",
    Closeness.FAR: "far from",
}
EXPECTATIONS = {
    Closeness.NEAR: "its frozen features may suffice",
    Closeness.BETWEEN: "unfreezing some layers may help",
    Closeness.FAR: "unfreezing layers tends to help",
}
GOOD_CALIBRATION, FAIR_CALIBRATION = 0.03, 0.08


@dataclass(frozen=True)
class ReportContext:
    """What all sections use, computed once."""

    contents: StudyContents
    rows: list[Row]
    predictions: PredictionTable | None  # that the model is evaluated by
    label_predictions: PredictionTable | None  # that labels are checked by
    label_issues: list[int]  # rows of `label_predictions.averaged()`


@dataclass(frozen=True)
class Headline:
    """The accuracy shown first; `record` is described in `frostline.sentences`."""

    strategy: str
    model: str
    record: dict[str, Any]

    @property
    def accuracy(self) -> float:
        """Return the accuracy, a fraction 0–1."""
        return float(self.record["accuracy"])

    @property
    def low(self) -> float:
        """Return the lower end of the 95 % interval."""
        return float(self.record["low"])

    @property
    def high(self) -> float:
        """Return the upper end of the 95 % interval."""
        return float(self.record["high"])

    @property
    def basis(self) -> str:
        """Return what the accuracy is measured on, in words."""
        return sentences.basis(self.record)

    @property
    def caveats(self) -> list[str]:
        """Return the accuracy's caveats, in sentences."""
        return sentences.caveats(self.record)


def forgotten_line(forgetting: dict[str, Any]) -> str:
    """Return a sentence about forgetting, from `Forgetting.as_dict`."""
    trained_images_sentence = _trained_images_sentence(forgetting.get("learned"))
    if forgetting["before"] is None:
        return (
            "What the network forgot can't be measured: it was trained on every image it was evaluated on."
            f"{trained_images_sentence}"
        )
    before, after, lost = (100 * float(forgetting[key]) for key in ("before", "after", "lost"))
    span = (
        ""
        if forgetting["low"] is None
        else f" ({100 * forgetting['low']:.1f} to {100 * forgetting['high']:.1f})"
    )
    return (
        f"On {counted(int(forgetting['n_images']), 'image')} of its own classes, through its own head, the "
        f"network's accuracy was {before:.1f} % before adapting and is {after:.1f} % after: {lost:.1f} "
        f"points{span} forgotten.{trained_images_sentence}"
    )


def _trained_images_sentence(learned: dict[str, Any] | None) -> str:
    """Return a sentence about images that the network was trained on: no measure of new images."""
    if not learned:
        return ""
    return (
        f" On images it had been trained on (n = {learned['n_images']}; no measure of new images) the "
        f"accuracy was {100 * learned['before']:.1f} % before and is {100 * learned['after']:.1f} % after."
    )


def duration(seconds: float) -> str:
    """Format seconds for people: `8.3 s`, `12 min`, `1.5 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def headline(context: ReportContext) -> Headline | None:
    """Return the headline: the comparison's own where there is one, else that of the best run."""
    try:
        return _headline(context)
    except DAMAGED_FILE_ERRORS as error:
        add_problem(
            context.contents,
            f"The headline is left out: {context.contents.path} holds a damaged value ({error!r}).",
        )
        return None


def _headline(context: ReportContext) -> Headline | None:
    run = context.contents.best_run
    record = _record(context)
    if run is None or run.result is None or record is None or record["accuracy"] is None:
        return None
    comparison = context.contents.comparison.result if context.contents.comparison else None
    name = comparison["winner"] if comparison and comparison.get("run") == run.path else run.strategy
    return Headline(str(name), str(run.result["model"]), record)


def _record(context: ReportContext) -> dict[str, Any] | None:
    """Return the record of the accuracy: the stored one of the best run, else a computed one."""
    contents, run = context.contents, context.contents.best_run
    if run is None or run.result is None:
        return None
    stored_results = [contents.comparison.result if contents.comparison else None, contents.fit]
    record = next(
        (result["headline"] for result in stored_results if result and result.get("run") == run.path), None
    )
    if record is not None and (record["accuracy"] is not None or context.predictions is None):
        return {**record, "test_evaluations": contents.test_evaluations or record.get("test_evaluations")}
    if run.result.get("accuracy") is not None:
        return {
            **run.result,
            "basis": Basis.TEST,
            "images": run.result["n_test"],
            "test_evaluations": contents.test_evaluations,
        }
    if context.predictions is None:
        return None
    accuracy, low, high = prediction_table.interval(contents, context.predictions)
    return {
        **(prediction_table.balance(contents, context.predictions) or {}),
        "accuracy": accuracy,
        "low": low,
        "high": high,
        **_of_predictions(context.predictions),
    }


def _of_predictions(predictions: PredictionTable) -> dict[str, Any]:
    """Return what a record says of the images that a table of predictions is on."""
    n_images = predictions.n_images
    return {"basis": predictions.basis, "images": n_images, "pool": n_images, "folds": 0}


def basis(context: ReportContext) -> str:
    """Return which images the predictions are on, in words: the headline's where they are the same."""
    predictions, head = context.predictions, headline(context)
    assert predictions is not None
    if head is not None and (
        head.record["basis"] == predictions.basis or predictions.basis is Basis.OUT_OF_FOLD
    ):
        return sentences.basis({**head.record, "optimism": None})
    return sentences.basis(_of_predictions(predictions))


def conclusions(context: ReportContext, study: str = "") -> list[str]:
    """Return at most ten sentences, the most important first.

    `study` is the folder's path as the user gave it. A page has its last part, so that its bytes don't depend
    on where the folder is.
    """
    parts: list[Callable[[ReportContext], list[str]]] = [
        _result,
        _operating_point,
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
            lines += part(context)
        except DAMAGED_FILE_ERRORS as error:
            add_problem(
                context.contents,
                f"A sentence is left out: {context.contents.path} holds a damaged value ({error!r}).",
            )
    return [*lines[: MOST_LINES - 1], next_step(context, study)]


def next_step(context: ReportContext, study: str = "") -> str:
    """Return the next command to run."""
    if context.contents.best_run is None:
        return "No run is finished yet: repeat the command that began this study to resume it."
    study_name = study or context.contents.path.name or str(context.contents.path)
    return f"Label new images: frostline predict {shlex.quote(study_name)} IMAGES"


def _result(context: ReportContext) -> list[str]:
    head = headline(context)
    if head is None:
        record = _record(context)
        if record is not None and record.get("note"):
            return [str(record["note"])]
        finished = [row for row in context.rows if row.accuracy is not None]
        if not finished:
            return []
        best = finished[0]
        is_finished = (
            context.contents.comparison is not None and context.contents.comparison.result is not None
        )
        prefix = "" if is_finished else "So far "
        return [f"{prefix}{best.title} leads with {percent(best.accuracy or 0.0)} on {best.evaluated_on}."]
    return [
        (
            f"{head.strategy} on {head.model} has an accuracy of {percent(head.accuracy)} on new images "
            f"({between(head.low, head.high)}): {head.basis}."
        ),
        *head.caveats,
    ]


def _operating_point(context: ReportContext) -> list[str]:
    """Return how the model decides, where that is not the highest probability, and what it promises."""
    run = context.contents.best_run
    if run is None:
        return []
    point = read_operating_point(context.contents, run)
    return [] if point is None else list(point["sentences"])


def _verdict(context: ReportContext) -> list[str]:
    comparison = context.contents.comparison
    if comparison is None:
        return []
    if comparison.result is None:
        n_runs = run_count(context.contents, context.rows)
        return [f"The comparison is not finished: {counted(n_runs, 'run')} so far."]
    return [str(line) for line in comparison.result["verdict"]][:2]


def _against_probe(context: ReportContext) -> list[str]:
    """Return what unfreezing gained over the linear probe, and its extra time."""
    rows = rows_of_backbone(context.contents, context.rows)
    best = next((row for row in rows if row.winner), None)
    if best is None or best.is_linear_probe:
        return []
    probe = next((row for row in rows if row.is_linear_probe and row.size == best.size), None)
    if probe is None or not (probe.seconds and best.seconds):
        return []
    if probe.accuracy is None or best.accuracy is None:
        return []
    gain = 100 * (best.accuracy - probe.accuracy)
    direction = "more" if gain >= 0 else "less"
    significance = _significance(context, probe, best)
    action = "Training a head" if best.cut is not None and best.cut == probe.cut else "Unfreezing layers"
    cost_ratio = best.seconds / probe.seconds
    return [
        (
            f"{action} ({best.strategy}) reached {abs(gain):.1f} points {direction} than a linear probe "
            f"on the frozen network{significance}, for {cost_ratio:.{0 if cost_ratio >= 3 else 1}f} times "
            f"its time ({duration(best.seconds)} against {duration(probe.seconds)} per run)."
        )
    ]


def _significance(context: ReportContext, probe: Row, best: Row) -> str:
    """Return whether the difference is significant, in words: as in the verdict, where there is one."""
    comparison = context.contents.comparison.result if context.contents.comparison else None
    if comparison is None:
        separated = None not in (probe.high, best.low) and (best.low or 0.0) > (probe.high or 0.0)
        return "" if separated else ", though the intervals overlap"
    differences = [
        difference
        for difference in comparison["differences"]
        if set(difference["candidates"]) == {probe.candidate, best.candidate}
    ]
    if not differences:
        return ", though with too few runs for a significance test"
    return "" if differences[0]["separated"] else ", not significantly different"


def _images(context: ReportContext) -> list[str]:
    data = context.contents.data
    if data is None:
        return []
    extra = []
    if data.skipped:
        extra.append(f"{counted(len(data.skipped), 'file')} skipped as unusable")
    copies = len(data.samples) - len({sample.digest for sample in data.samples})
    if copies:
        extra.append(counted(copies, "exact copy", "exact copies"))
    if data.conflicts:
        extra.append(f"{counted(len(data.conflicts), 'picture')} with two different labels")
    suffix = f"; {', '.join(extra)}" if extra else ""
    return [
        f"{counted(len(data.samples), 'image')} in {counted(len(data.classes), 'class', 'classes')}{suffix}."
    ]


def _network(context: ReportContext) -> list[str]:
    signals = context.contents.signals
    similarity = (signals or {}).get("similarity")
    if not similarity:
        return []
    value = similarity["value"]
    closeness = Closeness.of(value)
    distance = f"The images are {DISTANCES[closeness]} the network's pretraining images"
    return [f"{distance} (similarity {value:.2f} of 1): {_meaning(context, closeness)}."]


def _meaning(context: ReportContext, closeness: Closeness) -> str:
    """Return what the distance implies: what was chosen, else what to expect."""
    best = next((row for row in context.rows if row.winner), None)
    if (
        best is not None
        and best.cut is not None
        and (n_stages := stage_count(context.contents, best.example_run))
    ):
        frozen = best.cut >= n_stages - 1
        return "its frozen features were used" if frozen else "a strategy that unfreezes layers was chosen"
    return EXPECTATIONS[closeness]


def _weakest(context: ReportContext) -> list[str]:
    if context.predictions is None:
        return []
    rows, classes = prediction_table.classes(context.predictions), context.predictions.classes
    row = rows[0]
    if row.recall == 1.0:
        subject = "Every class" if len(rows) == len(classes) else "Every class that was evaluated"
        return [f"{subject} has a recall of 100 %."]
    confusion = (
        f", most often confused with {shortened(classes[row.confused_with], 30)}"
        if row.confused_with is not None
        else ""
    )
    return [
        (
            f"Hardest class: {shortened(classes[row.class_index], 30)}, recall {percent(row.recall)} on "
            f"{counted(row.n_images, 'image')}{confusion}."
        )
    ]


def _labels(context: ReportContext) -> list[str]:
    if not context.label_issues:
        return []
    n_issues = len(context.label_issues)
    return [
        (
            f"{counted(n_issues, 'image')} may be mislabelled. Check each before you correct it: hard images "
            "with a correct label look the same to this test."
        )
    ]


def _trust(context: ReportContext) -> list[str]:
    if context.predictions is None:
        return []
    calibration = prediction_table.calibration(context.predictions)
    confidence, accuracy = percent(calibration.confidence), percent(calibration.accuracy)
    if calibration.error <= calibration.by_chance > FAIR_CALIBRATION:
        return [
            (
                f"Whether its probabilities are calibrated can't be told from {calibration.images} images: "
                f"mean confidence {confidence}, accuracy {accuracy}."
            )
        ]
    verdict = (
        "Its probabilities are well calibrated"
        if calibration.error <= GOOD_CALIBRATION
        else "Its probabilities are roughly calibrated"
        if calibration.error <= FAIR_CALIBRATION
        else "Its probabilities are poorly calibrated"
    )
    gap = (
        ""
        if calibration.error <= GOOD_CALIBRATION
        else f"; the calibration error is {100 * calibration.error:.1f} points"
    )
    return [f"{verdict}: mean confidence {confidence}, accuracy {accuracy}{gap}."]


def _advice(context: ReportContext) -> list[str]:
    """Return how the advised strategy did."""
    advice = context.contents.advice
    if advice is None:
        return []
    name = str(advice["recommended"])
    backbone_rows = rows_of_backbone(context.contents, context.rows)
    advised = next((row for row in backbone_rows if row.strategy == name and row.complete), None)
    if advised is None or advised.accuracy is None:
        best_run = context.contents.best_run
        if best_run is not None and best_run.strategy == name:
            return [f"The advice was {name}, which is the strategy used."]
        return [f"The advice was {name}; it was not evaluated here."]
    if advised.winner:
        return [f"The advice was {name}, and it won."]
    best = next((row for row in context.rows if row.winner), None)
    if best is None or best.accuracy is None:
        return [f"The advice was {name}; it reached {percent(advised.accuracy)}."]
    difference = 100 * (best.accuracy - advised.accuracy)
    return [
        (
            f"The advice was {name}; it reached {percent(advised.accuracy)}, "
            f"{abs(difference):.1f} points {'below' if difference >= 0 else 'above'} the winner."
        )
    ]
