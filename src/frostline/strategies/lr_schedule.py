"""How fast each stage learns at each step: layer-wise decay, warm-up and cosine. Imports no torch.

A stage d below the head learns at `lr * layer_decay ** d` (BEiT, arXiv 2106.08254; ULMFiT, arXiv 1801.06146,
for the idea), times the share of the schedule.
"""

from __future__ import annotations

import math


def peak(lr: float, layer_decay: float, below: int) -> float:
    """Return the highest rate of a stage that lies `below` stages below the head."""
    return lr * layer_decay**below


def scale(step: int, steps: int, warmup: float) -> float:
    """Return the share of the peak rate at `step` of `steps`: linear warm-up, then a cosine to zero.

    Both lie inside one phase; the next phase starts its own.
    """
    warm = max(1, round(warmup * steps)) if warmup > 0 else 0
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
