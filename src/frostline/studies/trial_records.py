"""Which runs are the trials of a comparison: a file for each, written as soon as its run is finished.

A comparison's `comparison.json` names the trials of each candidate, and is written last. Until then these
files name them, whoever made them: several processes and machines write into one folder, and Optuna's storage
may be a database that a reader of the study cannot reach. Imports no torch.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from frostline.errors import StudyError
from frostline.studies.study_folder import PLACE_OF_RUN
from frostline.system import directories

FOLDER = "trials"  # in the comparison's folder


@dataclass(frozen=True)
class TrialRecord:
    """One trial: which candidate was trained for which share of its epochs on which fold, and its run."""

    candidate: int
    strategy: str  # of the candidate, with all its epochs
    augment: str
    model: str  # empty where the comparison has a single backbone
    share: float  # of the epochs
    repeat: int
    fold: int
    run: str  # the run's folder, relative to the study's, with forward slashes

    def write(self, comparison: Path) -> None:
        """Write it into a comparison's folder; the same trial again replaces the file."""
        folder = comparison / FOLDER
        folder.mkdir(exist_ok=True)
        name = f"{self.candidate}-{self.share:g}-{self.repeat}-{self.fold}.json"
        directories.write_atomically(folder / name, json.dumps(asdict(self), indent=1).encode())

    @classmethod
    def read(cls, file: Path) -> TrialRecord:
        """Read one. Raises `StudyError` where the file is damaged."""
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            trial = cls(**{name: kind(record[name]) for name, kind in FIELDS.items()})
        except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            raise StudyError(f"{file} is damaged ({type(error).__name__}): the trial is left out.") from None
        if not 0.0 < trial.share <= 1.0:
            raise StudyError(f"{file} is damaged (share {trial.share:g}): the trial is left out.")
        if not PLACE_OF_RUN.fullmatch(trial.run):
            raise StudyError(
                f"{file} is damaged ({trial.run[:80]!r} is no run's folder): the trial is left out."
            )
        return trial


FIELDS = {
    "candidate": int,
    "strategy": str,
    "augment": str,
    "model": str,
    "share": float,
    "repeat": int,
    "fold": int,
    "run": str,
}


def record_files(comparison: Path) -> list[Path]:
    """Return the files of a comparison's trials."""
    return sorted((comparison / FOLDER).glob("*.json"))
