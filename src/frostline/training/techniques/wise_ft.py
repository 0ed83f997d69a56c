"""Between the pretrained network with a probe for a head, and the adapted one: points on a straight line.

Averaged weights often answer as well as the adapted ones on the target, and forget less of what the network
could do before (WiSE-FT: Wortsman et al. 2022, arXiv 2109.01903). BatchNorm statistics of an average are not
the average of the statistics, so where training moved them they are re-estimated at each point in between
(as Izmailov et al. 2018, arXiv 1803.05407, do): a pass over the training images a point. Where both ends
share them, the weights of both were made for these, and re-estimated ones can break the network (docs/LOG.md
2026-11-25): "auto" tries both, a share that is asked for keeps them. An end keeps its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from frostline import metrics
from frostline.errors import ModelError
from frostline.system import devices
from frostline.system.timing import Stopwatch

# Shares of the adapted weights that are tried. The paper goes in finer steps; here a point costs a pass over
# train and one over val.
POINTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@devices.computes()
def interpolate_weights(before: nn.Module, after: nn.Module, share: float) -> nn.Module:
    """Return a new module with the weights `(1 - share) * before + share * after` (WiSE-FT).

    BatchNorm statistics are interpolated too, and not estimated again. Tensors that are not floating-point,
    such as BatchNorm's counts, are those of `after`.

    Parameters
    ----------
    before : nn.Module
        Such as the pretrained network with a probe as its head.
    after : nn.Module
        The adapted network, made by `adapt` of the same backbone.
    share : float
        Share of `after`, from 0 (`before`) to 1 (`after`).

    Returns
    -------
    nn.Module
        In eval mode; `before` and `after` are not changed.

    Raises
    ------
    ModelError
        The names or shapes of the tensors differ between the two.
    """
    start, end = before.state_dict(), after.state_dict()
    strange = [
        k for k in {**start, **end} if k not in start or k not in end or start[k].shape != end[k].shape
    ]
    if strange:
        raise ModelError(
            f"{len(strange)} tensor(s) differ in name or shape between the two models: "
            f"{', '.join(strange[:8])}. Expected two models made by `adapt` of one backbone."
        )
    model = copy.deepcopy(after)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point():  # an end is copied, not computed: -0.0 and inf stay as they are
                near = start[key] if share == 0.0 else value if share == 1.0 else None
                value.copy_(torch.lerp(start[key].to(value), value, share) if near is None else near)
    return model.eval()


def point(
    before: nn.Module, after: nn.Module, share: float, settle: Callable[[nn.Module], None]
) -> nn.Module:
    """Return the model at a share of the way; `settle` re-estimates statistics that can't be kept."""
    (again,) = _ways(before, after, share, both=False)
    model = interpolate_weights(before, after, share)
    if again:
        settle(model)
    return model


def chosen(
    before: nn.Module,
    after: nn.Module,
    wanted: float | str,
    *,
    settle: Callable[[nn.Module], None],
    answers: Callable[[nn.Module], NDArray[np.floating]],
    targets: NDArray[np.int64],
    metric: metrics.Metric,
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the model at the point that is asked for, or with "auto" at the best on val; and what was found.

    `settle` re-estimates statistics in place; `answers` gives val logits (n, classes). Of points with the
    same score the one of lower log loss is taken.
    """
    watch = Stopwatch()
    points: list[dict[str, Any]] = []
    best: tuple[tuple[float, float], dict[str, Any], nn.Module] | None = None
    auto = wanted == "auto"
    for share in POINTS if auto else (float(wanted),):
        for again in _ways(before, after, share, both=auto):
            model = interpolate_weights(before, after, share)
            if again:
                settle(model)
            point = {"share": share, "statistics": "re-estimated" if again else "kept"}
            rank = (0.0, 0.0)
            if auto:
                raw = answers(model)
                probabilities = metrics.softmax(raw, metrics.fit_temperature(raw, targets))
                loss = metrics.score("log_loss", targets, probabilities)
                rank = (metrics.goodness(metric, targets, probabilities), -loss)
                scores = {
                    f"val_{metrics.name_of(metric)}": metrics.score(metric, targets, probabilities),
                    "val_log_loss": loss,
                }
                points.append({**point, **scores})
            if best is None or rank > best[0]:
                best = (rank, point, model)
    assert best is not None
    return best[2], {**best[1], "points": points, "seconds": watch.seconds}


def _ways(before: nn.Module, after: nn.Module, share: float, *, both: bool) -> tuple[bool, ...]:
    """Return whether to re-estimate statistics at a point: no, yes, or each in turn."""
    norms = [m for m in after.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms or share in (0.0, 1.0):
        return (False,)
    start = dict(before.named_buffers())
    shared = all(
        torch.equal(start[name].to(value), value)
        for name, value in after.named_buffers()
        if value.is_floating_point() and name.rpartition(".")[2] in ("running_mean", "running_var")
    )
    if not shared:
        return (True,)
    return (False, True) if both else (False,)
