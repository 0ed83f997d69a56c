"""Freezing for any training loop, frostline's own and other people's: groups, rates, a cut that moves.

groups      every parameter once, with layer-wise rates
wrapping    the adapted model inside what others wrap around it
gradients   whether all that should learn does
schedule    a learning-rate scheduler that also moves the cut
"""

from __future__ import annotations

from frostline.unfreezing.gradients import check_gradients
from frostline.unfreezing.param_grouping import groups, param_groups, set_rates
from frostline.unfreezing.schedule import Unfreezing, adamw, freeze
from frostline.unfreezing.wrapping import adapted_in

__all__ = [
    "Unfreezing",
    "adamw",
    "adapted_in",
    "check_gradients",
    "freeze",
    "groups",
    "param_groups",
    "set_rates",
]
