"""The end of a comparison: name the winner, train it on everything, read the test part once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from frostline import familiar, looks, metrics, places, sentences
from frostline.best import best_of
from frostline.comparison import cells, halfway
from frostline.comparison.asked import REPEATS, Asked
from frostline.comparison.candidates import Candidate
from frostline.comparison.contest import Contest, OutOfTime, sub_study
from frostline.comparison.evidence import evidence
from frostline.comparison.halfway import Halfway
from frostline.comparison.held import gather, longest, write_answers
from frostline.comparison.judging import Held, Verdict, judge, optimism, shallowest
from frostline.comparison.ledger import Outcome
from frostline.comparison.race import Task
from frostline.comparison.words import titled, verdict_lines
from frostline.contenders import COMPARISON, OUT_OF_FOLD
from frostline.errors import UsageError
from frostline.images import Images
from frostline.record import Study, plain
from frostline.reporting import notebook
from frostline.store import Store
from frostline.training import Run, below_of, train

TESTED = ("accuracy", "low", "high", *metrics.BALANCE, "test_looks")  # of the winner, where it was tested


class NoTime(UsageError):
    """Not one run fits into the time."""


@dataclass(frozen=True)
class Comparison:
    """What was compared, how each did, and who won; `run` is the winner trained on everything.

    `result` is what `comparison.json` holds: `standings` (one for each candidate), `winner`, `separated`,
    `verdict` (sentences), `seconds`, `budget_seconds`; and `answering`, whom `predict` asks now.
    """

    result: dict[str, Any]
    folder: Path
    study: Study
    run: Run
    again: bool = False  # all of it had been finished before, and was read back

    def __getattr__(self, name: str) -> Any:
        result = self.__dict__.get("result", {})
        if name in result:
            return result[name]
        raise AttributeError(f"A comparison has no {name!r}. It has {', '.join(result)}.")

    def __repr__(self) -> str:
        """Two lines: who won, and what that is worth."""
        tried = f"{self.strategies_tried} tried in {sentences.counted(self.runs, 'run')}"
        first = f"<Comparison: {titled(self.result)} of {tried}; in {self.study.path}"
        return f"{first}\n{sentences.accuracy(self.headline)}>"

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


def read_ended(folder: Path) -> dict[str, Any] | None:
    """Return the outcome that an earlier call left in a comparison's folder; `None` where there is none."""
    try:
        return dict(json.loads((folder / COMPARISON).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # what is damaged is written anew
        return None


def conclude(
    asked: Asked, contest: Contest, over: bool, ended: Mapping[str, Any] | None = None
) -> Comparison:
    """Name the winner, train it on everything, and write the result.

    `ended` is the outcome of an earlier call, where this one has made no run for the race.
    """
    contest.outcomes = contest.ledger.outcomes()
    verdict, answers = _judged(asked, contest)
    place = verdict.winner if verdict else contest.leader()
    if place is None:
        raise NoTime(
            f"Not one run fits into the time: the cheapest is expected to take "
            f"{min(contest.short_s) + min(contest.final_s):.0f} s. Give more --minutes, or fewer images."
        )
    mine = answers.get(place) or gather(contest.data, asked.study.path, contest.outcomes, [place])[place]
    winner = asked.candidates[place]
    backbone = asked.backbones[winner.model]
    asked.study.write("backbone.json", backbone.as_dict())
    back = _gone_back(asked, contest, place, mine)
    held_out = _held_out(asked, back.held if back else mine, answers, contest.race.folds)
    share = back.share if back else None
    run, whole = _shipped(asked, contest, place, held_out["temperature"], share)
    if back and not whole:  # what answers is a run on a fold, as it ended
        asked.say("What answers is a run on a fold as it ended: it does not go back.")
        back = share = None
        held_out = _held_out(asked, mine, answers, contest.race.folds)
    held_out["share"] = _share(contest, place)
    standings = _standings(asked, contest, answers)
    _leave_looks(asked, contest, place, share)
    _leave_familiar(asked, contest, place, run, share)
    again = ended is not None and run.again
    seen = bool(_repeats(contest, place)) and _share(contest, place) == 1.0
    result = {
        "winner": str(winner.strategy),
        "augment": winner.augment,
        "separated": bool(
            verdict and verdict.separated and asked.repeats >= REPEATS and (over or not asked.thorough)
        ),
        "finished": over,
        "cuts": asked.thorough,
        "left_out": [str(asked.candidates[one]) for one in contest.race.left_out],
        "repeats": _repeats(contest, place),
        "folds": contest.race.folds,
        "metric": asked.options["metric"],
        "standings": standings,
        "strategies_tried": sum(row["runs"] > 0 for row in standings),
        "runs": sum(row["runs"] for row in standings),
        "differences": _differences(contest, verdict),
        "out_of_fold": held_out,
        **({} if back is None else {"interpolation": back.about}),
        "every_image": whole,
        **{key: run.result[key] if whole else None for key in TESTED},
        "seconds": ended["seconds"] if ended and again else contest.clock.spent_s,
        "budget_seconds": contest.clock.limit_s,
        "ended": (ended if ended and again else {}).get("ended") or datetime.now(UTC).isoformat(),
        "model": backbone.name,
        **({} if asked.alone else {"models": list(asked.backbones)}),
        "asked": _asked(asked),
        "joined": [str(one) for one in asked.earlier.joined],
        "apart": [one.as_dict() for one in asked.earlier.apart],
        "judged": evidence(asked, contest.race.folds, back.held if back else mine, seen),
        "study": str(asked.study.path),
        "run": str(run.folder.path.relative_to(asked.study.path)),
    }
    result["headline"] = _headline(result, run.result, len(cells.pool(asked.data)))
    result["verdict"] = verdict_lines(result)
    places.write_atomically(asked.folder / COMPARISON, json.dumps(plain(result), indent=1).encode())
    best = best_of(asked.study)
    answers_by = {"run": best.folder.name, "why": best.why, "winner": best.folder.path == run.folder.path}
    told = {**result, "answering": answers_by, "again": again}
    return Comparison(plain(told), asked.folder, asked.study, run, again)


def _headline(result: dict[str, Any], run: dict[str, Any], pool: int) -> dict[str, Any]:
    """The one accuracy of the model that answers, with what it must not be read without.

    It is the test part's where there is one, else the folds'. Every place that shows it reads this record.
    """
    tested = result["accuracy"] is not None
    figures = {**run, **result} if tested else result["out_of_fold"]
    kind = "test part" if tested else "out of fold" if figures["share"] == 1.0 else "short runs"
    return {
        **{key: figures.get(key) for key in ("accuracy", "low", "high", *metrics.BELIEVED, *metrics.BALANCE)},
        "basis": kind,
        "images": run["n_test"] if tested else figures["images"],
        "pool": pool,
        "folds": result["folds"],
        "optimism": None if tested else figures["optimism"],
        "test_looks": result["test_looks"],
    }


def _gone_back(asked: Asked, contest: Contest, place: int, mine: Held) -> Halfway | None:
    """How far the winner goes back, where that was asked for and there is something to go back to."""
    if asked.interpolate is None or not len(mine.images):
        return None
    if not halfway.can(asked.candidates[place]):
        asked.say(f"{asked.candidates[place]} does not go back: nothing lies between it and a probe.")
        return None
    return halfway.choose(asked, contest, place, mine)


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
        "strategies": [*asked.named["strategies"], *(str(one.strategy) for one in asked.earlier.joined)],
        **({} if asked.interpolate is None else {"interpolate": asked.interpolate}),
        **{key: value for key, value in asked.options.items() if key not in ("threads", "workers")},
    }


def _judged(asked: Asked, contest: Contest) -> tuple[Verdict | None, dict[int, Held]]:
    """The verdict among those seen on every repeat; none where fewer than two are.

    Thaws that the time cut short are judged on the cells that all of them have been seen on.
    """
    outcomes = contest.outcomes
    repeated = contest.race.repeated({task: float(found["score"]) for task, found in outcomes.items()})
    if asked.thorough and len(repeated) < len(contest.candidates):
        outcomes = _of_all(contest)
        repeated = sorted({task.candidate for task in outcomes})
    answers = gather(contest.data, contest.study.path, outcomes, repeated)
    if len(repeated) < 2:
        return None, answers
    seconds = dict(enumerate(contest.whole_s))
    found = judge(answers, seconds, asked.options["metric"], asked.seed)
    return (shallowest(found) if asked.thorough else found), answers


def _of_all(contest: Contest) -> dict[Task, Outcome]:
    """Return the runs on cells that every candidate has been seen on."""
    everyone = range(len(contest.candidates))
    return {
        task: found
        for task, found in contest.outcomes.items()
        if all(replace(task, candidate=one) in contest.outcomes for one in everyone)
    }


def _held_out(asked: Asked, mine: Held, answers: Mapping[int, Held], folds: int) -> dict[str, Any]:
    """What the winner's runs say of images they had not learned from, and the table of their answers.

    `accuracy` and its interval are lowered by the optimism of having been picked as the best. The interval is
    of a new model's accuracy on new images, as the standings' are.
    """
    if not len(mine.images):
        figures = ("accuracy", "low", "high", "optimism", *metrics.BELIEVED, *metrics.BALANCE)
        return {**dict.fromkeys(figures), "images": 0, "temperature": 1.0}
    spread = cells.spread_of_folds(folds)
    accuracy, low, high = mine.accuracy_interval(spread)
    lead = optimism(answers, "accuracy", asked.seed)
    write_answers(asked.folder / OUT_OF_FOLD, asked.data, mine)
    assert mine.logits is not None
    believed = metrics.believed(
        mine.targets, mine.probabilities, mine.units, images=mine.images, spread=spread
    )
    learned = np.bincount(asked.data.targets(cells.pool(asked.data)), minlength=len(asked.data.classes))
    guesses = mine.probabilities.argmax(axis=1)
    return {
        **believed,
        **metrics.balance(asked.data.classes, mine.targets, guesses, learned, mine.images),
        "images": len(np.unique(mine.images)),
        "accuracy": accuracy - lead,
        "low": max(0.0, low - lead),
        "high": high - lead,
        "optimism": lead,
        "temperature": metrics.fit_temperature(mine.logits, mine.targets),
    }


def _leave_looks(asked: Asked, contest: Contest, place: int, share: float | None) -> None:
    """Leave pictures of the winner's worst answers out of fold, each mapped by the model that gave it."""
    table, backbone = asked.folder / OUT_OF_FOLD, asked.backbones[asked.candidates[place].model]
    if table.is_file():
        models = halfway.models(asked, contest, place, longest(contest.outcomes, place), share)
        looks.leave(asked.folder, table, backbone, asked.data, models)


def _leave_familiar(asked: Asked, contest: Contest, place: int, run: Run, share: float | None) -> None:
    """Leave with the winner what it may doubt its answers by: those out of fold, and one fold's distances.

    The model that is taken away has learned from every image. How far new ones lie is told by a run of the
    same strategy that held some out: one of them, since it costs a pass over the images.
    """
    table, known = asked.folder / OUT_OF_FOLD, familiar.read(run.folder.path)
    if known is None or not table.is_file():
        return
    places.write_atomically(run.folder.path / familiar.HELD_OUT, table.read_bytes())
    task = min(longest(contest.outcomes, place), key=lambda t: (t.cell.repeat, t.cell.fold))
    backbone = asked.backbones[asked.candidates[place].model]
    split = cells.split(contest.data, task.cell, asked.seed)
    models = halfway.models(asked, contest, place, [task], share)
    train, held = (Images(split, split.part(p), backbone.preprocessing) for p in ("train", "val"))
    model = models(held.samples[0].path) if held.samples else None
    if model is not None and not contest.clock.late:
        folder = Study(asked.study.path).run_at(contest.outcomes[task].get("run"))
        with Store() as store:
            below = below_of(backbone, folder, folder.read("result.json")["cut"], store)
            distances = familiar.distances(backbone, model, below, train, held)
        familiar.write(run.folder.path, familiar.Familiar(known.features, distances))


def _shipped(
    asked: Asked, contest: Contest, place: int, temperature: float, share: float | None
) -> tuple[Run, bool]:
    """Return the winner trained on every image, and whether it is: else the time was up on the way.

    Then the first of the winner's runs that made its figure answers. The other goes on when the command is
    given again with more time.
    """

    def tell(what: str, done: int, total: int) -> None:
        if contest.clock.late and what != "decoding":  # a finished run only asks whether its images are sound
            raise OutOfTime
        if asked.tell:
            asked.tell(what, done, total)

    try:
        run = _train_winner(replace(asked, tell=tell), asked.candidates[place], temperature, share)
    except OutOfTime:
        task = min(longest(contest.outcomes, place), key=lambda t: (t.cell.repeat, t.cell.fold))
        folder = asked.study.run_at(contest.outcomes[task].get("run"))
        split = Study(folder.path.parents[1])
        return Run(
            folder.read("result.json"),
            folder,
            split,
            again=True,
            backbone=asked.backbones[asked.candidates[place].model],
        ), False
    return run, True


def _train_winner(asked: Asked, winner: Candidate, temperature: float, share: float | None) -> Run:
    """Train on train and val together, everything that was chosen held fixed; the test part is read here.

    No image is left to fit the temperature on, so it is that of the answers out of fold.
    """
    samples = tuple(
        replace(sample, split="train" if sample.split == "val" else sample.split)
        for sample in asked.data.samples
    )
    everything = replace(asked.data, samples=samples)
    return train(
        asked.backbones[winner.model],
        everything,
        winner.strategy,
        study=sub_study(asked.study, everything),
        seed=asked.seed,
        augment=winner.augment,
        temperature=temperature,
        interpolate=None if share == 1.0 else share,
        tracker=asked.trackers,
        tell=asked.tell,
        **asked.options,
    )


def _standings(asked: Asked, contest: Contest, answers: Mapping[int, Held]) -> list[dict[str, Any]]:
    """Return how far each candidate came and how it did there, the best first.

    The intervals are of a new model's accuracy on new images, like the headline's.
    """
    found, spread = [], cells.spread_of_folds(contest.race.folds)
    for place, candidate in enumerate(contest.candidates):
        mine = {task: o for task, o in contest.outcomes.items() if task.candidate == place}
        tasks = longest(contest.outcomes, place)
        there = [mine[task] for task in tasks]
        row: dict[str, Any] = {
            **({"model": candidate.model} if candidate.model else {}),
            "strategy": str(candidate.strategy),
            "augment": candidate.augment,
            "joined": candidate in asked.earlier.joined,
            "runs": len(mine),
            "share": _share(contest, place),
            "repeats": _repeats(contest, place),
            "cells": len(tasks),
            "score": _mean([o["score"] for o in there]),
            "accuracy": _mean([o["accuracy"] for o in there]),
            "low": None,
            "high": None,
            "seconds": sum(o["seconds"] for o in mine.values()),
            "run_seconds": _mean([o["seconds"] for o in there]),
            "predicted_seconds": contest.whole_s[place],
        }
        held = answers.get(place)
        if held is None and tasks:
            held = gather(contest.data, contest.study.path, contest.outcomes, [place])[place]
        if held is not None and len(held.images):
            row["accuracy"], row["low"], row["high"] = held.accuracy_interval(spread)
        found.append((max((task.share for task in tasks), default=0.0), row))
    best_first = sorted(found, key=lambda r: (-r[1]["repeats"], -r[0], -(r[1]["score"] or 0.0)))
    return [row for _, row in best_first]


def _repeats(contest: Contest, place: int) -> int:
    """Return on how many repeats a candidate was seen with its whole schedule, on every fold of them."""
    seen = Counter(task.cell.repeat for task in longest(contest.outcomes, place) if task.share == 1.0)
    return sum(count == contest.race.folds for count in seen.values())


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
