"""Weight interpolation between the pretrained and the adapted network, chosen by out-of-fold predictions.

The weights of (pretrained network + its probe) and of the adapted network are mixed (WiSE-FT, Wortsman et al.
2022, arXiv 2109.01903). Each of the winner's runs predicts its held-out images at every share. The share with
the best scores over all runs is the one the winner is trained with; the reported scores use, for each fold,
the share that the other images choose.
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
from frostline.cost import cache_tradeoff
from frostline.feature_extraction import ForwardConfig, ForwardPass
from frostline.feature_extraction.image_batches import EVALUATION_BATCH, Images
from frostline.models import Backbone, Cut
from frostline.selection import resampling
from frostline.selection.candidates import Candidate
from frostline.selection.compare_request import CompareRequest
from frostline.selection.out_of_fold import fold_models, longest
from frostline.selection.significance import HeldOutPredictions
from frostline.selection.successive_halving import Task
from frostline.selection.trial_runner import TrialRunner, sub_study
from frostline.strategies import linear_probe
from frostline.studies.study_folder import RunFolder
from frostline.system import numerics
from frostline.system.timing import Stopwatch
from frostline.training import Plan, train
from frostline.training.techniques.batchnorm_recalibration import recalibrate
from frostline.training.techniques.wise_ft import POINTS, point

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interpolation:
    """The chosen share (0 pretrained, 1 adapted), the predictions of its runs, and a report as plain data."""

    share: float
    predictions: HeldOutPredictions
    report: dict[str, Any]


def why_not(candidate: Candidate) -> str | None:
    """Return why the weights of a candidate can't be interpolated with those of a probe; `None`: they can."""
    strategy = candidate.strategy
    if strategy.refit_layers:
        return "it ends with another head than it trains"
    if not (strategy.trains and strategy.pretrained and strategy.head == "linear"):
        return "it does not differ from a probe"
    return None


def choose(
    request: CompareRequest, runner: TrialRunner, winner: int, predictions: HeldOutPredictions
) -> Interpolation | None:
    """Choose the interpolation share of the winner by its runs' held-out images.

    Parameters
    ----------
    request
        Options of the comparison; `interpolate_weights` is a share or "auto" for all of `POINTS`.
    runner
        Its runs.
    winner
        Index of the winner.
    predictions
        Held-out predictions of its adapted weights.

    Returns
    -------
    Interpolation or None
        `None` if the time is up.
    """
    shares = (
        POINTS
        if request.config.interpolate_weights == "auto"
        else (float(request.config.interpolate_weights or 0.0),)
    )
    tasks, watch = longest(runner.outcomes, winner), Stopwatch()
    row_at = {
        key: row
        for row, key in enumerate(zip(predictions.repeats.tolist(), predictions.images.tolist(), strict=True))
    }
    share_logits = np.zeros((len(shares), *predictions.probabilities.shape))
    cell_of = np.zeros(len(predictions.images), dtype=np.int64)
    image_of = {sample.path: image for image, sample in enumerate(resampling.pool(runner.data))}
    for number, task in enumerate(tasks):
        if runner.clock.late:
            request.progress.log(
                "There is no time to interpolate weights; the winner keeps its adapted weights."
            )
            return None
        fold = _Fold.of(request, runner, task)
        fold_rows = np.array([row_at[task.cell.repeat, image_of[s.path]] for s in fold.held_out.samples])
        cell_of[fold_rows] = number
        for position, share in enumerate(shares):
            share_logits[position, fold_rows] = fold.predict(share)
        if number == 0:
            request.progress.log(
                f"Interpolating weights: {len(tasks)} run(s) predict their held-out images at {len(shares)} "
                f"share(s), in about {watch.seconds * len(tasks):.0f} s"
            )
    return _chosen(request, shares, share_logits, cell_of, predictions, watch)


def _chosen(
    request: CompareRequest,
    shares: Sequence[float],
    share_logits: Floats,
    cell_of: NDArray[np.int64],
    predictions: HeldOutPredictions,
    watch: Stopwatch,
) -> Interpolation:
    metric, all_rows = request.metric, np.ones(len(cell_of), dtype=bool)
    best, points = _best(metric, shares, share_logits, predictions.targets, all_rows)
    chosen_logits, nested = np.empty_like(share_logits[0]), list[float]()
    for cell in np.unique(cell_of):
        in_cell = cell_of == cell
        chosen = _best(
            metric, shares, share_logits, predictions.targets, _rows_to_choose_by(in_cell, predictions.images)
        )[0]
        chosen_logits[in_cell] = share_logits[chosen, in_cell]
        nested.append(shares[chosen])
    temperature = metrics.fit_temperature(chosen_logits, predictions.targets)
    interpolated = replace(
        predictions, logits=chosen_logits, probabilities=metrics.softmax(chosen_logits, temperature)
    )
    unbiased = len(nested) > 1  # else the same held-out images chose the share and are reported on
    report: dict[str, Any] = {
        "share": shares[best],
        "points": points,
        "by_fold": nested,
        "unbiased": unbiased,
    }
    report["seconds"] = watch.seconds
    return Interpolation(shares[best], interpolated, report)


def _rows_to_choose_by(in_cell: NDArray[np.bool_], images: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return the mask of rows to choose the share of a cell by: other images; else other runs; else all."""
    others = ~np.isin(images, images[in_cell])  # in other repeats the same images were held out, too
    if others.any():
        return others
    return in_cell if in_cell.all() else ~in_cell


def _best(
    metric: metrics.Metric,
    shares: Sequence[float],
    share_logits: Floats,
    targets: NDArray[np.int64],
    rows: NDArray[np.bool_],
) -> tuple[int, list[dict[str, float]]]:
    """Return the position of the best share on some rows, and the scores of all shares.

    It is the one of lowest log loss among those not significantly worse than the best.
    """
    points, scores, losses = [], [], []
    for share, raw in zip(shares, share_logits, strict=True):
        probabilities = metrics.softmax(raw[rows], metrics.fit_temperature(raw[rows], targets[rows]))
        loss = metrics.score("log_loss", targets[rows], probabilities)
        points.append(
            {
                "share": share,
                metrics.name_of(metric): metrics.score(metric, targets[rows], probabilities),
                "log_loss": loss,
            }
        )
        scores.append(metrics.goodness(metric, targets[rows], probabilities))
        losses.append(loss)
    best = probe.least_loss_near_best(np.array(scores), np.array(losses), metric, int(rows.sum()))
    return best, points


def models(
    request: CompareRequest, runner: TrialRunner, winner: int, tasks: Sequence[Task], share: float | None
) -> Callable[[str], nn.Module | None]:
    """Return a function that maps an image's path to the model that held it out, at an interpolation share.

    Parameters
    ----------
    request
        Options of the comparison.
    runner
        Its runs.
    winner
        Index of the winner.
    tasks
        Runs whose models are used.
    share
        Share, 0–1; `None` or 1 for the adapted weights.
    """
    task_of = {request.study.run_at(runner.outcomes[task].get("run")).path: task for task in tasks}

    def interpolated(run: Path, model: nn.Module) -> nn.Module:
        assert share is not None
        return _Fold.of(request, runner, task_of[run]).at(share, model)

    return fold_models(
        request.backbones[request.candidates[winner].model],
        request.candidates[winner].strategy,
        len(request.data.classes),
        request.study.path,
        [runner.outcomes[task] for task in tasks],
        None if share is None or share == 1.0 else interpolated,
    )


@dataclass(frozen=True)
class _Fold:
    """One run of the winner on a fold, with the probe of the same fold."""

    request: CompareRequest
    backbone: Backbone
    folder: RunFolder
    cut: Cut
    train: Images
    held_out: Images
    pretrained: nn.Module
    adapted: nn.Module

    @classmethod
    def of(cls, request: CompareRequest, runner: TrialRunner, task: Task) -> _Fold:
        """Load the run, and train the probe on its training set, or read it back if it was compared, too."""
        candidate = request.candidates[task.candidate]
        backbone, folder = (
            request.backbones[candidate.model],
            request.study.run_at(runner.outcomes[task].get("run")),
        )
        data = resampling.split(runner.data, task.cell, request.config.seed)
        probe_run = train(
            backbone,
            data,
            linear_probe(layers="last"),
            study=sub_study(request.study, data),
            config=request.run_config,
            seed=resampling.seed_of(request.config.seed, task.cell),
            augment=candidate.augment,
            keep="last",
            patience=None,
            feature_cache=request.cache,
        )
        name = folder.read("result.json")["cut"]
        classes, fast = len(request.data.classes), request.config.fast_pixels

        def load(run: RunFolder) -> nn.Module:
            model = backbone.adapt(classes, seed=0)
            model.load_state_dict(load_file(run.weights))
            return model

        return cls(
            request=request,
            backbone=backbone,
            folder=folder,
            cut=next(cut for cut in backbone.cuts if cut.name == name),
            train=Images(data, data.subset("train"), backbone.preprocessing, fast=fast),
            held_out=Images(
                data, data.subset("val"), backbone.preprocessing, fast=fast and "val" in data.learned_subsets
            ),
            pretrained=load(probe_run.folder),
            adapted=load(folder),
        )

    def at(self, share: float, adapted: nn.Module) -> nn.Module:
        """Return the model at an interpolation share, as `train` makes it."""
        numbers = Plan.from_dict(self.folder.read("plan.json")).numbers

        def settle(model: nn.Module) -> None:
            recalibrate(
                self.backbone,
                model.to(numbers.device),
                self.cut,
                self.train,
                numbers,
                self.request.config.workers,
            )

        return point(self.pretrained, adapted, share, settle)

    def predict(self, share: float) -> NDArray[np.float32]:
        """Return logits (images, classes) of the held-out images at a share, in float32 as a run's are."""
        row_bytes = 4 * bb.row_elements(self.backbone, self.cut)
        keep = cache_tradeoff.untimed(row_bytes, 3 * self.backbone.preprocessing.size**2).keep
        forward_config = ForwardConfig(numerics.exact_plan(self.request.config.threads), EVALUATION_BATCH)
        with self.request.cache as cache:
            model = self.at(share, self.adapted)
            forward = ForwardPass(
                self.backbone,
                model,
                self.cut,
                forward_config,
                cache if keep else None,
                workers=self.request.config.workers,
            )
            return forward.logits(self.held_out)
