"""Figures as text, the same in the terminal, the report and exports. Imports nothing.

A headline is a record that a comparison and `fit` keep and all others read: `accuracy`, `low`, `high`
(fractions 0–1, `None` where unknown), `basis`, `images` (evaluated), `pool` (that might have been),
`folds`, `optimism`, `test_evaluations`, `note` (why the accuracy is unknown), and what `metrics.balance`
returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, StrEnum
from typing import Any

# Most images of a class over fewest, from which accuracy alone misleads. At 5:1 two classes give five in six
# to a model that always predicts the commonest. A choice.
UNEQUAL = 5.0
# Words for a similarity, a choice. For lite0 photographs lie at 0.58 and 0.61, clip art and hands at 0.47 and
# 0.29, icons and spectrograms at 0.28 and 0.17 (docs/LOG.md 2026-11-24).
NEAR, FAR = 0.55, 0.25
MOST_NAMED = 3  # classes in a sentence
PARTS = {2: "half", 3: "two thirds", 4: "three quarters", 5: "four fifths"}  # learned from, of so many folds
NOTHING_TO_ASK = (
    "No class has two images that are independent of each other, so none can be held out and the accuracy "
    "is unknown. Add images."
)


def reads_several(layers: int) -> str:
    """Return what a head that reads several stages reads."""
    return (
        "Its head is a linear layer on the features before it, and on statistics over space (mean, standard "
        f"deviation) of {last_stages(layers)}."
    )


def last_stages(count: int) -> str:
    """Return so many of the last stages, in words."""
    return "the last stage" if count == 1 else f"the last {count} stages"


class Basis(StrEnum):
    """The images that an accuracy is measured on, as a headline's `basis` and tables of predictions say."""

    TEST = "test set"
    OUT_OF_FOLD = "out of fold"
    CROSS_VALIDATION = "cross-validation"
    VAL = "val set"


class Closeness(Enum):
    """How similar images are to the pretraining images; a similarity of 1 is identical."""

    NEAR = "near"
    BETWEEN = "some way off"
    FAR = "far"

    @classmethod
    def of(cls, similarity: float) -> Closeness:
        """Return the closeness of a similarity."""
        return cls.NEAR if similarity >= NEAR else cls.FAR if similarity < FAR else cls.BETWEEN


SKIPPED_PATHS = 3  # skipped files that are shown of one reason; a choice
SKIPPED_LINES = 20  # lines about skipped files, about what a terminal shows


def percent(value: float) -> str:
    """Return a fraction 0–1 as a percentage."""
    return f"{100 * value:.1f} %"


def signed(value: float, digits: int = 1) -> str:
    """Return a difference with its sign; one that rounds to zero has none."""
    text = f"{value:+z.{digits}f}"
    return text if float(text) else text.removeprefix("+")


def between(low: float, high: float) -> str:
    """Return an interval of fractions as percentages."""
    return f"{100 * low:.1f}–{100 * high:.1f} %"


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 image`, `1,204 images`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def stopped_early(early: Mapping[str, Any], best_epoch: int | None) -> str:
    """Return what stopping early saved; `early` is a result's `early_stopping`.

    `best_epoch` is the one whose weights were kept; `None` where they are the last.
    """
    stop_after = early.get("stop_after")
    if stop_after is not None and early["epochs"] >= stop_after:
        why = "as many as it was given"
    else:
        why = f"no better one on val for {counted(early['patience'], 'epoch')}"
    weights = "the last" if best_epoch is None else f"those of epoch {best_epoch}"
    patience = early.get("patience")
    if best_epoch is not None and patience is not None and best_epoch > early["epochs"] - patience:
        weights += " (the latest of equally good ones)"
    saved = counted(early["epochs_saved"], "epoch")
    return (
        f"Stopped early after epoch {early['epochs']}: {why}. The weights are {weights}; {saved}, about "
        f"{early['seconds_saved']:.1f} s, saved."
    )


def basis(headline: Mapping[str, Any]) -> str:
    """Return what the accuracy was measured on, and the correction that was subtracted."""
    text = _of_what(headline)
    if round(100 * (headline.get("optimism") or 0.0), 1):
        text += f", lowered by {100 * headline['optimism']:.1f} points for choosing the best of several"
    return text


def _of_what(headline: Mapping[str, Any]) -> str:
    match headline["basis"]:
        case Basis.TEST:
            return f"measured on the test set, {test_evaluations_text(headline.get('test_evaluations'))}"
        case Basis.OUT_OF_FOLD:
            return out_of_fold(headline["images"], headline["pool"], headline["folds"])
        case Basis.CROSS_VALIDATION:
            return "cross-validated on the training images"
        case _:
            return "measured on the val set, which also chose the weights, so slightly too high"


def out_of_fold(images: int, pool: int, folds: int) -> str:
    """Return which images were evaluated, and by which models."""
    if images == pool and folds in PARTS:
        return f"estimated with models trained on {PARTS[folds]} of the images, each evaluated on the rest"
    subset = f"{images:,} of {counted(pool, 'image')}"
    return f"estimated on {subset}, by models that had not learned from them"


def test_evaluations_text(count: int | None) -> str:
    """Return how many configurations were evaluated on the test set, since the best of several is biased."""
    if count is None:
        return "images that it did not learn from"
    if count < 2:
        return "images that no decision has used"
    return f"which {count} configurations have been evaluated on, in this study and others"


def accuracy(headline: Mapping[str, Any]) -> str:
    """Return the accuracy with its interval and caveats as text."""
    if headline["accuracy"] is None:
        return str(headline.get("note") or NOTHING_TO_ASK)
    span = between(headline["low"], headline["high"])
    return " ".join(
        [f"Accuracy {percent(headline['accuracy'])} ({span}), {basis(headline)}.", *caveats(headline)]
    )


def forecast(figures: Mapping[str, Any]) -> str:
    """Return what was forecast for a strategy beside what was measured, as text."""
    low, high = figures["expected_low"], figures["expected_high"]
    measured, ends = figures["measured"], (figures["measured_low"], figures["measured_high"])
    verdict = "" if low <= measured <= high else f", {'above' if measured > high else 'below'} it"
    return (
        f"{figures['strategy']}: forecast {100 * low:.0f}–{100 * high:.0f} %, "
        f"measured {percent(measured)} ({between(*ends)}){verdict}."
    )


def caveats(figures: Mapping[str, Any]) -> list[str]:
    """Return what an accuracy hides: imbalanced classes, and classes without evaluation images."""
    lines = []
    ratio, missing = figures.get("class_ratio"), figures.get("absent_classes")
    if ratio is not None and ratio >= UNEQUAL:
        worst = figures["worst_class"]
        middle = figures["balanced_accuracy"]
        balanced = "unknown" if middle is None else percent(middle)
        lines.append(
            f"Classes are imbalanced ({ratio:.3g} to 1): balanced accuracy {balanced}, always predicting "
            f"{figures['majority_class']} {percent(figures['majority_share'])}, worst class"
            f"{' evaluated' if missing else ''} {worst['label']} {percent(worst['accuracy'])} of "
            f"{counted(worst['n'], 'image')}."
        )
    if missing:
        were = "was" if len(missing) == 1 else "were"
        lines.append(f"{named(missing)} {were} not evaluated: the accuracy covers the other classes only.")
    return lines


def named(names: Sequence[str]) -> str:
    """Name a few of many."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def skipped_lines(skipped: Sequence[tuple[str, str]]) -> list[str]:
    """Return lines about skipped files, given as (path, reason): a few of each reason, then how many more."""
    if not skipped:
        return []
    paths_by_reason: dict[str, list[str]] = {}
    for path, reason in skipped:
        paths_by_reason.setdefault(reason, []).append(path)
    lines, rest = [f"Skipped {counted(len(skipped), 'file')}:"], len(skipped)
    for reason, paths in paths_by_reason.items():
        if len(lines) > SKIPPED_LINES:
            lines.append(f"  … and {rest:,} more (in the study's manifest.jsonl)")
            break
        shown = paths if len(paths) <= SKIPPED_PATHS + 1 else paths[:SKIPPED_PATHS]
        lines += [f"  {path}: {reason}" for path in shown]
        if len(paths) > len(shown):
            lines.append(f"  … and {len(paths) - len(shown):,} more: {reason}")
        rest -= len(paths)
    return lines


def short(accuracy: float | None, low: float | None, high: float | None, on: str) -> str:
    """Return an accuracy and its interval as a short text."""
    if accuracy is None or low is None or high is None:
        return "accuracy unknown"
    return f"{percent(accuracy)} ({between(low, high)}) {on}"


def interpolated(share: float) -> str:
    """Say where interpolated weights lie."""
    return f"at {share:g} between the pretrained network with a probe (0) and the adapted one (1)"
