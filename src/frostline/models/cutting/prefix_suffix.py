"""The two halves of a model at one cut, as functions: `prefix` gives z, `suffix` gives logits from z."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from frostline.errors import ModelError
from frostline.models.backbone import Backbone, Cut
from frostline.models.cutting.nested_values import at_batch
from frostline.models.cutting.replay import Recipe, first_half, second_half


def prefix(backbone: Backbone, model: nn.Module, cut: Cut) -> Callable[[Tensor], Tensor]:
    """Return a function from images to the features at a cut. At cut 0 it is the identity.

    Modules that reach across the cut run in eval mode, and their mode is restored. Gradients are left to the
    caller.

    Parameters
    ----------
    backbone : Backbone
    model : nn.Module
        The backbone's model, or an adapted copy.
    cut : Cut

    Returns
    -------
    callable
        Images (n, 3, s, s) to features z, one tensor with n rows.
    """
    if cut.index == 0:
        return lambda images: images
    recipe = _recipe(cut)
    spans = backbone.module_spans(model)
    across = [
        module for name, module in model.named_modules() if spans[name][0] < cut.index <= spans[name][1]
    ]

    def run(images: Tensor) -> Tensor:
        learning = [module for module in across if module.training]
        for module in learning:
            module.training = False
        try:
            return first_half(model, recipe, images)
        finally:
            for module in learning:
                module.training = True

    return run


@contextmanager
def between(
    backbone: Backbone, model: nn.Module, early: Cut, late: Cut
) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield a function from features at `early` to features at `late`, a later cut.

    Parameters
    ----------
    backbone : Backbone
    model : nn.Module
        In eval mode.
    early, late : Cut
        At an early cut of 0 the input is the images.

    Yields
    ------
    callable
        Features z (n rows) at `early` to features (n rows) at `late`.
    """
    if early.index == 0:
        yield prefix(backbone, model, late)
        return
    with second_half(model, _recipe(early)) as run:
        yield lambda z: first_half(model, _recipe(late), z, run)


@contextmanager
def suffix(backbone: Backbone, model: nn.Module, cut: Cut) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield a function from features at a cut to logits, with gradients if the caller wants them.

    Inside the block `model(images)` and `prefix` work as before. The model is restored afterwards, also after
    an exception. At cut 0 the function is the model itself.

    Parameters
    ----------
    backbone : Backbone
    model : nn.Module
    cut : Cut

    Yields
    ------
    callable
        Features z (n rows) to logits (n, classes).
    """
    if cut.index == 0:
        yield model
        return
    with second_half(model, _recipe(cut)) as run:
        yield run


def row_elements(backbone: Backbone, cut: Cut) -> int:
    """Return how many numbers the features of one image have.

    Parameters
    ----------
    backbone : Backbone
    cut : Cut
        At cut 0 the features are the pixels.

    Returns
    -------
    int
    """
    if cut.index == 0:
        return 3 * backbone.preprocessing.size**2
    recipe = _recipe(cut)
    if recipe.head is not None:
        return backbone.feature_width
    return sum(math.prod(at_batch(shape, 1)) for shape in recipe.shapes)


def over_space(z: Tensor) -> Tensor:
    """Return the mean over space of features.

    Parameters
    ----------
    z : Tensor
        Tokens (n, tokens, c), or maps (n, c, h, w) or (n, h, w, c); square, so that equal sides tell them
        apart.

    Returns
    -------
    Tensor, shape (n, c)
    """
    if z.ndim == 3:
        return z.mean(dim=1)
    if z.ndim == 4 and z.shape[1] == z.shape[2] != z.shape[3]:
        return z.mean(dim=(1, 2))
    return z.mean(dim=tuple(range(2, z.ndim))) if z.ndim > 2 else z


def _recipe(cut: Cut) -> Recipe:
    if cut.recipe is None:
        raise ModelError(
            f"Cut {cut.index} ({cut.name}) was not found by frostline: use `backbone.cut(index)`."
        )
    return cut.recipe
