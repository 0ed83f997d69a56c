"""`compare`: plan the runs, make them, and conclude."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack

from frostline import metrics, profiling
from frostline.config import FOLDS, TRAIN_ALONE, Config, Options
from frostline.cost import Cost, Rates, predict
from frostline.data import Manifest, demand_manifest, spread_of_folds
from frostline.distributed import torchrun_env
from frostline.errors import NoTime, UsageError, option
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction.augmentation import Policy, check_options
from frostline.feature_extraction.image_batches import Images
from frostline.loggers import Loggers, make_loggers
from frostline.models import Backbone, demand_backbone, training_overlap
from frostline.progress import OnLine, OnProgress, Progress
from frostline.selection import early_stopping, ray_workers, resampling, successive_halving
from frostline.selection.candidates import Candidate, Strategies, listed, searched
from frostline.selection.compare_request import CompareRequest
from frostline.selection.comparison_result import Comparison, read_result
from frostline.selection.conclusion import conclude
from frostline.selection.earlier_runs import join
from frostline.selection.scoreboard import Terms
from frostline.selection.trial_queue import TrialQueue
from frostline.selection.trial_runner import (
    CLOCK,
    ENDING_S,
    PLAN,
    Clock,
    TrialRunner,
    as_data,
    closing_s,
    from_data,
)
from frostline.strategies import (
    NAMED,
    Strategy,
    head,
    linear_probe,
    loader_line,
    patience_fault,
    scaled,
    top_k,
)
from frostline.studies.operating_point import OperatingTarget, demand_class
from frostline.studies.study_folder import Study, plain
from frostline.system import deadline, devices, directories, numerics, timing
from frostline.system.deadline import refusal
from frostline.system.timing import Stopwatch
from frostline.training import DEFAULT_STUDY, pass_s
from frostline.training.techniques.wise_ft import POINTS

# Timing a network takes this many times what `rates.timing_s` predicts for its precisions alone: 2 to 3 times
# on lite0 at 96 px, one core (docs/LOG.md 2026-11-28).
MEASURING = 2.5
EVERY = tuple(name for name in NAMED if name != "scratch")  # compared by default


@devices.computes()
def compare(
    backbone: Backbone | Sequence[Backbone],
    data: Manifest,
    strategies: Strategies | Mapping[str, Strategies] | None = None,
    *,
    search: Sequence[str] = (),
    draws: int = 0,
    cuts: bool = False,
    earlier: bool = True,
    least: int = 2,
    leads: Mapping[tuple[str, str], tuple[float, float]] | None = None,
    study: str | Path = DEFAULT_STUDY,
    database: str | None = None,
    ray: str | None = None,
    config: Config | None = None,
    logger: str | Iterable[str] | Loggers | None = None,
    watch: Stopwatch | None = None,
    feature_cache: FeatureCache | None = None,
    progress: OnProgress | None = None,
    log: OnLine | None = None,
    **options: Unpack[Options],
) -> Comparison:
    """Compare strategies by cross-validation on the train and val images, and train the winner on all.

    Every repeat is a new train/val split, order, initialisation and augmentation, the same for all
    strategies; on fewer than 2,000 images it is five folds, so that every image is held out once. Without a
    time limit, weak candidates are dropped by successive halving; with one, the runs are chosen to fit. The
    test set is evaluated once, for the winner.

    Called again with the same options, it resumes: finished runs are not repeated. Several processes may call
    it at once on one study folder.

    Parameters
    ----------
    backbone
        A backbone, or several; then every pair of backbone and strategy is a candidate.
    data
        The labelled images.
    strategies
        Strategies or notations, or one text with commas; with several backbones also a mapping from a
        backbone's name to its own strategies. Default: every named strategy but `scratch`.
    minutes
        Time limit for everything, from the start of `watch`. `None`: no limit.
    repeats
        New splits and seeds before a winner is named.
    search
        Names of settings to vary: `lr`, `layer_decay`, `weight_decay`, `augment`.
    draws
        Number of variants over the settings in `search`.
    cuts
        Compare one strategy per stage to unfreeze from, all of them on every repeat. The winner is the one
        with the fewest unfrozen layers that is not significantly worse than the best.
    earlier
        Whether strategies that `train` ran in this study before, with the same settings, join the comparison.
        With a time limit they are run last. Runs that cannot join are in `not_compared`, with the reason.
    leads
        What earlier trials say of one strategy's lead over another (`Advice.leads`), to be weighed with what
        is measured where `metric` is accuracy and there is one backbone. `None`: what is measured decides.
    least
        Smallest number of strategies without `search`; 1 to evaluate a single one.
    study
        Folder that holds the runs.
    database
        URL of Optuna's storage, if SQLite on the study's folder won't do.
    ray
        "auto", "local" or an address: distribute the runs over the workers of a Ray cluster that share the
        study's folder, the feature cache and the images. The runs are the same, and with the same `threads`
        so are their outcomes.
    seed, metric, augment, flip, resize, min_crop, rotate, imbalance, batch_size
        As in `train`, for every run.
    device, deterministic, precision, compile, threads, workers
        As in `train`, for every run.
    epochs, lr, weight_decay, label_smoothing, hyperparameters
        For each strategy that takes them, as in its brackets. The others are compared without, and a line
        of `log` names them with the reason; if no strategy takes one, it is refused.
    patience
        Stop a run after so many epochs of its last phase in a row in which `metric` on the images that it
        holds out was not above its best so far. It is judged by its weights then. The winner, trained on
        every image, stops after the median of its runs' shares of the schedule. `None`: no run stops early.
    interpolate_weights
        Interpolate the winner's weights between the pretrained network with a probe (0) and the adapted
        network (1): a share, or "auto" for the share of six with the lowest out-of-fold log loss among those
        whose `metric` is not significantly worse than the best. A winning probe is left as it is.
    config
        Options as a `Config`; default: every default.
    **options
        Fields of `Config` by name, which override those of `config`: those above, and `positive`,
        `min_recall`, `min_precision`, `costs`, `device_memory`, `pixels` and `plain_timm`.
    logger
        Loggers that follow every run, as in `train`.
    watch
        Stopwatch that the time limit counts from.
    feature_cache
        Where features of frozen layers are kept; `None` for the one of this machine.
    progress
        Called as `progress(what, done, total)`.
    log
        Called with lines for a person; `None` leaves them to `progress`, where that is a `Progress`.

    Returns
    -------
    Comparison
        Standings, the winner and its run. `reused` is true if all of it was finished before.

    Raises
    ------
    UsageError, DataError, ModelError, StudyError, TrainingError
        With one message that says what was found and what to do.
    """
    for network in backbone if isinstance(backbone, list | tuple) else [backbone]:
        demand_backbone(network)
    demand_manifest(data)
    timing.prepare_process()
    torchrun_env.demand_alone("compare")
    loggers = make_loggers(logger, study)
    watch, progress = watch or Stopwatch(), Progress.of(progress, log)
    chosen = Config.of(config, options, without=TRAIN_ALONE)
    if callable(chosen.augment):
        raise UsageError("compare takes augment by name: none, light, standard, strong or randaugment.")
    _demand_share(chosen.interpolate_weights)
    demand_operating_point(chosen, data)
    metrics.resolved(chosen.metric, data.classes, chosen.positive)
    if chosen.repeats < 1:
        raise UsageError(f"{option('repeats')} must be at least 1, found {chosen.repeats}.")
    if cuts and strategies is not None:
        raise UsageError(
            f"{option('cuts')} compares one strategy per stage, and {option('strategies')} names others: "
            "give one of the two."
        )
    if fault := patience_fault(chosen.patience):
        raise UsageError(fault)
    if bool(search) != bool(draws):
        raise UsageError(
            f"{option('search')} names the settings to vary, and {option('draws')} the number of variants: "
            f"found {option('search', ','.join(search))} and {option('draws', draws)}. Give both, or neither."
        )
    strategies = EVERY if strategies is None else strategies
    backbones = {name: network.resized(chosen.resize) for name, network in _by_name(backbone).items()}
    values = chosen.of_strategy
    candidates = listed(
        _strategies(backbones, strategies, cuts),
        chosen.augment,
        1 if draws else least,
        chosen.plain_timm,
        values,
        progress.log,
    )
    chosen = chosen.without_strategy
    named = list(dict.fromkeys(str(candidate.strategy) for candidate in candidates))
    candidates += searched(candidates, search, draws, chosen.seed)
    for candidate in candidates:
        check_options(candidate.augment, chosen.min_crop, chosen.rotate)
    with deadline.within(chosen.minutes, watch):
        data = data.checked(deadline.telling(progress, deadline.READING))
    earlier_findings = data.data_findings
    data = training_overlap.keep_learned_in_train(list(backbones.values()), data, Study(study))
    for finding in data.data_findings:
        if finding not in earlier_findings:
            progress.log(finding.note)
    opened_study = Study.of(study, data)
    data = data.recalled(opened_study.path)
    data.keep_in(opened_study.path, resampling.remembered(data, chosen.seed, chosen.repeats))
    opened_study.write("backbone.json", next(iter(backbones.values())).as_dict())
    request = CompareRequest(
        backbones=backbones,
        data=data,
        candidates=candidates,
        study=opened_study,
        config=chosen,
        thorough=cuts,
        database=database,
        named={
            "strategies": named,
            **({"search": list(search), "draws": draws} if draws else {}),
            **({"hyperparameters": values} if values and cuts else {}),
        },
        loggers=loggers,
        watch=watch,
        cache=feature_cache or FeatureCache(),
        progress=progress,
        joins=earlier,
        leads=leads or {},
    )
    after_s = _demand_time(request, of_fit=leads is not None)
    for line in (*early_stopping.demand_effect(request), _loader_line(request)):
        if line:
            progress.log(line)
    request = join(request)
    for line in request.earlier.lines():
        progress.log(line)
    with deadline.within(chosen.minutes, watch, after_s):
        runner = _runner(request)
    earlier_result = read_result(request.folder)
    outcomes_before = runner.queue.outcomes()
    with contextlib.closing(runner.queue), deadline.lifted():  # its clock keeps the limit
        finished = runner.run() if ray is None else ray_workers.run_trials(request, runner, _runner, ray)
        with deadline.within(chosen.minutes, watch):  # a second process finds the winner trained
            concluding = deadline.exclusive(request.folder / "end.lock", "trains the winner")
            with concluding, deadline.lifted():
                unchanged = (
                    earlier_result if runner.queue.outcomes().keys() == outcomes_before.keys() else None
                )
                return conclude(request, runner, finished, unchanged)


def demand_operating_point(config: Config, data: Manifest) -> None:
    """Raise `UsageError` for an operating point that these images cannot have."""
    target = OperatingTarget.of(config)
    if config.positive is not None:
        demand_class(config.positive, data.classes)
    if target is not None:
        target.check(data.classes)


def _demand_share(share: float | str | None) -> None:
    """Raise `UsageError` for anything but an interpolation share from 0 to 1, or "auto"."""
    if share is None or share == "auto" or (not isinstance(share, str) and 0 <= share <= 1):
        return
    raise UsageError(
        f"{option('interpolate_weights')} must be auto or a number between 0 and 1, found {share!r}."
    )


def _points(request: CompareRequest) -> int:
    """Return at how many shares the winner's weights are interpolated."""
    if request.config.interpolate_weights is None:
        return 0
    return len(POINTS) if request.config.interpolate_weights == "auto" else 1


def _by_name(backbone: Backbone | Sequence[Backbone]) -> dict[str, Backbone]:
    """Return the backbones by name, a single one under "". Raises `UsageError` on equal names."""
    backbones = [backbone] if isinstance(backbone, Backbone) else list(backbone)
    if len(backbones) == 1:
        return {"": backbones[0]}
    by_name = {network.name: network for network in backbones}
    if len(by_name) != len(backbones) or not by_name:
        names = ", ".join(network.name for network in backbones) or "none"
        raise UsageError(f"Compared backbones need different names, found {names}.")
    return by_name


def _strategies(
    backbones: Mapping[str, Backbone], strategies: Strategies | Mapping[str, Strategies], cuts: bool
) -> Strategies | Mapping[str, Strategies]:
    """Return the strategies to compare, by backbone name if there are several backbones."""
    if cuts:
        if len(backbones) > 1:
            raise UsageError("cuts compares how many layers of one network to freeze; give one backbone.")
        return _cut_strategies(*backbones.values())
    if "" in backbones or isinstance(strategies, Mapping):
        if isinstance(strategies, Mapping) and set(strategies) != set(backbones):
            raise UsageError(
                f"Found strategies for {', '.join(strategies)}; expected some for each of "
                f"{', '.join(backbones)}."
            )
        return strategies
    named = strategies if isinstance(strategies, str) else list(strategies)
    return dict.fromkeys(backbones, named)


def _cut_strategies(backbone: Backbone) -> list[Strategy]:
    """Return a strategy for each cut of the backbone, the fewest unfrozen layers first."""
    below = len(backbone.stages) - 1
    unfrozen = [below - cut.index for cut in reversed(backbone.cuts)]
    return [linear_probe(), head(), *(top_k(k) for k in unfrozen if k > 0)]


def _runner(request: CompareRequest) -> TrialRunner:
    """Return the runner with a new plan, or with that of an earlier call with the same time limit."""
    request.folder.mkdir(parents=True, exist_ok=True)
    clock = Clock.begin(request.config.minutes, request.folder / CLOCK, request.watch)
    file = request.folder / PLAN
    plan = json.loads(file.read_text()) if file.exists() else {}
    if not plan or plan["minutes"] != request.config.minutes:
        rates = {name: _rates(request, network) for name, network in request.backbones.items()}
        plan = plain(_plan(request, rates))
        directories.write_atomically(file, json.dumps(plan, indent=1).encode())
    return TrialRunner(
        backbones=request.backbones,
        data=request.data,
        study=request.study,
        candidates=request.candidates,
        schedule=from_data(plan["schedule"]),
        short_s=plan["short_seconds"],
        whole_s=plan["whole_seconds"],
        final_s=plan["final_seconds"],
        queue=TrialQueue.open(request.folder.name, request.folder, request.database),
        clock=clock,
        config=request.run_config,
        loggers=request.loggers,
        cache=request.cache,
        progress=request.progress,
        expected=[profiling.Expected(**row) for row in plan["expected"]],
        others=plan["others"],
        terms=Terms(**plan["terms"]) if plan["terms"] else None,
        pass_s=plan["pass_seconds"],
    )


def _loader_line(request: CompareRequest) -> str:
    """Return which candidates' models need a loader of ours; "" where none does."""
    kinds = [str(network.source.get("kind")) for network in request.backbones.values()]
    return loader_line([candidate.strategy for candidate in request.candidates], kinds)


def _demand_time(request: CompareRequest, *, of_fit: bool) -> float:
    """Raise `NoTime` if the time limit is shorter than what comes before and after the first run.

    Returns the seconds that must be left once the network is timed. `fit` ends with what earlier calls left.
    """
    if request.config.minutes is None:
        return 0.0
    if (request.folder / PLAN).exists():
        if not of_fit:
            _demand_time_left(request, request.config.minutes)
        return 0.0
    data, threads = request.data, request.config.threads
    samples, classes = resampling.pool(data), len(data.classes)
    floor_s, after_s = request.watch.seconds, ENDING_S
    for network in request.backbones.values():
        each_s = pass_s(network, data, samples, threads)
        ready = profiling.ready(network, batch=request.batch(len(samples)), threads=threads, classes=classes)
        floor_s += 0.0 if ready else MEASURING * profiling.timing_s(network, threads)
        after_s += each_s * len(samples)
    floor_s += after_s
    if floor_s > 60.0 * request.config.minutes:
        what = "loading, timing the network, a pass over the images and what follows the last training"
        raise NoTime(refusal(request.config.minutes, floor_s, what))
    return after_s


def _demand_time_left(request: CompareRequest, minutes: float) -> None:
    """Raise `NoTime` if calls with another limit, or none, have taken as long as this one's limit."""
    earlier = json.loads((request.folder / PLAN).read_text())
    clock = Clock.begin(minutes, request.folder / CLOCK, request.watch)
    floor_s = clock.spent_s + ENDING_S
    concluded = read_result(request.folder) is not None
    if earlier["minutes"] != minutes and not concluded and floor_s > clock.limit_s:
        what = f"this comparison's earlier calls ({clock.earlier_s:.0f} s, which count), loading and the end"
        raise NoTime(refusal(minutes, floor_s, what))


def _rates(request: CompareRequest, backbone: Backbone) -> Rates:
    data, config = request.data, request.config
    policy = Policy(request.candidates[0].augment)
    images = Images(
        data, data.subset("train"), backbone.preprocessing, policy=policy, fast=config.fast_pixels
    )
    threads = numerics.thread_count(config.threads, steady=config.deterministic)
    limited = config.minutes is not None
    expected_s = MEASURING * profiling.timing_s(backbone, threads) if limited else 0.0
    with deadline.purpose("loading, timing the network and a run", expected_s):
        return profiling.measure(
            backbone,
            images,
            cache=request.cache,
            batch=request.batch(len(resampling.pool(data))),
            threads=threads,
            classes=len(data.classes),
            workers=config.workers,
        )


def _plan(request: CompareRequest, rates: Mapping[str, Rates]) -> dict[str, Any]:
    """Return what is fixed before the first run: folds, repeats and predicted seconds of each run."""
    data, candidates = request.data, request.candidates
    folds, images = resampling.folds_of(data, request.config.seed), len(resampling.pool(data))
    held_out = len(data.subset("val")) if "val" in data.predefined else images // FOLDS

    def cost(candidate: Candidate, share: float, train: int, val: int, test: int, warm: bool = False) -> Cost:
        return predict(
            scaled(candidate.strategy, share, train),
            rates[candidate.model],
            train=train,
            val=val,
            test=test,
            classes=len(data.classes),
            batch=request.batch(train, candidate.strategy),
            augment=candidate.augment,
            flip=request.config.flip,
            rotate=request.config.rotate,
            warm=warm,
        )

    def seconds(candidate: Candidate, share: float, train: int, val: int, test: int) -> float:
        return cost(candidate, share, train, val, test).seconds

    train_images = images - held_out
    short = [seconds(c, successive_halving.SHORT, train_images, held_out, 0) for c in candidates]
    whole = [seconds(c, 1.0, train_images, held_out, 0) for c in candidates]
    cold_and_warm = [
        [cost(c, 1.0, train_images, held_out, 0, warm) for warm in (False, True)] for c in candidates
    ]
    final = [seconds(c, 1.0, images, 0, len(data.subset("test"))) for c in candidates]
    each_s = max(network.pass_s for network in rates.values())
    schedule, terms = successive_halving.everything(len(candidates), folds, request.config.repeats), None
    if request.config.minutes is None and not request.thorough:
        schedule = successive_halving.plan(len(candidates), folds=folds, repeats=request.config.repeats)
    elif not request.thorough:
        assert request.config.minutes is not None
        terms = Terms(
            folds=folds,
            repeats=request.config.repeats,
            limit_s=60.0 * request.config.minutes,
            closing_s=closing_s(each_s, images, held_out, 60.0 * request.config.minutes, _points(request)),
            held=held_out if metrics.is_share(request.metric) else 0,
        )
    return {
        "minutes": request.config.minutes,
        "schedule": as_data(schedule),
        "short_seconds": short,
        "whole_seconds": whole,
        "final_seconds": final,
        "expected": [
            asdict(profiling.Expected.of(cold, warm, rates[c.model].correction(trains=c.strategy.trains)))
            for c, (cold, warm) in zip(candidates, cold_and_warm, strict=True)
        ],
        "others": max(network.others for network in rates.values()),
        "spread": spread_of_folds(folds),  # of the intervals, for a report during the comparison
        "pass_seconds": each_s,
        "terms": None if terms is None else asdict(terms),
    }
