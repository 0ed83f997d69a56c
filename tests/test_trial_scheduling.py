"""Which run of a comparison is next: successive halving, time limits, candidates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from frostline.config import Config
from frostline.errors import UsageError
from frostline.feature_cache import FeatureCache
from frostline.progress import Progress
from frostline.selection import (
    standings,
    successive_halving,
    winner_artifacts,
)
from frostline.selection import trial_runner as runner_module
from frostline.selection.anytime import next_task, repeats_judged
from frostline.selection.candidates import listed, searched
from frostline.selection.resampling import Cell
from frostline.selection.scoreboard import CandidateCost, Scoreboard, Terms, TrialResult
from frostline.selection.successive_halving import HalvingSchedule, Rung, Task
from frostline.selection.trial_queue import TrialQueue
from frostline.selection.trial_runner import Clock, ComparisonTimeUp, TrialRunner, closing_s
from frostline.strategies import parse, scaled, schedule
from frostline.system.timing import Stopwatch


def run_all(schedule: HalvingSchedule, skill: list[float]) -> tuple[dict[Task, float], list[int]]:
    """Run every wanted task; a candidate's score is its skill."""
    scores: dict[Task, float] = {}
    order = []
    while wanted := schedule.missing(scores):
        assert not set(wanted) & set(scores)
        order.append(len(wanted))
        scores |= {task: skill[task.candidate] for task in wanted}
    return scores, order


@pytest.mark.parametrize("folds", [1, 5])
def test_the_best_climbs_and_halving_costs_what_it_promises(folds: int) -> None:
    count = 8
    everything = count * 3 * folds * 4.0
    schedule = successive_halving.plan(count, folds=folds, repeats=3)
    first = (1.0, successive_halving.FIRST_FOLDS) if folds > 1 else (successive_halving.SHORT, 0)
    assert [(rung.share, rung.folds) for rung in schedule.rungs] == [first, (1.0, 0), (1.0, 0)]
    skill = list(np.random.default_rng(0).permutation(count) / 10)
    scores, _ = run_all(schedule, skill)
    best = int(np.argmax(skill))
    assert repeats_judged(scores, count, folds)[best] == 3
    cost = [
        sum(4.0 if t.share == 1 else 1.0 for t in scores if t.cell.repeat in some) for some in ((0,), (1, 2))
    ]
    assert cost[0] <= everything / 4
    assert sum(cost) <= everything / 2


def test_few_candidates_are_not_halved() -> None:
    assert successive_halving.plan(3, folds=5, repeats=3) == successive_halving.everything(3, 5, 3)
    assert len(successive_halving.plan(6, folds=1, repeats=1).rungs) == 2


def test_an_unfinished_rung_lets_nobody_in() -> None:
    schedule = HalvingSchedule((Rung(0.25, (0,), 3), Rung(1.0, (0, 1), 2)), 3, 1)
    scores = dict.fromkeys(schedule.tasks(0, [0, 1]), 0.5)
    assert schedule.standing(scores) == 0
    assert schedule.entering(1, scores) == []
    assert [task.candidate for task in schedule.missing(scores)] == [2]


def test_who_leads_is_decided_on_cells_that_all_have_been_seen_on() -> None:
    plan = HalvingSchedule(
        (Rung(0.25, (0,), 4), Rung(1.0, (0,), 2), Rung(1.0, (1, 2), 2)), candidates=4, folds=2
    )
    easy, hard = Cell(0, 0), Cell(0, 1)
    scores = {Task(c, 0.25, easy): score for c, score in enumerate((0.6, 0.7, 0.8, 0.9))}
    assert plan.leading({}) == []
    assert plan.leading(scores) == [3]
    scores |= {Task(c, 0.25, hard): 0.1 for c in (0, 1, 2)}
    assert plan.leading(scores) == [3]
    scores[Task(0, 0.25, hard)] = 1.0
    assert plan.leading(scores) == [3]  # that one was asked about more says nothing of the others
    scores[Task(3, 0.25, hard)] = 0.0
    assert plan.leading(scores) == [0]
    scores[Task(0, 0.25, hard)] = 0.2
    assert plan.leading(scores) == [2, 3]
    scores[Task(2, 1.0, easy)] = 0.5
    assert plan.leading(scores) == [2, 3]  # first on the next rung: no lead by that
    scores[Task(3, 1.0, easy)] = 0.6
    assert plan.leading(scores) == [3]
    scores |= {Task(2, 1.0, hard): 0.9, Task(3, 1.0, hard): 0.1}
    scores[Task(3, 1.0, Cell(1, 0))] = 1.0
    assert plan.leading(scores) == [2]


def runner(limit_s: float, log: Callable[[str], None] = print) -> TrialRunner:
    """A race of a cheap and a dear candidate on one cell."""
    nothing: Any = None
    return TrialRunner(
        backbones={"": nothing},
        data=nothing,
        study=nothing,
        candidates=listed(["linear_probe", "full"], "none"),
        schedule=successive_halving.everything(2, 1, 1),
        short_s=[1.0, 10.0],
        whole_s=[1.0, 10.0],
        final_s=[1.0, 80.0],
        queue=nothing,
        clock=Clock(limit_s, Path("unused"), Stopwatch()),
        config=Config(),
        loggers=[],
        cache=FeatureCache(),
        progress=Progress.of(None, log),
    )


def test_time_is_kept_for_training_whoever_may_lead() -> None:
    cheap, dear = Task(0, 1.0, Cell(0, 0)), Task(1, 1.0, Cell(0, 0))
    trial_runner = runner(limit_s=100.0)
    assert trial_runner._fits(cheap)
    trial_runner.outcomes = {cheap: {"score": 0.5, "seconds": 1.0}}
    assert not trial_runner._fits(dear)  # were it to win, there would be no time to train it on everything
    more = runner(limit_s=200.0)
    more.outcomes = trial_runner.outcomes
    assert more._fits(dear)


def test_a_run_that_is_slow_does_not_use_up_the_winners_time() -> None:
    trial_runner = runner(limit_s=120.0)
    trial_runner.outcomes = {Task(1, 1.0, Cell(0, 0)): {"score": 0.5, "seconds": 10.0}}
    trial_runner.reserve_time()
    trial_runner._on_progress("Training", 1, 2)
    late = runner(limit_s=90.0)
    late.outcomes = trial_runner.outcomes
    late.reserve_time()
    with pytest.raises(ComparisonTimeUp):
        late._on_progress("Training", 1, 2)


def test_a_run_that_takes_too_long_is_stopped_and_others_get_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    trial_runner = runner(limit_s=60.0, log=lines.append)
    trial_runner.candidates = listed(["linear_probe", "full", "top_k(1)"], "none")
    trial_runner.short_s, trial_runner.whole_s, trial_runner.final_s = (
        [0.1] * 3,
        [0.1, 4.0, 1.0],
        [0.1, 5.0, 1.2],
    )
    trial_runner.schedule = successive_halving.everything(3, 5, 1)
    trial_runner.terms = Terms(folds=5, repeats=1, limit_s=60.0, closing_s=2.0)
    trial_runner.queue, trial_runner.clock.file = TrialQueue.open("x", tmp_path), tmp_path / "clock.json"
    begun = Counter[int]()

    def work(self: TrialRunner, task: Task) -> dict[str, Any]:
        begun[task.candidate] += 1
        if task.candidate == 1:
            raise ComparisonTimeUp
        return {"score": task.candidate / 10, "seconds": 0.1, "taken": 0.1}

    monkeypatch.setattr(TrialRunner, "_work", work)
    assert not trial_runner.run()
    assert begun == {0: 5, 1: 1, 2: 5}
    assert trial_runner.leader() == 2
    assert lines == ["  full was stopped: it takes too long."]
    assert trial_runner.ended_because.startswith("Nothing else fits the time: even full would take about")


def test_what_a_winner_doubts_by_is_shortened_where_time_is_short() -> None:
    lines: list[str] = []
    request: Any = SimpleNamespace(config=Config(minutes=1.0), progress=Progress.of(None, lines.append))
    trial_runner = runner(limit_s=60.0)
    for pass_s, images in ((0.01, 200), (0.5, 57), (3.0, 0)):
        trial_runner.pass_s = pass_s
        assert winner_artifacts._images_in_time(request, trial_runner, 200) == images
    assert [line.split(":")[0] for line in lines] == [
        "Little time was left",
        "No time was left to measure how far new images may lie from the training images.",
    ]
    request.config = Config()
    assert winner_artifacts._images_in_time(request, trial_runner, 200) == 200


def test_what_follows_the_last_training_is_set_aside_by_rates() -> None:
    few, many = (closing_s(0.02, images, images // 5, 600.0) for images in (100, 100_000))
    assert few == pytest.approx(2.6 + 0.02 * (100 + 100 + 24 + 100), abs=0.1)
    assert many == pytest.approx(2.6 + 0.02 * (1000 + 128 + 24) + 30.0, abs=0.1)  # distances: a twentieth
    assert closing_s(0.02, 100, 20, 600.0, points=6) == pytest.approx(few + 12.0)


def test_a_head_that_is_solved_for_has_no_epochs_to_run_short_of() -> None:
    lines: list[str] = []
    trial_runner = runner(limit_s=100.0, log=lines.append)
    outcome = {"score": 0.5, "accuracy": 0.5, "seconds": 10.0}
    trial_runner.outcomes = {Task(index, 0.25, Cell(0, 0)): outcome for index in (0, 1)}
    for task in trial_runner.outcomes:
        trial_runner.log_outcome(task, outcome)
    assert ["of its epochs" in line for line in lines] == [False, True]
    trial_runner.log_outcome(Task(0, 1.0, Cell(0, 0)), outcome)  # the same run again
    assert len(lines) == 2
    assert [standings._share(trial_runner, index) for index in (0, 1)] == [1.0, 0.25]


def test_a_short_schedule_has_every_phase() -> None:
    for text in ("gradual_unfreeze", "lp_ft", "top_k(2, epochs=8)", "phases(0@4, 2@4, all@8)", "full"):
        whole, short = parse(text), scaled(parse(text), 0.25, 400)
        runs = [schedule(s, stages=9, images=400, batch=32) for s in (whole, short)]
        assert [phase.cut for phase in runs[0]] == [phase.cut for phase in runs[1]]
        steps = [sum(phase.steps for phase in run) for run in runs]
        assert steps[1] == pytest.approx(steps[0] / 4, rel=0.35)  # epochs are rounded
    assert scaled(parse("linear_probe"), 0.25, 400) == parse("linear_probe")


def test_candidates_get_the_hyperparameters_that_they_take() -> None:
    lines: list[str] = []
    values = {"lr": 0.1, "epochs": "3"}
    candidates = listed("linear_probe, head, head(lr=0.1), full", "none", values=values, log=lines.append)
    assert [str(one) for one in candidates] == [
        "linear_probe",
        "head(lr=0.1, epochs=3)",
        "full(lr=0.1, epochs=3)",
    ]
    assert [line.partition(" has no effect on linear_probe (")[0] for line in lines] == ["lr", "epochs"]
    with pytest.raises(UsageError, match="Found 1 strategy to compare"):
        listed("head, head(lr=0.1)", "none", values=values)


def test_search_draws_variants_evenly_and_the_same_each_time() -> None:
    base = listed(["linear_probe", "lp_ft", "top_k(1)"], "standard")
    drawn = searched(base, ("lr", "layer_decay"), 8, 0)
    assert drawn == searched(base, ("lr", "layer_decay"), 8, 0) != searched(base, ("lr", "layer_decay"), 8, 1)
    assert {candidate.strategy.name for candidate in drawn} == {"lp_ft", "top_k"}
    rates = [candidate.strategy.lr or 0 for candidate in drawn]
    assert 2.5e-4 <= min(rates) < 6e-4
    assert 1.6e-3 < max(rates) <= 4e-3
    assert len({candidate.augment for candidate in searched(base, ("augment",), 8, 0)}) > 1
    assert searched(base, (), 8, 0) == []
    with pytest.raises(UsageError, match="'weight decay' Did you mean 'weight_decay'"):
        searched(base, ("weight decay",), 8, 0)
    with pytest.raises(UsageError, match="at least two"):
        listed(["lp_ft", "lp_ft"], "none")


def test_who_joins_never_costs_those_who_were_named() -> None:
    """What joined is listed last: it starts when all that were named are judged, and time is left for it."""
    terms = Terms(folds=5, repeats=1, limit_s=200.0, closing_s=2.0)
    entrants = [CandidateCost(2.0, 2.5, family=str(index)) for index in range(3)]  # the last one joined
    seen: dict[Task, TrialResult] = {}
    order: list[int] = []
    while (task := next_task(Scoreboard(entrants, seen, 200.0 - 2.0 * len(seen), terms)).task) is not None:
        order.append(task.candidate)
        seen[task] = TrialResult(0.5, 2.0)
    assert order == [0] * 5 + [1] * 5 + [2] * 5
    scarce = {task: one for task, one in seen.items() if task.candidate < 2}
    assert next_task(Scoreboard(entrants, scarce, 8.0, terms)).task is None


def test_the_end_is_reckoned_by_how_busy_the_machine_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute alone, then ten seconds of which this process had two and a half."""
    now = [0.0, 0.0]
    monkeypatch.setattr(runner_module, "_now_s", lambda: tuple(now))
    clock = Clock(120.0, Path("unused"), Stopwatch())
    assert clock.ending_s == runner_module.ENDING_S
    monkeypatch.setattr("frostline.system.directories.write_atomically", lambda *_: None)
    now[:] = 60.0, 60.0
    clock.note()
    assert clock.ending_s == runner_module.ENDING_S
    now[:] = 70.0, 62.5
    assert clock.ending_s == 4 * runner_module.ENDING_S


def test_late_it_leaves_no_pictures_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out-of-fold.csv").write_text("path\n")
    monkeypatch.setattr(winner_artifacts.wise_ft_share, "models", lambda *_: None)
    left: list[object] = []
    monkeypatch.setattr(winner_artifacts.error_gallery, "write_gallery", lambda *given: left.append(given))
    lines: list[str] = []
    request = SimpleNamespace(
        folder=tmp_path,
        backbones={"": None},
        candidates=[SimpleNamespace(model="")],
        data=None,
        progress=Progress.of(None, lines.append),
    )
    for late in (True, False):
        race_at_work = SimpleNamespace(clock=SimpleNamespace(late=late), outcomes={})
        monkeypatch.setattr(winner_artifacts, "longest", lambda *_: [])
        winner_artifacts.write_error_gallery(request, race_at_work, 0, None)  # type: ignore[arg-type]
        assert (lines == ["No time was left for pictures of the mistakes."], bool(left)) == (True, not late)
