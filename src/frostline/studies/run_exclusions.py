"""Why a run does not predict, or is not part of a comparison: a kind that code compares, and its sentence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ReasonKind(StrEnum):
    """The kinds of reasons; stable names for programs."""

    OTHER_NETWORK = "other_network"
    OTHER_SIZE = "other_size"
    OTHER_CROP_MODE = "other_crop_mode"
    OTHER_PREPROCESSING = "other_preprocessing"
    OTHER_SETTINGS = "other_settings"
    STOPPED = "stopped"
    COMPARED = "compared"
    NOT_EVALUATED = "not_evaluated"
    OTHER_IMAGES = "other_images"
    OTHER_FOLDS = "other_folds"
    NOT_BETTER = "not_better"
    NOT_BETTER_ON_FOLDS = "not_better_on_folds"
    NOT_SIGNIFICANT = "not_significant"
    CUTS_ONLY = "cuts_only"
    LEFT_OUT = "left_out"
    TRAINED_LATER = "trained_later"
    TRAINED_AFTERWARDS = "trained_afterwards"
    UNREADABLE = "unreadable"
    RECORDED = "recorded"


@dataclass(frozen=True)
class Reason:
    """A reason, and what its sentence names; `str` returns the sentence.

    Parameters
    ----------
    kind
        The kind.
    subject
        What the sentence names: a network, a size in pixels, a crop mode, settings or a metric; of a record
        without a kind, its sentence.
    rate
        Accuracy out of fold, 0–1, where the sentence names one.
    """

    kind: ReasonKind
    subject: str = ""
    rate: float | None = None

    def __str__(self) -> str:
        rate = "" if self.rate is None else f"{100 * self.rate:.1f} % out of fold"
        in_brackets = f" ({rate})" if rate else ""
        match self.kind:
            case ReasonKind.OTHER_NETWORK:
                return f"trained on another network, {self.subject}"
            case ReasonKind.OTHER_SIZE:
                return f"trained at {self.subject} px"
            case ReasonKind.OTHER_CROP_MODE:
                return f"trained on images resized in another way (crop mode {self.subject})"
            case ReasonKind.OTHER_PREPROCESSING:
                return "trained with another preprocessing"
            case ReasonKind.OTHER_SETTINGS:
                return f"trained with {self.subject}"
            case ReasonKind.STOPPED:
                return "stopped by its time limit"
            case ReasonKind.COMPARED:
                return "its strategy was part of the comparison" + (f", {rate}" if rate else "")
            case ReasonKind.NOT_EVALUATED:
                return "not evaluated on a val set"
            case ReasonKind.OTHER_IMAGES:
                return "evaluated on other images, and older"
            case ReasonKind.OTHER_FOLDS:
                return "evaluated on other folds, and older"
            case ReasonKind.NOT_BETTER:
                return f"no better by {self.subject} on the same val set{in_brackets}"
            case ReasonKind.NOT_BETTER_ON_FOLDS:
                return "no better on the same folds"
            case ReasonKind.NOT_SIGNIFICANT:
                return (
                    f"ahead by {self.subject} on the same val set{in_brackets}, but not significantly "
                    "different"
                )
            case ReasonKind.CUTS_ONLY:
                return "cuts compares one strategy per stage only"
            case ReasonKind.LEFT_OUT:
                return "left out, as requested"
            case ReasonKind.TRAINED_LATER:
                return "trained after this comparison began; name it among the strategies"
            case ReasonKind.TRAINED_AFTERWARDS:
                return "trained after the comparison"
            case ReasonKind.UNREADABLE:
                return "its strategy cannot be read"
            case ReasonKind.RECORDED:
                return self.subject
