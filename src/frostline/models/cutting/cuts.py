"""Find where a model can be cut exactly, and prove it by experiment.

For each stage the boundary tried first is the input of its first module, then the output of the one before.
A cut is offered only if, on generated images, the second half fed with the first half's activation
returns what the whole model returns, while everything that comes from before the cut is NaN; and once more
with another filling and with rows taken from two different batches, since a cache mixes rows. What a module
before the cut returns without regard to the images (a table of positions) is not stubbed but computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from frostline.errors import ModelError, NoTime
from frostline.models.classifier import Head, fresh_linear, put_head, put_module
from frostline.models.cutting.nested_values import (
    Opaque,
    Pattern,
    batch_dimension,
    pattern_between,
    shape_between,
    tensors,
)
from frostline.models.cutting.replay import Recipe, first_half, first_halves, second_half
from frostline.models.cutting.stage_discovery import StageSpan
from frostline.models.cutting.tracing import Call, Trace, depends_on_images, traced
from frostline.system import deadline

BATCHES = (2, 3)
# Bitwise equality is what nearly always holds. Kernels that pick another blocking for another batch size or
# memory layout round differently; then the outputs may differ by this share of the largest output.
TOLERANCE = 1e-4
OTHER_FILL = 7.25  # any number no network treats specially; the first filling is NaN


@dataclass(frozen=True)
class Runs:
    """One model seen on the same kind of images at two batch sizes."""

    images: tuple[Tensor, Tensor]
    traces: tuple[Trace, Trace]


def example_images(images: int, size: int) -> Tensor:
    """Return smooth generated images with noise, all different, roughly normalised: (n, 3, size, size)."""
    generator = torch.Generator().manual_seed(20_240_607)
    coarse = torch.randn(images, 3, 5, 5, generator=generator)
    smooth = nn.functional.interpolate(coarse, (size, size), mode="bilinear", align_corners=False)
    return smooth + 0.3 * torch.randn(images, 3, size, size, generator=generator)


def run_twice(model: nn.Module, size: int) -> Runs:
    """Trace the model on two and on three images; the two are the last of the three."""
    like = next(model.parameters(), torch.zeros(()))
    large = example_images(BATCHES[1], size).to(like.device, like.dtype)
    small = large[1:]
    deadline.unit()
    first = traced(model, small)
    deadline.unit()
    return Runs((small, large), (first, traced(model, large, count=True)))


Proofs = dict[int, Recipe | None]  # by stage index; None where the model can't be cut


def find_recipes(
    model: nn.Module, runs: Runs, sections: Sequence[StageSpan], head: Head, proofs: Proofs | None = None
) -> dict[int, Recipe]:
    """Return a proved recipe for each stage index at which the model can be cut exactly.

    At the last index, the head, z is always the features (n, width); where the original head takes something
    else (it pools, or has a twin), that cut holds for models with a replaced head. Stages that are among
    `proofs` are not tried again; those that are tried are added, so that an interrupted search can go on.
    """
    proofs = {} if proofs is None else proofs
    last = len(sections) - 1
    candidates = {
        index: list(_candidates(runs, section, head if index == last and not head.plain else None))
        for index, section in enumerate(sections[1:], start=1)
        if index not in proofs
    }
    verifier = _CutVerifier(model, runs, head, [recipes[0] for recipes in candidates.values() if recipes])
    for index, recipes in candidates.items():
        proofs[index] = next(filter(None, map(verifier.proved, recipes)), None)
    return {index: recipe for index, recipe in sorted(proofs.items()) if recipe is not None}


def _candidates(runs: Runs, section: StageSpan, pooling: Head | None) -> Iterator[Recipe]:
    small, large = runs.traces
    if len(small.calls) != len(large.calls):
        return
    pairs = list(zip(small.calls, large.calls, strict=True))
    own = next((pair for pair in pairs if pair[0].module == section.first), None)
    before = max((p for p in pairs if p[0].end < section.start), key=lambda p: p[0].end, default=None)
    for pair, at in ((own, "input"), (before, "output")):
        if pair is not None:
            try:
                yield _recipe(runs, pairs, pair, at, pooling)
            except Opaque:
                continue


def _recipe(
    runs: Runs, pairs: list[tuple[Call, Call]], pair: tuple[Call, Call], at: str, pooling: Head | None
) -> Recipe:
    """Describe a boundary. Raises `Opaque` where its value cannot be stored a row an image."""
    a, b = (call.inputs if at == "input" else call.output for call in pair)
    leaves, shapes, kinds = [], [], set()
    for position, (first, second) in enumerate(zip(tensors(a), tensors(b), strict=True)):
        if depends_on_images(first, second):
            shape = shape_between(first.shape, second.shape, BATCHES)
            batch_dimension(shape)
            leaves.append(position)
            shapes.append(shape)
            kinds.add(first.dtype)
        elif at == "output":
            raise Opaque("the boundary's output holds a constant beside the activation")
    if not leaves or len(kinds) > 1 or not kinds.pop().is_floating_point:
        raise Opaque("no activation, or activations of several kinds, at the boundary")
    return Recipe(
        module=pair[0].module,
        at=at,
        leaves=tuple(leaves),
        shapes=tuple(shapes),
        stubs=_stubs(pairs, pair[0]),
        image=(-1, *runs.images[0].shape[1:]),
        answer=pattern_between(a, b, BATCHES) if at == "output" else None,
        head=pooling,
    )


def _stubs(pairs: list[tuple[Call, Call]], boundary: Call) -> tuple[tuple[str, tuple[Pattern, ...]], ...]:
    """Return the outermost modules that are done before the boundary, with what each call of them returns."""
    patterns_of: dict[str, list[Pattern] | None] = {}
    for a, b in pairs:
        recorded = patterns_of.setdefault(a.module, [])
        pattern = _output_pattern(a, b) if a.end < boundary.start else None
        if recorded is not None and pattern is not None:
            recorded.append(pattern)
        else:
            patterns_of[a.module] = None
    stubs: dict[str, list[Pattern]] = {}
    covered = 0
    for a, b in pairs:
        if a.start > covered and a.start < boundary.start and patterns_of[a.module] is not None:
            pattern = _output_pattern(a, b)
            if pattern is not None:
                stubs.setdefault(a.module, []).append(pattern)
                covered = a.end
    return tuple((name, tuple(patterns)) for name, patterns in stubs.items())


def _output_pattern(small: Call, large: Call) -> Pattern | None:
    """Return a description of a call's output, or None for a constant or what cannot be described."""
    pairs = zip(tensors(small.output), tensors(large.output), strict=False)
    if not any(depends_on_images(a, b) for a, b in pairs):
        return None
    try:
        return pattern_between(small.output, large.output, BATCHES)
    except Opaque:
        return None


class _CutVerifier:
    """Compares the two halves with the whole model, whose output it keeps.

    Two passes through the whole model give z at all boundaries that are tried first.
    """

    def __init__(self, model: nn.Module, runs: Runs, head: Head, recipes: Sequence[Recipe]) -> None:
        self.model, self.runs, self.head = model, runs, head
        recipes = [recipe for recipe in recipes if recipe.head is None]
        self._halves: dict[int, list[Tensor | None]] = {}  # by the recipe's identity
        by_batch: list[list[Tensor | None]] = []

        def run(images: Tensor) -> Any:
            output, halves = first_halves(model, recipes, images)
            by_batch.append(halves)
            return output

        with torch.no_grad():
            small, large = runs.images
            deadline.unit()
            self.expected = _observed(model, head, lambda: run(small))
            if recipes:
                deadline.unit()
                run(large)
        for recipe, *halves in zip(recipes, *by_batch, strict=True):
            self._halves[id(recipe)] = halves
        self._recipes = recipes  # alive, so that no other gets the identity of one

    def proved(self, recipe: Recipe) -> Recipe | None:
        """Return the recipe, completed by what the trial showed, if its two halves equal the whole."""
        for solid in (False, True):
            try:
                with torch.no_grad(), _trial_head(self.model, recipe.head):
                    proved_recipe = self._check(recipe, solid)
            except NoTime:
                raise
            except Exception:  # whatever a model raises on NaN or expanded input: this cut is not offered
                proved_recipe = None
            if proved_recipe is not None:
                return proved_recipe
        return None

    def _check(self, recipe: Recipe, solid: bool) -> Recipe | None:
        small, large = self.runs.images
        expected = self.expected if recipe.head is None else [self.model(small)]
        z, z_large = self._first_halves(recipe)
        if len(z) != len(small) or len(z_large) != len(large):
            return None
        recipe = replace(recipe, solid=solid)
        before = z.clone()
        if not self._equal(recipe, z, float("nan"), expected):
            return None
        copies = not torch.equal(z, before)
        mixed = torch.cat([z_large[1:2], before[1:2]])
        recipe = replace(recipe, copies=copies)
        return recipe if self._equal(recipe, mixed, OTHER_FILL, expected) else None

    def _first_halves(self, recipe: Recipe) -> tuple[Tensor, Tensor]:
        """Return z of both batches; the first as a copy of its own, which the second half may change."""
        halves = self._halves.get(id(recipe))
        if halves is None:
            small, large = (first_half(self.model, recipe, images) for images in self.runs.images)
            return small, large
        small_z, large_z = halves
        if small_z is None or large_z is None:
            raise ModelError(f"{recipe.module} was not reached.")
        return small_z.clone(), large_z

    def _equal(self, recipe: Recipe, z: Tensor, fill: float, expected: list[Tensor]) -> bool:
        deadline.unit()
        with second_half(self.model, recipe, fill) as run:
            if recipe.module in self.head.names or recipe.head is not None:
                actual = [run(z)]
            else:
                actual = _observed(self.model, self.head, lambda: run(z))
        return all(agree(a, b) for a, b in zip(actual, expected, strict=False))


def agree(actual: Tensor, expected: Tensor) -> bool:
    """Return whether two outputs are the same: bit for bit, or within `TOLERANCE` of the largest number."""
    if torch.equal(actual, expected):
        return True
    if actual.shape != expected.shape or not bool(expected.isfinite().all()):
        return False
    scale = float(expected.abs().max())
    return bool((actual - expected).abs().max() <= TOLERANCE * scale)  # NaN compares false


def _observed(model: nn.Module, head: Head, run: Any) -> list[Tensor]:
    """Return a run's logits and what its head was given: a new head may return zeros."""
    head_inputs: list[Tensor] = []
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args: head_inputs.append(args[0].clone())
        )
        for name in head.names
    ]
    try:
        return [run(), *head_inputs]
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _trial_head(model: nn.Module, head: Head | None) -> Iterator[None]:
    """Put a linear head in the place of one that pools, for as long as the block runs."""
    if head is None:
        yield
        return
    originals = [(name, model.get_submodule(name)) for name in head.names]
    like = next(model.parameters())
    put_head(model, head, fresh_linear(head.width, 7, seed=0).to(like.device, like.dtype))
    try:
        yield
    finally:
        for name, module in originals:
            put_module(model, name, module)
