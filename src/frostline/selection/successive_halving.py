"""The race as data: rungs, who climbs to the next one, and which runs are still to be made. Imports no torch.

Every run trains a whole schedule, so that gradual unfreezing is not judged while it is still a probe and
none is cut off in its middle. The first rung, where it is worth having, is one fold of the first repeat; who
climbs goes on to the other folds. Without folds it trains short schedules (all phases, a share of the
epochs), and who climbs begins anew (docs/decisions/0007). The last rung repeats the finalists on new splits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from frostline.selection.resampling import Cell

# On the first rung: of five folds one costs least, and three found hardly better winners (docs/LOG.md
# 2026-11-25); of the epochs, where there are no folds, a choice.
FIRST_FOLDS, SHORT = 1, 0.25
CLIMB = 0.5  # of those on the first rung, at least two
FINALISTS = 0.3  # of all, at least two
FEWEST_TO_HALVE = 4  # with three, halving saves less than its short runs cost


@dataclass(frozen=True)
class Rung:
    """Runs of `share` of the epochs on some repeats, for the best `enter` of the rung before.

    `folds` is how many folds of each repeat, 0 all of them.
    """

    share: float
    repeats: tuple[int, ...]
    enter: int
    folds: int = 0


@dataclass(frozen=True, order=True)
class Task:
    """One run: a candidate (by its place in the list) on one cell, with a share of its epochs."""

    candidate: int
    share: float
    cell: Cell


@dataclass(frozen=True)
class Race:
    """The rungs, for `candidates` candidates and `folds` folds a repeat."""

    rungs: tuple[Rung, ...]
    candidates: int
    folds: int

    def tasks(self, rung: int, entering: Iterable[int]) -> list[Task]:
        """Return the runs of one rung, cell by cell, so that every candidate has been seen early."""
        share = self.rungs[rung].share
        return [Task(candidate, share, cell) for cell in self.cells(rung) for candidate in entering]

    def cells(self, rung: int) -> list[Cell]:
        """Return the cells of one rung; some may be those of the rung before."""
        found = self.rungs[rung]
        return [Cell(repeat, fold) for repeat in found.repeats for fold in range(found.folds or self.folds)]

    def entering(self, rung: int, scores: Mapping[Task, float]) -> list[int]:
        """Return who enters a rung: the best of the rung before by mean score, ties to the earlier listed.

        A rung that is not finished lets nobody in.
        """
        if rung == 0:
            return list(range(self.candidates))
        before = self.entering(rung - 1, scores)
        tasks = self.tasks(rung - 1, before)
        if not before or any(task not in scores for task in tasks):
            return []
        ranked = sorted(before, key=lambda c: (-_mean(scores[t] for t in tasks if t.candidate == c), c))
        return sorted(ranked[: self.rungs[rung].enter])

    def standing(self, scores: Mapping[Task, float]) -> int:
        """Return the rung that runs are now made for; the number of rungs when all are finished."""
        for rung in range(len(self.rungs)):
            entering = self.entering(rung, scores)
            if any(task not in scores for task in self.tasks(rung, entering)):
                return rung
        return len(self.rungs)

    def missing(self, scores: Mapping[Task, float]) -> list[Task]:
        """Return the runs that the present rung still needs; none when the race is over."""
        rung = self.standing(scores)
        if rung == len(self.rungs):
            return []
        return [t for t in self.tasks(rung, self.entering(rung, scores)) if t not in scores]

    def leading(self, scores: Mapping[Task, float]) -> list[int]:
        """Return who does best on the last rung where all who entered it can be compared; several in a tie.

        They are compared on cells that all of them have been seen on: who was lucky with one easy fold leads
        nobody who has been seen on hard ones too, and who is first on a new rung leads nobody by that.
        """
        for rung in reversed(range(len(self.rungs))):
            share, entering = self.rungs[rung].share, self.entering(rung, scores)
            seen = {c: {t.cell for t in scores if t.candidate == c and t.share == share} for c in entering}
            begun = [c for c in entering if seen[c]]
            if begun and (rung == 0 or begun == entering):
                common = set.intersection(*(seen[c] for c in begun))
                means = {c: _mean(scores[Task(c, share, cell)] for cell in common or seen[c]) for c in begun}
                return [c for c in begun if means[c] == max(means.values())]
        return []


def plan(count: int, *, folds: int, repeats: int) -> Race:
    """Return the race where nobody waits: everything for few candidates, else halving.

    With a limit on time there is no race: see `frostline.selection.anytime`.
    """
    if count < FEWEST_TO_HALVE:
        return everything(count, folds, repeats)
    some = tuple(range(repeats))
    climbing = max(2, math.ceil(CLIMB * count))
    finalists = min(climbing, max(2, round(FINALISTS * count)))
    halving = (
        Rung(1.0, (0,), count, FIRST_FOLDS) if folds > FIRST_FOLDS else Rung(SHORT, (0,), count),
        Rung(1.0, (0,), climbing),
        Rung(1.0, some[1:], finalists),
    )
    return Race(halving if repeats > 1 else halving[:2], count, folds)


def everything(count: int, folds: int, repeats: int) -> Race:
    """Return the race without a race: every candidate on every repeat."""
    return Race((Rung(1.0, tuple(range(repeats)), count),), count, folds)


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known)
