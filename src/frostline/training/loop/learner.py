"""How a model learns: by a solved head, or by a head and the training loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from frostline import models as bb
from frostline import probe
from frostline.distributed import process_group
from frostline.feature_extraction import Frozen, features, stage_features
from frostline.feature_extraction.image_batches import EVALUATION_BATCH, Images, contact_sheet
from frostline.loggers import OnEpochs
from frostline.models.heads import build_head, linear_head
from frostline.strategies import hyperparameters
from frostline.studies.study_folder import RunFolder
from frostline.system.seeds import derive
from frostline.system.timing import Stopwatch
from frostline.training.loop.trainer import Setup, Trainer
from frostline.training.numeric_plan import Plan
from frostline.training.request import TrainRequest
from frostline.training.resilience.time_limit import Budget
from frostline.training.tuning import batchnorm_recalibration, wise_ft
from frostline.training.tuning.class_imbalance import Balance


def learn(
    request: TrainRequest,
    folder: RunFolder,
    plan: Plan,
    head: Frozen,
    images: Images,
    watch: Stopwatch,
    budget: Budget,
    hear: OnEpochs,
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the adapted model in eval mode, and what was chosen on the way."""
    balance = Balance(request.config.imbalance, images.targets, len(request.data.classes))
    if not request.strategy.trains:
        return _solve(request, folder, head, images, balance)
    known = hyperparameters(request.strategy)
    if known.head_init == "probe":
        _keep_what_is_passed(request, plan, head, images)
    model = starting_model(request, head, images, balance)
    if not images.policy.still and folder.writes:
        contact_sheet(images).save(folder.path / "augmentation.png")
    val = request.images("val") if request.data.part("val") else None
    setup = Setup(
        backbone=request.backbone,
        phases=request.phases(),
        hyperparameters=known,
        train=images,
        val=val,
        plan=plan,
        cache=head.cache,
        counts=head.counts,
        balance=balance,
        seed=request.config.seed,
        metric=request.config.metric,
        keep=request.config.keep,
        workers=request.config.workers,
        folder=folder,
        watch=watch,
        budget=budget,
        progress=budget.telling(request.progress),
        on_epochs=hear,
    )
    state = Trainer(setup, model).fit()
    cut = request.backbone.cut(min(phase.cut for phase in setup.phases))
    if known.bn == "recalibrate":
        batchnorm_recalibration.recalibrate(request.backbone, model, cut, images, plan.numbers)
    between = None
    if request.config.interpolate_weights is not None:
        model, between = _interpolated(request, head, images, balance, model, setup)
    bb.freeze(request.backbone, model, cut, known.bn)  # all that any phase let learn
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return model.eval(), {
        "trainable_parameters": learned,
        "cut": cut.name,
        "steps": state.steps,
        "steps_planned": setup.steps,
        "stopped": "minutes" if state.stopped else None,
        "best_epoch": state.best_epoch,
        "notes": [str(incident) for incident in state.incidents],
        **({} if between is None else {"interpolation": between}),
        "earlier_seconds": state.seconds,
    }


def _interpolated(
    request: TrainRequest, head: Frozen, images: Images, balance: Balance, model: nn.Module, setup: Setup
) -> tuple[nn.Module, dict[str, Any]]:
    """Go back some way to the pretrained network with a probe for a head, as far as val says."""
    before, _ = _solve(request, setup.folder, head, images, balance)
    numbers, cut = setup.plan.numbers, request.backbone.cut(min(phase.cut for phase in setup.phases))

    def settle(point: nn.Module) -> None:
        batchnorm_recalibration.recalibrate(request.backbone, point, cut, images, numbers)

    def answers(point: nn.Module) -> NDArray[np.float32]:
        assert setup.val is not None
        mine = setup.val.subset(process_group.share(len(setup.val)))
        parts = [np.empty((0, balance.classes), dtype=np.float32)]
        with torch.no_grad():
            parts += [
                point(numbers.batch(pixels, request.backbone.preprocessing.normalise)).float().cpu().numpy()
                for pixels in mine.evaluation(EVALUATION_BATCH, request.config.workers)
            ]
        return process_group.gathered(np.concatenate(parts), len(setup.val))

    assert request.config.interpolate_weights is not None
    return wise_ft.chosen(
        numbers.place(before),
        model,
        request.config.interpolate_weights,
        settle=settle,
        answers=answers,
        targets=np.zeros(0, dtype=np.int64) if setup.val is None else setup.val.targets,
        metric=request.config.metric,
    )


def _keep_what_is_passed(request: TrainRequest, plan: Plan, head: Frozen, images: Images) -> None:
    """Fill the rows of the earliest cut first: the starting head's features are then computed from them."""
    cuts = [index for index, views in plan.cached.items() if 0 in views and index < head.cut.index]
    if cuts:
        backbone, cut = request.backbone, request.backbone.cut(min(cuts))
        first = Frozen(backbone, backbone.model, cut, plan.way, head.cache, head.counts)
        items = [(position, 0) for position in range(len(images))]
        first.fill(images, items, workers=request.config.workers, progress=request.progress)


def starting_model(request: TrainRequest, features_of: Frozen, images: Images, balance: Balance) -> nn.Module:
    """Return the model that training starts from: pretrained (or not), with a fresh or solved head.

    `features_of` answers the pretrained features, on which a head is solved for.
    """
    known = hyperparameters(request.strategy)
    classes, width = len(request.data.classes), request.backbone.feature_width
    seed = derive(request.config.seed, "head")
    head = build_head(request.strategy.head, width, classes, seed)
    if known.head_init == "probe" and request.strategy.head == "linear":
        seen = features(features_of, images, workers=request.config.workers, progress=request.progress)
        if process_group.leads():  # whose weights the others are given before the first step
            start = probe.logistic(
                seen,
                images.targets,
                classes,
                l2=known.head_init_l2,
                label_smoothing=known.label_smoothing,
                weights=balance.image_weights,
            )
            head = _as_head(start, balance)
    return request.backbone.adapt(classes, head=head, seed=seed, pretrained=request.strategy.pretrained)


def _solve(
    request: TrainRequest, folder: RunFolder, features_of: Frozen, images: Images, balance: Balance
) -> tuple[nn.Module, dict[str, Any]]:
    """The linear probe: a head solved for on frozen features, its L2 chosen by cross-validation."""
    known = hyperparameters(request.strategy)
    layers = _layers(known.layers, request.backbone)
    seen, scales = _probed(request, features_of, images, layers)
    seed = derive(request.config.seed, "probe folds")
    folds = request.data.folds(images.samples, 5, seed)
    if folder.writes:
        request.data.keep_folds(folder.study, images.samples, folds, seed)

    def solved() -> dict[str, Tensor]:
        solution = probe.choose(
            seen,
            images.targets,
            balance.classes,
            few_folds(folds, seed),
            solver=known.solver,
            metric=request.config.metric,
            label_smoothing=request.strategy.label_smoothing or 0.0,
            weights=balance.image_weights,
        )
        chosen.update(
            l2=solution.l2,
            temperature=solution.temperature,
            cv_score=solution.cv_score,
            cv_images=solution.cv_images,
        )
        return _as_head(replace(solution, weight=solution.weight * scales), balance).state_dict()

    chosen: dict[str, Any] = {}
    solution = process_group.tensors(solved)  # by the first process of a job
    chosen = process_group.decided(lambda: chosen)
    if layers is None:
        head_layer = linear_head(solution["weight"], solution["bias"])
        model = request.backbone.adapt(balance.classes, head=head_layer, seed=seed)
    else:
        model = request.backbone.adapt(balance.classes, layers=layers)
        several = bb.multi_stage_head_in(model.get_submodule(request.backbone.head))
        assert several is not None
        with torch.no_grad():
            several.weight.copy_(solution["weight"])
            several.bias.copy_(solution["bias"])
    head = sum(p.numel() for p in model.get_submodule(request.backbone.head).parameters())
    return model.eval(), {
        "trainable_parameters": head,
        "cut": request.backbone.stages[-1].name,
        "steps": 0,
        "steps_planned": 0,
        "stopped": None,
        "best_epoch": None,
        "notes": [],
        "layers": layers,
        **chosen,
    }


def _layers(wanted: int | str, backbone: bb.Backbone) -> int | None:
    """Return how many stages a solved head reads; `None` for the features before it alone."""
    if wanted == "last":
        return None
    offered = len(bb.stage_taps(backbone))
    return offered if isinstance(wanted, str) else min(wanted, offered)


def _probed(
    request: TrainRequest, features_of: Frozen, images: Images, layers: int | None
) -> tuple[NDArray[np.float32], NDArray[np.float32] | float]:
    """Return what a solved head is given, each stage's part scaled alike, and the scale of each column."""
    workers, progress = request.config.workers, request.progress
    if layers is None:
        return features(features_of, images, workers=workers, progress=progress), 1.0
    several = features_of.reading(layers)
    values = stage_features(several, images, workers=workers, progress=progress)
    backbone = request.backbone
    statistics = [width for tap in bb.stage_taps(backbone)[:layers] for width in tap.widths]
    scales = probe.block_scales(values, [backbone.feature_width, *statistics])
    return values * scales, scales


def few_folds(folds: probe.Folds, seed: int) -> probe.Folds:
    """Thin the folds where there are more images than a choice of L2 needs."""
    total = sum(len(held) for _, held in folds)
    if total <= probe.MOST_FOR_CHOICE:
        return folds
    share = probe.MOST_FOR_CHOICE / total
    rng = np.random.default_rng(seed)
    return [
        (rng.permutation(train)[: int(len(train) * share)], rng.permutation(held)[: int(len(held) * share)])
        for train, held in folds
    ]


def _as_head(solution: probe.Solution, balance: Balance) -> nn.Linear:
    bias = solution.bias
    if balance.kind == "logit_adjustment":
        bias = bias - balance.log_prior
    return linear_head(torch.from_numpy(solution.weight).float(), torch.from_numpy(bias).float())
