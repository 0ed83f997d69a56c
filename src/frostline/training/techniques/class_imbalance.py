"""What to do where some classes have many images and others few.

`none`; `weights`: a class's loss counts in inverse proportion to its images, within each batch as torch's
weighted mean; `sampler`: each class is drawn equally often; `logit_adjustment`: the loss is taken on logits
plus the log prior, so that the plain logits are balanced (Menon et al., arXiv 2007.07314).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from frostline.errors import UsageError, did_you_mean
from frostline.system.device_transfers import to_device

IMBALANCE = ("none", "weights", "sampler", "logit_adjustment")
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Balance:
    """One way of treating imbalance, for training targets of shape (images,) and a number of classes."""

    kind: str
    targets: Ints
    classes: int

    def __post_init__(self) -> None:
        if self.kind not in IMBALANCE:
            raise UsageError(
                f"Unknown imbalance {self.kind!r}.{did_you_mean(self.kind, IMBALANCE)} "
                f"Known: {', '.join(IMBALANCE)}."
            )

    @property
    def counts(self) -> NDArray[np.float64]:
        """Training images per class, at least 1."""
        return np.maximum(np.bincount(self.targets, minlength=self.classes), 1).astype(np.float64)

    @property
    def image_weights(self) -> NDArray[np.float64] | None:
        """A weight per image for solvers, or None: each class as heavy as any other."""
        if self.kind not in ("weights", "sampler"):
            return None
        return np.asarray(1.0 / self.counts[self.targets])

    @property
    def log_prior(self) -> NDArray[np.float64]:
        """Log share of each class in the training set."""
        return np.asarray(np.log(self.counts / self.counts.sum()))

    def loss(self, logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        """Return the cross-entropy with this treatment.

        Parameters
        ----------
        logits : Tensor of float32, shape (n, classes)
        targets : Tensor, shape (n,) of int64, or (n, classes) of float
            Classes, or each class's share of an image (mixed images).
        label_smoothing : float

        Returns
        -------
        Tensor, scalar
            The mean over images. With `weights` each class's part of an image counts as much as the class,
            and the mean is over these weights; where an image is of one class this is torch's weighted mean.
        """
        weight: Tensor | None = None
        if self.kind == "weights":
            inverse = 1.0 / self.counts
            weight = _beside(logits, inverse / inverse.mean())
        if self.kind == "logit_adjustment":
            logits = logits + _beside(logits, self.log_prior)
        if weight is None or not targets.is_floating_point():
            return F.cross_entropy(logits, targets, weight=weight, label_smoothing=label_smoothing)
        total = F.cross_entropy(
            logits, targets, weight=weight, label_smoothing=label_smoothing, reduction="sum"
        )
        return total / (targets @ weight).sum()  # torch would divide by the number of images

    def share(self, piece: Tensor, whole: Tensor) -> float:
        """Return how much the loss of a piece of a batch counts in the loss of the whole, given targets.

        A piece's may be shares, as in `loss`; images are mixed with others of their batch, which leaves the
        whole's weight as it was.
        """
        if self.kind != "weights":
            return len(piece) / len(whole)
        inverse = torch.as_tensor(1.0 / self.counts)
        shares = piece.cpu().double() @ inverse if piece.is_floating_point() else inverse[piece.cpu()]
        return float(shares.sum() / inverse[whole.cpu()].sum())

    def order(self, seed: int) -> NDArray[Any]:
        """Return positions for one epoch: a permutation, or for `sampler` a balanced draw with return."""
        rng = np.random.default_rng(seed)
        if self.kind != "sampler":
            return rng.permutation(len(self.targets))
        share = 1.0 / self.counts[self.targets]
        return rng.choice(len(self.targets), size=len(self.targets), p=share / share.sum())


def _beside(logits: Tensor, values: NDArray[np.float64]) -> Tensor:
    """Return values in the precision and on the device of logits, without waiting for it."""
    return to_device(torch.as_tensor(values, dtype=logits.dtype), logits.device)
