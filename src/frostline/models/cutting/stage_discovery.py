"""The stages of a model, from one traced run. No architecture is known by name here.

*Units* are the modules that a model calls one after the other: the root's children, or those of containers
inside. A *block* is a unit with at least two weight matrices or kernels; anything smaller (a convolution with
its norm, a pooling) leans on a block. Before the first block lies the stem; what follows the last block goes
with it. Containers are opened until there are four blocks; beyond twelve, neighbours of one resolution and
width are joined, or, where nothing changes (plain transformers), equal numbers of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from frostline.models.classifier import Head
from frostline.models.cutting.nested_values import tensors
from frostline.models.cutting.tracing import Call, Trace

FEW, MANY = 4, 12  # stages between stem and head that stay readable in one table


@dataclass(frozen=True)
class Unit:
    """A called module: its name, when it was first entered, its number of kernels, its output's shape."""

    name: str
    start: int
    weights: int
    shape: tuple[int, ...]  # per image

    @property
    def block(self) -> bool:
        return self.weights >= 2


@dataclass(frozen=True)
class StageSpan:
    """A stage before it is measured: its name, its first module, and when that starts."""

    name: str
    first: str
    start: int
    modules: tuple[str, ...]


class _Tree:
    """The called modules of a trace as a tree, to be opened from the root."""

    def __init__(self, model: nn.Module, trace: Trace, head: Head) -> None:
        self.model, self.head = model, head
        self.calls: dict[str, Call] = {}
        for call in trace.calls:
            self.calls.setdefault(call.module, call)
        self.end = self.calls[head.name].start

    def children(self, name: str) -> list[Unit]:
        """Return the nearest called modules inside `name`, before the head, in the order of their start."""
        units: list[Unit] = []
        for child, _ in self.model.get_submodule(name).named_children():
            path = f"{name}.{child}" if name else child
            if path not in self.calls:
                units.extend(self.children(path))
            elif self.calls[path].start < self.end:
                holds_head = any(place.startswith(path + ".") for place in self.head.names)
                units.extend(self.children(path) if holds_head else [self.unit(path)])
        return sorted(units, key=lambda unit: unit.start)

    def unit(self, name: str) -> Unit:
        module, call = self.model.get_submodule(name), self.calls[name]
        weights = sum(parameter.ndim >= 2 for parameter in module.parameters())
        return Unit(name, call.start, weights, _shape(call))

    def opened(self, unit: Unit, alone: bool) -> list[Unit] | None:
        """Return the units inside, or None if opening would cut through what belongs together."""
        inside = self.children(unit.name)
        blocks = [child for child in inside if child.block]
        if len(blocks) == 1:
            within = self.opened(blocks[0], alone)
            if within is None:
                return None
            place = inside.index(blocks[0])
            return [*inside[:place], *within, *inside[place + 1 :]]
        if alone or (blocks and all(self._listed(block.name) for block in blocks)):
            return inside or None
        if not any(self._chain(block.name) for block in blocks):
            return None
        return [
            unit
            for child in inside
            for unit in (self.children(child.name) if self._chain(child.name) else [child])
        ]

    def _chain(self, name: str) -> bool:
        """Return whether a module is a list of blocks, as the one inside a stage beside its downsampling."""
        listed = isinstance(self.model.get_submodule(name), (nn.Sequential, nn.ModuleList))
        return listed and sum(unit.block for unit in self.children(name)) >= 2

    def _listed(self, name: str) -> bool:
        parent = self.model.get_submodule(name.rpartition(".")[0])
        return isinstance(parent, (nn.Sequential, nn.ModuleList, nn.ModuleDict))


def _shape(call: Call) -> tuple[int, ...]:
    """Return the shape per image of the first tensor that a call returned."""
    first = next(tensors(call.output), None)
    return tuple(first.shape[1:]) if isinstance(first, Tensor) else ()


def sections(model: nn.Module, trace: Trace, head: Head) -> list[StageSpan]:
    """Return the stages of a traced model in order: stem, blocks, head."""
    tree = _Tree(model, trace, head)
    units = _enough_blocks(tree)
    starts = _block_starts(units) if sum(unit.block for unit in units) >= 2 else _layer_starts(units)
    edges = [0, *starts, len(units)]
    groups = [units[a:b] for a, b in pairwise(edges) if b > a]
    body = [_section(group, position == 0) for position, group in enumerate(groups)]
    return [*body, StageSpan("head", head.name, tree.end, head.names)]


def _enough_blocks(tree: _Tree) -> list[Unit]:
    """Open containers, the one with most kernels first, until there are `FEW` blocks after the first unit."""
    units = tree.children("")
    closed: set[str] = set()
    while True:
        first = next((unit for unit in units if unit.weights), None)
        blocks = [unit for unit in units if unit.block and unit is not first]
        alone = sum(unit.block for unit in units) == 1
        candidates = [unit for unit in (units if alone else blocks) if unit.block and unit.name not in closed]
        if len(blocks) >= FEW or not candidates:
            return units
        largest = max(candidates, key=lambda unit: unit.weights)
        inside = tree.opened(largest, alone)
        if inside is None:
            closed.add(largest.name)
        else:
            place = units.index(largest)
            units = [*units[:place], *inside, *units[place + 1 :]]


def _block_starts(units: Sequence[Unit]) -> list[int]:
    """Return where stages after the stem start, given units of which several are blocks."""
    first = next(index for index, unit in enumerate(units) if unit.weights)
    starts = [index for index, unit in enumerate(units) if unit.block and index > first]
    return _thinned(units, starts)


def _layer_starts(units: Sequence[Unit]) -> list[int]:
    """Return where stages start in a plain chain of layers: where resolution changes, or at each layer."""
    layers = [index for index, unit in enumerate(units) if unit.weights][1:]
    changes = _changes(units, layers)
    return changes if FEW <= len(changes) <= MANY else _thinned(units, layers)


def _thinned(units: Sequence[Unit], starts: list[int]) -> list[int]:
    if len(starts) <= MANY:
        return starts
    changes = _changes(units, starts)
    if FEW <= len(changes) <= MANY:
        return changes
    share = -(-len(starts) // MANY)  # ceiling: at most MANY stages, of one size but the last
    return starts[::share]


def _changes(units: Sequence[Unit], starts: list[int]) -> list[int]:
    """Keep the starts before which resolution or width changed."""
    return starts[:1] + [b for a, b in pairwise(starts) if units[a].shape != units[b].shape]


def _section(group: Sequence[Unit], stem: bool) -> StageSpan:
    names = tuple(unit.name for unit in group)
    blocks = [unit.name for unit in group if unit.block] or [unit.name for unit in group if unit.weights]
    name = "stem" if stem else _spanning(blocks or list(names))
    return StageSpan(name, names[0], group[0].start, names)


def _spanning(names: Sequence[str]) -> str:
    """Return `blocks.2` for one name and `blocks.2-3` for neighbours in one container."""
    first, last = names[0], names[-1]
    parent = first.rpartition(".")[0]
    if first == last:
        return first
    return f"{first}-{last.removeprefix(parent + '.') if parent else last}"
