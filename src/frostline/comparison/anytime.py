"""What to run next while minutes last: a better model first, then knowing more. Plain data, no clock, no torch.

A candidate counts once it was judged on every fold of the first repeat (or on the hold-out); until then it may
look promising, and answers for nothing. `next_task` is asked anew before each run, with what has been seen and
the seconds that are left, so it goes on after an interrupt and lets several processes share one comparison
(docs/decisions/0014).
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from frostline.comparison.cells import Cell
from frostline.comparison.race import Task

# How far a prediction may be off, either way: before any run has told the machine's pace (predicted seconds
# were seen 1.7 to 2 times too high, docs/LOG.md 2026-11-28), once another candidate has, and once the
# candidate's own runs have. The last two are choices: the 90th percentile of errors on a quiet machine is 18 %.
UNTOLD, TOLD, OWN = 2.0, 1.35, 1.15
# What later runs of a candidate take of its first, which fills the store and times its way of computing: 0.5
# to 0.6 was seen (top_k(1), 270 images at 96 px).
LATER = 0.6
POINT = 0.01  # finalists are within a point of the leader
# A fold that costs more of the minutes is the only one: five of them and the last training are six tenths.
FOLD_SHARE = 0.1
BEHIND = 2.0  # standard errors: a challenger so far behind on the same images waits until all else is done


@dataclass(frozen=True)
class Entrant:
    """One candidate: predicted seconds of a run on a fold and of training on every image.

    Near twins share a `family`; what does not train (a head that is solved for) tells nothing of the pace of
    what does.
    """

    run_s: float
    final_s: float
    trains: bool = True
    family: str = ""


@dataclass(frozen=True)
class Seen:
    """A finished run: how good (higher is better), and what it took."""

    score: float
    seconds: float


@dataclass(frozen=True)
class Terms:
    """What holds for the whole comparison.

    `closing_s` is what follows the last training until the process has ended. `held` is how many images a fold
    holds out; 0 where scores are no rates between 0 and 1, whose spread is not known before.
    """

    folds: int
    repeats: int
    limit_s: float
    closing_s: float
    held: int = 0
    depth: int | None = None  # folds that count, once that is settled


@dataclass(frozen=True)
class Next:
    """The run to make and the seconds it may take, or why there is none.

    `over` says that nothing is left that could change the answer; `waits` that other processes have it; `place`
    whom there is no time for.
    """

    task: Task | None
    why: str
    may_take_s: float = 0.0
    place: int | None = None
    over: bool = False
    waits: bool = False


@dataclass(frozen=True)
class Board:
    """All that `next_task` looks at. `stopped` is the most seconds a candidate's unfinished run was given."""

    entrants: Sequence[Entrant]
    seen: Mapping[Task, Seen]
    left_s: float
    terms: Terms
    running: Collection[Task] = ()
    stopped: Mapping[int, float] = field(default_factory=dict)

    # --- seconds ------------------------------------------------------------------------------------------

    def run_s(self, place: int, side: int) -> float:
        """Return the seconds of one more run of a candidate: at least (side −1), likely (0), at most (1)."""
        told, entrant = self._taken(place), self.entrants[place]
        pace = self.pace(entrant.trains)
        middle, doubt = entrant.run_s * (pace or 1.0), UNTOLD if pace is None else TOLD
        if told:
            middle, doubt = self._own_s(place), OWN
        low = LATER if len(told) == 1 else 1 / doubt
        found = middle * (low if side < 0 else doubt if side > 0 else 1.0)
        return max(found, self.stopped.get(place, 0.0))

    def final_s(self, place: int, side: int) -> float:
        """Return the seconds of training a candidate on every image."""
        entrant = self.entrants[place]
        return self.run_s(place, side) * entrant.final_s / max(entrant.run_s, 1e-9)

    def pace(self, trains: bool) -> float | None:
        """Return what runs took beside what was predicted, of those that train or don't; none before one."""
        begun = [c for c, e in enumerate(self.entrants) if e.trains == trains and self._taken(c)]
        told = sum(len(self._taken(c)) * self.entrants[c].run_s for c in begun)
        return sum(len(self._taken(c)) * self._pace_s(c) for c in begun) / told if told else None

    def _pace_s(self, place: int) -> float:
        """Return what a run of a candidate likely takes, between its first and its later ones where one is."""
        return self._own_s(place) * (math.sqrt(LATER) if len(self._taken(place)) == 1 else 1.0)

    def _taken(self, place: int) -> list[float]:
        return self._seconds.get(place, [])

    @functools.cached_property
    def _seconds(self) -> dict[int, list[float]]:
        found: dict[int, list[float]] = {}
        for task, seen in self.seen.items():
            found.setdefault(task.candidate, []).append(seen.seconds)
        return found

    def _own_s(self, place: int) -> float:
        """Return what a candidate's own runs take; the first one takes longer."""
        told = self._taken(place)
        return statistics.median(told) if len(told) > 2 else min(told)

    # --- who stands where ---------------------------------------------------------------------------------

    @functools.cached_property
    def depth(self) -> int:
        """How many folds of the first repeat a candidate is judged on: all, or 1 as a hold-out.

        One where a fold of the cheapest that trains costs more than a tenth of the minutes, or where time
        is too short for all folds of any of them and not for one.
        """
        trained = [place for place, entrant in enumerate(self.entrants) if entrant.trains]
        folds = self.terms.folds
        if self.terms.depth is not None:
            return self.terms.depth
        if folds == 1 or not trained or any(self._has(place, folds) for place in trained):
            return folds
        if min(self.run_s(place, -1) for place in trained) > FOLD_SHARE * self.terms.limit_s:
            return 1
        fits = [any(self._need_s(c, -1, some) <= self.left_s for c in trained) for some in (1, folds)]
        return 1 if fits == [True, False] else folds

    def whole(self, place: int) -> bool:
        """Whether a candidate was judged on every fold that counts."""
        return self._has(place, self.depth)

    def _has(self, place: int, depth: int) -> bool:
        return all(task in self.seen for task in _tasks(place, depth))

    @functools.cached_property
    def leader(self) -> int | None:
        """The best of those judged on every fold that counts; ties go to the cheaper, then to the earlier."""
        judged = [place for place in range(len(self.entrants)) if self.whole(place)]
        key = {c: (-self._mean(c, _tasks(c, self.depth)), self.run_s(c, 0), c) for c in judged}
        return min(judged, key=key.__getitem__, default=None)

    def ahead(self, place: int) -> float | None:
        """Return how far a candidate is ahead of the leader on the folds that both were asked about."""
        if self.leader is None:
            return None
        mine = [task for task in _tasks(place, self.terms.folds) if task in self.seen]
        both = [task for task in mine if _as(task, self.leader) in self.seen]
        if not both:
            return None
        theirs = [_as(task, self.leader) for task in both]
        return self._mean(place, both) - self._mean(self.leader, theirs)

    @property
    def promising(self) -> list[int]:
        """Those that are ahead of the leader on the folds they were asked about, which are not all."""
        some = [place for place in range(len(self.entrants)) if not self.whole(place)]
        return [place for place in some if (self.ahead(place) or 0.0) > 0]

    def behind(self, place: int) -> bool:
        """Whether a candidate that is not judged yet is so far behind that chance hardly explains it."""
        apart = self.ahead(place)
        if apart is None or not self.terms.held or self.whole(place):
            return False
        asked = self.terms.held * sum(task in self.seen for task in _tasks(place, self.terms.folds))
        assert self.leader is not None
        rate = min(1.0, max(0.0, self._mean(self.leader, _tasks(self.leader, self.depth))))
        return -apart > BEHIND * math.sqrt(2 * rate * (1 - rate) / asked)

    @property
    def finalists(self) -> list[int]:
        """Those judged within a point of the leader, it among them; none where it stands alone."""
        if self.leader is None:
            return []
        best = self._mean(self.leader, _tasks(self.leader, self.depth))
        judged = [place for place in range(len(self.entrants)) if self.whole(place)]
        near = [c for c in judged if best - self._mean(c, _tasks(c, self.depth)) <= POINT + 1e-9]
        return near if len(near) > 1 else []

    def _mean(self, place: int, tasks: Iterable[Task]) -> float:
        return statistics.fmean(self.seen[task].score for task in tasks)

    # --- what fits ----------------------------------------------------------------------------------------

    def missing(self, place: int, depth: int | None = None) -> list[Task]:
        """Return a candidate's runs on the first repeat that nobody has made or is making."""
        tasks = _tasks(place, depth or self.depth)
        return [task for task in tasks if task not in self.seen and task not in self.running]

    def _rest(self, place: int, depth: int) -> int:
        """Return how many more of its runs one after another take, those that others make taken as one."""
        tasks = [task for task in _tasks(place, depth) if task not in self.seen]
        here = sum(task not in self.running for task in tasks)
        return here + (here < len(tasks))

    def need_s(self, place: int, side: int) -> float:
        """Return the seconds until a candidate is judged, and whoever then leads trained on every image."""
        return self._need_s(place, side, self.depth, self.leader)

    def _need_s(self, place: int, side: int, depth: int, leading: int | None = None) -> float:
        last_s = self.final_s(place, side)
        if leading is not None:
            last_s = max(last_s, self.final_s(leading, 1))
        return self._rest(place, depth) * self.run_s(place, side) + last_s + self.closing_s

    @functools.cached_property
    def closing_s(self) -> float:
        """Seconds that follow the last training; a machine that trains slower than predicted is slow there, too."""
        return self.terms.closing_s * max(1.0, self.pace(trains=True) or 1.0)

    def could(self, place: int, depth: int | None = None) -> bool:
        """Whether a candidate might be judged in the time that is left, were its runs as quick as may be."""
        return self._need_s(place, -1, depth or self.depth, self.leader) <= self.left_s

    def surely(self, place: int) -> bool:
        """Whether it will be, though its runs be slow."""
        return self.need_s(place, 1) <= self.left_s

    @property
    def reserve_s(self) -> float:
        """Seconds to keep for training the leader on every image, and for what follows."""
        return self.closing_s + (0.0 if self.leader is None else self.final_s(self.leader, 1))

    def may_take_s(self, place: int, depth: int | None = None) -> float:
        """Return the seconds after which one more run of a candidate had better be stopped.

        Were the others to come as slow, it could not be judged any more; or the leader not be trained.
        """
        rest = max(1, self._rest(place, depth or self.depth))
        entrant = self.entrants[place]
        ratio = entrant.final_s / max(entrant.run_s, 1e-9)
        free_s = self.left_s - self.closing_s
        each = (
            OWN * free_s / (rest + ratio) if self._taken(place) else free_s / (1 + LATER * (rest - 1 + ratio))
        )
        return min(each, self.left_s - self.reserve_s)


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
        return Next(None, "No time was left to repeat those within a point of each other.")
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


def _tasks(place: int, depth: int) -> list[Task]:
    return [Task(place, 1.0, Cell(0, fold)) for fold in range(depth)]


def _as(task: Task, place: int) -> Task:
    return Task(place, task.share, task.cell)


def _listed(board: Board, trains: bool = True) -> list[int]:
    return [place for place, entrant in enumerate(board.entrants) if entrant.trains == trains]


def _twin(board: Board, place: int) -> bool:
    """Whether one of the same family is listed before."""
    family = board.entrants[place].family
    return bool(family) and any(entrant.family == family for entrant in board.entrants[:place])
