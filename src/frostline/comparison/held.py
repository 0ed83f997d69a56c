"""What each candidate answered on images it had not learned from, gathered from its runs' tables."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from frostline.comparison.cells import pool
from frostline.comparison.judging import Held
from frostline.comparison.ledger import Outcome
from frostline.comparison.race import Task
from frostline.dataset import Manifest
from frostline.errors import StudyError


def gather(
    data: Manifest, study: Path, outcomes: Mapping[Task, Outcome], candidates: Iterable[int]
) -> dict[int, Held]:
    """Return each candidate's answers over its whole-schedule runs, in one order: by repeat, then image."""
    samples = pool(data)
    place = {sample.path: index for index, sample in enumerate(samples)}
    targets, units = data.targets(samples), data.units(samples)
    found = {}
    for candidate in candidates:
        rows: list[tuple[int, int, list[float]]] = []
        for task, outcome in outcomes.items():
            if task.candidate == candidate and task.share == 1.0:
                table = study / outcome["run"] / "predictions-val.csv"
                rows += [(task.cell.repeat, place[path], p) for path, p in _answers(table)]
        rows.sort(key=lambda row: row[:2])
        images = np.array([row[1] for row in rows], dtype=np.int64)
        found[candidate] = Held(
            images=images,
            repeats=np.array([row[0] for row in rows], dtype=np.int64),
            units=units[images],
            targets=targets[images],
            probabilities=np.array([row[2] for row in rows]),
        )
    return found


def _answers(table: Path) -> list[tuple[str, list[float]]]:
    try:
        with open(table, newline="", encoding="utf-8", errors="surrogateescape") as file:
            return [(row[0], [float(p) for p in row[3:]]) for row in list(csv.reader(file))[1:]]
    except (OSError, ValueError, IndexError) as error:
        raise StudyError(
            f"{table} cannot be read ({error}). Expected the table of predictions that a run leaves: remove "
            "the study's folder `comparisons` to run them again."
        ) from None
