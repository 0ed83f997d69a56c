"""An epoch in one line, for a person who watches a terminal or reads a log file later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from frostline.strategies import ResolvedPhase


def epoch_line(
    row: Mapping[str, Any], phases: Sequence[ResolvedPhase], metric: str, lr: float, *, best: bool
) -> str:
    """Return the line of an epoch that is done.

    Parameters
    ----------
    row
        The epoch as a run's metrics have it: phase and epoch from 0, loss, seconds, and val_<metric> where
        there is a val set.
    phases
        All phases of the run.
    metric
        Name of the metric that decides.
    lr
        Learning rate of the last step, the highest of all parameter groups.
    best
        Whether the epoch's weights are the best on val so far.

    Returns
    -------
    str
        The time left assumes that a step of what follows takes as long as one of this epoch.
    """
    epochs, done = sum(phase.epochs for phase in phases), row["epoch"] + 1
    phase = phases[row["phase"]]
    number = sum(earlier.epochs for earlier in phases[: row["phase"]]) + done
    steps_left = (phase.epochs - done) * phase.steps_per_epoch
    steps_left += sum(later.steps for later in phases[row["phase"] + 1 :])
    name = f"epoch {number:>{len(str(epochs))}}/{epochs}"
    if len(phases) > 1:
        name += f" (phase {row['phase'] + 1} of {len(phases)})"
    figures = [f"loss {row['loss']:.4f}"]
    if row.get(f"val_{metric}") is not None:
        figures.append(f"val {metric} {row[f'val_{metric}']:.4f}" + (" (best)" if best else ""))
    figures += [f"lr {lr:.2g}", f"{_duration(row['seconds'])}"]
    if steps_left:
        figures.append(f"about {_duration(row['seconds'] / phase.steps_per_epoch * steps_left)} left")
    return f"  {name}: {', '.join(figures)}"


def _duration(seconds: float) -> str:
    """Return seconds as a person says them: `0.4 s`, `12 s`, `3 min 20 s`, `1 h 05 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
