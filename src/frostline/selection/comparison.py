"""`compare`: plan the race, run it, and conclude."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack

import filelock

from frostline import profiling
from frostline.config import TRAIN_ALONE, Config, Options
from frostline.cost import Cost, Rates, predict
from frostline.data import Manifest, OnProgress
from frostline.distributed import launcher
from frostline.errors import UsageError
from frostline.features.augmentation import Policy, check_options
from frostline.features.image_batches import Images
from frostline.loggers import Loggers, make_loggers
from frostline.models import Backbone, lineage
from frostline.selection import ray_workers, resampling, successive_halving
from frostline.selection.candidates import Candidate, Strategies, listed, searched
from frostline.selection.conclusion import Comparison, NoTime, conclude, read_ended
from frostline.selection.earlier_runs import join
from frostline.selection.request import CompareRequest
from frostline.selection.runner import ENDING_S, PLAN, Clock, Contest, as_data, closing_s, from_data
from frostline.selection.scoreboard import Terms
from frostline.selection.trial_queue import Ledger
from frostline.strategies import NAMED, Strategy, head, linear_probe, scaled, top_k
from frostline.studies.study_folder import Study, plain
from frostline.system import directories, numerics, timing
from frostline.system.timing import Stopwatch
from frostline.training import DEFAULT_STUDY, pass_s, refusal
from frostline.training.tuning.wise_ft import POINTS

# What timing a network takes beside what `rates.timing_s` reckons for its precisions alone: 2 to 3 times on
# lite0 at 96 px, one core (docs/LOG.md 2026-11-28).
MEASURING = 2.5
EVERY = tuple(name for name in NAMED if name != "scratch")  # what "all" means


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
    study: str | Path = DEFAULT_STUDY,
    database: str | None = None,
    ray: str | None = None,
    config: Config | None = None,
    logger: str | Iterable[str] | Loggers | None = None,
    watch: Stopwatch | None = None,
    progress: OnProgress | None = None,
    log: Callable[[str], None] = lambda line: None,
    **options: Unpack[Options],
) -> Comparison:
    """Race strategies on the images that may be learned from, and train the winner on all of them.

    `strategies` are notations (or one text with commas), by default every named one but `scratch`. Those that
    `train` tried in this study before, with the settings given here, join them, unless `earlier` is off:
    never at the cost of what is named where `minutes` are short. What can't join stands apart, with the
    reason (`apart` in the result). `again` says that all of it had been finished before.

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
    folder; `database` is the URL of Optuna's storage where SQLite on that folder won't do. `ray`
    ("auto", "local" or an address) spreads the runs over the workers of a Ray cluster that share the study's
    folder, the store and the images: the same runs, with the same outcomes where `threads` are the same.
    `interpolate_weights` takes the winner back some way towards the pretrained network with a probe for a
    head: to a share of the way (0 is that one, 1 the adapted one), or with "auto" to the best of six points
    by answers out of fold: that of the lowest log loss among those that chance may have put below the best.
    Its runs are asked about what they held out at each point; a probe that wins is left alone.
    `resize`, `min_crop` and `rotate` are as in `train`, for every run.
    `logger` follows every run, as in `train`. `watch` says when the minutes began.
    Raises `UsageError`, `DataError`, `ModelError`, `StudyError` or `TrainingError`.
    """
    timing.prepare_process()
    launcher.demand_alone("compare")
    loggers = make_loggers(logger, study)
    watch = watch or Stopwatch()
    chosen = Config.of(config, options, without=TRAIN_ALONE)
    if callable(chosen.augment):
        raise UsageError("compare takes augment by name: none, light, standard or strong.")
    _demand_share(chosen.interpolate_weights)
    data = data.checked(progress)
    if chosen.repeats < 1:
        raise UsageError(f"repeats must be at least 1, found {chosen.repeats}.")
    if cuts and strategies is not None:
        raise UsageError(
            "cuts races a thaw at every stage, and strategies names others: give one of the two."
        )
    if bool(search) != bool(draws):
        raise UsageError(
            f"search names what is varied, and draws how many variants join: found search={list(search)} and "
            f"draws={draws}. Give both, or neither."
        )
    strategies = EVERY if strategies is None else strategies
    backbones = {name: one.resized(chosen.resize) for name, one in _by_name(backbone).items()}
    candidates = listed(_strategies(backbones, strategies, cuts), chosen.augment, least)
    named = list(dict.fromkeys(str(candidate.strategy) for candidate in candidates))
    candidates += searched(candidates, search, draws, chosen.seed)
    for candidate in candidates:
        check_options(candidate.augment, chosen.min_crop, chosen.rotate)
    told = data.notes
    data = lineage.keep_learned_in_train(list(backbones.values()), data, Study(study))
    for note in data.notes:
        if note not in told:
            log(note)
    kept = Study.open(study, data=data.digest, split=data.split_digest, test=data.test_digest)
    data = data.recalled(kept.path)
    data.keep_in(kept.path, resampling.remembered(data, chosen.seed, chosen.repeats))
    kept.write("backbone.json", next(iter(backbones.values())).as_dict())
    request = CompareRequest(
        backbones=backbones,
        data=data,
        candidates=candidates,
        study=kept,
        config=chosen,
        thorough=cuts,
        database=database,
        named={"strategies": named, **({"search": list(search), "draws": draws} if draws else {})},
        loggers=loggers,
        watch=watch,
        progress=progress,
        log=log,
        joins=earlier,
    )
    _demand_time(request)
    request = join(request)
    for line in request.earlier.lines():
        log(line)
    contest = _contest(request)
    ended = read_ended(request.folder)
    before = contest.ledger.outcomes()
    with contextlib.closing(contest.ledger):
        over = contest.run() if ray is None else ray_workers.race(request, contest, _contest, ray)
        with filelock.FileLock(request.folder / "end.lock"):  # who comes second finds the winner trained
            same = ended if contest.ledger.outcomes().keys() == before.keys() else None
            return conclude(request, contest, over, same)


def _demand_share(share: float | str | None) -> None:
    """Raise `UsageError` for anything but a share of the way back, or "auto"."""
    if share is None or share == "auto" or (not isinstance(share, str) and 0 <= share <= 1):
        return
    raise UsageError(f'interpolate_weights must be "auto" or a number between 0 and 1, found {share!r}.')


def _points(request: CompareRequest) -> int:
    """Return at how many points the winner's runs are asked how far to go back."""
    if request.config.interpolate_weights is None:
        return 0
    return len(POINTS) if request.config.interpolate_weights == "auto" else 1


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


def _contest(request: CompareRequest) -> Contest:
    """Plan the race, or read the plan of an earlier call with as many minutes."""
    request.folder.mkdir(parents=True, exist_ok=True)
    clock = Clock.begin(request.config.minutes, request.folder / "clock.json", request.watch)
    file = request.folder / PLAN
    plan = json.loads(file.read_text()) if file.exists() else {}
    if not plan or plan["minutes"] != request.config.minutes:
        known = {name: _rates(request, one) for name, one in request.backbones.items()}
        plan = plain(_plan(request, known))
        directories.write_atomically(file, json.dumps(plan, indent=1).encode())
    return Contest(
        backbones=request.backbones,
        data=request.data,
        study=request.study,
        candidates=request.candidates,
        race=from_data(plan["race"]),
        short_s=plan["short_seconds"],
        whole_s=plan["whole_seconds"],
        final_s=plan["final_seconds"],
        ledger=Ledger.open(request.folder.name, request.folder, request.database),
        clock=clock,
        config=request.run_config,
        loggers=request.loggers,
        progress=request.progress,
        log=request.log,
        expected=[profiling.Expected(**row) for row in plan["expected"]],
        others=plan["others"],
        terms=Terms(**plan["terms"]) if plan["terms"] else None,
        pass_s=plan["pass_seconds"],
    )


def _demand_time(request: CompareRequest) -> None:
    """Refuse a limit that is shorter than what comes before and after the first run. Raises `NoTime`."""
    if request.config.minutes is None or (request.folder / PLAN).exists():
        return
    data, threads = request.data, request.config.threads
    samples, classes = resampling.pool(data), len(data.classes)
    floor_s = request.watch.seconds + ENDING_S
    for one in request.backbones.values():
        each_s = pass_s(one, data, samples, threads)
        ready = profiling.ready(one, batch=request.config.batch_size, threads=threads, classes=classes)
        floor_s += 0.0 if ready else MEASURING * profiling.timing_s(one, threads)
        floor_s += each_s * len(samples)
    if floor_s > 60.0 * request.config.minutes:
        what = "loading, timing the network, a pass over the images and what follows the last training"
        raise NoTime(refusal(request.config.minutes, floor_s, what))


def _rates(request: CompareRequest, backbone: Backbone) -> Rates:
    data, config = request.data, request.config
    policy = Policy(request.candidates[0].augment)
    images = Images(data, data.part("train"), backbone.preprocessing, policy=policy)
    threads = numerics.thread_count(config.threads, steady=config.deterministic)
    return profiling.measure(
        backbone, images, batch=config.batch_size, threads=threads, classes=len(data.classes)
    )


def _plan(request: CompareRequest, known: Mapping[str, Rates]) -> dict[str, Any]:
    """What is fixed before the first run: folds and repeats, and what each run is expected to take."""
    data, candidates = request.data, request.candidates
    folds, images = resampling.folds_of(data, request.config.seed), len(resampling.pool(data))
    hold = len(data.part("val")) if "val" in data.given else images // resampling.FOLDS

    def cost(candidate: Candidate, share: float, train: int, val: int, test: int, warm: bool = False) -> Cost:
        return predict(
            scaled(candidate.strategy, share, train),
            known[candidate.model],
            train=train,
            val=val,
            test=test,
            classes=len(data.classes),
            batch=request.config.batch_size,
            augment=candidate.augment,
            flip=request.config.flip,
            rotate=request.config.rotate,
            warm=warm,
        )

    def seconds(candidate: Candidate, share: float, train: int, val: int, test: int) -> float:
        return cost(candidate, share, train, val, test).seconds

    learn = images - hold
    short = [seconds(c, successive_halving.SHORT, learn, hold, 0) for c in candidates]
    whole = [seconds(c, 1.0, learn, hold, 0) for c in candidates]
    both = [[cost(c, 1.0, learn, hold, 0, warm) for warm in (False, True)] for c in candidates]
    final = [seconds(c, 1.0, images, 0, len(data.part("test"))) for c in candidates]
    each_s = max(one.pass_s for one in known.values())
    planned, terms = successive_halving.everything(len(candidates), folds, request.config.repeats), None
    if request.config.minutes is None and not request.thorough:
        planned = successive_halving.plan(len(candidates), folds=folds, repeats=request.config.repeats)
    elif not request.thorough:
        assert request.config.minutes is not None
        terms = Terms(
            folds=folds,
            repeats=request.config.repeats,
            limit_s=60.0 * request.config.minutes,
            closing_s=closing_s(each_s, images, hold, 60.0 * request.config.minutes, _points(request)),
            held=0 if request.config.metric == "log_loss" else hold,
        )
    return {
        "minutes": request.config.minutes,
        "race": as_data(planned),
        "short_seconds": short,
        "whole_seconds": whole,
        "final_seconds": final,
        "expected": [asdict(profiling.Expected.of(cold, warm)) for cold, warm in both],
        "others": max(one.others for one in known.values()),
        "spread": resampling.spread_of_folds(folds),  # of the intervals, for a report before the end
        "pass_seconds": each_s,
        "terms": None if terms is None else asdict(terms),
    }
