"""The digest of a frozen prefix: its weights, and everything that decides how they are used.

Two prefixes with the same digest give the same activations for the same pixels, on the same machine with
the same libraries. So weights, classes, settings (also those that `extra_repr` keeps to itself) and the
source of classes that no library version stands for go into it.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import re
from collections.abc import Hashable, Iterator
from functools import cached_property
from types import CodeType, FunctionType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from frostline.models.backbone import Backbone, Cut, tensor_bytes

# The versions of these are part of a row's key, so their sources need not be.
LIBRARIES = ("torch", "torchvision", "timm")

_OWN = ("_parameters", "_buffers", "_modules", "training")  # looked at otherwise
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")  # of the user: what they return takes part
DEPTH = 4  # to which settings are described: a list in a dict of an object that a module holds


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


def code_digest(model: nn.Module) -> str:
    """Return the SHA-256 of what a model's modules are and hold beside registered tensors.

    It tells apart networks whose weights are the same. Unlike a prefix's digest it is the same in the next
    process where a source can't be read, so that a run can be resumed there.
    """
    modules = sorted(model.named_modules(remove_duplicate=False), key=lambda pair: pair[0])
    text = "\n".join(line for name, module in modules for line in _lines(name, module))
    return hashlib.sha256(re.sub(r"only in process \d+ \d+", "", text).encode()).hexdigest()


def _lines(name: str, module: nn.Module, depth: int = DEPTH) -> Iterator[str]:
    kind = type(module)
    yield f"{name} {kind.__module__}.{kind.__qualname__} {module.extra_repr()}"
    yield from _settings(module, depth)
    yield _class_source(kind, depth)


def _tensor(value: Tensor) -> str:
    """Describe a tensor with its values; one that has none to read is like nothing in another process."""
    if value.is_meta or value.layout is not torch.strided:
        return f"{tuple(value.shape)} {value.dtype} {value.layout} only in process {os.getpid()} {id(value)}"
    return f"{tuple(value.shape)} {value.dtype} {hashlib.sha256(tensor_bytes(value)).hexdigest()}"


def _settings(module: nn.Module, depth: int) -> Iterator[str]:
    """Describe what a module holds beside tensors and modules that are registered, and its user's hooks."""
    for key, value in sorted(vars(module).items()):
        if key in _OWN or (key.startswith("_") and "hook" in key and key not in _HOOKS):
            continue
        if key in _HOOKS:
            value = [hook for hook in value.values() if not _is_ours(hook)]
            if not value:
                continue
        if key == "forward" and _is_ours(value):
            continue
        yield f"{key}={_plain(value, depth)}"


def _is_ours(value: Any) -> bool:
    """Return whether a hook or a `forward` is one that this package put there, for a while."""
    while isinstance(value, functools.partial):
        value = value.func
    value = getattr(value, "__func__", value)
    module = getattr(value, "__module__", None) or type(value).__module__
    return str(module).split(".")[0] == __name__.split(".")[0]


def _plain(value: Any, depth: int = DEPTH) -> str:
    """Describe a setting in the same words in every process, and what it holds to some depth."""
    if value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.Size):
        return repr(value)
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        content = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
        return f"{array.shape} {array.dtype} {hashlib.sha256(content).hexdigest()}"
    if isinstance(value, Tensor):  # neither parameter nor buffer, and may be read all the same
        return _tensor(value)
    if depth == 0:
        return type(value).__qualname__
    if isinstance(value, nn.Module):  # in a list, say: those that are registered are looked at by themselves
        return _unregistered(value, depth - 1)
    if isinstance(value, list | tuple | set | frozenset):
        inside = [_plain(item, depth - 1) for item in value]
        ordered = isinstance(value, list | tuple)
        return f"{type(value).__name__}({','.join(inside if ordered else sorted(inside))})"
    if isinstance(value, dict):
        return f"dict({','.join(f'{_plain(k, depth - 1)}:{_plain(v, depth - 1)}' for k, v in value.items())})"
    if isinstance(value, functools.partial):
        return f"partial({_plain((value.func, value.args, value.keywords), depth)})"
    if inspect.ismethod(value):
        return f"method({_plain(value.__func__, depth)})"
    if inspect.isfunction(value):
        return _function(value, depth)
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__} {_class_source(value, depth - 1)}"
    attributes = _plain(dict(sorted(vars(value).items())), depth - 1) if hasattr(value, "__dict__") else ""
    return (
        f"{type(value).__module__}.{type(value).__qualname__} {getattr(value, '__name__', '')} {attributes}"
    )


def _unregistered(module: nn.Module, depth: int) -> str:
    """Describe a module that no other one has registered, with its weights."""
    if depth == 0:
        return type(module).__qualname__
    lines = [line for name, part in module.named_modules() for line in _lines(name, part, depth)]
    tensors = [f"{name} {_tensor(value)}" for name, value in module.state_dict().items()]
    return f"module({','.join((*lines, *tensors))})"


def _function(function: FunctionType, depth: int) -> str:
    """Describe a function: its source, its defaults, and what it takes from where it was made."""
    name = f"{function.__module__}.{function.__qualname__}"
    if _of_library(function):
        return name
    cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    held = (cells, function.__defaults__, function.__kwdefaults__)
    return f"{name} {_source(function)} {_plain(held, depth - 1)} {_names_used(function, depth - 1)}"


def _is_filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _names_used(function: FunctionType, depth: int) -> str:
    """Describe the constants, functions and classes of its own package that a function names."""
    if depth <= 0:
        return ""
    package = function.__module__.split(".")[0] if function.__module__ else ""
    lines = []
    for name in sorted(_names(function.__code__)):
        value = function.__globals__.get(name)
        plain = isinstance(
            value, bool | int | float | str | tuple | list | dict | np.ndarray | np.generic | Tensor
        )
        own = str(getattr(value, "__module__", "")).split(".")[0] == package and value is not function
        if plain or (own and (inspect.isfunction(value) or isinstance(value, functools.partial))):
            lines.append(f"{name}={_plain(value, depth)}")
    return ";".join(lines)


def _names(code: CodeType) -> set[str]:
    inner = (_names(each) for each in code.co_consts if isinstance(each, CodeType))
    return set(code.co_names).union(*inner)


def _of_library(kind: Any) -> bool:
    return str(getattr(kind, "__module__", None) or "").split(".")[0] in LIBRARIES


def _class_source(kind: type, depth: int = DEPTH) -> str:
    """Describe the source of a class, of those it inherits from, and what their methods name."""
    lines = []
    for each in kind.__mro__:
        if each is object or _of_library(each):
            continue
        functions = [value for value in vars(each).values() if inspect.isfunction(value)]
        used = [_names_used(function, depth - 1) for function in functions]
        lines.append(f"{_source(each)} {' '.join(filter(None, used))}")
    return "\n".join(lines)


@functools.lru_cache(maxsize=1024)
def _source(kind: Hashable) -> str:
    """Return a digest of the source of a class or function that belongs to no library.

    What has no source to read (typed at a prompt) is like nothing in any other process.
    """
    if _of_library(kind):
        return ""
    try:
        return hashlib.sha256(inspect.getsource(cast(type, kind)).encode()).hexdigest()
    except (OSError, TypeError):
        return f"only in process {os.getpid()} {id(kind)}"
