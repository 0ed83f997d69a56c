"""What the advice had forecast for the model that `fit` reports, beside what was then measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from frostline.advice import Advice
from frostline.advice.advice_wording import PLAINEST
from frostline.sentences import Basis


def forecast_beside_measured(advice: Advice | None, figures: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the forecast of the reported strategy and its measured accuracy, with their intervals, 0–1.

    Parameters
    ----------
    advice
        What was advised for the network; `None` if there was no time to measure.
    figures
        `strategy`, `basis`, `accuracy`, `low` and `high` of what is reported.

    Returns
    -------
    dict or None
        `None` if the strategy was not forecast, or nothing could be held out to measure it, and of
        `linear_probe` without a test set: forecasts start from its own out-of-fold accuracy.
    """
    if figures["strategy"] == PLAINEST and figures["basis"] != Basis.TEST:
        return None
    options = {option.strategy: option for option in advice.options} if advice else {}
    option = options.get(figures["strategy"])
    if option is None or option.expected_accuracy is None or figures["accuracy"] is None:
        return None
    return {
        "strategy": option.strategy,
        "expected": option.expected_accuracy,
        "expected_low": option.low,
        "expected_high": option.high,
        "measured": figures["accuracy"],
        "measured_low": figures["low"],
        "measured_high": figures["high"],
    }
