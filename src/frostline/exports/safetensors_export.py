"""safetensors: in timm's own names where the model is one of timm's, else with what builds it again.

timm of 1.0.16 and newer reads such a folder with `local-dir:`, the hub with `hf-hub:`, transformers by its
TimmWrapper. Every export is loaded back and compared before it is handed over.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from frostline.errors import ModelError
from frostline.exports import code_examples, rebuild
from frostline.exports.exported_model import Subject
from frostline.exports.verification import Pictures, asked, logits
from frostline.models import Preprocessing, zoo
from frostline.models.zoo import hugging_face
from frostline.system import directories

WEIGHTS, LOADER = "model.safetensors", "load.py"
# Where the pixels can't be described to transformers.
NO_PROCESSOR = "transformers has no image processor for these pixels: config.json says how they are made."
# What timm must know of a network's own shape; where its weights came from is for the model card.
THEIRS = (
    "import torch\nfrom transformers import AutoModelForImageClassification\n\n"
    'model = AutoModelForImageClassification.from_pretrained("path/to/this/folder").eval()\n'
    "with torch.inference_mode():  # pixels: float32 (n, 3, size, size), made as `preprocessing` says\n"
    "    probabilities = model(pixels).logits.softmax(dim=1)  # in the order of label_names in config.json"
)
SHAPE = ("fixed_input_size", "first_conv", "classifier")


@dataclass(frozen=True)
class Written:
    """What one format leaves beside the model card: `config.json`, how to load it, and sentences."""

    config: dict[str, Any]
    loaded_by: str  # the hub's name of what loads it
    usage: str  # Python, for the model card
    model: nn.Module | None = None  # put together again from what was written
    notes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    told: dict[str, Any] = field(default_factory=dict)  # what a delta must know of its base

    @property
    def loaded(self) -> nn.Module:
        """The model as it was loaded back."""
        assert self.model is not None
        return self.model


def write(subject: Subject, place: Path, shown: Pictures, module: nn.Module | None) -> Written:
    """Write `model.safetensors` with what loads it, and load it back."""
    state = _in_timm_names(subject) if subject.source["kind"] == "timm" else None
    if state is None:
        return _with_loader(subject, place, shown, module)
    return _for_timm(subject, place, shown, state)


def _in_timm_names(subject: Subject) -> dict[str, Tensor] | None:
    """Return the weights as timm names and shapes them; `None` where timm has no such head."""
    if subject.head != "linear":
        return None
    target = zoo.architecture_of(subject.source, len(subject.classes)).build_seeded().state_dict()
    own = {name: value.detach().contiguous() for name, value in subject.model.state_dict().items()}
    found: dict[str, Tensor] = {}
    for name, like in target.items():
        value = own.get(name)
        if value is None and subject.backbone.classifier.owns(name):
            value = _of_head(own, name, like)
        if value is None or value.shape != like.shape:
            return None
        found[name] = value.clone()
    rest = [name for name in own if name not in target and not subject.backbone.classifier.owns(name)]
    return None if rest else found


def _of_head(own: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor | None:
    """Return the head's tensor for a classifier that timm builds as a 1 × 1 convolution."""
    place, _, leaf = name.rpartition(".")
    matches = [value for key, value in own.items() if re.fullmatch(rf"{re.escape(place)}\.\d+\.{leaf}", key)]
    if len(matches) != 1 or matches[0].numel() != like.numel():
        return None
    return matches[0].reshape(like.shape)


def _for_timm(subject: Subject, place: Path, shown: Pictures, state: dict[str, Tensor]) -> Written:
    import timm

    config = timm_config(subject)
    _save(place, state)
    _write_json(place / "config.json", config)
    model = timm.create_model(f"local-dir:{place}", pretrained=True).eval()
    if subject.backbone.classifier.kind == "flat":
        _demand_same_bits(subject, model, shown)
    imports, image = code_examples.upright_rgb(subject.rendering)
    usage = (
        f"import timm, torch\n{imports}\n\n"
        'model = timm.create_model("local-dir:path/to/this/folder", pretrained=True).eval()\n'
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))\n"
        f"{image}"
        "with torch.inference_mode():\n"
        "    # in the order of label_names in config.json\n"
        "    probabilities = model(transform(image)[None]).softmax(dim=1)[0]"
    )
    return Written(config, "timm", usage, model, tags=("timm", "transformers"))


def timm_config(subject: Subject) -> dict[str, Any]:
    """Return `config.json` as timm and the hub read it."""
    target = zoo.architecture_of(subject.source, len(subject.classes))
    built = target.build_seeded()
    arguments = {key: value for key, value in target.arguments().items() if key != "num_classes"}
    known: dict[str, Any] = dict(getattr(built, "pretrained_cfg", {}))
    licence = zoo.licence(subject.source)
    config: dict[str, Any] = {
        "architecture": target.name.partition(".")[0],
        "num_classes": len(subject.classes),
        "num_features": getattr(built, "num_features", subject.backbone.feature_width),
        "label_names": subject.classes,
    }
    if arguments:
        config["model_args"] = arguments
    config["pretrained_cfg"] = {
        **{key: known[key] for key in SHAPE if known.get(key) is not None},
        **_seen_by_timm(subject.preprocessing),
        "num_classes": len(subject.classes),
        "custom_load": False,
        **({"license": licence} if licence else {}),
    }
    return config


def _seen_by_timm(preprocessing: Preprocessing) -> dict[str, Any]:
    return {
        "input_size": [3, preprocessing.size, preprocessing.size],
        "crop_pct": preprocessing.crop_pct,
        "crop_mode": preprocessing.crop_mode,
        "interpolation": preprocessing.interpolation,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
    }


def _with_loader(subject: Subject, place: Path, shown: Pictures, module: nn.Module | None) -> Written:
    told = _rebuild(subject)
    config = {
        **(_transformers_config(subject) if told["library"] == "hf" else {}),
        "num_classes": len(subject.classes),
        "label_names": subject.classes,
        "preprocessing": subject.preprocessing.as_dict(),
        "rebuild": told,
    }
    state = {key: value.detach().contiguous().clone() for key, value in subject.model.state_dict().items()}
    _save(place, state)
    _write_json(place / "config.json", config)
    (place / LOADER).write_text(Path(rebuild.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    model = rebuild.load(place, copy.deepcopy(module))
    _demand_same_bits(subject, model, shown)
    if _is_theirs(subject):
        settings = hugging_face.processor_settings(subject.preprocessing)
        if settings:
            _write_json(place / "preprocessor_config.json", settings)
        _demand_same_bits(
            subject, hugging_face.load(str(place), preprocessing=subject.preprocessing).model, shown
        )
        told_how = () if settings else (NO_PROCESSOR,)
        return Written(config, "transformers", THEIRS, model, told_how, tags=("transformers",))
    own = told["library"] == "module"
    why = {
        "timm": f"timm has no {subject.head} head like this one",
        "torchvision": "the network is torchvision's",
        "hf": f"transformers has no {subject.head} head like this one",
        "module": "the network is a module of its owner's",
    }[told["library"]]
    usage = (
        "import sys\n\nsys.path.append('path/to/this/folder')\nfrom load import load\n\n"
        f"model = load('path/to/this/folder'{', module' if own else ''})  # softmax of its answers"
    )
    note = f"{why[0].upper()}{why[1:]}, so {LOADER} in the folder loads it."
    return Written(config, "pytorch", usage, model, (note,))


def _is_theirs(subject: Subject) -> bool:
    """Whether transformers builds this very network, head included, by its configuration alone."""
    return subject.source["kind"] == hugging_face.KIND and subject.head == "linear"


def _transformers_config(subject: Subject) -> dict[str, Any]:
    """Return the network's own configuration, with these classes where it can hold them."""
    if not _is_theirs(subject):
        return {}
    named = {str(number): name for number, name in enumerate(subject.classes)}
    return {
        **subject.source["config"],
        "architectures": [type(subject.model).__name__],
        "id2label": named,
        "label2id": {name: int(number) for number, name in named.items()},
    }


def _arguments(subject: Subject) -> dict[str, Any]:
    kind = subject.source["kind"]
    if kind == hugging_face.KIND:
        return {key: value for key, value in subject.source["config"].items() if key != "model_type"}
    return zoo.architecture_of(subject.source).arguments() if kind in ("timm", "torchvision") else {}


def _rebuild(subject: Subject) -> dict[str, Any]:
    kind, place = subject.source["kind"], subject.backbone.classifier
    hidden = re.fullmatch(r"mlp\((\d+)\)", subject.head)
    return {
        "library": kind,
        "architecture": subject.source["architecture"],
        "arguments": _arguments(subject),
        "head": {
            "names": list(place.names),
            "kind": place.kind,
            "layer": subject.head,
            "hidden": int(hidden.group(1)) if hidden else None,
            "width": place.width,
        },
    }


def _demand_same_bits(subject: Subject, model: nn.Module, shown: Pictures) -> None:
    mine = asked(logits(subject.model, subject.preprocessing), shown.pixels)
    theirs = asked(logits(model, subject.preprocessing), shown.pixels)
    if not np.array_equal(mine, theirs):
        apart = float(np.abs(mine - theirs).max())
        raise ModelError(
            f"The model that was loaded back differs: its logits are up to {apart:.1g} away; the same bits "
            f"were expected. Nothing was written. (torch {torch.__version__})"
        )


def _save(place: Path, state: dict[str, Tensor]) -> None:
    """Write the weights; one key of metadata, since safetensors writes several in any order."""
    directories.write_atomically(place / WEIGHTS, save(state, {"format": "pt"}))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
