"""The model card in Markdown, for the hub: the model, its metrics, its data and its limits.

Names of classes, strategies and networks come from users: they are escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from itertools import chain
from typing import Any

from huggingface_hub import ModelCardData

from frostline import sentences
from frostline.data import Rendering
from frostline.data.manifest_entries import SUBSETS
from frostline.exports import onnx_and_torch
from frostline.exports.exported_model import ExportedModel
from frostline.exports.safetensors_export import FormatDetails
from frostline.exports.verification import VerificationResult
from frostline.models import zoo
from frostline.reports import conclusions
from frostline.reports.conclusions import ReportContext
from frostline.reports.display_names import shortened, visible
from frostline.reports.writer import read_context
from frostline.sentences import Basis, between, caveats, counted, percent
from frostline.studies import operating_point
from frostline.studies.study_folder import PACKAGES, count_test_evaluation, digest_of

# Everything that CommonMark or GitHub's dialect may read as markup, a link, a mention or HTML. A numeric
# character reference is always text (CommonMark 0.31, section 2.5).
_MARKUP = re.compile(r"[\\`*{}\[\]<>#!|~&$@^=]|:(?=\S)|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_AT_THE_START = re.compile(r"^([-+.]|\d+[.)])")
CLASSES_SHOWN = 60  # the rest are in config.json
# Licence names of the hub; others are "other" there, with their name beside it.
HUB_LICENCES = frozenset(
    ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "gemma", "apple-ascl", "apple-amlr")
)


def text(exported: ExportedModel, to: str, details: FormatDetails, check: VerificationResult) -> str:
    """Return the model card."""
    context = read_context(exported.study)
    sections = [
        f"---\n{_front(exported, to, details)}\n---",
        _title(exported),
        _opening(exported, details, check),
        f"## Use it\n\n{_script(to)}```python\n{details.usage}\n```\n\n{_preprocessing(exported)}",
        _bullets("## Metrics", chain(_of_float32(exported, details), _metrics(exported, context))),
        _bullets("## Training data", _data(exported, context)),
        _classes(exported, context),
        _bullets("## Limits", _limits(exported, context)),
        _bullets("## Licence", _licence(exported)),
        _bullets("## Digests and versions", _digests(exported)),
    ]
    return "\n\n".join(sections) + "\n"


def _title(exported: ExportedModel) -> str:
    class_count = counted(len(exported.classes), "class", "classes")
    return f"# {class_count} of images, by {escaped(exported.config['model'])}"


def _front(exported: ExportedModel, to: str, details: FormatDetails) -> str:
    """Return the YAML header for the hub, written by its own library."""
    licence = zoo.licence(exported.source)
    is_hub_licence = licence in HUB_LICENCES
    data = ModelCardData(
        library_name=details.loaded_by,
        pipeline_tag="image-classification",
        tags=["image-classification", *details.tags, "frostline", *(["onnx"] if to == "onnx" else [])],
        license=licence if is_hub_licence else ("other" if licence else "unknown"),
        license_name=None if is_hub_licence else licence,
        base_model=zoo.hub_name(exported.source),
    )
    return str(data.to_yaml()).strip()


def _opening(exported: ExportedModel, details: FormatDetails, check: VerificationResult) -> str:
    name, strategy = escaped(exported.config["model"]), escaped(exported.config["strategy"])
    class_count = counted(len(exported.classes), "class", "classes")
    description = (
        f"{name}, adapted by frostline with the strategy {strategy}. It predicts one of {class_count}; the "
        "softmax of its logits gives calibrated probabilities: their temperature "
        f"({exported.predictor.temperature:.4g}) is part of the head."
    )
    before = "Before it was quantised, it was loaded" if "int8" in details.config else "Loaded"
    verification_text = (
        f"{before} back and compared with the model in the study on {check.images} {check.source}: the same "
        f"predictions, probabilities at most {check.largest_difference:.1g} apart."
    )
    lines = [
        description,
        *_head(exported),
        *_decision(exported),
        verification_text,
        *map(escaped, details.notes),
    ]
    return "\n\n".join(lines)


def _head(exported: ExportedModel) -> list[str]:
    """Return what the head reads, where that is more than the last stage's features."""
    if exported.several is None:
        return []
    return [sentences.reads_several(exported.several.layers)]


def _decision(exported: ExportedModel) -> list[str]:
    """Return how it decides, where that is not the highest probability."""
    decision = exported.predictor.decision
    if decision is None:
        return []
    key = "threshold" if decision.costs is None else "costs"
    rule = (
        f"{escaped(decision.sentence)} That rule is `{key}` in config.json: the network gives probabilities, "
        "and whoever reads them has to apply it (infer.py and frostline do)."
    )
    return [rule]


def _script(to: str) -> str:
    """Return how to call the script of a program; nothing for weights."""
    if to not in onnx_and_torch.FORMATS:
        return ""
    return (
        f"From image files, with Pillow and {'ONNX Runtime' if to == 'onnx' else 'torch'} alone:\n\n"
        "```\npython infer.py image.jpg\npython infer.py --check\n```\n\n"
    )


def _preprocessing(exported: ExportedModel) -> str:
    preprocessing = exported.preprocessing
    return (
        f"Images: upright, RGB, {preprocessing.text}, with {preprocessing.interpolation} interpolation "
        f"(timm's crop mode {preprocessing.crop_mode}), scaled to 0–1, minus {_listed(preprocessing.mean)}, "
        f"divided by {_listed(preprocessing.std)}. {_rendering(exported.rendering)}"
    )


def _rendering(rendering: Rendering) -> str:
    """Return how deep and transparent pixels become 8-bit RGB, in sentences."""
    ranges = [
        f"In {kind} pixels, {low:g} and below is black, {high:g} and above white."
        for kind, low, high in rendering.ranges
    ]
    if rendering.intensity_range == "per-image":
        ranges.append("Pixels of more than 8 bits are scaled to each image's own range.")
    elif rendering.intensity_range != "auto":
        low, high = rendering.intensity_range.split(",")
        ranges.append(f"In pixels of more than 8 bits, {low} and below is black, {high} and above white.")
    background = "white" if rendering.ground == (255, 255, 255) else f"the colour {rendering.ground}"
    return " ".join([*ranges, f"The background of transparent pixels is {background}."])


def _listed(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"


def _of_float32(exported: ExportedModel, details: FormatDetails) -> Iterator[str]:
    """Yield that the metrics are not of INT8, where the model was quantised."""
    if "int8" not in details.config:
        return
    decision = exported.predictor.decision
    promised = decision is not None and decision.positive is not None
    promise = ", and the recall or precision that it promises," if promised else ""
    yield (
        f"The figures in this list{promise} were measured with the float32 model, before it was quantised to "
        "INT8. What INT8 changes was measured apart, and stands above."
    )


def _metrics(exported: ExportedModel, context: ReportContext) -> Iterator[str]:
    """Yield the report's sentences for the study's best run; the stored metrics for another run."""
    contents = context.contents
    if contents.best_run is not None and contents.best_run.name == exported.folder.name:
        yield from conclusions.conclusions(context)[:-1]
        return
    result, decision = exported.result, operating_point.read(exported.folder.path)
    yield from (escaped(line) for line in (decision or {}).get("sentences", ()))
    if result.get("accuracy") is not None:
        span = between(result["low"], result["high"])
        yield (
            f"Accuracy {percent(result['accuracy'])} (95 % interval {span}) on "
            f"{counted(result['n_test'], 'image')} of the test set, which it was not trained on."
        )
        yield from caveats(result)
    if result.get("val_accuracy") is not None:
        yield (
            f"Accuracy {percent(result['val_accuracy'])} on {counted(result['n_val'], 'image')} of the val "
            "set, which also chose the weights, so slightly optimistic."
        )
    yield "This run was exported by name; it is not the study's best run."


def _data(exported: ExportedModel, context: ReportContext) -> Iterator[str]:
    result, data = exported.result, context.contents.data
    yield (
        f"{counted(result['n_train'], 'image')} for training, {result['n_val']:,} for validation, "
        f"{result['n_test']:,} for testing."
    )
    if data is None:
        return
    groups = {sample.group for sample in data.samples if sample.group}
    if groups:
        yield f"They are in {counted(len(groups), 'group')}, and no group is in two subsets."
    if data.skipped:
        yield f"{counted(len(data.skipped), 'file')} skipped as unusable."
    if data.conflicts:
        yield f"{counted(len(data.conflicts), 'picture')} had two different labels."


def _classes(exported: ExportedModel, context: ReportContext) -> str:
    data = context.contents.data
    rows = [f"| class | {' | '.join(SUBSETS)} |", f"|---{'|---:' * len(SUBSETS)}|"]
    for name in exported.classes[:CLASSES_SHOWN]:
        counts = data.counts.get(name) if data else None
        cells = [f"{counts[subset]:,}" if counts else "unknown" for subset in SUBSETS]
        rows.append(f"| {escaped(shortened(name))} | {' | '.join(cells)} |")
    n_hidden = len(exported.classes) - CLASSES_SHOWN
    return "\n".join(rows) + (f"\n\n… and {n_hidden:,} more, in config.json." if n_hidden > 0 else "")


def _limits(exported: ExportedModel, context: ReportContext) -> Iterator[str]:
    yield (
        "It predicts one of its classes for every image, also for an image of something else. The metrics "
        "hold only for images like those it was trained on."
    )
    evaluations = _test_evaluations(exported)
    if evaluations is not None and evaluations > 1:
        yield (
            f"{evaluations} configurations have been evaluated on this test set, so the best result is "
            "slightly optimistic."
        )
    if context.label_issues:
        predictions = context.label_predictions
        folds = predictions is not None and predictions.basis is Basis.OUT_OF_FOLD
        whose = "its training images" if folds else "the images it was evaluated on"
        yield f"{counted(len(context.label_issues), 'label')} of {whose} may be wrong."
    if not exported.result["n_test"]:
        yield "No test set was held out: its accuracy is estimated from its training data."
    yield "Fairness between groups of people and adversarial robustness were not measured."


def _test_evaluations(exported: ExportedModel) -> int | None:
    """Return the number of configurations evaluated on the test set; `None` without one."""
    if not exported.result["n_test"] or digest_of(exported.config)[:12] != exported.folder.name:
        return None
    from frostline.studies.study_folder import Study

    return count_test_evaluation(str(Study(exported.study).card["test"]), digest_of(exported.config))


def _licence(exported: ExportedModel) -> Iterator[str]:
    licence = zoo.licence(exported.source)
    if licence:
        yield f"Base weights: {licence}, as timm states for {exported.source['architecture']}."
    else:
        yield "Base weights: unknown licence. Check it before you publish this model."
    yield "The licence of the training images is unknown."


def _digests(exported: ExportedModel) -> Iterator[str]:
    config = exported.config
    yield f"weights, calibrated: {exported.digest}"
    yield f"base weights: {config['weights']}"
    yield f"images, labels and groups: {config['data']}"
    yield f"split: {config['split']}"
    yield f"run: {exported.folder.name}"
    versions: dict[str, Any] = {name: _version(name) for name in PACKAGES}
    yield "exported with " + ", ".join(f"{name} {version}" for name, version in versions.items() if version)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _bullets(title: str, lines: Iterator[str]) -> str:
    return title + "\n\n" + "\n".join(f"- {escaped(line)}" for line in lines)


def escaped(text: str) -> str:
    """Return text that Markdown renders unchanged, with invisible characters written out."""
    escaped_text = _MARKUP.sub(lambda match: f"&#{ord(match[0])};", visible(text))
    escaped_text = escaped_text.replace("www.", "www&#46;")
    return _AT_THE_START.sub(lambda match: match[0][:-1] + f"&#{ord(match[0][-1])};", escaped_text)
