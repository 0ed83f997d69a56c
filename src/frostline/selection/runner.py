"""One comparison at work: which runs there are to do, whether they fit the time, and who answers so far."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from frostline import profiling
from frostline.advice import TIME_MARGIN
from frostline.config import Config
from frostline.data import Manifest, OnProgress
from frostline.diagnostics import feature_drift
from frostline.inference import error_gallery, selective_prediction
from frostline.loggers import Loggers
from frostline.models import Backbone
from frostline.profiling import Expected
from frostline.selection import anytime, resampling
from frostline.selection.anytime import Next
from frostline.selection.candidates import Candidate
from frostline.selection.scoreboard import Board, Entrant, Seen, Terms
from frostline.selection.successive_halving import SHORT, Race, Rung, Task
from frostline.selection.trial_queue import Ledger, Outcome
from frostline.strategies import scaled
from frostline.studies.best_run import has_finished_run
from frostline.studies.study_folder import Study
from frostline.system import directories, processor
from frostline.system.timing import Stopwatch
from frostline.training import Run, train

# How much later than the limit a command may end: so much of it, or so many seconds where that is more. Only
# training the winner on every image, once begun, uses it.
LATE, LATE_S = 0.05, 3.0
# What no timing of the network tells of what follows the last training: the pictures of mistakes (0.6 s), the
# report (1.5 s) and the end of the process (0.5 s), on one core of a busy machine (docs/LOG.md 2026-11-28).
ENDING_S = 2.6
MOST_WAITING = 4.0  # times as long as alone: two cores shared by eight busy processes
DISTANCES = 0.05  # of the limit is kept at most for distances of held-out images: a choice
PLAN = "plan.json"  # in a comparison's folder: what was fixed before the first run
POLL_S = 0.5  # between two looks at what other processes have finished


class OutOfTime(Exception):
    """Raised inside a run when the comparison's time is up; never seen outside."""


@dataclass
class Clock:
    """The time that is left, with what interrupted calls of the same command have spent."""

    limit_s: float
    file: Path
    watch: Stopwatch
    earlier_s: float = 0.0
    _readings: list[tuple[float, float]] = field(
        default_factory=lambda: [_now_s()]
    )  # at the start of each run

    @classmethod
    def begin(cls, minutes: float | None, file: Path, watch: Stopwatch) -> Clock:
        """Go on from what the file says was spent."""
        earlier = json.loads(file.read_text())["seconds"] if file.exists() else 0.0
        return cls(float("inf") if minutes is None else 60.0 * minutes, file, watch, earlier)

    @property
    def spent_s(self) -> float:
        """Seconds since the first call began, pauses left out."""
        return self.earlier_s + self.watch.seconds

    @property
    def left_s(self) -> float:
        """Seconds left."""
        return self.limit_s - self.spent_s

    @property
    def ending_s(self) -> float:
        """Seconds that the end takes beside its passes over images, on a machine as busy as it has been."""
        wall_now_s, own_now_s = _now_s()
        # Over all of it, and over the last run: others may have come meanwhile.
        spans = [
            (wall_now_s - wall_s, own_now_s - own_s)
            for wall_s, own_s in {self._readings[0], self._readings[-1]}
        ]
        waiting = [wall_s / max(own_s, 1e-9) for wall_s, own_s in spans if wall_s > ENDING_S]
        return ENDING_S * min(MOST_WAITING, max([1.0, *waiting]))

    @property
    def late(self) -> bool:
        """Whether the process will end later than it may, even if it now only writes what it has."""
        return self.spent_s + self.ending_s > self.limit_s + max(LATE * self.limit_s, LATE_S)

    def note(self) -> None:
        """Write down what was spent, after a run."""
        self._readings.append(_now_s())
        directories.write_atomically(self.file, json.dumps({"seconds": self.spent_s}).encode())


def _now_s() -> tuple[float, float]:
    """Return this machine's clock and the processor time that this process has had, in seconds."""
    return time.perf_counter(), time.process_time()


@dataclass
class Contest:
    """A race, its runs, and the time they may take. Seconds are predicted, a list a candidate.

    With a limit on time there are `terms`, and what is run next is decided before each run; the race then
    only names the folds and repeats.
    """

    backbones: Mapping[str, Backbone]  # by a candidate's `model`
    data: Manifest
    study: Study
    candidates: list[Candidate]
    race: Race
    short_s: list[float]
    whole_s: list[float]
    final_s: list[float]  # trained on everything
    ledger: Ledger
    clock: Clock
    config: Config  # of each run; its seed is the comparison's
    loggers: Loggers
    progress: OnProgress | None
    log: Callable[[str], None]
    expected: list[Expected] = field(default_factory=list)  # of whole runs
    others: float = 0.0  # cores' worth of other work, when the rates were checked
    terms: Terms | None = None
    pass_s: float = 0.0  # predicted: an image decoded and passed through the network in float32
    outcomes: dict[Task, Outcome] = field(default_factory=dict)
    _kept_s: float = 0.0  # for training the leader on everything: a run that is slow must not use it up

    def run(self) -> bool:
        """Make runs until the race is over; returns whether it is, or the time was up first."""
        return self._race() if self.terms is None else self._while_time_lasts()

    def _while_time_lasts(self) -> bool:
        """Make runs one by one, each chosen by what was seen and the time that is left."""
        while True:
            self.outcomes = self.ledger.outcomes()
            found = self.next_task()
            if found.task is None:
                if not found.waits:
                    return found.over
                time.sleep(POLL_S)
                continue
            ends_s = self.clock.left_s - found.may_take_s
            self._kept_s = max(0.0, ends_s)
            try:
                self.ledger.take([found.task], self._work, stops=OutOfTime, given_s=found.may_take_s)
            except OutOfTime:  # the ledger knows; others get the time that is left
                self.log(f"  {self.candidates[found.task.candidate]} was stopped: it takes too long.")
            self.clock.note()

    def next_task(self) -> Next:
        """Return the run to make next, or why there is none."""
        return anytime.next_task(self.board())

    @property
    def depth(self) -> int:
        """How many folds of a repeat a candidate is judged on."""
        return self.race.folds if self.terms is None else self.board().depth

    def settle_depth(self, file: Path) -> None:
        """Hold on to the folds that count: with no time left they would look like too many."""
        if self.terms is not None and self.terms.depth is None and self.outcomes:
            self.terms = replace(self.terms, depth=self.depth)
            plan = json.loads(file.read_text())
            plan["terms"] = asdict(self.terms)
            directories.write_atomically(file, json.dumps(plan, indent=1).encode())

    @property
    def ended_because(self) -> str:
        """Why nothing more is run, in a sentence; empty without a limit on time."""
        if self.terms is None:
            return ""
        found = self.next_task()
        if found.place is None:
            return found.why
        return f"Nothing is left to try that fits: {self.candidates[found.place]} {found.why}."

    def board(self) -> Board:
        """Return what has been seen, and what is left."""
        assert self.terms is not None
        waiting_s = self.clock.ending_s - ENDING_S
        return Board(
            [
                Entrant(run_s, final_s, c.strategy.trains, _family(c))
                for c, run_s, final_s in zip(self.candidates, self.whole_s, self.final_s, strict=True)
            ],
            {task: Seen(float(o["score"]), float(o["taken"])) for task, o in self.outcomes.items()},
            self.clock.left_s,
            replace(self.terms, closing_s=self.terms.closing_s + waiting_s),
            self.ledger.running(),
            self.ledger.stopped(),
        )

    def _race(self) -> bool:
        while True:
            self.outcomes = self.ledger.outcomes()
            wanted = self.race.missing(self._scores())
            if not wanted:
                return True
            self.keep_time()
            fitting = [task for task in wanted if self._fits(task)]
            if not fitting:
                return False
            try:
                if self.ledger.take(fitting, self._work) is None:
                    self._wait()
            except OutOfTime:
                return False
            self.clock.note()

    def keep_time(self) -> None:
        """Set the time aside that training the present leader on everything takes."""
        self._kept_s = self._last_s()

    def leader(self) -> int | None:
        """Who does best so far, on cells that all have been seen on: ties go to the cheaper.

        While minutes last, who was judged on every fold.
        """
        if self.terms is not None:
            return self.board().leader
        found = self.race.leading(self._scores())
        return min(found, key=lambda c: (self.final_s[c], c), default=None)

    def _scores(self) -> dict[Task, float]:
        return {task: float(outcome["score"]) for task, outcome in self.outcomes.items()}

    def _predicted(self, task: Task) -> float:
        """Seconds, as if nothing were in the store, or as an earlier fold of its repeat should have taken."""
        told = (self.whole_s if task.share == 1.0 else self.short_s)[task.candidate]
        like = (task.candidate, task.share, task.cell.repeat)
        before = [o for t, o in self.outcomes.items() if (t.candidate, t.share, t.cell.repeat) == like]
        return min([told, *(float(outcome.get("expected", told)) for outcome in before)])

    def _factor(self) -> float:
        """What runs took beside what was expected of them, by which the rest is corrected, up or down.

        Of a run that found rows in the store less was expected.
        """
        taken = sum(outcome["seconds"] for outcome in self.outcomes.values())
        told = sum(outcome.get("expected", self._predicted(t)) for t, outcome in self.outcomes.items())
        return float(taken / told) if told else 1.0

    def _fits(self, task: Task) -> bool:
        """Whether a run is expected to end while there is time left to train the leader on everything.

        The run may make its candidate the leader.
        """
        return self._factor() * TIME_MARGIN * self._predicted(task) + self._last_s(task) <= self.clock.left_s

    def _last_s(self, task: Task | None = None) -> float:
        """Seconds to keep for training on everything: the leader, or who may lead after `task`."""
        leading = [self.leader(), task.candidate if task else None]
        last_s = max((self.final_s[place] for place in leading if place is not None), default=0.0)
        return self._factor() * TIME_MARGIN * last_s

    def _work(self, task: Task) -> Outcome:
        candidate, watch = self.candidates[task.candidate], Stopwatch()
        data = resampling.split(self.data, task.cell, self.config.seed)
        strategy = scaled(candidate.strategy, task.share, len(data.part("train")))
        begun = processor.Reading.now()
        run = train(
            self.backbones[candidate.model],
            data,
            strategy,
            study=sub_study(self.study, data),
            config=self.config,
            seed=resampling.seed_of(self.config.seed, task.cell),
            augment=candidate.augment,
            keep="last",
            logger=self.loggers,
            progress=self._tell,
        )
        outcome = {
            "score": run.val_goodness,
            "accuracy": run.val_accuracy,
            "temperature": run.temperature,
            "seconds": run.seconds,
            **self._learned(task, run, begun),
            "taken": run.seconds if run.again else max(run.seconds, watch.seconds),
            "run": str(run.folder.path.relative_to(self.study.path)),
        }
        self.log_outcome(task, outcome)
        self.outcomes[task] = outcome
        self._offer(task, run)
        return outcome

    def _learned(self, task: Task, run: Run, begun: processor.Reading) -> dict[str, float]:
        """Let the rates learn from a run; return what was expected of it, where that can be said."""
        if not self.expected or task.share < 1.0 or run.again or run.stopped:
            return {}
        expected_s = self.expected[task.candidate].seconds(run.store["rows_computed"])
        profiling.learn(
            self.backbones[self.candidates[task.candidate].model],
            run.numeric_plan["threads"],
            expected_s=expected_s,
            taken_s=run.seconds,
            before=self.others,
            meanwhile=begun.others(),
        )
        return {"expected": expected_s}

    def _offer(self, task: Task, run: Run) -> None:
        """Let the leader's newest run answer while nothing finished does, if it is better than who does."""
        if has_finished_run(self.study):
            return
        mine = [
            s for t, s in self._scores().items() if (t.candidate, t.share) == (task.candidate, task.share)
        ]
        score, now = statistics.mean(mine), (self.study.answer or {}).get("score")
        if self.leader() == task.candidate and (now is None or score > now):
            why = f"the best so far of {len(self.candidates)} compared"
            self.study.answer_by(run.folder, why, score)

    def log_outcome(self, task: Task, outcome: Outcome) -> None:
        """Tell a person of a finished run."""
        solved = not self.candidates[task.candidate].strategy.trains
        if solved and replace(task, share=SHORT) in self.outcomes and task.share == 1.0:
            return  # it is the very run that was told of on the rung before
        whole = task.share == 1.0 or solved
        short = "" if whole else f", {task.share:g} of its epochs"
        fold = f", fold {task.cell.fold + 1} of {self.race.folds}" if self.race.folds > 1 else ""
        where = f"repeat {task.cell.repeat + 1}{fold}{short}"
        self.log(
            f"  {self.candidates[task.candidate]} ({where}): {100 * outcome['accuracy']:.1f} % in "
            f"{outcome['seconds']:.1f} s"
        )

    def _tell(self, what: str, done: int, total: int) -> None:
        if self.clock.left_s <= self._kept_s:
            raise OutOfTime
        if self.progress:
            self.progress(what, done, total)

    def _wait(self) -> None:
        """Others have every run that is left."""
        if self.clock.left_s <= self._kept_s:
            raise OutOfTime
        time.sleep(POLL_S)


def closing_s(pass_s: float, images: int, hold: int, limit_s: float, points: int = 0) -> float:
    """Return the seconds between the last training and the end of the process, at `pass_s` an image.

    Where the winner may go back, all images are asked about at `points` points by its folds' runs.

    Images pass for what the model is given to doubt its answers by (`familiar`: those it learned from; of a
    fold, those learned from and held out, fewer where time is short), for drift (by both networks) and for
    pictures of mistakes.
    """
    fold = sum(min(selective_prediction.MOST, count) for count in (images - hold, hold))
    needed = (
        min(selective_prediction.MOST, images)
        + 2 * min(feature_drift.DRIFT_IMAGES, images)
        + error_gallery.MOST
    )
    needed += points * images
    return ENDING_S + pass_s * needed + min(pass_s * fold, DISTANCES * limit_s)


def sub_study(study: Study, data: Manifest) -> Path:
    """Return the folder of runs on another split of the same data."""
    return study.path / "splits" / data.split_digest[:12]


def _family(candidate: Candidate) -> str:
    """Name what near twins share: strategy, cut, epochs and network, whatever the rates."""
    strategy = candidate.strategy
    return (
        f"{strategy.name} {strategy.k} {strategy.phases} {strategy.head} {strategy.epochs} {candidate.model}"
    )


def as_data(race: Race) -> dict[str, Any]:
    """A race as plain data."""
    return asdict(race)


def from_data(found: Mapping[str, Any]) -> Race:
    """Read a race back."""
    rungs = tuple(
        Rung(r["share"], tuple(r["repeats"]), r["enter"], r.get("folds", 0)) for r in found["rungs"]
    )
    return Race(rungs, found["candidates"], found["folds"])
