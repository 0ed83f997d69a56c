"""`measure`: signals of the images and the backbone in one pass, before any training."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from frostline import profiling as rates_of
from frostline import sentences
from frostline.config import AUTO_BATCH, FOLDS
from frostline.cost import Rates
from frostline.data import CutAway, Manifest, Sample, demand_manifest
from frostline.data.decoding_threads import AUTO, Workers, workers_fault
from frostline.diagnostics import stage_probes
from frostline.diagnostics.activation_statistics import ActivationRecorder, blocks_of
from frostline.diagnostics.dataset_size import DatasetSize, size_of
from frostline.diagnostics.pretraining_similarity import FEWEST, Similarity, similarity_from
from frostline.diagnostics.stage_features import stage_features
from frostline.diagnostics.stage_probes import CurvePoint, GroupsProbe, SeveralStageProbe, StageProbe
from frostline.errors import DataError, ModelError, UsageError
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction import ForwardConfig, Frozen, features_and_statistics
from frostline.feature_extraction.augmentation import Policy
from frostline.feature_extraction.image_batches import EVALUATION_BATCH, Images
from frostline.models import Backbone, demand_backbone, stage_taps, training_overlap
from frostline.models.resizing import VERSION as FAST_VERSION
from frostline.models.stage_statistics import VERSION as STATISTICS_VERSION
from frostline.probe import Folds
from frostline.progress import OnProgress, Progress
from frostline.reports import notebook
from frostline.reports.images_section import probe_chart
from frostline.strategies import SEVERAL, Strategy, batch_size
from frostline.studies.study_folder import digest_of
from frostline.system import deadline, devices, directories, numerics, timing
from frostline.system.numerics import NumericPlan
from frostline.system.seeds import derive

SIGNALS = "signals"  # kind of what is remembered
VERSION = 7  # of what is remembered; raised when the same images give other signals
MEASURING = "loading and measuring the network and the images"  # in messages about a time limit
MOST_IMAGES = 2000  # whose features are those of training: a choice between time and steadiness
# Of them pass stage by stage in float32, on pretrained and on random weights: a choice, since such an image
# costs 2.5 of the others. Similarity stands still from 200 on (docs/LOG.md 2026-11-24).
MOST_PROBED, PROBED_A_CLASS = 200, 10
TIMED = 64  # images whose decoding is timed
# Pixels that stay in memory from one pass to the next: 500 images at 299 px, 850 at 224 px. A choice; what is
# over it is decoded again.
HELD_BYTES = 128_000_000


@dataclass(frozen=True)
class Confidence:
    """Mean top probability of the original classifier, 0–1, with a 95 % interval, and its class count."""

    value: float
    low: float
    high: float
    classes: int


@dataclass(frozen=True)
class Signals:
    """The result of `measure`. What could not be measured is None or empty, and `notes` says why.

    Attributes
    ----------
    model : str
    input_size : int
        Pixels a side.
    size : Size
    n_measured : int
        Images of `linear_probe` and of the learning curve.
    similarity : Similarity or None
    confidence : Confidence or None
    probe_by_stage : tuple of StageProbe
    linear_probe : SeveralStageProbe or None
        The strategy `linear_probe`, out of fold; it reads several stages.
    curve : tuple of CurvePoint
        Learning curve of the last stage's probe.
    groups : GroupsProbe or None
        Where file names suggest groups.
    rates : Rates or None
        Seconds and bytes on this machine.
    notes : tuple of str
    cut_away : CutAway
        Share of the images that preprocessing removes.
    """

    model: str
    input_size: int
    size: DatasetSize
    n_measured: int
    similarity: Similarity | None
    confidence: Confidence | None
    probe_by_stage: tuple[StageProbe, ...]
    linear_probe: SeveralStageProbe | None
    curve: tuple[CurvePoint, ...]
    groups: GroupsProbe | None  # where names suggest groups
    rates: Rates | None
    notes: tuple[str, ...]
    cut_away: CutAway  # of all images, as the network sees them

    @property
    def best_stage(self) -> StageProbe | None:
        """The stage with the highest probe accuracy; of equals the later one."""
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
            "linear_probe": None if self.linear_probe is None else asdict(self.linear_probe),
            "best_stage": self.best_stage.stage if self.best_stage else None,
            "learning_curve": [asdict(point) for point in self.curve],
            "groups": None if self.groups is None else asdict(self.groups),
            "rates": None if self.rates is None else self.rates.as_dict(),
            "notes": list(self.notes),
            "cut_away": self.cut_away.as_dict(),
        }

    def __repr__(self) -> str:
        """One line: number of images, similarity, accuracy of the best stage's probe."""
        parts = [f"{self.size.images:,} images of {self.size.classes:,} classes"]
        if self.similarity is not None:
            parts.append(f"similarity {self.similarity.value:.2f}")
        if (best := self.best_stage) is not None:
            parts.append(f"a probe after {best.stage} {sentences.percent(best.accuracy)}")
        return f"<Signals of {self.model} at {self.input_size} px: {', '.join(parts)}>"

    def _repr_html_(self) -> str:
        """A table, in a notebook."""
        columns = ("stage", "accuracy", "low", "high", "random", "log_me", "h_score", "neighbours")
        rows = [{key: row[key] for key in columns} for row in self.as_dict()["probe_by_stage"]]
        similarity = self.similarity
        line = (
            []
            if similarity is None
            else [f"similarity {similarity.value:.2f} ({similarity.low:.2f}–{similarity.high:.2f})"]
        )
        return notebook.table_html(f"Probe accuracy by stage of {self.model}", rows, [*line, *self.notes])

    def to_pandas(self) -> Any:
        """The probes, a row for each stage. Raises `UsageError` where pandas is not installed."""
        return notebook.frame(self.as_dict()["probe_by_stage"])

    def plot(self) -> notebook.Plot:
        """Draw the probe accuracy by stage."""
        return notebook.plot(probe_chart(self.as_dict()["probe_by_stage"]).spec)


@devices.computes(float32=True)
def measure(
    backbone: Backbone,
    data: Manifest,
    *,
    random: bool = True,
    rates: bool = True,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    workers: Workers = AUTO,
    feature_cache: FeatureCache | None = None,
    progress: OnProgress | None = None,
) -> Signals:
    """Measure the training images against a backbone: similarity, probe accuracy by stage, learning curve.

    At most 200 images (10 a class, if that is more) pass in float32, stage by stage. With more images,
    `linear_probe` and the learning curve use at most 2,000, from features as training computes and caches
    them. Results are cached.

    Parameters
    ----------
    backbone : Backbone
    data : Manifest
    random : bool
        Also probe random weights of the same architecture, so that width is not confused with knowledge.
    rates : bool
        Also time the network on this machine, stage by stage.
    seed : int
    device : str
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    threads : int or None
        Threads to compute with; None chooses.
    workers : int or "auto"
        Threads that decode images; 0 decodes in between. The signals don't depend on it.
    feature_cache : FeatureCache or None
        Where features of frozen layers are kept; None is the one of this machine.
    progress : callable or None
        Called with (what, done, total).

    Returns
    -------
    Signals

    Raises
    ------
    ModelError
        The network has no cut before its head.
    UsageError
        `workers` is no number of threads.
    """
    demand_backbone(backbone)
    demand_manifest(data)
    if fault := workers_fault(workers):
        raise UsageError(fault)
    timing.prepare_process()
    cache, progress = feature_cache or FeatureCache(), Progress.of(progress)
    if len(backbone.cuts) < 2:
        raise ModelError(
            f"{backbone.name} can't be cut before its head ({' '.join(backbone.notes)}), so nothing can be "
            "measured stage by stage. `frostline train` with the strategy full needs no cut."
        )
    data = training_overlap.mark_learned(backbone, data.checked(progress))
    samples, probed = _subsets(data, seed)
    plan = numerics.exact_plan(numerics.thread_count(threads))
    config = rates_of.forward_config(backbone, threads=threads) if len(samples) > len(probed) else None
    key = _key(backbone, data, samples, plan, config, seed)

    images = Images(data, probed, backbone.preprocessing, fast=True)
    if random or config is not None:  # another pass follows
        images.hold(HELD_BYTES)

    def compute() -> dict[str, Any]:
        with numerics.threads(plan.threads), cache:
            return _measure_signals(
                backbone, data, samples, images, plan, config, cache, seed, workers, progress
            )

    def compute_random() -> dict[str, Any]:
        with numerics.threads(plan.threads):
            return _measure_random_weights(backbone, data, images, plan, seed, workers, progress)

    signals = directories.remembered(SIGNALS, f"signals {digest_of(key)}", compute)
    twin: dict[str, Any] = {"accuracy": {}, "notes": []}
    if random and signals["probe_by_stage"]:
        twin = directories.remembered(SIGNALS, f"random weights {digest_of(key)}", compute_random)
    machine_rates = _rates(backbone, data, cache, seed, threads, workers) if rates else None
    cut_away = data.cut_away(backbone.preprocessing.crop_mode, backbone.preprocessing.crop_pct)
    groups = stage_probes.GroupsProbe(**signals["groups"]) if signals.get("groups") else None
    return Signals(
        model=backbone.name,
        input_size=backbone.preprocessing.size,
        size=size_of(data),
        n_measured=len(samples),
        similarity=Similarity(**signals["similarity"]) if signals["similarity"] else None,
        confidence=Confidence(**signals["confidence"]) if signals["confidence"] else None,
        probe_by_stage=tuple(
            StageProbe(**{**row, "random": twin["accuracy"].get(row["stage"])})
            for row in signals["probe_by_stage"]
        ),
        linear_probe=SeveralStageProbe(**signals["linear_probe"]) if signals["linear_probe"] else None,
        curve=tuple(CurvePoint(**row) for row in signals["curve"]),
        groups=groups,
        rates=machine_rates,
        notes=(
            *([cut_away.note] if cut_away.note else []),
            *([groups.sentence] if groups else []),
            *signals["notes"],
            *twin["notes"],
            *(machine_rates.notes if machine_rates else ()),
        ),
        cut_away=cut_away,
    )


def images_measured(
    backbone: Backbone,
    data: Manifest,
    *,
    feature_cache: FeatureCache,
    seed: int = 0,
    threads: int | None = None,
) -> tuple[int, int]:
    """Return how many training images `measure` has to pass stage by stage, and how many as training does.

    What is remembered, and what training has left in the cache, needs no pass. Nothing is timed for it.
    """
    if len(backbone.cuts) < 2:  # `measure` says so
        return 0, 0
    data = training_overlap.mark_learned(backbone, data)
    samples, probed = _subsets(data, seed)
    several = len(samples) > len(probed)
    try:
        with numerics.nothing_timed():
            config = rates_of.forward_config(backbone, threads=threads) if several else None
    except numerics.NotTimed:
        return len(probed), len(samples)
    plan = numerics.exact_plan(numerics.thread_count(threads))
    key = _key(backbone, data, samples, plan, config, seed)
    if directories.recalled(SIGNALS, f"signals {digest_of(key)}") is not None:
        return 0, 0
    if config is None:
        return len(probed), 0
    images = Images(data, samples, backbone.preprocessing, fast=True)
    with feature_cache as cache:
        head = Frozen(backbone, backbone.model, backbone.cuts[-1], config, cache)
        missing = head.missing(images, [(position, 0) for position in range(len(images))], statistics=True)
    return len(probed), missing


def _subsets(data: Manifest, seed: int) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Return the training images that are measured, and those of them that pass stage by stage."""
    samples = class_balanced_subset(data, data.subset("train"), MOST_IMAGES, seed)
    return samples, class_balanced_subset(data, samples, _most_probed(data), seed)


def _key(
    backbone: Backbone,
    data: Manifest,
    samples: tuple[Sample, ...],
    plan: NumericPlan,
    config: ForwardConfig | None,
    seed: int,
) -> dict[str, Any]:
    """Return all that the signals depend on."""
    return {
        "version": [VERSION, STATISTICS_VERSION, SEVERAL],
        "weights": backbone.digest,
        "preprocessing": backbone.preprocessing.as_dict(),
        "pixels": f"fast {FAST_VERSION}",
        "computed": ForwardConfig(plan, EVALUATION_BATCH).describe(),
        **({} if config is None else {"curve": config.describe()}),
        "images": [(sample.digest, sample.label) for sample in samples],
        "units": data.units(samples).tolist(),
        "classes": len(data.classes),
        "seed": seed,
        **({"proposed": names} if (names := _proposed(data, samples)) else {}),
        **({"learned": sorted(data.learned)} if data.learned else {}),
    }


def _most_probed(data: Manifest) -> int:
    return max(MOST_PROBED, PROBED_A_CLASS * len(data.classes))


def _rates(
    backbone: Backbone,
    data: Manifest,
    cache: FeatureCache,
    seed: int,
    threads: int | None,
    workers: Workers,
) -> Rates:
    """Time the network on this machine, and the decoding of some of these images."""
    samples = data.subset("train")[:TIMED]
    images = Images(data, samples, backbone.preprocessing, policy=Policy("standard"), seed=seed, fast=True)
    batch = batch_size(
        AUTO_BATCH, Strategy("full"), images=len(data.subset("train")), kind=devices.current().type
    ).images
    return rates_of.measure(
        backbone,
        images,
        cache=cache,
        batch=batch,
        threads=threads,
        workers=workers,
        classes=len(data.classes),
    )


def _measure_signals(
    backbone: Backbone,
    data: Manifest,
    samples: tuple[Sample, ...],
    images: Images,
    plan: NumericPlan,
    config: ForwardConfig | None,
    cache: FeatureCache,
    seed: int,
    workers: Workers,
    progress: Progress,
) -> dict[str, Any]:
    """Return the signals as plain data: `images` pass stage by stage, all samples as training computes them.

    Without `config` the images are all samples.
    """
    probed, notes = images.samples, []
    units = data.units(probed)
    recorder, blocks = None, blocks_of(len(images), units.tolist())
    if len(images) < FEWEST:
        notes.append(f"Similarity needs {FEWEST} training images or more; there are {len(images)}.")
    else:
        try:
            recorder = ActivationRecorder(backbone, plan.place(backbone.model.eval()), int(blocks.max()) + 1)
        except DataError as error:  # this network has no layers to record
            notes.append(str(error))
    measured = stage_features(
        backbone,
        images,
        plan,
        cache=cache,
        recorder=recorder,
        blocks=blocks,
        workers=workers,
        progress=progress,
    )
    signals: dict[str, Any] = dict.fromkeys(("similarity", "confidence", "linear_probe"))
    signals |= {"probe_by_stage": [], "curve": []}
    if recorder is not None:
        similarity = similarity_from(backbone, recorder, blocks)
        signals["similarity"] = similarity.as_dict()
        if not similarity.proven:
            notes.append(
                f"Similarity was not validated for networks like {backbone.name}: do not rely on its value."
            )
    if not backbone.has_own_classifier:
        notes.append(f"{backbone.name} has a new classifier, so its confidence says nothing.")
    elif len(images) >= FEWEST and backbone.stages[-1].shape[-1] > 1:
        signals["confidence"] = asdict(_confidence(backbone, measured.confidence, units))
    learned = sum(sample.digest in data.learned for sample in samples)
    if learned:
        notes.append(
            f"The model learned from {learned:,} of {len(samples):,} images before: "
            "no probe is evaluated on them."
        )
    folds = _folds(data, probed, seed)
    if folds:
        with deadline.work(MEASURING):
            probes = stage_probes.probe_stages(
                measured.features, images.targets, units, len(data.classes), folds
            )
        signals["probe_by_stage"] = [asdict(row) for row in probes]
    else:
        new = "new images" if learned else "images"
        among = f"Of the {len(probed):,} images that are probed stage by stage, no" if config else "No"
        notes.append(f"{among} class has two {new} that may be separated, so no stage can be probed.")
    features, statistics = measured.features[next(reversed(measured.features))], measured.statistics
    if config is not None:
        if folds:
            notes.append(f"Stages were probed with {len(probed):,} of {len(samples):,} images.")
        # As training computes them by default, which then finds the rows.
        head = Frozen(backbone, backbone.model, backbone.cuts[-1], config, cache)
        everything = Images(data, samples, backbone.preprocessing, fast=True).with_pixels_of(images)
        both = features_and_statistics(head, everything, workers=workers, progress=progress)
        features, statistics = np.split(both, [backbone.feature_width], axis=1)
        folds = _folds(data, samples, seed)
    if folds:
        with deadline.work(MEASURING):
            signals |= _probe_head(backbone, data, samples, features, statistics, folds, seed)
    return {**signals, "notes": notes}


def _probe_head(
    backbone: Backbone,
    data: Manifest,
    samples: tuple[Sample, ...],
    features: NDArray[np.float32],
    statistics: NDArray[np.float32],
    folds: Folds,
    seed: int,
) -> dict[str, Any]:
    """Return what is probed of the features before the head, as plain data."""
    targets, units, classes = data.targets(samples), data.units(samples), len(data.classes)
    several = stage_probes.probe_several(
        features, statistics, stage_taps(backbone)[:SEVERAL], targets, units, classes, folds
    )
    curve = stage_probes.learning_curve(features, targets, units, classes, folds, derive(seed, "curve"))
    return {
        "linear_probe": asdict(several),
        "curve": [asdict(point) for point in curve],
        "groups": _by_groups(data, samples, features, seed),
    }


def _proposed(data: Manifest, samples: tuple[Sample, ...]) -> list[str]:
    """Return the group that names suggest for each sample; nothing where they suggest none."""
    proposal = data.proposed_groups
    if proposal is None:
        return []
    group = dict(zip((sample.path for sample in data.samples), proposal.groups, strict=True))
    return [group[sample.path] for sample in samples]


def _by_groups(
    data: Manifest, samples: tuple[Sample, ...], stage_features: NDArray[np.float32], seed: int
) -> dict[str, Any] | None:
    """Return what a probe of these features gets right with and without proposed groups, as plain data."""
    groups, proposal = _proposed(data, samples), data.proposed_groups
    if proposal is None:
        return None
    grouped = data.grouped(proposal.groups)
    with_groups = tuple(replace(sample, group=group) for sample, group in zip(samples, groups, strict=True))
    apart = _folds(grouped, with_groups, seed)
    if not apart:
        return None
    together = data.folds(samples, len(apart), derive(seed, "measure folds"))
    figures = stage_probes.probe_groups(
        stage_features,
        data.targets(samples),
        len(data.classes),
        (data.units(samples), together),
        (grouped.units(with_groups), apart),
    )
    several = sum(count > 1 for group, count in Counter(groups).items() if group)
    return asdict(stage_probes.GroupsProbe(proposal.by, several, len(samples), len(apart), *figures))


def _measure_random_weights(
    backbone: Backbone,
    data: Manifest,
    images: Images,
    plan: NumericPlan,
    seed: int,
    workers: Workers,
    progress: Progress,
) -> dict[str, Any]:
    """Probe random weights with the same images and folds, as plain data."""
    try:
        twin = _random_weights(backbone, images, seed, workers)
    except ModelError as error:
        return {"accuracy": {}, "notes": [f"The probe on random weights is skipped. {error}"]}
    measured = stage_features(backbone, images, plan, model=twin, workers=workers, progress=progress).features
    classes, folds = len(data.classes), _folds(data, images.samples, seed)
    return {"accuracy": stage_probes.accuracies(measured, images.targets, classes, folds), "notes": []}


def _folds(data: Manifest, samples: tuple[Sample, ...], seed: int) -> Folds:
    """Return the folds of every probe of these samples."""
    return data.folds(samples, FOLDS, derive(seed, "measure folds"))


def class_balanced_subset(
    data: Manifest, samples: tuple[Sample, ...], most: int, seed: int
) -> tuple[Sample, ...]:
    """Return at most `most` samples, an equal share of each class: first those that no model learned from.

    Parameters
    ----------
    data : Manifest
    samples : tuple of Sample
    most : int
    seed : int
        Decides, with each image's content, which are taken.

    Returns
    -------
    tuple of Sample
        In the manifest's order.
    """
    if len(samples) <= most:
        return samples
    targets = data.targets(samples)
    learned = {i for i, sample in enumerate(samples) if sample.digest in data.learned}
    rank = np.zeros(len(samples))
    for label in np.unique(targets):
        positions = np.flatnonzero(targets == label)
        order = sorted(positions, key=lambda i: (i in learned, derive(seed, "measure", samples[i].digest)))
        rank[order] = np.arange(len(positions)) / len(positions)
    chosen = np.sort(np.argsort(rank, kind="stable")[:most])
    return tuple(samples[i] for i in chosen)


def _confidence(backbone: Backbone, top: NDArray[np.float32], units: NDArray[np.int64]) -> Confidence:
    """Average over units, with Student's interval over them."""
    from scipy.stats import t

    _, index = np.unique(units, return_inverse=True)
    means = np.bincount(index, weights=top) / np.bincount(index)
    value, count = float(top.mean()), len(means)
    reach = 1.0 if count < 2 else float(t.ppf(0.975, count - 1)) * means.std(ddof=1) / math.sqrt(count)
    shape = backbone.stages[-1].shape
    low, high = max(0.0, float(value - reach)), min(1.0, float(value + reach))
    return Confidence(value, low, high, int(shape[-1]))


def _random_weights(backbone: Backbone, images: Images, seed: int, workers: Workers = 0) -> nn.Module:
    """Return random weights of the same architecture, BatchNorm statistics taken from the images themselves.

    With the statistics of a fresh layer, 0 and 1, activations of a deep random network vanish or explode.
    """
    model = backbone.adapt(2, pretrained=False, seed=derive(seed, "random weights"))
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    size = min(len(images), EVALUATION_BATCH)
    (pixels,) = images.batches([[(position, 0) for position in range(size)]], workers, once=True)
    for norm in norms:
        norm.momentum, norm.training = 1.0, True
    like = next(model.parameters())
    with torch.no_grad():
        model(images.preprocessing.normalise(pixels).to(like.device))
    return model.eval()
