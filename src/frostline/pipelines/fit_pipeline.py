"""`fit`: from labelled images to a model with a reliable accuracy, in one call.

Load, screen backbones if several are named, train a probe (a first model within seconds), measure, plan,
compare strategies within the time limit, train the winner on every image, report its accuracy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from frostline import metrics
from frostline.advice import Planned, plan
from frostline.config import FOLDS, OF_OPERATING_POINT, TRAIN_ALONE, Config, Options
from frostline.data import LoadOptions, Manifest, is_study, load_data
from frostline.distributed import torchrun_env
from frostline.errors import NoTime, StudyError, UsageError
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction.augmentation import check_options
from frostline.loggers import Loggers, make_loggers
from frostline.models import Backbone, training_overlap
from frostline.pipelines.advised_strategies import candidates, names_of
from frostline.pipelines.backbone_request import BackboneRequest, select_backbones
from frostline.pipelines.data_subsets import data_lines, fold_count, load_subsets
from frostline.pipelines.first_model import FirstModel, deciding_config, first_line, probe_config
from frostline.pipelines.fit_result import Fitted
from frostline.pipelines.forecast_beside_measured import forecast_beside_measured
from frostline.pipelines.headline_figures import comparison_figures, probe_figures
from frostline.pipelines.time_limits import default_minutes, demand_time, measuring_s, page_fits
from frostline.progress import OnLine, OnProgress, Progress
from frostline.reports import NAME as REPORT
from frostline.reports import report
from frostline.selection import (
    ENDING_S,
    FEW_IMAGES,
    Comparison,
    Limits,
    NothingHeldOut,
    NothingToStop,
    compare,
    demand_operating_point,
)
from frostline.strategies import (
    KINDS,
    NAMED,
    Strategy,
    at_defaults,
    epochs_for,
    linear_probe,
    loader_line,
    overridden,
    parse,
    parse_list,
    patience_fault,
    timm_loadable,
)
from frostline.studies.best_run import predicting_run
from frostline.studies.study_folder import Study
from frostline.system import deadline, devices, timing
from frostline.system.timing import Stopwatch

LOAD_OPTIONS = tuple(LoadOptions.__annotations__)
FIT_STUDY = "frostline-fit"  # its own folder, because it splits the images differently from `train`


class FitOptions(Options, LoadOptions, total=False):
    """The fields of `Config` and the options of `load_data`, as keywords of `fit`."""


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
    logger: str | Iterable[str] | Loggers | None = None,
    watch: Stopwatch | None = None,
    progress: OnProgress | None = None,
    log: OnLine | None = None,
    **options: Unpack[FitOptions],
) -> Fitted:
    """Adapt a backbone to labelled images, and estimate its accuracy.

    A linear probe is trained first, so that a model can predict within seconds. Then strategies are compared
    within the time limit, and the winner is trained on every image. Called again, it resumes.

    If `source` names no subsets and has fewer than 2,000 images, every image trains the model, and its
    accuracy is estimated by cross-validation (folds keep groups and copies together). Otherwise a test
    set is held out and evaluated once at the end.

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
    strategies
        Strategies to compare; `None` for those that the advice recommends.
    study
        Folder that holds everything. Images that it has seen before keep their subset.
    database
        As in `compare`.
    config
        Options as a `Config`; default: every default.
    logger
        Loggers that follow every run, as in `train`.
    watch
        Stopwatch that `minutes` counts from.
    progress
        Called as `progress(what, done, total)`.
    log
        Called with lines for a person; `None` leaves them to `progress`, where that is a `Progress`.
    **options
        Fields of `Config` by name, which override those of `config`: `minutes` limits everything (`None`: by
        the predicted cost); `batch_size`, `epochs`, `lr`, `weight_decay`, `label_smoothing` and
        `hyperparameters` are for the compared strategies, and go before what the advice names; the others are
        as in `train` and `compare`. And of `load_data`: `strict`, `split_names`, `intensity_range`,
        `alpha_background`, `path_column`, `label_column`, `group_by`, `test_data`.

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
    load_options: dict[str, Any] = {name: value for name, value in options.items() if name in LOAD_OPTIONS}
    config_options = {name: value for name, value in options.items() if name not in LOAD_OPTIONS}
    chosen = Config.of(config, config_options, without=TRAIN_ALONE, besides=LOAD_OPTIONS)
    strategies = parse_list(strategies) if isinstance(strategies, str) else strategies
    named = [parse(name) if isinstance(name, str) else name for name in strategies or ()]
    values = chosen.of_strategy
    # raises before anything is loaded
    possible = overridden(named or [parse(name) for name in NAMED], values).strategies
    if chosen.plain_timm:
        possible = tuple(map(timm_loadable, possible))
    pinned = list(map(str, named))
    limits = Limits(max_latency_ms, max_size_mb)
    request = (
        BackboneRequest(model, models, limits, size, architecture, chosen.resize, download).checked().agreed()
    )
    if callable(chosen.augment):
        raise UsageError("fit takes augment by name: none, light, standard, strong or randaugment.")
    check_options(chosen.augment, chosen.min_crop, chosen.rotate)
    if fault := patience_fault(chosen.patience, named):
        raise UsageError(fault)
    load = partial(
        load_data,
        source,
        seed=chosen.seed,
        **load_options,
        study=study if is_study(Path(study)) else None,
        progress=progress,
    )
    with deadline.within(chosen.minutes, watch):
        data = load_subsets(load).checked(deadline.telling(progress, deadline.READING))
        backbones = request.load(progress)
    deadline.disarm()
    data = training_overlap.keep_learned_in_train(backbones, data, Study(study))
    demand_operating_point(chosen, data)
    metric_name = metrics.name_of(metrics.resolved(chosen.metric, data.classes, chosen.positive))
    plain, deciding = probe_config(chosen, metric_name), deciding_config(chosen)
    folds = fold_count(data, chosen.seed)
    for line in data_lines(data, folds):
        progress.log(line)
    opened_study = Study.of(study, data)
    data.keep_in(opened_study.path)
    steps = _Steps(data, opened_study, chosen, loggers, watch, cache, progress)

    screening = steps.screening(request, backbones, plain, possible)
    if screening is not None:
        backbones = [
            next(b for b in backbones if b.name == row["model"]) for row in screening if row["selected"]
        ]
    demand_time(backbones[0], data, chosen.minutes, chosen.threads, watch)
    with deadline.within(chosen.minutes, watch, ENDING_S):
        first = steps.first_model(backbones[0], plain).cross_validated()
    pretrained = not any(b.has_random_weights for b in backbones)
    line = first_line(first, metric_name, watch.seconds, pretrained=pretrained, plain_timm=chosen.plain_timm)
    progress.log(line)
    probe_accuracy = first.cv_score if metric_name == "accuracy" and not chosen.plain_timm else None
    plans = steps.plans(backbones, {first.model: probe_accuracy})
    steps.write_backbone(backbones[0], plans)  # the first network; at the end the winner
    strategies_by_network = steps.strategies(plans, pinned, say_why=pretrained)
    allowed = steps.minutes(plans, strategies_by_network)
    if not pinned:  # what is given goes before what the advice names
        strategies_by_network = {
            name: list(dict.fromkeys(str(at_defaults(parse(advised), values)) for advised in names))
            for name, names in strategies_by_network.items()
        }
    comparison = None
    if not plans and (line := loader_line([parse(first.strategy)], [str(backbones[0].source.get("kind"))])):
        progress.log(line)  # else the comparison says so, of all its candidates
    if plans:
        if folds:
            progress.log(_comparison_line(strategies_by_network, allowed, given=chosen.minutes))
        leads = plans[backbones[0].name].advice.leads if pretrained else {}
        comparison = steps.comparison(
            backbones, strategies_by_network, allowed, database, leads, pinned=bool(pinned)
        )
    if not folds and data.subset("test"):
        first = steps.first_model(backbones[0], deciding).tested()
    elif comparison is None and deciding != plain:
        first = steps.first_model(backbones[0], deciding).cross_validated()

    answering = next(b for b in backbones if b.name == (comparison.model if comparison else first.model))
    planned = plans.get(answering.name)
    advice = planned.advice if planned and pretrained else None  # it knows pretrained weights alone
    steps.write_backbone(answering, plans)
    reused = comparison.reused if comparison else first.reused
    point = (comparison.result if comparison else first.result).get("operating_point")
    figures = (
        comparison_figures(comparison)
        if comparison
        else probe_figures(first, opened_study, metric_name, data)
    )
    result = {
        **figures,
        **({} if point is None else {"operating_point": point}),
        "recommended": advice.recommended if advice else None,
        "forecast": forecast_beside_measured(advice, figures),
        "model": answering.name,
        **({} if screening is None else {"models": screening}),
        "images": len(data.samples),
        "seconds": (_seconds_then(opened_study, figures["run"]) if reused else None)
        or (comparison.seconds if comparison else watch.seconds),
        "budget_seconds": 60 * allowed,
        "options": {
            "source": _name_of(source),
            **request.as_options(answering),
            "strategies": pinned or None,
            **({"hyperparameters": values} if values else {}),
            **_options(chosen, metric_name),
        },
        "study": str(opened_study.path),
        "report": str(opened_study.path / REPORT),
    }
    opened_study.write("fit.json", result)
    run = comparison.run if comparison else first
    predicting = predicting_run(opened_study, run.folder)
    return Fitted(
        {**result, "predicting": predicting, "reused": reused, "report": steps.report()},
        run,
        comparison,
        planned.signals if planned else None,
        advice,
        reused,
    )


@dataclass(frozen=True)
class _Steps:
    """The steps of one call, and what each of them needs."""

    data: Manifest
    study: Study
    config: Config
    loggers: Loggers
    watch: Stopwatch
    cache: FeatureCache
    progress: Progress

    def screening(
        self,
        request: BackboneRequest,
        backbones: Sequence[Backbone],
        config: Config,
        possible: Sequence[Strategy],
    ) -> list[dict[str, Any]] | None:
        """Return a row for each backbone with whether it is selected; `None` if there is one to take.

        Limits hold for every head that the model may get: a probe's, which comes first, and those of the
        strategies that are `possible`.
        """
        if not request.screens:
            return None
        minutes, what = self.config.minutes, "loading and screening the networks"
        probe = linear_probe(layers="last") if config.plain_timm else linear_probe()
        with deadline.within(minutes, self.watch), deadline.purpose(what):
            return select_backbones(
                backbones,
                self.data,
                request.limits,
                self.study,
                config=config,
                strategies=[probe, *possible],
                left_s=None if minutes is None else 60.0 * minutes - self.watch.seconds - ENDING_S,
                cache=self.cache,
                progress=deadline.telling(self.progress, what),
            )

    def first_model(self, backbone: Backbone, config: Config) -> FirstModel:
        """Return the linear probe of this backbone, not yet trained."""
        return FirstModel(
            backbone,
            self.data,
            self.study,
            config,
            self.loggers,
            self.cache,
            deadline.telling(self.progress, "loading, one linear probe and its figures"),
        )

    def plans(
        self, backbones: Sequence[Backbone], probe_accuracies: Mapping[str, float | None]
    ) -> dict[str, Planned]:
        """Return what was measured and recommended by network; empty if there is no time to measure.

        `probe_accuracies` are out of fold, of the first model, by network.
        """
        minutes, threads = self.config.minutes, self.config.threads
        measuring = sum(
            measuring_s(backbone, self.data, seed=self.config.seed, threads=threads, feature_cache=self.cache)
            for backbone in backbones
        )
        if minutes is not None and self.watch.seconds + measuring + ENDING_S >= 60.0 * minutes:
            self.progress.log(
                f"There is no time to measure the network (about {measuring:.0f} s): the probe is the model."
            )
            return {}
        what = "loading, measuring the network and the images, and the end"
        within = deadline.within(minutes, self.watch, ENDING_S)
        try:
            with within, deadline.purpose(what, measuring):
                return {
                    backbone.name: plan(
                        backbone,
                        self.data,
                        probe_accuracy=probe_accuracies.get(backbone.name),
                        plain_timm=self.config.plain_timm,
                        seed=self.config.seed,
                        threads=threads,
                        workers=self.config.workers,
                        feature_cache=self.cache,
                        progress=deadline.telling(self.progress, what),
                    )
                    for backbone in backbones
                }
        except NoTime as error:
            self.progress.log(f"The probe is the model. {error}")
            return {}

    def strategies(
        self, plans: Mapping[str, Planned], pinned: Sequence[str], *, say_why: bool
    ) -> dict[str, list[str]]:
        """Return the strategies to compare by network: the pinned ones, else those of the advice."""
        for name, planned in plans.items():
            if planned.signals.groups:
                self.progress.log(planned.signals.groups.sentence)
            for line in planned.advice.why if say_why else ():
                self.progress.log(line if len(plans) == 1 else f"{name}: {line}")
        config = self.config
        plain_heads = config.plain_timm or config.interpolate_weights is not None
        named = {
            name: list(pinned) or candidates(planned.advice, len(plans), plain_heads=plain_heads)
            for name, planned in plans.items()
        }
        if not config.plain_timm:
            return named
        return {key: [str(timm_loadable(parse(name))) for name in names] for key, names in named.items()}

    def minutes(self, plans: Mapping[str, Planned], strategies: Mapping[str, Sequence[str]]) -> float:
        """Return the time limit; where none was given, the time as if the slowest network ran them all."""
        if self.config.minutes is not None:
            return self.config.minutes
        folds = 1 if "val" in self.data.predefined or len(self.data.samples) >= FEW_IMAGES else FOLDS
        every = [name for names in strategies.values() for name in names]
        more_epochs = _more_epochs(self.config.of_strategy, self.data)
        return max(
            default_minutes(planned.advice, every, folds, self.config.repeats, more_epochs)
            for planned in plans.values()
        )

    def comparison(
        self,
        backbones: Sequence[Backbone],
        strategies: Mapping[str, Sequence[str]],
        minutes: float,
        database: str | None,
        leads: Mapping[tuple[str, str], tuple[float, float]],
        *,
        pinned: bool,
    ) -> Comparison | None:
        """Return the comparison; `None` if there is no time for a run, or nothing to hold out."""
        config = replace(self.config, resize=None, minutes=minutes)
        advised = strategies if len(backbones) > 1 else strategies[backbones[0].name]
        compared = partial(self._compared, backbones, advised, database, leads)
        try:
            try:
                return compared(config)
            except NothingToStop as error:  # strategies that were given are refused
                if pinned:
                    raise
                self.progress.log(f"{error} Without it:")
                return compared(replace(config, patience=None))
        except (NoTime, NothingHeldOut) as error:
            self.progress.log(str(error))
            return None

    def _compared(
        self,
        backbones: Sequence[Backbone],
        strategies: Sequence[str] | Mapping[str, Sequence[str]],
        database: str | None,
        leads: Mapping[tuple[str, str], tuple[float, float]],
        config: Config,
    ) -> Comparison:
        return compare(
            backbones,
            self.data,
            strategies,
            least=1,
            leads=leads,
            study=self.study.path,
            database=database,
            config=config,
            logger=self.loggers,
            watch=self.watch,
            feature_cache=self.cache,
            progress=self.progress,
        )

    def write_backbone(self, backbone: Backbone, plans: Mapping[str, Planned]) -> None:
        """Write the study's backbone, signals and advice for this network."""
        self.study.write("backbone.json", backbone.as_dict())
        planned = plans.get(backbone.name)
        if planned is None:
            return
        self.study.write("signals.json", planned.signals.as_dict())
        if not backbone.has_random_weights:
            self.study.write("advice.json", planned.advice.as_dict())

    def report(self) -> str | None:
        """Write the page if there is time; return its path, also of an earlier page, or `None`."""
        page = self.study.path / REPORT
        if page_fits(self.config.minutes, self.watch):
            try:
                with deadline.lifted():  # it was asked whether the page fits
                    report(self.study)
            except StudyError as error:  # the model is kept if the page can't be written
                self.progress.log(str(error))
        else:
            self.progress.log(f"No time was left for the page: frostline report {self.study.path} writes it.")
        return str(page) if page.exists() else None


def _comparison_line(strategies: Mapping[str, Sequence[str]], minutes: float, given: float | None) -> str:
    one = sum(len(names) for names in strategies.values()) == 1
    limit = f"{minutes:g} min" + ("" if given else ", unless --minutes says otherwise")
    return f"{'Evaluating' if one else 'Comparing'} {names_of(strategies)} for at most {limit}."


def _options(config: Config, metric_name: str) -> dict[str, Any]:
    """Return the options of the call as `fit.json` holds them."""
    options = {
        name: getattr(config, name)
        for name in (
            *("minutes", "repeats", "seed", "augment", "metric", "flip"),
            *("imbalance", "batch_size", "deterministic", "precision"),
        )
    }
    options["metric"] = metric_name
    rest = {
        **{
            name: value
            for name in OF_OPERATING_POINT
            if not isinstance(value := getattr(config, name), Mapping)
        },
        "interpolate_weights": config.interpolate_weights,
        "patience": config.patience,
        "min_crop": config.min_crop,
        "rotate": None if config.rotate == "none" else config.rotate,
        "compile": None if config.compile == "auto" else config.compile,
        "plain_timm": config.plain_timm or None,
    }
    return options | {name: value for name, value in rest.items() if value is not None}


def _more_epochs(values: Mapping[str, float | str], data: Manifest) -> Callable[[str], float]:
    """Return how many times its own epochs a strategy has, where `epochs` is among the values."""

    def times(name: str) -> float:
        strategy = parse(name)
        if "epochs" not in values or not strategy.trains:
            return 1.0
        own = strategy.epochs or epochs_for(len(data.samples)) * KINDS[strategy.name].passes
        return float(values["epochs"]) / own

    return times


def _seconds_then(study: Study, run: str) -> float | None:
    """Return the seconds of the call that made this run, if the study's last result is of it."""
    try:
        result = study.read("fit.json") or {}
    except StudyError:
        return None
    seconds = result.get("seconds") if result.get("run") == run else None
    return float(seconds) if isinstance(seconds, int | float) else None


def _name_of(source: Any) -> str | None:
    """Return the name of a folder or file; `None` for a data set in memory."""
    if not isinstance(source, str | os.PathLike):
        return None
    return Path(source).resolve().name + ("/" if Path(source).is_dir() else "")
