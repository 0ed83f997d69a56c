"""Trace one run of a model: calls of modules in order, and the first use of each parameter.

Time is counted in ticks: entering and leaving a module are one tick each. Nothing here knows architectures.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from frostline.models.cutting.nested_values import tensors, with_tensors


@dataclass
class Call:
    """One call of one module. Tensors inside `inputs` and `output` are kept as `Seen`."""

    module: str
    start: int
    end: int = -1
    inputs: Any = None  # (args, kwargs)
    output: Any = None
    flops_before: int = 0
    returned_final: bool = False


@dataclass
class Trace:
    """The record of one run. `first_use` maps parameter and buffer identities to ticks."""

    calls: list[Call] = field(default_factory=list)
    first_use: dict[int, int] = field(default_factory=dict)
    output: Tensor | None = None
    ticks: int = 0
    flops: int = 0

    def of(self, module: str) -> list[Call]:
        """Return the calls of one module, in order."""
        return [call for call in self.calls if call.module == module]


SAMPLE = 512  # numbers kept of each tensor: enough to see that two inputs gave two outputs


class _Uses(TorchFunctionMode):
    """Notes the tick at which each watched tensor is first handed to a torch function."""

    def __init__(self, trace: Trace, watched: set[int]) -> None:
        super().__init__()
        self.trace, self.watched = trace, watched

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        for value in tensors([*args, kwargs or {}]):
            if id(value) in self.watched:
                self.trace.first_use.setdefault(id(value), self.trace.ticks)
        return func(*args, **(kwargs or {}))


def traced(model: nn.Module, images: Tensor, *, count: bool = False) -> Trace:
    """Run `model(images)`, images (n, 3, s, s), in the mode it is in, and return what happened.

    With `count` floating-point operations are counted too (slower), else parameters' first uses.
    """
    trace = Trace()
    watched = {id(value) for value in (*model.parameters(), *model.buffers())}
    with torch.no_grad(), ExitStack() as stack:
        counter = FlopCounterMode(display=False) if count else None
        stack.enter_context(counter if counter else _Uses(trace, watched))
        stack.enter_context(_hooks(model, trace, counter))
        result = model(images)
    trace.flops = counter.get_total_flops() if counter else 0
    trace.output = result if isinstance(result, Tensor) else None
    return trace


@contextmanager
def _hooks(model: nn.Module, trace: Trace, counter: FlopCounterMode | None) -> Iterator[None]:
    opened: list[Call] = []
    results: list[tuple[Call, weakref.ref[Tensor]]] = []

    def enter(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
            trace.ticks += 1
            before = counter.get_total_flops() if counter else 0
            call = Call(name, trace.ticks, inputs=_remembered((args, kwargs)), flops_before=before)
            trace.calls.append(call)
            opened.append(call)

        return hook

    def leave(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        trace.ticks += 1
        call = opened.pop()
        call.end, call.output = trace.ticks, _remembered(output)
        if isinstance(output, Tensor):
            results.append((call, weakref.ref(output)))
        if call.module == "":
            for earlier, result in results:
                earlier.returned_final = result() is output

    with ExitStack() as stack:
        for name, module in model.named_modules():
            # Before the module's own hooks: what those of `spectral_norm` and `prune` use is the module's.
            before = module.register_forward_pre_hook(enter(name), prepend=True, with_kwargs=True)
            stack.callback(before.remove)
            stack.callback(module.register_forward_hook(leave, with_kwargs=True).remove)
        yield


def _remembered(value: Any) -> Any:
    return with_tensors(value, _stand_in)


def _stand_in(value: Tensor) -> Tensor:
    """Return a stand-in of the same shape and dtype that holds a small sample in `.sample`."""
    stand_in = torch.empty(value.shape, dtype=value.dtype, device="meta")
    flat = value.detach().reshape(-1)
    stand_in.sample = flat[:: max(1, flat.numel() // SAMPLE)].clone()  # type: ignore[attr-defined]
    return stand_in


def depends_on_images(first: Tensor, second: Tensor) -> bool:
    """Return whether what two runs on different images left at one place differs."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return True
    a, b = first.sample, second.sample  # type: ignore[attr-defined]
    return not torch.equal(a, b)


def fed(
    model: nn.Module,
    images: Tensor,
    makes: Callable[[nn.Module], bool],
    takes: Callable[[nn.Module], bool],
) -> list[tuple[str, str]]:
    """Return pairs of modules where the output of one goes straight into the other, in order.

    Parameters
    ----------
    model : nn.Module
    images : Tensor, shape (n, 3, s, s)
    makes, takes : callable
        Select the modules of either side; only modules that run once count.

    Returns
    -------
    list of (str, str)
        Dotted names.
    """
    names = {module: name for name, module in model.named_modules()}
    made_by: dict[tuple[int, int], nn.Module] = {}  # an answer that was changed in place is another one
    alive: list[Tensor] = []  # so that no other tensor gets the same identity
    times: Counter[nn.Module] = Counter()
    pairs: list[tuple[nn.Module, nn.Module]] = []

    def after(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        times[module] += 1
        if isinstance(output, Tensor):
            made_by[id(output), output._version] = module
            alive.append(output)

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        times[module] += 1
        if inputs and isinstance(inputs[0], Tensor):
            maker = made_by.get((id(inputs[0]), inputs[0]._version))
            if maker is not None:
                pairs.append((maker, module))

    hooks = [m.register_forward_hook(after) for m in names if makes(m)]
    hooks += [m.register_forward_pre_hook(before) for m in names if takes(m)]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [(names[a], names[b]) for a, b in pairs if times[a] == times[b] == 1]
