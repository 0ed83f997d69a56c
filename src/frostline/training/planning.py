"""What is decided before the first step: how numbers are computed, and how images are augmented."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

from frostline import backbone as bb
from frostline import numerics
from frostline.augment import Policy
from frostline.numerics import NumericPlan
from frostline.record import RunFolder
from frostline.strategy import settings
from frostline.training import flips
from frostline.training.request import Request


def numeric_plan(request: Request, folder: RunFolder) -> NumericPlan:
    """Read the plan that was made when the run began, or make and write it now."""
    if (folder.path / "plan.json").exists():
        return NumericPlan.from_dict(folder.read("plan.json"))
    if request.exact:
        plan = numerics.exact_plan(request.threads)
    elif request.precision != "auto":
        plan = numerics.pinned_plan(request.precision, request.threads)
    else:
        cuts = [s.cut for s in request.segments()]
        plan = numerics.timed_plan(*_timed_step(request, min(cuts) if cuts else None), request.threads)
    folder.write("plan.json", plan.as_dict())
    return plan


def _timed_step(request: Request, cut: int | None) -> tuple[str, Callable[[NumericPlan], None]]:
    """Return (what is timed, one step of it) on random pixels; `cut` None means a forward pass alone."""
    backbone = request.backbone
    size, images = backbone.preprocessing.size, min(request.batch, 16)
    pixels = torch.zeros((images, 3, size, size), dtype=torch.uint8)
    model = copy.deepcopy(backbone.model)
    at = backbone.cut(len(backbone.stages) - 1 if cut is None else cut)
    policy = settings(request.strategy).bn
    bb.freeze(backbone, model, at, policy)
    bb.set_training(backbone, model, at, policy)

    def step(plan: NumericPlan) -> None:
        plan.place(model)
        x = plan.batch(pixels, backbone.preprocessing.normalise)
        with plan.autocast(), torch.no_grad():
            z = bb.prefix(backbone, model, at)(x)
        if cut is None:
            return
        with bb.suffix(backbone, model, at) as learning:
            with plan.autocast():
                out = learning(z)
            out.float().square().mean().backward()  # type: ignore[no-untyped-call]
            model.zero_grad()

    what = f"{backbone.name} {backbone.digest[:12]} size {size} images {images} cut {cut}"
    return what, step


def augmentation(request: Request, plan: NumericPlan) -> tuple[Policy, dict[str, Any] | None]:
    """Decide the augmentation: as asked, with `auto` flips asked of the training images."""
    if not request.strategy.trains:
        return Policy("none"), None
    if request.flip != "auto":
        return Policy(request.augment, request.flip), None
    if request.augment in ("none", "custom"):
        return Policy(request.augment), None
    test = flips.try_flips(
        request.backbone, request.data, request.data.part("train"), plan, request.seed, request.tell
    )
    return Policy(request.augment, "horizontal" if test.safe else "none"), test.as_dict()
