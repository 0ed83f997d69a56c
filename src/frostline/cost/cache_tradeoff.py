"""The views of an image in a run, and whether the features of a cut are cached or recomputed.

The number of views follows from the strategy's epochs alone. Keeping or computing changes no bit of the
result, only the time; the arithmetic is returned with the choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from frostline.strategies import ResolvedPhase

VIEWS_APART = 1_000_000  # more than any run has epochs: the view numbers of repeats stay apart

# Why no feature of a training image is cached where pictures are mixed.
MIXED = "images are mixed before the frozen layers, so these are computed anew for each batch"

# A row larger than its image's pixels must cost at most this share of computing it each time: it takes room
# that other rows could use. Where the arithmetic promised 0.6, keeping and computing took the same time
# (docs/LOG.md 2026-11-24).
LARGE_ROW_SHARE = 0.5


def views_for(epochs: float) -> int:
    """Return the number of views of each image, the plain one included, for so many epochs.

    Three were as good as a new view in each of 12 to 30 epochs (docs/LOG.md 2026-11-24). That they grow with
    longer runs is a choice.
    """
    return max(1, min(math.ceil(epochs), max(3, math.ceil(epochs / 10))))


def views_of(phases: Sequence[ResolvedPhase]) -> int:
    """Return the number of views of a run of these phases while anything is frozen."""
    return views_for(sum(phase.steps / phase.batches for phase in phases if phase.cut > 0))


def view_at(drawn: int, views: int, repeat: int = 0) -> int:
    """Return the view that epoch `drawn` (from 1) shows, of `views` in a cycle (0: always a new one)."""
    return (drawn - 1 + repeat) % views if views else drawn + VIEWS_APART * repeat


@dataclass
class Need:
    """What a run needs at one cut: how often each view is passed over, and whether it comes for free.

    `along` says that every view has been seen at a later cut before: one pass can serve both.
    """

    passes: dict[int, float]
    along: bool

    @property
    def uses(self) -> float:
        """Mean number of uses of a row that is used at all."""
        return max(1.0, sum(self.passes.values()) / len(self.passes))

    def of_val(self) -> Need:
        """Return what val's plain view needs: a pass an epoch, for itself alone."""
        return Need({0: math.ceil(sum(self.passes.values()))}, along=False)


def needs(
    phases: Sequence[ResolvedPhase], views: int, *, still: bool = False, sampler: bool = False
) -> dict[int, Need]:
    """Walk through the phases and count, for each cut above 0, how often each view is passed over.

    `views` are in a cycle; `still` says that every view is view 0, `sampler` that images are drawn by class.
    """
    need_of_cut: dict[int, Need] = {}
    views_seen: set[int] = set()
    drawn = 0
    for phase in phases:
        passes: dict[int, float] = {}
        for _ in range(phase.epochs):
            drawn += 1
            view = 0 if still else view_at(drawn, views)
            passes[view] = passes.get(view, 0) + phase.steps_per_epoch / phase.batches
        if sampler and views:  # what is drawn twice comes in another view
            passes = {v: sum(passes.values()) / views for v in range(views)}
        if phase.cut > 0:
            along = set(passes) <= views_seen
            need = need_of_cut.setdefault(phase.cut, Need({}, along))
            need.along = need.along and along
            for view, count in passes.items():
                need.passes[view] = need.passes.get(view, 0) + count
        views_seen |= set(passes)
    return need_of_cut


@dataclass(frozen=True)
class RowRates:
    """The cost of one feature row of one cut on this machine, in seconds."""

    row_bytes: int
    pixel_bytes: int  # of the image it is made from, as the network takes it
    decode_s: float  # an image's pixels: decoding and augmentation
    prefix_s: float  # the frozen part, forward
    read_s: float
    keep_s: float  # to write it


@dataclass(frozen=True)
class Choice:
    """Whether a cut's features are cached, and why."""

    keep: bool
    why: str


def read_or_recompute(rates: RowRates, *, uses: float, missing: float, along: bool = False) -> Choice:
    """Return whether to cache the features of a cut, from their costs.

    Caching costs `missing * (compute + keep) + uses * read` seconds a row, recomputing `uses * compute`. A
    row larger than the image's pixels must be clearly cheaper to cache (`LARGE_ROW_SHARE`).

    Parameters
    ----------
    rates : RowRates
    uses : float
        How often each row is used.
    missing : float
        Share of rows not cached yet, 0–1.
    along : bool
        Whether a missing row is computed anyway on the way to a later cut's row.

    Returns
    -------
    Choice
    """
    compute_s = rates.decode_s + rates.prefix_s
    first_s = (0.0 if along else compute_s) + rates.keep_s
    keeping_s = missing * first_s + uses * rates.read_s
    computing_s = uses * compute_s
    ms = 1000
    why = (
        f"a feature of {rates.row_bytes / 1000:.1f} kB, used {uses:.1f} times: caching costs "
        f"{missing:.2f} × {first_s * ms:.2f} + {uses:.1f} × "
        f"{rates.read_s * ms:.3f} = {keeping_s * ms:.2f} ms, computing each time {uses:.1f} × "
        f"({rates.decode_s * ms:.2f} decode + {rates.prefix_s * ms:.2f} frozen layers) = "
        f"{computing_s * ms:.2f} ms"
    )
    if rates.row_bytes <= rates.pixel_bytes:
        return Choice(keeping_s <= computing_s, why)
    why += (
        f"; a feature larger than its image's {rates.pixel_bytes / 1000:.1f} kB of pixels is cached for at "
        f"most {LARGE_ROW_SHARE:g} times that"
    )
    return Choice(keeping_s <= LARGE_ROW_SHARE * computing_s, why)


def untimed(row_bytes: int, pixel_bytes: int) -> Choice:
    """Decide where nothing is timed: a row that is no larger than its image's pixels is worth keeping."""
    why = f"a feature has {row_bytes:,} bytes, an image's pixels {pixel_bytes:,}; nothing is timed"
    return Choice(row_bytes <= pixel_bytes, why)


def on_the_way(cuts: Sequence[int]) -> list[int]:
    """Return the cuts of later phases that are passed on the way to the first one's, in order.

    Only those whose frozen part no phase until then trains.
    """
    lowest, passed = cuts[0], []
    for index in cuts[1:]:
        if 0 < index < lowest:
            passed.append(index)
        lowest = min(lowest, index)
    return sorted(passed)
