"""From a model and its preprocessing to a `Backbone`: trace it, name its stages, prove its cuts."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from frostline.errors import ModelError, NoTime
from frostline.models.backbone import Backbone, Cut, Stage, StageLayout, weights_digest
from frostline.models.classifier import Head, find_head
from frostline.models.cutting.cuts import Proofs, Runs, find_recipes, run_twice
from frostline.models.cutting.cuts_cache import (
    Findings,
    forget_proofs,
    recall,
    recall_proofs,
    remember,
    remember_proofs,
    signature,
)
from frostline.models.cutting.nested_values import tensors
from frostline.models.cutting.replay import Recipe
from frostline.models.cutting.stage_discovery import StageSpan, sections
from frostline.models.cutting.tracing import Call, Trace
from frostline.models.preprocessing import Preprocessing
from frostline.system import deadline, numerics

SEARCH = "loading and finding the exact cuts of a network"
# Through the model or a part of it: two traces, the head, two passes that keep what crosses the cuts, and two
# proofs for each of some six cuts (more stages take more).
PASSES = 5 + 2 * 6


def assemble(
    model: nn.Module,
    preprocessing: Preprocessing,
    *,
    name: str,
    source: dict[str, Any],
    fresh: Callable[[], nn.Module] | None = None,
) -> Backbone:
    """Return the backbone of a classification model, which is put in eval mode and otherwise not changed.

    Parameters
    ----------
    model : nn.Module
    preprocessing : Preprocessing
    name : str
    source : dict
        How to build it again.
    fresh : callable or None
        Builds it with random weights.

    Returns
    -------
    Backbone

    Raises
    ------
    ModelError
        The model has no classifier, or does not take images of the preprocessing's size.
    """
    model.eval()
    findings = _findings(model, preprocessing.size, source)
    return Backbone(
        name=name,
        model=model,
        preprocessing=preprocessing,
        stages=findings.stages,
        cuts=findings.cuts,
        head=findings.head.name,
        feature_width=findings.head.width,
        digest=weights_digest(model),
        notes=findings.notes,
        source=source,
        layout=findings.layout,
        classifier=findings.head,
        fresh=fresh,
    )


def _findings(model: nn.Module, size: int, source: dict[str, Any]) -> Findings:
    """Return cached findings for a named architecture; a user's own module is searched each time.

    Its code may change between two runs while names and shapes stay, and a cut must never be wrong.
    """
    if source.get("kind") not in ("timm", "torchvision"):
        return find(model, size)
    key = signature(model, size, str(source.get("architecture")))
    findings = recall(key)
    if findings is None:
        proofs = recall_proofs(key)
        try:
            findings = find(model, size, proofs)
        except BaseException:  # a time limit, Ctrl-C
            remember_proofs(key, proofs)
            raise
        remember(key, findings)
        forget_proofs(key)
    return findings


def find(model: nn.Module, size: int, proofs: Proofs | None = None) -> Findings:
    """Find head, stages and cuts of a model in eval mode, for images of `size` pixels a side.

    `proofs` are those of an earlier search for this architecture, and are added to. Raises `NoTime` where a
    time limit ends in the midst of it.
    """
    threads = numerics.thread_count()
    with _without_gradients(model), numerics.threads(threads), deadline.work(SEARCH, units=PASSES):
        runs = _runs(model, size)
        deadline.unit()
        head = find_head(model, runs.images[0], runs.traces[0])
        parts = sections(model, runs.traces[0], head)
        recipes = find_recipes(model, runs, parts, head, proofs)
    layout = _layout(model, runs.traces[0], parts, head)
    cuts = tuple(
        _cut(index, section, recipes) for index, section in enumerate(parts) if _offered(index, recipes)
    )
    stages = _stages(model, runs, parts, layout)
    return Findings(head, stages, cuts, layout, tuple(_notes(parts, recipes, head)))


@contextmanager
def _without_gradients(model: nn.Module) -> Iterator[None]:
    """Let no parameter want a gradient for a while: torch's counter of operations stumbles over some."""
    wanting = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in wanting:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanting:
            parameter.requires_grad_(True)


def _runs(model: nn.Module, size: int) -> Runs:
    try:
        return run_twice(model, size)
    except NoTime:
        raise
    except Exception as error:
        raise ModelError(
            f"The model does not take images of {size} × {size} pixels with three channels: "
            f"{type(error).__name__}: {error}"
        ) from error


def _offered(index: int, recipes: dict[int, Recipe]) -> bool:
    return index == 0 or index in recipes


def _cut(index: int, section: StageSpan, recipes: dict[int, Recipe]) -> Cut:
    recipe = recipes.get(index)
    if recipe is None:
        return Cut(0, section.name, None, "input", True)
    return Cut(index, section.name, recipe.module, recipe.at, True, recipe)


def _notes(parts: Sequence[StageSpan], recipes: dict[int, Recipe], head: Head) -> list[str]:
    notes = [
        f"No exact cut between {before.name} and {section.name}."
        for index, (before, section) in enumerate(pairwise(parts), start=1)
        if index not in recipes
    ]
    if head.kind != "flat":
        notes.append(f"The classifier {head.name} is replaced by pooling and a linear layer.")
    if head.twin is not None:
        notes.append(f"The classifiers {head.name} and {head.twin} are averaged and share one new layer.")
    return notes


def _layout(model: nn.Module, trace: Trace, parts: Sequence[StageSpan], head: Head) -> StageLayout:
    """Return which stage each tensor and module belongs to, from first uses and calls."""
    starts = [0, *(section.start for section in parts[1:])]
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    used_in = {
        name: bisect_right(starts, trace.first_use[id(value)]) - 1
        for name, value in tensors
        if id(value) in trace.first_use
    }
    last = len(parts) - 1
    stages = {name: last if head.owns(name) else used_in.get(name, -1) for name, _ in tensors}
    for name in [name for name, stage in stages.items() if stage < 0]:
        stages[name] = _like_neighbours(name, used_in)
    return StageLayout(stages, _spans(model, trace, starts, stages, head))


def _like_neighbours(name: str, used_in: dict[str, int]) -> int:
    """Return the earliest stage among the tensors nearest in the tree: for tensors no run has used."""
    while "." in name:
        name = name.rpartition(".")[0]
        near = [stage for other, stage in used_in.items() if other.startswith(name + ".")]
        if near:
            return min(near)
    return 0


def _spans(
    model: nn.Module, trace: Trace, starts: list[int], stages: dict[str, int], head: Head
) -> dict[str, tuple[int, int]]:
    """Return the first and last stage each module works in; uncalled ones go by what they contain."""
    called: dict[str, list[Call]] = {}
    for call in trace.calls:
        called.setdefault(call.module, []).append(call)
    first_names = {id(module): name for name, module in model.named_modules()}
    spans: dict[str, tuple[int, int]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        calls = called.get(first_names[id(module)], [])
        inside = [stage for tensor, stage in stages.items() if not name or tensor.startswith(name + ".")]
        inside += [bisect_right(starts, call.start) - 1 for call in calls]
        inside += [bisect_right(starts, call.end) - 1 for call in calls]
        within = [c for other_name, cs in called.items() if other_name.startswith(name + ".") for c in cs]
        inside += [bisect_right(starts, call.end) - 1 for call in within]
        parent = spans.get(name.rpartition(".")[0], (0, 0))
        spans[name] = (min(inside), max(inside)) if inside else parent
    return spans


def _stages(
    model: nn.Module, runs: Runs, parts: Sequence[StageSpan], layout: StageLayout
) -> tuple[Stage, ...]:
    """Measure each stage: parameters, share of operations, and the shape it hands on."""
    small, large = runs.traces
    owner: dict[int, int] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owner[id(parameter)] = min(owner.get(id(parameter), len(parts)), layout.tensors[name])
    sizes = {id(parameter): parameter.numel() for parameter in model.parameters()}
    flops = [_flops_before(large, section) for section in parts] + [large.flops]
    stages = []
    for index, section in enumerate(parts):
        parameters = sum(sizes[key] for key, stage in owner.items() if stage == index)
        share = (flops[index + 1] - flops[index]) / max(large.flops, 1)
        stages.append(
            Stage(section.name, section.modules, _handed_on(small, parts, index), parameters, share)
        )
    return tuple(stages)


def _flops_before(trace: Trace, section: StageSpan) -> int:
    return next((call.flops_before for call in trace.calls if call.module == section.first), 0)


def _handed_on(trace: Trace, parts: Sequence[StageSpan], index: int) -> tuple[int, ...]:
    """Return the shape per image of a stage's output: that of its last module with an output."""
    if index == len(parts) - 1:
        return tuple(trace.output.shape[1:]) if isinstance(trace.output, torch.Tensor) else ()
    calls = [call for call in trace.calls if call.module in parts[index].modules]
    shapes = [tuple(value.shape[1:]) for call in calls for value in tensors(call.output)]
    spatial = [shape for shape in shapes if len(shape) > 1]
    return (spatial or shapes or [()])[-1]
