"""What a finished run leaves beside its figures: its doubts, how far features moved, and pictures.

All of it comes after the clock of the training has stopped, and none of it computes a row that is there. A
limit on time counts it: `budget` keeps it free, and with little time fewer images are looked at.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from frostline.cost.run_time import DRIFT_IMAGES
from frostline.diagnostics.feature_drift import Drift
from frostline.errors import RunWarning
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction import ForwardPass
from frostline.feature_extraction.forward_pass import EvenlyTaken
from frostline.inference import error_gallery, selective_prediction
from frostline.inference.selective_prediction import FamiliarFeatures
from frostline.models import Backbone
from frostline.studies.study_folder import RunFolder
from frostline.system import numerics
from frostline.training.evaluation import HeldOut
from frostline.training.numeric_plan import Plan
from frostline.training.request import Parts, TrainRequest
from frostline.training.resilience import time_limit


def leave(
    request: TrainRequest,
    folder: RunFolder,
    model: nn.Module,
    cut: str,
    parts: Parts,
    held_out: HeldOut,
    store: FeatureCache | None,
) -> dict[str, Any]:
    """Write what reports and predictions will want of the run; return what belongs into its result.

    `cut` names the earliest from which the model learned. A run that a comparison makes on a fold keeps
    neither doubts nor drift: its model is not taken away. Training images pass once.
    """
    result: dict[str, Any] = {}
    if request.taken_away:
        most = time_limit.to_doubt_by(request)
        if most < min(selective_prediction.MOST, len(parts.train)):
            warnings.warn(
                f"Little time was left: unfamiliar images are told by {most} training images.",
                RunWarning,
                stacklevel=2,
            )
        train, drift_of = parts.train.evenly(most), held_out.drift
        forward = forward_pass_of(request.backbone, model, folder, cut, store)
        compared = request.strategy.trains and drift_of is None
        drift = Drift(forward, EvenlyTaken(len(train), DRIFT_IMAGES * compared))
        features = [torch.empty(0, request.backbone.feature_width)]
        with numerics.threads(forward.config.plan.threads):
            for outputs in forward(train, drift.watching):
                features.append(outputs.features)
                drift.add(outputs)
            familiar = FamiliarFeatures.of(torch.cat(features), held_out.features)
        selective_prediction.write(folder.path, familiar)
        if request.strategy.trains:
            result["drift"] = drift.by_stage() if drift_of is None else drift_of
    if request.data.part("test"):
        table = folder.path / "predictions-test.csv"
        error_gallery.write_gallery(
            folder.path, table, request.backbone, request.data, lambda _: model, parts.test, held_out.maps
        )
    return result


def forward_pass_of(
    backbone: Backbone, model: nn.Module, folder: RunFolder, cut: str, store: FeatureCache | None
) -> ForwardPass:
    """Return a pass as the run computed what lies below `cut`, which reads the rows that it left, if any.

    Reports no progress: a callback that stops training would lose a finished run.
    """
    plan, chosen = _plan(folder), next(one for one in backbone.cuts if one.name == cut)
    is_cached = chosen is backbone.cuts[-1] or plan.keeps(chosen, 0)
    return ForwardPass(backbone, model, chosen, plan.way, store if is_cached else None)


def _plan(folder: RunFolder) -> Plan:
    return Plan.from_dict(folder.read("plan.json"))
