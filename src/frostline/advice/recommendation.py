"""Recommend a strategy for given images and a network, with reasons and what would change them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from frostline.advice import advice_wording
from frostline.advice.advice_wording import PLAINEST, TIME_MARGIN, Inputs, enough, room
from frostline.advice.forecast import Forecast, ForecastModel, choose_strategy, fit
from frostline.advice.knowledge import Facts, Trial, facts_of, read_experience
from frostline.config import AUTO_BATCH, BATCH
from frostline.cost import Cost, Rates, predict
from frostline.diagnostics.pretraining_similarity import FEWEST
from frostline.errors import UsageError
from frostline.reports import notebook
from frostline.strategies import (
    BatchSize,
    ResolvedPhase,
    Strategy,
    batch_size,
    halved,
    hyperparameters,
    parse,
    schedule,
)

# Factor of the intervals' width for networks and sizes without trials: a choice, since trials of one network
# and two sizes can't tell.
WIDENED = 1.5
# Numbers of images, of classes and of images a class within this factor of the trials count as covered, and
# image sizes within the second one.
NEAR_IMAGES, NEAR_SIZE = 2.0, 1.25
BETTER = 0.01  # a probe must beat the commonest class by this accuracy
MORE_IMAGES = 4  # factor for "what with more images?"


@dataclass(frozen=True)
class Budget:
    """Limits on a run; `None` for no limit.

    Parameters
    ----------
    seconds
        Time.
    memory_bytes
        Memory above the imports.
    disk_bytes
        Disk for cached features.
    device_memory_bytes
        Memory of a GPU.
    """

    seconds: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    device_memory_bytes: int | None = None

    def check(self) -> None:
        """Raise `UsageError` if a limit is negative, zero seconds or not finite."""
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise UsageError(f"minutes must be above 0, found {self.seconds / 60:g}.")
        for name in ("memory_bytes", "disk_bytes", "device_memory_bytes"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UsageError(f"{name} must be 0 or more, found {value:g}.")

    def refuses(self, cost: Cost) -> str:
        """Return what does not fit, in words; empty if everything does."""
        exceeded = []
        if self.seconds is not None and TIME_MARGIN * cost.seconds > self.seconds:
            exceeded.append(f"may take {enough(TIME_MARGIN * cost.seconds)}")
        if self.memory_bytes is not None and cost.peak_memory_upper_bytes > self.memory_bytes:
            exceeded.append(f"may hold {room(cost.peak_memory_upper_bytes)} of memory")
        if self.disk_bytes is not None and cost.disk_bytes > self.disk_bytes:
            exceeded.append(f"keeps {room(cost.disk_bytes)} on disk")
        if self.device_memory_bytes is not None and (cost.device_peak_bytes or 0) > self.device_memory_bytes:
            exceeded.append(f"may hold {room(cost.device_peak_bytes or 0)} of a GPU's memory")
        return ", ".join(exceeded)

    def __str__(self) -> str:
        limits = [] if self.seconds is None else [f"{self.seconds / 60:g} min"]
        if self.memory_bytes is not None:
            limits.append(f"{self.memory_bytes / 1e6:g} MB of memory")
        if self.disk_bytes is not None:
            limits.append(f"{self.disk_bytes / 1e6:g} MB on disk")
        if self.device_memory_bytes is not None:
            limits.append(f"{self.device_memory_bytes / 1e6:g} MB of a GPU's memory")
        return ", ".join(limits) or "no limit"


@dataclass(frozen=True)
class Option:
    """One strategy with its forecast and cost.

    Parameters
    ----------
    strategy
        Notation.
    expected_accuracy, low, high
        Forecast of test accuracy and its 80 % interval, 0–1; `None` if there is no forecast.
    cost
        Predicted cost of a run.
    cache
        `cache` to pass to `train`: "compute" if the features don't fit the disk, else "auto".
    fits
        Whether it fits the budget.
    reason
        How it compares with the recommended one, or why it does not fit.
    expected_regret
        Accuracy, 0–1, that choosing it is expected to lose to the best in hindsight of those that fit, by
        earlier image sets; `None` if there is no forecast, or it does not fit.
    hyperparameters
        Learning rate, decay, cut, epochs, augmentation, BatchNorm, size, batch and why.
    """

    strategy: str
    expected_accuracy: float | None
    low: float | None
    high: float | None
    cost: Cost
    cache: str
    fits: bool
    reason: str
    expected_regret: float | None
    hyperparameters: dict[str, Any]

    @property
    def seconds_span(self) -> tuple[float, float]:
        """Lower and upper end of the 80 % interval of the seconds."""
        low, high = advice_wording.SECONDS_SPAN
        return low * self.cost.seconds, high * self.cost.seconds

    def as_dict(self) -> dict[str, Any]:
        """Return the option as plain data."""
        values = {key: value for key, value in asdict(self).items() if key != "cost"}
        cost = {key: getattr(self.cost, key) for key in ("seconds", "peak_memory_bytes", "disk_bytes")}
        device = self.cost.device_peak_bytes
        return {
            **values,
            **cost,
            **dict(zip(("seconds_low", "seconds_high"), self.seconds_span, strict=True)),
            "decides": self.cost.decides,
            "peak_memory_upper_bytes": self.cost.peak_memory_upper_bytes,
            **({} if device is None else {"device_peak_bytes": device}),
        }


@dataclass(frozen=True)
class Advice:
    """Options with a recommended one, and the reasons in plain sentences.

    Parameters
    ----------
    options
        Strategies, those that fit first, then by forecast.
    recommended
        Notation of the recommended strategy.
    runner_up
        Notation of the next best that fits; `None` if there is none.
    expected_regret
        Accuracy, 0–1, that the recommended one is expected to lose to the best in hindsight; `None` if
        nothing can be forecast.
    worst_regret
        The same on the earlier image set where it would be most.
    why
        Sentences that explain the recommendation.
    would_change
        Sentences that say what would change it.
    hyperparameters
        Those of the recommended strategy.
    basis
        "measured", "extrapolated" with the reason in `notes`, or "none" where nothing can be forecast.
    notes
        Caveats.
    leads
        What earlier trials say of one strategy's lead over another, by their notations: mean accuracy, 0–1,
        and standard deviation.
    """

    options: tuple[Option, ...]
    recommended: str
    runner_up: str | None
    expected_regret: float | None
    worst_regret: float | None
    why: tuple[str, ...]
    would_change: tuple[str, ...]
    hyperparameters: dict[str, Any]
    basis: str
    notes: tuple[str, ...]
    leads: Mapping[tuple[str, str], tuple[float, float]] = field(default_factory=dict, repr=False)

    def option(self, strategy: str) -> Option:
        """Return the option of a strategy.

        Parameters
        ----------
        strategy : str
            Its notation, as in `options`.

        Returns
        -------
        Option

        Raises
        ------
        UsageError
            The strategy is not among `options`.
        """
        for option in self.options:
            if option.strategy == strategy:
                return option
        names = ", ".join(option.strategy for option in self.options)
        raise UsageError(f"{strategy!r} is not among the strategies of this plan. Expected one of: {names}.")

    def as_dict(self) -> dict[str, Any]:
        """Return the advice as plain data."""
        values = {key: value for key, value in vars(self).items() if key not in ("options", "leads")}
        return {**values, "options": [option.as_dict() for option in self.options]}

    def __repr__(self) -> str:
        """Return the recommendation and its reasons."""
        return f"<Advice: {self.recommended}, of {len(self.options)} options. {' '.join(self.why)}>"

    def _repr_html_(self) -> str:
        """Return an HTML table for notebooks."""
        shown = ("strategy", "expected_accuracy", "low", "high", "seconds", "reason")
        rows = [{key: option.as_dict()[key] for key in shown} for option in self.options]
        return notebook.table_html(f"Recommended: {self.recommended}", rows, self.why)

    def to_pandas(self) -> Any:
        """Return the options, a row each. Raises `UsageError` if pandas is not installed."""
        return notebook.frame([option.as_dict() for option in self.options])

    def plot(self) -> notebook.Plot:
        """Return a plot of each strategy's forecast."""
        return notebook.options_plot([option.as_dict() for option in self.options])


@dataclass(frozen=True)
class Case:
    """The images and the network that advice is given for.

    Parameters
    ----------
    signals
        `Signals.as_dict()`.
    architecture
        Name of the network's architecture.
    stages
        Stages of the network, the head included.
    train, val, test
        Number of images of each subset.
    classes
        Number of classes.
    augment
        Augmentation.
    batch
        Batch size.
    kind
        Kind of the device that the rule chooses batch sizes for; None: `batch` is what was given.
    random
        Whether the network has random weights.
    commonest
        Share of the training images in the largest class, 0–1.
    probe_accuracy
        Out-of-fold accuracy of a `linear_probe` that was trained on all of these images, 0–1; `None` if there
        is none: that of the images that were measured stands for it.
    plain_timm
        Whether only strategies are considered whose head reads the last stage.
    """

    signals: Mapping[str, Any]
    architecture: str
    stages: int
    train: int
    val: int
    test: int
    classes: int
    augment: str = "standard"
    batch: int = BATCH
    kind: str | None = None
    random: bool = False
    commonest: float = 0.0
    probe_accuracy: float | None = None
    plain_timm: bool = False

    def batch_size(self, strategy: Strategy) -> BatchSize:
        """Return the batch size of a strategy, and how its learning rate follows."""
        requested = self.batch if self.kind is None else AUTO_BATCH
        return batch_size(requested, strategy, images=self.train, kind=self.kind or "")

    def takes(self, strategy: Strategy) -> bool:
        """Return whether a strategy is to be considered for this network."""
        several = strategy.refit_layers or hyperparameters(strategy).layers != "last"
        return (strategy.k or 0) < self.stages and not (self.plain_timm and several)

    @property
    def facts(self) -> Facts | None:
        """Facts that the forecast is based on; `None` if too little could be measured.

        Similarity is `nan` if there are enough images but it can't be measured for the network.
        """
        signals = dict(self.signals)
        if signals["similarity"] is None and self.train >= FEWEST:
            signals["similarity"] = {"value": math.nan}
        facts = facts_of(signals, self.train)
        if facts is None or self.probe_accuracy is None:
            return facts
        return replace(facts, linear_probe=self.probe_accuracy, measured=self._effective_images)

    @property
    def _effective_images(self) -> float | None:
        """How many independent images say as much as all training images.

        More images of the same groups say little more: by the correlation within groups of those measured.
        """
        several = self.signals.get("linear_probe")
        if not several or several["units"] >= several["images"]:
            return None
        images, units = int(several["images"]), int(several["units"])
        within = min(1.0, (images / float(several["effective_images"]) - 1) / (images / units - 1))
        return self.train / (1 + (max(1.0, self.train / units) - 1) * within)

    @property
    def similarity_proven(self) -> bool:
        """Whether the similarity is reliable for this network."""
        return bool(self.signals["similarity"] and self.signals["similarity"]["proven"])


def advise(case: Case, rates: Rates, budget: Budget, trials: Sequence[Trial] | None = None) -> Advice:
    """Rank strategies by forecast and cost, and recommend one.

    Parameters
    ----------
    case
        The images and the network.
    rates
        Measured speed of the network on this machine.
    budget
        Limits on a run.
    trials
        Earlier trials; `None` for the packaged ones.

    Returns
    -------
    Advice
        Options and recommendation.

    Raises
    ------
    UsageError
        If no strategy fits the budget.
    """
    trials = read_experience() if trials is None else trials
    facts = case.facts
    model = fit(trials)
    basis, notes = _basis(case, trials) if facts is not None else ("none", [])
    if facts is not None:
        notes += _doubts(case, facts)
        if not case.similarity_proven:
            facts = replace(facts, similarity=model.typical["similarity"])
    candidates = [name for name in model.strategies if case.takes(parse(name))]
    costs = {name: _cost(name, rates, case, budget) for name in candidates}
    over_budget = {name: budget.refuses(cost) for name, (cost, *_) in costs.items()}
    feasible = [name for name in candidates if not over_budget[name]]
    if not feasible:
        raise UsageError(_nothing_fits({name: cost for name, (cost, *_) in costs.items()}, budget))
    seconds = {name: costs[name][0].seconds for name in candidates}
    widen = _widening(case, trials) if basis == "extrapolated" else 1.0
    expected = {e.strategy: e for e in model.forecasts(facts, widen) if e.strategy in costs} if facts else {}
    if facts is None:
        pick = PLAINEST if PLAINEST in feasible else min(feasible, key=seconds.__getitem__)
    else:
        pick = choose_strategy(model, facts, {name: seconds[name] for name in feasible}).strategy
    order = sorted(
        candidates, key=lambda n: (n not in feasible, -expected[n].accuracy if expected else 0, seconds[n])
    )
    runner_up = next((name for name in order if name in feasible and name != pick), None)
    regrets = {
        name: model.regret_by_set(facts, name, [n for n in expected if n in feasible])
        for name in feasible
        if facts is not None and name in expected
    }
    inputs = Inputs(facts, model, expected, seconds, over_budget, pick, runner_up, regrets.get(pick, {}))
    options = tuple(
        Option(
            name,
            expected[name].accuracy if expected else None,
            expected[name].low if expected else None,
            expected[name].high if expected else None,
            *costs[name][:2],
            fits=not over_budget[name],
            reason=advice_wording.reason(inputs, name),
            expected_regret=_mean(regrets.get(name, {})),
            hyperparameters=described_hyperparameters(name, case, costs[name][2]),
        )
        for name in order
    )
    similarity_text = (
        "similarity unreliable for such a network" if case.signals["similarity"] else "similarity unknown"
    )
    if facts is not None and case.similarity_proven:
        similarity_text = f"similarity {facts.similarity:.2f}"
    return Advice(
        options=options,
        recommended=pick,
        runner_up=runner_up,
        expected_regret=_mean(inputs.regrets),
        worst_regret=max(inputs.regrets.values(), default=None),
        why=advice_wording.why(inputs, similarity_text)
        if facts
        else advice_wording.unknown(case.train, FEWEST, pick),
        would_change=advice_wording.changes(inputs, _with_more(case, facts, model, rates, list(seconds))),
        hyperparameters=next(option.hyperparameters for option in options if option.strategy == pick),
        basis=basis,
        notes=tuple(notes),
        leads={} if facts is None else model.leads(facts),
    )


def _mean(regrets: Mapping[str, float]) -> float | None:
    return statistics.fmean(regrets.values()) if regrets else None


def _with_more(
    case: Case, facts: Facts | None, model: ForecastModel, rates: Rates, names: Sequence[str]
) -> Forecast | None:
    """Return the forecast of the strategy chosen with `MORE_IMAGES` times the images, or `None`."""
    if facts is None:
        return None
    doublings = math.log2(MORE_IMAGES)
    probe = min(1.0, facts.probe + doublings * max(0.0, facts.slope))
    more = probe - facts.probe
    larger = replace(
        facts,
        images=facts.images * MORE_IMAGES,
        probe=probe,
        linear_probe=None if facts.linear_probe is None else min(1.0, facts.linear_probe + more),
        stages=tuple(min(1.0, accuracy + more) for accuracy in facts.stages),
        measured=None if facts.measured is None else facts.measured * MORE_IMAGES,
    )
    larger_case = replace(case, train=case.train * MORE_IMAGES)
    return choose_strategy(
        model, larger, {name: _cost(name, rates, larger_case, Budget())[0].seconds for name in names}
    )


def described_hyperparameters(name: str, case: Case, batch: BatchSize | None = None) -> dict[str, Any]:
    """Return the hyperparameters of a strategy, with every default filled in."""
    strategy: Strategy = parse(name)
    values = hyperparameters(strategy)
    batch = batch or case.batch_size(strategy)
    phases: tuple[ResolvedPhase, ...] = schedule(
        strategy, stages=case.stages, images=case.train, batch=batch.images
    )
    lowest = min((phase.cut for phase in phases), default=case.stages - 1)
    return {
        "lr": batch.lr_factor * values.lr if phases else None,
        "layer_decay": values.layer_decay if phases else None,
        "cut": lowest,
        "epochs": sum(phase.epochs for phase in phases),
        "bn": values.bn if phases else None,
        "augment": case.augment if phases else "none",
        "size": case.signals["input_size"],
        "batch": batch.images,
        "batch_reason": batch.reason if phases and batch.auto else None,
        "batch_lowered": batch.images < case.batch_size(strategy).images,  # for the memory
    }


def _cost(name: str, rates: Rates, case: Case, budget: Budget) -> tuple[Cost, str, BatchSize]:
    """Return the predicted cost, the cache mode and the batch size.

    Features are recomputed if they don't fit the disk. A batch that the rule chose is halved while the run
    doesn't fit the memory.
    """
    strategy = parse(name)
    first = batch = case.batch_size(strategy)
    while True:
        cost, cache = _cost_with(name, rates, case, budget, batch)
        if budget.memory_bytes is None or cost.peak_memory_upper_bytes <= budget.memory_bytes:
            return cost, cache, batch
        smaller = halved(batch, strategy)
        if smaller is None:  # no batch fits: said of the one that the run would have
            return *_cost_with(name, rates, case, budget, first), first
        batch = smaller


def _cost_with(name: str, rates: Rates, case: Case, budget: Budget, batch: BatchSize) -> tuple[Cost, str]:
    def at(cache: str) -> Cost:
        return predict(
            name,
            rates,
            train=case.train,
            val=case.val,
            test=case.test,
            classes=case.classes,
            batch=batch.images,
            augment=case.augment,
            cache=cache,
        )

    cost = at("auto")
    if budget.disk_bytes is not None and cost.disk_bytes > budget.disk_bytes:
        return at("compute"), "compute"
    return cost, "auto"


def _nothing_fits(costs: Mapping[str, Cost], budget: Budget) -> str:
    quickest = min(costs, key=lambda name: costs[name].seconds)
    smallest = min(costs, key=lambda name: costs[name].peak_memory_upper_bytes)
    sentences = [f"The quickest, {quickest}, {budget.refuses(costs[quickest])}."]
    if smallest != quickest and budget.memory_bytes is not None:
        sentences.append(f"The smallest, {smallest}, {budget.refuses(costs[smallest])}.")
    return (
        f"No strategy fits the budget ({budget}). {' '.join(sentences)} "
        "Allow more, use fewer images, or a smaller --size."
    )


def _widening(case: Case, trials: Sequence[Trial]) -> float:
    """Return the factor of the intervals' width for extrapolation; errors shrink with the root of images."""
    fewest = min(trial.facts.images for trial in trials)
    return WIDENED * math.sqrt(max(1.0, fewest / case.train))


def _doubts(case: Case, facts: Facts) -> list[str]:
    """Return caveats about accuracies that are no better than the commonest class."""
    if facts.probe > case.commonest + BETTER:
        return []
    shares = f"{100 * facts.probe:.0f} % against {100 * case.commonest:.0f} %"
    return [f"A frozen probe does no better than always answering the commonest class ({shares})."]


def _basis(case: Case, trials: Sequence[Trial]) -> tuple[str, list[str]]:
    """Return "measured" or "extrapolated", and what differs from the trials."""
    own_trials = [trial for trial in trials if trial.model == case.architecture]
    if case.random:
        reason = f"{case.architecture} has random weights here, and all trials were with pretrained ones"
        return "extrapolated", [f"{reason}: the forecasts are unreliable."]
    if not own_trials:
        names = ", ".join(sorted({trial.model for trial in trials}))
        reason = f"There are no trials of {case.architecture} (only of {names}); intervals are wider."
        return "extrapolated", [reason]
    notes = []
    tried = [trial.facts for trial in own_trials]
    for what, own, trials_had in (
        ("training images", case.train, [facts.images for facts in tried]),
        ("classes", case.classes, [facts.classes for facts in tried]),
        (
            "images a class",
            round(case.train / case.classes),
            [facts.images // facts.classes for facts in tried],
        ),
    ):
        fewest, most = min(trials_had), max(trials_had)
        if not fewest / NEAR_IMAGES <= own <= most * NEAR_IMAGES:
            notes.append(f"{own:,} {what}; the trials had {fewest:,} to {most:,}.")
    size = int(case.signals["input_size"])
    sizes = sorted({trial.size for trial in own_trials})
    if not any(tried_size / NEAR_SIZE <= size <= tried_size * NEAR_SIZE for tried_size in sizes):
        notes.append(f"{size} px; the trials had {', '.join(map(str, sizes))} px.")
    return ("extrapolated", [*notes, "Intervals are wider."]) if notes else ("measured", [])
