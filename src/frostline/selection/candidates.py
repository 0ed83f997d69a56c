"""The candidates of a comparison: named strategies and variants drawn around them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from frostline.config import SEARCHED
from frostline.errors import UsageError, did_you_mean, option
from frostline.strategies import (
    KINDS,
    Strategy,
    checked,
    hyperparameters,
    overridden,
    parse,
    parse_list,
    timm_loadable,
)
from frostline.strategies.overrides import no_use, takers

# The search space: learning rates relative to each strategy's own default, the rest over the ranges in common
# use (`Hyperparameters` names the sources).
RATES = (0.25, 4.0)  # times the strategy's own learning rate, on a log scale
DECAYS = (0.65, 1.0)  # layer-wise decay a stage: BEiT's 0.65 is the lowest in common use
WEIGHT_DECAYS = (1e-3, 0.1)  # log scale
STRENGTHS = ("none", "light", "standard", "strong")  # of augmentation, weakest first


@dataclass(frozen=True)
class Candidate:
    """A strategy with its augmentation; `model` is empty if the comparison has a single network."""

    strategy: Strategy
    augment: str
    model: str = ""

    def __str__(self) -> str:
        return f"{self.strategy} on {self.model}" if self.model else str(self.strategy)

    def as_list(self) -> list[str]:
        """Return what identifies it, as plain data."""
        return [str(self.strategy), self.augment, *([self.model] if self.model else [])]


Strategies = Iterable[str | Strategy]


def listed(
    names: Strategies | Mapping[str, Strategies],
    augment: str,
    least: int = 2,
    plain_timm: bool = False,
    values: Mapping[str, object] | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> list[Candidate]:
    """Return the named strategies as candidates, each once.

    Parameters
    ----------
    names
        Strategies or their notations; a mapping gives them for each model's name.
    augment
        Augmentation of all of them.
    least
        Smallest number of candidates allowed.
    plain_timm
        Give solved heads the form that timm loads alone.
    values
        Hyperparameters for each strategy that takes them, by name.
    log
        Called with a line for each of `values` that some strategies do not take.

    Raises
    ------
    UsageError
        If a notation is wrong, no strategy takes one of `values`, or fewer than `least` candidates remain.
    """
    by_model = dict(names) if isinstance(names, Mapping) else {"": names}
    by_model = {
        name: parse_list(strategies) if isinstance(strategies, str) else strategies
        for name, strategies in by_model.items()
    }
    parsed = [
        (model, parse(name) if isinstance(name, str) else checked(name))
        for model, strategies in by_model.items()
        for name in strategies
    ]
    changed = overridden([strategy for _, strategy in parsed], values or {})
    for line in changed.lines():
        log(line)
    unique = list(
        dict.fromkeys(
            Candidate(timm_loadable(strategy) if plain_timm else strategy, augment, model)
            for (model, _), strategy in zip(parsed, changed.strategies, strict=True)
        )
    )
    if len(unique) < least:
        raise UsageError(
            f"Found {len(unique)} strategy to compare; name at least two, such as "
            f"linear_probe,top_k(2),lp_ft, or give {option('search')}, such as lr, to compare variants "
            "of the one."
        )
    return unique


def searched(base: Sequence[Candidate], search: Sequence[str], draws: int, seed: int) -> list[Candidate]:
    """Return `draws` variants of the candidates that train, from Optuna's quasi-random sampler.

    Every process of a comparison draws the same ones.

    Parameters
    ----------
    base
        Candidates to vary.
    search
        Names of the settings to vary, some of `SEARCHED`.
    draws
        Number of draws.
    seed
        Seed of the sampler.

    Raises
    ------
    UsageError
        If `search` names an unknown setting, or no candidate trains.
    """
    unknown = [f"{name!r}{did_you_mean(name, SEARCHED)}" for name in search if name not in SEARCHED]
    if unknown:
        raise UsageError(f"Cannot search {', '.join(unknown)}. Known: {', '.join(SEARCHED)}.")
    training = [candidate for candidate in base if candidate.strategy.trains]
    if not (search and draws):
        return []
    if not training:
        names = ", ".join(dict.fromkeys(str(candidate.strategy) for candidate in base))
        raise UsageError(
            f"{names} is solved for and has nothing of {', '.join(search)} to search: name a strategy that "
            "trains, such as top_k(1)."
        )
    in_vain = [name for name in search if name != "augment" and not _takers(training, name)]
    if in_vain:
        names = ", ".join(dict.fromkeys(str(candidate.strategy) for candidate in training))
        raise UsageError(
            f"{option('search', in_vain[0])} has no effect on {names}. Leave it out, or take one of "
            f"{', '.join(takers(in_vain[0]))}."
        )
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.QMCSampler(
            seed=seed % 2**31, scramble=True, warn_asynchronous_seeding=False
        )
    space: dict[str, optuna.distributions.BaseDistribution] = {
        "lr": optuna.distributions.FloatDistribution(*RATES, log=True),
        "layer_decay": optuna.distributions.FloatDistribution(*DECAYS),
        "weight_decay": optuna.distributions.FloatDistribution(*WEIGHT_DECAYS, log=True),
        "augment": optuna.distributions.CategoricalDistribution(STRENGTHS),
    }
    study = optuna.create_study(sampler=sampler)
    variants: dict[Candidate, None] = {}
    for number in range(draws):
        trial = study.ask({name: space[name] for name in search})
        study.tell(trial, 0.0)
        variants[_variant(training[number % len(training)], trial.params)] = None
    return [candidate for candidate in variants if candidate not in base]


def _takers(candidates: Sequence[Candidate], name: str) -> list[Candidate]:
    """Return the candidates whose strategy has a setting."""
    return [candidate for candidate in candidates if not no_use(candidate.strategy, name)]


def _variant(base: Candidate, values: dict[str, float | str]) -> Candidate:
    """Return a candidate with the drawn values, as far as its strategy has such settings."""
    strategy = base.strategy
    allowed = {entry.name for entry in fields(strategy)} & set(KINDS[strategy.name].allowed)
    changed: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, float) and name in allowed:
            scale = hyperparameters(strategy).lr if name == "lr" else 1.0
            changed[name] = float(f"{scale * value:.2g}")
    varied = checked(replace(strategy, **changed))  # type: ignore[arg-type]
    return replace(base, strategy=varied, augment=str(values.get("augment", base.augment)))
