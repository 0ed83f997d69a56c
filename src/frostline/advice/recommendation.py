"""`plan`: which strategy to use on these images with this network, why, and what would change that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from frostline.advice import text
from frostline.advice.forecast import Expected, Model, chosen, fit
from frostline.advice.knowledge import Facts, Trial, facts_of, read_experience
from frostline.advice.text import PLAINEST, TIME_MARGIN, Picture, enough, room
from frostline.cost import Cost, Rates, predict
from frostline.diagnostics.similarity import FEWEST
from frostline.errors import UsageError
from frostline.reports import notebook
from frostline.strategies import ResolvedPhase, Strategy, hyperparameters, parse, schedule

# How much wider intervals are for networks and sizes that were never tried: a choice, since one network and
# two sizes can't tell.
WIDENED = 1.5
# Images within this factor of what was tried count as tried; so do image sizes within the second one.
NEAR_IMAGES, NEAR_SIZE = 2.0, 1.25
BETTER = 0.01  # a probe that beats the commonest class by less knows nothing
MORE_IMAGES = 4  # times as many: the question people ask


@dataclass(frozen=True)
class Budget:
    """What a run may take: seconds, bytes of memory above the imports, bytes on disk. `None`: no limit."""

    seconds: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None

    def check(self) -> None:
        """Refuse a budget that is none. Raises `UsageError`."""
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise UsageError(f"minutes must be above 0, found {self.seconds / 60:g}.")
        for name, value in (("memory_bytes", self.memory_bytes), ("disk_bytes", self.disk_bytes)):
            if value is not None and not 0 <= value < math.inf:
                raise UsageError(f"{name} must be 0 or more, found {value:g}.")

    def refuses(self, cost: Cost) -> str:
        """Say what does not fit; empty where all does."""
        found = []
        if self.seconds is not None and TIME_MARGIN * cost.seconds > self.seconds:
            found.append(f"may take {enough(TIME_MARGIN * cost.seconds)}")
        if self.memory_bytes is not None and cost.peak_memory_upper_bytes > self.memory_bytes:
            found.append(f"may hold {room(cost.peak_memory_upper_bytes)} of memory")
        if self.disk_bytes is not None and cost.disk_bytes > self.disk_bytes:
            found.append(f"keeps {room(cost.disk_bytes)} on disk")
        return ", ".join(found)

    def __str__(self) -> str:
        limits = [] if self.seconds is None else [f"{self.seconds / 60:g} min"]
        if self.memory_bytes is not None:
            limits.append(f"{self.memory_bytes / 1e6:g} MB of memory")
        if self.disk_bytes is not None:
            limits.append(f"{self.disk_bytes / 1e6:g} MB on disk")
        return ", ".join(limits) or "no limit"


@dataclass(frozen=True)
class Option:
    """One strategy: what to expect of it (80 % interval; `None` where nothing can be said) and its cost."""

    strategy: str
    expected_accuracy: float | None
    low: float | None
    high: float | None
    cost: Cost
    rows: str  # to pass to `train`: "compute" where rows don't fit the disk
    fits: bool
    reason: str
    hyperparameters: dict[str, Any]  # rates, cut, epochs, augmentation, BatchNorm, size

    def as_dict(self) -> dict[str, Any]:
        """The option as plain data."""
        found = {key: value for key, value in asdict(self).items() if key != "cost"}
        cost = {key: getattr(self.cost, key) for key in ("seconds", "peak_memory_bytes", "disk_bytes")}
        return {**found, **cost, "peak_memory_upper_bytes": self.cost.peak_memory_upper_bytes}


@dataclass(frozen=True)
class Advice:
    """Options, the best first, one of them recommended, and the reasons in plain sentences."""

    options: tuple[Option, ...]
    recommended: str
    runner_up: str | None
    why: tuple[str, ...]
    would_change: tuple[str, ...]
    hyperparameters: dict[str, Any]  # of the recommended strategy
    basis: str  # "measured", or "extrapolated" with the reason in `notes`
    notes: tuple[str, ...]

    def option(self, strategy: str) -> Option:
        """Return one of the options."""
        return next(option for option in self.options if option.strategy == strategy)

    def as_dict(self) -> dict[str, Any]:
        """The advice as plain data."""
        found = {key: value for key, value in vars(self).items() if key != "options"}
        return {**found, "options": [option.as_dict() for option in self.options]}

    def __repr__(self) -> str:
        """What is recommended, and why."""
        return f"<Advice: {self.recommended}, of {len(self.options)} options. {' '.join(self.why)}>"

    def _repr_html_(self) -> str:
        """A table, in a notebook."""
        shown = ("strategy", "expected_accuracy", "low", "high", "seconds", "reason")
        rows = [{key: option.as_dict()[key] for key in shown} for option in self.options]
        return notebook.table_html(f"Recommended: {self.recommended}", rows, self.why)

    def to_pandas(self) -> Any:
        """The options, a row each. Raises `UsageError` where pandas is not installed."""
        return notebook.frame([option.as_dict() for option in self.options])

    def plot(self) -> notebook.Plot:
        """Draw what is expected of each strategy."""
        return notebook.options_plot([option.as_dict() for option in self.options])


@dataclass(frozen=True)
class Case:
    """What advice is asked about: the images, the network, and what the images said."""

    signals: Mapping[str, Any]  # `Signals.as_dict()`
    architecture: str
    stages: int  # the head included
    train: int
    val: int
    test: int
    classes: int
    augment: str = "standard"
    batch: int = 32
    random: bool = False  # the network's weights
    commonest: float = 0.0  # share of the training images in the largest class

    @property
    def facts(self) -> Facts | None:
        """What the forecast looks at; `None` where too little could be measured.

        Similarity is `nan` where there are images enough and the network can't be listened to.
        """
        signals = dict(self.signals)
        if signals["similarity"] is None and self.train >= FEWEST:
            signals["similarity"] = {"value": math.nan}
        return facts_of(signals, self.train)

    @property
    def proven(self) -> bool:
        """Whether the similarity may be relied on."""
        return bool(self.signals["similarity"] and self.signals["similarity"]["proven"])


def advise(case: Case, rates: Rates, budget: Budget, trials: Sequence[Trial] | None = None) -> Advice:
    """Rank the strategies that were tried, with what they would cost here, and recommend one.

    Raises `UsageError` where not one fits the budget.
    """
    trials = read_experience() if trials is None else trials
    model = fit(trials)
    basis, notes = _basis(case, trials)
    facts = case.facts
    if facts is not None:
        notes += _doubts(case, facts)
        if not case.proven:
            facts = replace(facts, similarity=model.typical["similarity"])
    able = [name for name in model.strategies if (parse(name).k or 0) < case.stages]
    costs = {name: _cost(name, rates, case, budget) for name in able}
    refused = {name: budget.refuses(cost) for name, (cost, _) in costs.items()}
    fitting = [name for name in able if not refused[name]]
    if not fitting:
        raise UsageError(_nothing_fits({name: cost for name, (cost, _) in costs.items()}, budget))
    seconds = {name: costs[name][0].seconds for name in able}
    widen = _widening(case, trials) if basis == "extrapolated" else 1.0
    expected = {e.strategy: e for e in model.expect(facts, widen) if e.strategy in costs} if facts else {}
    if facts is None:
        pick = PLAINEST if PLAINEST in fitting else min(fitting, key=seconds.__getitem__)
    else:
        pick = chosen(model, facts, {name: seconds[name] for name in fitting}).strategy
    order = sorted(
        able, key=lambda n: (n not in fitting, -expected[n].accuracy if expected else 0, seconds[n])
    )
    runner_up = next((name for name in order if name in fitting and name != pick), None)
    picture = Picture(facts, model, expected, seconds, refused, pick, runner_up)
    options = tuple(
        Option(
            name,
            expected[name].accuracy if expected else None,
            expected[name].low if expected else None,
            expected[name].high if expected else None,
            *costs[name],
            fits=not refused[name],
            reason=text.reason(picture, name),
            hyperparameters=described_hyperparameters(name, case),
        )
        for name in order
    )
    near = "similarity unproven for such a network" if case.signals["similarity"] else "similarity unknown"
    if facts is not None and case.proven:
        near = f"similarity {facts.similarity:.2f}"
    return Advice(
        options=options,
        recommended=pick,
        runner_up=runner_up,
        why=text.why(picture, near) if facts else text.unknown(case.train, FEWEST, pick),
        would_change=text.changes(picture, _with_more(case, facts, model, rates, list(seconds))),
        hyperparameters=next(option.hyperparameters for option in options if option.strategy == pick),
        basis=basis,
        notes=tuple(notes),
    )


def _with_more(
    case: Case, facts: Facts | None, model: Model, rates: Rates, names: Sequence[str]
) -> Expected | None:
    """Return what would be chosen with `MORE_IMAGES` times the images, if anything can be said."""
    if facts is None:
        return None
    doublings = math.log2(MORE_IMAGES)
    probe = min(1.0, facts.probe + doublings * max(0.0, facts.slope))
    larger = replace(facts, images=facts.images * MORE_IMAGES, probe=probe)
    more = replace(case, train=case.train * MORE_IMAGES)
    return chosen(model, larger, {name: _cost(name, rates, more, Budget())[0].seconds for name in names})


def described_hyperparameters(name: str, case: Case) -> dict[str, Any]:
    """Everything that the strategy decides, with every default filled in."""
    strategy: Strategy = parse(name)
    known = hyperparameters(strategy)
    phases: tuple[ResolvedPhase, ...] = schedule(
        strategy, stages=case.stages, images=case.train, batch=case.batch
    )
    lowest = min((phase.cut for phase in phases), default=case.stages - 1)
    return {
        "lr": known.lr if phases else None,
        "layer_decay": known.layer_decay if phases else None,
        "cut": lowest,
        "epochs": sum(phase.epochs for phase in phases),
        "bn": known.bn if phases else None,
        "augment": case.augment if phases else "none",
        "size": case.signals["input_size"],
        "batch": case.batch,
    }


def _cost(name: str, rates: Rates, case: Case, budget: Budget) -> tuple[Cost, str]:
    """Predict the cost, without the store where its rows don't fit the disk."""

    def at(rows: str) -> Cost:
        return predict(
            name,
            rates,
            train=case.train,
            val=case.val,
            test=case.test,
            classes=case.classes,
            batch=case.batch,
            augment=case.augment,
            rows=rows,
        )

    found = at("auto")
    if budget.disk_bytes is not None and found.disk_bytes > budget.disk_bytes:
        return at("compute"), "compute"
    return found, "auto"


def _nothing_fits(costs: Mapping[str, Cost], budget: Budget) -> str:
    quickest = min(costs, key=lambda name: costs[name].seconds)
    smallest = min(costs, key=lambda name: costs[name].peak_memory_upper_bytes)
    found = [f"The quickest, {quickest}, {budget.refuses(costs[quickest])}."]
    if smallest != quickest and budget.memory_bytes is not None:
        found.append(f"The smallest, {smallest}, {budget.refuses(costs[smallest])}.")
    return (
        f"No strategy fits the budget ({budget}). {' '.join(found)} "
        "Allow more, use fewer images, or a smaller --size."
    )


def _widening(case: Case, trials: Sequence[Trial]) -> float:
    """How much wider intervals are for what was never tried; errors of few images shrink as their root."""
    fewest = min(trial.facts.images for trial in trials)
    return WIDENED * math.sqrt(max(1.0, fewest / case.train))


def _doubts(case: Case, facts: Facts) -> list[str]:
    """Say where accuracy tells little, whatever its interval."""
    if facts.probe > case.commonest + BETTER:
        return []
    shares = f"{100 * facts.probe:.0f} % against {100 * case.commonest:.0f} %"
    return [f"A frozen probe does no better than always answering the commonest class ({shares})."]


def _basis(case: Case, trials: Sequence[Trial]) -> tuple[str, list[str]]:
    """Tell whether such a case was tried, and what is new about it."""
    mine = [trial for trial in trials if trial.model == case.architecture]
    if case.random:
        doubt = f"{case.architecture} has random weights here, and all that was tried was pretrained"
        return "extrapolated", [f"{doubt}: trust no forecast."]
    if not mine:
        names = ", ".join(sorted({trial.model for trial in trials}))
        return "extrapolated", [f"{case.architecture} was never tried (tried: {names}); intervals are wider."]
    notes = []
    fewest, most = (f(trial.facts.images for trial in mine) for f in (min, max))
    if not fewest / NEAR_IMAGES <= case.train <= most * NEAR_IMAGES:
        notes.append(f"{case.train:,} training images; tried were {fewest:,} to {most:,}.")
    size = int(case.signals["input_size"])
    sizes = sorted({trial.size for trial in mine})
    if not any(one / NEAR_SIZE <= size <= one * NEAR_SIZE for one in sizes):
        notes.append(f"{size} px; tried were {', '.join(map(str, sizes))} px.")
    return ("extrapolated", [*notes, "Intervals are wider."]) if notes else ("measured", [])
