"""The part of the story about how good the model is: classes, confusions, mistakes, labels, calibration."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

from frostline import metrics
from frostline.reports import charts as c
from frostline.reports import prediction_table as j
from frostline.reports.chart_parts import Chart
from frostline.reports.conclusions import Found, basis
from frostline.reports.display_names import shortened, told_apart, visible
from frostline.reports.section import MOST_BARS, MOST_CELLS, MOST_COUNTS, Section
from frostline.reports.study_reader import Answers, Told, object_of
from frostline.sentences import between, counted, named, percent

MOST_MISTAKES = 24  # shown as pictures
MOST_PICTURE_BYTES = 60_000  # of one picture; what `looks` writes has a fifth of it
MOST_PAIRS = 8  # of classes that are confused


def classes(found: Found) -> Section | None:
    """How each class fares, and what is taken for what."""
    answers = found.answers
    if answers is None:
        return None
    section = Section("classes", "How good it is, class by class", "Classes")
    rows, names = j.classes(answers), told_apart(answers.classes)
    section.lead.append(
        f"{counted(answers.images, 'image')}, {basis(found)}. A dot is the share of a class's "
        "images that is recognised; a ring is the share of right answers among those that name the class."
    )
    never = [names[place] for place in range(len(names)) if place not in {row.place for row in rows}]
    if never:
        section.lead.append(f"Never asked, so nothing is known of {named(never)}.")
    if len(answers.paths) > answers.images:
        section.lead.append(
            "Images were asked in several repeats: what is taken for what, and the mistakes, are by the mean "
            "of an image's answers."
        )
    section.charts.append(_recall_chart(rows, names, answers))
    if 2 <= len(names) <= MOST_CELLS:
        section.charts.append(_confusion_chart(answers, names))
    pairs = _pairs(answers)
    section.more = {"pairs": [(names[a], names[b], n) for a, b, n in pairs[:MOST_PAIRS]]}
    return section


def _recall_chart(rows: list[j.ClassRow], names: list[str], answers: Answers) -> Chart:
    shown = rows[:MOST_BARS]
    values = [
        {
            "name": names[row.place],
            "recall": row.recall,
            "low": row.low,
            "high": row.high,
            "precision": row.precision,
            "images": row.images,
        }
        for row in shown
    ]
    left = len(rows) - len(shown)
    return Chart(
        "recall",
        "Recognised, class by class",
        "The hardest class first." + (f" {left:,} easier classes are in the table alone." if left else ""),
        c.recalls(values, [names[row.place] for row in shown]),
        ("class", "images", "recognised", "95 % interval", "answers that are right", "most often taken for"),
        tuple(
            (
                visible(answers.classes[row.place]),
                f"{row.images:,}",
                percent(row.recall),
                between(row.low, row.high),
                "" if row.precision is None else percent(row.precision),
                "" if row.taken_for is None else f"{names[row.taken_for]} ({row.times} ×)",
            )
            for row in rows
        ),
    )


def _confusion_chart(answers: Answers, names: list[str]) -> Chart:
    table = j.confusion(answers)
    total = table.sum(axis=1)
    filled = [(a, b) for a, b in zip(*table.nonzero(), strict=True)]
    values = [
        {
            "true": names[a],
            "answered": names[b],
            "count": int(table[a, b]),
            "share": float(table[a, b] / total[a]),
            "kind": "right" if a == b else "wrong",
        }
        for a, b in filled
    ]
    return Chart(
        "confusion",
        "What is taken for what",
        "Each row is a true class: blue is right, orange is a mistake, and deeper is more often.",
        c.confusion(values, names, counts=len(names) <= MOST_COUNTS),
        ("true class", "answered", "images"),
        tuple((names[a], names[b], f"{table[a, b]:,}") for a, b in filled),
    )


def _pairs(answers: Answers) -> list[tuple[int, int, int]]:
    """Return (true, answered, images) of what is confused more than once, the most frequent first."""
    table = j.confusion(answers)
    wrong = [
        (int(a), int(b), int(table[a, b]))
        for a, b in zip(*table.nonzero(), strict=True)
        if a != b and table[a, b] > 1
    ]
    return sorted(wrong, key=lambda pair: (-pair[2], pair[0], pair[1]))


def mistakes(found: Found) -> Section | None:
    """The most confident mistakes, with where the network looked."""
    answers = found.answers.averaged() if found.answers else None
    if answers is None:
        return None
    rows = j.mistakes(answers)
    if not len(rows):
        return None
    section = Section("mistakes", "Where it is wrong and sure of it", "Mistakes")
    looks = _looks(found.told, answers)
    doubted = _doubted(found)
    cards = [_card(found.told, answers, row, looks, doubted) for row in rows[:MOST_MISTAKES].tolist()]
    section.lead.append(
        f"{counted(len(rows), 'mistake')} in {counted(len(answers.paths), 'image')}, the most confident first"
        + ("." if len(cards) == len(rows) else f"; these are the first {len(cards)}.")
    )
    if any(card["map"] for card in cards):
        section.lead.append(
            "The second picture shows where the network saw what it answered: the warmer, the more that "
            "place spoke for the answer (class-activation map)."
        )
    elif looks.get("note"):
        section.lead.append(str(looks["note"]))
    section.more = {
        "cards": cards,
        "left_out": 0,
        "true": sorted({card["label"] for card in cards}),
        "answered": sorted({card["answered"] for card in cards}),
    }
    return section


def labels(found: Found) -> Section | None:
    """Images whose label is likely wrong."""
    answers = found.doubts.averaged() if found.doubts else None
    if answers is None or not found.doubtful:
        return None
    section = Section("labels", "Labels worth checking", "Labels")
    looks = _looks(found.told, answers)
    above = _shown_as_mistakes(found)
    others = [row for row in found.doubtful if answers.paths[row] not in above]
    shown, many = others[:MOST_MISTAKES], len(found.doubtful)
    section.lead.append(
        f"{counted(many, 'label')} may be wrong: models that had not seen "
        f"{'the image' if many == 1 else 'these images'} contradict {'it' if many == 1 else 'them'} more "
        "firmly than is usual for the class (confident learning, as in cleanlab). Look before you correct: a "
        "rare but right example looks just the same."
    )
    if marked := many - len(others):
        section.lead.append(
            f"{'All of them' if marked == many else f'{marked} of them'} stand among the mistakes above, and "
            f"are marked there{'.' if marked == many else '; here are the others.'}"
        )
    section.more = {
        "cards": [_card(found.told, answers, row, looks) for row in shown],
        "left_out": len(others) - len(shown),
    }
    return section


def _doubted(found: Found) -> frozenset[str]:
    """Return the paths of the images whose label is doubted."""
    if found.doubts is None:
        return frozenset()
    paths = found.doubts.averaged().paths
    return frozenset(paths[row] for row in found.doubtful)


def _shown_as_mistakes(found: Found) -> frozenset[str]:
    """Return the paths of the images that stand among the mistakes: none of them is shown again."""
    if found.answers is None:
        return frozenset()
    paths = found.answers.averaged().paths
    return frozenset(paths[row] for row in j.mistakes(found.answers)[:MOST_MISTAKES].tolist())


def trust(found: Found) -> Section | None:
    """Whether stated probabilities can be taken at their word."""
    answers = found.answers
    if answers is None or answers.images < 2:
        return None
    got = j.calibration(answers)
    section = Section("trust", "Can its probabilities be believed?", "Probabilities")
    gap = 100 * (got.said - got.right)
    word = "too sure" if gap > 0 else "too modest"
    section.lead.append(
        f"Of answers given with 90 %, nine in ten should be right. Of the images asked it says "
        f"{percent(got.said)} on average, and {percent(got.right)} were right"
        + (f": {abs(gap):.1f} points {word}." if abs(gap) >= 1 else ": well matched.")
        + f" The mean gap over all levels is {100 * got.error:.1f} points (expected calibration error, "
        f"{metrics.BINS} bins)."
    )
    lost = j.losses(found.told, answers)
    section.lead.append(
        f"Log loss is {_spanned(lost, 'log_loss')} nats an image; the Brier score, summed over classes, "
        f"{_spanned(lost, 'brier')}. Both are lower the better, and 0 at best."
    )
    values = [
        {"said": b.said, "right": b.right, "low": b.low, "high": b.high, "images": round(b.images, 1)}
        for b in got.bins
    ]
    section.charts.append(
        Chart(
            "calibration",
            "What it says, and what comes true",
            "On the dashed line words and deeds agree; below it the model is too sure. Larger dots are more "
            "images.",
            c.calibration(values),
            ("said", "right", "95 % interval", "images"),
            tuple(
                (percent(b.said), percent(b.right), between(b.low, b.high), f"{b.images:,.3g}")
                for b in got.bins
            ),
        )
    )
    return section


def _spanned(lost: dict[str, Any], name: str) -> str:
    low, high = lost[f"{name}_low"], lost[f"{name}_high"]
    span = "" if low is None or high is None else f" ({low:.3f}–{high:.3f})"
    return f"{lost[name]:.3f}{span}"


def _looks(told: Told, answers: Answers) -> dict[str, Any]:
    """Return what training left to look at: the folder, a note, and rows by path."""
    race = told.comparison.folder if told.comparison else None
    place = race if answers.basis == "out of fold" else (told.answering.folder if told.answering else None)
    found = object_of(told, place / "looks.json") if place else None
    if place is None or found is None:
        return {"folder": None, "note": "", "rows": {}}
    rows = {str(row["path"]): row for row in found.get("rows", []) if isinstance(row, dict) and "path" in row}
    return {"folder": place / "looks", "note": found.get("note") or "", "rows": rows}


def _card(
    told: Told, answers: Answers, row: int, looks: dict[str, Any], doubted: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """One image that was answered otherwise than labelled; `doubted` holds the paths of doubtful labels."""
    path, label, guess = answers.paths[row], int(answers.targets[row]), int(answers.guesses[row])
    kept = looks["rows"].get(path, {})
    picture = _picture(looks["folder"], kept.get("picture")) or _thumbnail(told, path)
    names = told_apart(answers.classes, 30)
    return {
        "path": shortened(path, 60),
        "whole_path": visible(path),
        "label": names[label],
        "answered": names[guess],
        "said": percent(float(answers.probabilities[row, guess])),
        "for_label": percent(float(answers.probabilities[row, label])),
        "picture": picture,
        "no_picture": "" if picture else _why_not(answers, looks),
        "doubted": path in doubted,
        "map": _picture(looks["folder"], kept.get("map")),
    }


def _why_not(answers: Answers, looks: dict[str, Any]) -> str:
    """Say why there is no picture of an image."""
    if looks["folder"] is None or not looks["rows"]:
        return f"The study keeps no pictures of answers on the {answers.basis}."
    return "The study keeps pictures of the surest mistakes alone."


def _thumbnail(told: Told, path: str) -> str | None:
    if told.data is None:
        return None
    digest = next((s.digest for s in told.data.samples if s.path == path), None)
    return _picture(told.path / "thumbnails", f"{digest[:16]}.jpg") if digest else None


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
