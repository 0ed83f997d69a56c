"""Conclude a comparison: name the winner, train it on every image, evaluate it once on the test set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from frostline import metrics
from frostline.config import OF_OPERATING_POINT, REPEATS
from frostline.data import spread_of_folds
from frostline.errors import NoTime
from frostline.progress import Activity, Progress
from frostline.selection import early_stopping, resampling, standings, wise_ft_share
from frostline.selection.candidates import Candidate
from frostline.selection.compare_request import CompareRequest
from frostline.selection.comparison_result import Comparison
from frostline.selection.out_of_fold import longest, write_predictions
from frostline.selection.outcome_text import verdict_lines
from frostline.selection.ranking import Ranking, evaluated_folds, rank
from frostline.selection.significance import HeldOutPredictions, optimism
from frostline.selection.trial_runner import PLAN, ComparisonTimeUp, TrialRunner, sub_study
from frostline.selection.winner_artifacts import write_error_gallery, write_selective_prediction
from frostline.selection.winner_evaluation import evidence
from frostline.selection.wise_ft_share import Interpolation
from frostline.sentences import Basis
from frostline.studies.best_run import predicting_run
from frostline.studies.operating_point import HeldOut, OperatingPoint, OperatingTarget
from frostline.studies.predicting_runs import COMPARISON, OUT_OF_FOLD
from frostline.studies.study_folder import Study, plain
from frostline.system import directories
from frostline.system.deadline import refusal
from frostline.training import Run, threshold_choice, train

TESTED = (
    "accuracy",
    "low",
    "high",
    *metrics.BALANCE,
    "test_evaluations",
)  # figures of the winner on the test set


def conclude(
    request: CompareRequest,
    runner: TrialRunner,
    finished: bool,
    earlier_result: Mapping[str, Any] | None = None,
) -> Comparison:
    """Name the winner, train it on every image and write the result.

    Parameters
    ----------
    request
        Options of the comparison.
    runner
        Its runs.
    finished
        Whether no more runs are left to make.
    earlier_result
        Result of an earlier call, if this one has made no run.

    Returns
    -------
    Comparison
        The result.

    Raises
    ------
    NoTime
        If no candidate was run on every fold.
    """
    runner.outcomes = runner.queue.outcomes()
    runner.settle_depth(request.folder / PLAN)
    ranking = rank(request, runner)
    if ranking is None:
        raise NoTime(_no_time(request, runner))
    verdict, index, predictions = ranking.verdict, ranking.winner, ranking.predictions[ranking.winner]
    ended_because, promising = runner.ended_because, standings.promising(request, runner)
    rows = standings.rows(request, runner, ranking)
    runner = _without_other_runs(runner, ranking)
    winner = request.candidates[index]
    backbone = request.backbones[winner.model]
    request.study.write("backbone.json", backbone.as_dict())
    interpolation = _interpolation(request, runner, index, predictions)
    spread = spread_of_folds(evaluated_folds(runner, index))
    final_predictions = interpolation.predictions if interpolation else predictions
    held_out = _held_out(request, final_predictions, ranking, spread)
    share = interpolation.share if interpolation else None
    stopping = _early_stopping(request, runner, index)
    run, on_every_image = _final_run(request, runner, index, held_out["temperature"], share, stopping)
    if interpolation and not on_every_image:  # the model used is a run on a fold, whose weights stay
        request.progress.log("The model used is a run on a fold: its weights are not interpolated.")
        interpolation, share, final_predictions = None, None, predictions
        held_out = _held_out(request, predictions, ranking, spread)
    held_out |= _evaluated_runs(runner, ranking)
    write_error_gallery(request, runner, index, share)
    write_selective_prediction(request, runner, index, run, share)
    point = _operating_point(
        request,
        run,
        final_predictions,
        held_out["temperature"] if on_every_image else None,
        spread,
    )
    if point is None or point.decision.sentence != run.replaced_rule:  # else the winner keeps its rule
        threshold_choice.tell_of_change(run.folder.name, run.replaced_rule, by_rule=point is not None)
    reused = earlier_result is not None and run.reused
    result = {
        "winner": str(winner.strategy),
        "augment": winner.augment,
        "loads_in": run.result["loads_in"],
        "separated": bool(
            verdict
            and verdict.separated
            and ranking.repeats >= REPEATS
            and (finished or not request.thorough)
        ),
        "finished": finished,
        "ended_because": ended_because,
        "cuts": request.thorough,
        "left_out": [str(request.candidates[other]) for other in _not_started(runner)],
        "promising": promising,
        "repeats": ranking.repeats,
        "folds": runner.schedule.folds,
        "judged_on_folds": ranking.depth,
        "metric": metrics.name_of(request.metric),
        "standings": rows,
        "strategies_tried": sum(row["runs"] > 0 for row in rows),
        "runs": sum(row["runs"] for row in rows),
        "differences": standings.differences(runner, ranking),
        "over_leader": standings.over_leader(request, verdict, index),
        "out_of_fold": held_out,
        **({} if interpolation is None else {"interpolation": interpolation.report}),
        **({} if point is None else {"operating_point": point.as_dict()}),
        **({} if stopping is None else {"early_stopping": stopping}),
        "every_image": on_every_image,
        **{key: run.result[key] if on_every_image else None for key in TESTED},
        "seconds": earlier_result["seconds"] if earlier_result and reused else runner.clock.spent_s,
        "budget_seconds": runner.clock.limit_s,
        "ended": (earlier_result if earlier_result and reused else {}).get("ended")
        or datetime.now(UTC).isoformat(),
        "model": backbone.name,
        **({} if request.single_network else {"models": list(request.backbones)}),
        "options": _repeatable(request),
        "joined": [str(candidate) for candidate in request.earlier.joined],
        "not_compared": [run.as_dict() for run in request.earlier.apart],
        "evaluation": evidence(request, ranking.folds(index), final_predictions, bool(ranking.repeats)),
        "study": str(request.study.path),
        "run": str(run.folder.path.relative_to(request.study.path)),
    }
    result["headline"] = _headline(result, run.result, len(resampling.pool(request.data)))
    result["verdict"] = verdict_lines(result)
    directories.write_atomically(request.folder / COMPARISON, json.dumps(plain(result), indent=1).encode())
    reported = {**result, "predicting": predicting_run(request.study, run.folder), "reused": reused}
    return Comparison(plain(reported), request.folder, request.study, run, reused)


def _headline(result: dict[str, Any], run: dict[str, Any], pool: int) -> dict[str, Any]:
    """Return the headline accuracy of the final model, with interval, basis and number of images.

    It is the test set's if there is one, else the folds'. Every place that shows it reads this record.
    """
    tested = result["accuracy"] is not None
    figures = {**run, **result} if tested else result["out_of_fold"]
    return {
        **{key: figures.get(key) for key in ("accuracy", "low", "high", *metrics.BELIEVED, *metrics.BALANCE)},
        "basis": (Basis.TEST if tested else Basis.OUT_OF_FOLD).value,
        "images": run["n_test"] if tested else figures["images"],
        "pool": pool,
        "folds": result["out_of_fold"]["folds"],
        "optimism": None if tested else figures["optimism"],
        "test_evaluations": result["test_evaluations"],
    }


def _operating_point(
    request: CompareRequest,
    run: Run,
    predictions: HeldOutPredictions,
    temperature: float | None,
    spread: float,
) -> OperatingPoint | None:
    """Choose the winner's operating point on its out-of-fold predictions, and keep it with the run.

    `temperature` is the final model's; None where the model is one of the folds'.
    """
    target = OperatingTarget.of(request.config)
    if target is None:
        return None
    probabilities = predictions.probabilities
    if temperature is not None and predictions.logits is not None:
        probabilities = metrics.softmax(predictions.logits, temperature)
    held = HeldOut(
        tuple(request.data.classes),
        predictions.targets,
        probabilities,
        predictions.images,
        predictions.units,
        "out of fold",
        spread,
    )
    return threshold_choice.keep(run.folder.path, request.data, target.choose(held))


def _interpolation(
    request: CompareRequest, runner: TrialRunner, index: int, predictions: HeldOutPredictions
) -> Interpolation | None:
    """Return the winner's weight interpolation if requested and possible, else `None`."""
    if request.config.interpolate_weights is None or not len(predictions.images):
        return None
    if (reason := wise_ft_share.why_not(request.candidates[index])) is not None:
        request.progress.log(f"{request.candidates[index]} is not interpolated: {reason}.")
        return None
    return wise_ft_share.choose(request, runner, index, predictions)


def _repeatable(request: CompareRequest) -> dict[str, Any]:
    """Return the options of the call, so that a report can say how to repeat it."""
    sizes = {backbone.preprocessing.size for backbone in request.backbones.values()}
    names = [backbone.name for backbone in request.backbones.values()]
    resize = next(iter(request.backbones.values())).source.get("resize")
    return {
        **({"model": names[0]} if request.single_network else {"models": names}),
        "size": sizes.pop() if len(sizes) == 1 else None,
        **({} if resize is None else {"resize": resize}),
        **({"no_pretrained": True} if all(b.has_random_weights for b in request.backbones.values()) else {}),
        "minutes": request.config.minutes,
        "repeats": request.config.repeats,
        "cuts": request.thorough,
        "seed": request.config.seed,
        "augment": request.candidates[0].augment,
        **{
            name: value
            for name in OF_OPERATING_POINT
            if (value := getattr(request.config, name)) is not None and not isinstance(value, Mapping)
        },
        **request.named,
        "strategies": [
            *request.named["strategies"],
            *(str(joined.strategy) for joined in request.earlier.joined),
        ],
        **(
            {}
            if request.config.interpolate_weights is None
            else {"interpolate_weights": request.config.interpolate_weights}
        ),
        **{key: value for key, value in request.options.items() if key != "batch_given"},
        "batch_size": request.config.batch_size,
    }


def _no_time(request: CompareRequest, runner: TrialRunner) -> str:
    """Return the message that says that the time is too short, and how much is needed."""
    index = min(range(len(runner.candidates)), key=lambda c: runner.whole_s[c] + runner.final_s[c])
    need_s = runner.schedule.folds * runner.whole_s[index] + runner.final_s[index]
    if runner.terms is not None:
        need_s = runner.board().need_s(index, 1)
    folds = f" on {runner.schedule.folds} folds" if runner.schedule.folds > 1 else ""
    what = f"loading, judging {runner.candidates[index]}{folds} and training it on every image"
    return refusal(request.config.minutes or 0.0, runner.clock.watch.seconds + need_s, what)


def _held_out(
    request: CompareRequest,
    predictions: HeldOutPredictions,
    ranking: Ranking,
    spread: float,
) -> dict[str, Any]:
    """Write the winner's held-out predictions, and return its scores on them.

    `accuracy` and its interval are lowered by the optimism of choosing the best, as far as the winner was
    chosen on the same images: a probe has all folds where the others had one. The interval is of a new
    model's accuracy on new images, as in the standings.
    """
    if not len(predictions.images):
        figures = ("accuracy", "low", "high", "optimism", *metrics.BELIEVED, *metrics.BALANCE)
        return {**dict.fromkeys(figures), "images": 0, "temperature": 1.0}
    accuracy, low, high = predictions.accuracy_interval(spread)
    moved = ranking.verdict.moved if ranking.verdict else None
    bias = optimism(ranking.first_repeat, "accuracy", request.config.seed, moved)
    chosen_on = np.unique(next(iter(ranking.first_repeat.values())).images)
    bias *= float(np.isin(np.unique(predictions.images), chosen_on).mean())
    write_predictions(request.folder / OUT_OF_FOLD, request.data, predictions)
    assert predictions.logits is not None
    believed = metrics.believed(
        predictions.targets,
        predictions.probabilities,
        predictions.units,
        images=predictions.images,
        spread=spread,
    )
    learned = np.bincount(
        request.data.targets(resampling.pool(request.data)), minlength=len(request.data.classes)
    )
    guesses = predictions.probabilities.argmax(axis=1)
    return {
        **believed,
        **metrics.balance(request.data.classes, predictions.targets, guesses, learned, predictions.images),
        "images": len(np.unique(predictions.images)),
        "accuracy": accuracy - bias,
        "low": max(0.0, low - bias),
        "high": high - bias,
        "optimism": bias,
        "temperature": metrics.fit_temperature(predictions.logits, predictions.targets),
    }


def _evaluated_runs(runner: TrialRunner, ranking: Ranking) -> dict[str, Any]:
    """Return which runs the out-of-fold scores belong to, with the number of images and folds."""
    index = ranking.winner
    return {
        "strategy": str(runner.candidates[index].strategy),
        "images": len(np.unique(ranking.predictions[index].images)),
        "folds": ranking.folds(index),
        "runs": sorted(str(outcome["run"]) for outcome in ranking.outcomes[index].values()),
    }


def _without_other_runs(runner: TrialRunner, ranking: Ranking) -> TrialRunner:
    """Return the runner without the winner's runs that its figures are not of."""
    others = {task: o for task, o in runner.outcomes.items() if task.candidate != ranking.winner}
    return replace(runner, outcomes=others | ranking.outcomes[ranking.winner])


def _not_started(runner: TrialRunner) -> list[int]:
    """Return the indices of candidates without a run."""
    started = {task.candidate for task in runner.outcomes}
    return [index for index in range(len(runner.candidates)) if index not in started]


def _final_run(
    request: CompareRequest,
    runner: TrialRunner,
    index: int,
    temperature: float,
    share: float | None,
    stopping: Mapping[str, Any] | None,
) -> tuple[Run, bool]:
    """Return the winner trained on every image and true, or its first run on a fold and false.

    The latter if the time is up during the last training, which resumes when the command is given again with
    more time.
    """

    def timed(what: str, done: int, total: int) -> None:
        if runner.clock.late and what != Activity.DECODE:  # a finished run only checks its images
            raise ComparisonTimeUp
        request.progress(what, done, total)

    try:
        run = _train_winner(
            replace(request, progress=Progress.of(timed, request.progress.log)),
            request.candidates[index],
            temperature,
            share,
            stopping,
        )
    except ComparisonTimeUp:
        task = min(longest(runner.outcomes, index), key=lambda t: (t.cell.repeat, t.cell.fold))
        folder = request.study.run_at(runner.outcomes[task].get("run"))
        split = Study(folder.path.parents[1])
        return Run(
            folder.read("result.json"),
            folder,
            split,
            reused=True,
            backbone=request.backbones[request.candidates[index].model],
        ), False
    return run, True


def _early_stopping(request: CompareRequest, runner: TrialRunner, index: int) -> dict[str, Any] | None:
    """Return the patience, what it saved of the winner's runs, and after how many epochs the winner stops.

    `None` without a patience.
    """
    patience, winner = request.config.patience, request.candidates[index]
    if patience is None or not winner.strategy.trains:
        return None
    results = [
        request.study.run_at(runner.outcomes[task].get("run")).read("result.json")
        for task in longest(runner.outcomes, index)
    ]
    backbone, images = request.backbones[winner.model], len(resampling.pool(request.data))
    epochs, planned = early_stopping.winners_epochs(winner.strategy, backbone, images, results)
    saved = [result["early_stopping"] for result in results if result.get("early_stopping")]
    return {
        "patience": patience,
        "epochs": epochs,
        "planned": planned,
        "epochs_saved": sum(early["epochs_saved"] for early in saved),
        "seconds_saved": sum(early["seconds_saved"] for early in saved),
    }


def _train_winner(
    request: CompareRequest,
    winner: Candidate,
    temperature: float,
    share: float | None,
    stopping: Mapping[str, Any] | None,
) -> Run:
    """Train the winner on the train and val sets and evaluate it on the test set.

    No image is left to fit the temperature on, so it is that of the out-of-fold predictions, nor to stop
    early by, so it stops when its runs did.
    """
    stop_after = None
    if stopping is not None and stopping["epochs"] < stopping["planned"]:
        stop_after = stopping["epochs"]
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
        patience=None,
        stop_after=stop_after,
        temperature=temperature,
        interpolate_weights=None if share == 1.0 else share,
        logger=request.loggers,
        feature_cache=request.cache,
        progress=request.progress,
    )
