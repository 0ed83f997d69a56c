"""What a finished run leaves beside its figures: its doubts, how far features moved, and pictures.

All of it comes after the clock of the training has stopped, and none of it computes a row that is there. A
limit on time counts it: `budget` keeps it free, and with little time fewer images are looked at.
"""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from frostline.data.decoding_threads import Workers
from frostline.errors import RunWarning
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction import ForwardPass
from frostline.inference import error_gallery, selective_prediction
from frostline.inference.selective_prediction import FamiliarFeatures
from frostline.models import Backbone
from frostline.studies.study_folder import RunFolder
from frostline.system import numerics
from frostline.training import run_evaluation
from frostline.training.numeric_plan import Plan
from frostline.training.resilience import time_limit
from frostline.training.run_evaluation import EvaluationExtras
from frostline.training.train_request import Subsets, TrainRequest


def leave(
    request: TrainRequest,
    folder: RunFolder,
    model: nn.Module,
    cut: str,
    subsets: Subsets,
    held_out: EvaluationExtras,
    cache: FeatureCache | None,
) -> dict[str, Any]:
    """Write what reports and predictions will want of the run; return what belongs into its result.

    `cut` names the earliest from which the model learned. A run that a comparison makes on a fold keeps
    neither doubts nor drift: its model is not taken away. Training images pass once.
    """
    result: dict[str, Any] = {}
    if request.taken_away:
        most = time_limit.to_doubt_by(request)
        if most < min(selective_prediction.MOST, len(subsets.train)):
            warnings.warn(
                f"Little time was left: unfamiliar images are told by {most} training images.",
                RunWarning,
                stacklevel=2,
            )
        forward = forward_pass_of(request.backbone, model, folder, cut, cache, request.config.workers)
        drifting = request.strategy.trains and held_out.drift is None
        with numerics.threads(forward.config.plan.threads):
            _, of_train = run_evaluation.pass_once(forward, subsets.train.evenly(most), drifting)
            familiar = FamiliarFeatures.of(of_train.features, held_out.features)
        selective_prediction.write(folder.path, familiar)
        if request.strategy.trains:
            result["drift"] = of_train.drift if drifting else held_out.drift
    if request.data.subset("test"):
        table = folder.path / "predictions-test.csv"
        error_gallery.write_gallery(
            folder.path, table, request.backbone, request.data, lambda _: model, subsets.test, held_out.maps
        )
    return result


def forward_pass_of(
    backbone: Backbone,
    model: nn.Module,
    folder: RunFolder,
    cut: str,
    cache: FeatureCache | None,
    workers: Workers,
) -> ForwardPass:
    """Return a pass as the run computed what lies below `cut`, which reads the rows that it left, if any.

    Reports no progress: a callback that stops training would lose a finished run.
    """
    plan, chosen = _plan(folder), next(one for one in backbone.cuts if one.name == cut)
    is_cached = chosen is backbone.cuts[-1] or plan.keeps(chosen, 0)
    return ForwardPass(
        backbone, model, chosen, plan.forward_config, cache if is_cached else None, workers=workers
    )


def _plan(folder: RunFolder) -> Plan:
    return Plan.from_dict(folder.read("plan.json"))
