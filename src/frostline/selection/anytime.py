"""What to run next while minutes last: a better model first, then knowing more. Imports no torch.

A candidate counts once it was judged on every fold of the first repeat (or on the hold-out); until then it
may look promising, and answers for nothing. `next_task` is asked anew before each run, with what has been
seen and the seconds that are left, so it goes on after an interrupt and lets several processes share one
comparison (docs/decisions/0014).
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from frostline.selection.resampling import Cell
from frostline.selection.scoreboard import Board, Entrant, Terms
from frostline.selection.successive_halving import Task


@dataclass(frozen=True)
class Next:
    """The run to make and the seconds it may take, or why there is none.

    `over` says that nothing is left that could change the answer; `waits` that other processes have it;
    `place` whom there is no time for.
    """

    task: Task | None
    why: str
    may_take_s: float = 0.0
    place: int | None = None
    over: bool = False
    waits: bool = False


def next_task(board: Board) -> Next:
    """Return the run to make next: see docs/decisions/0014 for the order and why it is this one."""
    for stage in (_probe, _first, _others, _twins, _repeat, _far_behind):
        found = stage(board)
        if found is not None:
            return found
    if board.running:
        return Next(None, "Other processes make the runs that are left.", waits=True)
    return _nothing(board)


def _probe(board: Board) -> Next | None:
    """What is solved for comes first, on all folds: it costs little, and a model then has a figure."""
    for place in _listed(board, trains=False):
        for depth in dict.fromkeys((board.terms.folds, board.depth)):
            tasks = board.missing(place, depth)
            if tasks and board.could(place, depth):
                may_take_s = board.may_take_s(place, depth)
                return Next(tasks[0], "a figure for a model that is there at once", may_take_s)
    return None


def _first(board: Board) -> Next | None:
    """All folds for the best candidate that fits, until one that trains has them.

    The best is the first listed. While it is doubtful whether it fits, the cheapest tells the pace with one
    fold, and no more time goes to the other than the cheapest that surely fits can spare.
    """
    trained = [place for place in _listed(board) if not _twin(board, place)]
    if any(board.whole(place) for place in _listed(board)):
        return None
    able = [place for place in trained if board.could(place) and board.missing(place)]
    if not able:
        return None
    sure = [place for place in able if board.surely(place)]
    if not sure or (board.pace(trains=True) is None and sure[0] != able[0]):
        place = min(able, key=lambda c: board.need_s(c, 0))
        return _run(board, place, "the cheapest tells how quick this machine is")
    safe = min(sure, key=lambda c: board.need_s(c, 1))
    spare_s = board.left_s - board.need_s(safe, 1)
    for place in able[: able.index(sure[0])]:
        if board.run_s(place, 0) <= spare_s:
            found = _run(board, place, "the best that may fit")
            return Next(found.task, found.why, min(found.may_take_s, spare_s))
    return _run(board, sure[0], "the best that fits")


def _others(board: Board) -> Next | None:
    """The next candidates in their order, near twins and those far behind left for later."""
    return _one_of(board, [c for c in _listed(board) if not _twin(board, c) and not board.behind(c)])


def _twins(board: Board) -> Next | None:
    """Near twins of others, those of the leader first."""
    twins = [c for c in _listed(board) if _twin(board, c) and not board.behind(c)]
    leading = None if board.leader is None else board.entrants[board.leader].family
    return _one_of(board, sorted(twins, key=lambda c: (board.entrants[c].family != leading, c)))


def _far_behind(board: Board) -> Next | None:
    return _one_of(board, [c for c in _listed(board) if board.behind(c)])


def _one_of(board: Board, places: Sequence[int]) -> Next | None:
    for place in places:
        if not board.whole(place) and board.missing(place) and board.could(place):
            return _run(board, place, "a challenger")
    return None


def _run(board: Board, place: int, why: str) -> Next:
    return Next(board.missing(place)[0], why, board.may_take_s(place))


def _repeat(board: Board) -> Next | None:
    """Finalists are repeated together, a repeat only where all of them surely end in time."""
    finalists = board.finalists
    for repeat in range(1, board.terms.repeats):
        cells = [Cell(repeat, fold) for fold in range(board.depth)]
        tasks = [Task(place, 1.0, cell) for cell in cells for place in finalists]
        left = [task for task in tasks if task not in board.seen and task not in board.running]
        if not left:
            continue
        need_s = sum(board.run_s(task.candidate, 1) for task in left)
        if need_s + board.reserve_s > board.left_s:
            return None
        return Next(left[0], "finalists within a point of each other", board.left_s - board.reserve_s)
    return None


def _nothing(board: Board) -> Next:
    """Say why nothing is run any more."""
    unjudged = [place for place in range(len(board.entrants)) if not board.whole(place)]
    if unjudged:
        place = min(unjudged, key=lambda c: board.need_s(c, 0))
        spare_s = max(0.0, board.left_s - board.reserve_s)
        need_s = max(1.0, board.need_s(place, 0) - board.reserve_s)
        why = f"would take about {need_s:.0f} s more until it is judged, and {spare_s:.0f} s were left"
        return Next(None, why, place=place)
    last = Cell(board.terms.repeats - 1, board.depth - 1)
    if any(Task(c, 1.0, last) not in board.seen for c in board.finalists):
        return Next(
            None, "Nothing is left to try that fits: those within a point of each other can't be repeated."
        )
    return Next(None, "Every candidate was judged: nothing is left to try.", over=True)


def judged(seen: Collection[Task], count: int, depth: int) -> dict[int, int]:
    """Return how many repeats, from the first on, each candidate was seen on with every fold that counts."""
    found = {}
    for place in range(count):
        repeat = 0
        while all(Task(place, 1.0, Cell(repeat, fold)) in seen for fold in range(depth)):
            repeat += 1
        if repeat:
            found[place] = repeat
    return found


def expected_s(entrants: Sequence[Entrant], terms: Terms) -> float:
    """Return what judging everyone, repeating two finalists and training a winner is expected to take."""
    typical = statistics.fmean(e.run_s for e in entrants)
    once = terms.folds * sum(e.run_s for e in entrants)
    repeating = (terms.repeats - 1) * terms.folds * min(2, len(entrants)) * typical
    return once + repeating + statistics.fmean(e.final_s for e in entrants) + terms.closing_s


def _listed(board: Board, trains: bool = True) -> list[int]:
    return [place for place, entrant in enumerate(board.entrants) if entrant.trains == trains]


def _twin(board: Board, place: int) -> bool:
    """Whether one of the same family is listed before."""
    family = board.entrants[place].family
    return bool(family) and any(entrant.family == family for entrant in board.entrants[:place])
