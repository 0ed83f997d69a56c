"""`compare`: run the race, name the winner, train it on everything, read the test part once."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import filelock

from frostline import looks, metrics, places, rates, tracking
from frostline.augment import Policy
from frostline.backbone import Backbone
from frostline.comparison import cells, race
from frostline.comparison.candidates import Candidate, Strategies, listed, searched
from frostline.comparison.contest import Clock, Contest, as_data, from_data, sub_study
from frostline.comparison.held import fold_models, gather, longest, write_answers
from frostline.comparison.judging import Held, Verdict, judge, optimism, shallowest
from frostline.comparison.ledger import Ledger
from frostline.comparison.words import verdict_lines
from frostline.cost import Rates, predict
from frostline.dataset import Manifest
from frostline.errors import UsageError
from frostline.images import Images, Tell
from frostline.record import Study, digest_of, plain
from frostline.reporting import notebook
from frostline.strategy import NAMED, Strategy, head, linear_probe, scaled, top_k
from frostline.timing import Stopwatch
from frostline.tracking import Trackers
from frostline.training import BATCH, DEFAULT_STUDY, Run, train

REPEATS = 3  # before a winner is named
EVERY = tuple(name for name in NAMED if name != "scratch")  # what "all" means


class NoTime(UsageError):
    """Not one run fits into the time."""


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

    def _repr_html_(self) -> str:
        """A table, in a notebook."""
        shown = ("model", "strategy", "accuracy", "low", "high", "run_seconds", "repeats")
        rows = [{key: row[key] for key in shown if key in row} for row in self.result["standings"]]
        return notebook.table_html("Comparison", rows, self.result["verdict"])

    def to_pandas(self) -> Any:
        """The standings, a row for each strategy. Raises `UsageError` where pandas is not installed."""
        return notebook.frame(self.result["standings"])

    def plot(self) -> notebook.Plot:
        """Draw accuracy against seconds."""
        return notebook.standings_plot(self.result["standings"], self.result["winner"], self.result["model"])


@dataclass(frozen=True)
class Asked:
    """Everything that was asked for in one call. `options` are those of `train`, the same for every run."""

    backbones: Mapping[str, Backbone]  # by a candidate's `model`: its name, empty where there is one alone
    data: Manifest
    candidates: list[Candidate]
    study: Study
    minutes: float | None
    repeats: int
    thorough: bool  # every candidate on every repeat, and the shallowest thaw wins where it isn't separated
    database: str | None
    seed: int
    named: dict[str, Any]  # strategies and search, as they were asked for
    options: dict[str, Any]
    trackers: Trackers
    watch: Stopwatch
    tell: Tell | None
    say: Callable[[str], None]

    @property
    def alone(self) -> bool:
        """Whether one network races alone, by its strategies."""
        return "" in self.backbones

    @property
    def folder(self) -> Path:
        """Where the plan, the trials and the outcome lie: by what makes two comparisons the same.

        With more minutes it is still the same one: the race is planned anew, and what was run counts.
        """
        network = {
            name: {"model": one.digest, "preprocessing": one.preprocessing.as_dict()}
            for name, one in self.backbones.items()
        }
        what = {
            "candidates": [c.as_list() for c in self.candidates],
            **(network[""] if self.alone else {"models": network}),
            "repeats": self.repeats,
            "seed": self.seed,
            "thorough": self.thorough,
            **{key: value for key, value in self.options.items() if key not in ("threads", "workers")},
        }
        return self.study.path / "comparisons" / digest_of(what)[:12]


def compare(
    backbone: Backbone | Sequence[Backbone],
    data: Manifest,
    strategies: Strategies | Mapping[str, Strategies] = EVERY,
    *,
    minutes: float | None = None,
    repeats: int = REPEATS,
    search: Sequence[str] = (),
    draws: int = 0,
    cuts: bool = False,
    least: int = 2,
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
    tracker: str | Iterable[str] | Trackers | None = None,
    watch: Stopwatch | None = None,
    tell: Tell | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Race strategies on the images that may be learned from, and train the winner on all of them.

    Every repeat is a new train/val split, order, initialisation and augmentation, the same for all
    strategies; on fewer than 2,000 images it is five folds, so that every image is held out once. With
    `minutes`, the race is planned to fit, and ends in time. `draws` variants over what `search` names (of
    `lr`, `layer_decay`, `weight_decay`, `augment`) join it. The test part is read once, for the winner.

    Where several backbones are given, each with each strategy races as one candidate; `strategies` may then
    be a mapping from a backbone's name to its own. Rows of the outcome name their `model`.

    With `cuts`, the strategies are a thaw at every stage, all of them repeated, and the winner is the
    shallowest that is not separated from the best: how many layers to freeze, answered by experiment. With
    `least` 1 a single strategy will do: how good is it?

    Called again, it goes on: finished runs are kept. Several processes may call it at once, on one study
    folder; `database` is the URL of Optuna's storage where SQLite on that folder won't do. `tracker` follows
    every run, as in `train`. `watch` says when the minutes began.
    Raises `UsageError`, `DataError`, `ModelError`, `StudyError` or `TrainingError`.
    """
    trackers = tracking.asked(tracker, study)
    watch = watch or Stopwatch()
    data = data.checked(tell)
    if repeats < 1:
        raise UsageError(f"repeats must be at least 1, found {repeats}.")
    backbones = _by_name(backbone)
    candidates = listed(_strategies(backbones, strategies, cuts), augment, least)
    named = list(dict.fromkeys(str(candidate.strategy) for candidate in candidates))
    candidates += searched(candidates, search, draws, seed)
    kept = Study.open(study, data=data.digest, split=data.split_digest, test=data.test_digest)
    data.write(kept.path / "manifest.jsonl")
    kept.write("backbone.json", next(iter(backbones.values())).as_dict())
    asked = Asked(
        backbones=backbones,
        data=data,
        candidates=candidates,
        study=kept,
        minutes=minutes,
        repeats=repeats,
        thorough=cuts,
        database=database,
        seed=seed,
        named={"strategies": named, **({"search": list(search), "draws": draws} if draws else {})},
        options={
            "metric": metric,
            "flip": flip,
            "imbalance": imbalance,
            "batch": batch,
            "exact": exact,
            "precision": precision,
            "threads": threads,
            "workers": workers,
        },
        trackers=trackers,
        watch=watch,
        tell=tell,
        say=say,
    )
    contest = _contest(asked)
    over = contest.run()
    with filelock.FileLock(asked.folder / "end.lock"):  # who comes second finds the winner trained
        return _conclude(asked, contest, over)


def _by_name(backbone: Backbone | Sequence[Backbone]) -> dict[str, Backbone]:
    """Return the networks by name, one alone under an empty one. Raises `UsageError` on equal names."""
    several = [backbone] if isinstance(backbone, Backbone) else list(backbone)
    if len(several) == 1:
        return {"": several[0]}
    found = {one.name: one for one in several}
    if len(found) != len(several) or not found:
        names = ", ".join(one.name for one in several) or "none"
        raise UsageError(f"Backbones that race need names that differ, found {names}.")
    return found


def _strategies(
    backbones: Mapping[str, Backbone], strategies: Strategies | Mapping[str, Strategies], cuts: bool
) -> Strategies | Mapping[str, Strategies]:
    """Return what races, for each network by name where there are several."""
    if cuts:
        if len(backbones) > 1:
            raise UsageError("cuts asks how many layers of one network to freeze; give one backbone.")
        return _thaws(*backbones.values())
    if "" in backbones or isinstance(strategies, Mapping):
        if isinstance(strategies, Mapping) and set(strategies) != set(backbones):
            raise UsageError(
                f"Found strategies for {', '.join(strategies)}; expected some for each of "
                f"{', '.join(backbones)}."
            )
        return strategies
    named = list(strategies)
    return dict.fromkeys(backbones, named)


def _thaws(backbone: Backbone) -> list[Strategy]:
    """Return a strategy for each offered cut, the shallowest first."""
    below = len(backbone.stages) - 1
    thawed = [below - cut.index for cut in reversed(backbone.cuts)]
    return [linear_probe(), head(), *(top_k(k) for k in thawed if k > 0)]


def _contest(asked: Asked) -> Contest:
    """Plan the race, or read the plan of an earlier call with as many minutes."""
    asked.folder.mkdir(parents=True, exist_ok=True)
    clock = Clock.begin(asked.minutes, asked.folder / "clock.json", asked.watch)
    file = asked.folder / "plan.json"
    plan = json.loads(file.read_text()) if file.exists() else {}
    if not plan or plan["minutes"] != asked.minutes:
        known = {name: _rates(asked, one) for name, one in asked.backbones.items()}
        plan = plain(_plan(asked, known, clock.left_s))
        places.write_atomically(file, json.dumps(plan, indent=1).encode())
    return Contest(
        backbones=asked.backbones,
        data=asked.data,
        study=asked.study,
        candidates=asked.candidates,
        race=from_data(plan["race"]),
        short_s=plan["short_seconds"],
        whole_s=plan["whole_seconds"],
        final_s=plan["final_seconds"],
        ledger=Ledger.open(asked.folder.name, asked.folder, asked.database),
        clock=clock,
        seed=asked.seed,
        options=asked.options,
        trackers=asked.trackers,
        tell=asked.tell,
        say=asked.say,
    )


def _rates(asked: Asked, backbone: Backbone) -> Rates:
    data, options = asked.data, asked.options
    policy = Policy(asked.candidates[0].augment)
    images = Images(data, data.part("train"), backbone.preprocessing, policy=policy)
    return rates.measure(
        backbone, images, batch=options["batch"], threads=options["threads"], classes=len(data.classes)
    )


def _plan(asked: Asked, known: Mapping[str, Rates], left_s: float) -> dict[str, Any]:
    """What is fixed before the first run: the rungs, and what each run is expected to take."""
    data, candidates = asked.data, asked.candidates
    folds, images = cells.folds_of(data, asked.seed), len(cells.pool(data))
    hold = len(data.part("val")) if "val" in data.given else images // cells.FOLDS

    def seconds(candidate: Candidate, share: float, train: int, val: int, test: int) -> float:
        return predict(
            scaled(candidate.strategy, share, train),
            known[candidate.model],
            train=train,
            val=val,
            test=test,
            classes=len(data.classes),
            batch=asked.options["batch"],
            augment=candidate.augment,
            flip=asked.options["flip"],
        ).seconds

    learn = images - hold
    short = [seconds(c, race.SHORT, learn, hold, 0) for c in candidates]
    whole = [seconds(c, 1.0, learn, hold, 0) for c in candidates]
    final = [seconds(c, 1.0, images, 0, len(data.part("test"))) for c in candidates]
    if asked.thorough:
        planned = race.everything(len(candidates), folds, asked.repeats)
    else:
        left = None if math.isinf(left_s) else left_s - max(final)
        planned = race.plan(short, whole, folds=folds, repeats=asked.repeats, seconds=left)
    return {
        "minutes": asked.minutes,
        "race": as_data(planned),
        "short_seconds": short,
        "whole_seconds": whole,
        "final_seconds": final,
        "expected_seconds": race.expected_s(planned, short, whole) + max(final),
    }


def _conclude(asked: Asked, contest: Contest, over: bool) -> Comparison:
    """Name the winner, train it on everything, and write the result."""
    contest.outcomes = contest.ledger.outcomes()
    verdict, answers = _judged(asked, contest)
    place = verdict.winner if verdict else contest.leader()
    if place is None:
        raise NoTime(
            f"Not one run fits into the time: the cheapest is expected to take "
            f"{min(contest.short_s) + min(contest.final_s):.0f} s. Give more --minutes, or fewer images."
        )
    mine = answers.get(place) or gather(contest.data, asked.study.path, contest.outcomes, [place])[place]
    held_out = _held_out(asked, mine, answers)
    held_out["share"] = _share(contest, place)
    winner = asked.candidates[place]
    backbone = asked.backbones[winner.model]
    asked.study.write("backbone.json", backbone.as_dict())
    run = _train_winner(asked, winner, held_out["temperature"])
    _leave_looks(asked, contest, place)
    result = {
        "winner": str(winner.strategy),
        "augment": winner.augment,
        "separated": bool(verdict and verdict.separated and asked.repeats >= REPEATS),
        "finished": over,
        "cuts": asked.thorough,
        "repeats": len({t.cell.repeat for t in longest(contest.outcomes, place) if t.share == 1.0}),
        "folds": contest.race.folds,
        "metric": asked.options["metric"],
        "standings": _standings(contest, answers),
        "differences": _differences(contest, verdict),
        "out_of_fold": held_out,
        "accuracy": run.accuracy,
        "low": run.low,
        "high": run.high,
        "test_looks": run.test_looks,
        "seconds": contest.clock.spent_s,
        "budget_seconds": contest.clock.limit_s,
        "model": backbone.name,
        **({} if asked.alone else {"models": list(asked.backbones)}),
        "asked": _asked(asked),
        "study": str(asked.study.path),
        "run": str(run.folder.path.relative_to(asked.study.path)),
    }
    result["verdict"] = verdict_lines(result)
    places.write_atomically(asked.folder / "comparison.json", json.dumps(plain(result), indent=1).encode())
    return Comparison(plain(result), asked.folder, asked.study, run)


def _asked(asked: Asked) -> dict[str, Any]:
    """What the call asked for, so that a report can say how to repeat it."""
    sizes = {one.preprocessing.size for one in asked.backbones.values()}
    names = [one.name for one in asked.backbones.values()]
    return {
        **({"model": names[0]} if asked.alone else {"models": names}),
        "size": sizes.pop() if len(sizes) == 1 else None,
        "minutes": asked.minutes,
        "repeats": asked.repeats,
        "cuts": asked.thorough,
        "seed": asked.seed,
        "augment": asked.candidates[0].augment,
        **asked.named,
        **{key: value for key, value in asked.options.items() if key not in ("threads", "workers")},
    }


def _judged(asked: Asked, contest: Contest) -> tuple[Verdict | None, dict[int, Held]]:
    """The verdict among those seen on every repeat; none where fewer than two are."""
    scores = {task: float(outcome["score"]) for task, outcome in contest.outcomes.items()}
    repeated = contest.race.repeated(scores)
    answers = gather(contest.data, contest.study.path, contest.outcomes, repeated)
    if len(repeated) < 2:
        return None, answers
    seconds = dict(enumerate(contest.whole_s))
    found = judge(answers, seconds, asked.options["metric"], asked.seed)
    return (shallowest(found) if asked.thorough else found), answers


def _held_out(asked: Asked, mine: Held, answers: Mapping[int, Held]) -> dict[str, Any]:
    """What the winner's runs say of images they had not learned from, and the table of their answers.

    `accuracy` and its interval are lowered by the optimism of having been picked as the best.
    """
    if not len(mine.images):
        return {"accuracy": None, "low": None, "high": None, "optimism": None, "temperature": 1.0}
    accuracy, low, high = mine.accuracy_interval()
    lead = optimism(answers, "accuracy", asked.seed)
    write_answers(asked.folder / "out-of-fold.csv", asked.data, mine)
    assert mine.logits is not None
    return {
        "accuracy": accuracy - lead,
        "low": max(0.0, low - lead),
        "high": high - lead,
        "optimism": lead,
        "temperature": metrics.fit_temperature(mine.logits, mine.targets),
    }


def _leave_looks(asked: Asked, contest: Contest, place: int) -> None:
    """Leave pictures of the winner's worst answers out of fold, each mapped by the model that gave it."""
    table, backbone = asked.folder / "out-of-fold.csv", asked.backbones[asked.candidates[place].model]
    if table.is_file():
        models = fold_models(
            backbone,
            asked.candidates[place].strategy,
            len(asked.data.classes),
            asked.study.path,
            [contest.outcomes[task] for task in longest(contest.outcomes, place)],
        )
        looks.leave(asked.folder, table, backbone, asked.data, models)


def _train_winner(asked: Asked, winner: Candidate, temperature: float) -> Run:
    """Train on train and val together, everything that was chosen held fixed; the test part is read here.

    No image is left to fit the temperature on, so it is that of the answers out of fold.
    """
    samples = tuple(
        replace(sample, split="train" if sample.split == "val" else sample.split)
        for sample in asked.data.samples
    )
    everything = replace(asked.data, samples=samples)
    run = train(
        asked.backbones[winner.model],
        everything,
        winner.strategy,
        study=sub_study(asked.study, everything),
        seed=asked.seed,
        augment=winner.augment,
        temperature=temperature,
        tracker=asked.trackers,
        tell=asked.tell,
        **asked.options,
    )
    asked.study.answer_by(run.folder, "the winner of the comparison, trained on train and val")
    return run


def _standings(contest: Contest, answers: Mapping[int, Held]) -> list[dict[str, Any]]:
    """Return how far each candidate came and how it did there, the best first."""
    found = []
    for place, candidate in enumerate(contest.candidates):
        mine = {task: o for task, o in contest.outcomes.items() if task.candidate == place}
        tasks = longest(contest.outcomes, place)
        there = [mine[task] for task in tasks]
        row: dict[str, Any] = {
            **({"model": candidate.model} if candidate.model else {}),
            "strategy": str(candidate.strategy),
            "augment": candidate.augment,
            "runs": len(mine),
            "share": _share(contest, place),
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
        found.append((max((task.share for task in tasks), default=0.0), row))
    best_first = sorted(found, key=lambda r: (-r[1]["repeats"], -r[0], -(r[1]["score"] or 0.0)))
    return [row for _, row in best_first]


def _share(contest: Contest, place: int) -> float:
    """Return the largest share of its epochs that a candidate got to; 0 without a run."""
    tasks = longest(contest.outcomes, place)
    if tasks and not contest.candidates[place].strategy.trains:
        return 1.0  # a head that is solved for has no epochs: its short run is a whole one
    return tasks[0].share if tasks else 0.0


def _differences(contest: Contest, verdict: Verdict | None) -> list[dict[str, Any]]:
    """Return the leader minus each other that was repeated."""
    if verdict is None:
        return []
    names = [str(candidate) for candidate in contest.candidates]
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
