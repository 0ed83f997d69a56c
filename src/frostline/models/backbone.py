"""A pretrained model as an ordered list of stages, with the cuts that were proved exact.

`Backbone` leaves the user's own module untouched; `adapt` returns a copy with a new head. Which stage a
parameter belongs to was seen, not guessed: it is the stage in which a run first hands it to a function.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from frostline.data.seen_images import Fingerprints
from frostline.errors import ModelError, demand_kind
from frostline.models.classifier import Head, fresh_linear, put_head
from frostline.models.cutting.replay import Recipe
from frostline.models.heads import MultiStageHead, multi_stage_head_in
from frostline.models.preprocessing import Preprocessing
from frostline.models.stage_statistics import stage_taps
from frostline.system import devices


@dataclass(frozen=True)
class Stage:
    """One stage of a backbone.

    Attributes
    ----------
    name : str
    modules : tuple of str
        Outermost modules, by dotted name.
    shape : tuple of int
        Output shape per image.
    parameters : int
    compute_share : float
        Share of the floating-point operations of one image, 0–1.
    """

    name: str
    modules: tuple[str, ...]
    shape: tuple[int, ...]
    parameters: int
    compute_share: float  # 0–1, of the floating-point operations of one image


@dataclass(frozen=True)
class Cut:
    """A place to cut a backbone: `stages[:index]` are frozen, 0 trains everything, the last index the head.

    Attributes
    ----------
    index : int
    name : str
        Name of the first stage that trains.
    boundary : str or None
        Module at which the frozen part ends.
    at : str
        "input" or "output" of `boundary`.
    verified : bool
        Whether both halves were shown to equal the whole.
    recipe : Recipe or None
        How both halves are run.
    """

    index: int
    name: str
    boundary: str | None
    at: str
    verified: bool
    recipe: Recipe | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class StageLayout:
    """The stage of every parameter and buffer, and the first and last stage of every module, by name."""

    tensors: Mapping[str, int]
    modules: Mapping[str, tuple[int, int]]


@dataclass(eq=False)
class Backbone:
    """A pretrained classifier in eval mode, with its preprocessing, stages and cuts.

    Attributes
    ----------
    name : str
    model : nn.Module
        The original model, never modified.
    preprocessing : Preprocessing
    stages : tuple of Stage
    cuts : tuple of Cut
        Offered cuts, by index.
    head : str
        Dotted name of the classifier.
    feature_width : int
        Number of features that the classifier takes.
    digest : str
        SHA-256 of the weights.
    notes : tuple of str
    source : dict
        How to build it again.
    layout : StageLayout
        The stages of parameters, buffers and modules, by name.
    classifier : Head
        Where the classifier is, and its names.
    fresh : callable or None
        Builds the same network with random weights.
    fingerprints : Fingerprints or None
        Of the images it has learned from.
    learned_as : Preprocessing or None
        How it saw those images.
    """

    name: str
    model: nn.Module
    preprocessing: Preprocessing
    stages: tuple[Stage, ...]
    cuts: tuple[Cut, ...]
    head: str
    feature_width: int
    digest: str
    notes: tuple[str, ...]
    source: dict[str, Any]
    layout: StageLayout = field(repr=False)
    classifier: Head = field(repr=False)
    fresh: Callable[[], nn.Module] | None = field(default=None, repr=False)  # the same, random weights
    fingerprints: Fingerprints | None = field(
        default=None, repr=False
    )  # of the images it learned from before
    learned_as: Preprocessing | None = field(default=None, repr=False)  # how it saw those

    def __repr__(self) -> str:
        """One line; `model` is the whole network."""
        parameters = sum(stage.parameters for stage in self.stages)
        return (
            f"<Backbone {self.name}: {len(self.stages)} stages, {len(self.cuts)} cuts, "
            f"{parameters:,} parameters, {self.preprocessing.size} px>"
        )

    @property
    def has_random_weights(self) -> bool:
        """Whether it has learned nothing yet: random weights that were not trained on any images."""
        return bool(self.source.get("random")) and "classes" not in self.source

    @property
    def has_own_classifier(self) -> bool:
        """Whether its classifier is the one that it was trained with, not a new one in its place."""
        return not self.source.get("new_classifier")

    def as_dict(self) -> dict[str, Any]:
        """Return name, stages, cuts and notes as plain data."""
        return {
            "model": self.name,
            "stages": [
                {
                    "name": stage.name,
                    "shape": list(stage.shape),
                    "parameters": stage.parameters,
                    "compute_share": stage.compute_share,
                }
                for stage in self.stages
            ],
            "cuts": [{"index": c.index, "name": c.name, "verified": c.verified} for c in self.cuts],
            "notes": list(self.notes),
        }

    def resized(self, resize: str | None) -> Backbone:
        """Return the same backbone with another way of making images square.

        Parameters
        ----------
        resize : str or None
            "crop", "squash" or "pad"; None leaves it as it is.

        Raises
        ------
        UsageError
            `resize` is unknown.
        """
        preprocessing = self.preprocessing.with_resize(resize)
        if preprocessing == self.preprocessing:
            return self
        source = {**self.source, "preprocessing": preprocessing.as_dict(), "resize": resize}
        return replace(self, preprocessing=preprocessing, source=source)

    def cut(self, index: int) -> Cut:
        """Return the cut offered at `index`, else the nearest earlier one (which trains more).

        Parameters
        ----------
        index : int
            Number of frozen stages, 0 or more.

        Returns
        -------
        Cut

        Raises
        ------
        ModelError
            `index` is negative.
        """
        offered = [cut for cut in self.cuts if cut.index <= index]
        if not offered:
            raise ModelError(f"The cut index is {index}; expected 0 or more.")
        return offered[-1]

    def adapt(
        self,
        num_classes: int,
        *,
        head: nn.Module | None = None,
        seed: int = 0,
        pretrained: bool = True,
        layers: int | None = None,
    ) -> nn.Module:
        """Return a copy of the model with a new classifier, in eval mode.

        Parameters
        ----------
        num_classes : int
        head : nn.Module or None
            Takes features (n, feature_width); None makes a linear layer with zero bias and small weights.
        seed : int
            Decides every random weight; the global random state is not changed.
        pretrained : bool
            False makes all weights random.
        layers : int or None
            The head reads statistics of so many of the last stages; None reads the features before it alone.

        Returns
        -------
        nn.Module
            Images (n, 3, s, s) to logits (n, num_classes).

        Raises
        ------
        ModelError
            `num_classes` is below 1, or weights cannot be made random.
        """
        if num_classes < 1:
            raise ModelError(f"num_classes is {num_classes}, expected at least 1.")
        model = copy.deepcopy(self.model) if pretrained else self._afresh(seed)
        if previous := multi_stage_head_in(model.get_submodule(self.head)):
            previous.detach()
        if layers is not None:
            taps, calls = stage_taps(self)[:layers], len(self.classifier.names)
            head = several = MultiStageHead(self.feature_width, num_classes, taps, calls)
            put_head(model, self.classifier, head)
            several.attach(model)
        else:
            put_head(model, self.classifier, head or fresh_linear(self.feature_width, num_classes, seed))
        like = next(self.model.parameters())
        model.to(device=like.device)
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        return model.eval()

    def _afresh(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=devices.random_states()):
            torch.manual_seed(seed)
            if self.fresh is not None:
                return self.fresh()
            return _reset(copy.deepcopy(self.model))

    def stage_of(self, model: nn.Module) -> dict[str, int]:
        """Return the stage index of every parameter and buffer of an adapted copy, by name.

        Parameters
        ----------
        model : nn.Module
            A copy made by `adapt`, not wrapped.

        Returns
        -------
        dict of str to int
            Indices into `stages`.

        Raises
        ------
        ModelError
            Tensors belong to no stage; the message names them.
        """
        last, stage_by_name = len(self.stages) - 1, self.layout.tensors
        names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        names += [name for name, _ in model.named_buffers(remove_duplicate=False)]
        stages = {name: last if self.classifier.owns(name) else stage_by_name.get(name, -1) for name in names}
        strangers = [name for name, stage in stages.items() if stage < 0]
        if strangers:
            raise ModelError(
                f"{len(strangers)} of {len(names)} tensors belong to no stage of {self.name}: "
                f"{', '.join(strangers[:8])}. Expected a model made by `adapt`, not wrapped or renamed."
            )
        return stages

    def module_spans(self, model: nn.Module) -> dict[str, tuple[int, int]]:
        """Return the first and last stage in which each module of an adapted copy works, by name.

        Parameters
        ----------
        model : nn.Module
            A copy made by `adapt`, not wrapped.

        Returns
        -------
        dict of str to (int, int)
            Indices into `stages`.

        Raises
        ------
        ModelError
            A module belongs to no stage.
        """
        last = len(self.stages) - 1
        spans = {}
        for name, _ in model.named_modules(remove_duplicate=False):
            if self.classifier.owns(name):
                spans[name] = (last, last)
            elif name in self.layout.modules:
                spans[name] = self.layout.modules[name]
            else:
                raise ModelError(
                    f"Module {name!r} belongs to no stage of {self.name}; expected a model made by `adapt`."
                )
        return spans


def _reset(model: nn.Module) -> nn.Module:
    """Give every module fresh weights in place. Raises `ModelError` with the modules that cannot."""
    stubborn = []
    for name, module in model.named_modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
        elif own:
            stubborn.append(f"{name or 'the model itself'} ({type(module).__name__})")
    if stubborn:
        raise ModelError(
            "Random weights were requested, and these modules own weights but have no reset_parameters(): "
            f"{', '.join(stubborn[:8])}. Give them one, or use a model that can be built by name."
        )
    return model


def weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 over names, shapes, dtypes and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, value in sorted(tensors, key=lambda pair: pair[0]):
        digest.update(f"{name}\0{tuple(value.shape)}\0{value.dtype}\0".encode())
        digest.update(tensor_bytes(value))
    return digest.hexdigest()


def tensor_bytes(value: Tensor) -> memoryview:
    """Return a tensor's values as bytes, in row-major order; of a tensor that lies so they are no copy."""
    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def demand_backbone(value: object) -> None:
    """Raise `UsageError` where an argument is no `Backbone`."""
    demand_kind("backbone", value, Backbone, 'a Backbone, as load_backbone("lite0") returns it')
