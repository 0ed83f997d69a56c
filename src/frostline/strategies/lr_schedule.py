"""How fast each stage learns at each step: layer-wise decay, warm-up and what follows it. Imports no torch.

A stage d below the head learns at `lr * layer_decay ** d` (BEiT, arXiv 2106.08254; ULMFiT, arXiv 1801.06146,
for the idea), times the share of the schedule. The shares are those of torch's schedulers (a test compares
them); they are functions of the step here, since a run that goes on, a cost and a chart ask for any step.
"""

from __future__ import annotations

import math

# A tenth, after a third and after two thirds: torchvision's reference does so after 30 and 60 of 90 epochs.
STEP_FACTOR, STEPS_DOWN = 0.1, 2
CYCLE_START, CYCLE_END = 25.0, 1e4  # torch's OneCycleLR: div_factor, final_div_factor


def peak(lr: float, layer_decay: float, below: int) -> float:
    """Return the highest rate of a stage that lies `below` stages below the head."""
    return lr * layer_decay**below


def scale(step: int, steps: int, warmup: float, kind: str = "cosine") -> float:
    """Return the share of the peak rate at `step` of `steps`, all of it inside one phase.

    Parameters
    ----------
    step, steps : int
        From 0; a phase has so many.
    warmup : float
        Share of the steps in which the rate goes up, linearly; of `one_cycle`, along a cosine.
    kind : str
        What follows, one of `SCHEDULES`: "cosine" or "linear" to zero; "step", a tenth after each third of
        what is left; "one_cycle", torch's, from 1/25 up and along a cosine to 1/250,000; "constant".

    Returns
    -------
    float
        0–1.
    """
    warm = max(1, round(warmup * steps)) if warmup > 0 else 0
    if kind == "one_cycle":
        return _one_cycle(step, steps, warm)
    if step < warm:
        return (step + 1) / (warm + 1)
    done = (step - warm) / max(1, steps - warm)
    if kind == "constant":
        return 1.0
    if kind == "linear":
        return 1.0 - done
    if kind == "step":
        return STEP_FACTOR ** min(STEPS_DOWN, (STEPS_DOWN + 1) * (step - warm) // max(1, steps - warm))
    return 0.5 * (1.0 + math.cos(math.pi * done))


def _one_cycle(step: int, steps: int, warm: int) -> float:
    """Return torch's OneCycleLR over its maximum: its last step has the lowest rate."""
    top, last = max(1, warm - 1), max(1, steps - 1)
    if step <= top and warm:
        start, end, done = 1 / CYCLE_START, 1.0, min(1.0, step / top)
    else:
        start, end = 1.0, 1 / CYCLE_START / CYCLE_END
        done = min(1.0, (step - top) / max(1, last - top)) if warm else min(1.0, step / last)
    return end + (start - end) / 2.0 * (1.0 + math.cos(math.pi * done))
