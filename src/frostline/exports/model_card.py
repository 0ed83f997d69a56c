"""The model card: what the model is, what it is worth, what it must not be taken for. Markdown, for the hub.

Names of classes, strategies and networks are other people's text: they are escaped, and stay text.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from typing import Any

from huggingface_hub import ModelCardData

from frostline.data import Rendering
from frostline.exports.exported_model import Subject
from frostline.exports.markdown import escaped
from frostline.exports.safetensors_export import Written
from frostline.exports.verification import Proof
from frostline.models import zoo
from frostline.reports import conclusions
from frostline.reports.conclusions import Found
from frostline.reports.display_names import shortened
from frostline.reports.writer import gathered
from frostline.sentences import between, caveats, counted, percent
from frostline.studies.study_folder import PACKAGES, digest_of, look_at_test

CLASSES_SHOWN = 60  # the rest are in config.json
# Licences the hub knows by these names; others are "other" there, with their name beside it.
HUB_LICENCES = frozenset(
    ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "gemma", "apple-ascl", "apple-amlr")
)


def text(subject: Subject, to: str, written: Written, check: Proof) -> str:
    """Return the whole card."""
    found = gathered(subject.study)
    parts = [
        f"---\n{_front(subject, to, written)}\n---",
        _title(subject),
        _opening(subject, written, check),
        f"## Use it\n\n```python\n{written.usage}\n```\n\n{_preprocessing(subject)}",
        _bullets("## What it is worth", _worth(subject, found)),
        _bullets("## What it was made from", _data(subject, found)),
        _classes(subject, found),
        _bullets("## Limits", _limits(subject, found)),
        _bullets("## Licence", _licence(subject)),
        _bullets("## Digests and versions", _digests(subject)),
    ]
    return "\n\n".join(parts) + "\n"


def _title(subject: Subject) -> str:
    many = counted(len(subject.classes), "class", "classes")
    return f"# {many} of images, by {escaped(subject.config['model'])}"


def _front(subject: Subject, to: str, written: Written) -> str:
    """Return the YAML that the hub reads; written by its own library."""
    licence = zoo.licence(subject.source)
    known = licence in HUB_LICENCES
    data = ModelCardData(
        library_name=written.loaded_by,
        pipeline_tag="image-classification",
        tags=["image-classification", *written.tags, "frostline", *(["onnx"] if to == "onnx" else [])],
        license=licence if known else ("other" if licence else "unknown"),
        license_name=None if known else licence,
        base_model=zoo.hub_name(subject.source),
    )
    return str(data.to_yaml()).strip()


def _opening(subject: Subject, written: Written, check: Proof) -> str:
    name, strategy = escaped(subject.config["model"]), escaped(subject.config["strategy"])
    many = counted(len(subject.classes), "class", "classes")
    what = (
        f"{name}, adapted by frostline with the strategy {strategy}. It answers with one of {many}; a "
        "softmax of its logits gives probabilities, which are calibrated: their temperature "
        f"({subject.predictor.temperature:.4g}) is part of the head."
    )
    proof = (
        f"Loaded back and compared with the model in the study on {check.images} {check.what}: the same "
        f"answers, probabilities at most {check.largest_difference:.1g} apart."
    )
    return "\n\n".join([what, proof, *map(escaped, written.notes)])


def _preprocessing(subject: Subject) -> str:
    seen = subject.preprocessing
    return (
        f"Images: upright, RGB, {seen.text}, with {seen.interpolation} interpolation (timm's crop mode "
        f"{seen.crop_mode}), scaled to 0–1, minus {_listed(seen.mean)}, divided by {_listed(seen.std)}. "
        f"{_rendering(subject.rendering)}"
    )


def _rendering(shown: Rendering) -> str:
    """Say how deep and transparent pixels become bytes."""
    said = [
        f"Of {kind} pixels, {low:g} and below is black, {high:g} and above white."
        for kind, low, high in shown.ranges
    ]
    if shown.intensity_range == "per-image":
        said.append("Pixels of more than 8 bits are spread over each image's own range.")
    elif shown.intensity_range != "auto":
        low, high = shown.intensity_range.split(",")
        said.append(f"Of pixels of more than 8 bits, {low} and below is black, {high} and above white.")
    ground = "white" if shown.ground == (255, 255, 255) else f"the colour {shown.ground}"
    return " ".join([*said, f"Transparent pixels lie on {ground}."])


def _listed(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"


def _worth(subject: Subject, found: Found) -> Iterator[str]:
    """The report's own sentences for the run that answers; another run's figures as they are."""
    told = found.told
    if told.answering is not None and told.answering.name == subject.folder.name:
        yield from conclusions.conclusions(found)[:-1]
        return
    result = subject.result
    if result.get("accuracy") is not None:
        span = between(result["low"], result["high"])
        yield (
            f"Accuracy {percent(result['accuracy'])} (95 % interval {span}) on "
            f"{counted(result['n_test'], 'image')} of the test part, which it did not learn from."
        )
        yield from caveats(result)
    if result.get("val_accuracy") is not None:
        yield (
            f"Accuracy {percent(result['val_accuracy'])} on {counted(result['n_val'], 'image')} of the val "
            "part, which also chose the weights, so a little flattering."
        )
    yield "This run was asked for by name; it is not the one that answers for its study."


def _data(subject: Subject, found: Found) -> Iterator[str]:
    result, data = subject.result, found.told.data
    yield (
        f"{counted(result['n_train'], 'image')} to learn from, {result['n_val']:,} to choose by, "
        f"{result['n_test']:,} to test on."
    )
    if data is None:
        return
    groups = {sample.group for sample in data.samples if sample.group}
    if groups:
        yield f"They come in {counted(len(groups), 'group')}, and no group is in two parts."
    if data.set_aside:
        yield f"{counted(len(data.set_aside), 'file')} could not be used."
    if data.conflicts:
        yield f"{counted(len(data.conflicts), 'picture')} had two different labels."


def _classes(subject: Subject, found: Found) -> str:
    data = found.told.data
    rows = ["| class | images |", "|---|---:|"]
    for name in subject.classes[:CLASSES_SHOWN]:
        parts = data.counts.get(name) if data else None
        count = f"{sum(parts.values()):,}" if parts else "unknown"
        rows.append(f"| {escaped(shortened(name))} | {count} |")
    rest = len(subject.classes) - CLASSES_SHOWN
    return "\n".join(rows) + (f"\n\n… and {rest:,} more, in config.json." if rest > 0 else "")


def _limits(subject: Subject, found: Found) -> Iterator[str]:
    yield (
        "It gives one of its classes for every image, also for one of something else; figures hold for "
        "images taken as those it was made from were, and for no others."
    )
    looks = _looks(subject)
    if looks is not None and looks > 1:
        yield (
            f"{looks} configurations have been looked at on this test part, so the best of their figures "
            "flatters a little."
        )
    if found.doubtful:
        yield f"{counted(len(found.doubtful), 'label')} of the images it was judged by may be wrong."
    if not subject.result["n_test"]:
        yield "No test part was held out: its accuracy is an estimate from the images it was made from."
    yield "Nothing was measured of fairness between groups of people, or of images made to deceive it."


def _looks(subject: Subject) -> int | None:
    """How many configurations have looked at the test part; this one has."""
    if not subject.result["n_test"] or digest_of(subject.config)[:12] != subject.folder.name:
        return None
    from frostline.studies.study_folder import Study

    return look_at_test(str(Study(subject.study).card["test"]), digest_of(subject.config))


def _licence(subject: Subject) -> Iterator[str]:
    known = zoo.licence(subject.source)
    if known:
        yield f"Base weights: {known}, as timm states for {subject.source['architecture']}."
    else:
        yield "Base weights: unknown: check, before you pass this model on."
    yield "The licence of the images it learned from is not known here."


def _digests(subject: Subject) -> Iterator[str]:
    config = subject.config
    yield f"weights, calibrated: {subject.digest}"
    yield f"base weights: {config['weights']}"
    yield f"images, labels and groups: {config['data']}"
    yield f"split: {config['split']}"
    yield f"run: {subject.folder.name}"
    kept: dict[str, Any] = {name: _version(name) for name in PACKAGES}
    yield "exported with " + ", ".join(f"{name} {version}" for name, version in kept.items() if version)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _bullets(title: str, lines: Iterator[str]) -> str:
    return title + "\n\n" + "\n".join(f"- {escaped(line)}" for line in lines)
