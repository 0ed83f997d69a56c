"""The images that `fit` is given: their subsets, the folds of the comparison, and lines about them."""

from __future__ import annotations

from collections.abc import Callable

from frostline import sentences
from frostline.data import Manifest
from frostline.selection import FEW_IMAGES, NothingHeldOut, folds_of


def load_subsets(load: Callable[..., Manifest]) -> Manifest:
    """Return the data with nothing held out, or with a test set for many images or a source with subsets."""
    data = load(test_size=0.0, val_size=0.0)
    few = len(data.samples) < FEW_IMAGES
    if few and not set(data.predefined) - {"train"}:
        return data
    if "test" in data.predefined:
        return data if few else load(test_size=0.0)
    return load(val_size=0.0 if few else 0.2)


def fold_count(data: Manifest, seed: int) -> int:
    """Return the number of folds of the comparison; 0 if nothing can be held out."""
    try:
        return folds_of(data, seed)
    except NothingHeldOut:
        return 0


def data_lines(data: Manifest, folds: int) -> list[str]:
    """Return lines about the data; `folds` is the number of folds of a repeat."""
    lines = [finding.note for finding in data.data_findings if finding.kind not in ("no_val", "no_test")]
    lines += sentences.skipped_lines([(item.path, item.reason) for item in data.skipped])
    if not data.subset("test") and not folds:
        lines.append(f"Every image will train the model. {sentences.NOTHING_TO_ASK}")
    elif not data.subset("test") and folds > 1:
        lines.append(
            "Every image will train the model; its accuracy is estimated from models that learned from "
            f"{sentences.PARTS[folds]} of the images, each evaluated on the rest."
        )
    return lines
