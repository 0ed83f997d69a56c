"""The base weights of a run, found again from its record; and their licence."""

from __future__ import annotations

from typing import Any

from torch import nn

from frostline.errors import ModelError, option
from frostline.models import Backbone, Preprocessing
from frostline.models.zoo.architectures import Architecture
from frostline.models.zoo.backbone_loading import load_backbone
from frostline.models.zoo.efficientnet_lite import PACKAGES


def load_base(source: dict[str, Any], base: str | nn.Module | Backbone | None = None) -> Backbone:
    """Return the pretrained backbone that a `Backbone.source` describes.

    Parameters
    ----------
    source : dict
    base : str, nn.Module, Backbone or None
        The base weights; None loads them by name. Whether they are the same is for the caller to check.

    Raises
    ------
    ModelError
        They cannot be found.
    """
    if isinstance(base, Backbone):
        return base
    preprocessing = Preprocessing.from_dict(source["preprocessing"])
    if isinstance(base, nn.Module):
        return load_backbone(base, preprocessing=preprocessing, name=source.get("name"))
    return load_backbone(
        base or _name(source),
        preprocessing=preprocessing,
        random=bool(source.get("random")) and base is None,
        architecture=None if source["kind"] == "module" else _title(source),
    )


def known_name(source: dict[str, Any]) -> str | None:
    """Return the name of published weights; None for a file, a module or random weights."""
    if source.get("random") or source["kind"] == "module":
        return None
    name = str(source.get("name") or _title(source))
    return name if name in PACKAGES or name == _title(source) else None


def licence(source: dict[str, Any]) -> str | None:
    """Return the licence that timm states for published weights; None where unknown.

    lite0 … lite2 are TensorFlow's own weights, which timm publishes as tf_efficientnet_lite0 … 2.
    """
    if source["kind"] != "timm" or known_name(source) is None:
        return None
    import timm

    config = timm.get_pretrained_cfg(source["architecture"])
    stated = getattr(config, "license", None)
    return None if stated in (None, "", "unknown") else str(stated)


def hub_name(source: dict[str, Any]) -> str | None:
    """Return the weights' repository on the hub; None where unknown."""
    if source["kind"] != "timm" or known_name(source) in (None, *PACKAGES):
        return None
    import timm

    config = timm.get_pretrained_cfg(source["architecture"])
    return str(config.hf_hub_id) if config and config.hf_hub_id else None


def architecture_of(source: dict[str, Any], num_classes: int | None = None) -> Architecture:
    """Return the architecture that a source names.

    Parameters
    ----------
    source : dict
        `Backbone.source`.
    num_classes : int or None
        None is the source's own number of classes.

    Returns
    -------
    Architecture
    """
    return Architecture(
        source["kind"], source["architecture"], source["size"], num_classes or source.get("num_classes")
    )


def _title(source: dict[str, Any]) -> str:
    return f"{source['kind']}/{source['architecture']}"


def _name(source: dict[str, Any]) -> str:
    """Return by which name `load_backbone` finds the weights. Raises `ModelError` where there is none."""
    if source.get("random") and source["kind"] != "module":
        return _title(source)
    name = known_name(source)
    if name is None:
        origin = "a module of your own" if source["kind"] == "module" else "a file"
        raise ModelError(
            f"The base weights came from {origin}, called {source.get('name')!r}, and cannot be found by "
            f"name. Pass them as {option('base')} (a file, or in Python a module or a backbone)."
        )
    return name
