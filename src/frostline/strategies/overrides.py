"""Hyperparameters given beside strategies, by flag or keyword: the same as in a strategy's brackets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from frostline.config import Config
from frostline.errors import UsageError, did_you_mean, option
from frostline.strategies.notation import value_of
from frostline.strategies.phase_resolution import schedule
from frostline.strategies.strategy import KINDS, Strategy, hyperparameters
from frostline.strategies.validation import checked

# Why a kind has no use for a hyperparameter; `no_use` adds what depends on a strategy's other values.
_SOLVED = "its head is solved for, without steps"
_FROZEN = "only its head learns"
_NONE_FROZEN = "it changes features of frozen layers, and no layer is frozen"
_SOLVED_ALONE = "only a solved head has it"

# Options of a run that only some kinds of strategies use, and of which strategies that is said. A solved head
# reads one plain view of each image, in batches that change no bit of it.
_LEARNS = "a strategy whose head learns in steps, such as head, top_k or lp_ft"
_FREEZES = "a strategy that keeps layers frozen, such as head, top_k or gradual_unfreeze"
_TAKERS = {
    **dict.fromkeys(("augment", "flip", "min_crop", "rotate", "batch_size"), _LEARNS),
    "views": _FREEZES,
}
_MANY_STAGES = 100  # more than networks have


@dataclass(frozen=True)
class Overridden:
    """Strategies with the hyperparameters that were given beside them.

    Parameters
    ----------
    strategies
        In the order given.
    unused
        For each hyperparameter that some strategies do not take: those strategies, with the reason.
    """

    strategies: tuple[Strategy, ...]
    unused: Mapping[str, Mapping[str, str]]

    def lines(self) -> list[str]:
        """Return a line for each hyperparameter that some strategies go without."""
        return [
            f"{key} has no effect on {_reasons(without)}; the other strategies have it."
            for key, without in self.unused.items()
        ]


def overridden(strategies: Sequence[Strategy], values: Mapping[str, object]) -> Overridden:
    """Return strategies with hyperparameters given beside them.

    Each strategy that takes a hyperparameter gets it, as if it stood in its brackets; the others stay as they
    are.

    Parameters
    ----------
    strategies
        Checked strategies.
    values
        Values by hyperparameter, such as ``{"lr": 0.0003, "epochs": 20}``; texts are read as in brackets.

    Raises
    ------
    UsageError
        If a value disagrees with a strategy's brackets, makes no sense, or if no strategy takes it.
    """
    unused: dict[str, dict[str, str]] = {}
    result, order = list(strategies), [entry.name for entry in fields(Strategy)]
    for key in values:
        _demand_known(key)
    for key, value in sorted(values.items(), key=lambda item: order.index(item[0])):
        reasons = {place: no_use(strategy, key) for place, strategy in enumerate(result)}
        if all(reasons.values()):
            without = {str(result[place]): reason for place, reason in reasons.items()}
            raise UsageError(
                f"{key}={_shown(value)} has no effect on {_reasons(without)}. Leave it out, or take one of "
                f"{', '.join(takers(key))}."
            )
        for place, reason in reasons.items():
            if reason:
                unused.setdefault(key, {})[str(result[place])] = reason
            else:
                result[place] = _with(result[place], key, value)
    return Overridden(tuple(checked(strategy) for strategy in result), unused)


def _shown(value: object) -> str:
    """Return a value as a person writes it: 5 epochs, not 5.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def at_defaults(strategy: Strategy, keys: Iterable[str]) -> Strategy:
    """Return a strategy without what it names for these hyperparameters: for values to be given beside it.

    For strategies of the advice, whose brackets nobody wrote.
    """
    defaults = {key: Strategy.__dataclass_fields__[key].default for key in keys}
    return replace(strategy, **defaults)  # type: ignore[arg-type]


def takers(key: str) -> list[str]:
    """Return the names of the strategies that a hyperparameter has an effect on."""
    names = [name for name in KINDS if not no_use(Strategy(name), key)]
    return names or [name for name, kind in KINDS.items() if key in (*kind.allowed, kind.takes)]


def _demand_known(key: str) -> None:
    """Raise `UsageError` for what is no hyperparameter, or belongs to a strategy's name."""
    known = sorted({name for kind in KINDS.values() for name in kind.allowed})
    positional = {kind.takes for kind in KINDS.values() if kind.takes}
    if key in positional:
        raise UsageError(
            f"{key} is part of a strategy's name: write it in its brackets, such as top_k(2), "
            "linear_probe(ridge) or phases(0@3, all@10)."
        )
    if key not in known:
        raise UsageError(
            f"No strategy has a hyperparameter {key!r}.{did_you_mean(key, known)} Known: {', '.join(known)}."
        )


def _with(strategy: Strategy, key: str, value: object) -> Strategy:
    """Return a strategy with one value more; raise if its brackets hold another."""
    default = Strategy.__dataclass_fields__[key].default
    read, own = value_of(strategy.name, key, str(value)), getattr(strategy, key)
    if own not in (default, read):
        raise UsageError(
            f"Found {key}={value} beside {strategy}, which names another {key} in its brackets. Give one of "
            "the two."
        )
    return replace(strategy, **{key: read})  # type: ignore[arg-type]


def no_use(strategy: Strategy, key: str) -> str:
    """Return why a hyperparameter has no effect on a strategy; empty if it has one.

    Parameters
    ----------
    strategy
        The strategy, with the hyperparameters that it has already.
    key
        The hyperparameter's name.
    """
    kind = KINDS[strategy.name]
    if key not in kind.allowed:
        if not strategy.trains:
            return _SOLVED
        if key == "layers":
            return _SOLVED_ALONE
        if key == "l2_sp" and not strategy.pretrained:
            return "it has no pretrained weights"
        return _FROZEN if strategy.name == "head" else _NONE_FROZEN
    if strategy.name == "head" and key == "layer_decay":
        return _FROZEN
    if strategy.solver == "ridge" and key == "label_smoothing":
        return "ridge fits labels as they are"
    if key == "head_init_l2" and hyperparameters(strategy).head_init != "probe":
        return "its head does not start from a probe"
    if key in ("epochs", "lr") and strategy.phases:
        named = [getattr(phase, key) is not None for phase in strategy.phases]
        return "each of its phases names its own" if all(named) else ""
    return ""


@dataclass(frozen=True)
class UnusedOption:
    """An option of a run that none of its strategies uses."""

    finding: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.finding} {self.remedy}"


def unused_options(values: Mapping[str, object], strategies: Sequence[Strategy]) -> dict[str, UnusedOption]:
    """Return those of a run's options that none of these strategies uses, by name.

    Parameters
    ----------
    values
        Options by the names of their fields in `Config`; those that have their defaults count as not given.
    strategies
        Checked strategies.
    """
    unused = {}
    for name, takers_of_it in _TAKERS.items():
        value = values.get(name, getattr(Config, name))
        reasons = {str(strategy): _no_use_of_option(strategy, name) for strategy in strategies}
        if value != getattr(Config, name) and reasons and all(reasons.values()):
            given = option(name) if callable(value) else option(name, value)
            unused[name] = UnusedOption(
                f"{given} has no effect on {_reasons(reasons)}.", f"Leave it out, or take {takers_of_it}."
            )
    return unused


def _no_use_of_option(strategy: Strategy, name: str) -> str:
    """Return why an option of a run has no effect on a strategy; empty if it has one."""
    if not strategy.trains:
        return _SOLVED
    frozen = name != "views" or any(
        phase.cut for phase in schedule(strategy, stages=_MANY_STAGES, images=1, batch=1)
    )
    return "" if frozen else "it keeps no layer frozen"


def _reasons(without: Mapping[str, str]) -> str:
    """Return strategies with why they have no use for a value, those with one reason together."""
    names: dict[str, list[str]] = {}
    for strategy, reason in without.items():
        names.setdefault(reason, []).append(strategy)
    return "; ".join(f"{', '.join(those)} ({reason})" for reason, those in names.items())


def patience_fault(value: object, strategies: Sequence[Strategy] = ()) -> str:
    """Return what is wrong with a patience for these strategies, or return ""."""
    name = option("patience")
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        return f"{name} must be a whole number of epochs, at least 1; found {value!r}."
    if strategies and not any(strategy.trains for strategy in strategies):
        names = ", ".join(map(str, strategies))
        return f"{name} counts epochs, and {names} is solved for without any: leave it out."
    return ""
