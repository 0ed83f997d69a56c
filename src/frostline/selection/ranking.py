"""Who won, and what that rests on: those judged on every fold, over the repeats they share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from frostline.selection.anytime import judged
from frostline.selection.out_of_fold import gather
from frostline.selection.request import CompareRequest
from frostline.selection.resampling import Cell
from frostline.selection.runner import Contest
from frostline.selection.significance import Held, Verdict, difference, judge, shallowest
from frostline.selection.successive_halving import Task
from frostline.selection.trial_queue import Outcome


@dataclass(frozen=True)
class Judged:
    """Who won, and what that rests on.

    `answers` are those of each candidate that was judged, over all images it was asked about; `once` those
    that the winner was picked from, of the first repeat.
    """

    winner: int
    verdict: Verdict | None  # none where one alone was judged
    answers: dict[int, Held]
    once: dict[int, Held]
    repeats: int  # that the verdict rests on
    depth: int  # folds of a repeat that count


def settle(request: CompareRequest, contest: Contest) -> Judged | None:
    """Judge those that were seen on every fold of the first repeat; none where nobody was.

    Who was repeated more often is compared over those repeats, with the others over the first. Thaws that the
    time cut short are judged on the cells that all of them have been seen on.
    """
    metric, seed = request.config.metric, request.config.seed
    seconds, depth = dict(enumerate(contest.whole_s)), contest.depth
    repeats = whole_repeats(contest)

    def over(places: Iterable[int], most: int, folds: int) -> dict[int, Held]:
        counted = {
            task: outcome
            for task, outcome in contest.outcomes.items()
            if task.share == 1.0 and task.cell.repeat < most and task.cell.fold < folds
        }
        return gather(contest.data, contest.study.path, counted, places)

    if request.thorough and len(repeats) < len(contest.candidates):
        outcomes = of_all(contest)
        answers = gather(contest.data, contest.study.path, outcomes, sorted({t.candidate for t in outcomes}))
        if len(answers) < 2:
            return None
        verdict = shallowest(judge(answers, seconds, metric, seed))
        return Judged(verdict.winner, verdict, answers, answers, 0, depth)
    if not repeats:
        return None
    once = over(repeats, 1, depth)
    answers = {c: over([c], count, wanted_folds(contest, c))[c] for c, count in repeats.items()}
    if len(repeats) == 1:
        return Judged(next(iter(repeats)), None, answers, once, 1, depth)
    most = sorted(repeats.values())[-2]
    often = [place for place, count in repeats.items() if count >= most]
    verdict = judge(once if most == 1 else over(often, most, depth), seconds, metric, seed)
    rest = {
        place: difference(once[verdict.leader], once[place], metric, seed)
        for place in repeats
        if place not in often
    }
    verdict = replace(verdict, differences={**verdict.differences, **rest})
    verdict = shallowest(verdict) if request.thorough else verdict
    return Judged(verdict.winner, verdict, answers, once, most, depth)


def whole_repeats(contest: Contest) -> dict[int, int]:
    """Return on how many repeats each candidate was seen with every fold that counts, of those that were."""
    return judged(contest.outcomes.keys(), len(contest.candidates), contest.depth)


def wanted_folds(contest: Contest, place: int) -> int:
    """Return on how many folds of a repeat a judged candidate was asked: all, or those that count."""
    folds = contest.race.folds
    every = all(Task(place, 1.0, Cell(0, fold)) in contest.outcomes for fold in range(folds))
    return folds if every else contest.depth


def without_rest(contest: Contest, place: int) -> Contest:
    """Return the contest without the winner's runs on repeats that it was not seen on as a whole."""
    repeats, folds = whole_repeats(contest).get(place), wanted_folds(contest, place)
    if repeats is None:  # thaws that were cut short
        return replace(contest, outcomes=of_all(contest))
    return replace(
        contest,
        outcomes={
            task: outcome
            for task, outcome in contest.outcomes.items()
            if task.candidate != place
            or (task.share == 1.0 and task.cell.repeat < repeats and task.cell.fold < folds)
        },
    )


def of_all(contest: Contest) -> dict[Task, Outcome]:
    """Return the runs on cells that every candidate has been seen on."""
    everyone = range(len(contest.candidates))
    return {
        task: found
        for task, found in contest.outcomes.items()
        if all(replace(task, candidate=one) in contest.outcomes for one in everyone)
    }
