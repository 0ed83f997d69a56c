"""A GPU that is none: tensors that say they lie on a card, and compute on the processor.

What a card refuses is refused: tensors of two devices in one operation, `.numpy()` of a tensor on the card.
So a batch that stays behind, or an answer that is not brought back, turns a test red without a card. Speed,
memory and the bits of a real one it can't tell.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from frostline.feature_extraction import cached_features
from frostline.models import Backbone
from frostline.profiling import training_rates
from frostline.system import device_transfers, devices, numerics

CARD = "lazy:0"  # a kind of device whose backward pass torch runs in the thread that asks for it
MIXED = f"Expected all tensors to be on the same device, but found at least two devices, {CARD} and cpu!"
# Between devices: copies. Indices and scalars of the processor are welcome on a card, too.
ACROSS = {"aten::copy_", "aten::_to_copy", "aten::index", "aten::index_put", "aten::index_put_"}


# What makes the processor wait until a real card has done all that it was given, as it happens.
waits: list[str] = []


class OnCard(Tensor):
    """A tensor on the card; `held` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnCard:
        """Return a tensor of the same shape and strides that says it is on the card."""
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined, no-any-return]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=CARD,
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def tolist(self) -> Any:
        """Return the values, which torch gives of no tensor of another class."""
        waits.append("tolist")
        return self.held.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute on the processor."""
        return computed(func, args, kwargs or {})


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Return what an operation gives, on the card where its tensors are or where it is told to."""
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    on_gpu = any(isinstance(x, OnCard) for x in tensors)
    name = func._schema.name
    if on_gpu and name not in ACROSS and any(not isinstance(x, OnCard) and x.ndim for x in tensors):
        raise RuntimeError(f"{MIXED} ({name})")
    _note_wait(name, tensors, args, kwargs)
    named_devices = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.device)]
    if named_devices:
        on_gpu = named_devices[0].type == torch.device(CARD).type
        args = [torch.device("cpu") if isinstance(x, torch.device) else x for x in args]
        kwargs = {k: torch.device("cpu") if isinstance(x, torch.device) else x for k, x in kwargs.items()}
    elif name == "aten::copy_":
        on_gpu = isinstance(args[0], OnCard)
    if kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}
    wrapper = {id(x.held): x for x in tensors if isinstance(x, OnCard)}
    out = func(
        *tree_map(lambda x: x.held if isinstance(x, OnCard) else x, args),
        **tree_map(lambda x: x.held if isinstance(x, OnCard) else x, kwargs),
    )
    if not on_gpu:
        return out

    def wrapped(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return wrapper[id(x)] if id(x) in wrapper else OnCard(x)

    return tree_map(wrapped, out)


def _note_wait(name: str, tensors: list[Tensor], args: Any, kwargs: dict[str, Any]) -> None:
    """Note what a real card would be waited for: a number that is read, a copy that must be there at once."""
    on_gpu = [isinstance(x, OnCard) for x in tensors]
    if name == "aten::_local_scalar_dense" and on_gpu[0]:
        waits.append(name)
    elif name in ("aten::index", "aten::index_put", "aten::index_put_") and any(on_gpu) != all(on_gpu):
        waits.append(f"{name} by positions of the processor")
    elif name in ("aten::_to_copy", "aten::copy_"):
        device = torch.device(kwargs.get("device") or "cpu") if name == "aten::_to_copy" else None
        across = (
            on_gpu[0] != (device.type == torch.device(CARD).type) if device else any(on_gpu) != all(on_gpu)
        )
        moves = name == "aten::copy_" or kwargs.get("device") is not None
        waiting = not (kwargs.get("non_blocking") or (name == "aten::copy_" and len(args) > 2 and args[2]))
        if moves and across and waiting:
            waits.append(name)


class _Stream:
    """A stream, or a moment of it, that has always got there."""

    def record_event(self) -> _Stream:
        return self

    def wait_event(self, event: object) -> None: ...

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        waits.append("synchronize")


class _Card(TorchDispatchMode):
    """Also takes what makes a tensor from nothing, or from one of the processor."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


def _kept_bytes(backbone: Backbone, model: Any, plan: Any, images: int) -> list[int]:
    """Stand in for what asks for addresses in memory."""
    return [1000 * images for _ in backbone.stages]


@contextlib.contextmanager
def pretended() -> Iterator[None]:
    """Be a machine with one GPU inside the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "is_initialized", lambda: False)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "current_device", lambda: 0)
        patch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
        patch.setattr(torch.cuda, "synchronize", lambda: None)
        patch.setattr(torch.cuda, "Stream", lambda device=None: _Stream())
        patch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
        patch.setattr(torch.cuda, "current_stream", lambda device=None: _Stream())
        patch.setattr(Tensor, "record_stream", lambda tensor, stream: None)
        on_gpu = ("cuda", torch.device(CARD).type)
        patch.setattr(device_transfers, "on_gpu", lambda device: torch.device(device).type in on_gpu)
        patch.setattr(cached_features, "on_gpu", device_transfers.on_gpu)
        patch.setattr(numerics, "device_room_bytes", lambda: 10**9)
        patch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
        patch.setattr(torch.cuda, "max_memory_allocated", lambda: 1)
        patch.setattr(torch.cuda, "get_device_name", lambda device=None: "a pretended card")
        patch.setattr(torch.cuda, "get_device_capability", lambda device=None: (6, 0))
        patch.setattr(torch.cuda, "get_rng_state", lambda device=None: torch.zeros(16, dtype=torch.uint8))
        patch.setattr(torch.cuda, "set_rng_state", lambda state, device=None: None)
        patch.setattr(torch.cuda, "manual_seed_all", lambda seed: None)
        patch.setattr(devices, "_best", lambda: CARD)
        patch.setattr(devices, "check", lambda device: None)
        patch.setattr(training_rates, "_kept_bytes", _kept_bytes)
        patch.setattr(torch, "_has_compatible_shallow_copy_type", lambda *tensors: False)  # as Apple's
        real = torch.tensor
        patch.setattr(torch, "tensor", lambda *x, device=None, **y: real(*x, **y).to(device or "cpu"))
        patch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
        patch.setattr(torch.backends.cudnn, "enabled", False)
        torch._C._ensureCUDADeviceGuardSet()  # type: ignore[attr-defined]
        with _Card():
            yield
