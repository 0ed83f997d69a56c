"""frostline: adapt a pretrained vision model to your own labelled images.

    data     = frostline.load_data("photos/")
    backbone = frostline.load_backbone("lite0")
    run      = frostline.train(backbone, data, "top_k(2)")
    answers  = run.predict("new-photos/")
    page     = frostline.report(run.study)

Names are imported when first used, so that importing frostline does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frostline.advice import Advice, plan
    from frostline.config import Config
    from frostline.data import Manifest, load_data
    from frostline.diagnostics import Signals, measure
    from frostline.diagnostics.feature_drift import Forgetting, drift, forgetting
    from frostline.errors import FrostlineError
    from frostline.exports import Export, export
    from frostline.inference.prediction import predict
    from frostline.inference.predictor import load_model
    from frostline.models import Backbone, Cut, Preprocessing, Stage
    from frostline.models.zoo import load_backbone
    from frostline.pipelines import Fitted, demo, fit
    from frostline.pipelines.evaluation import Evaluation, evaluate
    from frostline.pipelines.feature_table import ExtractedFeatures, extract_features
    from frostline.progress import Progress
    from frostline.reports import Report, report
    from frostline.selection import Comparison, compare
    from frostline.strategies import Phase, Strategy, parse
    from frostline.training import CacheFill, Run, fill_cache, interpolate_weights, lr_find, train
    from frostline.unfreezing import Unfreezing, freeze, param_groups

_HOME = {
    "Advice": "advice",
    "Backbone": "models",
    "Comparison": "selection",
    "Config": "config",
    "Cut": "models",
    "Evaluation": "pipelines.evaluation",
    "Export": "exports",
    "ExtractedFeatures": "pipelines.feature_table",
    "CacheFill": "training",
    "Fitted": "pipelines",
    "Forgetting": "diagnostics.feature_drift",
    "FrostlineError": "errors",
    "Manifest": "data",
    "Phase": "strategies",
    "Preprocessing": "models",
    "Progress": "progress",
    "Report": "reports",
    "Run": "training",
    "Signals": "diagnostics",
    "Stage": "models",
    "Strategy": "strategies",
    "Unfreezing": "unfreezing",
    "compare": "selection",
    "demo": "pipelines",
    "drift": "diagnostics.feature_drift",
    "evaluate": "pipelines.evaluation",
    "export": "exports",
    "extract_features": "pipelines.feature_table",
    "fill_cache": "training",
    "fit": "pipelines",
    "forgetting": "diagnostics.feature_drift",
    "freeze": "unfreezing",
    "interpolate_weights": "training",
    "load_backbone": "models.zoo",
    "load_data": "data",
    "load_model": "inference.predictor",
    "lr_find": "training",
    "measure": "diagnostics",
    "param_groups": "unfreezing",
    "parse": "strategies",
    "plan": "advice",
    "predict": "inference.prediction",
    "report": "reports",
    "train": "training",
}

__all__ = [
    "Advice",
    "Backbone",
    "CacheFill",
    "Comparison",
    "Config",
    "Cut",
    "Evaluation",
    "Export",
    "ExtractedFeatures",
    "Fitted",
    "Forgetting",
    "FrostlineError",
    "Manifest",
    "Phase",
    "Preprocessing",
    "Progress",
    "Report",
    "Run",
    "Signals",
    "Stage",
    "Strategy",
    "Unfreezing",
    "compare",
    "demo",
    "drift",
    "evaluate",
    "export",
    "extract_features",
    "fill_cache",
    "fit",
    "forgetting",
    "freeze",
    "interpolate_weights",
    "load_backbone",
    "load_data",
    "load_model",
    "lr_find",
    "measure",
    "param_groups",
    "parse",
    "plan",
    "predict",
    "report",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # not before it is wanted: `--help` is quick

        return version("frostline")
    if name not in _HOME:
        raise AttributeError(f"module 'frostline' has no attribute {name!r}")
    return getattr(import_module(f"frostline.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
