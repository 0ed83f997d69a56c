"""`fit`: from labelled images to a model with a reliable accuracy, in one call.

Load, screen backbones if several are named, train a probe (a first model within seconds), measure, plan,
compare strategies within the time limit, train the winner on every image, report its accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from filelock import FileLock

from frostline import metrics, sentences
from frostline.advice import Advice, Planned, outlook, plan
from frostline.advice.knowledge import read_experience
from frostline.config import REPEATS, TRAIN_ALONE, Config, Options
from frostline.data import Manifest, is_study, load_data
from frostline.diagnostics import Signals
from frostline.distributed import torchrun_env
from frostline.errors import StudyError, UsageError
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction.augmentation import check_options
from frostline.loggers import Loggers, make_loggers
from frostline.models import Backbone, leakage
from frostline.pipelines import backbone_request
from frostline.pipelines.time_limits import default_minutes, demand_time, measuring_s, page_fits
from frostline.progress import OnLine, OnProgress, Progress
from frostline.reports import NAME as REPORT
from frostline.reports import notebook, report
from frostline.selection import (
    ENDING_S,
    FEW_IMAGES,
    FOLDS,
    Comparison,
    Limits,
    NothingHeldOut,
    NoTime,
    compare,
    folds_of,
    pool,
    spread_of_folds,
    sub_study,
)
from frostline.sentences import Basis
from frostline.strategies import (
    KINDS,
    NAMED,
    Strategy,
    at_defaults,
    epochs_for,
    overridden,
    parse,
    parse_list,
)
from frostline.studies.best_run import has_finished_run
from frostline.studies.result_fields import AccuracyFigures, Figure, ProbabilityFigures, Rows
from frostline.studies.study_folder import Study
from frostline.system import devices, timing
from frostline.system.timing import Stopwatch
from frostline.training import Run, train

FIT_STUDY = "frostline-fit"  # its own folder, because it splits the images differently from `train`
COMPARED = 4  # strategies of the advice to compare, in addition to the probe and the cheapest one
SMALLEST = "top_k(1)"  # of the strategies with trials, the one that trains fewest stages
SHOWN = 20  # unusable files that are listed one by one


@dataclass(frozen=True)
class Fitted(AccuracyFigures, ProbabilityFigures):
    """Result of `fit`. Keys of `result` are also attributes.

    Parameters
    ----------
    result
        Every figure.
    run
        The run whose model predicts.
    comparison
        The comparison; `None` if there was no time for a single run.
    signals, advice
        What was measured and recommended; `None` if there was no time to measure the network.
    again
        Whether all of it was finished before and read back.
    """

    result: dict[str, Any]
    run: Run
    comparison: Comparison | None
    signals: Signals | None
    advice: Advice | None
    again: bool = False

    strategy = Figure[str]("The strategy of the model that predicts.")
    accuracy = Figure[float | None]("Share of new images predicted correctly (see `basis`), 0–1.")
    basis = Figure[str]("What the accuracy rests on: test part, out of fold or cross-validation.")
    optimism = Figure[float | None]("How much choosing the best made of it, taken off; 0–1.")
    headline = Figure[dict[str, Any]]("The accuracy to report, with its basis.")
    accuracy_of = Figure[dict[str, Any]]("The model and runs that the accuracy is of.")
    separated = Figure[bool]("Whether the winner is significantly better than the next one.")
    tried = Figure[Rows]("One row a candidate, the best first.")
    strategies_tried = Figure[int]("Candidates that were run.")
    runs = Figure[int]("Runs of all of them.")
    verdict = Figure[list[str]]("The outcome in sentences.")
    recommended = Figure[str | None]("The strategy that the advice named.")
    model = Figure[str]("The backbone's name.")
    models = Figure[Rows | None]("Every backbone that was considered, with reasons.")
    images = Figure[int]("Usable images.")
    seconds = Figure[float]("Wall time in seconds.")
    budget_seconds = Figure[float]("The limit in seconds.")
    asked = Figure[dict[str, Any]]("What the call was given.")
    study = Figure[str]("The study's folder.")
    report = Figure[str | None]("The page; None where no time was left for it, or it can't be written.")

    def __repr__(self) -> str:
        """Return two lines: the model and its accuracy."""
        first = f"<Fitted: {self.result['strategy']} on {self.result['model']}; in {self.result['study']}"
        return f"{first}\n{sentences.accuracy(self.result['headline'])}>"

    def _repr_html_(self) -> str:
        """Return an HTML table for notebooks."""
        shown = ("strategy", "model", "accuracy", "low", "high", "basis", "seconds", "report")
        rows = [{key: self.result.get(key) for key in shown}]
        return notebook.table_html("Fitted", rows, self.result["verdict"])

    def to_pandas(self) -> Any:
        """Return the standings, a row for each strategy. Raises `UsageError` if pandas is not installed."""
        return notebook.frame(self.result["tried"])

    def plot(self) -> notebook.Plot:
        """Return a plot of accuracy against seconds."""
        return notebook.standings_plot(self.result["tried"])


@devices.computes()
def fit(
    source: Any,
    *,
    model: str | Backbone | None = None,
    models: Sequence[str | Backbone] | str | None = None,
    max_latency_ms: float | None = None,
    max_size_mb: float | None = None,
    architecture: str | None = None,
    size: int | None = None,
    download: bool | None = None,
    strategies: Sequence[str | Strategy] | str | None = None,
    study: str | Path = FIT_STUDY,
    database: str | None = None,
    config: Config | None = None,
    strict: bool = False,
    split_names: Mapping[str, str] | str | None = None,
    intensity_range: str | tuple[float, float] | None = None,
    alpha_background: str | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    group_by: str | None = None,
    logger: str | Iterable[str] | Loggers | None = None,
    watch: Stopwatch | None = None,
    progress: OnProgress | None = None,
    log: OnLine | None = None,
    **options: Unpack[Options],
) -> Fitted:
    """Adapt a backbone to labelled images, and estimate its accuracy.

    A linear probe is trained first, so that a model can predict within seconds. Then strategies are compared
    within the time limit, and the winner is trained on every image. Called again, it resumes.

    If `source` names no parts and has fewer than 2,000 images, every image trains the model, and its accuracy
    is estimated by cross-validation (folds keep groups and copies together). Otherwise a test part is held
    out and evaluated once at the end.

    Parameters
    ----------
    source
        Anything that `load_data` takes.
    model
        One backbone or its name; lite0 by default.
    models
        Several backbones or names to choose among, or "auto" for all on disk. Each passes over the images
        once. Trained are the one with the best out-of-fold linear probe, and the largest of those not
        significantly worse.
    max_latency_ms
        Largest latency of one image in milliseconds, measured here; slower networks are skipped.
    max_size_mb
        Largest size of the weights in megabytes (10⁶ bytes); larger networks are skipped.
    architecture, size, download
        As in `load_backbone`. Downloads are agreed on before anything is read.
    minutes
        Time limit from the start of `watch`; `None` for one by the predicted cost.
    strategies
        Strategies to compare; `None` for those that the advice recommends.
    repeats, database, interpolate_weights
        As in `compare`.
    study
        Folder that holds everything. Images that it has seen before keep their part.
    seed, metric, augment, flip, resize, min_crop, rotate, imbalance, batch_size
        As in `train`; the last for the compared strategies.
    epochs, lr, weight_decay, label_smoothing, hyperparameters
        As in `compare`, for the compared strategies that take them; they go before what the advice names.
    device, deterministic, precision, threads, workers
        As in `train`.
    strict, split_names, intensity_range, alpha_background, path_column, label_column, group_by
        As in `load_data`.
    logger
        Loggers that follow every run, as in `train`.
    watch
        Stopwatch that the time limit counts from.
    progress
        Called as `progress(what, done, total)`.
    log
        Called with lines for a person; `None` leaves them to `progress`, where that is a `Progress`.

    Returns
    -------
    Fitted
        The model and its figures.

    Raises
    ------
    DataError, ModelError, UsageError, StudyError, TrainingError
        With one message that says what was found and what to do.
    """
    timing.prepare_process()
    torchrun_env.demand_alone("fit")
    loggers = make_loggers(logger, study)
    watch, cache = watch or Stopwatch(), FeatureCache()
    progress = Progress.of(progress, log)
    chosen = Config.of(config, options, without=TRAIN_ALONE)
    minutes, seed = chosen.minutes, chosen.seed
    strategies = parse_list(strategies) if isinstance(strategies, str) else strategies
    named = [parse(name) if isinstance(name, str) else name for name in strategies or ()]
    values = chosen.of_strategy
    overridden(named or [parse(name) for name in NAMED], values)  # raises before anything is loaded
    pinned = list(map(str, named))
    limits = Limits(max_latency_ms, max_size_mb)
    request = (
        backbone_request.BackboneRequest(model, models, limits, size, architecture, chosen.resize, download)
        .checked()
        .agreed()
    )
    if callable(chosen.augment):
        raise UsageError("fit takes augment by name: none, light, standard, strong or randaugment.")
    check_options(chosen.augment, chosen.min_crop, chosen.rotate)
    load = partial(
        load_data,
        source,
        seed=seed,
        strict=strict,
        split_names=split_names,
        path_column=path_column,
        label_column=label_column,
        group_by=group_by,
        intensity_range=intensity_range,
        alpha_background=alpha_background,
        study=study if is_study(Path(study)) else None,
        progress=progress,
    )
    data = _load(load).checked(progress)
    backbones = request.load(progress)
    data = leakage.keep_learned_in_train(backbones, data, Study(study))
    # The first probe and the backbones' own are the same whatever the comparison varies.
    plain = replace(chosen, resize=None, minutes=None, interpolate_weights=None, repeats=REPEATS)
    plain = replace(plain, augment=Config.augment, batch_size=Config.batch_size).without_strategy
    fold_count = _fold_count(data, seed)
    for line in _data_lines(data, fold_count):
        progress.log(line)
    opened_study = Study.open(study, data=data.digest, split=data.split_digest, test=data.test_digest)
    data.keep_in(opened_study.path)
    screening = None
    if request.screens:
        left_s = None if minutes is None else 60.0 * minutes - watch.seconds - ENDING_S
        screening = backbone_request.select_backbones(
            backbones,
            data,
            limits,
            opened_study,
            config=plain,
            left_s=left_s,
            cache=cache,
            progress=progress,
        )
        backbones = [next(b for b in backbones if b.name == row["model"]) for row in screening if row["kept"]]
    demand_time(backbones[0], data, minutes, chosen.threads, watch)
    with FileLock(opened_study.path / "first.lock"):  # a second process finds the model trained
        first = _probe(backbones[0], data, opened_study, plain, loggers, cache, progress)
    progress.log(_probe_line(first, chosen.metric, watch.seconds))
    measuring = sum(measuring_s(b, data, chosen.threads) for b in backbones)
    plans, strategies_by_network = dict[str, Planned](), dict[str, list[str]]()
    if minutes is None or watch.seconds + measuring + ENDING_S < 60.0 * minutes:
        plans = {
            b.name: plan(b, data, seed=seed, threads=chosen.threads, feature_cache=cache, progress=progress)
            for b in backbones
        }
    else:
        progress.log(
            f"There is no time to measure the network (about {measuring:.0f} s): the probe is the model."
        )
    _write_backbone(opened_study, backbones[0], plans)  # the first network; at the end the winner
    for name, planned in plans.items():
        strategies_by_network[name] = pinned or candidates(planned.advice, len(plans))
        if planned.signals.groups:
            progress.log(planned.signals.groups.sentence)
        for line in planned.advice.why:
            progress.log(line if len(plans) == 1 else f"{name}: {line}")
    folds = 1 if "val" in data.given or len(data.samples) >= FEW_IMAGES else FOLDS
    all_strategies = [
        name for names in strategies_by_network.values() for name in names
    ]  # the time is estimated as if the slowest network ran them all
    estimates = [
        default_minutes(planned.advice, all_strategies, folds, chosen.repeats, _more_epochs(values, data))
        for planned in plans.values()
    ]
    if not pinned:  # what is given goes before what the advice names
        strategies_by_network = {
            name: list(dict.fromkeys(str(at_defaults(parse(advised), values)) for advised in names))
            for name, names in strategies_by_network.items()
        }
    allowed = max(estimates) if minutes is None else minutes
    limit = f"{allowed:g} min" + ("" if minutes else ", unless --minutes says otherwise")
    if plans and fold_count:
        verb = "Evaluating" if len(all_strategies) == 1 else "Comparing"
        progress.log(f"{verb} {_names(strategies_by_network)} for at most {limit}.")
    comparison: Comparison | None = None
    try:
        if plans:
            comparison = compare(
                backbones,
                data,
                strategies_by_network if len(backbones) > 1 else strategies_by_network[backbones[0].name],
                least=1,
                study=study,
                database=database,
                config=replace(chosen, resize=None, minutes=allowed),
                logger=loggers,
                watch=watch,
                feature_cache=cache,
                progress=progress,
            )
    except (NoTime, NothingHeldOut) as error:
        progress.log(str(error))
    if not fold_count and data.part("test"):
        first = _probe_with_test(backbones[0], data, opened_study, plain, loggers, cache, progress)
    answering = next(b for b in backbones if b.name == (comparison.model if comparison else first.model))
    answering_plan = plans.get(answering.name)
    _write_backbone(opened_study, answering, plans)
    again = comparison.again if comparison else first.again
    result = {
        **(
            _comparison_figures(comparison)
            if comparison
            else _probe_figures(first, opened_study, chosen.metric, data)
        ),
        "recommended": answering_plan.advice.recommended if answering_plan else None,
        "model": answering.name,
        **({} if screening is None else {"models": screening}),
        "images": len(data.samples),
        "seconds": (_seconds_then(opened_study) if again else None)
        or (comparison.seconds if comparison else watch.seconds),
        "budget_seconds": 60 * allowed,
        "asked": {
            "source": _name_of(source),
            **request.as_options(answering),
            "minutes": minutes,
            "strategies": pinned or None,
            **({"hyperparameters": values} if values else {}),
            "repeats": chosen.repeats,
            "seed": seed,
            "augment": chosen.augment,
            **(
                {}
                if chosen.interpolate_weights is None
                else {"interpolate_weights": chosen.interpolate_weights}
            ),
            "metric": chosen.metric,
            "flip": chosen.flip,
            **({} if chosen.min_crop is None else {"min_crop": chosen.min_crop}),
            **({} if chosen.rotate == "none" else {"rotate": chosen.rotate}),
            "imbalance": chosen.imbalance,
            "batch_size": chosen.batch_size,
            "deterministic": chosen.deterministic,
            "precision": chosen.precision,
        },
        "study": str(opened_study.path),
        "report": str(opened_study.path / REPORT),
    }
    opened_study.write("fit.json", result)
    page = opened_study.path / REPORT
    if page_fits(minutes, watch):
        try:
            report(opened_study)
        except StudyError as error:  # the model is kept if the page can't be written
            progress.log(str(error))
    else:
        progress.log(f"No time was left for the page: frostline report {opened_study.path} writes it.")
    reported = {**result, "again": again, "report": str(page) if page.exists() else None}
    signals, advice = (answering_plan.signals, answering_plan.advice) if answering_plan else (None, None)
    return Fitted(reported, comparison.run if comparison else first, comparison, signals, advice, again)


def _more_epochs(values: Mapping[str, float | str], data: Manifest) -> Callable[[str], float]:
    """Return how many times its own epochs a strategy has, where `epochs` is among the values."""

    def times(name: str) -> float:
        strategy = parse(name)
        if "epochs" not in values or not strategy.trains:
            return 1.0
        own = strategy.epochs or epochs_for(len(data.samples)) * KINDS[strategy.name].passes
        return float(values["epochs"]) / own

    return times


def _seconds_then(study: Study) -> float | None:
    """Return the seconds of the call that did the work, if its result can be read."""
    try:
        seconds = (study.read("fit.json") or {}).get("seconds")
    except StudyError:
        return None
    return float(seconds) if isinstance(seconds, int | float) else None


def _write_backbone(study: Study, backbone: Backbone, plans: Mapping[str, Planned]) -> None:
    """Write the study's backbone, signals and advice for this network."""
    study.write("backbone.json", backbone.as_dict())
    planned = plans.get(backbone.name)
    if planned is None:
        return
    study.write("signals.json", planned.signals.as_dict())
    study.write("advice.json", planned.advice.as_dict())


def _names(strategies_by_network: Mapping[str, Sequence[str]]) -> str:
    """Return the compared strategies as text, with their networks if there are several."""
    if len(strategies_by_network) == 1:
        return ", ".join(*strategies_by_network.values())
    return "; ".join(
        f"{', '.join(strategies)} on {name}" for name, strategies in strategies_by_network.items()
    )


def candidates(advice: Advice, networks: int = 1) -> list[str]:
    """Return the strategies to compare: the probe, the recommended one, and the next best that fit.

    Parameters
    ----------
    advice
        The advice.
    networks
        Number of compared networks. They share the number of strategies, so that the comparison takes as long
        as with one.
    """
    fitting = [option.strategy for option in advice.options if option.fits]
    ordered = [advice.recommended, *(name for name in fitting if name != advice.recommended)]
    trained = [name for name in ordered if parse(name).trains][: math.ceil(COMPARED / networks)]
    if SMALLEST in fitting and SMALLEST not in trained:
        trained.append(SMALLEST)  # in case the larger ones don't fit the time
    return ["linear_probe", *trained]


def _load(load: Callable[..., Manifest]) -> Manifest:
    """Return the data with nothing held out, or with a test part for many images or a source with parts."""
    data = load(test_size=0.0, val_size=0.0)
    few = len(data.samples) < FEW_IMAGES
    if few and not set(data.given) - {"train"}:
        return data
    if "test" in data.given:
        return data if few else load(test_size=0.0)
    return load(val_size=0.0 if few else 0.2)


def _name_of(source: Any) -> str | None:
    """Return the name of a folder or file; `None` for a data set in memory."""
    if not isinstance(source, str | Path):
        return None
    return Path(source).resolve().name + ("/" if Path(source).is_dir() else "")


def _fold_count(data: Manifest, seed: int) -> int:
    """Return the number of folds of the comparison; 0 if nothing can be held out."""
    try:
        return folds_of(data, seed)
    except NothingHeldOut:
        return 0


def _data_lines(data: Manifest, folds: int) -> list[str]:
    """Return lines about the data; `folds` is the number of folds of a repeat."""
    lines = [finding.note for finding in data.said if finding.kind not in ("no_val", "no_test")]
    if data.set_aside:
        lines.append(f"{len(data.set_aside)} file(s) cannot be used and are skipped:")
        lines += [f"  {item.path}: {item.reason}" for item in data.set_aside[:SHOWN]]
        if len(data.set_aside) > SHOWN:
            lines.append(f"  … and {len(data.set_aside) - SHOWN} more (in the study's manifest.jsonl)")
    if not data.part("test") and not folds:
        lines.append(f"Every image will train the model. {sentences.NOTHING_TO_ASK}")
    elif not data.part("test") and folds > 1:
        lines.append(
            "Every image will train the model; its accuracy is estimated from models that learned from "
            f"{sentences.PARTS[folds]} of the images, each evaluated on the rest."
        )
    return lines


def _probe(
    backbone: Backbone,
    data: Manifest,
    study: Study,
    config: Config,
    loggers: Loggers,
    cache: FeatureCache,
    progress: Progress,
) -> Run:
    """Train a linear probe on all train and val images, as the first model."""
    samples = tuple(replace(s, split="train") for s in data.samples if s.split != "test")
    training_data = replace(data, samples=samples)
    run = train(
        backbone,
        training_data,
        "linear_probe",
        study=sub_study(study, training_data),
        config=config,
        logger=loggers,
        feature_cache=cache,
        progress=progress,
    )
    if not (has_finished_run(study) or study.answer):
        score = run.result["cv_score"]
        study.answer_by(run.folder, "a linear probe, the first model of this study", score)
    return run


def _probe_with_test(
    backbone: Backbone,
    data: Manifest,
    study: Study,
    config: Config,
    loggers: Loggers,
    cache: FeatureCache,
    progress: Progress,
) -> Run:
    """Train a probe on all train and val images and evaluate it on the test part, if none can be held out."""
    samples = tuple(replace(s, split="train") if s.split == "val" else s for s in data.samples)
    whole_data = replace(data, samples=samples)
    folder = sub_study(study, whole_data)
    run = train(
        backbone,
        whole_data,
        "linear_probe",
        study=folder,
        config=config,
        logger=loggers,
        feature_cache=cache,
        progress=progress,
    )
    study.answer_by(run.folder, "a linear probe, since nothing can be held out to compare on")
    return run


def _cross_validated_interval(run: Run) -> tuple[float, float]:
    """Return the 95 % interval of the first probe's cross-validated accuracy on new images."""
    assert run.cv_score is not None
    return metrics.wilson(run.cv_score, (run.cv_images or run.n_train) / spread_of_folds(FOLDS))


def _probe_line(run: Run, metric: str, seconds: float) -> str:
    line = f"After {seconds:.0f} s there is a first model, a linear probe"
    if metric == "accuracy" and run.cv_score is not None:
        low, high = _cross_validated_interval(run)
        line += f": accuracy {100 * run.cv_score:.0f} % ({100 * low:.0f}–{100 * high:.0f} %, cross-validated)"
    return f"{line}. {outlook(read_experience())}".rstrip()


def _comparison_figures(comparison: Comparison) -> dict[str, Any]:
    """Return the winner's figures: the comparison's own headline.

    `accuracy_of` names the model that the accuracy belongs to: the final one, evaluated on the test part, or
    the same strategy's models on the folds that they were not trained on.
    """
    return {
        "strategy": comparison.winner,
        **_headline_figures(comparison.headline),
        "accuracy_of": _accuracy_of(comparison),
        "separated": comparison.separated,
        "run": comparison.result["run"],
        "tried": comparison.standings,
        "strategies_tried": comparison.strategies_tried,
        "runs": comparison.runs,
        "verdict": comparison.verdict,
    }


def _accuracy_of(comparison: Comparison) -> dict[str, Any]:
    own = {"strategy": comparison.winner, "model": comparison.model}
    if comparison.accuracy is not None:
        return {**own, "runs": [comparison.result["run"]], "images": comparison.run.n_test, "folds": None}
    return {**own, **{key: comparison.out_of_fold[key] for key in ("runs", "images", "folds")}}


def _probe_figures(run: Run, study: Study, metric: str, data: Manifest) -> dict[str, Any]:
    """Return the figures of the first model, if there was no comparison."""
    why = (
        "Nothing could be held out for a comparison"
        if run.cv_score is None
        else "There was no time for a comparison"
    )
    headline = _probe_headline(run, metric, data)
    return {
        "strategy": run.result["strategy"],
        **_headline_figures(headline),
        "accuracy_of": {
            "strategy": run.result["strategy"],
            "model": run.result["model"],
            "runs": [str(run.folder.path.relative_to(study.path))],
            "images": headline["images"],
            "folds": None if headline["basis"] == Basis.TEST else FOLDS,
        },
        "separated": False,
        "run": str(run.folder.path.relative_to(study.path)),
        "tried": [],
        "strategies_tried": 1,
        "runs": 1,
        "verdict": [f"{why}: the linear probe is the model."],
    }


def _headline_figures(headline: dict[str, Any]) -> dict[str, Any]:
    """Return the headline as the report reads it, and its figures as keys of their own."""
    return {
        **{key: headline[key] for key in ("accuracy", "low", "high", *metrics.BELIEVED, *metrics.BALANCE)},
        "basis": headline["basis"],
        "optimism": headline["optimism"],
        "headline": headline,
    }


def _probe_headline(run: Run, metric: str, data: Manifest) -> dict[str, Any]:
    """Return the headline of a probe without a comparison: test part, else cross-validated, else unknown."""
    tested = run.accuracy is not None
    figures = run.result if tested else dict.fromkeys(("accuracy", "low", "high"))
    note = None
    if not tested and run.cv_score is None:
        note = sentences.NOTHING_TO_ASK
    elif not tested and metric != "accuracy":
        note = f"Cross-validated {metric} {run.cv_score:.3f}; accuracy was not the metric."
    elif not tested:
        low, high = _cross_validated_interval(run)
        figures = {"accuracy": run.cv_score, "low": low, "high": high}
    balance = (*metrics.BELIEVED, *metrics.BALANCE)
    return {
        **dict.fromkeys(balance),
        **{key: figures[key] for key in ("accuracy", "low", "high", *balance) if key in figures},
        "basis": (Basis.TEST if tested else Basis.CROSS_VALIDATION).value,
        "images": run.n_test if tested else run.cv_images or run.n_train,
        "pool": len(pool(data)),
        "folds": 0,
        "optimism": None,
        "test_looks": run.test_looks,
        "note": note,
    }
