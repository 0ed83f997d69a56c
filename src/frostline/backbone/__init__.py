"""A pretrained model as stages with exact cuts: found, proved, run in halves, frozen.

values · tracing → heads → staging → replay → cutting → model → building
                                                 running · freezing (what training uses)
"""

from __future__ import annotations

from frostline.backbone.building import assemble
from frostline.backbone.freezing import BN_POLICIES, freeze, keeps_statistics, set_training
from frostline.backbone.model import Backbone, Cut, Stage, weights_digest
from frostline.backbone.preprocessing import Preprocessing
from frostline.backbone.running import prefix, suffix

__all__ = [
    "BN_POLICIES",
    "Backbone",
    "Cut",
    "Preprocessing",
    "Stage",
    "assemble",
    "freeze",
    "keeps_statistics",
    "prefix",
    "set_training",
    "suffix",
    "weights_digest",
]
