"""What is run next while minutes last, played with an oracle's scores against a reckoned clock."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from frostline.selection.anytime import Next, judged, next_task
from frostline.selection.resampling import Cell
from frostline.selection.scoreboard import Board, Entrant, Seen, Terms
from frostline.selection.successive_halving import Task

FOLDS = Terms(folds=5, repeats=3, limit_s=120.0, closing_s=4.0, held=54)


@dataclass
class Played:
    """A comparison as it went."""

    seen: dict[Task, Seen] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    stopped: dict[int, float] = field(default_factory=dict)
    left_s: float = 0.0
    end: Next | None = None

    def board(self, entrants: Sequence[Entrant], terms: Terms) -> Board:
        return Board(entrants, self.seen, self.left_s, terms, stopped=self.stopped)


def play(
    entrants: Sequence[Entrant],
    skill: Sequence[float],
    terms: Terms = FOLDS,
    *,
    pace: float | Sequence[float] = 1.0,
    left_s: float | None = None,
    seen: Mapping[Task, Seen] | None = None,
    most: int = 1000,
) -> Played:
    """Run what is asked for; runs take `pace` times what was predicted, a first one two thirds more."""
    each = [pace] * len(entrants) if isinstance(pace, float) else list(pace)
    found = Played(seen=dict(seen or {}), left_s=terms.limit_s if left_s is None else left_s)
    for _ in range(most):
        found.end = next_task(found.board(entrants, terms))
        task = found.end.task
        if task is None:
            return found
        assert task not in found.seen
        warming = 1.0 if any(t.candidate == task.candidate for t in found.seen) else 1 / 0.6
        takes_s = each[task.candidate] * entrants[task.candidate].run_s * warming
        if takes_s > found.end.may_take_s:
            found.left_s -= found.end.may_take_s
            found.stopped[task.candidate] = found.end.may_take_s
            continue
        found.left_s -= takes_s
        found.order.append(task.candidate)
        found.seen[task] = Seen(skill[task.candidate], takes_s)
    return found


def entrants(*seconds: float, families: str = "") -> list[Entrant]:
    """Return a probe of half a second, and one that trains for each number: seconds of a run on a fold."""
    named = families or "abcdefgh"
    return [
        Entrant(0.5, 0.6, trains=False),
        *(Entrant(s, 1.25 * s, family=f) for s, f in zip(seconds, named, strict=False)),
    ]


def test_a_probe_then_whole_folds_for_the_best_that_fits_then_the_next() -> None:
    found = play(entrants(4.0, 3.0), [0.6, 0.7, 0.9])
    assert found.order[:15] == [0] * 5 + [1] * 5 + [2] * 5
    assert found.end is not None
    assert found.end.over
    assert "nothing is left to try" in found.end.why


def test_where_the_larger_does_not_fit_its_smaller_relative_is_judged_on_all_folds() -> None:
    """Two minutes for 270 photographs: what fits was left out, and the probe won by one fold."""
    found = play(entrants(26.0, 24.0, 35.0, 8.0), [0.67, 0.80, 0.80, 0.80, 0.74], left_s=95.0)
    assert judged(found.seen, 5, 5) == {0: 1, 4: 1}
    assert found.board(entrants(26.0, 24.0, 35.0, 8.0), FOLDS).leader == 4
    assert found.end is not None
    assert not found.end.over


@pytest.mark.parametrize("pace", [0.5, 0.6, 1.0, 1.7, 2.0, 5.0])
def test_predictions_that_are_far_off_cost_no_answer_and_no_minute_too_many(pace: float) -> None:
    """Whatever the machine's pace: the limit holds, and what could be judged on all folds is."""
    racing = entrants(24.0, 12.0, 4.0)
    skill = [0.6, 0.8, 0.75, 0.7]
    found = play(racing, skill, pace=pace)
    board = found.board(racing, FOLDS)
    leader = board.leader
    assert leader is not None
    assert board.whole(leader)
    assert found.left_s >= pace * racing[leader].final_s + FOLDS.closing_s
    able = [
        place
        for place, entrant in enumerate(racing)
        if pace * (5 * (entrant.run_s + 0.5) + entrant.run_s / 0.6 + entrant.final_s) < 100.0
    ]
    assert skill[leader] >= skill[able[1] if len(able) > 1 else 0]


def test_among_random_oracles_the_best_that_fits_wins_or_nearly() -> None:
    """The budget is kept, and the best of those that fit is found; predictions are off by up to two."""
    rng, regrets, used = np.random.default_rng(0), [], []
    for _ in range(300):
        racing = entrants(*rng.uniform(1.0, 40.0, size=5))
        skill = [0.6, *rng.uniform(0.55, 0.9, size=5)]
        paces = [1.0, *(float(rng.uniform(0.5, 2.0)) * rng.uniform(0.85, 1.15, size=5))]
        found = play(racing, skill, pace=paces)
        board = found.board(racing, FOLDS)
        leader = board.leader
        assert leader is not None
        assert found.left_s >= 0
        assert found.left_s >= paces[leader] * racing[leader].final_s + FOLDS.closing_s - 1e-6
        alone = [  # what judging and training this one alone would take
            paces[c] * (4 * e.run_s + e.run_s / 0.6 + e.final_s) + 4 + 3 for c, e in enumerate(racing)
        ]
        best = max((skill[c] for c in range(1, 6) if alone[c] <= 120.0), default=0.0)
        regrets.append(max(0.0, best - skill[leader]))
        used.append(1 - found.left_s / 120.0)
    assert np.mean(regrets) < 0.05
    assert np.quantile(regrets, 0.5) == 0.0


def test_who_has_fewer_folds_never_leads() -> None:
    racing, cell = entrants(4.0, 3.0), Cell(0, 0)
    seen = {Task(0, 1.0, Cell(0, f)): Seen(0.6, 0.5) for f in range(5)} | {Task(1, 1.0, cell): Seen(0.9, 4.0)}
    board = Board(racing, seen, 60.0, FOLDS)
    assert board.leader == 0
    assert board.promising == [1]
    seen |= {Task(1, 1.0, Cell(0, f)): Seen(0.7, 4.0) for f in range(1, 5)}
    assert Board(racing, seen, 60.0, FOLDS).leader == 1


def test_no_near_twin_before_the_leader_has_all_its_folds() -> None:
    racing = entrants(4.0, 4.0, 3.0, 5.0, families="aaba")
    found = play(racing, [0.6, 0.8, 0.81, 0.77, 0.6])
    assert found.order[:20] == [0] * 5 + [1] * 5 + [3] * 5 + [2] * 5


def test_repeats_are_for_finalists_within_a_point_and_for_them_alone() -> None:
    racing = entrants(1.0, 1.0, 1.0)
    close = play(racing, [0.6, 0.80, 0.794, 0.7])
    assert judged(close.seen, 4, 5) == {0: 1, 1: 3, 2: 3, 3: 1}
    apart = play(racing, [0.6, 0.80, 0.77, 0.7])
    assert judged(apart.seen, 4, 5) == {0: 1, 1: 1, 2: 1, 3: 1}
    for found in (close, apart):
        assert found.end is not None
        assert found.end.over


def test_who_is_far_behind_waits_until_all_else_is_done() -> None:
    racing = entrants(2.0, 2.0, 2.0)
    found = play(racing, [0.6, 0.85, 0.4, 0.85])
    assert found.order[5:17] == [1] * 5 + [2] + [3] * 5 + [1]
    assert found.order[-4:] == [2] * 4
    assert judged(found.seen, 4, 5) == {0: 1, 1: 3, 2: 1, 3: 3}


def test_a_fold_that_costs_over_a_tenth_of_the_minutes_is_the_only_one() -> None:
    racing, terms = entrants(30.0, 25.0), replace(FOLDS, limit_s=240.0)
    found = play(racing, [0.6, 0.7, 0.8], terms, pace=[1.0, 1.2, 1.2])
    board = found.board(racing, terms)
    assert board.depth == 1
    assert Counter(task.candidate for task in found.seen if task.cell.repeat == 0)[2] == 1
    assert board.leader == 2
    assert not found.stopped


def test_a_slow_run_is_stopped_and_its_time_is_bounded() -> None:
    found = play(entrants(4.0, 3.0), [0.6, 0.7, 0.8], pace=[1.0, 50.0, 1.0])
    assert judged(found.seen, 3, 5) == {0: 1, 2: 1}
    assert 0 < found.stopped[1] < 0.5 * 120.0


def test_it_goes_on_after_an_interrupt_as_if_nothing_had_been() -> None:
    racing, skill = entrants(4.0, 3.0, 9.0), [0.6, 0.7, 0.8, 0.75]
    whole = play(racing, skill)
    for most in (1, 6, 9, 14):
        first = play(racing, skill, most=most)
        rest = play(racing, skill, seen=first.seen, left_s=first.left_s)
        assert rest.seen.keys() == whole.seen.keys()


def test_several_processes_share_the_runs() -> None:
    """Two at once: neither waits while there is something to do, and none is made twice."""
    racing, running, seen = entrants(4.0, 3.0), set[Task](), dict[Task, Seen]()
    skill = [0.6, 0.7, 0.9]
    for turn in itertools.count():
        found = next_task(Board(racing, seen, 120.0 - 2 * turn, FOLDS, running=running))
        if found.task is None:
            assert found.waits == bool(running)
            if not running:
                break
        else:
            assert found.task not in running
            assert found.task not in seen
            running.add(found.task)
        if len(running) == 2 or found.task is None:
            done = min(running)
            running.remove(done)
            seen[done] = Seen(skill[done.candidate], racing[done.candidate].run_s)
    assert set(judged(seen, 3, 5)) == {0, 1, 2}


def test_why_it_stopped_is_said_with_seconds() -> None:
    found = play(entrants(20.0), [0.6, 0.7], left_s=60.0, terms=replace(FOLDS, limit_s=600.0))
    assert found.end is not None
    assert found.end.task is None
    assert not found.end.over
    assert "s were left" in found.end.why
