"""The subset of each image in a study, and its fold for each seed, by digest.

It outlives a version of the data: an image that goes and comes again finds its place. `load_data` and
`Manifest.folds` apply it. A study inside another (another split of the same data) remembers nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from frostline.data.manifest_entries import SUBSETS
from frostline.errors import StudyError
from frostline.system import directories

NAME = "assignment.json"
SPLITS = "splits"  # folder of the studies inside a study
DIGEST = re.compile("[0-9a-f]{64}")

Folds = Mapping[int, Mapping[str, int]]  # seed → digest → fold


@dataclass(frozen=True)
class Assignment:
    """The subset of each digest, and for each seed that folds were made with the fold of each digest."""

    sides: Mapping[str, str] = field(default_factory=dict)
    folds: Folds = field(default_factory=dict)


def assigned(study: str | Path) -> Assignment:
    """Return what a study remembers; one that has begun just now remembers nothing.

    Raises `StudyError` where there is no study, or its file is damaged.
    """
    folder = Path(study)
    if not (folder / "study.json").is_file():
        problem = "is not a study: it holds no study.json" if folder.is_dir() else "does not exist"
        raise StudyError(f"{folder} {problem}. Expected a folder that fit, compare or train wrote.")
    return read(folder)


def remember(study: Path, sides: Mapping[str, str], folds: Folds | None = None) -> None:
    """Add to what a study remembers; what is new about a digest replaces what was there."""
    if study.parent.name == SPLITS:
        return
    with FileLock(study / "assignment.lock"):
        before = read(study)
        seeds = {**before.folds}
        for seed, of_digest in (folds or {}).items():
            seeds[seed] = {**seeds.get(seed, {}), **of_digest}
        after = Assignment({**before.sides, **sides}, seeds)
        if after != before:
            directories.write_atomically(study / NAME, _text(after).encode("ascii"))


def _text(assignment: Assignment) -> str:
    """Return one JSON object: the seeds, and a row for each digest: its subset, its fold for each seed."""
    seeds = sorted(assignment.folds)
    digests = sorted({*assignment.sides, *(d for of_digest in assignment.folds.values() for d in of_digest)})
    images = {
        digest: [assignment.sides.get(digest), *(assignment.folds[seed].get(digest) for seed in seeds)]
        for digest in digests
    }
    return json.dumps({"seeds": seeds, "images": images}, separators=(",", ":")) + "\n"


def read(study: Path) -> Assignment:
    """Return what a folder remembers, nothing where it is new. Raises `StudyError` where it is damaged."""
    path = study / NAME
    try:
        content = json.loads(path.read_text(encoding="ascii"))
        seeds, images = content["seeds"], content["images"]
        _demand_plain(seeds, images)
    except FileNotFoundError:
        return Assignment()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StudyError(
            f"{path} cannot be read ({error!r}); expected the subsets and folds of images as frostline "
            "writes them. Use another folder with --study."
        ) from None
    return Assignment(
        {digest: row[0] for digest, row in images.items() if row[0] is not None},
        {
            seed: {digest: row[at] for digest, row in images.items() if row[at] is not None}
            for at, seed in enumerate(seeds, 1)
        },
    )


def _demand_plain(seeds: list[int], images: dict[str, list[str | int | None]]) -> None:
    """Raise `ValueError` for what JSON can say and a study can't: it may come from a stranger."""
    if not all(type(seed) is int for seed in seeds):
        raise ValueError("its seeds are not whole numbers")
    for digest, (side, *folds) in images.items():
        complete = len(folds) == len(seeds) and all(fold is None or type(fold) is int for fold in folds)
        if not DIGEST.fullmatch(digest) or side not in (*SUBSETS, None) or not complete:
            raise ValueError(f"the row of {digest[:20]!r}")
        if any(isinstance(fold, int) and not 0 <= fold < 1000 for fold in folds):
            raise ValueError(f"the row of {digest[:20]!r} names a fold below 0 or above 999")
