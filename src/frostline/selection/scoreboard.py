"""Results so far of a comparison with a time limit, and which runs still fit. Imports no torch.

Plain data, by which `anytime` chooses the next run. Seconds are given as lower bound, estimate and upper
bound, corrected by the measured runs of the same comparison.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from frostline.selection.resampling import Cell
from frostline.selection.successive_halving import Task

# By what factor a predicted time may be off, either way: before any run was measured (predictions were 1.7 to
# 2 times too high, docs/LOG.md 2026-11-28), once runs of other candidates were measured, and once the
# candidate's own runs were. The last two are choices: the 90th percentile of errors on a quiet machine is
# 18 %.
UNMEASURED, OTHERS_MEASURED, OWN_MEASURED = 2.0, 1.35, 1.15
# Time of a candidate's later runs as a share of its first, which fills the feature cache and times the
# precisions: 0.5 to 0.6 was measured (top_k(1), 270 images at 96 px).
LATER = 0.6
POINT = 0.01  # finalists are within a point of the leader
# If one fold costs more than this share of the time limit, only one fold is run: five of them and the last
# training would take six tenths.
FOLD_SHARE = 0.1
BEHIND = 2.0  # standard errors: a candidate this far behind on the same images is run last


@dataclass(frozen=True)
class CandidateCost:
    """Predicted cost of one candidate.

    Parameters
    ----------
    run_s
        Seconds of a run on one fold.
    final_s
        Seconds of training on every image.
    trains
        Whether it trains by gradient steps. A head with a closed-form solution does not, and says nothing
        about the speed of candidates that do.
    family
        Name shared by variants that differ only in learning rate or decay; empty for none.
    """

    run_s: float
    final_s: float
    trains: bool = True
    family: str = ""


@dataclass(frozen=True)
class TrialResult:
    """A finished run: its score (higher is better) and its seconds."""

    score: float
    seconds: float


@dataclass(frozen=True)
class Terms:
    """Constraints that hold for the whole comparison.

    Parameters
    ----------
    folds
        Folds of a repeat.
    repeats
        Repeats that finalists get.
    limit_s
        Time limit in seconds.
    closing_s
        Seconds from the end of the last training to the end of the process.
    held
        Images that a fold holds out; 0 if the metric is no rate between 0 and 1, so that its standard error
        is unknown in advance.
    depth
        Folds of the first repeat that a candidate is judged on; `None` until that is settled.
    """

    folds: int
    repeats: int
    limit_s: float
    closing_s: float
    held: int = 0
    depth: int | None = None


@dataclass(frozen=True)
class Scoreboard:
    """Everything that `next_task` decides by.

    `stopped` holds, by candidate index, the most seconds that a run was allowed before it was stopped.
    """

    costs: Sequence[CandidateCost]
    results: Mapping[Task, TrialResult]
    left_s: float
    terms: Terms
    running: Collection[Task] = ()
    stopped: Mapping[int, float] = field(default_factory=dict)

    # --- seconds ------------------------------------------------------------------------------------------

    def run_s(self, index: int, bound: int) -> float:
        """Return the seconds of a candidate's next run: lower bound (-1), estimate (0) or upper bound (1)."""
        runs_s, cost = self._runs_s(index), self.costs[index]
        pace = self.pace(cost.trains)
        likely_s, factor = cost.run_s * (pace or 1.0), UNMEASURED if pace is None else OTHERS_MEASURED
        if runs_s:
            likely_s, factor = self._own_s(index), OWN_MEASURED
        low = LATER if len(runs_s) == 1 else 1 / factor
        seconds = likely_s * (low if bound < 0 else factor if bound > 0 else 1.0)
        return max(seconds, self.stopped.get(index, 0.0))

    def final_s(self, index: int, bound: int) -> float:
        """Return the seconds of training a candidate on every image."""
        cost = self.costs[index]
        return self.run_s(index, bound) * cost.final_s / max(cost.run_s, 1e-9)

    def pace(self, trains: bool) -> float | None:
        """Return measured over predicted seconds of candidates that train or don't; `None` before a run."""
        measured = [c for c, e in enumerate(self.costs) if e.trains == trains and self._runs_s(c)]
        predicted_s = sum(len(self._runs_s(c)) * self.costs[c].run_s for c in measured)
        measured_s = sum(len(self._runs_s(c)) * self._pace_s(c) for c in measured)
        return measured_s / predicted_s if predicted_s else None

    def _pace_s(self, index: int) -> float:
        """Return the seconds of a typical run; with one run measured, between a first and a later one."""
        return self._own_s(index) * (math.sqrt(LATER) if len(self._runs_s(index)) == 1 else 1.0)

    def _runs_s(self, index: int) -> list[float]:
        return self._seconds.get(index, [])

    @functools.cached_property
    def _seconds(self) -> dict[int, list[float]]:
        by_candidate: dict[int, list[float]] = {}
        for task, result in self.results.items():
            by_candidate.setdefault(task.candidate, []).append(result.seconds)
        return by_candidate

    def _own_s(self, index: int) -> float:
        """Return the seconds of a candidate's own runs; the first one takes longer."""
        runs_s = self._runs_s(index)
        return statistics.median(runs_s) if len(runs_s) > 2 else min(runs_s)

    # --- ranking ------------------------------------------------------------------------------------------

    @functools.cached_property
    def depth(self) -> int:
        """Folds of the first repeat that a candidate is judged on: all, or 1 as a hold-out.

        It is 1 if a fold of the cheapest candidate that trains costs more than a tenth of the time limit, or
        if the time is enough for one fold of some candidate but for all folds of none.
        """
        trained = [index for index, cost in enumerate(self.costs) if cost.trains]
        folds = self.terms.folds
        if self.terms.depth is not None:
            return self.terms.depth
        if folds == 1 or not trained or any(self._has_folds(index, folds) for index in trained):
            return folds
        if min(self.run_s(index, -1) for index in trained) > FOLD_SHARE * self.terms.limit_s:
            return 1
        fits = [any(self._need_s(c, -1, count) <= self.left_s for c in trained) for count in (1, folds)]
        return 1 if fits == [True, False] else folds

    def is_judged(self, index: int) -> bool:
        """Whether a candidate has a result on every fold that counts."""
        return self._has_folds(index, self.depth)

    def _has_folds(self, index: int, depth: int) -> bool:
        return all(task in self.results for task in _tasks(index, depth))

    @functools.cached_property
    def leader(self) -> int | None:
        """Index of the best judged candidate; ties go to the cheaper, then to the earlier."""
        judged = [index for index in range(len(self.costs)) if self.is_judged(index)]
        key = {c: (-self._mean(c, _tasks(c, self.depth)), self.run_s(c, 0), c) for c in judged}
        return min(judged, key=key.__getitem__, default=None)

    def lead(self, index: int) -> float | None:
        """Return a candidate's mean score minus the leader's on the folds that both were run on."""
        if self.leader is None:
            return None
        tasks = [task for task in _tasks(index, self.terms.folds) if task in self.results]
        shared = [task for task in tasks if _same_task(task, self.leader) in self.results]
        if not shared:
            return None
        leader_tasks = [_same_task(task, self.leader) for task in shared]
        return self._mean(index, shared) - self._mean(self.leader, leader_tasks)

    @property
    def promising(self) -> list[int]:
        """Indices of candidates that lead on the folds they were run on, but lack some folds."""
        unjudged = [index for index in range(len(self.costs)) if not self.is_judged(index)]
        return [index for index in unjudged if (self.lead(index) or 0.0) > 0]

    def is_far_behind(self, index: int) -> bool:
        """Whether an unjudged candidate is significantly worse than the leader on its folds so far."""
        lead = self.lead(index)
        if lead is None or not self.terms.held or self.is_judged(index):
            return False
        folds = sum(task in self.results for task in _tasks(index, self.terms.folds))
        return -lead > BEHIND * self._difference_error(folds)

    @property
    def finalists(self) -> list[int]:
        """Indices of judged candidates within a point of the leader, itself included; none if it is alone.

        Where none is, the next best is one too, unless it is significantly worse.
        """
        if self.leader is None:
            return []
        best = self._mean(self.leader, _tasks(self.leader, self.depth))
        judged = [index for index in range(len(self.costs)) if self.is_judged(index)]
        behind = {c: best - self._mean(c, _tasks(c, self.depth)) for c in judged}
        near = [c for c in judged if behind[c] <= POINT + 1e-9]
        if len(near) == 1:
            others = [c for c in judged if c != self.leader]
            next_best = min(others, key=behind.__getitem__, default=None)
            if next_best is not None and behind[next_best] <= BEHIND * self._difference_error(self.depth):
                near = sorted([*near, next_best])
        return near if len(near) > 1 else []

    def _difference_error(self, folds: int) -> float:
        """Return the standard error of a difference of two scores on so many folds, as if they were unpaired.

        0 where the metric is no rate, so that nothing is known of it.
        """
        if not self.terms.held:
            return 0.0
        assert self.leader is not None
        rate = min(1.0, max(0.0, self._mean(self.leader, _tasks(self.leader, self.depth))))
        return math.sqrt(2 * rate * (1 - rate) / (self.terms.held * folds))

    def _mean(self, index: int, tasks: Iterable[Task]) -> float:
        return statistics.fmean(self.results[task].score for task in tasks)

    # --- what fits ----------------------------------------------------------------------------------------

    def missing(self, index: int, depth: int | None = None) -> list[Task]:
        """Return a candidate's runs on the first repeat that are neither finished nor running."""
        tasks = _tasks(index, depth or self.depth)
        return [task for task in tasks if task not in self.results and task not in self.running]

    def _runs_left(self, index: int, depth: int) -> int:
        """Return how many runs a candidate lacks; those running in other processes count as one."""
        tasks = [task for task in _tasks(index, depth) if task not in self.results]
        unclaimed = sum(task not in self.running for task in tasks)
        return unclaimed + (unclaimed < len(tasks))

    def need_s(self, index: int, bound: int) -> float:
        """Return the seconds until a candidate is judged and the leader is trained on every image."""
        return self._need_s(index, bound, self.depth, self.leader)

    def _need_s(self, index: int, bound: int, depth: int, leading: int | None = None) -> float:
        last_s = self.final_s(index, bound)
        if leading is not None:
            last_s = max(last_s, self.final_s(leading, 1))
        return self._runs_left(index, depth) * self.run_s(index, bound) + last_s + self.closing_s

    @functools.cached_property
    def closing_s(self) -> float:
        """Seconds after the last training; a machine slower than predicted is slower here, too."""
        return self.terms.closing_s * max(1.0, self.pace(trains=True) or 1.0)

    def may_fit(self, index: int, depth: int | None = None) -> bool:
        """Whether a candidate may be judged in the time left, by the lower bound of its runs' seconds."""
        return self._need_s(index, -1, depth or self.depth, self.leader) <= self.left_s

    def surely_fits(self, index: int) -> bool:
        """Whether a candidate is judged in the time left even by the upper bound of its runs' seconds."""
        return self.need_s(index, 1) <= self.left_s

    @property
    def reserve_s(self) -> float:
        """Seconds to reserve for training the leader on every image and for writing the results."""
        return self.closing_s + (0.0 if self.leader is None else self.final_s(self.leader, 1))

    def may_take_s(self, index: int, depth: int | None = None) -> float:
        """Return the seconds after which one more run of a candidate is stopped.

        If its other runs were as slow, there would be no time to judge it or to train the leader.
        """
        rest = max(1, self._runs_left(index, depth or self.depth))
        cost = self.costs[index]
        ratio = cost.final_s / max(cost.run_s, 1e-9)
        free_s = self.left_s - self.closing_s
        each = (
            OWN_MEASURED * free_s / (rest + ratio)
            if self._runs_s(index)
            else free_s / (1 + LATER * (rest - 1 + ratio))
        )
        return min(each, self.left_s - self.reserve_s)


def _tasks(index: int, depth: int) -> list[Task]:
    return [Task(index, 1.0, Cell(0, fold)) for fold in range(depth)]


def _same_task(task: Task, index: int) -> Task:
    return Task(index, task.share, task.cell)
