"""How a model learns: by a solved head, or by a head and the training loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from frostline import models as bb
from frostline import probe, sentences
from frostline.distributed import process_group
from frostline.feature_extraction import ForwardConfig, ForwardPass, Frozen, features
from frostline.feature_extraction.image_batches import Images, contact_sheet, evaluation_batch
from frostline.loggers import OnEpochs
from frostline.models.heads import build_head
from frostline.strategies import hyperparameters
from frostline.studies.study_folder import RunFolder
from frostline.system.numerics import exact_plan
from frostline.system.seeds import derive
from frostline.system.timing import Stopwatch
from frostline.training.loop.input_starvation import starved_line
from frostline.training.loop.solved_head import TrainedModel, as_head, refit, solve_head
from frostline.training.loop.trainer import Setup, Trainer
from frostline.training.numeric_plan import Plan
from frostline.training.resilience.time_limit import TimeLimit
from frostline.training.techniques import batchnorm_recalibration, wise_ft
from frostline.training.techniques.class_imbalance import Balance
from frostline.training.train_request import Subsets, TrainRequest


def learn(
    request: TrainRequest,
    folder: RunFolder,
    plan: Plan,
    head: Frozen,
    subsets: Subsets,
    watch: Stopwatch,
    budget: TimeLimit,
    hear: OnEpochs,
) -> TrainedModel:
    """Return the adapted model, and how it learned."""
    images = subsets.train
    balance = Balance(request.config.imbalance, images.targets, len(request.data.classes))
    known = hyperparameters(request.strategy)
    with budget.before_steps(request.progress) as progress:
        first = replace(request, progress=progress)
        if not request.strategy.trains:
            return solve_head(first, folder, head, images, balance)
        if known.head_init == "probe" and request.parent is None and not known.mixes:
            _keep_what_is_passed(first, plan, head, images)
        model = starting_model(first, head, images, balance)
    if not images.policy.still and folder.writes:
        contact_sheet(images).save(folder.path / "augmentation.png")
    setup = Setup(
        backbone=request.backbone,
        phases=request.phases(),
        hyperparameters=known,
        train=images,
        val=subsets.val if len(subsets.val) else None,
        plan=plan,
        cache=head.cache,
        counts=head.counts,
        balance=balance,
        seed=request.order_seed,
        views_before=0 if request.parent is None else request.parent.epochs,
        metric=request.metric,
        keep=request.config.keep,
        patience=request.config.patience,
        stop_after=request.config.stop_after,
        workers=request.config.workers,
        folder=folder,
        watch=watch,
        budget=budget,
        progress=budget.telling(request.progress),
        deterministic=request.config.deterministic,
        on_epochs=hear,
    )
    trainer = Trainer(setup, model)
    state = trainer.fit()
    cut = request.backbone.cut(min(phase.cut for phase in setup.phases))
    if known.bn == "recalibrate":
        batchnorm_recalibration.recalibrate(
            request.backbone, model, cut, images, plan.numbers, request.config.workers
        )
    between = None
    if request.config.interpolate_weights is not None:
        model, between = _interpolated(request, head, images, balance, model, setup)
    layers = None
    if known.refit_layers:
        model, layers = refit(request, plan, model, images, balance, known.refit_layers)
    bb.freeze(request.backbone, model, cut, known.bn)  # all that any phase let learn
    pace = trainer.pace.as_dict()
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    figures = {
        "trainable_parameters": learned,
        "cut": cut.name,
        "layers": layers,
        "steps": state.steps,
        "steps_planned": setup.steps,
        "stopped": "minutes" if state.stopped else None,
        "best_epoch": state.best_epoch if setup.keep == "best" else None,
        "notes": [
            *map(str, state.incidents),
            *filter(None, [starved_line(pace, images.workers(request.config.workers))]),
        ],
        **({} if pace is None else {"pace": pace}),
        **({} if between is None else {"interpolation": between}),
        **(
            {}
            if setup.patience is None and setup.stop_after is None
            else {"early_stopping": _early_stopping(setup, trainer, state.best_epoch)}
        ),
    }
    return TrainedModel(model.eval(), cut, figures, earlier_seconds=state.seconds)


def _early_stopping(setup: Setup, trainer: Trainer, best_epoch: int | None) -> dict[str, Any]:
    """Return what stopped it early and what that saved: epochs, and seconds by those of the last phase."""
    planned, done = sum(phase.epochs for phase in setup.phases), len(trainer.epochs)
    saved = planned - done if trainer.stopped_early else 0
    seconds = [row["seconds"] for row in trainer.epochs if row["phase"] == len(setup.phases) - 1]
    each_s = float(np.median(seconds)) if seconds else 0.0  # the first one also computes frozen layers
    early = {
        "patience": setup.patience,
        **({} if setup.stop_after is None else {"stop_after": setup.stop_after}),
        "epochs": done,
        "last_phase": setup.phases[-1].epochs,
        "epochs_saved": saved,
        "seconds_saved": saved * each_s,
    }
    if saved:
        returned_epoch = best_epoch if setup.keep == "best" else None
        setup.progress.log("  " + sentences.stopped_early(early, returned_epoch))
    return early


def _interpolated(
    request: TrainRequest, head: Frozen, images: Images, balance: Balance, model: nn.Module, setup: Setup
) -> tuple[nn.Module, dict[str, Any]]:
    """Go back some way to the pretrained network with a probe for a head, as far as val says."""
    before = solve_head(request, setup.folder, head, images, balance).model
    numbers, cut = setup.plan.numbers, request.backbone.cut(min(phase.cut for phase in setup.phases))

    def settle(point: nn.Module) -> None:
        batchnorm_recalibration.recalibrate(
            request.backbone, point, cut, images, numbers, request.config.workers
        )

    def answers(point: nn.Module) -> NDArray[np.float32]:
        assert setup.val is not None
        config = ForwardConfig(exact_plan(request.config.threads), evaluation_batch())  # as the final figures
        forward = ForwardPass(
            request.backbone, point, request.backbone.cuts[0], config, workers=request.config.workers
        )
        mine = setup.val.subset(process_group.share(len(setup.val)))
        return process_group.gathered(forward.logits(mine), len(setup.val))

    assert request.config.interpolate_weights is not None
    return wise_ft.chosen(
        numbers.place(before),
        model,
        request.config.interpolate_weights,
        settle=settle,
        answers=answers,
        targets=np.zeros(0, dtype=np.int64) if setup.val is None else setup.val.targets,
        metric=request.metric,
    )


def _keep_what_is_passed(request: TrainRequest, plan: Plan, head: Frozen, images: Images) -> None:
    """Fill the rows of the earliest cut first: the starting head's features are then computed from them."""
    cuts = [index for index, views in plan.cached.items() if 0 in views and index < head.cut.index]
    if cuts:
        backbone, cut = request.backbone, request.backbone.cut(min(cuts))
        first = Frozen(backbone, backbone.model, cut, plan.forward_config, head.cache, head.counts)
        items = [(position, 0) for position in range(len(images))]
        first.fill(images, items, workers=request.config.workers, progress=request.progress)


def starting_model(request: TrainRequest, features_of: Frozen, images: Images, balance: Balance) -> nn.Module:
    """Return the model that training starts from: pretrained (or not), with a fresh or solved head.

    A run that continues starts from its parent's.

    `features_of` answers the pretrained features, on which a head is solved for.
    """
    known = hyperparameters(request.strategy)
    classes, width = len(request.data.classes), request.backbone.feature_width
    seed = derive(request.config.seed, "head")
    head = build_head(request.strategy.head, width, classes, seed)
    if request.parent is not None:
        pretrained = request.strategy.pretrained
        return request.parent.load(
            request.backbone.adapt(classes, head=head, seed=seed, pretrained=pretrained)
        )
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
            head = as_head(start, balance)
    return request.backbone.adapt(classes, head=head, seed=seed, pretrained=request.strategy.pretrained)
