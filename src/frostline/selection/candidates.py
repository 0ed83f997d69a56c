"""What races: strategies by name, the top of the advice, and variants drawn around them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from frostline.errors import UsageError, did_you_mean
from frostline.features.augmentation import AUGMENTS
from frostline.strategies import KINDS, Strategy, checked, hyperparameters, parse, parse_list

# What a search may vary, and how far: rates and decays around each strategy's own default, the rest over
# what people use (`Hyperparameters` names the sources).
RATES = (0.25, 4.0)  # times the strategy's own learning rate, on a log scale
DECAYS = (0.65, 1.0)  # layer-wise decay a stage: BEiT's 0.65 is the lowest in common use
WEIGHT_DECAYS = (1e-3, 0.1)  # log scale
SEARCHED = ("lr", "layer_decay", "weight_decay", "augment")


@dataclass(frozen=True)
class Candidate:
    """A strategy and how strongly images are varied for it; `model` is empty where one races alone."""

    strategy: Strategy
    augment: str
    model: str = ""

    def __str__(self) -> str:
        return f"{self.strategy} on {self.model}" if self.model else str(self.strategy)

    def as_list(self) -> list[str]:
        """What makes it this one, as plain data."""
        return [str(self.strategy), self.augment, *([self.model] if self.model else [])]


Strategies = Iterable[str | Strategy]


def listed(names: Strategies | Mapping[str, Strategies], augment: str, least: int = 2) -> list[Candidate]:
    """Return the named strategies, each once; of a mapping, those of each model.

    Raises `UsageError` where fewer than `least` are left.
    """
    of_models = dict(names) if isinstance(names, Mapping) else {"": names}
    of_models = {
        name: parse_list(mine) if isinstance(mine, str) else mine for name, mine in of_models.items()
    }
    unique = list(
        dict.fromkeys(
            Candidate(parse(name) if isinstance(name, str) else checked(name), augment, model)
            for model, mine in of_models.items()
            for name in mine
        )
    )
    if len(unique) < least:
        raise UsageError(
            f"Found {len(unique)} strategy to compare; name at least two, such as "
            "linear_probe,top_k(2),lp_ft."
        )
    return unique


def searched(base: Sequence[Candidate], search: Sequence[str], draws: int, seed: int) -> list[Candidate]:
    """Return `draws` variants of what trains in `base`, drawn evenly over what `search` names.

    Drawn by Optuna's quasi-random sampler, so that every process of a comparison draws the same.
    """
    wrong = [f"{name!r}{did_you_mean(name, SEARCHED)}" for name in search if name not in SEARCHED]
    if wrong:
        raise UsageError(f"Cannot search {', '.join(wrong)}. Known: {', '.join(SEARCHED)}.")
    training = [candidate for candidate in base if candidate.strategy.trains]
    if not (search and draws and training):
        return []
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
        "augment": optuna.distributions.CategoricalDistribution([a for a in AUGMENTS if a != "custom"]),
    }
    study = optuna.create_study(sampler=sampler)
    found: dict[Candidate, None] = {}
    for number in range(draws):
        trial = study.ask({name: space[name] for name in search})
        study.tell(trial, 0.0)
        found[_variant(training[number % len(training)], trial.params)] = None
    return [candidate for candidate in found if candidate not in base]


def _variant(base: Candidate, drawn: dict[str, float | str]) -> Candidate:
    """Change what was drawn, where the strategy has such a setting."""
    strategy = base.strategy
    allowed = {entry.name for entry in fields(strategy)} & set(KINDS[strategy.name].allowed)
    changed: dict[str, float] = {}
    for name, value in drawn.items():
        if isinstance(value, float) and name in allowed:
            scale = hyperparameters(strategy).lr if name == "lr" else 1.0
            changed[name] = float(f"{scale * value:.2g}")
    varied = checked(replace(strategy, **changed))  # type: ignore[arg-type]
    return replace(base, strategy=varied, augment=str(drawn.get("augment", base.augment)))
