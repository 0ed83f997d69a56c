"""The named strategies as functions."""

from __future__ import annotations

from frostline.errors import UsageError, did_you_mean
from frostline.strategies.strategy import KINDS, Phase, Strategy
from frostline.strategies.validation import checked


def _named(name: str, positional: dict[str, object], options: dict[str, object]) -> Strategy:
    for key in options:
        if key not in KINDS[name].allowed:
            raise UsageError(f"{name} has no setting {key!r}.{did_you_mean(key, KINDS[name].allowed)}")
    numbers = {  # one strategy, one identity: `layer_decay=1` is `layer_decay=1.0`
        key: float(value) if isinstance(value, int) and key not in ("layers", "refit_layers") else value
        for key, value in options.items()
    }
    return checked(Strategy(name, **positional, **numbers))  # type: ignore[arg-type]


def linear_probe(solver: str | None = None, **options: object) -> Strategy:
    """Logistic regression (or `"ridge"`, closed form) on frozen features."""
    return _named("linear_probe", {"solver": solver}, options)


def head(**options: object) -> Strategy:
    """Only the head learns."""
    return _named("head", {}, options)


def top_k(k: int, **options: object) -> Strategy:
    """The head and the `k` stages below it learn."""
    return _named("top_k", {"k": k}, options)


def lp_ft(**options: object) -> Strategy:
    """The head starts from a probe, then everything learns (Kumar et al., arXiv 2202.10054)."""
    return _named("lp_ft", {}, options)


def gradual_unfreeze(k: int | None = None, **options: object) -> Strategy:
    """Head first, then one stage more at a time, down to `k` stages below the head (all by default)."""
    return _named("gradual_unfreeze", {"k": k}, options)


def full(**options: object) -> Strategy:
    """Everything learns from the first step."""
    return _named("full", {}, options)


def scratch(**options: object) -> Strategy:
    """Everything learns, from random weights."""
    return _named("scratch", {}, options)


def phases(*steps: Phase, **options: object) -> Strategy:
    """Your own list of phases."""
    return _named("phases", {"phases": tuple(steps)}, options)
