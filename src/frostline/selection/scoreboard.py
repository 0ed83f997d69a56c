"""What a comparison against the clock has seen, what its runs take, and what still fits. Imports no torch.

Plain data: `anytime` decides by it what is run next. Seconds are bounds where predictions are doubtful: what
a run takes at least, likely and at most, by what runs of this very comparison took.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from frostline.selection.resampling import Cell
from frostline.selection.successive_halving import Task

# How far a prediction may be off, either way: before any run has told the machine's pace (predicted seconds
# were seen 1.7 to 2 times too high, docs/LOG.md 2026-11-28), once another candidate has, and once the
# candidate's own runs have. The last two are choices: the 90th percentile of errors on a quiet machine is 18
# %.
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

    `closing_s` is what follows the last training until the process has ended. `held` is how many images a
    fold holds out; 0 where scores are no rates between 0 and 1, whose spread is not known before.
    """

    folds: int
    repeats: int
    limit_s: float
    closing_s: float
    held: int = 0
    depth: int | None = None  # folds that count, once that is settled


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
        """Return what a run likely takes: of one alone, between a first and a later one."""
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
        request = self.terms.held * sum(task in self.seen for task in _tasks(place, self.terms.folds))
        assert self.leader is not None
        rate = min(1.0, max(0.0, self._mean(self.leader, _tasks(self.leader, self.depth))))
        return -apart > BEHIND * math.sqrt(2 * rate * (1 - rate) / request)

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
        """Seconds that follow the last training; who trains slower than predicted is slow there, too."""
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


def _tasks(place: int, depth: int) -> list[Task]:
    return [Task(place, 1.0, Cell(0, fold)) for fold in range(depth)]


def _as(task: Task, place: int) -> Task:
    return Task(place, task.share, task.cell)
