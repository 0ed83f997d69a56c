"""The end of a comparison: name the winner, train it on everything, read the test part once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from frostline import metrics, sentences
from frostline.config import REPEATS
from frostline.errors import UsageError
from frostline.reports import notebook
from frostline.selection import resampling, weight_interpolation
from frostline.selection.candidates import Candidate
from frostline.selection.evidence import evidence
from frostline.selection.out_of_fold import gather, longest, write_answers
from frostline.selection.ranking import settle, wanted_folds, whole_repeats, without_rest
from frostline.selection.request import CompareRequest
from frostline.selection.runner import PLAN, Contest, OutOfTime, sub_study
from frostline.selection.significance import Held, Verdict, optimism
from frostline.selection.text import titled, verdict_lines
from frostline.selection.weight_interpolation import Halfway
from frostline.selection.winner_artifacts import leave_familiar, leave_looks
from frostline.studies.best_run import best_of
from frostline.studies.contenders import COMPARISON, OUT_OF_FOLD
from frostline.studies.figures import Figure, Rows
from frostline.studies.study_folder import Study, plain
from frostline.system import directories
from frostline.training import Run, refusal, train

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

    winner = Figure[str]("The winner's strategy.")
    augment = Figure[str]("Its augmentation.")
    separated = Figure[bool]("Whether it is significantly better than the next one.")
    finished = Figure[bool]("Whether everything planned was run.")
    ended_because = Figure[str]("Why no more was run.")
    cuts = Figure[bool]("Whether the candidates were cuts.")
    left_out = Figure[list[str]]("Candidates that no run was made of.")
    promising = Figure[list[str]]("Candidates ahead on the folds they were seen on, which are not all.")
    repeats = Figure[int]("Repeats that every judged candidate has.")
    folds = Figure[int]("Folds of a repeat.")
    judged_on_folds = Figure[int]("Folds of a repeat that candidates were judged on.")
    metric = Figure[str]("What decided.")
    standings = Figure[Rows]("One row a candidate, the best first.")
    strategies_tried = Figure[int]("Candidates that were run.")
    runs = Figure[int]("Runs of all of them.")
    differences = Figure[Rows]("The winner's lead over each other candidate, with interval.")
    out_of_fold = Figure[dict[str, Any]]("The winner's figures on images that its runs held out.")
    interpolation = Figure[dict[str, Any] | None]("How far back to the pretrained weights, and the points.")
    every_image = Figure[bool]("Whether the winner was trained on every image that may be learned from.")
    accuracy = Figure[float | None]("Share of test images predicted correctly, 0–1; None without any.")
    low = Figure[float | None]("Lower end of its 95 % interval.")
    high = Figure[float | None]("Upper end of its 95 % interval.")
    balanced_accuracy = Figure[float | None]("Mean over classes of the share predicted correctly.")
    majority_class = Figure[str | None]("The class with most of those images.")
    majority_share = Figure[float | None]("Its share of them: what always predicting it would score.")
    worst_class = Figure[dict[str, Any] | None]("The class with the lowest share predicted correctly.")
    never_asked = Figure[list[str] | None]("Classes without any of those images.")
    class_ratio = Figure[float | None]("Images of the largest training class by those of the smallest.")
    test_looks = Figure[int | None]("Configurations that have read this test part.")
    seconds = Figure[float]("Wall time, those of resumed calls included.")
    budget_seconds = Figure[float | None]("The limit.")
    ended = Figure[str]("When, ISO 8601 in UTC.")
    model = Figure[str]("The winner's backbone.")
    models = Figure[list[str] | None]("All backbones, where there were several.")
    asked = Figure[dict[str, Any]]("What the call was given.")
    joined = Figure[list[Any]]("Candidates that joined from earlier runs.")
    apart = Figure[Rows]("Earlier runs that were not compared, and why.")
    judged = Figure[dict[str, Any]]("How the winner was judged.")
    answering = Figure[dict[str, Any] | None]("The run that `predict` uses now.")
    headline = Figure[dict[str, Any]]("The accuracy to report, with its basis.")
    verdict = Figure[list[str]]("The outcome in sentences.")

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
    request: CompareRequest, contest: Contest, over: bool, ended: Mapping[str, Any] | None = None
) -> Comparison:
    """Name the winner, train it on everything, and write the result.

    `ended` is the outcome of an earlier call, where this one has made no run for the race.
    """
    contest.outcomes = contest.ledger.outcomes()
    contest.settle_depth(request.folder / PLAN)
    found = settle(request, contest)
    if found is None:
        raise NoTime(_no_time(request, contest))
    verdict, answers, place = found.verdict, found.answers, found.winner
    because, promising = contest.ended_because, _promising(contest)
    standings = _standings(request, contest, answers)
    contest, mine = without_rest(contest, place), answers[place]
    winner = request.candidates[place]
    backbone = request.backbones[winner.model]
    request.study.write("backbone.json", backbone.as_dict())
    back = _gone_back(request, contest, place, mine)
    folds = wanted_folds(contest, place)
    held_out = _held_out(request, back.held if back else mine, found.once, folds)
    share = back.share if back else None
    run, whole = _shipped(request, contest, place, held_out["temperature"], share)
    if back and not whole:  # what answers is a run on a fold, as it ended
        request.log("What answers is a run on a fold as it ended: it does not go back.")
        back = share = None
        held_out = _held_out(request, mine, found.once, folds)
    held_out |= _whose(contest, place, mine, folds)
    leave_looks(request, contest, place, share)
    leave_familiar(request, contest, place, run, share)
    again = ended is not None and run.again
    result = {
        "winner": str(winner.strategy),
        "augment": winner.augment,
        "separated": bool(
            verdict and verdict.separated and found.repeats >= REPEATS and (over or not request.thorough)
        ),
        "finished": over,
        "ended_because": because,
        "cuts": request.thorough,
        "left_out": [str(request.candidates[one]) for one in _never_begun(contest)],
        "promising": promising,
        "repeats": found.repeats,
        "folds": contest.race.folds,
        "judged_on_folds": found.depth,
        "metric": request.config.metric,
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
        **({} if request.alone else {"models": list(request.backbones)}),
        "asked": _repeatable(request),
        "joined": [str(one) for one in request.earlier.joined],
        "apart": [one.as_dict() for one in request.earlier.apart],
        "judged": evidence(request, folds, back.held if back else mine, bool(found.repeats)),
        "study": str(request.study.path),
        "run": str(run.folder.path.relative_to(request.study.path)),
    }
    result["headline"] = _headline(result, run.result, len(resampling.pool(request.data)))
    result["verdict"] = verdict_lines(result)
    directories.write_atomically(request.folder / COMPARISON, json.dumps(plain(result), indent=1).encode())
    best = best_of(request.study)
    answers_by = {"run": best.folder.name, "why": best.why, "winner": best.folder.path == run.folder.path}
    told = {**result, "answering": answers_by, "again": again}
    return Comparison(plain(told), request.folder, request.study, run, again)


def _headline(result: dict[str, Any], run: dict[str, Any], pool: int) -> dict[str, Any]:
    """The one accuracy of the model that answers, with what it must not be read without.

    It is the test part's where there is one, else the folds'. Every place that shows it reads this record.
    """
    tested = result["accuracy"] is not None
    figures = {**run, **result} if tested else result["out_of_fold"]
    return {
        **{key: figures.get(key) for key in ("accuracy", "low", "high", *metrics.BELIEVED, *metrics.BALANCE)},
        "basis": "test part" if tested else "out of fold",
        "images": run["n_test"] if tested else figures["images"],
        "pool": pool,
        "folds": result["out_of_fold"]["folds"],
        "optimism": None if tested else figures["optimism"],
        "test_looks": result["test_looks"],
    }


def _gone_back(request: CompareRequest, contest: Contest, place: int, mine: Held) -> Halfway | None:
    """How far the winner goes back, where that was asked for and there is something to go back to."""
    if request.config.interpolate_weights is None or not len(mine.images):
        return None
    if not weight_interpolation.can(request.candidates[place]):
        request.log(f"{request.candidates[place]} does not go back: nothing lies between it and a probe.")
        return None
    return weight_interpolation.choose(request, contest, place, mine)


def _repeatable(request: CompareRequest) -> dict[str, Any]:
    """What the call asked for, so that a report can say how to repeat it."""
    sizes = {one.preprocessing.size for one in request.backbones.values()}
    names = [one.name for one in request.backbones.values()]
    resize = next(iter(request.backbones.values())).source.get("resize")
    return {
        **({"model": names[0]} if request.alone else {"models": names}),
        "size": sizes.pop() if len(sizes) == 1 else None,
        **({} if resize is None else {"resize": resize}),
        "minutes": request.config.minutes,
        "repeats": request.config.repeats,
        "cuts": request.thorough,
        "seed": request.config.seed,
        "augment": request.candidates[0].augment,
        **request.named,
        "strategies": [*request.named["strategies"], *(str(one.strategy) for one in request.earlier.joined)],
        **(
            {}
            if request.config.interpolate_weights is None
            else {"interpolate_weights": request.config.interpolate_weights}
        ),
        **request.options,
    }


def _no_time(request: CompareRequest, contest: Contest) -> str:
    """Say how little time there is, and how much would do."""
    place = min(range(len(contest.candidates)), key=lambda c: contest.whole_s[c] + contest.final_s[c])
    need_s = contest.race.folds * contest.whole_s[place] + contest.final_s[place]
    if contest.terms is not None:
        need_s = contest.board().need_s(place, 1)
    folds = f" on {contest.race.folds} folds" if contest.race.folds > 1 else ""
    what = f"loading, judging {contest.candidates[place]}{folds} and training it on every image"
    return refusal(request.config.minutes or 0.0, contest.clock.watch.seconds + need_s, what)


def _promising(contest: Contest) -> list[dict[str, Any]]:
    """Return who is ahead of who leads on folds that are not all, with how many and how far."""
    if contest.terms is None:
        return []
    board = contest.board()
    return [
        {
            "strategy": str(contest.candidates[place]),
            "folds": sum(task.candidate == place for task in contest.outcomes),
            "ahead": board.ahead(place),
            "beside": str(contest.candidates[board.leader]),
        }
        for place in board.promising
        if board.leader is not None
    ]


def _held_out(request: CompareRequest, mine: Held, answers: Mapping[int, Held], folds: int) -> dict[str, Any]:
    """What the winner's runs say of images they had not learned from, and the table of their answers.

    `accuracy` and its interval are lowered by the optimism of having been picked as the best. The interval is
    of a new model's accuracy on new images, as the standings' are.
    """
    if not len(mine.images):
        figures = ("accuracy", "low", "high", "optimism", *metrics.BELIEVED, *metrics.BALANCE)
        return {**dict.fromkeys(figures), "images": 0, "temperature": 1.0}
    spread = resampling.spread_of_folds(folds)
    accuracy, low, high = mine.accuracy_interval(spread)
    lead = optimism(answers, "accuracy", request.config.seed)
    write_answers(request.folder / OUT_OF_FOLD, request.data, mine)
    assert mine.logits is not None
    believed = metrics.believed(
        mine.targets, mine.probabilities, mine.units, images=mine.images, spread=spread
    )
    learned = np.bincount(
        request.data.targets(resampling.pool(request.data)), minlength=len(request.data.classes)
    )
    guesses = mine.probabilities.argmax(axis=1)
    return {
        **believed,
        **metrics.balance(request.data.classes, mine.targets, guesses, learned, mine.images),
        "images": len(np.unique(mine.images)),
        "accuracy": accuracy - lead,
        "low": max(0.0, low - lead),
        "high": high - lead,
        "optimism": lead,
        "temperature": metrics.fit_temperature(mine.logits, mine.targets),
    }


def _whose(contest: Contest, place: int, mine: Held, folds: int) -> dict[str, Any]:
    """Say what model the figures out of fold are of: the winner's, trained without the images asked about."""
    return {
        "strategy": str(contest.candidates[place].strategy),
        "images": len(np.unique(mine.images)),
        "folds": folds,
        "runs": sorted(str(o["run"]) for t, o in contest.outcomes.items() if t.candidate == place),
    }


def _never_begun(contest: Contest) -> list[int]:
    """Return the places of those without a run."""
    begun = {task.candidate for task in contest.outcomes}
    return [place for place in range(len(contest.candidates)) if place not in begun]


def _shipped(
    request: CompareRequest, contest: Contest, place: int, temperature: float, share: float | None
) -> tuple[Run, bool]:
    """Return the winner trained on every image, and whether it is: else the time was up on the way.

    Then the first of the winner's runs that made its figure answers. The other goes on when the command is
    given again with more time.
    """

    def progress(what: str, done: int, total: int) -> None:
        if contest.clock.late and what != "decoding":  # a finished run only asks whether its images are sound
            raise OutOfTime
        if request.progress:
            request.progress(what, done, total)

    try:
        run = _train_winner(
            replace(request, progress=progress), request.candidates[place], temperature, share
        )
    except OutOfTime:
        task = min(longest(contest.outcomes, place), key=lambda t: (t.cell.repeat, t.cell.fold))
        folder = request.study.run_at(contest.outcomes[task].get("run"))
        split = Study(folder.path.parents[1])
        return Run(
            folder.read("result.json"),
            folder,
            split,
            again=True,
            backbone=request.backbones[request.candidates[place].model],
        ), False
    return run, True


def _train_winner(request: CompareRequest, winner: Candidate, temperature: float, share: float | None) -> Run:
    """Train on train and val together, everything that was chosen held fixed; the test part is read here.

    No image is left to fit the temperature on, so it is that of the answers out of fold.
    """
    samples = tuple(
        replace(sample, split="train" if sample.split == "val" else sample.split)
        for sample in request.data.samples
    )
    everything = replace(request.data, samples=samples)
    return train(
        request.backbones[winner.model],
        everything,
        winner.strategy,
        study=sub_study(request.study, everything),
        config=request.run_config,
        augment=winner.augment,
        temperature=temperature,
        interpolate_weights=None if share == 1.0 else share,
        logger=request.loggers,
        progress=request.progress,
    )


def _standings(
    request: CompareRequest, contest: Contest, answers: Mapping[int, Held]
) -> list[dict[str, Any]]:
    """Return how far each candidate came and how it did there, the best first.

    The intervals are of a new model's accuracy on new images, like the headline's.
    """
    found, repeats = [], whole_repeats(contest)
    for place, candidate in enumerate(contest.candidates):
        mine = {task: o for task, o in contest.outcomes.items() if task.candidate == place}
        tasks = longest(contest.outcomes, place)
        there = [mine[task] for task in tasks]
        row: dict[str, Any] = {
            **({"model": candidate.model} if candidate.model else {}),
            "strategy": str(candidate.strategy),
            "augment": candidate.augment,
            "joined": candidate in request.earlier.joined,
            "runs": len(mine),
            "share": _share(contest, place),
            "repeats": repeats.get(place, 0),
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
            spread = resampling.spread_of_folds(wanted_folds(contest, place))
            row["accuracy"], row["low"], row["high"] = held.accuracy_interval(spread)
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
