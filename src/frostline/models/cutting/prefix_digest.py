"""The digest of a frozen prefix: its weights, and everything that decides how they are used.

Two prefixes with the same digest give the same activations for the same pixels, on the same machine with
the same libraries. So weights, classes, settings (also those that `extra_repr` keeps to itself) and the
source of classes that no library version stands for go into it.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Hashable, Iterator
from functools import lru_cache
from typing import Any, cast

import torch
from torch import nn

from frostline.models.backbone import Backbone, Cut, tensor_bytes

# The versions of these are part of a row's key, so their sources need not be.
LIBRARIES = ("torch", "torchvision", "timm")

_OWN = ("_parameters", "_buffers", "_modules", "training", "forward")  # looked at otherwise, or replaced


def prefix_digest(backbone: Backbone, model: nn.Module, cut: Cut) -> str:
    """Return the SHA-256 of everything in `model` that decides the features at `cut`.

    Parameters
    ----------
    backbone : Backbone
    model : nn.Module
        The backbone's model, or an adapted copy.
    cut : Cut

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for line in _description(backbone, model, cut):
        digest.update(line.encode())
        digest.update(b"\n")
    stages = backbone.stage_of(model)
    tensors = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    for name in sorted(tensors):
        if stages[name] < cut.index:
            value = tensors[name]
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
            digest.update(tensor_bytes(value))
    return digest.hexdigest()


def _description(backbone: Backbone, model: nn.Module, cut: Cut) -> Iterator[str]:
    """Yield the place of the cut, and class, settings and source of every module that runs before it."""
    recipe = cut.recipe
    yield f"{cut.boundary} {cut.at} {recipe.leaves if recipe else ''} {recipe.shapes if recipe else ''}"
    spans = backbone.module_spans(model)
    for name, module in sorted(model.named_modules(remove_duplicate=False), key=lambda pair: pair[0]):
        if spans[name][0] < cut.index:
            kind = type(module)
            yield f"{name} {kind.__module__}.{kind.__qualname__} {module.extra_repr()}"
            yield from _settings(module)
            yield _source(kind)  # type: ignore[arg-type]


def _settings(module: nn.Module) -> Iterator[str]:
    for key, value in sorted(vars(module).items()):
        if key in _OWN or (key.startswith("_") and "hook" in key):
            continue
        yield f"{key}={_plain(value)}"


def _plain(value: Any, depth: int = 4) -> str:
    """Describe a setting in the same words in every process, and what it holds to some depth."""
    if depth == 0 or isinstance(value, nn.Module):
        return type(value).__qualname__
    if value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.Size):
        return repr(value)
    if isinstance(value, list | tuple | set | frozenset):
        inside = [_plain(item, depth - 1) for item in value]
        ordered = isinstance(value, list | tuple)
        return f"{type(value).__name__}({','.join(inside if ordered else sorted(inside))})"
    if isinstance(value, dict):
        return f"dict({','.join(f'{_plain(k)}:{_plain(v, depth - 1)}' for k, v in value.items())})"
    if isinstance(value, torch.Tensor):  # neither parameter nor buffer, and may be read all the same
        return f"{tuple(value.shape)} {value.dtype} {hashlib.sha256(tensor_bytes(value)).hexdigest()}"
    if inspect.isfunction(value) or isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__} {_source(value)}"
    attributes = _plain(dict(sorted(vars(value).items())), depth - 1) if hasattr(value, "__dict__") else ""
    return (
        f"{type(value).__module__}.{type(value).__qualname__} {getattr(value, '__name__', '')} {attributes}"
    )


@lru_cache(maxsize=1024)
def _source(kind: Hashable) -> str:
    """Return a digest of the source of a class or function that belongs to no library.

    What has no source to read (typed at a prompt) is like nothing in any other process.
    """
    if (getattr(kind, "__module__", None) or "").split(".")[0] in LIBRARIES:
        return ""
    try:
        return hashlib.sha256(inspect.getsource(cast(type, kind)).encode()).hexdigest()
    except (OSError, TypeError):
        return f"only in process {os.getpid()} {id(kind)}"
