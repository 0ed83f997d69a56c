"""Correct cached rates: by one timing before they are used, and by the seconds of whole runs.

Both are ratios. A check's is of this call alone; that of runs is kept beside the rates, and goes half of each
way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from frostline.cost import Cost, Rates
from frostline.models import Backbone
from frostline.profiling import numeric_search
from frostline.system import cpu_threads, directories, numerics

CHECK_S = 0.1  # what a pass that checks may take, with from 2 to 16 images; all its repeats take 0.5 s
# Remembered rates that are further off than this are corrected by the check. A choice: runs of one command
# take a tenth more or less on a quiet machine, and predictions are allowed 1.35 (advice.TIME_MARGIN).
HOLDS = 1.25
# How far the kept factor goes towards what a run took, of the way in logarithms: two runs bring it three
# quarters there, and one that was disturbed is halfway forgotten by the next. A choice.
WEIGHT = 0.5
MOST = 4.0  # times, either way, that one run may count for: a laptop that slept says nothing. A choice.
LEAST_S = 1.0  # runs expected to be shorter are mostly what no rate is of: a choice
SAME_WORLD = cpu_threads.BUSY  # cores' worth of other work, by which worlds of one factor may differ


def check_of(backbone: Backbone, per_image_s: float, threads: int) -> dict[str, Any]:
    """Time the pass that later checks are held against, as plain data, to be remembered with the rates."""
    images = max(2, min(numeric_search.TRIAL, int(CHECK_S / max(per_image_s, 1e-9))))
    return {"images": images, "seconds": numeric_search.pass_s(backbone, images, threads)}


def checked(rates: Rates, backbone: Backbone, check: Mapping[str, Any]) -> Rates:
    """Return rates that were remembered as one timing now says: scaled where they no longer hold."""
    now_s = numeric_search.pass_s(backbone, check["images"], rates.threads)
    ratio = now_s / max(check["seconds"], 1e-9)
    if 1 / HOLDS <= ratio <= HOLDS:
        return rates
    note = (
        f"Cached rates of {rates.name} were out of date: a pass takes {ratio:.2f} times as long as when "
        "they were measured, so they were scaled by that factor."
    )
    return replace(rates.times(ratio), notes=(*rates.notes, note))


def factor(backbone: Backbone, threads: int, *, trains: bool) -> float:
    """Return what runs took beside what was predicted, as runs of earlier times have it; 1 before any.

    Runs that train and runs whose head is solved for alone are held apart: steps decide the one, and a pass,
    decoding and the solver the other.
    """
    stored = directories.recalled("rates", _key(backbone, threads, trains)) or {}
    return float(stored.get("factor", 1.0))


def forget(backbone: Backbone, threads: int) -> None:
    """Begin anew with what runs took: the rates that it was held against were measured again."""
    for trains in (True, False):
        directories.remember("rates", _key(backbone, threads, trains), {"factor": 1.0})


@dataclass(frozen=True)
class Expected:
    """The predicted seconds of a run with an empty cache and with a full one, and its number of features.

    `factor` is the correction that they were predicted with.
    """

    cold_s: float
    warm_s: float
    features: int
    factor: float = 1.0

    @classmethod
    def of(cls, cold: Cost, warm: Cost, factor: float) -> Expected:
        """Take it from the two predictions."""
        return cls(cold.seconds, min(cold.seconds, warm.seconds), cold.features, factor)

    def seconds(self, computed: int) -> float:
        """Return what a run that computed so many features should have taken; the others were there."""
        share = min(1.0, computed / self.features) if self.features else 1.0
        return self.warm_s + share * (self.cold_s - self.warm_s)


def learn(
    backbone: Backbone,
    threads: int,
    *,
    trains: bool,
    expected_s: float,
    taken_s: float,
    factor_then: float,
    before: float,
    meanwhile: float,
) -> float:
    """Return the correction factor of predicted times, updated by a finished run.

    Parameters
    ----------
    backbone : Backbone
    threads : int
    trains : bool
        Whether layers or a head learned in it by steps.
    expected_s, taken_s : float
        Predicted and measured seconds.
    factor_then : float
        The correction factor that they were predicted with. All runs of a comparison are predicted as it
        begins, so that the factor of now holds what the runs before said already.
    before, meanwhile : float
        Cores busy with other work when the rates were checked and during the run; where they differ the
        factor is not updated.

    Returns
    -------
    float
    """
    now = factor(backbone, threads, trains=trains)
    if expected_s < LEAST_S or abs(before - meanwhile) >= SAME_WORLD:
        return now
    said = factor_then * min(MOST, max(1 / MOST, taken_s / expected_s))
    corrected: float = now ** (1 - WEIGHT) * said**WEIGHT
    stored = {"factor": corrected}
    directories.remember("rates", _key(backbone, threads, trains), stored, numerics.world(threads))
    return corrected


def _key(backbone: Backbone, threads: int, trains: bool) -> str:
    kind = "that train" if trains else "whose head is solved for"
    return numerics.rates_key(f"correction of runs {kind} {numeric_search.network_name(backbone)}", threads)
