"""Keep images that a model has learned from out of its evaluation, over any number of generations.

A network that was adapted before brings along fingerprints of the images it met (`Backbone.fingerprints`).
Here they are compared with images that it is adapted to, or evaluated on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from frostline.config import FOLDS
from frostline.data import Finding, Manifest, Recognised, Sample, fingerprints_of, recognised
from frostline.data.seen_images import LEARNED, Fingerprints
from frostline.errors import DataError
from frostline.models import Backbone
from frostline.studies.study_folder import RunFolder, Study

NAMED = 3  # images in a message


@dataclass(frozen=True)
class _SeenImages:
    """The images that were seen before, and whether that could be determined."""

    images: Recognised
    traceable: bool


def keep_learned_in_train(
    backbones: Sequence[Backbone], data: Manifest, study: Study | None = None
) -> Manifest:
    """Return the images split so that no image a backbone learned from is ever held out, with notes.

    Images of its test set stay in the test set. `study` may hold the run that made a module which was
    handed over. Raises `DataError` where a subset that the source names holds learned images, or where
    nothing is left to judge by.
    """
    seen_images = _find_seen(backbones, data, study)
    learned = frozenset(d for d, side in seen_images.images.sides.items() if side in LEARNED)
    _demand_clean_subsets(data, learned)
    sides = {digest: "train" if digest in learned else "test" for digest in seen_images.images.sides}
    if "test" in data.predefined:  # the source says what is tested on
        sides = {digest: side for digest, side in sides.items() if side == "train"}
    result = replace(data, learned=data.learned | learned)
    if any(sides.get(sample.digest, sample.split) != sample.split for sample in data.samples):
        result = result.keeping(sides)
    _demand_judges(result)
    result = result.framed(*max(map(_frame, backbones), key=lambda frame: result.cut_away(*frame).mean))
    findings = [
        *_findings(result, seen_images),
        *(finding for model in backbones for finding in _on_resize(model)),
    ]
    new_findings = [finding for finding in dict.fromkeys(findings) if finding not in data.data_findings]
    return replace(result, data_findings=(*result.data_findings, *new_findings)) if new_findings else result


def mark_learned(backbone: Backbone, data: Manifest) -> Manifest:
    """Return the images in the subsets they have; those that the backbone learned from are in no fold."""
    seen_images = _find_seen([backbone], data, None)
    learned = frozenset(d for d, side in seen_images.images.sides.items() if side in LEARNED)
    return replace(data, learned=data.learned | learned) if learned else data


def inherited_fingerprints(backbone: Backbone, data: Manifest) -> Fingerprints:
    """Return the fingerprints of a model adapted to `data`: its own, and those of what it began with."""
    own = fingerprints_of(data)
    return own if backbone.fingerprints is None else own + backbone.fingerprints


def _find_seen(backbones: Sequence[Backbone], data: Manifest, study: Study | None) -> _SeenImages:
    for backbone in backbones:
        if backbone.fingerprints is None and backbone.source.get("kind") == "module" and study is not None:
            backbone.fingerprints = _of_module(backbone, study)
    prints = [backbone.fingerprints for backbone in backbones if backbone.fingerprints is not None]
    unknown = any(b.fingerprints is None and "classes" in b.source for b in backbones)
    if not prints:
        return _SeenImages(Recognised({}, frozenset()), not unknown)
    merged = prints[0]
    for more in prints[1:]:
        merged = merged + more
    return _SeenImages(recognised(data, merged), not unknown)


def _of_module(backbone: Backbone, study: Study) -> Fingerprints | None:
    """Return the fingerprints of the run of this study that made exactly these weights, if one did."""
    weights = backbone.source.get("weights", backbone.digest)
    for path in sorted(study.path.rglob("runs/*/result.json")):
        run = RunFolder(path.parent)
        result = run.read("result.json")
        if isinstance(result, dict) and result.get("weights_digest") == weights:
            return Fingerprints.read(run.path)
    return None


def _demand_clean_subsets(data: Manifest, learned: frozenset[str]) -> None:
    for subset in ("test", "val"):
        inside = [sample for sample in data.subset(subset) if sample.digest in learned]
        if inside and subset in data.predefined:
            raise DataError(
                f"The {subset} set that the source names holds {len(inside)} image(s) that this model "
                f"learned from ({_listed(inside)}): its accuracy on them says nothing about new images. "
                "Remove them from it, or start from a network that has not seen them."
            )


def _demand_judges(data: Manifest) -> None:
    """Raise `DataError` where images were learned from before, and none is left that could be held out."""
    if not data.learned or data.subset("test") or data.subset("val"):
        return
    train = data.subset("train")
    if not data.folds(train, FOLDS, seed=0):
        count = sum(sample.digest in data.learned for sample in train)
        raise DataError(
            f"This model learned from {count} of these {len(train)} images before ({_listed(train)}), and "
            "too few others are left to evaluate it on: at least two new images of one class are needed. Add "
            "new images, or start from the pretrained network."
        )


def _findings(data: Manifest, seen_images: _SeenImages) -> list[Finding]:
    """Return findings on what was recognised."""
    learned = sum(sample.digest in data.learned for sample in data.samples)
    tested = {digest for digest, side in seen_images.images.sides.items() if side == "test"}
    stay = sum(sample.digest in tested and sample.split == "test" for sample in data.samples)
    near = sum(
        sample.digest in seen_images.images.near and sample.split != "train" for sample in data.samples
    )
    untraceable = 0 if seen_images.traceable else len(data.samples)
    sentences = {
        "The model carries no fingerprints of what it learned from: whether it has seen these images cannot "
        "be known, and its accuracy on them may be too high.": untraceable,
        f"The model learned from {learned} of these {len(data.samples)} images before: they train it again, "
        "and are never held out.": learned,
        f"{stay} images were in the model's test set before, and are in this one.": stay,
        f"{near} held-out image(s) look almost like one that the model learned from. That is expected for a "
        "fixed camera or slices of one scan; where they are copies, the accuracy is too high.": near,
    }
    return [Finding("learned", count, message) for message, count in sentences.items() if count]


def _frame(backbone: Backbone) -> tuple[str, float]:
    return backbone.preprocessing.crop_mode, backbone.preprocessing.crop_pct


def _on_resize(backbone: Backbone) -> list[Finding]:
    """Return how a model that was adapted before saw images, where that is not plain."""
    before, now = backbone.learned_as, backbone.preprocessing
    if before is None or before.resize == now.resize == "crop":
        return []
    message = f"The model learned from images resized with {now.resize}, and so are these."
    if before.resize != now.resize:
        message = (
            f"The model learned from images resized with {before.resize}, and now receives them resized with "
            f"{now.resize}, as requested: what it learned may apply less."
        )
    return [Finding("resize", 0, message)]


def _listed(samples: Sequence[Sample]) -> str:
    more = f" and {len(samples) - NAMED} more" if len(samples) > NAMED else ""
    return ", ".join(sample.path for sample in samples[:NAMED]) + more
