"""Seconds and bytes before they are spent: arithmetic on measured rates. Imports no torch.

For now one question: should the rows of a cut be kept and read again, or computed each time? The answer
changes no bit of the result, only the time; the arithmetic is shown with it.
"""

from __future__ import annotations

from dataclasses import dataclass

# A row larger than its image's pixels must cost at most this share of computing it each time: it takes room
# that other rows could use. Where the arithmetic promised 0.6, keeping and computing took the same time
# (docs/LOG.md 2026-11-24).
LARGE_ROW_SHARE = 0.5


@dataclass(frozen=True)
class RowRates:
    """What one row of one cut costs on this machine, in seconds."""

    row_bytes: int
    pixel_bytes: int  # of the image it is made from, as the network takes it
    decode_s: float  # an image's pixels: decoding and augmentation
    prefix_s: float  # the frozen part, forward
    read_s: float
    keep_s: float  # to write it


@dataclass(frozen=True)
class Choice:
    """Whether a cut's rows are kept and read, and why."""

    keep: bool
    why: str


def read_or_recompute(rates: RowRates, *, uses: float, missing: float, along: bool = False) -> Choice:
    """Decide for rows that are used `uses` times each, of which a share `missing` is not kept yet.

    Keeping costs `missing * (compute + keep) + uses * read` seconds a row, recomputing `uses * compute`; a
    row larger than the pixels must be clearly cheaper to keep (`LARGE_ROW_SHARE`).
    `along` says that a missing row is met on the way to a later cut's row: only keeping it costs then.
    """
    compute_s = rates.decode_s + rates.prefix_s
    first_s = (0.0 if along else compute_s) + rates.keep_s
    keeping_s = missing * first_s + uses * rates.read_s
    computing_s = uses * compute_s
    ms = 1000
    why = (
        f"a row of {rates.row_bytes / 1000:.1f} kB, used {uses:.1f} times: keeping costs "
        f"{missing:.2f} × {first_s * ms:.2f} + {uses:.1f} × "
        f"{rates.read_s * ms:.3f} = {keeping_s * ms:.2f} ms, computing each time {uses:.1f} × "
        f"({rates.decode_s * ms:.2f} decode + {rates.prefix_s * ms:.2f} frozen layers) = "
        f"{computing_s * ms:.2f} ms"
    )
    if rates.row_bytes <= rates.pixel_bytes:
        return Choice(keeping_s <= computing_s, why)
    why += (
        f"; a row larger than its image's {rates.pixel_bytes / 1000:.1f} kB of pixels is kept for at most "
        f"{LARGE_ROW_SHARE:g} times that"
    )
    return Choice(keeping_s <= LARGE_ROW_SHARE * computing_s, why)
