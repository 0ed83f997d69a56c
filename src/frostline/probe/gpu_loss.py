"""The loss of a head and its slope, computed on a GPU: for features that are many, where one computes.

The search itself stays scipy's, on the processor; each of its steps sends a head there and fetches a slope.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.probe.feature_scaling import Floats

# Multiplications of a step (images · features · classes · 2) below which a processor is done before a card
# has been asked and has answered: some milliseconds. A choice; nobody has timed it on a card.
FROM = 500_000_000


def device_for(multiplications: int) -> str | None:
    """Return the GPU that should compute so many multiplications a step; `None` where the processor does."""
    if multiplications < FROM:
        return None
    from frostline.system import devices

    here = devices.current()
    return str(here) if here.type == "cuda" else None


class LossOnCard:
    """Cross-entropy of a linear head over images, and its slope.

    Parameters
    ----------
    features : ndarray, shape (n, r)
    goal : ndarray, shape (n, classes)
        Each class's share of an image.
    share : ndarray, shape (n,)
        The images' weights, summing to 1.
    device : str
    """

    def __init__(
        self, features: NDArray[np.floating], goal: NDArray[np.floating], share: Floats, device: str
    ) -> None:
        import torch

        def sent(values: NDArray[np.floating]) -> Any:
            return torch.from_numpy(np.ascontiguousarray(values, dtype=features.dtype)).to(device)

        self._features, self._goal, self._sent = sent(features), sent(goal), sent
        self._share = sent(share)[:, None]

    def __call__(self, weight: Floats, bias: Floats) -> tuple[float, Floats, Floats]:
        """Return the loss of a head, and its slope by weight (classes, r) and bias (classes,)."""
        from frostline.system import devices

        with devices.full_float32():
            logits = self._features @ self._sent(weight).T + self._sent(bias)
            log_p = logits.log_softmax(dim=1)
            slope = (log_p.exp() - self._goal) * self._share
            loss = -(self._share * self._goal * log_p).sum()
            of_weight, of_bias = slope.T @ self._features, slope.sum(dim=0)
        return (
            float(loss.cpu()),
            of_weight.cpu().numpy().astype(np.float64),
            of_bias.cpu().numpy().astype(np.float64),
        )
