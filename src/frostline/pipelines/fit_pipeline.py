"""`fit`: from labelled images to a model and a number that can be trusted, in one call.

Load, choose among backbones where several are named, a probe at once (a model that answers within seconds),
measure, plan, race within the time, train the winner on every image, say what it is worth.
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
from frostline.data import Manifest, OnProgress, is_study, load_data
from frostline.diagnostics import Signals
from frostline.distributed import launcher
from frostline.errors import StudyError, UsageError
from frostline.features.augmentation import check_options
from frostline.loggers import Loggers, make_loggers
from frostline.models import Backbone, lineage
from frostline.pipelines import backbone_choice
from frostline.pipelines.time_limits import default_minutes, demand_time, measuring_s
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
from frostline.strategies import Strategy, parse, parse_list
from frostline.studies.best_run import has_finished_run
from frostline.studies.figures import Figure, Rows
from frostline.studies.study_folder import Study
from frostline.system import timing
from frostline.system.timing import Stopwatch
from frostline.training import Run, train

FIT_STUDY = "frostline-fit"  # a folder of its own: it splits the images in another way than `train`
RACED = 4  # the best of the advice, beside the probe and a smaller one for where time is short
SMALLER = "top_k(1)"  # of those that were tried, the one that trains fewest stages
SHOWN = 20  # files that cannot be used, named one by one


@dataclass(frozen=True)
class Fitted:
    """What came out: `result` holds every figure, `run` the model, and what it was chosen by."""

    result: dict[str, Any]
    run: Run
    comparison: Comparison | None  # none where there was no time for a single run
    signals: Signals | None  # these two: none where there was no time to measure the network
    advice: Advice | None
    again: bool = False  # all of it had been finished before, and was read back

    strategy = Figure[str]("The strategy of the model that predicts.")
    accuracy = Figure[float | None]("Share of new images predicted correctly (see `basis`), 0–1.")
    low = Figure[float | None]("Lower end of its 95 % interval.")
    high = Figure[float | None]("Upper end of its 95 % interval.")
    balanced_accuracy = Figure[float | None]("Mean over classes of the share predicted correctly.")
    log_loss = Figure[float | None]("Mean negative log probability of the true class, in nats.")
    log_loss_low = Figure[float | None]("Lower end of its 95 % interval.")
    log_loss_high = Figure[float | None]("Upper end of its 95 % interval.")
    brier = Figure[float | None]("Brier score.")
    brier_low = Figure[float | None]("Lower end of its 95 % interval.")
    brier_high = Figure[float | None]("Upper end of its 95 % interval.")
    ece = Figure[float | None]("Expected calibration error, 0–1.")
    ece_bins = Figure[int | None]("Bins it was computed in.")
    majority_class = Figure[str | None]("The class with most of those images.")
    majority_share = Figure[float | None]("Its share of them: what always predicting it would score.")
    worst_class = Figure[dict[str, Any] | None]("The class with the lowest share predicted correctly.")
    never_asked = Figure[list[str] | None]("Classes without any of those images.")
    class_ratio = Figure[float | None]("Images of the largest training class by those of the smallest.")
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
    report = Figure[str]("The page.")

    def __repr__(self) -> str:
        """Two lines: what answers, and what it is worth."""
        first = f"<Fitted: {self.result['strategy']} on {self.result['model']}; in {self.result['study']}"
        return f"{first}\n{sentences.accuracy(self.result['headline'])}>"

    def _repr_html_(self) -> str:
        """A table, in a notebook."""
        shown = ("strategy", "model", "accuracy", "low", "high", "basis", "seconds", "report")
        rows = [{key: self.result.get(key) for key in shown}]
        return notebook.table_html("Fitted", rows, self.result["verdict"])

    def to_pandas(self) -> Any:
        """What was tried, a row for each strategy. Raises `UsageError` where pandas is not installed."""
        return notebook.frame(self.result["tried"])

    def plot(self) -> notebook.Plot:
        """Draw accuracy against seconds."""
        return notebook.standings_plot(self.result["tried"], self.result["strategy"], self.result["model"])


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
    log: Callable[[str], None] = lambda line: None,
    **options: Unpack[Options],
) -> Fitted:
    """Adapt a backbone to labelled images, and say how good it is.

    `source` is anything that `load_data` takes. Where it names no parts and has fewer than 2,000 images,
    every image trains the model, and its accuracy is estimated from models trained on four fifths (folds
    that keep groups and copies together); else a test part is held out, and read once at the end.
    Images that an existing `study` knows keep the part that they have in it.
    `strategies` races these instead of what experience advises. `logger` follows every run, as in `train`.
    `interpolate_weights` goes back from the winner towards the pretrained network, as in `compare`.
    `path_column`, `label_column` and `group_by` are as in `load_data`; `resize`, `min_crop` and `rotate` as
    in `train`.
    `watch` says when the minutes began. `log` hears sentences for a person.

    `model` is lite0 where nothing else is said. `models` names several, or is "auto" for all that are on
    disk (lite packages, and what timm fetched before): each passes over the images once, and the one whose
    out-of-fold linear probe is best races with the largest of those not separated from it, by strategies.
    None that takes more than `max_latency_ms` for one image, or whose weights are larger than `max_size_mb`
    (10⁶ bytes), both measured here, is looked at further. `models` in the result says what was found.
    `download` is as in `load_backbone`: weights that are not here are asked about before anything is read.
    Raises `DataError`, `ModelError`, `UsageError`, `StudyError` or `TrainingError`.
    """
    timing.prepare_process()
    launcher.demand_alone("fit")
    loggers = make_loggers(logger, study)
    watch = watch or Stopwatch()
    chosen = Config.of(config, options, without=(*TRAIN_ALONE, "batch_size"))
    minutes, seed = chosen.minutes, chosen.seed
    strategies = parse_list(strategies) if isinstance(strategies, str) else strategies
    pinned = [str(parse(name) if isinstance(name, str) else name) for name in strategies or ()]
    limits = Limits(max_latency_ms, max_size_mb)
    wanted = (
        backbone_choice.Wanted(model, models, limits, size, architecture, chosen.resize, download)
        .checked()
        .agreed()
    )
    if callable(chosen.augment):
        raise UsageError("fit takes augment by name: none, light, standard or strong.")
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
    data = _loaded(load).checked(progress)
    backbones = wanted.load(log)
    data = lineage.keep_learned_in_train(backbones, data, Study(study))
    # The first probe and the backbones' own are the same whatever the comparison varies.
    plain = replace(chosen, resize=None, minutes=None, interpolate_weights=None, repeats=REPEATS)
    plain = replace(plain, augment=Config.augment)
    held = _folds(data, seed)
    for line in _found_lines(data, held):
        log(line)
    kept = Study.open(study, data=data.digest, split=data.split_digest, test=data.test_digest)
    data.keep_in(kept.path)
    looked = None
    if wanted.looks:
        left_s = None if minutes is None else 60.0 * minutes - watch.seconds - ENDING_S
        looked = backbone_choice.chosen(
            backbones,
            data,
            limits,
            kept,
            config=plain,
            left_s=left_s,
            progress=progress,
            log=log,
        )
        backbones = [next(b for b in backbones if b.name == row["model"]) for row in looked if row["kept"]]
    demand_time(backbones[0], data, minutes, chosen.threads, watch)
    with FileLock(kept.path / "first.lock"):  # a second process finds the model trained
        first = _probe(backbones[0], data, kept, plain, loggers, progress)
    log(_first_line(first, chosen.metric, watch.seconds))
    measuring = sum(measuring_s(b, data, chosen.threads) for b in backbones)
    plans, raced = dict[str, Planned](), dict[str, list[str]]()
    if minutes is None or watch.seconds + measuring + ENDING_S < 60.0 * minutes:
        plans = {
            b.name: plan(b, data, seed=seed, threads=chosen.threads, progress=progress) for b in backbones
        }
    else:
        log(f"There is no time to measure the network (about {measuring:.0f} s): the probe answers.")
    _tell_of(kept, backbones[0], plans)  # the best so far; at the end the winner
    for name, planned in plans.items():
        raced[name] = pinned or candidates(planned.advice, len(plans))
        if planned.signals.groups:
            log(planned.signals.groups.sentence)
        for line in planned.advice.why:
            log(line if len(plans) == 1 else f"{name}: {line}")
    folds = 1 if "val" in data.given or len(data.samples) >= FEW_IMAGES else FOLDS
    every = [name for mine in raced.values() for name in mine]  # as if the slowest network ran them all
    usual = [default_minutes(planned.advice, every, folds, chosen.repeats) for planned in plans.values()]
    allowed = max(usual) if minutes is None else minutes
    limit = f"{allowed:g} min" + ("" if minutes else ", unless --minutes says otherwise")
    if plans and held:
        log(f"{'Trying' if len(every) == 1 else 'Racing'} {_listed(raced)} for at most {limit}.")
    found: Comparison | None = None
    try:
        if plans:
            found = compare(
                backbones,
                data,
                raced if len(backbones) > 1 else raced[backbones[0].name],
                least=1,
                study=study,
                database=database,
                config=replace(chosen, resize=None, minutes=allowed),
                logger=loggers,
                watch=watch,
                progress=progress,
                log=log,
            )
    except (NoTime, NothingHeldOut) as error:
        log(str(error))
    if not held and data.part("test"):
        first = _tested(backbones[0], data, kept, plain, loggers, progress)
    answering = next(b for b in backbones if b.name == (found.model if found else first.model))
    mine = plans.get(answering.name)
    _tell_of(kept, answering, plans)
    again = found.again if found else first.again
    result = {
        **(_of_race(found) if found else _of_probe(first, kept, chosen.metric, data)),
        "recommended": mine.advice.recommended if mine else None,
        "model": answering.name,
        **({} if looked is None else {"models": looked}),
        "images": len(data.samples),
        "seconds": (_seconds_then(kept) if again else None) or (found.seconds if found else watch.seconds),
        "budget_seconds": 60 * allowed,
        "asked": {
            "source": _name_of(source),
            **wanted.asked(answering),
            "minutes": minutes,
            "strategies": pinned or None,
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
            "deterministic": chosen.deterministic,
            "precision": chosen.precision,
        },
        "study": str(kept.path),
        "report": str(kept.path / REPORT),
    }
    kept.write("fit.json", result)
    try:
        report(kept)
    except StudyError as error:  # a page that can't be written costs no model
        log(str(error))
    told = {**result, "again": again}
    signals, advice = (mine.signals, mine.advice) if mine else (None, None)
    return Fitted(told, found.run if found else first, found, signals, advice, again)


def _seconds_then(kept: Study) -> float | None:
    """Return what the call took that did the work, where its outcome is there and whole."""
    try:
        seconds = (kept.read("fit.json") or {}).get("seconds")
    except StudyError:
        return None
    return float(seconds) if isinstance(seconds, int | float) else None


def _tell_of(kept: Study, backbone: Backbone, plans: Mapping[str, Planned]) -> None:
    """Let the study's own files be about this network."""
    kept.write("backbone.json", backbone.as_dict())
    planned = plans.get(backbone.name)
    if planned is None:
        return
    kept.write("signals.json", planned.signals.as_dict())
    kept.write("advice.json", planned.advice.as_dict())


def _listed(raced: Mapping[str, Sequence[str]]) -> str:
    """Name what races, and on which network where there are several."""
    if len(raced) == 1:
        return ", ".join(*raced.values())
    return "; ".join(f"{', '.join(mine)} on {name}" for name, mine in raced.items())


def candidates(advice: Advice, networks: int = 1) -> list[str]:
    """Return what races: the probe, the recommended strategy, and the best of the others that fit.

    Where several networks race they share the places, so that the race takes as long as with one.
    """
    fitting = [option.strategy for option in advice.options if option.fits]
    wanted = [advice.recommended, *(name for name in fitting if name != advice.recommended)]
    trained = [name for name in wanted if name != "linear_probe"][: math.ceil(RACED / networks)]
    if SMALLER in fitting and SMALLER not in trained:
        trained.append(SMALLER)  # for where the larger don't fit the time
    return ["linear_probe", *trained]


def _loaded(load: Callable[..., Manifest]) -> Manifest:
    """Load with nothing held out; where images are many or the source names parts, with a test part."""
    data = load(test_size=0.0, val_size=0.0)
    few = len(data.samples) < FEW_IMAGES
    if few and not set(data.given) - {"train"}:
        return data
    if "test" in data.given:
        return data if few else load(test_size=0.0)
    return load(val_size=0.0 if few else 0.2)


def _name_of(source: Any) -> str | None:
    """Return a folder's or a file's own name; nothing for a data set in memory."""
    if not isinstance(source, str | Path):
        return None
    return Path(source).resolve().name + ("/" if Path(source).is_dir() else "")


def _folds(data: Manifest, seed: int) -> int:
    """Return how many folds the race will have; 0 where nothing can be held out."""
    try:
        return folds_of(data, seed)
    except NothingHeldOut:
        return 0


def _found_lines(data: Manifest, folds: int) -> list[str]:
    """What was found; `folds` is how many a repeat has."""
    lines = [finding.note for finding in data.said if finding.kind not in ("no_val", "no_test")]
    if data.set_aside:
        lines.append(f"{len(data.set_aside)} file(s) cannot be used and are set aside:")
        lines += [f"  {item.path}: {item.reason}" for item in data.set_aside[:SHOWN]]
        if len(data.set_aside) > SHOWN:
            lines.append(f"  … and {len(data.set_aside) - SHOWN} more (in the study's manifest.jsonl)")
    if not data.part("test") and not folds:
        lines.append(f"Every image will train the model. {sentences.NOTHING_TO_ASK}")
    elif not data.part("test") and folds > 1:
        lines.append(
            "Every image will train the model; its accuracy is estimated from models that learned from "
            f"{sentences.PARTS[folds]} of the images, each asked about the rest."
        )
    return lines


def _probe(
    backbone: Backbone,
    data: Manifest,
    kept: Study,
    config: Config,
    loggers: Loggers,
    progress: OnProgress | None,
) -> Run:
    """Train a linear probe on everything: a model that answers, before anything else is decided."""
    samples = tuple(replace(s, split="train") for s in data.samples if s.split != "test")
    learning = replace(data, samples=samples)
    run = train(
        backbone,
        learning,
        "linear_probe",
        study=sub_study(kept, learning),
        config=config,
        logger=loggers,
        progress=progress,
    )
    if not (has_finished_run(kept) or kept.answer):
        score = run.result["cv_score"]
        kept.answer_by(run.folder, "a linear probe, the first model of this study", score)
    return run


def _tested(
    backbone: Backbone,
    data: Manifest,
    kept: Study,
    config: Config,
    loggers: Loggers,
    progress: OnProgress | None,
) -> Run:
    """Train the probe that answers where nothing can be held out, and read the test part, once."""
    samples = tuple(replace(s, split="train") if s.split == "val" else s for s in data.samples)
    everything = replace(data, samples=samples)
    folder = sub_study(kept, everything)
    run = train(
        backbone, everything, "linear_probe", study=folder, config=config, logger=loggers, progress=progress
    )
    kept.answer_by(run.folder, "a linear probe, since nothing can be held out to compare on")
    return run


def _cross_validated(run: Run) -> tuple[float, float]:
    """Return a 95 % interval of the first probe's accuracy on new images, where folds could be made."""
    assert run.cv_score is not None
    return metrics.wilson(run.cv_score, (run.cv_images or run.n_train) / spread_of_folds(FOLDS))


def _first_line(run: Run, metric: str, seconds: float) -> str:
    answers = f"After {seconds:.0f} s there is a model that answers, a linear probe"
    if metric == "accuracy" and run.cv_score is not None:
        low, high = _cross_validated(run)
        answers += f": {100 * run.cv_score:.0f} % right ({100 * low:.0f}–{100 * high:.0f} %, cross-validated)"
    return f"{answers}. {outlook(read_experience())}".rstrip()


def _of_race(found: Comparison) -> dict[str, Any]:
    """The winner's figures: the comparison's own headline.

    `accuracy_of` says which model the number belongs to: the one that answers, asked about test; or the same
    strategy's models without the fold that each was asked about.
    """
    return {
        "strategy": found.winner,
        **_headlined(found.headline),
        "accuracy_of": _accuracy_of(found),
        "separated": found.separated,
        "run": found.result["run"],
        "tried": found.standings,
        "strategies_tried": found.strategies_tried,
        "runs": found.runs,
        "verdict": found.verdict,
    }


def _accuracy_of(found: Comparison) -> dict[str, Any]:
    own = {"strategy": found.winner, "model": found.model}
    if found.accuracy is not None:
        return {**own, "runs": [found.result["run"]], "images": found.run.n_test, "folds": None}
    return {**own, **{key: found.out_of_fold[key] for key in ("runs", "images", "folds")}}


def _of_probe(run: Run, kept: Study, metric: str, data: Manifest) -> dict[str, Any]:
    """The figures of the first model, where there was no race."""
    why = "Nothing could be held out for a race" if run.cv_score is None else "There was no time for a race"
    headline = _probe_headline(run, metric, data)
    return {
        "strategy": "linear_probe",
        **_headlined(headline),
        "accuracy_of": {
            "strategy": "linear_probe",
            "model": run.result["model"],
            "runs": [str(run.folder.path.relative_to(kept.path))],
            "images": headline["images"],
            "folds": None if headline["basis"] == "test part" else FOLDS,
        },
        "separated": False,
        "run": str(run.folder.path.relative_to(kept.path)),
        "tried": [],
        "strategies_tried": 1,
        "runs": 1,
        "verdict": [f"{why}: the linear probe answers."],
    }


def _headlined(headline: dict[str, Any]) -> dict[str, Any]:
    """The record that the report reads, and its figures where a program looks for them."""
    return {
        **{key: headline[key] for key in ("accuracy", "low", "high", *metrics.BELIEVED, *metrics.BALANCE)},
        "basis": headline["basis"],
        "optimism": headline["optimism"],
        "headline": headline,
    }


def _probe_headline(run: Run, metric: str, data: Manifest) -> dict[str, Any]:
    """The accuracy of a probe without a race: the test part's, else cross-validated, else unknown."""
    tested = run.accuracy is not None
    figures = run.result if tested else dict.fromkeys(("accuracy", "low", "high"))
    note = None
    if not tested and run.cv_score is None:
        note = sentences.NOTHING_TO_ASK
    elif not tested and metric != "accuracy":
        note = f"Cross-validated {metric} {run.cv_score:.3f}; the accuracy was not asked for."
    elif not tested:
        low, high = _cross_validated(run)
        figures = {"accuracy": run.cv_score, "low": low, "high": high}
    balance = (*metrics.BELIEVED, *metrics.BALANCE)
    return {
        **dict.fromkeys(balance),
        **{key: figures[key] for key in ("accuracy", "low", "high", *balance) if key in figures},
        "basis": "test part" if tested else "cross-validation",
        "images": run.n_test if tested else run.cv_images or run.n_train,
        "pool": len(pool(data)),
        "folds": 0,
        "optimism": None,
        "test_looks": run.test_looks,
        "note": note,
    }
