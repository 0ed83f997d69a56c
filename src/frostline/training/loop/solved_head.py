"""A solved head: a linear probe on the features before the head, or on several stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from frostline import metrics, probe
from frostline import models as bb
from frostline.config import FOLDS, MOST_FOR_CHOICE
from frostline.distributed import process_group
from frostline.feature_extraction import ForwardConfig, Frozen, features, features_and_statistics
from frostline.feature_extraction.image_batches import Images, evaluation_batch
from frostline.inference import selective_prediction
from frostline.models import Backbone, Cut
from frostline.models.heads import linear_head
from frostline.strategies import SEVERAL, SOLVED_SMOOTHING, hyperparameters
from frostline.studies.study_folder import RunFolder
from frostline.system import numerics
from frostline.system.seeds import derive
from frostline.training.numeric_plan import Plan
from frostline.training.techniques.class_imbalance import Balance
from frostline.training.train_request import TrainRequest

# Numbers of stages that `layers=auto` chooses from, beside all of them. On six sets, 8 and 40 images a class,
# that was no better than four stages everywhere (docs/LOG.md 2026-11-28).
CHOICE = (2, SEVERAL)
# L2 of a head that is solved for on a network that has learned from the same images. Their folds chose the
# end of the grid, 1e-6, which is as accurate but overconfident (docs/LOG.md 2026-11-28).
REFIT_L2 = 1e-4
LEAST = 1e-30  # a probability of 0 has no logarithm


@dataclass(frozen=True)
class _Columns:
    """What a head is given where it reads so many stages: the first columns, and the scale of each."""

    layers: int | None  # `None`: the features before the head alone
    values: NDArray[np.float32]  # (images, columns), each statistic scaled alike
    scales: NDArray[np.float32] | float


@dataclass(frozen=True)
class TrainedModel:
    """A model that has learned.

    Attributes
    ----------
    model : nn.Module
        In eval mode.
    cut : Cut
        From where on it may differ from the pretrained one.
    figures : dict
        How it learned, as the run's result has it.
    temperature : float
        What its logits are divided by where neither a person nor val decides.
    earlier_seconds : float
        Of processes that were killed before this one went on.
    """

    model: nn.Module
    cut: Cut
    figures: dict[str, Any]
    temperature: float = 1.0
    earlier_seconds: float = 0.0


def solve_head(
    request: TrainRequest, folder: RunFolder, features_of: Frozen, images: Images, balance: Balance
) -> TrainedModel:
    """Return the network with a head solved for on frozen features, its L2 chosen by cross-validation.

    Where `layers` is auto, out-of-fold log loss chooses how many stages it reads.
    """
    known = hyperparameters(request.strategy)
    candidates = _candidates(request, features_of, images, known.layers)
    seed = derive(request.config.seed, "probe folds")
    folds = request.data.folds(images.samples, FOLDS, seed)
    if folder.writes:
        request.data.keep_folds(folder.study, images.samples, folds, seed)

    def solved() -> dict[str, Tensor]:
        solutions = [
            probe.choose(
                columns.values,
                images.targets,
                balance.classes,
                few_folds(folds, seed),
                solver=known.solver,
                metric=request.metric,
                label_smoothing=request.strategy.label_smoothing or SOLVED_SMOOTHING,
                weights=balance.image_weights,
            )
            for columns in candidates
        ]
        place = _least_loss(solutions)
        solution, columns = solutions[place], candidates[place]
        _write_held_out(request, folder, images, solution, balance)
        temperature.append(solution.temperature)
        chosen.update(
            layers=columns.layers,
            l2=solution.l2,
            cv_score=solution.cv_score,
            cv_images=solution.cv_images,
        )
        return as_head(replace(solution, weight=solution.weight * columns.scales), balance).state_dict()

    chosen, temperature = dict[str, Any](), list[float]()
    weights = process_group.tensors(solved)  # by the first process of a job
    chosen, temperature = process_group.decided(lambda: (chosen, temperature))
    model = _with_head(request.backbone, balance.classes, chosen["layers"], weights, seed)
    head = sum(p.numel() for p in model.get_submodule(request.backbone.head).parameters())
    last = request.backbone.cuts[-1]
    figures = {
        "trainable_parameters": head,
        "cut": last.name,
        "steps": 0,
        "steps_planned": 0,
        "stopped": None,
        "best_epoch": None,
        "notes": [],
        **chosen,
    }
    return TrainedModel(model.eval(), last, figures, temperature[0])


def refit(
    request: TrainRequest, plan: Plan, model: nn.Module, images: Images, balance: Balance, layers: int
) -> tuple[nn.Module, int]:
    """Return the adapted network with a head solved for on its own last stages, and how many these are.

    The training images' features flatter a network that has learned from them, so no folds choose L2.
    """
    backbone = request.backbone
    taps = bb.stage_taps(backbone)[:layers]
    numbers = numerics.exact_plan(request.config.threads)
    forward_config = ForwardConfig(numbers, evaluation_batch())
    frozen = Frozen(
        backbone, plan.numbers.place(model.eval()), backbone.cuts[-1], forward_config, layers=len(taps)
    )
    values = features_and_statistics(
        frozen, images, workers=request.config.workers, progress=request.progress
    )
    widths = [backbone.feature_width, *(width for tap in taps for width in tap.widths)]
    scales = probe.block_scales(values, widths)

    def solved() -> dict[str, Tensor]:
        solution = probe.logistic(
            values * scales, images.targets, balance.classes, l2=REFIT_L2, weights=balance.image_weights
        )
        return as_head(replace(solution, weight=solution.weight * scales), balance).state_dict()

    weights = process_group.tensors(solved)  # by the first process of a job
    seed = derive(request.config.seed, "head")
    refitted = _with_head(backbone, balance.classes, len(taps), weights, seed)
    own_head = tuple(f"{name}." for name in backbone.classifier.names)
    below = {key: value for key, value in model.state_dict().items() if not key.startswith(own_head)}
    refitted.load_state_dict(below, strict=False)
    return plan.numbers.place(refitted), len(taps)


def _candidates(
    request: TrainRequest, features_of: Frozen, images: Images, layers: int | str
) -> list[_Columns]:
    """Return what heads that read so many stages are given: one, or several for `auto`."""
    workers, progress = request.config.workers, request.progress
    if layers == "last":
        return [_Columns(None, features(features_of, images, workers=workers, progress=progress), 1.0)]
    taps = bb.stage_taps(request.backbone)
    most = len(taps) if isinstance(layers, str) else min(layers, len(taps))
    values = features_and_statistics(features_of.reading(most), images, workers=workers, progress=progress)
    blocks = [(request.backbone.feature_width,), *(tap.widths for tap in taps)]
    counts = sorted({*(k for k in CHOICE if k < most), most}) if layers == "auto" else [most]
    if SEVERAL in counts:  # taken where nothing can choose
        counts = [SEVERAL, *(k for k in counts if k != SEVERAL)]
    columns = []
    for count in counts:
        widths = [width for block in blocks[: count + 1] for width in block]
        part = values[:, : sum(widths)]
        scales = probe.block_scales(part, widths)
        columns.append(_Columns(count, part * scales, scales))
    return columns


def _least_loss(solutions: Sequence[probe.Solution]) -> int:
    """Return the place of the lowest out-of-fold log loss; the first where there are no folds."""
    losses = [np.inf if solution.cv_loss is None else solution.cv_loss for solution in solutions]
    return int(np.argmin(losses))


def _write_held_out(
    request: TrainRequest, folder: RunFolder, images: Images, solution: probe.Solution, balance: Balance
) -> None:
    """Write what the folds said of images that they held out, where the run itself holds none out.

    Probabilities are as the head gives them: adjusted logits, and the run's temperature.
    """
    if request.data.subset("val") or solution.held_out is None or solution.held_probabilities is None:
        return
    logits = solution.temperature * np.log(np.maximum(solution.held_probabilities, LEAST))
    if balance.kind == "logit_adjustment":
        logits = logits - balance.log_prior
    probabilities = metrics.softmax(logits, request.config.temperature or solution.temperature)
    names, samples = request.data.classes, [images.samples[place] for place in solution.held_out.tolist()]
    rows = (
        [sample.path, sample.label, names[row.argmax()], *(f"{p:.6g}" for p in row)]
        for sample, row in zip(samples, probabilities, strict=True)
    )
    header = ["path", "label", "predicted", *(f"p({name})" for name in names)]
    folder.write_table(selective_prediction.HELD_OUT, header, rows)


def _with_head(
    backbone: Backbone, classes: int, layers: int | None, weights: dict[str, Tensor], seed: int
) -> nn.Module:
    if layers is None:
        return backbone.adapt(classes, head=linear_head(weights["weight"], weights["bias"]), seed=seed)
    model = backbone.adapt(classes, layers=layers)
    head = bb.multi_stage_head_in(model.get_submodule(backbone.head))
    assert head is not None
    with torch.no_grad():
        head.weight.copy_(weights["weight"])
        head.bias.copy_(weights["bias"])
    return model


def few_folds(folds: probe.Folds, seed: int) -> probe.Folds:
    """Thin the folds where there are more images than a choice of L2 needs."""
    total = sum(len(held_out) for _, held_out in folds)
    if total <= MOST_FOR_CHOICE:
        return folds
    share = MOST_FOR_CHOICE / total
    rng = np.random.default_rng(seed)
    return [
        (
            rng.permutation(train)[: int(len(train) * share)],
            rng.permutation(held_out)[: int(len(held_out) * share)],
        )
        for train, held_out in folds
    ]


def as_head(solution: probe.Solution, balance: Balance) -> nn.Linear:
    bias = solution.bias
    if balance.kind == "logit_adjustment":
        bias = bias - balance.log_prior
    return linear_head(torch.from_numpy(solution.weight).float(), torch.from_numpy(bias).float())
