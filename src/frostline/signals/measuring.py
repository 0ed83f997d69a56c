"""`measure`: what the images say about themselves and about a network, in one pass, before any training."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from frostline import numerics, places
from frostline.augment import Policy
from frostline.backbone import Backbone
from frostline.cost import Rates
from frostline.dataset import Manifest, Sample
from frostline.frozen import Way
from frostline.images import EVALUATION_BATCH, Images, Tell
from frostline.numerics import NumericPlan
from frostline.rates import measure as measured_rates
from frostline.record import digest_of
from frostline.reporting import notebook
from frostline.reporting.opening import probe_chart
from frostline.seeds import derive
from frostline.signals import depth
from frostline.signals.depth import CurvePoint, StageProbe
from frostline.signals.glance import glance
from frostline.signals.listening import Ear, blocks_of
from frostline.signals.similarity import FEWEST, Similarity, concluded
from frostline.signals.size import Size, size_of
from frostline.store import Store

VERSION = 1  # of what is remembered; raised when the same images give other signals
MOST_IMAGES = 2000  # looked at: similarity stands still from 200 on (docs/LOG.md 2026-11-24)
# Probed stage by stage, on pretrained and on random weights: a choice between time and steadiness.
MOST_PROBED, PROBED_A_CLASS = 500, 10
FOLDS = 5
TIMED = 64  # images whose decoding is timed


@dataclass(frozen=True)
class Confidence:
    """Mean top probability of the original classifier, 0–1, with a 95 % interval, and its classes."""

    value: float
    low: float
    high: float
    classes: int


@dataclass(frozen=True)
class Signals:
    """Everything `measure` found. What could not be measured is `None` or empty, and `notes` says why."""

    model: str
    input_size: int
    size: Size
    n_measured: int
    similarity: Similarity | None
    confidence: Confidence | None
    probe_by_stage: tuple[StageProbe, ...]
    curve: tuple[CurvePoint, ...]
    rates: Rates | None
    notes: tuple[str, ...]

    @property
    def best_stage(self) -> StageProbe | None:
        """The stage whose features answer best; of equals the later one."""
        return max(reversed(self.probe_by_stage), key=lambda p: p.accuracy, default=None)

    def as_dict(self) -> dict[str, Any]:
        """The signals as plain data."""
        return {
            "model": self.model,
            "input_size": self.input_size,
            "n_images": self.size.images,
            "n_classes": self.size.classes,
            "n_measured": self.n_measured,
            "size": asdict(self.size),
            "similarity": None if self.similarity is None else self.similarity.as_dict(),
            "confidence": None if self.confidence is None else asdict(self.confidence),
            "probe_by_stage": [asdict(probe) for probe in self.probe_by_stage],
            "best_stage": self.best_stage.stage if self.best_stage else None,
            "learning_curve": [asdict(point) for point in self.curve],
            "rates": None if self.rates is None else self.rates.as_dict(),
            "notes": list(self.notes),
        }

    def _repr_html_(self) -> str:
        """A table, in a notebook."""
        shown = ("stage", "accuracy", "low", "high", "random", "log_me", "h_score", "neighbours")
        rows = [{key: row[key] for key in shown} for row in self.as_dict()["probe_by_stage"]]
        near = self.similarity
        line = [] if near is None else [f"similarity {near.value:.2f} ({near.low:.2f}–{near.high:.2f})"]
        return notebook.table_html(f"What each depth of {self.model} knows", rows, [*line, *self.notes])

    def to_pandas(self) -> Any:
        """The probes, a row for each stage. Raises `UsageError` where pandas is not installed."""
        return notebook.frame(self.as_dict()["probe_by_stage"])

    def plot(self) -> notebook.Plot:
        """Draw what each depth knows."""
        return notebook.plot(probe_chart(self.as_dict()["probe_by_stage"]).spec)


def measure(
    backbone: Backbone,
    data: Manifest,
    *,
    random: bool = True,
    rates: bool = True,
    seed: int = 0,
    threads: int | None = None,
    tell: Tell | None = None,
) -> Signals:
    """Measure the training images against a network: one forward pass over at most 2,000 of them.

    `random` also passes at most 500 (10 a class, if that is more) through random weights of the same
    architecture, so that width is not mistaken for knowledge; `rates` times the network on this machine,
    stage by stage. What was measured before is remembered.
    """
    data = data.checked(tell)
    samples = _chosen(data, data.part("train"), MOST_IMAGES, seed)
    plan = numerics.exact_plan(threads)
    key = {
        "version": VERSION,
        "weights": backbone.digest,
        "preprocessing": backbone.preprocessing.as_dict(),
        "computed": Way(plan, EVALUATION_BATCH).describe(),
        "images": [(sample.digest, sample.label) for sample in samples],
        "units": data.units(samples).tolist(),
        "seed": seed,
        "random": random,
    }

    def look() -> dict[str, Any]:
        with numerics.threads(plan.threads), Store() as store:
            return _looked(backbone, data, samples, plan, store, random, seed, tell)

    found = places.remembered("signals", f"signals {digest_of(key)}", look)
    known = _rates(backbone, data, seed, threads) if rates else None
    return Signals(
        model=backbone.name,
        input_size=backbone.preprocessing.size,
        size=size_of(data),
        n_measured=len(samples),
        similarity=Similarity(**found["similarity"]) if found["similarity"] else None,
        confidence=Confidence(**found["confidence"]) if found["confidence"] else None,
        probe_by_stage=tuple(StageProbe(**row) for row in found["probe_by_stage"]),
        curve=tuple(CurvePoint(**row) for row in found["curve"]),
        rates=known,
        notes=(*found["notes"], *(known.notes if known else ())),
    )


def _rates(backbone: Backbone, data: Manifest, seed: int, threads: int | None) -> Rates:
    """Time the network on this machine, and the decoding of some of these images."""
    samples = data.part("train")[:TIMED]
    images = Images(data, samples, backbone.preprocessing, policy=Policy("standard"), seed=seed)
    return measured_rates(backbone, images, threads=threads, classes=len(data.classes))


def _looked(
    backbone: Backbone,
    data: Manifest,
    samples: tuple[Sample, ...],
    plan: NumericPlan,
    store: Store,
    random: bool,
    seed: int,
    tell: Tell | None,
) -> dict[str, Any]:
    """Do the pass and conclude, as plain data."""
    images, units, notes = Images(data, samples, backbone.preprocessing), data.units(samples), []
    ear, blocks = None, blocks_of(len(images), units.tolist())
    if len(images) < FEWEST:
        notes.append(f"Similarity needs {FEWEST} training images or more; there are {len(images)}.")
    else:
        ear = Ear(backbone, plan.place(backbone.model.eval()), int(blocks.max()) + 1)
    seen = glance(backbone, images, plan, store=store, ear=ear, blocks=blocks, tell=tell)
    found: dict[str, Any] = {"similarity": None, "confidence": None, "probe_by_stage": [], "curve": []}
    if ear is not None:
        likeness = concluded(backbone, ear, blocks)
        found["similarity"] = likeness.as_dict()
        found["confidence"] = asdict(_confidence(backbone, seen.confidence, units))
        if not likeness.proven:
            notes.append(
                f"Similarity was never proved for a network like {backbone.name}: don't rely on its value."
            )
    classes, targets = len(data.classes), images.targets
    last = next(reversed(seen.features))
    folds = data.folds(samples, FOLDS, derive(seed, "measure folds"))
    if not folds:
        notes.append("No class has two images that may be parted, so no probe tells what each depth knows.")
        return {**found, "notes": notes}
    found["curve"] = [
        asdict(point)
        for point in depth.learning_curve(
            seen.features[last], targets, units, classes, folds, derive(seed, "curve")
        )
    ]
    some = _chosen(data, samples, max(MOST_PROBED, PROBED_A_CLASS * classes), seed)
    at = {sample.path: place for place, sample in enumerate(samples)}
    kept = np.array([at[sample.path] for sample in some])
    twin = None
    if random:
        probed = Images(data, some, backbone.preprocessing)
        twin = glance(backbone, probed, plan, model=_twin(backbone, probed, seed), tell=tell).features
    found["probe_by_stage"] = [
        asdict(row)
        for row in depth.probe_stages(
            {stage: rows[kept] for stage, rows in seen.features.items()},
            twin,
            targets[kept],
            units[kept],
            classes,
            data.folds(some, FOLDS, derive(seed, "depth folds")),
        )
    ]
    if len(some) < len(samples):
        notes.append(f"Stages were probed with {len(some):,} of {len(samples):,} images.")
    return {**found, "notes": notes}


def _chosen(data: Manifest, samples: tuple[Sample, ...], most: int, seed: int) -> tuple[Sample, ...]:
    """Return at most `most` samples, an equal share of each class, in the manifest's order."""
    if len(samples) <= most:
        return samples
    targets = data.targets(samples)
    rank = np.zeros(len(samples))
    for label in np.unique(targets):
        mine = np.flatnonzero(targets == label)
        order = sorted(mine, key=lambda i: derive(seed, "measure", samples[i].digest))
        rank[order] = np.arange(len(mine)) / len(mine)
    kept = np.sort(np.argsort(rank, kind="stable")[:most])
    return tuple(samples[i] for i in kept)


def _confidence(backbone: Backbone, top: NDArray[np.float32], units: NDArray[np.int64]) -> Confidence:
    """Average over units, with Student's interval over them."""
    from scipy.stats import t

    _, index = np.unique(units, return_inverse=True)
    means = np.bincount(index, weights=top) / np.bincount(index)
    value, count = float(top.mean()), len(means)
    reach = 1.0 if count < 2 else float(t.ppf(0.975, count - 1)) * means.std(ddof=1) / math.sqrt(count)
    shape = backbone.stages[-1].shape
    return Confidence(value, max(0.0, value - reach), min(1.0, value + reach), int(shape[-1]))


def _twin(backbone: Backbone, images: Images, seed: int) -> nn.Module:
    """Return random weights of the same architecture, BatchNorm statistics taken from the images themselves.

    With the statistics of a fresh layer, 0 and 1, activations of a deep random network vanish or explode.
    """
    model = backbone.adapt(2, pretrained=False, seed=derive(seed, "random weights"))
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    size = min(len(images), EVALUATION_BATCH)
    (pixels,) = images.batches([[(position, 0) for position in range(size)]], once=True)
    for norm in norms:
        norm.momentum, norm.training = 1.0, True
    with torch.no_grad():
        model(images.preprocessing.normalise(pixels))
    return model.eval()
