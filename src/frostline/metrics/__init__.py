"""How good, and how sure. Imports no torch.

scores          what models are compared by, one number each
intervals       95 % intervals of shares and means
calibration     how far probabilities can be believed, and the temperature that makes them so
class_balance   each class by itself

Everything returned is a fraction 0–1 (log loss: nats).
"""

from __future__ import annotations

from frostline.metrics.calibration import (
    BELIEVED,
    BINS,
    believed,
    calibration_error,
    chance_calibration_error,
    fit_temperature,
    softmax,
)
from frostline.metrics.class_balance import BALANCE, balance, summary
from frostline.metrics.intervals import (
    Z95,
    design_effect,
    interval,
    mean_interval,
    rate_interval,
    wilson,
)
from frostline.metrics.scores import (
    LEAST_PROBABILITY,
    METRICS,
    NAMES,
    OVER_CLASSES,
    RANKINGS,
    ROUNDING,
    SENSITIVITY,
    Metric,
    QuadraticKappa,
    Sensitivity,
    checked_callable,
    checked_name,
    class_order,
    goodness,
    is_share,
    log_losses,
    name_of,
    resolved,
    score,
)

__all__ = [
    "BALANCE",
    "BELIEVED",
    "BINS",
    "LEAST_PROBABILITY",
    "METRICS",
    "NAMES",
    "OVER_CLASSES",
    "RANKINGS",
    "ROUNDING",
    "SENSITIVITY",
    "Z95",
    "Metric",
    "QuadraticKappa",
    "Sensitivity",
    "balance",
    "believed",
    "calibration_error",
    "chance_calibration_error",
    "checked_callable",
    "checked_name",
    "class_order",
    "design_effect",
    "fit_temperature",
    "goodness",
    "interval",
    "is_share",
    "log_losses",
    "mean_interval",
    "name_of",
    "rate_interval",
    "resolved",
    "score",
    "softmax",
    "summary",
    "wilson",
]
