"""`fit`: from labelled images to a model and a number that can be trusted, in one call.

Load, choose among backbones where several are named, a probe at once (a model that answers within seconds),
measure, plan, race within the time, train the winner on every image, say what it is worth.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from frostline import launching, lineage, metrics, tracking
from frostline.advice import Advice, Planned, outlook, plan
from frostline.advice.knowledge import read_experience
from frostline.backbone import Backbone
from frostline.comparison import (
    FEW_IMAGES,
    FOLDS,
    Comparison,
    Limits,
    NoTime,
    compare,
    race,
    spread_of_folds,
    sub_study,
)
from frostline.dataset import Manifest, is_study, load_data
from frostline.errors import StudyError
from frostline.images import Tell
from frostline.record import Study
from frostline.reporting import NAME as REPORT
from frostline.reporting import notebook, report
from frostline.signals import Signals
from frostline.story import choosing
from frostline.strategy import parse
from frostline.timing import Stopwatch
from frostline.tracking import Trackers
from frostline.training import Run, train

FIT_STUDY = "frostline-fit"  # a folder of its own: it splits the images in another way than `train`
RACED = 4  # the best of the advice, beside the probe: with more, a short budget repeats none of them
# Without --minutes: what the race is expected to take, within these bounds. Choices: long enough that a race
# on a few hundred images ends by itself, short enough to wait for.
LEAST_MINUTES, MOST_MINUTES = 2.0, 30.0
SHOWN = 20  # files that cannot be used, named one by one


@dataclass(frozen=True)
class Fitted:
    """What came out: `result` holds every figure, `run` the model, and what it was chosen by."""

    result: dict[str, Any]
    run: Run
    comparison: Comparison | None  # none where there was no time for a single run
    signals: Signals
    advice: Advice

    def __getattr__(self, name: str) -> Any:
        result = self.__dict__.get("result", {})
        if name in result:
            return result[name]
        raise AttributeError(f"A fitted model has no {name!r}. It has {', '.join(result)}.")

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
    minutes: float | None = None,
    strategies: Sequence[str] | None = None,
    repeats: int = 3,
    study: str | Path = FIT_STUDY,
    database: str | None = None,
    seed: int = 0,
    metric: str = "accuracy",
    augment: str = "standard",
    flip: str = "auto",
    imbalance: str = "none",
    exact: bool = False,
    precision: str = "auto",
    threads: int | None = None,
    workers: int = 0,
    interpolate: float | str | None = None,
    strict: bool = False,
    split_names: Mapping[str, str] | str | None = None,
    intensity_range: str | tuple[float, float] | None = None,
    alpha_background: str | None = None,
    tracker: str | Iterable[str] | Trackers | None = None,
    watch: Stopwatch | None = None,
    tell: Tell | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Fitted:
    """Adapt a backbone to labelled images, and say how good it is.

    `source` is anything that `load_data` takes. Where it names no parts and has fewer than 2,000 images,
    every image trains the model, and its accuracy is estimated from models trained on four fifths (folds
    that keep groups and copies together); else a test part is held out, and read once at the end.
    `strategies` races these instead of what experience advises. `tracker` follows every run, as in `train`.
    `interpolate` goes back from the winner towards the pretrained network, as in `compare`.
    `watch` says when the minutes began. `say` hears sentences for a person.

    `model` is lite0 where nothing else is said. `models` names several, or is "auto" for all that are on
    disk (lite packages, and what timm fetched before): each passes over the images once, and the one whose
    out-of-fold linear probe is best races with the largest of those not separated from it, by strategies.
    None that takes more than `max_latency_ms` for one image, or whose weights are larger than `max_size_mb`
    (10⁶ bytes), both measured here, is looked at further. `models` in the result says what was found.
    Raises `DataError`, `ModelError`, `UsageError`, `StudyError` or `TrainingError`.
    """
    launching.demand_alone("fit")
    trackers = tracking.asked(tracker, study)
    watch = watch or Stopwatch()
    pinned = [str(parse(name)) for name in strategies or ()]
    limits = Limits(max_latency_ms, max_size_mb)
    wanted = choosing.Wanted(model, models, limits, size, architecture).checked()
    before = study if is_study(Path(study)) else None
    loading = {
        "seed": seed,
        "strict": strict,
        "split_names": split_names,
        "intensity_range": intensity_range,
        "alpha_background": alpha_background,
        "progress": tell,
        "study": before,
    }
    data = _load(source, loading).checked(tell)
    backbones = wanted.load(say)
    data = lineage.respected(backbones, data, Study(study))
    options: dict[str, Any] = {
        "metric": metric,
        "flip": flip,
        "imbalance": imbalance,
        "exact": exact,
        "precision": precision,
        "threads": threads,
        "workers": workers,
    }
    for line in _found_lines(data):
        say(line)
    kept = Study.open(study, data=data.digest, split=data.split_digest, test=data.test_digest)
    data.keep_in(kept.path)
    looked = None
    if wanted.looks:
        looked = choosing.chosen(
            backbones, data, limits, kept, seed=seed, options=options, tell=tell, say=say
        )
        backbones = [next(b for b in backbones if b.name == row["model"]) for row in looked if row["kept"]]
    with FileLock(kept.path / "first.lock"):  # a second process finds the model trained
        first = _probe(backbones[0], data, kept, seed, {**options, "tracker": trackers}, tell)
    say(_first_line(first, metric, watch.seconds))
    plans = {b.name: plan(b, data, seed=seed, threads=threads, tell=tell) for b in backbones}
    _tell_of(kept, backbones[0], plans)  # the best so far; at the end the winner
    raced = {}
    for name, planned in plans.items():
        raced[name] = pinned or candidates(planned.advice, len(plans))
        for line in planned.advice.why:
            say(line if len(plans) == 1 else f"{name}: {line}")
    folds = 1 if "val" in data.given or len(data.samples) >= FEW_IMAGES else FOLDS
    every = [name for mine in raced.values() for name in mine]  # as if the slowest network ran them all
    expected = max(default_minutes(planned.advice, every, folds, repeats) for planned in plans.values())
    allowed = expected if minutes is None else minutes
    limit = f"{allowed:g} min" + ("" if minutes else ", unless --minutes says otherwise")
    say(f"{'Trying' if len(every) == 1 else 'Racing'} {_listed(raced)} for at most {limit}.")
    found = None
    try:
        found = compare(
            backbones,
            data,
            raced if len(backbones) > 1 else raced[backbones[0].name],
            minutes=allowed,
            repeats=repeats,
            least=1,
            study=study,
            database=database,
            seed=seed,
            augment=augment,
            interpolate=interpolate,
            tracker=trackers,
            watch=watch,
            tell=tell,
            say=say,
            **options,
        )
    except NoTime as error:
        say(str(error))
    chosen = next(b for b in backbones if b.name == (found.model if found else first.model))
    planned = plans[chosen.name]
    _tell_of(kept, chosen, plans)
    result = {
        **(_of_race(found) if found else _of_probe(first, kept, metric)),
        "recommended": planned.advice.recommended,
        "model": chosen.name,
        **({} if looked is None else {"models": looked}),
        "images": len(data.samples),
        "seconds": watch.seconds,
        "budget_seconds": 60 * allowed,
        "asked": {
            "source": _name_of(source),
            **wanted.asked(chosen),
            "minutes": minutes,
            "strategies": list(strategies) if strategies else None,
            "repeats": repeats,
            "seed": seed,
            "augment": augment,
            **({} if interpolate is None else {"interpolate": interpolate}),
            **{key: value for key, value in options.items() if key not in ("threads", "workers")},
        },
        "study": str(kept.path),
        "report": str(kept.path / REPORT),
    }
    kept.write("fit.json", result)
    try:
        report(kept)
    except StudyError as error:  # a page that can't be written costs no model
        say(str(error))
    return Fitted(result, found.run if found else first, found, planned.signals, planned.advice)


def _tell_of(kept: Study, backbone: Backbone, plans: Mapping[str, Planned]) -> None:
    """Let the study's own files be about this network."""
    planned = plans[backbone.name]
    kept.write("backbone.json", backbone.as_dict())
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
    trained = [name for name in wanted if name != "linear_probe"]
    return ["linear_probe", *trained[: math.ceil(RACED / networks)]]


def default_minutes(advice: Advice, raced: Sequence[str], folds: int, repeats: int) -> float:
    """Return what a race among these is expected to take, within bounds."""
    known = {option.strategy: option.cost.seconds for option in advice.options}
    each = [known[name] for name in raced if name in known]
    typical = statistics.fmean(each) if each else 0.0
    whole, short = [typical] * len(raced), [race.SHORT * typical] * len(raced)
    planned = race.plan(short, whole, folds=folds, repeats=repeats)
    expected_s = race.expected_s(planned, short, whole) + typical
    return min(MOST_MINUTES, max(LEAST_MINUTES, math.ceil(expected_s / 60)))


def _load(source: Any, options: dict[str, Any]) -> Manifest:
    """Load with nothing held out; where images are many or the source names parts, with a test part."""
    data = load_data(source, test=0.0, val=0.0, **options)
    few = len(data.samples) < FEW_IMAGES
    if few and not set(data.given) - {"train"}:
        return data
    if "test" in data.given:
        return data if few else load_data(source, test=0.0, **options)
    return load_data(source, val=0.0 if few else 0.2, **options)


def _name_of(source: Any) -> str | None:
    """Return a folder's or a file's own name; nothing for a data set in memory."""
    if not isinstance(source, str | Path):
        return None
    return Path(source).resolve().name + ("/" if Path(source).is_dir() else "")


def _found_lines(data: Manifest) -> list[str]:
    lines = [note for note in data.notes if "No val part" not in note and "no test part" not in note.lower()]
    if data.set_aside:
        lines.append(f"{len(data.set_aside)} file(s) cannot be used and are set aside:")
        lines += [f"  {item.path}: {item.reason}" for item in data.set_aside[:SHOWN]]
        if len(data.set_aside) > SHOWN:
            lines.append(f"  … and {len(data.set_aside) - SHOWN} more (in the study's manifest.jsonl)")
    if not data.part("test"):
        lines.append(
            "Every image will train the model; its accuracy is estimated from models trained on four fifths, "
            "each asked about the fifth that it has not seen."
        )
    return lines


def _probe(
    backbone: Backbone, data: Manifest, kept: Study, seed: int, options: dict[str, Any], tell: Tell | None
) -> Run:
    """Train a linear probe on everything: a model that answers, before anything else is decided."""
    samples = tuple(replace(s, split="train") for s in data.samples if s.split != "test")
    learning = replace(data, samples=samples)
    run = train(
        backbone, learning, "linear_probe", study=sub_study(kept, learning), seed=seed, tell=tell, **options
    )
    if not (kept.path / "answer.json").exists():
        score = run.result["cv_score"]
        kept.answer_by(run.folder, "a linear probe, the first model of this study", score)
    return run


def _cross_validated(run: Run) -> tuple[float, float]:
    """Return a 95 % interval of the first probe's accuracy on new images."""
    return metrics.wilson(run.cv_score, run.n_train / spread_of_folds(FOLDS))


def _first_line(run: Run, metric: str, seconds: float) -> str:
    answers = f"After {seconds:.0f} s there is a model that answers, a linear probe"
    if metric == "accuracy":
        low, high = _cross_validated(run)
        answers += f": {100 * run.cv_score:.0f} % right ({100 * low:.0f}–{100 * high:.0f} %, cross-validated)"
    return f"{answers}. {outlook(read_experience())}".rstrip()


def _of_race(found: Comparison) -> dict[str, Any]:
    """The winner's figures; accuracy is the test part's where there is one, else the folds'."""
    tested = found.accuracy is not None
    figures = found.result if tested else found.out_of_fold
    return {
        "strategy": found.winner,
        "accuracy": figures["accuracy"],
        "low": figures["low"],
        "high": figures["high"],
        **{key: (found.run.result if tested else figures).get(key) for key in metrics.BELIEVED},
        "basis": "test part" if tested else "out of fold" if figures["share"] == 1.0 else "short runs",
        "optimism": None if tested else figures["optimism"],
        "separated": found.separated,
        "run": found.result["run"],
        "tried": found.standings,
        "verdict": found.verdict,
    }


def _of_probe(run: Run, kept: Study, metric: str) -> dict[str, Any]:
    """The figures of the first model, where there was no time for another."""
    known = metric == "accuracy"
    low, high = _cross_validated(run) if known else (None, None)
    return {
        "strategy": "linear_probe",
        "accuracy": run.cv_score if known else None,
        "low": low,
        "high": high,
        **dict.fromkeys(metrics.BELIEVED),
        "basis": "cross-validation",
        "optimism": None,
        "separated": False,
        "run": str(run.folder.path.relative_to(kept.path)),
        "tried": [],
        "verdict": ["There was no time for a race: the linear probe answers."],
    }
