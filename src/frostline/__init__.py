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
    from frostline.backbone import Backbone, Cut, Preprocessing, Stage
    from frostline.comparison import Comparison, compare
    from frostline.dataset import Manifest, load_data
    from frostline.errors import FrostlineError
    from frostline.exporting import Export, export
    from frostline.prediction import load_model, predict
    from frostline.remembering import Forgetting, drift, forgetting
    from frostline.reporting import Progress, Report, report
    from frostline.signals import Signals, measure
    from frostline.story import Fitted, demo, fit
    from frostline.strategy import Phase, Strategy, parse
    from frostline.training import CacheFill, Run, fill_cache, interpolate_weights, lr_find, train
    from frostline.unfreezing import Unfreezing, freeze, param_groups
    from frostline.zoo import load_backbone

_HOME = {
    "Advice": "advice",
    "Backbone": "backbone",
    "Comparison": "comparison",
    "Cut": "backbone",
    "Export": "exporting",
    "CacheFill": "training",
    "Fitted": "story",
    "Forgetting": "remembering",
    "FrostlineError": "errors",
    "Manifest": "dataset",
    "Phase": "strategy",
    "Preprocessing": "backbone",
    "Progress": "reporting",
    "Report": "reporting",
    "Run": "training",
    "Signals": "signals",
    "Stage": "backbone",
    "Strategy": "strategy",
    "Unfreezing": "unfreezing",
    "compare": "comparison",
    "demo": "story",
    "drift": "remembering",
    "export": "exporting",
    "fill_cache": "training",
    "fit": "story",
    "forgetting": "remembering",
    "freeze": "unfreezing",
    "interpolate_weights": "training",
    "load_backbone": "zoo",
    "load_data": "dataset",
    "load_model": "prediction",
    "lr_find": "training",
    "measure": "signals",
    "param_groups": "unfreezing",
    "parse": "strategy",
    "plan": "advice",
    "predict": "prediction",
    "report": "reporting",
    "train": "training",
}

__all__ = [
    "Advice",
    "Backbone",
    "CacheFill",
    "Comparison",
    "Cut",
    "Export",
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
    "export",
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
    if name not in _HOME:
        raise AttributeError(f"module 'frostline' has no attribute {name!r}")
    if _HOME[name] in ("advice", "comparison", "signals", "story", "training", "zoo"):
        _import_all()
    return getattr(import_module(f"frostline.{_HOME[name]}"), name)


def _import_all() -> None:
    """Import what a run will need, so that its seconds and memory are its own."""
    import_module("frostline.processor").settle()  # which torch must find in the environment
    for module in ("timm.data", "sklearn.metrics", "sklearn.svm", "scipy.optimize", "frostline.training"):
        import_module(module)
    timing = import_module("frostline.timing")
    timing.reuse_freed_memory()
    timing.imported_baseline_bytes()


def __dir__() -> list[str]:
    return __all__
