"""The report's sections on the model's quality: classes, confusions, mistakes, labels, calibration."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

from frostline import metrics
from frostline.reports import charts, prediction_table
from frostline.reports.chart_parts import Chart
from frostline.reports.conclusions import ReportContext, basis
from frostline.reports.display_names import shortened, unique_names, visible
from frostline.reports.section import MOST_BARS, MOST_CELLS, MOST_COUNTS, Section
from frostline.reports.study_reader import PredictionTable, StudyContents, read_json_object
from frostline.sentences import Basis, between, counted, named, percent

MOST_MISTAKES = 24  # shown as pictures
MOST_PICTURE_BYTES = 60_000  # of one picture; those of the error gallery have about a fifth of it
MOST_PAIRS = 8  # of classes that are confused


def classes(context: ReportContext) -> Section | None:
    """Return the section on recall and precision of each class, and the confusions."""
    predictions = context.predictions
    if predictions is None:
        return None
    section = Section("classes", "Metrics by class", "Classes")
    rows, names = prediction_table.classes(predictions), unique_names(predictions.classes)
    section.lead.append(
        f"{counted(predictions.n_images, 'image')}, {basis(context)}. A dot is a class's recall; a "
        "ring is its precision."
    )
    absent = [
        names[class_index]
        for class_index in range(len(names))
        if class_index not in {row.class_index for row in rows}
    ]
    if absent:
        section.lead.append(f"No image was evaluated of {named(absent)}.")
    if len(predictions.paths) > predictions.n_images:
        section.lead.append(
            "Images were predicted in several repeats: confusions and mistakes are by the mean of an image's "
            "probabilities."
        )
    section.charts.append(_recall_chart(rows, names, predictions))
    if 2 <= len(names) <= MOST_CELLS:
        section.charts.append(_confusion_chart(predictions, names))
    pairs = _pairs(predictions)
    section.more = {
        "pairs": [(names[true], names[predicted], count) for true, predicted, count in pairs[:MOST_PAIRS]]
    }
    return section


def _recall_chart(
    rows: list[prediction_table.ClassRow], names: list[str], predictions: PredictionTable
) -> Chart:
    shown = rows[:MOST_BARS]
    values = [
        {
            "name": names[row.class_index],
            "recall": row.recall,
            "low": row.low,
            "high": row.high,
            "precision": row.precision,
            "images": row.n_images,
        }
        for row in shown
    ]
    n_hidden = len(rows) - len(shown)
    return Chart(
        "recall",
        "Recall and precision by class",
        "The lowest recall first."
        + (f" {n_hidden:,} classes with higher recall are only in the table." if n_hidden else ""),
        charts.recalls(values, [names[row.class_index] for row in shown]),
        ("class", "images", "recall", "95 % interval", "precision", "most often confused with"),
        tuple(
            (
                visible(predictions.classes[row.class_index]),
                f"{row.n_images:,}",
                percent(row.recall),
                between(row.low, row.high),
                "" if row.precision is None else percent(row.precision),
                "" if row.confused_with is None else f"{names[row.confused_with]} ({row.times} ×)",
            )
            for row in rows
        ),
    )


def _confusion_chart(predictions: PredictionTable, names: list[str]) -> Chart:
    matrix = prediction_table.confusion(predictions)
    total = matrix.sum(axis=1)
    filled = [(true, predicted) for true, predicted in zip(*matrix.nonzero(), strict=True)]
    values = [
        {
            "true": names[true],
            "predicted": names[predicted],
            "count": int(matrix[true, predicted]),
            "share": float(matrix[true, predicted] / total[true]),
            "kind": "correct" if true == predicted else "wrong",
        }
        for true, predicted in filled
    ]
    return Chart(
        "confusion",
        "Confusion matrix",
        "Each row is a true class: blue is correct, orange is a mistake, and deeper is a larger share.",
        charts.confusion(values, names, counts=len(names) <= MOST_COUNTS),
        ("true class", "predicted", "images"),
        tuple((names[true], names[predicted], f"{matrix[true, predicted]:,}") for true, predicted in filled),
    )


def _pairs(predictions: PredictionTable) -> list[tuple[int, int, int]]:
    """Return (true, predicted, images) of confusions that occur more than once, the most frequent first."""
    matrix = prediction_table.confusion(predictions)
    confusions = [
        (int(true), int(predicted), int(matrix[true, predicted]))
        for true, predicted in zip(*matrix.nonzero(), strict=True)
        if true != predicted and matrix[true, predicted] > 1
    ]
    return sorted(confusions, key=lambda pair: (-pair[2], pair[0], pair[1]))


def mistakes(context: ReportContext) -> Section | None:
    """Return the section on the most confident mistakes, with class-activation maps."""
    predictions = context.predictions.averaged() if context.predictions else None
    if predictions is None:
        return None
    rows = prediction_table.mistakes(predictions)
    if not len(rows):
        return None
    section = Section("mistakes", "The most confident mistakes", "Mistakes")
    gallery = _gallery(context.contents, predictions)
    label_issue_paths = _label_issue_paths(context)
    cards = [
        _card(context.contents, predictions, row, gallery, label_issue_paths)
        for row in rows[:MOST_MISTAKES].tolist()
    ]
    section.lead.append(
        f"{counted(len(rows), 'mistake')} in {counted(len(predictions.paths), 'image')}, the most confident "
        "first" + ("." if len(cards) == len(rows) else f"; these are the first {len(cards)}.")
    )
    if any(card["map"] for card in cards):
        section.lead.append(
            "The second picture is the class-activation map of the predicted class: warm regions contribute "
            "most to the prediction."
        )
    elif gallery.get("note"):
        section.lead.append(str(gallery["note"]))
    section.more = {
        "cards": cards,
        "left_out": 0,
        "true": sorted({card["label"] for card in cards}),
        "predicted": sorted({card["predicted"] for card in cards}),
    }
    return section


def labels(context: ReportContext) -> Section | None:
    """Return the section on images whose label is likely wrong."""
    predictions = context.label_predictions.averaged() if context.label_predictions else None
    if predictions is None or not context.label_issues:
        return None
    section = Section("labels", "Labels worth checking", "Labels")
    gallery = _gallery(context.contents, predictions)
    mistake_paths = _mistake_paths(context)
    others = [row for row in context.label_issues if predictions.paths[row] not in mistake_paths]
    shown, n_issues = others[:MOST_MISTAKES], len(context.label_issues)
    section.lead.append(
        f"{counted(n_issues, 'label')} may be wrong: models that were not trained on "
        f"{'the image' if n_issues == 1 else 'these images'} contradict {'it' if n_issues == 1 else 'them'} "
        "more confidently than is usual for the class (confident learning, as in cleanlab). Check each "
        "before you correct it: a rare but correct example looks the same to this test."
    )
    if n_marked := n_issues - len(others):
        section.lead.append(
            f"{'All of them' if n_marked == n_issues else f'{n_marked} of them'} are among the mistakes "
            f"above, and are marked there{'.' if n_marked == n_issues else '; here are the others.'}"
        )
    section.more = {
        "cards": [_card(context.contents, predictions, row, gallery) for row in shown],
        "left_out": len(others) - len(shown),
    }
    return section


def _label_issue_paths(context: ReportContext) -> frozenset[str]:
    """Return the paths of the images whose label is likely wrong."""
    if context.label_predictions is None:
        return frozenset()
    paths = context.label_predictions.averaged().paths
    return frozenset(paths[row] for row in context.label_issues)


def _mistake_paths(context: ReportContext) -> frozenset[str]:
    """Return the paths of the images shown among the mistakes: they are not shown again."""
    if context.predictions is None:
        return frozenset()
    paths = context.predictions.averaged().paths
    return frozenset(
        paths[row] for row in prediction_table.mistakes(context.predictions)[:MOST_MISTAKES].tolist()
    )


def calibration(context: ReportContext) -> Section | None:
    """Return the section on calibration."""
    predictions = context.predictions
    if predictions is None or predictions.n_images < 2:
        return None
    reliability = prediction_table.calibration(predictions)
    section = Section("trust", "Calibration of its probabilities", "Probabilities")
    gap = 100 * (reliability.confidence - reliability.accuracy)
    direction = "overconfident" if gap > 0 else "underconfident"
    section.lead.append(
        "Of predictions with a probability of 90 %, nine in ten should be correct. Here the mean confidence "
        f"is {percent(reliability.confidence)} and the accuracy {percent(reliability.accuracy)}"
        + (f": {abs(gap):.1f} points {direction}." if abs(gap) >= 1 else ": well matched.")
        + f" The expected calibration error is {100 * reliability.error:.1f} points ({metrics.BINS} bins)."
    )
    losses = prediction_table.losses(context.contents, predictions)
    section.lead.append(
        f"Log loss is {_with_interval(losses, 'log_loss')} nats per image; the Brier score, summed over "
        f"classes, {_with_interval(losses, 'brier')}. Lower is better for both, and 0 is best."
    )
    values = [
        {
            "confidence": bin_row.confidence,
            "accuracy": bin_row.accuracy,
            "low": bin_row.low,
            "high": bin_row.high,
            "images": round(bin_row.n_images, 1),
        }
        for bin_row in reliability.bins
    ]
    section.charts.append(
        Chart(
            "calibration",
            "Reliability diagram",
            "On the dashed line confidence equals accuracy; below it the model is overconfident. Larger dots "
            "are more images.",
            charts.calibration(values),
            ("confidence", "accuracy", "95 % interval", "images"),
            tuple(
                (
                    percent(bin_row.confidence),
                    percent(bin_row.accuracy),
                    between(bin_row.low, bin_row.high),
                    f"{bin_row.n_images:,.3g}",
                )
                for bin_row in reliability.bins
            ),
        )
    )
    return section


def _with_interval(losses: dict[str, Any], name: str) -> str:
    low, high = losses[f"{name}_low"], losses[f"{name}_high"]
    span = "" if low is None or high is None else f" ({low:.3f}–{high:.3f})"
    return f"{losses[name]:.3f}{span}"


def _gallery(contents: StudyContents, predictions: PredictionTable) -> dict[str, Any]:
    """Return the pictures of mistakes written by training: the folder, a note, and rows by path."""
    comparison_folder = contents.comparison.folder if contents.comparison else None
    folder = (
        comparison_folder
        if predictions.basis is Basis.OUT_OF_FOLD
        else (contents.best_run.folder if contents.best_run else None)
    )
    gallery = read_json_object(contents, folder / "error-gallery.json") if folder else None
    if folder is None or gallery is None:
        return {"folder": None, "note": "", "rows": {}}
    rows = {
        str(row["path"]): row for row in gallery.get("rows", []) if isinstance(row, dict) and "path" in row
    }
    return {"folder": folder / "error-gallery", "note": gallery.get("note") or "", "rows": rows}


def _card(
    contents: StudyContents,
    predictions: PredictionTable,
    row: int,
    gallery: dict[str, Any],
    label_issue_paths: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """Return the template's values for one mistake; images in `label_issue_paths` are marked."""
    path, label, predicted = (
        predictions.paths[row],
        int(predictions.targets[row]),
        int(predictions.predicted[row]),
    )
    gallery_row = gallery["rows"].get(path, {})
    picture = _picture(gallery["folder"], gallery_row.get("picture")) or _thumbnail(contents, path)
    names = unique_names(predictions.classes, 30)
    return {
        "path": shortened(path, 60),
        "whole_path": visible(path),
        "label": names[label],
        "predicted": names[predicted],
        "confidence": percent(float(predictions.probabilities[row, predicted])),
        "label_probability": percent(float(predictions.probabilities[row, label])),
        "picture": picture,
        "no_picture": "" if picture else _missing_picture_reason(predictions, gallery),
        "label_issue": path in label_issue_paths,
        "map": _picture(gallery["folder"], gallery_row.get("map")),
    }


def _missing_picture_reason(predictions: PredictionTable, gallery: dict[str, Any]) -> str:
    """Return why there is no picture of an image."""
    if gallery["folder"] is None or not gallery["rows"]:
        return f"The study has no pictures of predictions on the {predictions.basis}."
    return "The study has pictures of the most confident mistakes only."


def _thumbnail(contents: StudyContents, path: str) -> str | None:
    if contents.data is None:
        return None
    digest = next((s.digest for s in contents.data.samples if s.path == path), None)
    return _picture(contents.path / "thumbnails", f"{digest[:16]}.jpg") if digest else None


def _picture(folder: Path | None, name: Any) -> str | None:
    """Return a JPEG as a data URL; `None` where it is missing, too large, or no JPEG."""
    if folder is None or not isinstance(name, str) or Path(name).name != name:
        return None
    try:
        data = (folder / name).read_bytes()
        if len(data) > MOST_PICTURE_BYTES or not data.startswith(b"\xff\xd8\xff"):
            return None
        return "data:image/jpeg;base64," + base64.b64encode(data).decode()
    except (OSError, ValueError, binascii.Error):  # a NUL in the name
        return None
