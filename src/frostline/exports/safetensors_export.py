"""Export as safetensors: with timm's own names where the model is timm's, else with code that rebuilds it.

timm 1.0.16 and newer reads such a folder with `local-dir:`, the hub with `hf-hub:`, transformers by its
TimmWrapper. Every export is loaded back and compared before it is returned.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from frostline.errors import ModelError
from frostline.exports import code_examples, standalone_loader
from frostline.exports.exported_model import ExportedModel
from frostline.exports.verification import CheckImages, logits_function, predict_logits
from frostline.models import Preprocessing, zoo
from frostline.models.zoo import hugging_face
from frostline.system import directories

WEIGHTS, LOADER = "model.safetensors", "load.py"
# The note where transformers has no equivalent of the preprocessing.
NO_PROCESSOR = "transformers has no image processor for this preprocessing: config.json describes it."
FOLDER = code_examples.FOLDER
ANSWER = (
    "with torch.inference_mode():\n"
    "    # in the order of label_names in config.json\n"
    "    probabilities = {logits}.softmax(dim=1)[0]"
)
# Keys of timm's configuration about a network's shape; the source of its weights is in the model card.
SHAPE_KEYS = ("fixed_input_size", "first_conv", "classifier")


@dataclass(frozen=True)
class FormatDetails:
    """The details of one format for the model card: `config.json`, how to load it, and notes."""

    config: dict[str, Any]
    loaded_by: str  # the hub's name of the library that loads it
    usage: str  # Python, for the model card
    model: nn.Module | None = None  # loaded back from the files
    notes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    delta_config: dict[str, Any] = field(default_factory=dict)  # a delta's base: source and digest

    @property
    def loaded(self) -> nn.Module:
        """Return the model that was loaded back."""
        assert self.model is not None
        return self.model


def write(
    exported: ExportedModel, folder: Path, check_images: CheckImages, module: nn.Module | None
) -> FormatDetails:
    """Write `model.safetensors` with its configuration or loader, and load it back."""
    state = _timm_state(exported) if exported.source["kind"] == "timm" else None
    if state is None:
        return _write_with_loader(exported, folder, check_images, module)
    return _write_for_timm(exported, folder, check_images, state)


def _timm_state(exported: ExportedModel) -> dict[str, Tensor] | None:
    """Return the weights with timm's names and shapes; `None` where timm has no such head."""
    if exported.head != "linear":
        return None
    target = zoo.architecture_of(exported.source, len(exported.classes)).build_seeded().state_dict()
    own_state = {name: value.detach().contiguous() for name, value in exported.model.state_dict().items()}
    state: dict[str, Tensor] = {}
    for name, target_tensor in target.items():
        value = own_state.get(name)
        if value is None and exported.backbone.classifier.owns(name):
            value = _head_tensor(own_state, name, target_tensor)
        if value is None or value.shape != target_tensor.shape:
            return None
        state[name] = value.clone()
    unmatched = [
        name for name in own_state if name not in target and not exported.backbone.classifier.owns(name)
    ]
    return None if unmatched else state


def _head_tensor(own_state: Mapping[str, Tensor], name: str, target_tensor: Tensor) -> Tensor | None:
    """Return the head's tensor for a classifier that timm builds as a 1 × 1 convolution."""
    module_name, _, leaf = name.rpartition(".")
    matches = [
        value
        for key, value in own_state.items()
        if re.fullmatch(rf"{re.escape(module_name)}\.\d+\.{leaf}", key)
    ]
    if len(matches) != 1 or matches[0].numel() != target_tensor.numel():
        return None
    return matches[0].reshape(target_tensor.shape)


def _write_for_timm(
    exported: ExportedModel, folder: Path, check_images: CheckImages, state: dict[str, Tensor]
) -> FormatDetails:
    import timm

    config = timm_config(exported)
    _save(folder, state)
    _write_json(folder / "config.json", config)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    if exported.backbone.classifier.kind == "flat":
        _require_identical_logits(exported, model, check_images)
    imports, image = code_examples.image_loading_code(exported.rendering)
    usage = (
        f"import timm, torch\n{imports}\n\n"
        'model = timm.create_model("local-dir:path/to/this/folder", pretrained=True).eval()\n'
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))\n"
        f"{image}"
        f"{ANSWER.format(logits='model(transform(image)[None])')}"
    )
    return FormatDetails(config, "timm", usage, model, tags=("timm", "transformers"))


def timm_config(exported: ExportedModel) -> dict[str, Any]:
    """Return `config.json` for timm and the hub."""
    target = zoo.architecture_of(exported.source, len(exported.classes))
    built = target.build_seeded()
    arguments = {key: value for key, value in target.arguments().items() if key != "num_classes"}
    pretrained_cfg: dict[str, Any] = dict(getattr(built, "pretrained_cfg", {}))
    licence = zoo.licence(exported.source)
    config: dict[str, Any] = {
        "architecture": target.name.partition(".")[0],
        "num_classes": len(exported.classes),
        "num_features": getattr(built, "num_features", exported.backbone.feature_width),
        "label_names": exported.classes,
    }
    if arguments:
        config["model_args"] = arguments
    config["pretrained_cfg"] = {
        **{key: pretrained_cfg[key] for key in SHAPE_KEYS if pretrained_cfg.get(key) is not None},
        **_timm_preprocessing(exported.preprocessing),
        "num_classes": len(exported.classes),
        "custom_load": False,
        **({"license": licence} if licence else {}),
    }
    return config


def _timm_preprocessing(preprocessing: Preprocessing) -> dict[str, Any]:
    return {
        "input_size": [3, preprocessing.size, preprocessing.size],
        "crop_pct": preprocessing.crop_pct,
        "crop_mode": preprocessing.crop_mode,
        "interpolation": preprocessing.interpolation,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
    }


def _write_with_loader(
    exported: ExportedModel, folder: Path, check_images: CheckImages, module: nn.Module | None
) -> FormatDetails:
    rebuild_config = _rebuild_config(exported)
    config = {
        **(_transformers_config(exported) if rebuild_config["library"] == "hf" else {}),
        "num_classes": len(exported.classes),
        "label_names": exported.classes,
        "preprocessing": exported.preprocessing.as_dict(),
        "rebuild": rebuild_config,
    }
    state = {key: value.detach().contiguous().clone() for key, value in exported.model.state_dict().items()}
    _save(folder, state)
    _write_json(folder / "config.json", config)
    (folder / LOADER).write_text(
        Path(standalone_loader.__file__).read_text(encoding="utf-8"), encoding="utf-8"
    )
    model = standalone_loader.load(folder, copy.deepcopy(module))
    _require_identical_logits(exported, model, check_images)
    if _is_transformers_model(exported):
        processor_settings = hugging_face.processor_settings(exported.preprocessing)
        if processor_settings:
            _write_json(folder / "preprocessor_config.json", processor_settings)
        _require_identical_logits(
            exported, hugging_face.load(str(folder), preprocessing=exported.preprocessing).model, check_images
        )
        notes = () if processor_settings else (NO_PROCESSOR,)
        usage = code_examples.usage_code(
            exported.rendering,
            exported.preprocessing,
            ("import torch", "from transformers import AutoModelForImageClassification"),
            f'model = AutoModelForImageClassification.from_pretrained("{FOLDER}").eval()\n',
            ANSWER.format(logits="model(torch.from_numpy(pixels)).logits"),
        )
        return FormatDetails(config, "transformers", usage, model, notes, tags=("transformers",))
    own = rebuild_config["library"] == "module"
    kind = "head that reads several stages" if exported.several else f"{exported.head} head like this one"
    reasons = {
        "timm": f"timm has no {kind}",
        "torchvision": "the network is torchvision's",
        "hf": f"transformers has no {kind}",
        "module": "the network is the owner's own module",
    }[rebuild_config["library"]]
    module_argument = ", module" if own else ""
    usage = code_examples.usage_code(
        exported.rendering,
        exported.preprocessing,
        ("import sys", "import torch"),
        f'sys.path.append("{FOLDER}")\nfrom load import load\n\n'
        f'model = load("{FOLDER}"{module_argument})' + ("  # module: your network\n" if own else "\n"),
        ANSWER.format(logits="model(torch.from_numpy(pixels))"),
    )
    note = f"{reasons[0].upper()}{reasons[1:]}, so {LOADER} in the folder loads it."
    return FormatDetails(config, "pytorch", usage, model, (note,))


def _is_transformers_model(exported: ExportedModel) -> bool:
    """Return whether transformers builds this network, head included, from its configuration alone."""
    return exported.source["kind"] == hugging_face.KIND and exported.head == "linear"


def _transformers_config(exported: ExportedModel) -> dict[str, Any]:
    """Return the network's own configuration with these classes; empty for another head."""
    if not _is_transformers_model(exported):
        return {}
    id2label = {str(number): name for number, name in enumerate(exported.classes)}
    return {
        **exported.source["config"],
        "architectures": [type(exported.model).__name__],
        "id2label": id2label,
        "label2id": {name: int(number) for number, name in id2label.items()},
    }


def _arguments(exported: ExportedModel) -> dict[str, Any]:
    kind = exported.source["kind"]
    if kind == hugging_face.KIND:
        return {key: value for key, value in exported.source["config"].items() if key != "model_type"}
    return zoo.architecture_of(exported.source).arguments() if kind in ("timm", "torchvision") else {}


def _rebuild_config(exported: ExportedModel) -> dict[str, Any]:
    kind, classifier = exported.source["kind"], exported.backbone.classifier
    hidden = re.fullmatch(r"mlp\((\d+)\)", exported.head)
    return {
        "library": kind,
        "architecture": exported.source["architecture"],
        "arguments": _arguments(exported),
        "head": {
            "names": list(classifier.names),
            "kind": classifier.kind,
            "layer": exported.head,
            "hidden": int(hidden.group(1)) if hidden else None,
            "width": classifier.width,
            **({} if exported.several is None else {"stages": [asdict(t) for t in exported.several.taps]}),
        },
    }


def _require_identical_logits(exported: ExportedModel, model: nn.Module, check_images: CheckImages) -> None:
    expected = predict_logits(logits_function(exported.model, exported.preprocessing), check_images.pixels)
    loaded = predict_logits(logits_function(model, exported.preprocessing), check_images.pixels)
    if not np.array_equal(expected, loaded):
        largest_difference = float(np.abs(expected - loaded).max())
        raise ModelError(
            f"The model that was loaded back differs: its logits differ by up to {largest_difference:.1g}; "
            f"identical logits were expected. Nothing was written. (torch {torch.__version__})"
        )


def _save(folder: Path, state: dict[str, Tensor]) -> None:
    """Write the weights with a single metadata key, since safetensors writes several in any order."""
    directories.write_atomically(folder / WEIGHTS, save(state, {"format": "pt"}))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
