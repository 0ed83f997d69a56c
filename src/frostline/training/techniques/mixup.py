"""MixUp (Zhang et al., arXiv 1710.09412) and CutMix (Yun et al., arXiv 1905.04899), by torchvision's classes.

Every image of a batch is mixed with the one before it, all of them in the same shares. What is drawn follows
from the seed alone. The processes of a job draw the same shares, and each mixes its own part of the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms import v2 as tv

from frostline.strategies import Hyperparameters


class Mixing:
    """Mixes batches as a strategy asks for; with both kinds, each batch in one of them, equally likely."""

    def __init__(self, known: Hyperparameters, classes: int) -> None:
        kinds = ((tv.MixUp, known.mixup), (tv.CutMix, known.cutmix))
        self._transforms = [kind(alpha=alpha, num_classes=classes) for kind, alpha in kinds if alpha]

    def __call__(self, pixels: Tensor, targets: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Return mixed pixels and their targets.

        Parameters
        ----------
        pixels : Tensor of float, shape (n, 3, s, s)
        targets : Tensor of int64, shape (n,)
            On the same device.
        seed : int
            What the shares, rectangles and kinds are drawn from; no random state is touched.

        Returns
        -------
        Tensor, shape (n, 3, s, s)
        Tensor of float32, shape (n, classes)
            Each class's share of the image.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            place = int(torch.randint(len(self._transforms), ())) if len(self._transforms) > 1 else 0
            mixed, shares = self._transforms[place](pixels, targets)
        return mixed, shares
