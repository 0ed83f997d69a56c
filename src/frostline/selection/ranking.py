"""Rank the candidates that were run on every fold, over the repeats they share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from frostline.selection.anytime import repeats_judged
from frostline.selection.compare_request import CompareRequest
from frostline.selection.out_of_fold import gather, longest
from frostline.selection.resampling import Cell
from frostline.selection.significance import HeldOutPredictions, Verdict, difference, judge, shallowest
from frostline.selection.successive_halving import Task
from frostline.selection.trial_queue import Outcome
from frostline.selection.trial_runner import TrialRunner


@dataclass(frozen=True)
class Ranking:
    """The winner and the predictions that it was chosen by.

    Parameters
    ----------
    winner
        Index of the winning candidate.
    verdict
        Differences between candidates; `None` if only one was run on every fold.
    predictions
        Held-out predictions of each candidate that was run on every fold, over all its complete repeats.
    first_repeat
        The same for the first repeat alone.
    outcomes
        The runs that `predictions` are of, by candidate.
    repeats
        Repeats that the verdict is based on.
    depth
        Folds of a repeat that count.
    """

    winner: int
    verdict: Verdict | None
    predictions: dict[int, HeldOutPredictions]
    first_repeat: dict[int, HeldOutPredictions]
    outcomes: dict[int, dict[Task, Outcome]]
    repeats: int
    depth: int

    def folds(self, index: int) -> int:
        """Return how many folds of a repeat a candidate's predictions are of."""
        return len({task.cell.fold for task in self.outcomes[index]})


def rank(request: CompareRequest, runner: TrialRunner) -> Ranking | None:
    """Return the ranking of the candidates run on every fold of the first repeat; `None` if there is none.

    Candidates that were repeated are compared over their shared repeats, and with the others over the first.
    A comparison of cuts that ran out of time uses the cells that all candidates were run on.
    """
    metric, seed = request.metric, request.config.seed
    seconds, depth = dict(enumerate(runner.whole_s)), runner.depth
    repeats = complete_repeats(runner)
    leads = request.leads_by_index

    def over(indices: Iterable[int], repeat_count: int, folds: int) -> dict[int, HeldOutPredictions]:
        outcomes = _whole_runs(runner, repeat_count, folds)
        return gather(runner.data, runner.study.path, outcomes, indices)

    if request.thorough and len(repeats) < len(runner.candidates):
        outcomes = _shared_outcomes(runner)
        candidates = sorted({task.candidate for task in outcomes})
        if len(candidates) < 2:
            return None
        predictions = gather(runner.data, runner.study.path, outcomes, candidates)
        verdict = shallowest(judge(predictions, seconds, metric, seed))
        by_candidate = {index: _of(outcomes, index) for index in candidates}
        return Ranking(verdict.winner, verdict, predictions, predictions, by_candidate, 0, depth)
    if not repeats:
        return None
    first_repeat = over(repeats, 1, depth)
    by_candidate = {
        c: _of(_whole_runs(runner, count, evaluated_folds(runner, c)), c) for c, count in repeats.items()
    }
    predictions = {
        c: gather(runner.data, runner.study.path, outcomes, [c])[c] for c, outcomes in by_candidate.items()
    }
    if len(repeats) == 1:
        return Ranking(next(iter(repeats)), None, predictions, first_repeat, by_candidate, 1, depth)
    repeats_compared = sorted(repeats.values())[-2]
    repeated = [index for index, count in repeats.items() if count >= repeats_compared]
    compared = first_repeat if repeats_compared == 1 else over(repeated, repeats_compared, depth)
    verdict = judge(compared, seconds, metric, seed, leads)
    others = {
        index: difference(first_repeat[verdict.leader], first_repeat[index], metric, seed)
        for index in repeats
        if index not in repeated
    }
    verdict = replace(verdict, differences={**verdict.differences, **others})
    verdict = shallowest(verdict) if request.thorough else verdict
    return Ranking(verdict.winner, verdict, predictions, first_repeat, by_candidate, repeats_compared, depth)


def complete_repeats(runner: TrialRunner) -> dict[int, int]:
    """Return the number of repeats with every fold that counts, by index, for candidates with any."""
    return repeats_judged(runner.outcomes.keys(), len(runner.candidates), runner.depth)


def evaluated_folds(runner: TrialRunner, index: int) -> int:
    """Return how many folds of a repeat a candidate was evaluated on: all, or those that count."""
    folds = runner.schedule.folds
    all_folds = all(Task(index, 1.0, Cell(0, fold)) in runner.outcomes for fold in range(folds))
    return folds if all_folds else runner.depth


def _whole_runs(runner: TrialRunner, repeats: int, folds: int) -> dict[Task, Outcome]:
    """Return the outcomes of whole runs on the first so many repeats and folds."""
    return {
        task: outcome
        for task, outcome in runner.outcomes.items()
        if task.share == 1.0 and task.cell.repeat < repeats and task.cell.fold < folds
    }


def _shared_outcomes(runner: TrialRunner) -> dict[Task, Outcome]:
    """Return the outcomes on cells that every candidate was run on."""
    candidates = range(len(runner.candidates))
    return {
        task: outcome
        for task, outcome in runner.outcomes.items()
        if all(replace(task, candidate=candidate) in runner.outcomes for candidate in candidates)
    }


def _of(outcomes: Mapping[Task, Outcome], index: int) -> dict[Task, Outcome]:
    """Return a candidate's longest runs among outcomes: those that `gather` reads."""
    return {task: outcomes[task] for task in longest(outcomes, index)}
