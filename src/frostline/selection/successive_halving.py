"""Successive halving as data: rungs, promoted candidates and the runs still missing. Imports no torch.

Every run trains a whole schedule, so that gradual unfreezing is not judged while it is still a probe. The
first rung is one fold of the first repeat; promoted candidates are run on the other folds. Without folds the
first rung trains short schedules (all phases, a share of the epochs), and promoted candidates are trained
anew (docs/decisions/0007). The last rung repeats the finalists on new splits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from frostline.selection.resampling import Cell

# On the first rung: one fold of five costs least, and three gave hardly better winners (docs/LOG.md
# 2026-11-25). The share of the epochs, if there are no folds, is a choice.
FIRST_FOLDS, SHORT = 1, 0.25
CLIMB = 0.5  # share of the first rung's candidates that are promoted, at least two
FINALISTS = 0.3  # share of all candidates that are repeated, at least two
FEWEST_TO_HALVE = 4  # with three, halving saves less than its short runs cost


@dataclass(frozen=True)
class Rung:
    """One rung of successive halving.

    Parameters
    ----------
    share
        Share of the epochs that its runs train, 0–1.
    repeats
        Repeats that it runs on.
    enter
        Number of candidates that enter it: the best of the previous rung.
    folds
        Folds of each repeat; 0 for all.
    """

    share: float
    repeats: tuple[int, ...]
    enter: int
    folds: int = 0


@dataclass(frozen=True, order=True)
class Task:
    """One run: a candidate (index in the list) on one cell, with a share of its epochs (0–1)."""

    candidate: int
    share: float
    cell: Cell


@dataclass(frozen=True)
class HalvingSchedule:
    """The rungs of successive halving, for a number of candidates and of folds per repeat."""

    rungs: tuple[Rung, ...]
    candidates: int
    folds: int

    def tasks(self, rung: int, entering: Iterable[int]) -> list[Task]:
        """Return the runs of one rung, cell by cell, so that every candidate has a result early."""
        share = self.rungs[rung].share
        return [Task(candidate, share, cell) for cell in self.cells(rung) for candidate in entering]

    def cells(self, rung: int) -> list[Cell]:
        """Return the cells of one rung, which may include those of the previous rung."""
        current = self.rungs[rung]
        return [
            Cell(repeat, fold) for repeat in current.repeats for fold in range(current.folds or self.folds)
        ]

    def entering(self, rung: int, scores: Mapping[Task, float]) -> list[int]:
        """Return the indices of candidates that enter a rung: the best of the previous one by mean score.

        Ties go to the earlier listed. While the previous rung is unfinished there are none.
        """
        if rung == 0:
            return list(range(self.candidates))
        previous = self.entering(rung - 1, scores)
        tasks = self.tasks(rung - 1, previous)
        if not previous or any(task not in scores for task in tasks):
            return []
        ranked = sorted(previous, key=lambda c: (-_mean(scores[t] for t in tasks if t.candidate == c), c))
        return sorted(ranked[: self.rungs[rung].enter])

    def standing(self, scores: Mapping[Task, float]) -> int:
        """Return the index of the current rung; the number of rungs if all are finished."""
        for rung in range(len(self.rungs)):
            entering = self.entering(rung, scores)
            if any(task not in scores for task in self.tasks(rung, entering)):
                return rung
        return len(self.rungs)

    def missing(self, scores: Mapping[Task, float]) -> list[Task]:
        """Return the runs that the current rung lacks; none if all rungs are finished."""
        rung = self.standing(scores)
        if rung == len(self.rungs):
            return []
        return [t for t in self.tasks(rung, self.entering(rung, scores)) if t not in scores]

    def leading(self, scores: Mapping[Task, float]) -> list[int]:
        """Return the indices of the best candidates, several in a tie.

        Compared are those of the last rung that all its candidates have started, on the cells that they
        share: neither an easy fold nor being first on a new rung makes a leader.
        """
        for rung in reversed(range(len(self.rungs))):
            share, entering = self.rungs[rung].share, self.entering(rung, scores)
            cells = {c: {t.cell for t in scores if t.candidate == c and t.share == share} for c in entering}
            measured = [c for c in entering if cells[c]]
            if measured and (rung == 0 or measured == entering):
                common = set.intersection(*(cells[c] for c in measured))
                means = {
                    c: _mean(scores[Task(c, share, cell)] for cell in common or cells[c]) for c in measured
                }
                return [c for c in measured if means[c] == max(means.values())]
        return []


def plan(count: int, *, folds: int, repeats: int) -> HalvingSchedule:
    """Return the schedule of a comparison without a time limit: every run for few candidates, else halving.

    With a time limit see `frostline.selection.anytime`.

    Parameters
    ----------
    count
        Number of candidates.
    folds
        Folds of a repeat.
    repeats
        Repeats that finalists get.
    """
    if count < FEWEST_TO_HALVE:
        return everything(count, folds, repeats)
    all_repeats = tuple(range(repeats))
    climbing = max(2, math.ceil(CLIMB * count))
    finalists = min(climbing, max(2, round(FINALISTS * count)))
    halving = (
        Rung(1.0, (0,), count, FIRST_FOLDS) if folds > FIRST_FOLDS else Rung(SHORT, (0,), count),
        Rung(1.0, (0,), climbing),
        Rung(1.0, all_repeats[1:], finalists),
    )
    return HalvingSchedule(halving if repeats > 1 else halving[:2], count, folds)


def everything(count: int, folds: int, repeats: int) -> HalvingSchedule:
    """Return the schedule that runs every candidate on every repeat."""
    return HalvingSchedule((Rung(1.0, tuple(range(repeats)), count),), count, folds)


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
