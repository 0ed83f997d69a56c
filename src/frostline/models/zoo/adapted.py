"""Networks that were adapted before, as backbones: a study's run, an export, a delta.

Each brings along the fingerprints of the images that it learned from, where they were not left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from frostline.data.seen_images import Fingerprints
from frostline.errors import ModelError, StudyError
from frostline.models import Backbone, Preprocessing
from frostline.models.heads import MULTI_STAGE, adapted_for, put_plain_head, reads_several
from frostline.models.zoo import delta
from frostline.models.zoo.backbone_loading import checked, described, rebuild_backbone
from frostline.strategies import parse
from frostline.studies.best_run import best_of
from frostline.studies.study_folder import MAX_CLASSES, RunFolder, Study
from frostline.system import directories

EXPORTED = "model.safetensors"  # the weights of an export that holds all of them
NEW_CLASSIFIER = (
    "Its head reads several stages, and stays behind: this network begins with a new linear one, so what its "
    "own head answers is told by predict and evaluate of the study alone."
)


@dataclass(frozen=True)
class Adapted:
    """An adapted network in eval mode, and what it says of itself."""

    model: nn.Module
    title: str
    source: dict[str, Any]
    preprocessing: Preprocessing
    classes: list[str]
    fingerprints: Fingerprints | None
    new_classifier: bool = False  # in place of a head that reads several stages


def adapted_at(source: str) -> Adapted | None:
    """Return the network at a path: of a study's best run, a run's own folder, an export or a delta.

    `None` for anything else. Raises `ModelError` where it can't be adapted once more, `StudyError` where it
    is damaged.
    """
    path = Path(source).expanduser()
    if (path / "study.json").is_file():
        return _of_run(best_of(Study.existing(path)).folder)
    if (path / "config.json").is_file() and path.parent.name == "runs":
        return _of_run(best_of(Study.existing(path.parents[1]), path.name).folder)
    if path.name == EXPORTED and directories.exported_as(path.parent):
        path = path.parent
    kind = directories.exported_as(path)
    if kind is None:
        return None
    if kind == delta.KIND:
        return _of_delta(path)
    if kind != "safetensors":
        raise ModelError(
            f"{path} holds a program ({kind}), which cannot be cut or trained. Use the study it was exported "
            "from, or export that with --to safetensors or --to delta."
        )
    return _of_export(path)


def as_backbone(
    adapted: Adapted, size: int | None, preprocessing: Preprocessing | None, name: str | None
) -> Backbone:
    """Return it as a backbone; its head stays on as the original classifier."""
    own = preprocessing or adapted.preprocessing
    own = own.with_size(size) if size else own
    title = name or adapted.title
    fresh = described(adapted.source).build if adapted.source["kind"] in ("timm", "torchvision") else None
    source = {**adapted.source, "name": title, "preprocessing": own.as_dict(), "classes": adapted.classes}
    source.pop("new_classifier", None)
    if adapted.new_classifier:
        source["new_classifier"] = True
    backbone = checked(adapted.model.eval(), own, title, source, fresh)
    if adapted.new_classifier:
        backbone.notes += (NEW_CLASSIFIER,)
    backbone.fingerprints, backbone.learned_as = adapted.fingerprints, adapted.preprocessing
    return backbone


def _of_run(folder: RunFolder) -> Adapted:
    config = folder.checked_config()
    title = f"Run {folder.name}"
    state = _read(folder.weights, title)
    head = MULTI_STAGE if reads_several(state) else parse(config["strategy"]).head
    _demand_trunk(head, title)
    _demand_named(config["source"], title)
    model = adapted_for(rebuild_backbone(config["source"]), state, head, len(config["classes"]))
    _load(model, state, title)
    return Adapted(
        model,
        f"{config.get('model')} after run {folder.name}",
        config["source"],
        Preprocessing.from_dict(config["preprocessing"]),
        config["classes"],
        Fingerprints.read(folder.path),
        put_plain_head(model),
    )


def _of_delta(path: Path) -> Adapted:
    loaded = delta.load(path)
    _demand_trunk(loaded.head, str(path))
    return Adapted(
        loaded.model,
        f"{loaded.source.get('name')} after run {loaded.run}",
        loaded.source,
        loaded.preprocessing,
        loaded.classes,
        Fingerprints.read(path),
        put_plain_head(loaded.model),
    )


def _of_export(path: Path) -> Adapted:
    """Read an export that holds all weights, in timm's own shape or as `adapt` makes them."""
    try:
        config = json.loads((path / delta.CONFIG).read_text(encoding="utf-8"))
        card = config["frostline"]
        source, classes = dict(card["source"]), [str(name) for name in config["label_names"]]
        preprocessing = Preprocessing.from_dict(card["preprocessing"])
        head, run = str(card["head"]), str(card["run"])
        if not 1 < len(classes) <= MAX_CLASSES:
            raise ValueError(f"it names {len(classes)} classes")
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise StudyError(f"{path / delta.CONFIG} is damaged ({error!r}). Export the model again.") from None
    _demand_trunk(head, str(path))
    _demand_named(source, str(path))
    title = f"{source.get('name')} after run {run}"
    state = _read(path / EXPORTED, str(path))
    if "rebuild" in config:
        model = adapted_for(rebuild_backbone(source), state, head, len(classes))
    else:
        source["num_classes"] = len(classes)
        model = described(source).build_seeded()
    _load(model, state, str(path))
    prints = Fingerprints.read(path)
    return Adapted(model, title, source, preprocessing, classes, prints, put_plain_head(model))


def _read(weights: Path, title: str) -> dict[str, Tensor]:
    try:
        return load_file(weights)
    except (OSError, SafetensorError) as error:
        raise StudyError(f"The weights of {title} cannot be loaded: {error}") from None


def _load(model: nn.Module, state: dict[str, Tensor], title: str) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise StudyError(f"The weights of {title} cannot be loaded: {error}") from None


def _demand_trunk(head: str, title: str) -> None:
    """Raise `ModelError` for a head whose lower layers would count as stages of the network."""
    if head not in ("linear", MULTI_STAGE):
        raise ModelError(
            f"{title} has the head {head}, and only a network with a linear one, or one that reads several "
            "stages, can be adapted once more. Train one with head=linear."
        )


def _demand_named(source: dict[str, Any], title: str) -> None:
    if source.get("kind") == "module":
        raise ModelError(
            f"{title} adapted a module of your own, which can't be built by name. Load its weights with "
            "frostline.load_model(…, module=…), and pass that with its preprocessing."
        )
