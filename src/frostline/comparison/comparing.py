"""`compare`: run the race, name the winner, train it on everything, read the test part once."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from frostline import places, rates
from frostline.augment import Policy
from frostline.backbone import Backbone
from frostline.comparison import cells, race
from frostline.comparison.candidates import Candidate, listed, searched
from frostline.comparison.contest import Clock, Contest, answer_by, as_data, from_data, sub_study
from frostline.comparison.held import gather
from frostline.comparison.judging import Held, Verdict, judge
from frostline.comparison.ledger import Ledger
from frostline.comparison.words import verdict_lines
from frostline.cost import Rates, predict
from frostline.dataset import Manifest
from frostline.errors import UsageError
from frostline.images import Images, Tell
from frostline.record import Study, digest_of, plain
from frostline.strategy import NAMED, Strategy, scaled
from frostline.timing import Stopwatch
from frostline.training import BATCH, DEFAULT_STUDY, Run, train

REPEATS = 3  # before a winner is named
EVERY = tuple(name for name in NAMED if name != "scratch")  # what "all" means


@dataclass(frozen=True)
class Comparison:
    """What was compared, how each did, and who won; `run` is the winner trained on everything.

    `result` is what `comparison.json` holds: `standings` (one for each candidate), `winner`, `separated`,
    `verdict` (sentences), `seconds`, `budget_seconds`.
    """

    result: dict[str, Any]
    folder: Path
    study: Study
    run: Run

    def __getattr__(self, name: str) -> Any:
        result = self.__dict__.get("result", {})
        if name in result:
            return result[name]
        raise AttributeError(f"A comparison has no {name!r}. It has {', '.join(result)}.")


def compare(
    backbone: Backbone,
    data: Manifest,
    strategies: Iterable[str | Strategy] = EVERY,
    *,
    minutes: float | None = None,
    repeats: int = REPEATS,
    search: Sequence[str] = (),
    draws: int = 0,
    study: str | Path = DEFAULT_STUDY,
    database: str | None = None,
    seed: int = 0,
    metric: str = "accuracy",
    augment: str = "standard",
    flip: str = "auto",
    imbalance: str = "none",
    batch: int = BATCH,
    exact: bool = False,
    precision: str = "auto",
    threads: int | None = None,
    workers: int = 0,
    tell: Tell | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Race strategies on the images that may be learned from, and train the winner on all of them.

    Every repeat is a new train/val split, order, initialisation and augmentation, the same for all
    strategies; on fewer than 2,000 images it is five folds, so that every image is held out once. With
    `minutes`, the race is planned to fit, and ends in time. `draws` variants over what `search` names (of
    `lr`, `layer_decay`, `weight_decay`, `augment`) join it. The test part is read once, for the winner.

    Called again, it goes on: finished runs are kept. Several processes may call it at once, on one study
    folder; `database` is the URL of Optuna's storage where SQLite on that folder won't do.
    Raises `UsageError`, `DataError`, `ModelError`, `StudyError` or `TrainingError`.
    """
    watch = Stopwatch()
    data = data.checked(tell)
    options = {
        "metric": metric,
        "flip": flip,
        "imbalance": imbalance,
        "batch": batch,
        "exact": exact,
        "precision": precision,
        "threads": threads,
        "workers": workers,
    }
    if repeats < 1:
        raise UsageError(f"repeats must be at least 1, found {repeats}.")
    candidates = listed(strategies, augment)
    candidates += searched(candidates, search, draws, seed)
    kept = Study.open(study, data=data.digest, split=data.split_digest, test=data.test_digest)
    data.write(kept.path / "manifest.jsonl")
    asked = {
        "candidates": [[str(c.strategy), c.augment] for c in candidates],
        "model": backbone.digest,
        "preprocessing": backbone.preprocessing.as_dict(),
        "repeats": repeats,
        "seed": seed,
        "minutes": minutes,
        **{key: value for key, value in options.items() if key not in ("threads", "workers")},
    }
    folder = kept.path / "comparisons" / digest_of(asked)[:12]
    folder.mkdir(parents=True, exist_ok=True)
    contest = _contest(
        backbone, data, kept, folder, candidates, repeats, minutes, database, seed, options, watch, tell, say
    )
    over = contest.run()
    return _conclude(contest, folder, over)


def _contest(
    backbone: Backbone,
    data: Manifest,
    kept: Study,
    folder: Path,
    candidates: list[Candidate],
    repeats: int,
    minutes: float | None,
    database: str | None,
    seed: int,
    options: dict[str, Any],
    watch: Stopwatch,
    tell: Tell | None,
    say: Callable[[str], None],
) -> Contest:
    """Plan the race, or read the plan of an earlier call: the first call's plan holds."""
    clock = Clock.begin(minutes, folder / "clock.json", watch)
    file = folder / "plan.json"
    if not file.exists():
        images = Images(
            data, data.part("train"), backbone.preprocessing, policy=Policy(candidates[0].augment)
        )
        known = rates.measure(
            backbone, images, batch=options["batch"], threads=options["threads"], classes=len(data.classes)
        )
        plan = _plan(data, candidates, known, repeats, seed, options, clock.left_s)
        places.write_atomically(file, json.dumps(plain(plan), indent=1).encode())
    plan = json.loads(file.read_text())
    return Contest(
        backbone=backbone,
        data=data,
        study=kept,
        candidates=candidates,
        race=from_data(plan["race"]),
        short_s=plan["short_seconds"],
        whole_s=plan["whole_seconds"],
        final_s=plan["final_seconds"],
        ledger=Ledger.open(folder.name, folder, database),
        clock=clock,
        seed=seed,
        options=options,
        tell=tell,
        say=say,
    )


def _plan(
    data: Manifest,
    candidates: Sequence[Candidate],
    known: Rates,
    repeats: int,
    seed: int,
    options: Mapping[str, Any],
    left_s: float,
) -> dict[str, Any]:
    """What is fixed before the first run: the rungs, and what each run is expected to take."""
    folds, images = cells.folds_of(data, seed), len(cells.pool(data))
    hold = len(data.part("val")) if "val" in data.given else images // cells.FOLDS

    def seconds(candidate: Candidate, share: float, train: int, val: int, test: int) -> float:
        return predict(
            scaled(candidate.strategy, share, train),
            known,
            train=train,
            val=val,
            test=test,
            classes=len(data.classes),
            batch=options["batch"],
            augment=candidate.augment,
            flip=options["flip"],
        ).seconds

    learn = images - hold
    short = [seconds(c, race.SHORT, learn, hold, 0) for c in candidates]
    whole = [seconds(c, 1.0, learn, hold, 0) for c in candidates]
    final = [seconds(c, 1.0, images, 0, len(data.part("test"))) for c in candidates]
    seconds_left = None if math.isinf(left_s) else left_s - max(final)
    planned = race.plan(short, whole, folds=folds, repeats=repeats, seconds=seconds_left)
    return {
        "race": as_data(planned),
        "short_seconds": short,
        "whole_seconds": whole,
        "final_seconds": final,
        "expected_seconds": race.expected_s(planned, short, whole) + max(final),
    }


def _conclude(contest: Contest, folder: Path, over: bool) -> Comparison:
    """Name the winner, train it on everything, and write the result."""
    contest.outcomes = contest.ledger.outcomes()
    verdict, answers = _judged(contest)
    place = verdict.winner if verdict else contest.leader()
    if place is None:
        raise UsageError(
            f"Not one run fits into the time: the cheapest is expected to take "
            f"{min(contest.short_s) + min(contest.final_s):.0f} s. Give more --minutes, or fewer images."
        )
    run = _train_winner(contest, contest.candidates[place])
    standings = _standings(contest, answers)
    result = {
        "winner": str(contest.candidates[place].strategy),
        "augment": contest.candidates[place].augment,
        "separated": bool(verdict and verdict.separated),
        "finished": over,
        "repeats": len({task.cell.repeat for task in contest.outcomes if task.share == 1.0}),
        "folds": contest.race.folds,
        "metric": contest.options["metric"],
        "standings": standings,
        "accuracy": run.accuracy,
        "low": run.low,
        "high": run.high,
        "test_looks": run.test_looks,
        "seconds": contest.clock.spent_s,
        "budget_seconds": contest.clock.limit_s,
        "model": contest.backbone.name,
        "study": str(contest.study.path),
        "run": str(run.folder.path.relative_to(contest.study.path)),
        "differences": _differences(contest, verdict),
    }
    result["verdict"] = verdict_lines(result)
    places.write_atomically(folder / "comparison.json", json.dumps(plain(result), indent=1).encode())
    return Comparison(plain(result), folder, contest.study, run)


def _judged(contest: Contest) -> tuple[Verdict | None, dict[int, Held]]:
    """The verdict among those seen on every repeat; none where fewer than two are."""
    scores = {task: float(outcome["score"]) for task, outcome in contest.outcomes.items()}
    repeated = contest.race.repeated(scores)
    answers = gather(contest.data, contest.study.path, contest.outcomes, repeated)
    if len(repeated) < 2:
        return None, answers
    return judge(answers, dict(enumerate(contest.whole_s)), contest.options["metric"], contest.seed), answers


def _train_winner(contest: Contest, winner: Candidate) -> Run:
    """Train on train and val together, everything that was chosen held fixed; the test part is read here."""
    samples = tuple(
        replace(sample, split="train" if sample.split == "val" else sample.split)
        for sample in contest.data.samples
    )
    everything = replace(contest.data, samples=samples)
    run = train(
        contest.backbone,
        everything,
        winner.strategy,
        study=sub_study(contest.study, everything),
        seed=contest.seed,
        augment=winner.augment,
        tell=contest.tell,
        **contest.options,
    )
    answer_by(contest.study, run, "the winner of the comparison, trained on train and val")
    return run


def _standings(contest: Contest, answers: Mapping[int, Held]) -> list[dict[str, Any]]:
    """Return how far each candidate came and how it did there, the best first."""
    found = []
    for place, candidate in enumerate(contest.candidates):
        mine = {task: o for task, o in contest.outcomes.items() if task.candidate == place}
        share = max((task.share for task in mine), default=0.0)
        there = [o for task, o in mine.items() if task.share == share]
        row: dict[str, Any] = {
            "strategy": str(candidate.strategy),
            "augment": candidate.augment,
            "runs": len(mine),
            "share": share,
            "repeats": len({task.cell.repeat for task in mine if task.share == 1.0}),
            "score": _mean([o["score"] for o in there]),
            "accuracy": _mean([o["accuracy"] for o in there]),
            "low": None,
            "high": None,
            "seconds": sum(o["seconds"] for o in mine.values()),
            "run_seconds": _mean([o["seconds"] for o in there]),
            "predicted_seconds": contest.whole_s[place],
        }
        if place in answers:
            row["accuracy"], row["low"], row["high"] = answers[place].accuracy_interval()
        found.append(row)
    return sorted(found, key=lambda r: (-r["repeats"], -r["share"], -(r["score"] if r["runs"] else 0.0)))


def _differences(contest: Contest, verdict: Verdict | None) -> list[dict[str, Any]]:
    """Return the leader minus each other that was repeated."""
    if verdict is None:
        return []
    names = [str(candidate.strategy) for candidate in contest.candidates]
    return [
        {
            "leader": names[verdict.leader],
            "other": names[other],
            "mean": found.mean,
            "low": found.low,
            "high": found.high,
            "separated": found.separated,
        }
        for other, found in verdict.differences.items()
    ]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
