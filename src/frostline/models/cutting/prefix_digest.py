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
from functools import cached_property, lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from frostline.models.backbone import Backbone, Cut, tensor_bytes

# The versions of these are part of a row's key, so their sources need not be.
LIBRARIES = ("torch", "torchvision", "timm")

_OWN = ("_parameters", "_buffers", "_modules", "training", "forward")  # looked at otherwise, or replaced


class PrefixDigests:
    """The digests of a model's prefixes; each weight and each module is looked at once.

    Parameters
    ----------
    backbone : Backbone
    model : nn.Module
        The backbone's model, or an adapted copy. Below the cuts that are asked for it must not change while
        this is in use.
    """

    def __init__(self, backbone: Backbone, model: nn.Module) -> None:
        self._backbone = backbone
        self._model = model
        self._tensor_lines: dict[str, str] = {}
        self._module_lines: dict[str, str] = {}

    def at(self, cut: Cut) -> str:
        """Return the SHA-256 of everything in the model that decides the features at `cut`, 64 digits."""
        digest = hashlib.sha256()
        for line in (*self._description(cut), *self._weights(cut)):
            digest.update(line.encode())
            digest.update(b"\n")
        return digest.hexdigest()

    def _weights(self, cut: Cut) -> Iterator[str]:
        """Yield name, shape, type and digest of every parameter and buffer of the prefix."""
        for name, value in self._tensors:
            if self._stages[name] < cut.index:
                if name not in self._tensor_lines:
                    self._tensor_lines[name] = f"{name} {_tensor(value)}"
                yield self._tensor_lines[name]

    def _description(self, cut: Cut) -> Iterator[str]:
        """Yield the place of the cut, and class, settings and source of every module that runs before it."""
        recipe = cut.recipe
        yield f"{cut.boundary} {cut.at} {recipe.leaves if recipe else ''} {recipe.shapes if recipe else ''}"
        for name, module in self._modules:
            if self._spans[name][0] < cut.index:
                if name not in self._module_lines:
                    self._module_lines[name] = "\n".join(_lines(name, module))
                yield self._module_lines[name]

    @cached_property
    def _tensors(self) -> list[tuple[str, Tensor]]:
        parameters = self._model.named_parameters(remove_duplicate=False)
        return sorted({**dict(parameters), **dict(self._model.named_buffers(remove_duplicate=False))}.items())

    @cached_property
    def _modules(self) -> list[tuple[str, nn.Module]]:
        return sorted(self._model.named_modules(remove_duplicate=False), key=lambda pair: pair[0])

    @cached_property
    def _stages(self) -> dict[str, int]:
        return self._backbone.stage_of(self._model)

    @cached_property
    def _spans(self) -> dict[str, tuple[int, int]]:
        return self._backbone.module_spans(self._model)


def prefix_digest(backbone: Backbone, model: nn.Module, cut: Cut) -> str:
    """Return the SHA-256 of everything in `model` that decides the features at `cut`, as it is now.

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
    return PrefixDigests(backbone, model).at(cut)


def _lines(name: str, module: nn.Module) -> Iterator[str]:
    kind = type(module)
    yield f"{name} {kind.__module__}.{kind.__qualname__} {module.extra_repr()}"
    yield from _settings(module)
    yield _source(kind)  # type: ignore[arg-type]


def _tensor(value: Tensor) -> str:
    """Describe a tensor with its values; one that has none to read is like nothing in another process."""
    if value.is_meta or value.layout is not torch.strided:
        return f"{tuple(value.shape)} {value.dtype} {value.layout} only in process {os.getpid()} {id(value)}"
    return f"{tuple(value.shape)} {value.dtype} {hashlib.sha256(tensor_bytes(value)).hexdigest()}"


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
    if isinstance(value, Tensor):  # neither parameter nor buffer, and may be read all the same
        return _tensor(value)
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
