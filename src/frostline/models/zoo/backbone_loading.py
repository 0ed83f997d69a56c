"""`load_backbone` for every source, `rebuild_backbone` for a study that predicts without a network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from numbers import Integral
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from frostline.errors import ModelError, UsageError, demand_kind, did_you_mean
from frostline.models import MAX_SIDE_PIXELS, Backbone, Preprocessing, assemble, weights_digest
from frostline.models.heads import put_plain_head
from frostline.models.zoo import hugging_face
from frostline.models.zoo.architectures import Architecture, architecture
from frostline.models.zoo.downloading import agree
from frostline.models.zoo.efficientnet_lite import PACKAGES, load_lite
from frostline.models.zoo.hub_access import Offer
from frostline.models.zoo.weight_files import (
    described_preprocessing,
    fitted,
    is_weights,
    named_architecture,
    read,
)
from frostline.studies.study_folder import MAX_CLASSES
from frostline.system import timing


def load_backbone(
    source: str | PathLike[str] | nn.Module,
    *,
    size: int | None = None,
    resize: str | None = None,
    random: bool = False,
    preprocessing: Preprocessing | None = None,
    name: str | None = None,
    architecture: str | None = None,
    download: bool | None = None,
) -> Backbone:
    """Return a backbone by name, or from a weights file, a `save_pretrained` folder, a study or a module.

    Weights on this machine are used as they are, without contacting a hub.

    Parameters
    ----------
    source : str, path or nn.Module
        "lite0" … "lite2", "timm/NAME", "torchvision/NAME" or "hf/OWNER/NAME"; a .safetensors file, or a
        .pth, .pt or .bin that holds tensors alone (nothing is unpickled); a study's folder (its best run),
        "STUDY/runs/RUN", a safetensors export or a delta, to be adapted once more: the head stays as the
        original classifier, and `Backbone.fingerprints` keeps the images it learned from out of
        evaluation; or a module, with its `preprocessing`.
    size : int or None
        Pixels a side, in place of the checkpoint's own.
    resize : str or None
        How images become square: "crop" cuts out the middle, "squash" stretches, "pad" fits and fills with
        the mean colour; None: as the checkpoint has it (mostly a crop), or as a study was trained.
    random : bool
        Use random weights; nothing is downloaded. For a name or a weights file.
    preprocessing : Preprocessing or None
        In place of the checkpoint's own.
    name : str or None
        Name of the backbone in reports.
    architecture : str or None
        "timm/NAME", for a weights file that does not name its own.
    download : bool or None
        True downloads missing weights, and reports that on standard error; False never does; None asks at a
        terminal and refuses elsewhere.

    Returns
    -------
    Backbone

    Raises
    ------
    ModelError
        The model is unknown or cannot be loaded; the message says what can be had instead.
    UsageError
        `size` or `resize` is invalid, or `random` weights are wanted of a module or of what was adapted.
    """
    timing.prepare_process(trains=False)
    demand_kind(
        "model", source, (str, PathLike, nn.Module), "a model's name, a path or an instance of nn.Module"
    )
    source = fspath(source) if isinstance(source, PathLike) else source
    if size is not None:
        demand_kind("size", size, Integral, "a whole number of pixels a side")
        if size < 1:
            raise UsageError(f"size is {size}, expected at least 1 pixel.")
    agreed(source, download=download, random=random)
    return _load(source, size, random, preprocessing, name, architecture).resized(resize)


def _load(
    source: str | nn.Module,
    size: int | None,
    random: bool,
    preprocessing: Preprocessing | None,
    name: str | None,
    architecture: str | None,
) -> Backbone:
    if isinstance(source, nn.Module):
        if random:
            raise _not_random("a module of your own")
        inside = getattr(source, "_orig_mod", source)  # of a compiled one: its graph can't be cut
        return _from_module(inside, size, preprocessing, name)
    if source in PACKAGES:
        return _from_package(source, size, random, preprocessing, name)
    from frostline.models.zoo.adapted import (  # which loads what was adapted, from here
        adapted_at,
        as_backbone,
    )

    if (adapted := adapted_at(source)) is not None:
        if random:
            raise _not_random(f"{source}, which was trained before,")
        return as_backbone(adapted, size, preprocessing, name)
    if is_weights(source):
        return _from_file(Path(source).expanduser(), size, random, preprocessing, name, architecture)
    if source.startswith(("timm/", "torchvision/")):
        return _from_name(source, size, random, preprocessing, name)
    if hugging_face.is_hugging_face(source):
        return _from_hugging_face(source, size, random, preprocessing, name)
    raise ModelError(
        f"Model {source!r} is unknown; expected lite0, lite1, lite2, timm/NAME, torchvision/NAME, "
        "hf/OWNER/NAME, a .safetensors, .pth, .pt or .bin file, a folder with a config.json or a study."
        f"{did_you_mean(source, [*PACKAGES, *_bare_names()])}"
    )


def _not_random(title: str) -> UsageError:
    """Return what to raise where random weights are wanted of something that is no architecture."""
    return UsageError(
        f"Random weights are wanted of {title} and belong to an architecture's name. Expected a name such as "
        "lite0 or timm/resnet18; or keep the weights that it has."
    )


def agreed(source: object, *, download: bool | None, random: bool = False) -> bool | None:
    """Settle whether the weights of a model name may be downloaded, before other work starts.

    Returns
    -------
    bool or None
        What to pass to `load_backbone` as `download`; True where the user agreed.

    Raises
    ------
    ModelError
        Weights are needed and may not be downloaded.
    """
    if isinstance(source, str) and not Path(source).expanduser().exists():
        return _settle(source, download, random)
    return download


def _settle(source: str, download: bool | None, random: bool) -> bool | None:
    offer = _offer(source, random)
    if offer is None:
        return download
    agree(offer, download)
    return True


def _offer(source: str, random: bool) -> Offer | None:
    """Return what would have to be fetched for a name, if anything."""
    if source.startswith(("timm/", "torchvision/")):
        return None if random else architecture(source).offer()
    return hugging_face.offer(source, random=random) if source.startswith(hugging_face.PREFIX) else None


def rebuild_backbone(source: dict[str, Any], module: nn.Module | None = None) -> Backbone:
    """Return the backbone that a `Backbone.source` describes, with random weights, offline.

    Parameters
    ----------
    source : dict
        `Backbone.source`.
    module : nn.Module or None
        The user's own module, where the backbone came from one.

    Raises
    ------
    ModelError
        It came from a user's own module, which was not passed.
    """
    preprocessing = Preprocessing.from_dict(source.get("preprocessing", {}))
    if source.get("kind") == "module":
        if module is None:
            raise ModelError(
                f"This backbone was a module of your own ({source.get('architecture')}), which cannot be "
                "built by name. Pass the module."
            )
        return _from_module(module, None, preprocessing, source.get("name"))
    if source.get("kind") == hugging_face.KIND:
        name = str(source.get("name"))
        return _of_hugging_face(hugging_face.rebuilt(source.get("config"), preprocessing), name, True)
    spec = described(source)
    name = source.get("name", spec.title)
    return _assembled(spec.build_seeded(), spec, preprocessing, name, bool(source.get("random")))


def described(source: dict[str, Any]) -> Architecture:
    """Return the architecture that a study or an export names, if this library lists one by that name.

    A study may come from a stranger, and timm's own door also takes `hf-hub:` and `local-dir:`.
    """
    spec = architecture(f"{source.get('kind')}/{source.get('architecture')}")
    limits = {"size": MAX_SIDE_PIXELS, "num_classes": MAX_CLASSES}
    for key, most in limits.items():
        value = source.get(key)
        if value is not None and not (type(value) is int and 1 <= value <= most):
            raise ModelError(f"The study names {key} {str(value)[:40]}, expected a number from 1 to {most}.")
    return replace(spec, size=source.get("size"), num_classes=source.get("num_classes"))


def _demand_plain(model: nn.Module) -> None:
    """Raise `ModelError` for a module that cannot be cut, trained or read."""
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            "The module is a program of torch.jit, whose layers cannot be cut apart; expected the module "
            "that it was made from."
        )
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(value):
            raise ModelError(
                f"{name} of the module has no shape yet (a lazy layer). Call the module once on images first."
            )
        if value.is_meta:
            raise ModelError(f"{name} of the module has no values (torch's meta device). Load its weights.")
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise ModelError(
                f"{name} of the module is {str(parameter.dtype).removeprefix('torch.')}; expected float32, "
                "from which faster formats are chosen where they pay. Hand over module.float()."
            )
        if not torch.isfinite(parameter).all():
            raise ModelError(f"{name} of the module holds NaN or infinity; expected numbers.")


def _from_module(
    model: nn.Module, size: int | None, preprocessing: Preprocessing | None, name: str | None
) -> Backbone:
    if preprocessing is None:
        raise ModelError(
            "A module of your own needs its preprocessing: load_backbone(model, preprocessing="
            "Preprocessing(size=224, crop_pct=0.875, interpolation='bicubic', mean=(…), std=(…)))"
        )
    _demand_plain(model)
    try:
        model = copy.deepcopy(model)  # the caller's stays theirs, in its mode and where it is
    except RuntimeError as error:  # of torch: a weight that a hook computes
        raise ModelError(
            "The module cannot be copied, since a hook computes one of its weights (torch's old weight_norm, "
            "or prune). Make it plain first: torch.nn.utils.remove_weight_norm, torch.nn.utils.prune.remove."
        ) from error
    title = f"{type(model).__module__}.{type(model).__qualname__}"
    preprocessing = preprocessing.with_size(size) if size else preprocessing
    name = name or type(model).__name__
    source: dict[str, Any] = {
        "kind": "module",
        "architecture": title,
        "size": preprocessing.size,
        "name": name,
        "preprocessing": preprocessing.as_dict(),
    }
    own_digest = weights_digest(model)
    if put_plain_head(model):  # the study knows the weights with their own head
        source |= {"new_classifier": True, "weights": own_digest}
    return checked(model, preprocessing, name, source, None)


def _from_package(
    source: str, size: int | None, random: bool, preprocessing: Preprocessing | None, name: str | None
) -> Backbone:
    spec = PACKAGES[source].architecture
    model = spec.build_seeded() if random else load_lite(source)
    return _assembled(
        model, spec, _sized(preprocessing or spec.preprocessing(model), size), name or source, random
    )


def _from_name(
    source: str, size: int | None, random: bool, preprocessing: Preprocessing | None, name: str | None
) -> Backbone:
    side = size or (preprocessing.size if preprocessing else None)
    spec = architecture(source, side)
    model = spec.build_seeded() if random else spec.pretrained()
    return _assembled(
        model, spec, _sized(preprocessing or spec.preprocessing(model), size), name or source, random
    )


def _from_file(
    path: Path,
    size: int | None,
    random: bool,
    preprocessing: Preprocessing | None,
    name: str | None,
    requested: str | None,
) -> Backbone:
    state, metadata = read(path)
    side = size or (preprocessing.size if preprocessing else None)
    spec, model = fitted(named_architecture(path, metadata, requested, side), state)
    if random:
        model = spec.build_seeded()
    own = preprocessing or described_preprocessing(metadata, spec.preprocessing(model))
    return _assembled(model, spec, _sized(own, size), name or path.stem, random)


def _from_hugging_face(
    source: str, size: int | None, random: bool, preprocessing: Preprocessing | None, name: str | None
) -> Backbone:
    loaded = hugging_face.load(source, random=random, preprocessing=preprocessing)
    sized = replace(loaded, preprocessing=_sized(loaded.preprocessing, size))
    plain = source if source.startswith(hugging_face.PREFIX) else Path(source).expanduser().resolve().name
    backbone = _of_hugging_face(sized, name or plain, random)
    lost = [tensor for tensor in loaded.missing if not backbone.classifier.owns(tensor)]
    if lost:
        raise ModelError(
            f"The weights of {source} lack {len(lost)} tensor(s) of the model that its config.json describes "
            f"({', '.join(lost[:5])}); expected all but the classifier's own."
        )
    return backbone


def _of_hugging_face(loaded: hugging_face.HubModel, name: str, random: bool) -> Backbone:
    source: dict[str, Any] = {
        "kind": hugging_face.KIND,
        "architecture": loaded.config["model_type"],
        "size": loaded.preprocessing.size,
        "config": loaded.config,
        "name": name,
        "preprocessing": loaded.preprocessing.as_dict(),
    }
    if random:
        source["random"] = True
    fresh = partial(hugging_face.build_unseeded, loaded.config)
    return checked(loaded.model, loaded.preprocessing, name, source, fresh)


def _sized(preprocessing: Preprocessing, size: int | None) -> Preprocessing:
    return preprocessing.with_size(size) if size else preprocessing


def _assembled(
    model: nn.Module, spec: Architecture, preprocessing: Preprocessing, name: str, random: bool
) -> Backbone:
    source: dict[str, Any] = {
        "kind": spec.kind,
        "architecture": spec.name,
        "size": spec.size,
        "num_classes": spec.num_classes,
        "name": name,
        "preprocessing": preprocessing.as_dict(),
    }
    if random:
        source["random"] = True
    try:
        return checked(model, preprocessing, name, source, spec.build)
    except ModelError as error:
        native = replace(spec, size=None).preprocessing(model).size
        if preprocessing.size == native:
            raise
        raise ModelError(f"{error}\n{native} pixels are expected.") from error


def checked(
    model: nn.Module,
    preprocessing: Preprocessing,
    name: str,
    source: dict[str, Any],
    fresh: Callable[[], nn.Module] | None,
) -> Backbone:
    """Return the backbone of a model. Raises `ModelError` that names it."""
    try:
        return assemble(model, preprocessing, name=name, source=source, fresh=fresh)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error


def _bare_names() -> list[str]:
    """Return the names of timm's models, for suggestions."""
    import timm

    return [f"timm/{name}" for name in timm.list_models()]
