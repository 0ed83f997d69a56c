"""Choose the next run of a comparison with a time limit. Imports no torch.

Better candidates come first, repeats of the finalists last. A candidate can win only once it has a result on
every fold of the first repeat (or on the hold-out). `next_task` is called before each run with the results
so far and the seconds left, so a comparison resumes after an interrupt, and several processes can share it
(docs/decisions/0014).
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from frostline.selection.resampling import Cell
from frostline.selection.scoreboard import CandidateCost, Scoreboard, Terms
from frostline.selection.successive_halving import Task


class EndingKind(Enum):
    """Why there is no run to make."""

    DONE = auto()  # nothing is left that could change the winner
    NO_TIME = auto()  # for a candidate
    NO_TIME_TO_REPEAT = auto()  # the finalists
    OTHERS_RUN = auto()  # other processes are making the runs that are left


@dataclass(frozen=True)
class Ending:
    """Why there is no run to make.

    Parameters
    ----------
    kind
        The kind.
    index
        Index of the candidate for which the time is too short.
    need_s
        Seconds that it needs.
    left_s
        Seconds that are left for it.
    one_fold
        Whether candidates are judged on one fold of several.
    """

    kind: EndingKind
    index: int | None = None
    need_s: float = 0.0
    left_s: float = 0.0
    one_fold: bool = False

    def sentence(self, candidates: Sequence[object]) -> str:
        """Return the reason in words; `candidates` are those of the comparison."""
        match self.kind:
            case EndingKind.DONE:
                folds = "the one fold that the time is enough for" if self.one_fold else "every fold"
                return f"Every candidate was evaluated on {folds}: nothing is left to run."
            case EndingKind.NO_TIME:
                assert self.index is not None
                return (
                    f"Nothing else fits the time: even {candidates[self.index]} would take about "
                    f"{self.need_s:.0f} s more to evaluate, and {self.left_s:.0f} s were left."
                )
            case EndingKind.NO_TIME_TO_REPEAT:
                return "Nothing else fits the time: the best candidates can't be repeated."
            case EndingKind.OTHERS_RUN:
                return "Other processes make the runs that are left."


@dataclass(frozen=True)
class NextTrial:
    """The run to make, or why there is none.

    Parameters
    ----------
    task
        The run; `None` if there is none to make now.
    may_take_s
        Seconds after which it is stopped.
    ending
        Why there is none.
    """

    task: Task | None
    may_take_s: float = 0.0
    ending: Ending | None = None

    @property
    def over(self) -> bool:
        """Whether nothing is left that could change the winner."""
        return self.ending is not None and self.ending.kind is EndingKind.DONE

    @property
    def waits(self) -> bool:
        """Whether other processes are making the remaining runs."""
        return self.ending is not None and self.ending.kind is EndingKind.OTHERS_RUN


def next_task(board: Scoreboard) -> NextTrial:
    """Return the run to make next.

    The order of the stages is explained in docs/decisions/0014.

    Parameters
    ----------
    board
        Costs, results and constraints of the comparison.

    Returns
    -------
    NextTrial
        The run, or the reason why there is none.
    """
    for stage in (_probe, _first, _others, _twins, _repeat, _far_behind):
        trial = stage(board)
        if trial is not None:
            return trial
    if board.running:
        return NextTrial(None, ending=Ending(EndingKind.OTHERS_RUN))
    return _nothing(board)


def _probe(board: Scoreboard) -> NextTrial | None:
    """Return a run of a candidate with a closed-form head, which costs little, on all folds."""
    for index in _indices(board, trains=False):
        for depth in dict.fromkeys((board.terms.folds, board.depth)):
            tasks = board.missing(index, depth)
            if tasks and board.may_fit(index, depth):
                return NextTrial(tasks[0], board.may_take_s(index, depth))
    return None


def _first(board: Scoreboard) -> NextTrial | None:
    """Return a run of the first listed candidate that fits, until one that trains is judged.

    While it is uncertain whether it fits, one fold of the cheapest measures the machine's speed, and a
    candidate that only may fit gets no more time than the cheapest that certainly fits can spare.
    """
    listed = [index for index in _indices(board) if not _twin(board, index)]
    if any(board.is_judged(index) for index in _indices(board)):
        return None
    feasible = [index for index in listed if board.may_fit(index) and board.missing(index)]
    if not feasible:
        return None
    certain = [index for index in feasible if board.surely_fits(index)]
    if not certain or (board.pace(trains=True) is None and certain[0] != feasible[0]):
        index = min(feasible, key=lambda c: board.need_s(c, 0))
        return _run(board, index)
    safe = min(certain, key=lambda c: board.need_s(c, 1))
    spare_s = board.left_s - board.need_s(safe, 1)
    for index in feasible[: feasible.index(certain[0])]:
        if board.run_s(index, 0) <= spare_s:
            trial = _run(board, index)
            return replace(trial, may_take_s=min(trial.may_take_s, spare_s))
    return _run(board, certain[0])


def _others(board: Scoreboard) -> NextTrial | None:
    """Return a run of the next listed candidate, variants and those far behind excepted."""
    return _first_feasible(
        board, [c for c in _indices(board) if not _twin(board, c) and not board.is_far_behind(c)]
    )


def _twins(board: Scoreboard) -> NextTrial | None:
    """Return a run of a variant of another candidate, variants of the leader first."""
    twins = [c for c in _indices(board) if _twin(board, c) and not board.is_far_behind(c)]
    leading = None if board.leader is None else board.costs[board.leader].family
    return _first_feasible(board, sorted(twins, key=lambda c: (board.costs[c].family != leading, c)))


def _far_behind(board: Scoreboard) -> NextTrial | None:
    return _first_feasible(board, [c for c in _indices(board) if board.is_far_behind(c)])


def _first_feasible(board: Scoreboard, indices: Sequence[int]) -> NextTrial | None:
    for index in indices:
        if not board.is_judged(index) and board.missing(index) and board.may_fit(index):
            return _run(board, index)
    return None


def _run(board: Scoreboard, index: int) -> NextTrial:
    return NextTrial(board.missing(index)[0], board.may_take_s(index))


def _repeat(board: Scoreboard) -> NextTrial | None:
    """Return a run of a further repeat, if all finalists certainly finish that repeat in time."""
    finalists = board.finalists
    for repeat in range(1, board.terms.repeats):
        cells = [Cell(repeat, fold) for fold in range(board.depth)]
        tasks = [Task(index, 1.0, cell) for cell in cells for index in finalists]
        unfinished = [task for task in tasks if task not in board.results and task not in board.running]
        if not unfinished:
            continue
        need_s = sum(board.run_s(task.candidate, 1) for task in unfinished)
        if need_s + board.reserve_s > board.left_s:
            return None
        return NextTrial(unfinished[0], board.left_s - board.reserve_s)
    return None


def _nothing(board: Scoreboard) -> NextTrial:
    """Return the reason why no more runs are made."""
    unjudged = [index for index in range(len(board.costs)) if not board.is_judged(index)]
    if unjudged:
        index = min(unjudged, key=lambda c: board.need_s(c, 0))
        spare_s = max(0.0, board.left_s - board.reserve_s)
        need_s = max(1.0, board.need_s(index, 0) - board.reserve_s)
        return NextTrial(None, ending=Ending(EndingKind.NO_TIME, index, need_s, spare_s))
    last = Cell(board.terms.repeats - 1, board.depth - 1)
    if any(Task(c, 1.0, last) not in board.results for c in board.finalists):
        return NextTrial(None, ending=Ending(EndingKind.NO_TIME_TO_REPEAT))
    return NextTrial(None, ending=Ending(EndingKind.DONE, one_fold=board.depth < board.terms.folds))


def repeats_judged(results: Collection[Task], count: int, depth: int) -> dict[int, int]:
    """Return how many complete repeats each candidate has, counted from the first.

    Parameters
    ----------
    results
        Finished runs.
    count
        Number of candidates.
    depth
        Folds of a repeat that count.

    Returns
    -------
    dict
        Complete repeats by candidate index, for candidates with at least one.
    """
    repeats = {}
    for index in range(count):
        repeat = 0
        while all(Task(index, 1.0, Cell(repeat, fold)) in results for fold in range(depth)):
            repeat += 1
        if repeat:
            repeats[index] = repeat
    return repeats


def expected_s(costs: Sequence[CandidateCost], terms: Terms) -> float:
    """Return the expected seconds of a whole comparison.

    That is every candidate on one repeat, two finalists on all repeats, and training the winner.

    Parameters
    ----------
    costs
        Predicted cost of each candidate.
    terms
        Folds, repeats and the seconds after the last training.

    Returns
    -------
    float
        Seconds.
    """
    typical = statistics.fmean(e.run_s for e in costs)
    once = terms.folds * sum(e.run_s for e in costs)
    repeating = (terms.repeats - 1) * terms.folds * min(2, len(costs)) * typical
    return once + repeating + statistics.fmean(e.final_s for e in costs) + terms.closing_s


def _indices(board: Scoreboard, trains: bool = True) -> list[int]:
    return [index for index, cost in enumerate(board.costs) if cost.trains == trains]


def _twin(board: Scoreboard, index: int) -> bool:
    """Whether a candidate of the same family is listed before."""
    family = board.costs[index].family
    return bool(family) and any(cost.family == family for cost in board.costs[:index])
