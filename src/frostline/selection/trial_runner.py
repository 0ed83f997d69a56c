"""Make the runs of one comparison within its time limit, and track the leader."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from frostline import profiling
from frostline.advice import TIME_MARGIN
from frostline.config import Config
from frostline.cost.run_time import DRIFT_IMAGES
from frostline.data import Manifest
from frostline.feature_cache import FeatureCache
from frostline.inference import error_gallery, selective_prediction
from frostline.loggers import Loggers
from frostline.models import Backbone
from frostline.profiling import Expected
from frostline.progress import Progress
from frostline.selection import anytime, early_stopping, resampling
from frostline.selection.anytime import NextTrial
from frostline.selection.candidates import Candidate
from frostline.selection.scoreboard import CandidateCost, Scoreboard, Terms, TrialResult
from frostline.selection.successive_halving import SHORT, HalvingSchedule, Rung, Task
from frostline.selection.trial_queue import Outcome, TrialQueue
from frostline.strategies import scaled
from frostline.studies.best_run import has_finished_run
from frostline.studies.study_folder import Study
from frostline.studies.trial_records import TrialRecord
from frostline.system import cpu_threads, directories
from frostline.system.timing import Stopwatch
from frostline.training import Run, train

# How much later than the limit a command may end: this share of it or this many seconds, whichever is more.
# Used only by training the winner on every image, once it has started.
LATE, LATE_S = 0.05, 3.0
# Seconds after the last training that don't depend on the network: the pictures of mistakes (0.6 s), the
# report (1.5 s) and the end of the process (0.5 s), on one core of a busy machine (docs/LOG.md 2026-11-28).
ENDING_S = 2.6
MOST_WAITING = 4.0  # largest slow-down by other processes: two cores shared by eight busy processes
DISTANCES = 0.05  # largest share of the limit for the distances of held-out images: a choice
PLAN = "plan.json"  # in a comparison's folder: what was fixed before the first run
CLOCK = "clock.json"  # there, too: the seconds that calls have taken
POLL_S = 0.5  # seconds between checks of what other processes have finished


class ComparisonTimeUp(Exception):
    """Raised inside a run when the comparison's time is up; caught by the comparison."""


@dataclass
class Clock:
    """The time spent and left, in seconds, including earlier interrupted calls of the same command."""

    limit_s: float
    file: Path
    watch: Stopwatch
    earlier_s: float = 0.0
    _readings: list[tuple[float, float]] = field(
        default_factory=lambda: [_now_s()]
    )  # at the start of each run

    @classmethod
    def begin(cls, minutes: float | None, file: Path, watch: Stopwatch) -> Clock:
        """Return a clock that continues from the seconds in the file."""
        earlier = json.loads(file.read_text())["seconds"] if file.exists() else 0.0
        return cls(float("inf") if minutes is None else 60.0 * minutes, file, watch, earlier)

    @property
    def spent_s(self) -> float:
        """Seconds spent in all calls, without the pauses between them."""
        return self.earlier_s + self.watch.seconds

    @property
    def left_s(self) -> float:
        """Seconds left."""
        return self.limit_s - self.spent_s

    @property
    def ending_s(self) -> float:
        """Seconds from the last training to the end of the process, without passes over images.

        Scaled by how much other processes have slowed this one down.
        """
        wall_now_s, own_now_s = _now_s()
        # Over the whole comparison and over the last run: other processes may have started meanwhile.
        spans = [
            (wall_now_s - wall_s, own_now_s - own_s)
            for wall_s, own_s in {self._readings[0], self._readings[-1]}
        ]
        waiting = [wall_s / max(own_s, 1e-9) for wall_s, own_s in spans if wall_s > ENDING_S]
        return ENDING_S * min(MOST_WAITING, max([1.0, *waiting]))

    @property
    def late(self) -> bool:
        """Whether the process would end too late even if it only wrote its results now."""
        return self.spent_s + self.ending_s > self.limit_s + max(LATE * self.limit_s, LATE_S)

    def note(self) -> None:
        """Write the seconds spent to the file, after a run."""
        self._readings.append(_now_s())
        directories.write_atomically(self.file, json.dumps({"seconds": self.spent_s}).encode())


def _now_s() -> tuple[float, float]:
    """Return the wall clock and this process's processor time, in seconds."""
    return time.perf_counter(), time.process_time()


@dataclass
class TrialRunner:
    """The candidates, runs and time of one comparison.

    `short_s`, `whole_s` and `final_s` hold predicted seconds by candidate: of a short and a whole run on a
    fold, and of training on every image. With a time limit there are `terms`, and the next run is chosen
    before each run; the schedule then only names the folds and repeats.
    """

    backbones: Mapping[str, Backbone]  # by a candidate's `model`
    data: Manifest
    study: Study
    candidates: list[Candidate]
    schedule: HalvingSchedule
    short_s: list[float]
    whole_s: list[float]
    final_s: list[float]
    queue: TrialQueue
    clock: Clock
    config: Config  # of each run; its seed is the comparison's
    loggers: Loggers
    cache: FeatureCache
    progress: Progress
    expected: list[Expected] = field(default_factory=list)  # seconds of whole runs
    others: float = 0.0  # load of other processes when the rates were measured, in cores
    terms: Terms | None = None
    pass_s: float = 0.0  # predicted seconds to decode an image and pass it through the network in float32
    outcomes: dict[Task, Outcome] = field(default_factory=dict)
    _reserve_s: float = 0.0  # seconds left for training the leader on everything; no run may use them

    def run(self) -> bool:
        """Make runs until none is left or the time is up; return whether none is left."""
        return self._run_schedule() if self.terms is None else self._run_until_limit()

    def _run_until_limit(self) -> bool:
        """Make runs one by one, each chosen by the results so far and the time left."""
        while True:
            self.outcomes = self.queue.outcomes()
            trial = self.next_task()
            if trial.task is None:
                if not trial.waits:
                    return trial.over
                time.sleep(POLL_S)
                continue
            ends_s = self.clock.left_s - trial.may_take_s
            self._reserve_s = max(0.0, ends_s)
            try:
                self.queue.take(
                    [trial.task], self._work, stop_on=ComparisonTimeUp, allowed_s=trial.may_take_s
                )
            except ComparisonTimeUp:  # noted in the queue; other candidates get the time that is left
                self.progress.log(
                    f"  {self.candidates[trial.task.candidate]} was stopped: it takes too long."
                )
            self.clock.note()

    def next_task(self) -> NextTrial:
        """Return the run to make next, or the reason why there is none."""
        return anytime.next_task(self.board())

    @property
    def depth(self) -> int:
        """Folds of a repeat that a candidate is judged on."""
        return self.schedule.folds if self.terms is None else self.board().depth

    def settle_depth(self, file: Path) -> None:
        """Write the number of folds that count to the plan, because it depends on the time left."""
        if self.terms is not None and self.terms.depth is None and self.outcomes:
            self.terms = replace(self.terms, depth=self.depth)
            plan = json.loads(file.read_text())
            plan["terms"] = asdict(self.terms)
            directories.write_atomically(file, json.dumps(plan, indent=1).encode())

    @property
    def ended_because(self) -> str:
        """Sentence that says why no more runs are made; empty without a time limit."""
        ending = None if self.terms is None else self.next_task().ending
        return "" if ending is None else ending.sentence(self.candidates)

    def board(self) -> Scoreboard:
        """Return the results so far, the costs and the time left."""
        assert self.terms is not None
        waiting_s, unfinished = self.clock.ending_s - ENDING_S, self.queue.unfinished()
        return Scoreboard(
            [
                CandidateCost(run_s, final_s, c.strategy.trains, _family(c))
                for c, run_s, final_s in zip(self.candidates, self.whole_s, self.final_s, strict=True)
            ],
            {task: TrialResult(float(o["score"]), float(o["taken"])) for task, o in self.outcomes.items()},
            self.clock.left_s,
            replace(self.terms, closing_s=self.terms.closing_s + waiting_s),
            unfinished.running,
            unfinished.stopped,
        )

    def _run_schedule(self) -> bool:
        while True:
            self.outcomes = self.queue.outcomes()
            missing = self.schedule.missing(self._scores())
            if not missing:
                return True
            self.reserve_time()
            feasible = [task for task in missing if self._fits(task)]
            if not feasible:
                return False
            try:
                if self.queue.take(feasible, self._work) is None:
                    self._wait()
            except ComparisonTimeUp:
                return False
            self.clock.note()

    def reserve_time(self) -> None:
        """Reserve the time that training the current leader on everything takes."""
        self._reserve_s = self._last_s()

    def leader(self) -> int | None:
        """Return the index of the best candidate so far, on the cells they share; ties go to the cheaper.

        With a time limit, only candidates with every fold count. `None` if there is none.
        """
        if self.terms is not None:
            return self.board().leader
        leading = self.schedule.leading(self._scores())
        return min(leading, key=lambda c: (self.final_s[c], c), default=None)

    def _scores(self) -> dict[Task, float]:
        return {task: float(outcome["score"]) for task, outcome in self.outcomes.items()}

    def _predicted(self, task: Task) -> float:
        """Return a run's predicted seconds, with an empty feature cache or as for an earlier fold."""
        predicted_s = (self.whole_s if task.share == 1.0 else self.short_s)[task.candidate]
        group = (task.candidate, task.share, task.cell.repeat)
        earlier = [o for t, o in self.outcomes.items() if (t.candidate, t.share, t.cell.repeat) == group]
        return min([predicted_s, *(float(outcome.get("expected", predicted_s)) for outcome in earlier)])

    def _factor(self) -> float:
        """Return measured over expected seconds of the runs so far, which corrects predictions.

        Less is expected of a run that finds features in the cache.
        """
        measured_s = sum(outcome["seconds"] for outcome in self.outcomes.values())
        expected_s = sum(outcome.get("expected", self._predicted(t)) for t, outcome in self.outcomes.items())
        return float(measured_s / expected_s) if expected_s else 1.0

    def _fits(self, task: Task) -> bool:
        """Whether a run is expected to leave time to train the leader, which it may become, on everything."""
        return self._factor() * TIME_MARGIN * self._predicted(task) + self._last_s(task) <= self.clock.left_s

    def _last_s(self, task: Task | None = None) -> float:
        """Return the seconds for training on everything the leader, or the candidate of `task` if slower."""
        leading = [self.leader(), task.candidate if task else None]
        last_s = max((self.final_s[index] for index in leading if index is not None), default=0.0)
        return self._factor() * TIME_MARGIN * last_s

    def _work(self, task: Task) -> Outcome:
        candidate, watch = self.candidates[task.candidate], Stopwatch()
        data = resampling.split(self.data, task.cell, self.config.seed)
        backbone, images = self.backbones[candidate.model], len(data.subset("train"))
        strategy = scaled(candidate.strategy, task.share, images)
        started = cpu_threads.Reading.now()
        run = train(
            backbone,
            data,
            strategy,
            study=sub_study(self.study, data),
            config=self.config,
            seed=resampling.seed_of(self.config.seed, task.cell),
            augment=candidate.augment,
            keep="last",
            patience=early_stopping.effective(self.config.patience, strategy, backbone, images),
            logger=self.loggers,
            feature_cache=self.cache,
            progress=self._on_progress,
        )
        outcome = {
            "score": run.val_goodness,
            "accuracy": run.val_accuracy,
            "temperature": run.temperature,
            "seconds": run.seconds,
            **self._update_rates(task, run, started),
            "taken": run.seconds if run.reused else max(run.seconds, watch.seconds),
            "run": str(run.folder.path.relative_to(self.study.path)),
        }
        self._record(task, run)
        self.log_outcome(task, outcome)
        self.outcomes[task] = outcome
        self._offer_leader(task, run)
        return outcome

    def _record(self, task: Task, run: Run) -> None:
        """Write which run is the trial, so that reports find it while the comparison is unfinished."""
        candidate = self.candidates[task.candidate]
        TrialRecord(
            candidate=task.candidate,
            strategy=str(candidate.strategy),
            augment=candidate.augment,
            model=candidate.model,
            share=task.share,
            repeat=task.cell.repeat,
            fold=task.cell.fold,
            run=run.folder.path.relative_to(self.study.path).as_posix(),
        ).write(self.clock.file.parent)

    def _update_rates(self, task: Task, run: Run, started: cpu_threads.Reading) -> dict[str, float]:
        """Update the measured rates by a run; return its expected seconds if they can be computed."""
        early = run.early_stopping
        if (
            not self.expected
            or task.share < 1.0
            or run.reused
            or run.stopped
            or (early and early["epochs_saved"])
        ):
            return {}
        expected_s = self.expected[task.candidate].seconds(run.features["computed"])
        candidate = self.candidates[task.candidate]
        profiling.learn(
            self.backbones[candidate.model],
            run.numeric_plan["threads"],
            trains=candidate.strategy.trains,
            expected_s=expected_s,
            taken_s=run.seconds,
            factor_then=self.expected[task.candidate].factor,
            before=self.others,
            meanwhile=started.others(),
        )
        return {"expected": expected_s}

    def _offer_leader(self, task: Task, run: Run) -> None:
        """Let the study predict by the leader's newest run, if it has no finished model and no better run."""
        if has_finished_run(self.study):
            return
        scores = [
            s for t, s in self._scores().items() if (t.candidate, t.share) == (task.candidate, task.share)
        ]
        score, now = statistics.mean(scores), (self.study.answer or {}).get("score")
        if (now is None or score > now) and self.leader() == task.candidate:
            why = f"the best so far of {len(self.candidates)} compared"
            self.study.answer_by(run.folder, why, score)

    def log_outcome(self, task: Task, outcome: Outcome) -> None:
        """Log a finished run."""
        closed_form = not self.candidates[task.candidate].strategy.trains
        if closed_form and replace(task, share=SHORT) in self.outcomes and task.share == 1.0:
            return  # the same run was logged on the previous rung
        whole = task.share == 1.0 or closed_form
        short = "" if whole else f", {task.share:g} of its epochs"
        fold = f", fold {task.cell.fold + 1} of {self.schedule.folds}" if self.schedule.folds > 1 else ""
        where = f"repeat {task.cell.repeat + 1}{fold}{short}"
        self.progress.log(
            f"  {self.candidates[task.candidate]} ({where}): {100 * outcome['accuracy']:.1f} % in "
            f"{outcome['seconds']:.1f} s"
        )

    def _on_progress(self, what: str, done: int, total: int) -> None:
        if self.clock.left_s <= self._reserve_s:
            raise ComparisonTimeUp
        self.progress(what, done, total)

    def _wait(self) -> None:
        """Wait, because other processes are making every run that is left."""
        if self.clock.left_s <= self._reserve_s:
            raise ComparisonTimeUp
        time.sleep(POLL_S)


def closing_s(pass_s: float, images: int, held_out: int, limit_s: float, points: int = 0) -> float:
    """Return the predicted seconds between the last training and the end of the process.

    Images are passed through the network for the novelty detector (training images of the final model;
    training and held-out images of one fold, fewer if time is short), for feature drift (by the original
    network) and for the pictures of mistakes.

    Parameters
    ----------
    pass_s
        Seconds to pass one image through the network.
    images
        Number of train and val images.
    held_out
        Images that a fold holds out.
    limit_s
        Time limit in seconds.
    points
        Interpolation points at which every image is predicted by the winner's folds; 0 for none.

    Returns
    -------
    float
        Seconds.
    """
    fold = sum(min(selective_prediction.MOST, count) for count in (images - held_out, held_out))
    needed = min(selective_prediction.MOST, images) + min(DRIFT_IMAGES, images) + error_gallery.MOST
    needed += points * images
    return ENDING_S + pass_s * needed + min(pass_s * fold, DISTANCES * limit_s)


def sub_study(study: Study, data: Manifest) -> Path:
    """Return the folder, below a study, of runs on another split of the same data."""
    return study.path / "splits" / data.split_digest[:12]


def _family(candidate: Candidate) -> str:
    """Return what variants share: strategy, cut, epochs and network, but not rates."""
    strategy = candidate.strategy
    return (
        f"{strategy.name} {strategy.k} {strategy.phases} {strategy.head} {strategy.epochs} {candidate.model}"
    )


def as_data(schedule: HalvingSchedule) -> dict[str, Any]:
    """Return a halving schedule as plain data."""
    return asdict(schedule)


def from_data(data: Mapping[str, Any]) -> HalvingSchedule:
    """Return the halving schedule that `as_data` wrote."""
    rungs = tuple(Rung(r["share"], tuple(r["repeats"]), r["enter"], r.get("folds", 0)) for r in data["rungs"])
    return HalvingSchedule(rungs, data["candidates"], data["folds"])
