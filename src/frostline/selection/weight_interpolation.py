"""How far the winner goes back towards the pretrained network, chosen by answers out of fold.

Between (pretrained network + its probe) and (adapted network), weights are mixed (WiSE-FT, Wortsman et al.
2022, arXiv 2109.01903). Each of the winner's runs is asked about the images it held out, at every point. The
share that all of them together like best is the one the winner is trained with; the figures reported are of
shares that each fold's images had no say in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from frostline import metrics, probe
from frostline import models as bb
from frostline.cost import cache_choice
from frostline.feature_cache import FeatureCache
from frostline.features import ForwardConfig, logits
from frostline.features.image_batches import EVALUATION_BATCH, Images
from frostline.models import Backbone, Cut
from frostline.selection import resampling
from frostline.selection.candidates import Candidate
from frostline.selection.out_of_fold import fold_models, longest
from frostline.selection.request import CompareRequest
from frostline.selection.runner import Contest, sub_study
from frostline.selection.significance import Held
from frostline.selection.successive_halving import Task
from frostline.strategies import linear_probe
from frostline.studies.study_folder import RunFolder
from frostline.system import numerics
from frostline.system.timing import Stopwatch
from frostline.training import Plan, train
from frostline.training.tuning.batchnorm_recalibration import recalibrate
from frostline.training.tuning.wise_ft import POINTS, point

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Halfway:
    """The share that was chosen (0 pretrained, 1 adapted), what its runs answer, and what was found."""

    share: float
    held: Held
    about: dict[str, Any]


def can(candidate: Candidate) -> bool:
    """Whether there is anything between the candidate and a probe."""
    strategy = candidate.strategy
    return strategy.trains and strategy.pretrained and strategy.head == "linear"


def choose(request: CompareRequest, contest: Contest, place: int, mine: Held) -> Halfway | None:
    """Ask the winner's runs at every point, or at the one asked for; `None` where the time is up.

    `mine` holds what they answer where they ended.
    """
    shares = (
        POINTS
        if request.config.interpolate_weights == "auto"
        else (float(request.config.interpolate_weights or 0.0),)
    )
    tasks, watch = longest(contest.outcomes, place), Stopwatch()
    row_of = {
        key: row for row, key in enumerate(zip(mine.repeats.tolist(), mine.images.tolist(), strict=True))
    }
    found = np.zeros((len(shares), *mine.probabilities.shape))
    cell_of = np.zeros(len(mine.images), dtype=np.int64)
    image_of = {sample.path: index for index, sample in enumerate(resampling.pool(contest.data))}
    for number, task in enumerate(tasks):
        if contest.clock.late:
            request.log("There is no time to choose how far to go back; the winner stays where it ended.")
            return None
        fold = _Fold.of(request, contest, task)
        which = np.array([row_of[task.cell.repeat, image_of[s.path]] for s in fold.held.samples])
        cell_of[which] = number
        for position, share in enumerate(shares):
            found[position, which] = fold.answers(share)
        if number == 0:
            request.log(
                f"Going back: {len(tasks)} run(s) are asked about what they held out, at {len(shares)} "
                f"point(s): about {watch.seconds * len(tasks):.0f} s"
            )
    return _chosen(request, shares, found, cell_of, mine, watch)


def _chosen(
    request: CompareRequest,
    shares: Sequence[float],
    found: Floats,
    cell_of: NDArray[np.int64],
    mine: Held,
    watch: Stopwatch,
) -> Halfway:
    metric, everyone = request.config.metric, np.ones(len(cell_of), dtype=bool)
    best, points = _best(metric, shares, found, mine.targets, everyone)
    answers, nested = np.empty_like(found[0]), list[float]()
    for cell in np.unique(cell_of):
        own = cell_of == cell
        picked = _best(metric, shares, found, mine.targets, _without(own, mine.images))[0]
        answers[own] = found[picked, own]
        nested.append(shares[picked])
    temperature = metrics.fit_temperature(answers, mine.targets)
    held = replace(mine, logits=answers, probabilities=metrics.softmax(answers, temperature))
    apart = len(nested) > 1  # else the one part that was held out has chosen, and is reported on
    about: dict[str, Any] = {"share": shares[best], "points": points, "by_fold": nested, "apart": apart}
    about["seconds"] = watch.seconds
    return Halfway(shares[best], held, about)


def _without(own: NDArray[np.bool_], images: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return the answers that may choose for those marked: of other images; else of other runs; else all."""
    others = ~np.isin(images, images[own])  # in other repeats the same images were held out, too
    if others.any():
        return others
    return own if own.all() else ~own


def _best(
    metric: str, shares: Sequence[float], found: Floats, targets: NDArray[np.int64], rows_: NDArray[np.bool_]
) -> tuple[int, list[dict[str, float]]]:
    """Return the best point on some answers, as a probe's L2 is chosen, and what all points gave.

    That is the one of lowest log loss among those that chance alone may have put below the best.
    """
    points, good, losses = [], [], []
    for share, raw in zip(shares, found, strict=True):
        p = metrics.softmax(raw[rows_], metrics.fit_temperature(raw[rows_], targets[rows_]))
        loss = metrics.score("log_loss", targets[rows_], p)
        points.append({"share": share, metric: metrics.score(metric, targets[rows_], p), "log_loss": loss})
        good.append(metrics.goodness(metric, targets[rows_], p))
        losses.append(loss)
    best = probe.least_loss_near_best(np.array(good), np.array(losses), metric, int(rows_.sum()))
    return best, points


def models(
    request: CompareRequest, contest: Contest, place: int, tasks: Sequence[Task], share: float | None
) -> Callable[[str], nn.Module | None]:
    """Return what finds the model that was asked about an image, as `fold_models` does, at a share."""
    task_of = {request.study.run_at(contest.outcomes[task].get("run")).path: task for task in tasks}

    def back(run: Path, model: nn.Module) -> nn.Module:
        assert share is not None
        return _Fold.of(request, contest, task_of[run]).at(share, model)

    return fold_models(
        request.backbones[request.candidates[place].model],
        request.candidates[place].strategy,
        len(request.data.classes),
        request.study.path,
        [contest.outcomes[task] for task in tasks],
        None if share is None or share == 1.0 else back,
    )


@dataclass(frozen=True)
class _Fold:
    """One run of the winner on a fold, with the probe of the same fold."""

    request: CompareRequest
    backbone: Backbone
    folder: RunFolder
    cut: Cut
    train: Images
    held: Images
    before: nn.Module
    after: nn.Module

    @classmethod
    def of(cls, request: CompareRequest, contest: Contest, task: Task) -> _Fold:
        """Load the run, and make the probe on its training part, or read it back where it raced, too."""
        candidate = request.candidates[task.candidate]
        backbone, folder = (
            request.backbones[candidate.model],
            request.study.run_at(contest.outcomes[task].get("run")),
        )
        data = resampling.split(contest.data, task.cell, request.config.seed)
        solved = train(
            backbone,
            data,
            linear_probe(),
            study=sub_study(request.study, data),
            config=request.run_config,
            seed=resampling.seed_of(request.config.seed, task.cell),
            augment=candidate.augment,
            keep="last",
        )
        name = folder.read("result.json")["cut"]
        classes = len(request.data.classes)

        def loaded(run: RunFolder) -> nn.Module:
            model = backbone.adapt(classes, seed=0)
            model.load_state_dict(load_file(run.weights))
            return model

        return cls(
            request=request,
            backbone=backbone,
            folder=folder,
            cut=next(cut for cut in backbone.cuts if cut.name == name),
            train=Images(data, data.part("train"), backbone.preprocessing),
            held=Images(data, data.part("val"), backbone.preprocessing),
            before=loaded(solved.folder),
            after=loaded(folder),
        )

    def at(self, share: float, after: nn.Module) -> nn.Module:
        """Return the model at a share of the way, as `train` makes it."""
        numbers = Plan.from_dict(self.folder.read("plan.json")).numbers

        def settle(model: nn.Module) -> None:
            recalibrate(self.backbone, model, self.cut, self.train, numbers)

        return point(self.before, after, share, settle)

    def answers(self, share: float) -> NDArray[np.float32]:
        """Return logits (images, classes) on the held-out images at a share, in float32 as a run's are."""
        row_bytes = 4 * bb.row_elements(self.backbone, self.cut)
        keep = cache_choice.untimed(row_bytes, 3 * self.backbone.preprocessing.size**2).keep
        way = ForwardConfig(numerics.exact_plan(self.request.config.threads), EVALUATION_BATCH)
        with FeatureCache() as store:
            return logits(
                self.backbone, self.at(share, self.after), self.cut, self.held, way, keep=keep, cache=store
            )
