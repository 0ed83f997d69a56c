"""What is run next while minutes last, played with an oracle's scores against a reckoned clock."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from frostline.selection.anytime import Ending, EndingKind, NextTrial, next_task, repeats_judged
from frostline.selection.resampling import Cell
from frostline.selection.scoreboard import CandidateCost, Scoreboard, Terms, TrialResult
from frostline.selection.successive_halving import Task

FOLDS = Terms(folds=5, repeats=3, limit_s=120.0, closing_s=4.0, held=54)


@dataclass
class Simulation:
    """A comparison as it went."""

    results: dict[Task, TrialResult] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    stopped: dict[int, float] = field(default_factory=dict)
    left_s: float = 0.0
    end: NextTrial | None = None

    def board(self, costs: Sequence[CandidateCost], terms: Terms) -> Scoreboard:
        return Scoreboard(costs, self.results, self.left_s, terms, stopped=self.stopped)


def simulate(
    costs: Sequence[CandidateCost],
    skill: Sequence[float],
    terms: Terms = FOLDS,
    *,
    pace: float | Sequence[float] = 1.0,
    left_s: float | None = None,
    results: Mapping[Task, TrialResult] | None = None,
    most: int = 1000,
) -> Simulation:
    """Run what is asked for; runs take `pace` times what was predicted, a first one two thirds more."""
    each = [pace] * len(costs) if isinstance(pace, float) else list(pace)
    simulation = Simulation(results=dict(results or {}), left_s=terms.limit_s if left_s is None else left_s)
    for _ in range(most):
        simulation.end = next_task(simulation.board(costs, terms))
        task = simulation.end.task
        if task is None:
            return simulation
        assert task not in simulation.results
        warming = 1.0 if any(t.candidate == task.candidate for t in simulation.results) else 1 / 0.6
        takes_s = each[task.candidate] * costs[task.candidate].run_s * warming
        if takes_s > simulation.end.may_take_s:
            simulation.left_s -= simulation.end.may_take_s
            simulation.stopped[task.candidate] = simulation.end.may_take_s
            continue
        simulation.left_s -= takes_s
        simulation.order.append(task.candidate)
        simulation.results[task] = TrialResult(skill[task.candidate], takes_s)
    return simulation


def costs(*seconds: float, families: str = "") -> list[CandidateCost]:
    """Return a probe of half a second, and one that trains for each number: seconds of a run on a fold."""
    named = families or "abcdefgh"
    return [
        CandidateCost(0.5, 0.6, trains=False),
        *(CandidateCost(s, 1.25 * s, family=f) for s, f in zip(seconds, named, strict=False)),
    ]


def test_a_probe_then_whole_folds_for_the_best_that_fits_then_the_next() -> None:
    simulation = simulate(costs(4.0, 3.0), [0.6, 0.7, 0.9])
    assert simulation.order[:15] == [0] * 5 + [1] * 5 + [2] * 5
    assert simulation.end is not None
    assert simulation.end.over
    assert simulation.end.ending == Ending(EndingKind.DONE)
    one_fold = simulate([CandidateCost(1.0, 1.0)], [0.5], replace(FOLDS, depth=1, repeats=1)).end
    assert one_fold is not None
    assert one_fold.ending is not None
    assert "on the one fold that the time is enough for: nothing" in one_fold.ending.sentence(["head"])


def test_where_the_larger_does_not_fit_its_smaller_relative_is_judged_on_all_folds() -> None:
    """Two minutes for 270 photographs: what fits was left out, and the probe won by one fold."""
    simulation = simulate(costs(26.0, 24.0, 35.0, 8.0), [0.67, 0.80, 0.80, 0.80, 0.74], left_s=95.0)
    assert repeats_judged(simulation.results, 5, 5) == {0: 1, 4: 1}
    assert simulation.board(costs(26.0, 24.0, 35.0, 8.0), FOLDS).leader == 4
    assert simulation.end is not None
    assert not simulation.end.over


@pytest.mark.parametrize("pace", [0.5, 0.6, 1.0, 1.7, 2.0, 5.0])
def test_predictions_that_are_far_off_cost_no_answer_and_no_minute_too_many(pace: float) -> None:
    """Whatever the machine's pace: the limit holds, and what could be judged on all folds is."""
    candidates = costs(24.0, 12.0, 4.0)
    skill = [0.6, 0.8, 0.75, 0.7]
    simulation = simulate(candidates, skill, pace=pace)
    board = simulation.board(candidates, FOLDS)
    leader = board.leader
    assert leader is not None
    assert board.is_judged(leader)
    assert simulation.left_s >= pace * candidates[leader].final_s + FOLDS.closing_s
    feasible = [
        place
        for place, cost in enumerate(candidates)
        if pace * (5 * (cost.run_s + 0.5) + cost.run_s / 0.6 + cost.final_s) < 100.0
    ]
    assert skill[leader] >= skill[feasible[1] if len(feasible) > 1 else 0]


def test_among_random_oracles_the_best_that_fits_wins_or_nearly() -> None:
    """The budget is kept, and the best of those that fit is found; predictions are off by up to two."""
    rng, regrets, used = np.random.default_rng(0), [], []
    for _ in range(300):
        candidates = costs(*rng.uniform(1.0, 40.0, size=5))
        skill = [0.6, *rng.uniform(0.55, 0.9, size=5)]
        paces = [1.0, *(float(rng.uniform(0.5, 2.0)) * rng.uniform(0.85, 1.15, size=5))]
        simulation = simulate(candidates, skill, pace=paces)
        board = simulation.board(candidates, FOLDS)
        leader = board.leader
        assert leader is not None
        assert simulation.left_s >= 0
        assert simulation.left_s >= paces[leader] * candidates[leader].final_s + FOLDS.closing_s - 1e-6
        alone = [  # what judging and training this one alone would take
            paces[c] * (4 * e.run_s + e.run_s / 0.6 + e.final_s) + 4 + 3 for c, e in enumerate(candidates)
        ]
        best = max((skill[c] for c in range(1, 6) if alone[c] <= 120.0), default=0.0)
        regrets.append(max(0.0, best - skill[leader]))
        used.append(1 - simulation.left_s / 120.0)
    assert np.mean(regrets) < 0.05
    assert np.quantile(regrets, 0.5) == 0.0


def test_who_has_fewer_folds_never_leads() -> None:
    candidates, cell = costs(4.0, 3.0), Cell(0, 0)
    results = {Task(0, 1.0, Cell(0, f)): TrialResult(0.6, 0.5) for f in range(5)} | {
        Task(1, 1.0, cell): TrialResult(0.9, 4.0)
    }
    board = Scoreboard(candidates, results, 60.0, FOLDS)
    assert board.leader == 0
    assert board.promising == [1]
    results |= {Task(1, 1.0, Cell(0, f)): TrialResult(0.7, 4.0) for f in range(1, 5)}
    assert Scoreboard(candidates, results, 60.0, FOLDS).leader == 1


def test_no_near_twin_before_the_leader_has_all_its_folds() -> None:
    candidates = costs(4.0, 4.0, 3.0, 5.0, families="aaba")
    simulation = simulate(candidates, [0.6, 0.8, 0.81, 0.77, 0.6])
    assert simulation.order[:20] == [0] * 5 + [1] * 5 + [3] * 5 + [2] * 5


def test_repeats_are_for_finalists_alone() -> None:
    """Those within a point of the leader, or the next best where it may yet be the better one."""
    candidates = costs(1.0, 1.0, 1.0)
    close = simulate(candidates, [0.6, 0.80, 0.794, 0.78])
    assert repeats_judged(close.results, 4, 5) == {0: 1, 1: 3, 2: 3, 3: 1}
    open_still = simulate(candidates, [0.6, 0.80, 0.76, 0.77])
    assert repeats_judged(open_still.results, 4, 5) == {0: 1, 1: 3, 2: 1, 3: 3}
    apart = simulate(candidates, [0.6, 0.80, 0.71, 0.7])
    assert repeats_judged(apart.results, 4, 5) == {0: 1, 1: 1, 2: 1, 3: 1}
    no_rate = simulate(candidates, [-0.6, -0.2, -0.3, -0.4], replace(FOLDS, held=0))
    assert repeats_judged(no_rate.results, 4, 5) == {0: 1, 1: 1, 2: 1, 3: 1}
    for simulation in (close, open_still, apart, no_rate):
        assert simulation.end is not None
        assert simulation.end.over


def test_who_is_far_behind_waits_until_all_else_is_done() -> None:
    candidates = costs(2.0, 2.0, 2.0)
    simulation = simulate(candidates, [0.6, 0.85, 0.4, 0.85])
    assert simulation.order[5:17] == [1] * 5 + [2] + [3] * 5 + [1]
    assert simulation.order[-4:] == [2] * 4
    assert repeats_judged(simulation.results, 4, 5) == {0: 1, 1: 3, 2: 1, 3: 3}


def test_a_fold_that_costs_over_a_tenth_of_the_minutes_is_the_only_one() -> None:
    candidates, terms = costs(30.0, 25.0), replace(FOLDS, limit_s=240.0)
    simulation = simulate(candidates, [0.6, 0.7, 0.8], terms, pace=[1.0, 1.2, 1.2])
    board = simulation.board(candidates, terms)
    assert board.depth == 1
    assert Counter(task.candidate for task in simulation.results if task.cell.repeat == 0)[2] == 1
    assert board.leader == 2
    assert not simulation.stopped


def test_a_slow_run_is_stopped_and_its_time_is_bounded() -> None:
    simulation = simulate(costs(4.0, 3.0), [0.6, 0.7, 0.8], pace=[1.0, 50.0, 1.0])
    assert repeats_judged(simulation.results, 3, 5) == {0: 1, 2: 1}
    assert 0 < simulation.stopped[1] < 0.5 * 120.0


def test_it_goes_on_after_an_interrupt_as_if_nothing_had_been() -> None:
    candidates, skill = costs(4.0, 3.0, 9.0), [0.6, 0.7, 0.8, 0.75]
    uninterrupted = simulate(candidates, skill)
    for most in (1, 6, 9, 14):
        first = simulate(candidates, skill, most=most)
        rest = simulate(candidates, skill, results=first.results, left_s=first.left_s)
        assert rest.results.keys() == uninterrupted.results.keys()


def test_several_processes_share_the_runs() -> None:
    """Two at once: neither waits while there is something to do, and none is made twice."""
    candidates, running, results = costs(4.0, 3.0), set[Task](), dict[Task, TrialResult]()
    skill = [0.6, 0.7, 0.9]
    for turn in itertools.count():
        trial = next_task(Scoreboard(candidates, results, 120.0 - 2 * turn, FOLDS, running=running))
        if trial.task is None:
            assert trial.waits == bool(running)
            if not running:
                break
        else:
            assert trial.task not in running
            assert trial.task not in results
            running.add(trial.task)
        if len(running) == 2 or trial.task is None:
            done = min(running)
            running.remove(done)
            results[done] = TrialResult(skill[done.candidate], candidates[done.candidate].run_s)
    assert set(repeats_judged(results, 3, 5)) == {0, 1, 2}


def test_why_it_stopped_is_said_with_seconds() -> None:
    simulation = simulate(costs(20.0), [0.6, 0.7], left_s=60.0, terms=replace(FOLDS, limit_s=600.0))
    assert simulation.end is not None
    assert simulation.end.task is None
    assert not simulation.end.over
    assert simulation.end.ending is not None
    assert simulation.end.ending.kind is EndingKind.NO_TIME


def test_why_there_is_no_run_is_written_where_it_is_shown() -> None:
    sentences = {kind: Ending(kind, 1, 40.4, 21.6).sentence(["head", "full"]) for kind in EndingKind}
    assert len(set(sentences.values())) == len(EndingKind)
    assert sentences[EndingKind.NO_TIME] == (
        "Nothing else fits the time: even full would take about 40 s more to evaluate, and 22 s were left."
    )
