"""The strategies that `fit` compares: the probe, and the best of the advice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from frostline.advice import Advice
from frostline.strategies import parse

COMPARED = 4  # strategies of the advice to compare, in addition to the probe
# Of the strategies with trials, the one that trains fewest stages: for limits that let in so few larger ones.
# In earlier trials it is behind the probe (docs/LOG.md 2026-11-30), and takes time from those ahead.
SMALLEST, FEW = "top_k(1)", 1


def candidates(advice: Advice, networks: int = 1, *, plain_heads: bool = False) -> list[str]:
    """Return the strategies to compare: the probe, the recommended one, and the next best that fit.

    Parameters
    ----------
    advice
        The advice.
    networks
        Number of compared networks. They share the number of strategies, so that the comparison takes as long
        as with one.
    plain_heads
        Whether strategies end with the head that they train, as weights that timm loads alone and
        interpolation need.
    """
    fitting = [option.strategy for option in advice.options if option.fits]
    ordered = [advice.recommended, *fitting]
    if plain_heads:
        ordered = [str(replace(parse(name), refit_layers=None)) for name in ordered]
    ordered = list(dict.fromkeys(ordered))
    trained = [name for name in ordered if parse(name).trains][: math.ceil(COMPARED / networks)]
    if SMALLEST in fitting and SMALLEST not in trained and len(trained) <= FEW:
        trained.append(SMALLEST)
    return ["linear_probe", *trained]


def names_of(strategies_by_network: Mapping[str, Sequence[str]]) -> str:
    """Return the compared strategies as text, with their networks if there are several."""
    if len(strategies_by_network) == 1:
        return ", ".join(*strategies_by_network.values())
    return "; ".join(
        f"{', '.join(strategies)} on {name}" for name, strategies in strategies_by_network.items()
    )
