"""The race, the judge, the ledger, and a whole comparison on a tiny network."""

from __future__ import annotations

import csv
import dataclasses
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import frostline
from frostline import sentences
from frostline.config import Config
from frostline.data import Manifest
from frostline.errors import DataError, StudyError, UsageError
from frostline.feature_cache import FeatureCache
from frostline.progress import Progress
from frostline.selection import (
    conclusion,
    ranking,
    resampling,
    significance,
    successive_halving,
    winner_artifacts,
)
from frostline.selection import runner as runner_module
from frostline.selection.anytime import next_task, repeats_judged
from frostline.selection.candidates import listed, searched
from frostline.selection.resampling import Cell
from frostline.selection.runner import Clock, OutOfTime, TrialRunner, closing_s
from frostline.selection.scoreboard import CandidateCost, Scoreboard, Terms, TrialResult
from frostline.selection.significance import HeldOutPredictions, Verdict, judge
from frostline.selection.successive_halving import HalvingSchedule, Rung, Task
from frostline.selection.text import verdict_lines
from frostline.selection.trial_queue import TrialQueue
from frostline.strategies import parse, scaled, schedule
from frostline.system.timing import Stopwatch
from tiny import tiny_backbone, tiny_model, write_table

OPTIONS = {"deterministic": True, "flip": "none", "threads": 1}


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    return frostline.load_data(write_table(tmp_path / "images", train=12, val=4), near_copies=False)


def without_val(tmp_path: Path, **counts: int) -> Manifest:
    table = write_table(tmp_path / "images", **counts)
    table.write_text("\n".join(line.replace(",val", ",") for line in table.read_text().splitlines()))
    return frostline.load_data(table, near_copies=False)


# --- cells ----------------------------------------------------------------------------------------------


def test_every_image_is_held_out_once_a_repeat_and_the_test_part_never(tmp_path: Path) -> None:
    data = without_val(tmp_path, train=15, test=5)
    folds = resampling.folds_of(data, 0)
    assert folds == 5
    pool = {sample.path for sample in data.samples if sample.split != "test"}
    splits = {}
    for repeat in range(2):
        held: list[str] = []
        for fold in range(folds):
            part = resampling.split(data, Cell(repeat, fold), 0)
            assert {s.path for s in part.samples} == pool
            assert not part.part("test")
            assert {s.label for s in part.part("train")} == set(data.classes)
            held += [s.path for s in part.part("val")]
            splits[repeat, fold] = part.split_digest
        assert sorted(held) == sorted(pool)
    assert len(set(splits.values())) == len(splits)
    assert (
        resampling.seed_of(0, Cell(0, 1))
        == resampling.seed_of(0, Cell(0, 4))
        != resampling.seed_of(0, Cell(1, 1))
    )


def test_a_val_part_that_the_source_names_is_kept(data: Manifest) -> None:
    assert data.given == ("train", "val", "test")
    assert resampling.folds_of(data, 0) == 1
    for repeat in range(2):
        part = resampling.split(data, Cell(repeat, 0), 0)
        assert {s.path for s in part.part("val")} == {s.path for s in data.part("val")}
        assert not part.part("test")
    assert Manifest.from_json(data.to_json()).given == data.given


def test_groups_and_what_can_only_train_stay_together(tmp_path: Path) -> None:
    table = write_table(tmp_path / "images", train=10, val=0, test=0)
    lines = [line.split(",") for line in table.read_text().splitlines()[1:]]
    rows = [
        f"{path},{label if i else 'rare'},g{i // 2 if i else 'alone'}"
        for i, (path, label, _) in enumerate(lines)
    ]
    table.write_text("\n".join(["path,label,group", *rows]))
    data = frostline.load_data(table, near_copies=False, test_size=0.0)
    units = {s.path: u for s, u in zip(data.samples, data.units(data.samples), strict=True)}
    for fold in range(resampling.folds_of(data, 0)):
        part = resampling.split(data, Cell(0, fold), 0)
        assert not {units[s.path] for s in part.part("train")} & {units[s.path] for s in part.part("val")}
        assert {s.label for s in part.part("train")} == set(data.classes)


# --- the race -------------------------------------------------------------------------------------------


def run_all(found: HalvingSchedule, skill: list[float]) -> tuple[dict[Task, float], list[int]]:
    """Run every wanted task; a candidate's score is its skill."""
    scores: dict[Task, float] = {}
    order = []
    while wanted := found.missing(scores):
        assert not set(wanted) & set(scores)
        order.append(len(wanted))
        scores |= {task: skill[task.candidate] for task in wanted}
    return scores, order


@pytest.mark.parametrize("folds", [1, 5])
def test_the_best_climbs_and_halving_costs_what_it_promises(folds: int) -> None:
    count = 8
    everything = count * 3 * folds * 4.0
    found = successive_halving.plan(count, folds=folds, repeats=3)
    first = (1.0, successive_halving.FIRST_FOLDS) if folds > 1 else (successive_halving.SHORT, 0)
    assert [(rung.share, rung.folds) for rung in found.rungs] == [first, (1.0, 0), (1.0, 0)]
    skill = list(np.random.default_rng(0).permutation(count) / 10)
    scores, _ = run_all(found, skill)
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
    found = HalvingSchedule((Rung(0.25, (0,), 3), Rung(1.0, (0, 1), 2)), 3, 1)
    scores = dict.fromkeys(found.tasks(0, [0, 1]), 0.5)
    assert found.standing(scores) == 0
    assert found.entering(1, scores) == []
    assert [task.candidate for task in found.missing(scores)] == [2]


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
    found = runner(limit_s=100.0)
    assert found._fits(cheap)
    found.outcomes = {cheap: {"score": 0.5, "seconds": 1.0}}
    assert not found._fits(dear)  # were it to win, there would be no time to train it on everything
    more = runner(limit_s=200.0)
    more.outcomes = found.outcomes
    assert more._fits(dear)


def test_a_run_that_is_slow_does_not_use_up_the_winners_time() -> None:
    found = runner(limit_s=120.0)
    found.outcomes = {Task(1, 1.0, Cell(0, 0)): {"score": 0.5, "seconds": 10.0}}
    found.reserve_time()
    found._on_progress("Training", 1, 2)
    late = runner(limit_s=90.0)
    late.outcomes = found.outcomes
    late.reserve_time()
    with pytest.raises(OutOfTime):
        late._on_progress("Training", 1, 2)


def test_a_run_that_takes_too_long_is_stopped_and_others_get_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    found = runner(limit_s=60.0, log=said.append)
    found.candidates = listed(["linear_probe", "full", "top_k(1)"], "none")
    found.short_s, found.whole_s, found.final_s = [0.1] * 3, [0.1, 4.0, 1.0], [0.1, 5.0, 1.2]
    found.schedule = successive_halving.everything(3, 5, 1)
    found.terms = Terms(folds=5, repeats=1, limit_s=60.0, closing_s=2.0)
    found.queue, found.clock.file = TrialQueue.open("x", tmp_path), tmp_path / "clock.json"
    begun = Counter[int]()

    def work(self: TrialRunner, task: Task) -> dict[str, Any]:
        begun[task.candidate] += 1
        if task.candidate == 1:
            raise OutOfTime
        return {"score": task.candidate / 10, "seconds": 0.1, "taken": 0.1}

    monkeypatch.setattr(TrialRunner, "_work", work)
    assert not found.run()
    assert begun == {0: 5, 1: 1, 2: 5}
    assert found.leader() == 2
    assert said == ["  full was stopped: it takes too long."]
    assert found.ended_because.startswith("Nothing else fits the time: full would take about")


def test_what_a_winner_doubts_by_is_shortened_where_time_is_short() -> None:
    said: list[str] = []
    request: Any = SimpleNamespace(config=Config(minutes=1.0), progress=Progress.of(None, said.append))
    found = runner(limit_s=60.0)
    for pass_s, images in ((0.01, 200), (0.5, 57), (3.0, 0)):
        found.pass_s = pass_s
        assert winner_artifacts._images_in_time(request, found, 200) == images
    assert [line.split(":")[0] for line in said] == [
        "Little time was left",
        "No time was left to measure how far new images may lie from the training images.",
    ]
    request.config = Config()
    assert winner_artifacts._images_in_time(request, found, 200) == 200


def test_what_follows_the_last_training_is_set_aside_by_rates() -> None:
    few, many = (closing_s(0.02, images, images // 5, 600.0) for images in (100, 100_000))
    assert few == pytest.approx(2.6 + 0.02 * (100 + 200 + 24 + 100), abs=0.1)
    assert many == pytest.approx(2.6 + 0.02 * (1000 + 256 + 24) + 30.0, abs=0.1)  # distances: a twentieth
    assert closing_s(0.02, 100, 20, 600.0, points=6) == pytest.approx(few + 12.0)


def test_the_verdict_says_how_much_was_seen() -> None:
    apart = {"leader": "full", "other": "head", "mean": 0.1, "low": 0.05, "high": 0.2, "separated": True}
    result = {
        "winner": "full",
        "repeats": 1,
        "standings": [{}, {}],
        "differences": [apart],
        "separated": False,  # on one repeat nothing is
        "finished": True,
        "accuracy": 0.9,
        "low": 0.8,
        "high": 0.95,
        "test_looks": 1,
    }
    first, *_ = verdict_lines(result)
    assert first == "full leads every other over 1 repeat: not enough to name a winner."
    headline = {**result, "basis": "test part"}
    assert "images that no decision has used" in sentences.accuracy(headline)
    assert "3 configurations have been evaluated on" in sentences.accuracy({**headline, "test_looks": 3})
    three = {**result, "repeats": 3, "separated": True}
    assert verdict_lines(three)[0].startswith("full wins over 3 repeats, significantly better")
    alone = {**result, "differences": []}
    assert (
        verdict_lines(alone)[0]
        == "full was evaluated on 1 repeat, and no other was: not enough to name a winner."
    )
    held = {**result, "folds": 5, "judged_on_folds": 1, "out_of_fold": {"images": 54}}
    assert verdict_lines(held)[0].startswith("full leads every other over one hold-out of 54 images")


def test_a_challenger_is_promising_until_it_has_all_its_folds() -> None:
    result = {
        "winner": "head",
        "repeats": 1,
        "folds": 5,
        "standings": [{}, {}],
        "differences": [],
        "separated": False,
        "finished": False,
        "accuracy": None,
        "promising": [{"strategy": "full", "folds": 1, "ahead": 0.056, "beside": "head"}],
        "ended_because": "full would take about 40 s more, and 22 s were left.",
    }
    _, promising, ended = verdict_lines(result)
    assert promising == "full is promising: 1 of 5 folds, +5.6 points compared with head on the same images."
    assert ended == result["ended_because"]


def test_a_head_that_is_solved_for_has_no_epochs_to_run_short_of() -> None:
    said: list[str] = []
    found = runner(limit_s=100.0, log=said.append)
    outcome = {"score": 0.5, "accuracy": 0.5, "seconds": 10.0}
    found.outcomes = {Task(index, 0.25, Cell(0, 0)): outcome for index in (0, 1)}
    for task in found.outcomes:
        found.log_outcome(task, outcome)
    assert ["of its epochs" in line for line in said] == [False, True]
    found.log_outcome(Task(0, 1.0, Cell(0, 0)), outcome)  # the same run again
    assert len(said) == 2
    assert [conclusion._share(found, index) for index in (0, 1)] == [1.0, 0.25]


def test_a_short_schedule_has_every_phase() -> None:
    for text in ("gradual_unfreeze", "lp_ft", "top_k(2, epochs=8)", "phases(0@4, 2@4, all@8)", "full"):
        whole, short = parse(text), scaled(parse(text), 0.25, 400)
        runs = [schedule(s, stages=9, images=400, batch=32) for s in (whole, short)]
        assert [phase.cut for phase in runs[0]] == [phase.cut for phase in runs[1]]
        steps = [sum(phase.steps for phase in run) for run in runs]
        assert steps[1] == pytest.approx(steps[0] / 4, rel=0.35)  # epochs are rounded
    assert scaled(parse("linear_probe"), 0.25, 400) == parse("linear_probe")


# --- the judge ------------------------------------------------------------------------------------------


def answers(
    rate: float, *, images: int = 300, repeats: int = 3, seed: int = 0, ties: int = 1
) -> HeldOutPredictions:
    """Invent a candidate that is right about an image with some probability, in two classes."""
    rng = np.random.default_rng(seed)
    targets = np.tile(np.arange(images) % 2, repeats)
    right = rng.random(images * repeats) < rate
    guess = np.where(right, targets, 1 - targets)
    return HeldOutPredictions(
        images=np.tile(np.arange(images), repeats),
        repeats=np.repeat(np.arange(repeats), images),
        units=np.tile(np.arange(images) // ties, repeats),
        targets=targets,
        probabilities=np.eye(2)[guess] * 0.8 + 0.1,
    )


def test_a_clear_lead_is_separated_and_wins() -> None:
    held = {0: answers(0.9, seed=1), 1: answers(0.6, seed=2)}
    found = significance.judge(held, {0: 100.0, 1: 1.0}, "accuracy")
    assert (found.winner, found.leader, found.separated) == (0, 0, True)
    assert found.differences[1].mean == pytest.approx(0.3, abs=0.06)


def test_too_close_to_call_and_the_cheaper_wins() -> None:
    one = answers(0.8, seed=1)
    other = HeldOutPredictions(one.images, one.repeats, one.units, one.targets, one.probabilities.copy())
    other.probabilities[0] = other.probabilities[0][::-1]  # one image apart
    costs = {0: 100.0, 1: 1.0}
    found = significance.judge({0: one, 1: other}, costs, "accuracy")
    assert not found.separated
    assert found.winner == 1
    assert significance.judge({0: one, 1: other}, {0: 1.0, 1: 100.0}, "accuracy").winner == 0


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy"])
def test_the_interval_of_a_difference_covers_the_truth(metric: str) -> None:
    inside = 0
    for seed in range(20):
        one, other = answers(0.8, seed=2 * seed, images=100), answers(0.75, seed=2 * seed + 1, images=100)
        found = significance.difference(one, other, metric, seed)
        inside += found.low <= 0.05 <= found.high
    assert 16 <= inside <= 20


def test_images_that_hang_together_widen_the_interval() -> None:
    alone = significance.difference(answers(0.8, seed=1), answers(0.7, seed=2), "accuracy")

    def tied(rate: float, seed: int) -> HeldOutPredictions:
        found = answers(rate, seed=seed, images=30)
        rows = np.tile(np.repeat(np.arange(30), 10), 3) + np.repeat(np.arange(3) * 30, 300)
        return HeldOutPredictions(
            np.tile(np.arange(300), 3),
            np.repeat(np.arange(3), 300),
            found.units[rows],
            found.targets[rows],
            found.probabilities[rows],
        )

    together = significance.difference(tied(0.8, 1), tied(0.7, 2), "accuracy")
    assert together.error > 2 * alone.error


# --- the ledger -----------------------------------------------------------------------------------------

WORKER = """
import json, sys, time
from pathlib import Path
from frostline.selection.resampling import Cell
from frostline.selection.trial_queue import TrialQueue
from frostline.selection.successive_halving import Task

folder, die = Path(sys.argv[1]), sys.argv[2]
queue = TrialQueue.open("x", folder)
tasks = [Task(c, 1.0, Cell(0, 0)) for c in range(12)]

def work(task):
    with open(folder / "done.txt", "a") as file:
        file.write(f"{task.candidate}\\n")
    if die == "die":
        print("working", flush=True)
        time.sleep(60)
    time.sleep(0.05)
    return {"score": task.candidate / 10}

while True:
    outcomes = queue.outcomes()
    wanted = [task for task in tasks if task not in outcomes]
    if not wanted:
        break
    if queue.take(wanted, work) is None:
        time.sleep(0.05)
"""


@pytest.mark.slow
def test_processes_share_the_runs_and_none_is_made_twice(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", WORKER, str(tmp_path)]
    dying = subprocess.Popen([*command, "die"], stdout=subprocess.PIPE, text=True)
    assert dying.stdout is not None
    assert dying.stdout.readline() == "working\n"
    dying.kill()
    dying.wait()
    dying.stdout.close()
    workers = [subprocess.Popen([*command, "live"]) for _ in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    counted = Counter((tmp_path / "done.txt").read_text().split())
    assert set(counted) == {str(c) for c in range(12)}
    assert sorted(counted.values()) == [1] * 11 + [2]  # what the dead one had taken, and nothing else
    found = TrialQueue.open("x", tmp_path).outcomes()
    assert {task.candidate: outcome["score"] for task, outcome in found.items()} == {
        c: c / 10 for c in range(12)
    }


def test_a_run_that_was_stopped_for_time_leaves_what_it_was_given(tmp_path: Path) -> None:
    """Else it would be begun again at once, by this process or another, for ever."""
    queue, task = TrialQueue.open("x", tmp_path), Task(3, 1.0, Cell(0, 0))

    def slow(_: Task) -> dict[str, Any]:
        assert queue.running() == {task}
        raise OutOfTime

    def interrupted(_: Task) -> dict[str, Any]:
        raise OutOfTime

    with pytest.raises(OutOfTime):
        queue.take([task], slow, stop_on=OutOfTime)
    assert queue.running() == set()
    assert 0 < queue.stopped()[3] < 5.0
    with pytest.raises(OutOfTime):
        queue.take([Task(4, 1.0, Cell(0, 0))], interrupted)
    assert 4 not in queue.stopped()
    assert queue.take([task], lambda _: {"score": 1.0}) == task
    assert queue.stopped() == {}  # what it took tells more


def test_who_was_killed_before_leaving_a_name_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by benchmarks/chaos.py: the others waited for it for ever."""
    task = Task(0, 1.0, Cell(0, 0))

    class Killed(BaseException):
        pass

    def kill() -> dict[str, Any]:
        raise Killed

    for url in (None, f"sqlite:///{tmp_path / 'shared.db'}"):
        queue = TrialQueue.open(f"one {url is None}", tmp_path, url)
        with monkeypatch.context() as patch:
            patch.setattr("frostline.selection.trial_queue._holder", kill)
            with pytest.raises(Killed):
                queue.take([task], lambda _: {"score": 0.0})
        taken = queue.take([task], lambda _: {"score": 1.0})
        assert taken == (task if url is None else None)  # another machine may be about to say who it is
        with monkeypatch.context() as patch:
            patch.setattr("frostline.selection.trial_queue.SILENCE_S", 0)
            assert (queue.take([task], lambda _: {"score": 1.0}) is None) == (url is None)
        assert queue.outcomes() == {task: {"score": 1.0}}


def test_a_database_that_cannot_be_used_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="cannot be used"):
        TrialQueue.open("x", tmp_path, "nonsense://there")


# --- candidates -----------------------------------------------------------------------------------------


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


# --- the whole ------------------------------------------------------------------------------------------

STRATEGIES = ("linear_probe", "head(epochs=4)", "top_k(1, epochs=4)", "full(epochs=4, lr=0.01)")


def test_a_comparison_names_a_winner_and_reads_the_test_part_once(tmp_path: Path) -> None:
    data = without_val(tmp_path, train=15, test=5)
    study = tmp_path / "study"
    said: list[str] = []
    given = {"study": study, "repeats": 2, "minutes": 10.0, "log": said.append, **OPTIONS}
    found = frostline.compare(tiny_backbone(), data, STRATEGIES, **given)
    assert found.finished
    assert found.winner in {str(parse(text)) for text in STRATEGIES}
    assert found.accuracy is not None
    assert found.test_looks == 1
    assert {row["strategy"] for row in found.standings} == {str(parse(text)) for text in STRATEGIES}
    runs = sum(row["runs"] for row in found.standings)
    assert 4 * 5 <= runs == len(said) <= 4 * 5 * 2  # finalists within a point of each other are repeated
    assert found.ended_because == "Every candidate was evaluated on every fold: nothing is left to run."
    assert found.out_of_fold["images"] == 45
    assert found.out_of_fold["strategy"] == found.winner
    assert len(found.out_of_fold["runs"]) == next(
        row["runs"] for row in found.standings if row["strategy"] == found.winner
    )
    assert all(row["low"] <= row["accuracy"] <= row["high"] for row in found.standings)
    for table in study.glob("splits/*/runs/*/predictions-test.csv"):
        assert table.parent == study / found.run.folder.path.relative_to(study)
    learned = found.run.n_train
    assert learned == 45
    again = frostline.compare(tiny_backbone(), data, STRATEGIES, **given)
    assert len(said) == runs, "finished runs were made again"
    assert again.winner == found.winner
    answers = frostline.predict(study, tmp_path / "images", module=tiny_model())
    assert answers.run == found.run.folder.name
    assert "winner of the comparison" in answers.why


@pytest.mark.slow
def test_what_was_trained_before_joins_a_comparison_or_stands_apart(tmp_path: Path) -> None:
    data = without_val(tmp_path, train=15, test=4)
    learning = [sample.path for sample in data.part("train")]
    val = set(learning[::5])
    samples = (dataclasses.replace(s, split="val") if s.path in val else s for s in data.samples)
    data = dataclasses.replace(data, samples=tuple(samples))
    study, said = tmp_path / "study", list[str]()
    settings = {"study": study, **OPTIONS}
    before = [
        frostline.train(tiny_backbone(), data, name, batch_size=batch, **settings)
        for name, batch in (("top_k(1, epochs=2)", 32), ("head(epochs=2)", 32), ("lp_ft(epochs=2)", 16))
    ]
    given = {**settings, "repeats": 1, "minutes": 10.0, "log": said.append}
    named = ["linear_probe", "head(epochs=2)"]
    found = frostline.compare(tiny_backbone(), data, named, **given)
    assert {row["strategy"]: row["joined"] for row in found.standings} == {
        "linear_probe": False,
        "head(epochs=2)": False,
        "top_k(1, epochs=2)": True,
    }
    assert said[0] == "Also compared, trained in this study before: top_k(1, epochs=2)."
    apart = f"Also trained in this study, and not compared: lp_ft(epochs=2) (run {before[2].folder.name}"
    assert said[1].startswith(apart)
    assert [row["reason"] for row in found.apart] == ["trained with batch_size=16"]
    assert not found.again
    assert found.judged["val"]["accuracy"] == pytest.approx(_right_out_of_fold(found, data))

    runs = len(said)
    later = frostline.train(tiny_backbone(), data, "top_k(2, epochs=2)", **settings)
    again = frostline.compare(tiny_backbone(), data, ", ".join(named), **given)
    assert again.again
    assert (again.folder, again.winner, again.seconds) == (found.folder, found.winner, found.seconds)
    assert again.joined == found.joined  # what was trained since does not join: it goes on as it began
    assert [row["reason"] for row in again.apart][1].startswith("trained after this comparison began")
    assert len(said) == runs + 2, "runs were made again"
    answers = frostline.predict(study, tmp_path / "images", module=tiny_model())
    assert answers.run == again.answering["run"]
    assert later.folder.name in {answers.run, *(one.run for one in answers.passed_over)}
    page = frostline.report(study).path.read_text()
    assert "trained in this study before" in page.lower()
    assert "trained with batch_size=16" in page

    alone = frostline.compare(tiny_backbone(), data, named, earlier=False, **given)
    assert alone.folder != found.folder
    assert {row["strategy"] for row in alone.standings} == set(named)
    assert "left out, as requested" in {row["reason"] for row in alone.apart}


def test_a_comparison_at_work_takes_no_finished_runs_place(data: Manifest, tmp_path: Path) -> None:
    given = {"study": tmp_path / "study", **OPTIONS}
    run = frostline.train(tiny_backbone(), data, "head(epochs=1)", **given)

    made: list[str] = []

    def stop(line: str) -> None:
        made.extend([line] if "repeat 1" in line else [])
        if len(made) == 2:  # the first one might have been offered by now
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        frostline.compare(tiny_backbone(), data, ["linear_probe", "full(epochs=1)"], log=stop, **given)
    answers = frostline.predict(tmp_path / "study", tmp_path / "images", module=tiny_model())
    assert answers.run == run.folder.name


def _right_out_of_fold(found: Any, data: Manifest) -> float:
    """How often the winner was right about the val part, by the table that the comparison leaves."""
    val = {sample.path for sample in data.part("val")}
    with open(found.folder / "out-of-fold.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["path"] in val]
    assert len(rows) == len(val)
    return sum(row["label"] == row["predicted"] for row in rows) / len(rows)


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


def test_what_would_be_ignored_is_refused(data: Manifest, tmp_path: Path) -> None:
    given = {"study": tmp_path / "s", **OPTIONS}
    with pytest.raises(UsageError, match="give one of the two"):
        frostline.compare(tiny_backbone(), data, ["head", "full"], cuts=True, **given)
    for wrong in ({"draws": 3}, {"search": ["lr"]}):
        with pytest.raises(UsageError, match="Give both, or neither"):
            frostline.compare(tiny_backbone(), data, **wrong, **given)
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_test_labels_have_no_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def untimed(held: Mapping[int, HeldOutPredictions], seconds: Mapping[int, float], *rest: Any) -> Verdict:
        return judge(held, dict.fromkeys(seconds, 1.0), *rest)  # the clock has a say where none is separated

    monkeypatch.setattr(ranking, "judge", untimed)
    results = []
    for number in range(2):
        data = without_val(tmp_path / str(number), train=10, test=4)
        if number:
            samples = list(data.samples)
            tests = [i for i, s in enumerate(samples) if s.split == "test"]
            labels = [samples[i].label for i in tests]
            for i, label in zip(tests, labels[1:] + labels[:1], strict=True):
                samples[i] = dataclasses.replace(samples[i], label=label)
            data = dataclasses.replace(data, samples=tuple(samples))
        found = frostline.compare(
            tiny_backbone(), data, STRATEGIES[:3], study=tmp_path / f"s{number}", repeats=1, **OPTIONS
        )
        results.append(
            (
                found.winner,
                [(r["strategy"], r["score"]) for r in found.standings],
                found.run.folder.weights.read_bytes(),
            )
        )
    assert results[0] == results[1]


def test_a_budget_stops_the_race_with_a_model_that_answers(tmp_path: Path) -> None:
    data = without_val(tmp_path, train=15, test=5)
    study = tmp_path / "study"
    with pytest.raises(UsageError, match=r"--minutes 0.0001 is less than .* give at least"):
        frostline.compare(tiny_backbone(), data, STRATEGIES, study=study, minutes=1e-4, **OPTIONS)
    assert not (study / "splits").exists()  # refused before any run
    racing = (*STRATEGIES[:2], "full(epochs=9999)")
    found = frostline.compare(tiny_backbone(), data, racing, study=study, repeats=1, minutes=1, **OPTIONS)
    assert found.seconds < 60.0 + 3.0
    assert not found.finished
    assert found.ended_because.startswith("Nothing else fits the time: full(epochs=9999) would take about")
    first, *_, last = found.standings
    assert (first["repeats"], first["low"] is None) == (1, False)
    assert (last["strategy"], last["repeats"]) == ("full(epochs=9999)", 0)
    assert found.winner
    assert len(frostline.predict(study, tmp_path / "images", module=tiny_model())) == 60


@pytest.mark.slow
def test_no_time_to_train_on_every_image_lets_a_model_of_the_race_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last training is not begun without time for it, but a machine may become slow on the way."""
    data = without_val(tmp_path, train=10, test=4)
    monkeypatch.setattr(Clock, "late", property(lambda clock: True))
    given = {"study": tmp_path / "study", "repeats": 1, "minutes": 10.0, "least": 1, **OPTIONS}
    found = frostline.compare(tiny_backbone(), data, ["top_k(1)"], **given)
    assert found.run.strategy == "top_k(1)"
    assert found.run.n_train == 24
    assert (found.every_image, found.accuracy, found.test_looks) == (False, None, None)
    assert found.out_of_fold["accuracy"] is not None
    assert "No time was left to train top_k(1) on every image" in " ".join(found.verdict)
    assert len(frostline.predict(tmp_path / "study", tmp_path / "images", module=tiny_model())) == 42
    monkeypatch.undo()
    whole = frostline.compare(tiny_backbone(), data, ["top_k(1)"], **given)
    assert (whole.every_image, whole.run.n_train) == (True, 30)
    monkeypatch.setattr(Clock, "late", property(lambda clock: True))
    assert frostline.compare(tiny_backbone(), data, ["top_k(1)"], **given).every_image


@pytest.mark.slow
def test_interrupted_it_goes_on(tmp_path: Path) -> None:
    data = without_val(tmp_path, train=15, test=5)
    said: list[str] = []

    def stop(line: str) -> None:
        said.append(line)
        if len(said) == 7:
            raise KeyboardInterrupt

    given = {"study": tmp_path / "study", "repeats": 1, "minutes": 10.0, **OPTIONS}
    with pytest.raises(KeyboardInterrupt):
        frostline.compare(tiny_backbone(), data, STRATEGIES, log=stop, **given)
    assert len(frostline.predict(tmp_path / "study", tmp_path / "images", module=tiny_model())) == 60
    frostline.compare(tiny_backbone(), data, STRATEGIES, log=said.append, **given)
    plain = frostline.compare(tiny_backbone(), data, STRATEGIES, **{**given, "study": tmp_path / "other"})
    assert len(said) == 7 + 4 * 5 - 6  # the seventh was told before it was written down
    files = [p / "best.safetensors" for p in (plain.run.folder.path,)]
    assert files[0].exists()
    result = json.loads(next((tmp_path / "study").glob("comparisons/*/comparison.json")).read_text())
    reached = [
        {row["strategy"]: row["score"] for row in found} for found in (result["standings"], plain.standings)
    ]
    assert reached[0] == reached[1]  # the winner of two that are close is the cheaper by predicted seconds


def test_nothing_to_hold_out_is_one_message(tmp_path: Path) -> None:
    data = without_val(tmp_path, train=1, test=2)
    with pytest.raises(DataError, match="Nothing can be held out"):
        frostline.compare(tiny_backbone(), data, STRATEGIES, study=tmp_path / "s", **OPTIONS)


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
    monkeypatch.setattr(winner_artifacts.weight_interpolation, "models", lambda *_: None)
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


@pytest.mark.slow
def test_cuts_are_all_tried_and_the_shallowest_that_is_as_good_wins(tmp_path: Path) -> None:
    data = without_val(tmp_path, train=8, test=4)
    found = frostline.compare(tiny_backbone(), data, study=tmp_path / "s", repeats=1, cuts=True, **OPTIONS)
    thawed = ["linear_probe", "head", *(f"top_k({k})" for k in (1, 2, 3, 4))]
    assert {row["strategy"] for row in found.standings} == set(thawed)
    assert all(row["runs"] == 5 for row in found.standings)
    close = [d["other"] for d in found.differences if not d["separated"]]
    assert found.winner == min([found.differences[0]["leader"], *close], key=thawed.index)


@pytest.mark.slow
def test_cuts_that_the_time_cut_short_are_judged_where_all_were_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All on two folds and the two deepest thaws on a third, where they answer everything right."""
    data, allowed = without_val(tmp_path, train=8, test=4), TrialRunner._fits
    monkeypatch.setattr(
        TrialRunner,
        "_fits",
        lambda self, task: allowed(self, task) and task.cell.fold < 2 + (task.candidate > 3),
    )
    found = frostline.compare(tiny_backbone(), data, study=tmp_path / "s", repeats=1, cuts=True, **OPTIONS)
    assert sorted(row["runs"] for row in found.standings) == [2, 2, 2, 2, 3, 3]
    names = ["linear_probe", "head", *(f"top_k({k})" for k in (1, 2, 3, 4))]
    close = [d["other"] for d in found.differences if not d["separated"]]
    assert len(found.differences) == len(names) - 1
    assert found.winner == min([found.differences[0]["leader"], *close], key=names.index)
    assert not found.finished
    assert not found.separated
    assert "over part of the first repeat" in found.verdict[0]
