"""A pretrained model as stages with exact cuts: found, proved, run in halves, frozen.

cutting.nested_values · cutting.tracing → classifier → cutting.stage_discovery → cutting.replay → cutting.cuts
→ backbone → building; training uses cutting.prefix_suffix · cutting.regions · batchnorm_folding · freezing ·
cutting.prefix_digest
"""

from __future__ import annotations

from frostline.models.backbone import Backbone, Cut, Stage, demand_backbone, tensor_bytes, weights_digest
from frostline.models.batchnorm_folding import Folded, foldable
from frostline.models.building import assemble
from frostline.models.cutting.prefix_digest import PrefixDigests, prefix_digest
from frostline.models.cutting.prefix_suffix import between, over_space, prefix, row_elements, suffix
from frostline.models.cutting.regions import CompiledRegions, frozen_regions, learning_regions
from frostline.models.cutting.tracing import fed
from frostline.models.freezing import (
    freeze,
    hold,
    keeps_statistics,
    release,
    set_training,
    training_modes,
)
from frostline.models.heads import MultiStageHead, multi_stage_head_in
from frostline.models.preprocessing import MAX_SIDE_PIXELS, RESIZES, Preprocessing
from frostline.models.stage_statistics import Tap, collecting, stage_taps
from frostline.strategies import BN_POLICIES

__all__ = [
    "BN_POLICIES",
    "MAX_SIDE_PIXELS",
    "RESIZES",
    "Backbone",
    "CompiledRegions",
    "Cut",
    "Folded",
    "MultiStageHead",
    "PrefixDigests",
    "Preprocessing",
    "Stage",
    "Tap",
    "assemble",
    "between",
    "collecting",
    "demand_backbone",
    "fed",
    "foldable",
    "freeze",
    "frozen_regions",
    "hold",
    "keeps_statistics",
    "learning_regions",
    "multi_stage_head_in",
    "over_space",
    "prefix",
    "prefix_digest",
    "release",
    "row_elements",
    "set_training",
    "stage_taps",
    "suffix",
    "tensor_bytes",
    "training_modes",
    "weights_digest",
]
