"""The rows of a comparison's result: each candidate's figures, leads and differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from frostline.data import spread_of_folds
from frostline.selection.compare_request import CompareRequest
from frostline.selection.out_of_fold import gather, longest
from frostline.selection.ranking import Ranking, complete_repeats, evaluated_folds
from frostline.selection.resampling import Cell
from frostline.selection.significance import Verdict
from frostline.selection.trial_runner import TrialRunner


def rows(request: CompareRequest, runner: TrialRunner, ranking: Ranking) -> list[dict[str, Any]]:
    """Return a row for each candidate with its runs and scores, the best first.

    All figures of a row are of the runs whose folders are its `trials`: those that it was ranked by, else its
    longest. The intervals are of a new model's accuracy on new images, like the headline's. Of a probe with
    all folds where the others have one, they are of that one; `all_folds_accuracy` is of all.
    """
    standings, repeats = [], complete_repeats(runner)
    for index, candidate in enumerate(runner.candidates):
        runs = {task: o for task, o in runner.outcomes.items() if task.candidate == index}
        ranked = ranking.outcomes.get(index) or {t: runs[t] for t in longest(runner.outcomes, index)}
        judged = {task: o for task, o in ranked.items() if task.cell.fold < ranking.depth}
        on_more_folds = ranking.verdict is not None and 0 < len(judged) < len(ranked)
        tasks = list(judged if on_more_folds else ranked)
        outcomes = [runs[task] for task in tasks]
        row: dict[str, Any] = {
            **({"model": candidate.model} if candidate.model else {}),
            "strategy": str(candidate.strategy),
            "augment": candidate.augment,
            "candidate": index,
            "winner": index == ranking.winner,
            "joined": candidate in request.earlier.joined,
            "runs": len(runs),
            "trials": sorted(Path(str(outcome["run"])).as_posix() for outcome in outcomes),
            "share": _share(runner, index),
            "repeats": repeats.get(index, 0),
            "folds": len(tasks),
            "score": None,
            "accuracy": None,
            "low": None,
            "high": None,
            "all_folds_accuracy": None,
            "seconds": sum(o["seconds"] for o in runs.values()),
            "run_seconds": _mean([o["seconds"] for o in outcomes]),
            "predicted_seconds": runner.whole_s[index],
        }
        predictions = ranking.predictions.get(index)
        if on_more_folds and predictions is not None:
            row["all_folds_accuracy"] = predictions.accuracy_interval()[0]
        if tasks and (predictions is None or on_more_folds):
            chosen = {task: runs[task] for task in tasks}
            predictions = gather(runner.data, runner.study.path, chosen, [index])[index]
        if predictions is not None and len(predictions.images):
            folds = ranking.depth if on_more_folds else evaluated_folds(runner, index)
            row["score"] = predictions.score(request.metric)
            row["accuracy"], row["low"], row["high"] = predictions.accuracy_interval(spread_of_folds(folds))
        standings.append(row)
    return sorted(standings, key=partial(_place, ranking))


def _place(ranking: Ranking, row: Mapping[str, Any]) -> tuple[float, ...]:
    """Return what standings are sorted by: those compared with the leader by their distance to it, the others
    by how long they trained and their score.
    """
    index, repeats = row["candidate"], row["repeats"]
    behind = {}
    if (verdict := ranking.verdict) is not None:
        behind = {verdict.leader: 0.0, **{other: gap.mean for other, gap in verdict.differences.items()}}
    if index in behind:  # of who has fewer repeats the distance is of the first
        return (0, -ranking.repeats if repeats >= ranking.repeats else -1, behind[index])
    return (1, -repeats, -row["share"], -(row["score"] or 0.0))


def _share(runner: TrialRunner, index: int) -> float:
    """Return the largest share of its epochs that a candidate was trained for; 0 without a run."""
    tasks = longest(runner.outcomes, index)
    if tasks and not runner.candidates[index].strategy.trains:
        return 1.0  # a head with a closed-form solution has no epochs: its short run is a whole one
    return tasks[0].share if tasks else 0.0


def differences(runner: TrialRunner, ranking: Ranking) -> list[dict[str, Any]]:
    """Return the difference between the leader and each other candidate, and of how many repeats it is."""
    verdict = ranking.verdict
    if verdict is None:
        return []
    names, repeats = [str(candidate) for candidate in runner.candidates], complete_repeats(runner)
    return [
        {
            "leader": names[verdict.leader],
            "other": names[other],
            "candidates": [verdict.leader, other],
            "mean": difference.mean,
            "low": difference.low,
            "high": difference.high,
            "separated": difference.separated,
            "repeats": ranking.repeats if repeats.get(other, 0) >= ranking.repeats else 1,
        }
        for other, difference in verdict.differences.items()
    ]


def over_leader(request: CompareRequest, verdict: Verdict | None, winner: int) -> dict[str, Any] | None:
    """Return why the winner is not who scored best: its score less the leader's, measured, in earlier trials
    (`None` if they had no say) and expected by both. `None` where the winner is the leader.
    """
    if verdict is None or winner == verdict.leader or request.thorough:
        return None
    earlier = request.leads_by_index.get((winner, verdict.leader))
    return {
        "measured": -verdict.differences[winner].mean,
        "earlier": None if earlier is None else earlier[0],
        "expected": verdict.expected[winner],
    }


def promising(request: CompareRequest, runner: TrialRunner) -> list[dict[str, Any]]:
    """Return the candidates that lead on the folds they have, but lack some: folds and lead of each."""
    board = None if runner.terms is None else runner.board()
    if board is None or board.leader is None:
        return []
    rows = []
    for index in board.promising:
        pair = (index, board.leader)
        own_cells, leaders_cells = (_first_cells(runner, candidate) for candidate in pair)
        cells = own_cells & leaders_cells
        outcomes = {
            task: outcome
            for task, outcome in runner.outcomes.items()
            if task.candidate in pair and task.share == 1.0 and task.cell in cells
        }
        own, leading = gather(runner.data, runner.study.path, outcomes, pair).values()
        ahead = own.score(request.metric) - leading.score(request.metric)
        if ahead > 0:
            rows.append(
                {
                    "strategy": str(runner.candidates[index]),
                    "folds": len(cells),
                    "ahead": ahead,
                    "beside": str(runner.candidates[board.leader]),
                }
            )
    return rows


def _first_cells(runner: TrialRunner, index: int) -> set[Cell]:
    """Return the folds of the first repeat that a candidate has whole runs on."""
    tasks = (task for task in runner.outcomes if task.candidate == index and task.share == 1.0)
    return {task.cell for task in tasks if task.cell.repeat == 0}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
