"""`train`: one strategy, one run, from labelled images to a model and its figures in a study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import nn

from frostline import numerics, places, probe
from frostline.backbone import Backbone
from frostline.dataset import Manifest
from frostline.heads import build_head, linear_head
from frostline.images import Images, contact_sheet
from frostline.inference import Tell, features
from frostline.numerics import NumericPlan
from frostline.record import RunFolder, Study, digest_of, environment, look_at_test
from frostline.seeds import derive
from frostline.strategy import Strategy, parse, settings
from frostline.timing import PeakMemory, Stopwatch, resident_bytes
from frostline.training import figures, loop, planning, recalibration
from frostline.training.imbalance import Balance
from frostline.training.request import Request

DEFAULT_STUDY = "frostline-study"
BATCH = 32  # images a step; the unit in which step budgets were measured (docs/LOG.md 2026-11-23)
THUMBNAILS = 64  # test images kept small in the study, for the report
THUMBNAIL_PX = 64

BASELINE_BYTES = resident_bytes()  # what the imports cost; a run's peak memory is counted above it


@dataclass(frozen=True)
class Run:
    """A finished run: its figures, and where it lies."""

    result: dict[str, Any]
    folder: RunFolder
    study: Study

    def __getattr__(self, name: str) -> Any:
        try:
            return self.result[name]
        except KeyError:
            raise AttributeError(f"A run has no {name!r}. It has {', '.join(self.result)}.") from None


def train(
    backbone: Backbone,
    data: Manifest,
    strategy: Strategy | str,
    *,
    study: str | Path = DEFAULT_STUDY,
    seed: int = 0,
    metric: str = "accuracy",
    augment: str | Callable[[Image.Image], Any] = "standard",
    flip: str = "auto",
    imbalance: str = "none",
    batch: int = BATCH,
    exact: bool = False,
    threads: int | None = None,
    workers: int = 0,
    tell: Tell | None = None,
) -> Run:
    """Adapt `backbone` to `data` by one strategy, and keep the result in the study.

    A run that is finished is read back; an unfinished one goes on where it stopped. `augment` is one of
    `augment.AUGMENTS` or a callable from RGB image to RGB image. `exact` means float32 and no timed
    choice. `tell(what, done, total)` hears of progress. Rates in the result are fractions 0–1.
    Raises `UsageError`, `DataError`, `ModelError`, `StudyError` or `TrainingError`.
    """
    custom = augment if callable(augment) else None
    request = Request(
        backbone=backbone,
        data=data.checked(tell),
        strategy=parse(strategy) if isinstance(strategy, str) else strategy,
        seed=seed,
        metric=metric,
        augment="custom" if callable(augment) else augment,
        custom=custom,
        flip=flip,
        imbalance=imbalance,
        batch=batch,
        exact=exact,
        threads=threads,
        workers=workers,
        tell=tell,
    )
    request.check()
    kept = Study.open(
        study,
        data=request.data.digest,
        split=request.data.split_digest,
        test=request.data.test_digest,
    )
    request.data.write(kept.path / "manifest.jsonl")
    folder = kept.run(request.config())
    if not folder.finished:
        _perform(request, kept, folder)
    result = folder.read("result.json")
    return Run(result, folder, kept)


def _perform(request: Request, study: Study, folder: RunFolder) -> None:
    """Do the run: plan, learn, choose, predict, and write the result last."""
    watch = Stopwatch()
    with PeakMemory(BASELINE_BYTES) as memory:
        folder.write("environment.json", environment())
        plan = planning.numeric_plan(request, folder)
        with numerics.threads(plan.threads):
            policy, flip_test = planning.augmentation(request, plan)
            train_images = request.images("train", policy)
            model, chosen = _learn(request, folder, plan, train_images)
            found = figures.predict_parts(request, folder, model, chosen)
    places.write_atomically(folder.weights, save(_plain_state(model), metadata={"format": "pt"}))
    looks = look_at_test(request.data.test_digest, digest_of(request.config()))
    result = {
        "strategy": str(request.strategy),
        "model": request.backbone.name,
        **found,
        "n_train": len(request.data.part("train")),
        "n_val": len(request.data.part("val")),
        "n_test": len(request.data.part("test")),
        "seconds": watch.seconds,
        "peak_memory_bytes": memory.bytes,
        "peak_memory_exact": memory.exact,
        **chosen,
        "augment": policy.name,
        "flip": policy.flip,
        "flip_test": flip_test,
        "set_aside": len(request.data.set_aside),
        "run": folder.name,
        "study": str(study.path),
        "test_looks": looks,
    }
    folder.write("result.json", result)
    (folder.path / "state.safetensors").unlink(missing_ok=True)


def _plain_state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}


def _learn(
    request: Request, folder: RunFolder, plan: NumericPlan, images: Images
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the adapted model in eval mode, and what was chosen on the way."""
    balance = Balance(request.imbalance, images.targets, len(request.data.classes))
    if not request.strategy.trains:
        return _solve(request, plan, images, balance)
    known = settings(request.strategy)
    model = _fresh(request, plan, images, balance)
    if images.policy.name != "none":
        contact_sheet(images).save(folder.path / "augmentation.png")
    val = request.images("val") if request.data.part("val") else None
    job = loop.Job(
        backbone=request.backbone,
        segments=request.segments(),
        settings=known,
        train=images,
        val=val,
        plan=plan,
        balance=balance,
        seed=request.seed,
        metric=request.metric,
        workers=request.workers,
        folder=folder,
        tell=request.tell,
    )
    progress = loop.run(job, model)
    cut = request.backbone.cut(min(s.cut for s in job.segments))
    if known.bn == "recalibrate":
        recalibration.recalibrate(request.backbone, model, cut, images, plan)
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return model.eval(), {
        "trainable_parameters": learned,
        "cut": cut.name,
        "steps": job.steps,
        "best_epoch": progress.best_epoch,
    }


def _fresh(request: Request, plan: NumericPlan, images: Images, balance: Balance) -> nn.Module:
    """Return the model that training starts from: pretrained (or not), with a fresh or solved head."""
    known = settings(request.strategy)
    classes, width = len(request.data.classes), request.backbone.feature_width
    seed = derive(request.seed, "head")
    head = build_head(request.strategy.head, width, classes, seed)
    if known.start == "probe" and request.strategy.head == "linear":
        seen = features(request.backbone, images, plan, workers=request.workers, tell=request.tell)
        start = probe.logistic(
            seen,
            images.targets,
            classes,
            l2=known.start_l2,
            smoothing=known.smoothing,
            weights=balance.image_weights,
        )
        head = _as_head(start, balance)
    return request.backbone.adapt(classes, head=head, seed=seed, pretrained=request.strategy.pretrained)


def _solve(
    request: Request, plan: NumericPlan, images: Images, balance: Balance
) -> tuple[nn.Module, dict[str, Any]]:
    """The linear probe: a head solved for on frozen features, its L2 chosen by cross-validation."""
    known = settings(request.strategy)
    seen = features(request.backbone, images, plan, workers=request.workers, tell=request.tell)
    seed = derive(request.seed, "probe folds")
    folds = request.data.folds(images.samples, 5, seed)
    found = probe.choose(
        seen,
        images.targets,
        balance.classes,
        _few(folds, seed),
        solver=known.solver,
        metric=request.metric,
        smoothing=request.strategy.smoothing or 0.0,
        weights=balance.image_weights,
    )
    model = request.backbone.adapt(balance.classes, head=_as_head(found, balance), seed=seed)
    head = sum(p.numel() for p in model.get_submodule(request.backbone.head).parameters())
    return model.eval(), {
        "trainable_parameters": head,
        "cut": request.backbone.stages[-1].name,
        "steps": 0,
        "best_epoch": None,
        "l2": found.l2,
        "temperature": found.temperature,
        "cv_score": found.cv_score,
    }


def _few(folds: probe.Folds, seed: int) -> probe.Folds:
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


def _as_head(found: probe.Solution, balance: Balance) -> nn.Linear:
    bias = found.bias
    if balance.kind == "logit_adjustment":
        bias = bias - balance.log_prior
    return linear_head(torch.from_numpy(found.weight).float(), torch.from_numpy(bias).float())
