"""Parts of a model that run compiled: outermost modules on one side of every place that is looked at.

Cuts and stage statistics are read by hooks and exchanged `forward`s between modules; inside a compiled graph
they would change it. So a region holds none of them, and a frozen region lies in one stage alone: features at
one cut are then made by the same kernels whether a pass ends there or goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from frostline.models.backbone import Backbone, Cut
from frostline.models.stage_statistics import stage_taps
from frostline.system import compiling

Span = tuple[int, int]  # first and last stage of a module


def frozen_regions(backbone: Backbone, model: nn.Module) -> list[str]:
    """Return the modules that run compiled where layers are frozen, by dotted name: each in one stage.

    Parameters
    ----------
    backbone : Backbone
    model : nn.Module
        The backbone's model, or an adapted copy.

    Returns
    -------
    list of str
    """
    places = {place for cut in backbone.cuts for place in _places(cut)}
    places |= {tap.module for tap in stage_taps(backbone)}
    return _outermost(backbone, model, places, lambda span: span[0] == span[1])


def learning_regions(backbone: Backbone, model: nn.Module, cut: Cut, *, frozen: bool = False) -> list[str]:
    """Return the modules that run compiled where layers above `cut` learn, by dotted name.

    Parameters
    ----------
    backbone : Backbone
    model : nn.Module
        An adapted copy.
    cut : Cut
        At cut 0 the whole model is one, unless something listens inside.
    frozen : bool
        Those below the cut, too: for a loop that runs them at each step.

    Returns
    -------
    list of str
    """
    places = set(_places(cut))
    if cut.recipe is not None:
        places |= {name for name, _ in cut.recipe.stubs}

    def on_a_side(span: Span) -> bool:
        return span[0] >= cut.index or (frozen and span[1] < cut.index)

    return _outermost(backbone, model, places, on_a_side)


def _places(cut: Cut) -> Sequence[str]:
    return () if cut.recipe is None else cut.recipe.places


def _outermost(
    backbone: Backbone, model: nn.Module, places: set[str], fits: Callable[[Span], bool]
) -> list[str]:
    """Return the outermost modules whose span fits, with weights and a `forward`, nothing watched inside."""
    spans, seen, regions = backbone.module_spans(model), set[int](), list[str]()

    def watched(name: str, module: nn.Module) -> bool:
        start = f"{name}." if name else ""
        return any(place.startswith(start) and place != name for place in places) or any(
            inner is not module and (inner._forward_hooks or inner._forward_pre_hooks)
            for inner in module.modules()
        )

    def visit(name: str, module: nn.Module) -> None:
        if id(module) in seen:
            return
        seen.add(id(module))
        runs = type(module).forward is not nn.Module.forward  # a list of modules is never called itself
        learned = next(module.parameters(), None) is not None
        if runs and learned and fits(spans[name]) and not watched(name, module):
            regions.append(name)
            return
        for child, inner in module.named_children():
            visit(f"{name}.{child}" if name else child, inner)

    visit("", model)
    return regions


class CompiledRegions:
    """Some modules of a model, whose `forward` is compiled inside a block; outside the model is as it was.

    Parameters
    ----------
    model : nn.Module
    names : sequence of str
        The modules, by dotted name; none contains another.
    what : str
        What they are, for a message: "the layers that learn".
    deterministic : bool
        As in `compiling.compiled`.
    """

    def __init__(
        self, model: nn.Module, names: Sequence[str], what: str, *, deterministic: bool = False
    ) -> None:
        self._what = what
        self._compiled = [
            (module, compiling.compiled(module.forward, deterministic=deterministic))
            for module in map(model.get_submodule, names)
        ]

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Run the regions compiled inside the block. Raises `TrainingError` where one can't be compiled."""
        if not self._compiled:
            yield
            return
        before: list[tuple[nn.Module, Any]] = []
        try:
            for module, forward in self._compiled:
                before.append((module, module.__dict__.get("forward")))
                module.__dict__["forward"] = forward
            with compiling.compiling(self._what):
                yield
        finally:
            for module, forward in before:
                if forward is None:
                    module.__dict__.pop("forward", None)
                else:
                    module.__dict__["forward"] = forward
