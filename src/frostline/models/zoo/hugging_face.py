"""Image classifiers of the `transformers` library: `hf/NAME` on the hub, or a folder that holds one.

Such a model returns an object with `logits`. `as_logits_model` gives it a class of the same name, derived
from its own, whose `forward` returns the logits alone: nothing else changes, so `state_dict` keys, `config`
and `save_pretrained` stay the model's own. Code from a repository is never run, and nothing is unpickled.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from frostline.errors import ModelError, option
from frostline.models import Preprocessing
from frostline.models.zoo.architectures import HUB_FILES, SEED
from frostline.models.zoo.hub_access import Offer, hub
from frostline.system import devices

PREFIX = "hf/"
KIND = "hf"
INDEX = "model.safetensors.index.json"  # of weights in several files
PROCESSORS = ("preprocessor_config.json", "processor_config.json")

MISSING = "Models of Hugging Face need the transformers library: pip install 'frostline[hf]'"

# Sides of the pictures on which two preprocessings are compared: wide, tall, odd, and smaller than any input.
TRIAL_SIDES = ((320, 240), (210, 333), (257, 257), (40, 24))

# How far apart two preprocessings may be, in levels of 255: their arithmetic in floats rounds differently.
# Compared is the processor on Pillow. transformers' default, torchvision on tensors, resizes a little
# differently: on the trial pictures by 2 levels of 255 at most for most processors, 6 for DeiT's (5.24).
SAME_LEVELS = 0.01

# Settings by which transformers would take code, or a network or its weights, from another place.
ELSEWHERE = (
    "auto_map",
    "custom_pipelines",
    "architecture",
    "backbone",
    "use_timm_backbone",
    "use_pretrained_backbone",
)

# From this shortest edge on, ConvNeXt's processor squeezes the whole picture instead of cropping it
# (transformers, image_processing_convnext.py).
CONVNEXT_SQUASHES_FROM = 384


@dataclass(frozen=True)
class HubModel:
    """A model as it was loaded; `missing` are the tensors that its file did not hold."""

    model: nn.Module
    preprocessing: Preprocessing
    config: dict[str, Any]
    missing: tuple[str, ...] = ()


def is_hugging_face(source: str) -> bool:
    """Return whether `source` is `hf/NAME` or a folder as `save_pretrained` writes it."""
    return source.startswith(PREFIX) or (Path(source).expanduser() / "config.json").is_file()


def load(source: str, *, random: bool = False, preprocessing: Preprocessing | None = None) -> HubModel:
    """Return the classifier that `hf/NAME` or a folder holds, in eval mode, float32, with its preprocessing.

    Raises `ModelError` where there is none, where the library is missing, and where its image processor does
    something that `Preprocessing` cannot say.
    """
    library = _library()
    place, options = _place(source, random)
    with _own_words(source):
        config = library.AutoConfig.from_pretrained(place, **options)
        settings = json.loads(config.to_json_string(use_diff=True))
        missing: tuple[str, ...] = ()
        if random:
            model = build(settings)
        else:
            model, missing = _pretrained(library, place, options, config)
        own = preprocessing or _preprocessing(library, source, place, options)
    return HubModel(as_logits_model(model), own, settings, missing)


def rebuilt(config: object, preprocessing: Preprocessing) -> HubModel:
    """Return the classifier that a study's configuration describes, with random weights; needs no files.

    Raises `ModelError` where it names code, a network of another library, or nothing that can be built: a
    study may come from a stranger.
    """
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(f"The study describes no model of transformers: {str(config)[:80]}")
    elsewhere = [key for key in ELSEWHERE if config.get(key)]
    if elsewhere:
        raise ModelError(f"The study's model takes parts from elsewhere ({', '.join(elsewhere)}): not built.")
    with _own_words("The study's model"):
        try:
            return HubModel(build(config), preprocessing, config)
        except (TypeError, AttributeError, ArithmeticError) as error:  # settings of another type
            raise ValueError(str(error)) from error


def build(config: dict[str, Any]) -> nn.Module:
    """Return the classifier that a configuration describes, with random weights that are always the same."""
    with torch.random.fork_rng(devices=devices.random_states()):
        torch.manual_seed(SEED)
        return build_unseeded(config)


def build_unseeded(config: dict[str, Any]) -> nn.Module:
    """Return the classifier that a configuration describes, with weights decided by the random state."""
    library = _library()
    settings = {key: value for key, value in config.items() if key != "model_type"}
    described = library.AutoConfig.for_model(config["model_type"], **settings)
    return as_logits_model(library.AutoModelForImageClassification.from_config(described).float())


def as_logits_model(model: nn.Module) -> nn.Module:
    """Return the same model, whose call on pixels (n, 3, s, s) now returns logits (n, classes)."""
    kind = type(model)
    if getattr(kind, "answers_logits", False):
        return model

    def forward(self: Any, pixel_values: Tensor) -> Tensor:
        logits: Tensor = kind.forward(self, pixel_values, return_dict=True).logits
        return logits

    body = {"forward": forward, "answers_logits": True, "__doc__": kind.__doc__}
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    model.__class__ = type(kind.__name__, (kind,), {**body, **names})
    for part in model.modules():  # where a model lay is no setting of it
        if hasattr(part, "name_or_path"):
            part.config._name_or_path = part.name_or_path = ""  # type: ignore[union-attr, assignment]
    # A stored row's key holds a module's settings, and so the version of the code that computed it.
    model.made_by = f"transformers {_library().__version__}"  # type: ignore[assignment]
    return model.eval()


def _library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ModelError(MISSING) from error
    return transformers


def _place(source: str, random: bool) -> tuple[str, dict[str, Any]]:
    """Return the name or folder for the library, and its options."""
    folder = Path(source).expanduser()
    if not source.startswith(PREFIX):
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(f"{folder}/config.json cannot be read ({error}).") from error
        if not isinstance(config, dict) or "model_type" not in config:
            raise ModelError(
                f"{folder}/config.json has no model_type, so it is not a model of the transformers library. "
                f"A folder for timm is loaded by its weights: its model.safetensors with "
                f"{option('architecture', 'timm/NAME')}."
            )
        return str(folder), {"local_files_only": True}
    name = _hub_name(source)
    return name, {"local_files_only": offer(source, random=random) is None}


def _hub_name(source: str) -> str:
    """Return the name on the hub."""
    name = source.removeprefix(PREFIX)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise ModelError(f"Found {source!r}; expected hf/OWNER/NAME, such as hf/microsoft/resnet-18.")
    return name


def offer(source: str, *, random: bool = False) -> Offer | None:
    """Return what would be fetched for `hf/NAME`; `None` where it lies on this machine.

    Random weights need the description of the network alone. Raises `ModelError`.
    """
    from huggingface_hub import try_to_load_from_cache

    name = _hub_name(source)

    def is_known(*files: str) -> bool:  # there, or seen not to exist
        return any(try_to_load_from_cache(name, file) is not None for file in files)

    def is_cached(*files: str) -> bool:
        return any(isinstance(try_to_load_from_cache(name, file), str) for file in files)

    if is_cached("config.json") and (random or is_cached(HUB_FILES[0], INDEX)) and is_known(*PROCESSORS):
        return None
    return Offer(source, f"{hub()}/{name}", hub())


@contextmanager
def _own_words(source: str) -> Iterator[None]:
    """Turn what the library raises for a model that can't be had into one message."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"{source} cannot be loaded: {lines[0]}") from error


def _pretrained(
    library: Any, place: str, options: dict[str, Any], config: Any
) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the model with its weights, and the names of those that its file lacks."""
    with torch.random.fork_rng(devices=devices.random_states()), _quiet(library):
        torch.manual_seed(SEED)
        model, report = library.AutoModelForImageClassification.from_pretrained(
            place, config=config, use_safetensors=True, output_loading_info=True, **options
        )
    return model.float(), tuple(sorted(report["missing_keys"]))


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Keep the library's bars and remarks off the screen for as long as the block runs."""
    log = library.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def _preprocessing(library: Any, source: str, place: str, options: dict[str, Any]) -> Preprocessing:
    """Return the model's preprocessing. Raises `ModelError` where it cannot be described exactly."""
    with _quiet(library):
        processor = library.AutoImageProcessor.from_pretrained(place, backend="pil", **options)
    own = described(processor.to_dict())
    advice = "Pass what the model needs: load_backbone(…, preprocessing=Preprocessing(…))."
    if isinstance(own, str):
        raise ModelError(f"The image processor of {source} {own}, which cannot be repeated here. {advice}")
    apart = _levels_apart(own, processor)
    if apart > SAME_LEVELS:
        raise ModelError(
            f"The image processor of {source} ({type(processor).__name__}) makes other pixels than the size, "
            f"crop, mean and std in its configuration say ({apart:.1f} of 255 levels apart). {advice}"
        )
    return own


def described(settings: dict[str, Any]) -> Preprocessing | str:
    """Return the preprocessing that an image processor's settings describe, or what stands against it."""
    try:
        return _described(settings)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        return f"has settings of another kind than expected ({type(error).__name__}: {error})"


def _described(settings: dict[str, Any]) -> Preprocessing | str:
    if not settings.get("do_resize") or not settings.get("do_rescale"):
        return "does not resize, or does not scale pixels to 0–1"
    geometry = _geometry(settings)
    if isinstance(geometry, str):
        return geometry
    size, crop_pct, mode = geometry
    if not 0 < crop_pct <= 1:
        return f"crops {size} pixels out of fewer"
    plain = not settings.get("do_normalize")
    mean = (0.0,) * 3 if plain else _three(settings["image_mean"])
    std = (1.0,) * 3 if plain else _three(settings["image_std"])
    interpolation = Image.Resampling(settings.get("resample", Image.Resampling.BILINEAR)).name.lower()
    return Preprocessing(size, crop_pct, interpolation, mean, std, mode)


def processor_settings(preprocessing: Preprocessing) -> dict[str, Any] | None:
    """Return what `preprocessor_config.json` must say for the same pixels; `None` where nothing does.

    The image processor of these settings is made, and compared on the trial pictures.
    """
    side, squashes = preprocessing.size, preprocessing.crop_mode == "squash"
    resized_side = (
        round(side / preprocessing.crop_pct) if squashes else math.floor(side / preprocessing.crop_pct)
    )
    settings = {
        "do_resize": True,
        "size": {"height": resized_side, "width": resized_side}
        if squashes
        else {"shortest_edge": resized_side},
        "do_center_crop": resized_side != side or not squashes,
        "crop_size": {"height": side, "width": side},
        "resample": int(Image.Resampling[preprocessing.interpolation.upper()]),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }
    library = _library()
    kind = "ViTImageProcessor" if squashes and resized_side == side else "BitImageProcessor"
    with _quiet(library):
        # Pillow's twin of the processor: the other one resizes a little differently
        processor = getattr(library, f"{kind}Pil", getattr(library, kind))(**settings)
    is_same = _levels_apart(preprocessing, processor) <= SAME_LEVELS
    return {**settings, "image_processor_type": kind} if is_same else None


def _geometry(settings: dict[str, Any]) -> tuple[int, float, str] | str:
    """Return side, share cropped and crop mode, or what stands against them."""
    size, crop = dict(settings["size"]), settings.get("crop_size") if settings.get("do_center_crop") else None
    edge, sides = size.get("shortest_edge"), {size.get("height"), size.get("width")}
    if edge and settings.get("crop_pct"):
        squashes = edge >= CONVNEXT_SQUASHES_FROM
        return edge, 1.0 if squashes else float(settings["crop_pct"]), "squash" if squashes else "floor"
    if len(sides) > 1 or (edge is None and sides == {None}):
        return f"makes pictures that are not square ({size})"
    if crop is None:
        return f"keeps each picture's own shape ({size})" if edge else (int(size["height"]), 1.0, "squash")
    if crop["height"] != crop["width"]:
        return f"makes pictures that are not square ({crop})"
    side = int(crop["height"])
    return side, side / int(edge or size["height"]), "floor" if edge else "squash"


def _three(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _levels_apart(own: Preprocessing, processor: Any) -> float:
    """Return the largest difference between what both make of the trial pictures, in levels of 255."""
    worst = 0.0
    std = torch.tensor(own.std).view(3, 1, 1)
    for picture in _trial_pictures():
        reference = torch.as_tensor(np.asarray(processor(picture, return_tensors="pt")["pixel_values"][0]))
        pixels = own.evaluation()(picture)
        if reference.shape != pixels.shape:
            return float("inf")
        worst = max(worst, float(((reference - pixels) * std).abs().max()) * 255)
    return worst


def _trial_pictures() -> Iterator[Image.Image]:
    """Yield smooth pictures with an edge in them, the same each time."""
    for width, height in TRIAL_SIDES:
        across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
        waves = np.stack([np.sin(9 * across), np.cos(7 * down), np.sin(5 * (across + down))], axis=2)
        pixels = 127.5 + 100 * waves
        pixels[height // 3 : height // 2, width // 4 : width // 2] = (250, 20, 120)
        yield Image.fromarray(pixels.astype(np.uint8))
