"""Models by name from timm and torchvision: built with random weights, or with the published ones.

Nothing is unpickled: torch files are read with `weights_only=True`.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import UnpicklingError  # what torch raises for a file that wants to build more than tensors
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from frostline.errors import ModelError, did_you_mean
from frostline.models import Preprocessing
from frostline.models.zoo.hub_access import TIMEOUT_S, Offer, hub
from frostline.system import devices

T = TypeVar("T")
SEED = 0  # of random weights: two builds of one name are the same model
# Said of any file that torch can't read with `weights_only=True`.
NEEDS_MORE = (
    "holds more than tensors, or is damaged. To rebuild anything but tensors a torch file may run a program, "
    "so it is not opened. Where it came from, save model.state_dict() alone, best with "
    "safetensors.torch.save_file."
)
# timm builds its own pooling and norm before a classifier; so a network whose weights were published without
# one is built with a stand-in, which nothing asks: one class tells nothing apart.
STAND_IN_CLASSES = 1
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # in which timm and transformers publish weights
TORCHVISION_FILES = "https://download.pytorch.org"


@dataclass(frozen=True)
class Architecture:
    """A model that can be built by name: `kind` is "timm" or "torchvision", `size` None for its own."""

    kind: str
    name: str
    size: int | None = None
    num_classes: int | None = None

    @property
    def title(self) -> str:
        return f"{self.kind}/{self.name}"

    def build(self) -> nn.Module:
        """Return the model with random weights, decided by the random state."""
        return _timm(self, pretrained=False) if self.kind == "timm" else _torchvision(self)

    def build_seeded(self) -> nn.Module:
        """Return the model with random weights that are always the same; the global state is left alone."""
        with torch.random.fork_rng(devices=devices.random_states()):
            torch.manual_seed(SEED)
            return self.build()

    def pretrained(self) -> nn.Module:
        """Return the model with its published weights. Raises `ModelError` if they are out of reach."""
        return _timm_pretrained(self) if self.kind == "timm" else _torchvision_pretrained(self)

    def offer(self) -> Offer | None:
        """Return what `pretrained` would fetch; `None` where it lies on this machine. Raises `ModelError`."""
        return _timm_offer(self) if self.kind == "timm" else _torchvision_offer(self)

    def arguments(self) -> dict[str, Any]:
        """Return what is passed to `timm.create_model` or torchvision's builder beside the name."""
        return _timm_arguments(self) if self.kind == "timm" else _torchvision_arguments(self)

    def preprocessing(self, model: nn.Module) -> Preprocessing:
        """Return what the published weights were measured with, for this architecture's size."""
        own = _timm_preprocessing(model) if self.kind == "timm" else _torchvision_preprocessing(self.name)
        return own.with_size(self.size) if self.size else own


def architecture(title: str, size: int | None = None) -> Architecture:
    """Return the architecture called `timm/NAME` or `torchvision/NAME`. Raises `ModelError` if unknown."""
    kind, _, name = title.partition("/")
    if kind == "timm":
        _check_timm(name)
    elif kind == "torchvision":
        _check_torchvision(name)
    else:
        raise ModelError(f"Architecture {title!r} is unknown; expected timm/NAME or torchvision/NAME.")
    return Architecture(kind, name, size)


def _check_timm(name: str) -> None:
    import timm

    bare, _, tag = name.partition(".")
    if not timm.is_model(bare):
        suggestion = did_you_mean(f"timm/{bare}", (f"timm/{name}" for name in timm.list_models()))
        raise ModelError(f"timm has no model called {bare!r}.{suggestion}")
    if tag and name not in timm.list_pretrained(bare):
        tags = [full.partition(".")[2] for full in timm.list_pretrained(bare)]
        raise ModelError(f"timm's {bare} has no weights called {tag!r}; it has {', '.join(tags) or 'none'}.")


def _check_torchvision(name: str) -> None:
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise ModelError(f"torchvision has no classifier called {name!r}.{did_you_mean(name, names)}")


def _timm(architecture: Architecture, *, pretrained: bool, **more: Any) -> nn.Module:
    import timm

    try:
        model: nn.Module = timm.create_model(
            architecture.name, pretrained=pretrained, **architecture.arguments(), **more
        )
    except (AssertionError, ValueError) as error:
        raise ModelError(
            f"{architecture.title} cannot be built for {architecture.size} pixels; expected "
            f"{_native(architecture.name)}. ({error})"
        ) from error
    return model


def _timm_arguments(architecture: Architecture) -> dict[str, Any]:
    """Return `num_classes`, where requested or needed, and `img_size`, where it differs and is taken."""
    classes = architecture.num_classes or (STAND_IN_CLASSES if _has_no_head(architecture.name) else None)
    options: dict[str, Any] = {"num_classes": classes} if classes else {}
    if architecture.size not in (None, _native(architecture.name)) and _takes_size(architecture.name):
        options["img_size"] = architecture.size
    return options


def _has_no_head(name: str) -> bool:
    """Return whether weights were published without a classifier, as self-supervised ones are."""
    import timm

    config = timm.get_pretrained_cfg(name)
    return bool(config is not None and config.num_classes == 0)


def _native(name: str) -> int:
    import timm

    config = timm.get_pretrained_cfg(name)
    return int((config.input_size if config else (3, 224, 224))[-1])


def _takes_size(name: str) -> bool:
    """Return whether a timm model is built for one image size, by building it without memory."""
    import timm

    native = (timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()).input_size[-1]
    try:
        with torch.device("meta"):
            timm.create_model(name, pretrained=False, img_size=native)
    except TypeError:
        return False
    except Exception:  # some models compute tables while they are built, which meta tensors refuse
        return True
    return True


def _timm_offer(architecture: Architecture) -> Offer | None:
    import timm

    config = timm.get_pretrained_cfg(architecture.name)
    if config is None or not (config.hf_hub_id or config.url or config.file):
        raise ModelError(
            f"{architecture.title} has no published weights; use random weights, or another model."
        )
    if _timm_kept(config) is not None:
        return None
    page = f"{hub()}/{config.hf_hub_id}" if config.hf_hub_id else str(config.url)
    licence = None if config.license in (None, "", "unknown") else str(config.license)
    return Offer(architecture.title, page, "/".join(page.split("/")[:3]), licence, _bytes_of(architecture))


def _bytes_of(architecture: Architecture) -> int | None:
    """Return about how large the weights are, by building the network without memory."""
    try:
        with torch.device("meta"):
            return sum(int(value.nbytes) for value in architecture.build().state_dict().values())
    except Exception:  # some models compute tables while they are built, which meta tensors refuse
        return None


def _timm_kept(config: Any) -> Path | None:
    """Return the file of weights that lies on this machine."""
    from huggingface_hub import try_to_load_from_cache

    if config.file:
        return Path(config.file)
    if not config.hf_hub_id:
        path = Path(torch.hub.get_dir()) / "checkpoints" / str(config.url).rsplit("/", 1)[-1]
        return path if path.is_file() else None
    places = (try_to_load_from_cache(config.hf_hub_id, name) for name in HUB_FILES)
    return next((Path(place) for place in places if isinstance(place, str)), None)


def _timm_pretrained(architecture: Architecture) -> nn.Module:
    """Load from the file itself: timm would ask the hub whether there is a newer one."""
    import timm

    config: Any = timm.get_pretrained_cfg(architecture.name)
    path = _timm_kept(config) or _fetched(architecture, config)
    overlay: dict[str, Any] = {}
    try:
        if config.hf_hub_id:  # read as timm reads it
            safe = path.suffix == ".safetensors"
            state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
            overlay = {"pretrained_cfg_overlay": {"state_dict": state}}
        with torch.random.fork_rng(devices=devices.random_states()):
            torch.manual_seed(SEED)  # of a stand-in head
            model = _timm(architecture, pretrained=True, **overlay)
    except (UnpicklingError, SafetensorError, RuntimeError) as error:  # timm wraps the first in the last
        raise ModelError(
            f"The weights of {architecture.title} on this machine: {path} {NEEDS_MORE}"
        ) from error
    except OSError as error:
        raise ModelError(f"The weights of {architecture.title} cannot be read: {error}") from error
    if overlay:  # the model's settings name where its weights lie, and do not hold them
        model.pretrained_cfg.pop("state_dict", None)  # type: ignore[union-attr, operator]
    return model


def _fetched(architecture: Architecture, config: Any) -> Path:
    """Fetch the file of weights into the cache of the hub, or of torch. Raises `ModelError`."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def fetch() -> Path:
        if not config.hf_hub_id:
            path = Path(torch.hub.get_dir()) / "checkpoints" / str(config.url).rsplit("/", 1)[-1]
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(config.url, str(path))
            return path
        get = partial(hf_hub_download, config.hf_hub_id, etag_timeout=TIMEOUT_S)
        try:
            return Path(get(HUB_FILES[0]))
        except LocalEntryNotFoundError:  # no response, so the other file is not tried
            raise
        except EntryNotFoundError:
            return Path(get(HUB_FILES[1]))

    return _fetching(architecture.title, fetch)


def _fetching(title: str, fetch: Callable[[], T]) -> T:
    """Return what is fetched. What broke off leaves nothing that looks whole. Raises `ModelError`."""
    try:
        return fetch()
    except Exception as error:  # clients of the hub raise by their transport, which differs by version
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"The weights of {title} could not be fetched ({type(error).__name__}: {lines[0]}). What was "
            "fetched so far is not used; the same call tries again."
        ) from error


def _timm_preprocessing(model: nn.Module) -> Preprocessing:
    from timm.data.config import resolve_model_data_config

    config: dict[str, Any] = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise ModelError(f"The model takes {channels}×{height}×{width}; expected square images, 3 channels.")
    interpolation = "bilinear" if config["interpolation"] == "random" else config["interpolation"]
    mean, std = tuple(config["mean"]), tuple(config["std"])
    return Preprocessing(height, config["crop_pct"], interpolation, mean, std, config["crop_mode"])


def _torchvision(architecture: Architecture) -> nn.Module:
    from torchvision import models

    builder = models.get_model_builder(architecture.name)
    try:
        model: nn.Module = builder(weights=None, **architecture.arguments())
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"{architecture.title} cannot be built for {architecture.size} pixels: {error}"
        ) from error
    return model


def _torchvision_arguments(architecture: Architecture) -> dict[str, Any]:
    from torchvision import models

    builder = models.get_model_builder(architecture.name)
    options = _torchvision_options(builder)
    if architecture.num_classes:
        options["num_classes"] = architecture.num_classes
    if architecture.size and "image_size" in inspect.signature(_made_by(builder)).parameters:
        options["image_size"] = architecture.size
    return options


def _made_by(builder: Callable[..., nn.Module]) -> type[nn.Module]:
    model_class: type[nn.Module] = typing.get_type_hints(builder)["return"]
    return model_class


def _torchvision_options(builder: Callable[..., nn.Module]) -> dict[str, Any]:
    """Return what published weights imply for older models: no auxiliary classifiers, own rescaling."""
    parameters = inspect.signature(_made_by(builder)).parameters
    defaults = {"aux_logits": False, "transform_input": True, "init_weights": True}
    return {key: value for key, value in defaults.items() if key in parameters and _is_inception(parameters)}


def _is_inception(parameters: typing.Mapping[str, Any]) -> bool:
    return "aux_logits" in parameters


def _torchvision_weights(name: str) -> Any:
    from torchvision import models

    return models.get_model_weights(name).DEFAULT


def _torchvision_offer(architecture: Architecture) -> Offer | None:
    weights = _torchvision_weights(architecture.name)
    if _torchvision_kept(weights).is_file():
        return None
    size_bytes = int(weights.meta["_file_size"] * 2**20)  # which torchvision has in MiB
    return Offer(architecture.title, weights.url, TORCHVISION_FILES, None, size_bytes)


def _torchvision_kept(weights: Any) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / str(weights.url).rsplit("/", 1)[-1]


def _torchvision_pretrained(architecture: Architecture) -> nn.Module:
    weights = _torchvision_weights(architecture.name)
    path = _torchvision_kept(weights)
    if not path.is_file():
        _fetching(architecture.title, lambda: _torchvision_file(weights, path))
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except UnpicklingError as error:
        raise ModelError(
            f"The weights of {architecture.title} on this machine: {path} {NEEDS_MORE}"
        ) from error
    except OSError as error:
        raise ModelError(f"The weights of {architecture.title} cannot be read: {error}") from error
    model = architecture.build_seeded()
    load_weights(model, {_modern(key): value for key, value in state.items()}, architecture.title, spare=True)
    return model


def _torchvision_file(weights: Any, path: Path) -> None:
    """Fetch a file whose name holds the beginning of its SHA-256, as torch.hub does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = path.stem.rpartition("-")[2]
    torch.hub.download_url_to_file(weights.url, str(path), hash_prefix=digest, progress=False)


def _modern(key: str) -> str:
    """Return torchvision's present name of a DenseNet tensor; its files still have `norm.1` for `norm1`."""
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.", r"\1\2.", key)


def _torchvision_preprocessing(name: str) -> Preprocessing:
    preset = _torchvision_weights(name).transforms()
    size, resize = preset.crop_size[0], preset.resize_size[0]
    return Preprocessing(
        size, share(size, resize), preset.interpolation.value, tuple(preset.mean), tuple(preset.std)
    )


def share(size: int, resize: int) -> float:
    """Return the crop_pct with which floor(size / crop_pct) is `resize` exactly."""
    exact = size / resize
    return exact if int(size / exact) == resize else exact * (1 - 1e-12)


def load_weights(model: nn.Module, state: dict[str, Tensor], title: str, *, spare: bool = False) -> None:
    """Load by name. Raises `ModelError` with what is missing, left over (unless `spare`) or misshapen."""
    own = model.state_dict()
    counters = {key for key in own if key.endswith("num_batches_tracked")}
    missing = [key for key in own if key not in state and key not in counters]
    extra = [] if spare else [key for key in state if key not in own]
    misshapen = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing or extra or misshapen:
        parts = (("missing", missing), ("left over", extra), ("of another shape", misshapen))
        problems = "; ".join(f"{len(keys)} {word} ({', '.join(keys[:3])})" for word, keys in parts if keys)
        raise ModelError(f"These weights do not fit {title}: {problems}.")
    model.load_state_dict({key: state.get(key, own[key]) for key in own})
