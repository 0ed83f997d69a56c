"""Freezing for any training loop, frostline's own and other people's: groups, rates, a cut that moves.

param_grouping  every parameter once, in groups with layer-wise learning rates
wrapped_models  find the adapted model inside DDP, `torch.compile` and the like
gradients       whether every parameter that should learn has a gradient
schedule        a learning-rate scheduler that also moves the cut
"""

from __future__ import annotations

from frostline.unfreezing.gradients import check_gradients
from frostline.unfreezing.param_grouping import groups, param_groups, set_rates
from frostline.unfreezing.schedule import Unfreezing, adamw, freeze
from frostline.unfreezing.wrapped_models import adapted_in

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
