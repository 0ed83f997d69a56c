"""Seconds and bytes before they are spent: arithmetic on measured rates. Imports no torch.

For now one question: should the rows of a cut be kept and read again, or computed each time? The answer
changes no bit of the result, only the time; the arithmetic is shown with it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RowRates:
    """What one row of one cut costs on this machine, in seconds."""

    row_bytes: int
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

    Keeping costs `missing * (compute + keep) + uses * read` seconds a row, recomputing `uses * compute`.
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
    return Choice(keeping_s <= computing_s, why)
