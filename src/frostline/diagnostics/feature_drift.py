"""What adapting did to a network: feature drift, and forgetting of the original classes.

*Drift* is a distance between features, and says nothing of what is lost. *Forgetting* is: the share of
labelled images that the original network predicted correctly with its own classifier, and that the same
classifier, on top of the adapted layers, no longer does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from frostline import metrics
from frostline import models as bb
from frostline.cost.run_time import DRIFT_IMAGES
from frostline.data import Manifest, demand_manifest
from frostline.data.decoding_threads import AUTO, Workers
from frostline.distributed import process_group
from frostline.errors import DataError, UsageError, option
from frostline.feature_extraction import ForwardConfig, ForwardPass, Outputs
from frostline.feature_extraction.forward_pass import EvenlyTaken, collecting_features
from frostline.feature_extraction.image_batches import EVALUATION_BATCH, Images
from frostline.models import Backbone, Cut, demand_backbone, training_overlap
from frostline.models.stage_statistics import first_tensor, stage_taps
from frostline.progress import Activity, OnProgress, Progress
from frostline.system import devices, numerics

KEPT = "forgetting.json"  # in a run's folder: the latest measurement, for its report
FEWEST = 4  # images, below which the debiased estimate is not defined
NAMED = 5  # classes in a message
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Forgetting:
    """Accuracy of the original classifier before and after adapting, 0–1.

    Images that the backbone has learned from are excluded, except in `learned`.

    Attributes
    ----------
    before, after : float or None
        None where no images are left.
    lost : float or None
        `before` − `after`.
    low, high : float or None
        95 % interval of `lost`, paired by image, over units.
    n_images : int
    learned : dict or None
        `n_images`, `before` and `after` of images that the backbone has learned from.
    """

    before: float | None
    after: float | None
    lost: float | None
    low: float | None
    high: float | None
    n_images: int
    learned: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


@devices.computes(float32=True)
def forgetting(
    backbone: Backbone,
    model: nn.Module,
    data: Manifest,
    *,
    device: str = "auto",
    workers: Workers = AUTO,
    progress: OnProgress | None = None,
) -> Forgetting:
    """Return how much accuracy an adapted model lost on the backbone's own classes.

    Parameters
    ----------
    backbone : Backbone
    model : nn.Module
        Adapted from `backbone`.
    data : Manifest
        Images labelled with the backbone's classes: their names where it came from a study, else the output
        index (0, 1, …). The test set is used, or all images where there is none.
    device : str
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    workers : int or "auto"
        Threads that decode images, as in `train`.
    progress : callable or None

    Returns
    -------
    Forgetting

    Raises
    ------
    DataError
        A class is not one of the backbone's.
    """
    demand_backbone(backbone)
    demand_manifest(data)
    data = training_overlap.mark_learned(backbone, data)
    samples = data.subset("test") or data.samples
    images = Images(data, samples, backbone.preprocessing)
    targets = own_targets(backbone, data)[images.targets]
    shown = Progress.of(progress)
    before, after = (
        (_answers(backbone, network, images, workers, shown) == targets).astype(np.float64)
        for network in (backbone.model, _with_own_head(backbone, model))
    )
    was_learned = np.array([sample.digest in data.learned for sample in samples], dtype=np.bool_)
    new, units = ~was_learned, data.units(samples)
    learned = None
    if was_learned.any():
        count = int(was_learned.sum())
        learned = {
            "n_images": count,
            "before": _mean(before[was_learned]),
            "after": _mean(after[was_learned]),
        }
    low, high = None, None
    if new.any():
        low, high = metrics.mean_interval((before - after)[new], units[new], limits=(-1.0, 1.0))
    lost = _mean((before - after)[new])
    return Forgetting(_mean(before[new]), _mean(after[new]), lost, low, high, int(new.sum()), learned)


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None


def own_targets(backbone: Backbone, data: Manifest) -> NDArray[np.int64]:
    """Return the place among the backbone's outputs of each class of `data`; (classes,).

    Raises `DataError` for a class that is none of the backbone's, `UsageError` where its classifier is new.
    """
    if not backbone.has_own_classifier:
        raise UsageError(
            f"{backbone.name} begins with a new classifier, since its own reads several stages: what it "
            f"forgets can't be measured. Leave out {option('source_data')}, or begin with a run of "
            "linear_probe(layers=last) or without refit_layers."
        )
    width = _width(backbone)
    own = backbone.source.get("classes") or [str(place) for place in range(width)]
    places = {str(name): place for place, name in enumerate(own)}
    strange = [name for name in data.classes if name not in places]
    if strange:
        listed = ", ".join(strange[:NAMED]) + (f" and {len(strange) - NAMED} more" if strange[NAMED:] else "")
        examples = ", ".join(own[:NAMED]) + (", …" if own[NAMED:] else "")
        raise DataError(
            f"{len(strange)} class(es) of these images are not classes of {backbone.name}: "
            f"{listed}. Expected its {len(own)} classes ({examples}) as labels."
        )
    return np.array([places[name] for name in data.classes], dtype=np.int64)


def _width(backbone: Backbone) -> int:
    like = next(backbone.model.parameters())
    size = backbone.preprocessing.size
    with torch.no_grad():
        return int(backbone.model.eval()(torch.zeros(1, 3, size, size).to(like)).shape[1])


def _with_own_head(backbone: Backbone, model: nn.Module) -> nn.Module:
    """Return the original network with the layers below its classifier as `model` has them."""
    network = copy.deepcopy(backbone.model)
    learned = {k: v for k, v in model.state_dict().items() if not backbone.classifier.owns(k)}
    own = {k: v for k, v in network.state_dict().items() if backbone.classifier.owns(k)}
    network.load_state_dict({**learned, **own})
    return network.eval()


def _answers(
    backbone: Backbone, network: nn.Module, images: Images, workers: Workers, progress: Progress
) -> NDArray[np.int64]:
    """Return the likeliest output of each image."""
    config = ForwardConfig(numerics.exact_plan(), EVALUATION_BATCH)
    answers = np.zeros(len(images), dtype=np.int64)
    forward = ForwardPass(backbone, network, backbone.cuts[0], config, workers=workers)
    for outputs in forward(images):
        answers[outputs.positions] = outputs.logits.argmax(dim=1).numpy()
        progress(Activity.FORGETTING, outputs.positions.stop, len(images))
    return answers


@devices.computes(float32=True)
def drift(
    backbone: Backbone,
    model: nn.Module,
    images: Images,
    *,
    most: int = DRIFT_IMAGES,
    device: str = "auto",
    workers: Workers = AUTO,
) -> dict[str, float]:
    """Return how far the features after each stage moved from the pretrained ones.

    Drift is 1 − debiased linear CKA of features averaged over space: 0 is equal up to rotation and scale, 1
    unrelated; chance may exceed 1 slightly. Kornblith et al. 2019, arXiv 1905.00414; debiased by Nguyen,
    Raghu and Kornblith 2021, arXiv 2010.15327.

    Parameters
    ----------
    backbone : Backbone
    model : nn.Module
        Adapted from `backbone`.
    images : Images
    most : int
        Largest number of images, evenly taken; view 0 of each.
    device : str
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    workers : int or "auto"
        Threads that decode images, as in `train`.

    Returns
    -------
    dict of str to float
        By stage; empty below 4 images.
    """
    subset = images.evenly(most)
    config = ForwardConfig(numerics.exact_plan(), EVALUATION_BATCH)
    forward = ForwardPass(backbone, model, _shared(backbone, model), config, workers=workers)
    drifting = Drift(forward, EvenlyTaken(len(subset), most))
    for outputs in forward(subset, drifting.watching):
        drifting.add(outputs)
    return drifting.by_stage()


class Drift:
    """Feature drift, measured along a pass of the adapted network that is made anyway.

    The original network passes the same features at the pass's cut.

    Parameters
    ----------
    forward : ForwardPass
        Of the adapted network.
    taken : EvenlyTaken
        The images that are compared.
    """

    def __init__(self, forward: ForwardPass, taken: EvenlyTaken) -> None:
        backbone, shared = forward.backbone, _shared(forward.backbone, forward.model)
        self._forward, self._taken = forward, taken
        self._few = len(taken) < FEWEST
        self._names = {cut.index - 1: backbone.stages[cut.index - 1].name for cut in backbone.cuts[1:]}
        moved = [stage for stage in self._names if stage >= shared.index and not self._few]
        self._last = backbone.cuts[-1].index - 1  # its features are what the head is given
        self._taps = [tap for tap in stage_taps(backbone) if tap.stage in moved and tap.stage < self._last]
        widths = {tap.stage: tap.widths[0] for tap in self._taps}
        widths |= {self._last: backbone.feature_width} if moved else {}
        self._before, self._after = (
            {stage: torch.zeros(len(taken), width) for stage, width in widths.items()} for _ in range(2)
        )

    @contextmanager
    def watching(self, positions: range) -> Iterator[None]:
        """Around the adapted network's layers above the cut, for a batch of these positions."""
        places, rows = self._taken.within(positions)
        with self._listening(self._forward.model, self._after, places, rows):
            yield

    def add(self, outputs: Outputs) -> None:
        """Take the outputs of a batch that was watched, and pass the same through the original network."""
        places, rows = self._taken.within(outputs.positions)
        if not rows or not self._after:
            return
        self._after[self._last][places] = outputs.features[rows]
        backbone, plan = self._forward.backbone, self._forward.config.plan
        model = plan.place(backbone.model.eval())
        with (
            torch.no_grad(),
            plan.autocast(),
            collecting_features(backbone, model) as features,
            self._listening(model, self._before, places, list(range(len(rows)))),
            bb.suffix(backbone, model, self._forward.cut) as live_part,
        ):
            live_part(outputs.frozen[rows].to(plan.device))
        self._before[self._last][places] = features[0].float().cpu()

    @contextmanager
    def _listening(
        self, model: nn.Module, into: dict[int, Tensor], places: slice, rows: list[int]
    ) -> Iterator[None]:
        """Within the block, some rows of what each stage gives are written to their places."""

        def listen(stage: int) -> Callable[..., None]:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                value = first_tensor(output)
                if value is not None:
                    into[stage][places] = bb.over_space(value.float()).cpu()[rows]

            return hook

        with ExitStack() as stack:
            for tap in self._taps if rows else ():
                handle = model.get_submodule(tap.module).register_forward_hook(listen(tap.stage))
                stack.callback(handle.remove)
            yield

    def by_stage(self) -> dict[str, float]:
        """Return the drift of each stage; empty below 4 images.

        Where the processes of a job share the pass, all of them call this.
        """
        if self._taken.shared:
            process_group.add_up([*self._before.values(), *self._after.values()])
        if self._few:
            return {}
        return {
            name: 1.0 - cka(*(part[stage].double().numpy() for part in (self._before, self._after)))
            if stage in self._after
            else 0.0
            for stage, name in self._names.items()
        }


def _shared(backbone: Backbone, model: nn.Module) -> Cut:
    """Return the last cut below which no weight has changed."""
    own, stages = backbone.model.state_dict(), backbone.stage_of(model)
    below = {k: v for k, v in model.state_dict().items() if not backbone.classifier.owns(k)}
    changed = [stages[name] for name, value in below.items() if not torch.equal(value, own[name].to(value))]
    first = min(changed, default=len(backbone.stages))
    return max((cut for cut in backbone.cuts if cut.index <= first), key=lambda cut: cut.index)


def cka(first: Floats, second: Floats) -> float:
    """Return debiased linear CKA of features (n, width) and (n, width') of the same n images, 4 or more.

    `nan` where one of them does not vary.
    """
    if np.array_equal(first, second):
        return 1.0
    a, b = _gram(first), _gram(second)
    own = _hsic(a, a) * _hsic(b, b)
    return float(_hsic(a, b) / np.sqrt(own)) if own > 0 else float("nan")


def _gram(features: Floats) -> Floats:
    """Return the matrix of inner products without its diagonal, of centred features of length about 1."""
    centred = features - features.mean(axis=0)
    centred = centred / (np.sqrt((centred**2).sum(axis=1).mean()) or 1.0)
    gram = centred @ centred.T
    np.fill_diagonal(gram, 0.0)
    return np.asarray(gram)


def _hsic(a: Floats, b: Floats) -> float:
    """The unbiased estimator of HSIC (Song et al. 2012), of Gram matrices with an empty diagonal."""
    n = len(a)
    sums = a.sum() * b.sum() / ((n - 1) * (n - 2))
    cross = 2.0 / (n - 2) * float(a.sum(axis=0) @ b.sum(axis=0))
    return float(((a * b).sum() + sums - cross) / (n * (n - 3)))
