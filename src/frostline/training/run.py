"""`train`: one strategy, one run, from labelled images to a model and its figures in a study."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save
from torch import nn

from frostline import backbone as bb
from frostline import metrics, numerics, places, probe
from frostline.augment import FLIPS, Policy
from frostline.backbone import Backbone
from frostline.dataset import Manifest, Sample
from frostline.errors import UsageError, did_you_mean
from frostline.heads import build_head, linear_head
from frostline.images import Images, contact_sheet
from frostline.inference import Tell, features, logits
from frostline.numerics import NumericPlan
from frostline.record import RunFolder, Study, digest_of, environment, look_at_test
from frostline.seeds import derive
from frostline.strategy import Strategy, parse, schedule, settings
from frostline.timing import PeakMemory, Stopwatch, resident_bytes
from frostline.training import flips, loop, recalibration
from frostline.training.imbalance import Balance

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


@dataclass(frozen=True)
class Request:
    """Everything that was asked for in one call of `train`."""

    backbone: Backbone
    data: Manifest
    strategy: Strategy
    seed: int
    metric: str
    augment: str
    custom: Callable[[Image.Image], Any] | None
    flip: str
    imbalance: str
    batch: int
    exact: bool
    threads: int | None
    workers: int
    tell: Tell | None

    def config(self) -> dict[str, Any]:
        """What makes two runs the same run."""
        return {
            "strategy": str(self.strategy),
            "settings": asdict(settings(self.strategy)),
            "model": self.backbone.name,
            "weights": self.backbone.digest,
            "source": self.backbone.source,
            "preprocessing": self.backbone.preprocessing.as_dict(),
            "classes": list(self.data.classes),
            "data": self.data.digest,
            "split": self.data.split_digest,
            "seed": self.seed,
            "metric": self.metric,
            "augment": self.augment,
            "flip": self.flip,
            "imbalance": self.imbalance,
            "batch": self.batch,
            "exact": self.exact,
        }


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
    _check(request)
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


def _check(request: Request) -> None:
    """Refuse what makes no sense before anything is computed."""
    known = {
        "metric": (request.metric, metrics.METRICS),
        "flip": (request.flip, FLIPS),
    }
    wrong = [
        f"{key} must be one of {', '.join(words)}, found {value!r}.{did_you_mean(value, words)}"
        for key, (value, words) in known.items()
        if value not in words
    ]
    if request.batch < 1:
        wrong.append(f"batch must be at least 1, found {request.batch}.")
    if request.threads is not None and request.threads < 1:
        wrong.append(f"threads must be at least 1, found {request.threads}.")
    if wrong:
        raise UsageError(" ".join(wrong))
    Policy(request.augment)
    Balance(request.imbalance, np.zeros(1, dtype=np.int64), 1)


def _perform(request: Request, study: Study, folder: RunFolder) -> None:
    """Do the run: plan, learn, choose, predict, and write the result last."""
    watch = Stopwatch()
    with PeakMemory(BASELINE_BYTES) as memory:
        folder.write("environment.json", environment())
        plan = _numeric_plan(request, folder)
        with numerics.threads(plan.threads):
            policy, flip_test = _policy(request, plan)
            train_images = _images(request, "train", policy)
            model, chosen = _learn(request, folder, plan, train_images)
            figures = _predict(request, folder, model, chosen)
    places.write_atomically(folder.weights, save(_plain_state(model), metadata={"format": "pt"}))
    looks = look_at_test(request.data.test_digest, digest_of(request.config()))
    result = {
        "strategy": str(request.strategy),
        "model": request.backbone.name,
        **figures,
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


# --- before the first step ----------------------------------------------------------------------------


def _numeric_plan(request: Request, folder: RunFolder) -> NumericPlan:
    """Read the plan that was made when the run began, or make and write it now."""
    if (folder.path / "plan.json").exists():
        return NumericPlan.from_dict(folder.read("plan.json"))
    if request.exact:
        plan = numerics.exact_plan(request.threads)
    else:
        cuts = [s.cut for s in _segments(request)]
        plan = numerics.timed_plan(*_timed_step(request, min(cuts) if cuts else None), request.threads)
    folder.write("plan.json", plan.as_dict())
    return plan


def _segments(request: Request) -> tuple[Any, ...]:
    return schedule(
        request.strategy,
        stages=len(request.backbone.stages),
        images=len(request.data.part("train")),
        batch=request.batch,
    )


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


def _policy(request: Request, plan: NumericPlan) -> tuple[Policy, dict[str, Any] | None]:
    """Decide the augmentation: as asked, with `auto` flips asked of the training images."""
    if request.augment in ("none", "custom") or not request.strategy.trains:
        return Policy(request.augment if request.strategy.trains else "none"), None
    if request.flip != "auto":
        return Policy(request.augment, request.flip), None
    test = flips.try_flips(request.backbone, request.data, request.data.part("train"), plan, request.seed)
    return Policy(request.augment, "horizontal" if test.safe else "none"), test.as_dict()


def _images(request: Request, part: str, policy: Policy | None = None) -> Images:
    return Images(
        request.data,
        request.data.part(part),
        request.backbone.preprocessing,
        policy=policy,
        custom=request.custom if policy is not None and policy.name == "custom" else None,
        seed=derive(request.seed, "augment"),
    )


# --- learning -----------------------------------------------------------------------------------------


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
    val = _images(request, "val") if request.data.part("val") else None
    job = loop.Job(
        backbone=request.backbone,
        segments=_segments(request),
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


# --- figures ------------------------------------------------------------------------------------------


def _predict(request: Request, folder: RunFolder, model: nn.Module, chosen: dict[str, Any]) -> dict[str, Any]:
    """Predict val and test with the model as it will be taken away: float32, plain."""
    plain = numerics.exact_plan(request.threads)
    temperature = chosen.pop("temperature", 1.0)
    figures: dict[str, Any] = {"val_accuracy": None, f"val_{request.metric}": None, "val_goodness": None}
    if request.data.part("val"):
        val = _images(request, "val")
        raw = logits(model, val, plain, workers=request.workers)
        temperature = metrics.fit_temperature(raw, val.targets)
        probabilities = metrics.softmax(raw, temperature)
        _write_predictions(request, folder, "val", val.samples, probabilities)
        figures |= {
            "val_accuracy": metrics.score("accuracy", val.targets, probabilities),
            f"val_{request.metric}": metrics.score(request.metric, val.targets, probabilities),
            "val_goodness": metrics.goodness(request.metric, val.targets, probabilities),
        }
    test = _images(request, "test")
    probabilities = metrics.softmax(logits(model, test, plain, workers=request.workers), temperature)
    _write_predictions(request, folder, "test", test.samples, probabilities)
    _write_thumbnails(request, folder, test.samples)
    guesses = probabilities.argmax(axis=1)
    low, high = metrics.interval(
        test.targets, guesses, request.data.units(test.samples), derive(request.seed, "interval")
    )
    summary = metrics.summary(request.data.classes, test.targets, probabilities)
    return {**summary, "low": low, "high": high, "temperature": temperature, **figures}


def _write_predictions(
    request: Request,
    folder: RunFolder,
    part: str,
    samples: tuple[Sample, ...],
    probabilities: NDArray[np.float64],
) -> None:
    names = request.data.classes
    rows = (
        [s.path, s.label, names[row.argmax()], *(f"{p:.6g}" for p in row)]
        for s, row in zip(samples, probabilities, strict=True)
    )
    header = ["path", "label", "predicted", *(f"p({name})" for name in names)]
    folder.write_table(f"predictions-{part}.csv", header, rows)


def _write_thumbnails(request: Request, folder: RunFolder, samples: tuple[Sample, ...]) -> None:
    """Keep a few small test pictures, so that a report can show them without the images."""
    place = folder.path.parent.parent / "thumbnails"
    place.mkdir(exist_ok=True)
    for sample in sorted(samples, key=lambda s: s.digest)[:THUMBNAILS]:
        target = place / f"{sample.digest[:16]}.jpg"
        if not target.exists():
            picture = request.data.read(sample)
            picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
            temporary = target.with_suffix(f".{os.getpid()}.tmp")
            picture.save(temporary, format="JPEG", quality=80)
            temporary.replace(target)
