"""Stopping early in a comparison: its runs by the images that they hold out, its winner as they did.

A run is judged by its weights when it stopped, so none is chosen by the images that judge it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from frostline.errors import UsageError, option
from frostline.models import Backbone
from frostline.selection import resampling
from frostline.selection.compare_request import CompareRequest
from frostline.selection.resampling import Cell
from frostline.strategies import Strategy, schedule


class NothingToStop(UsageError):
    """Raised if no candidate trains for more epochs than the patience."""


def effective(patience: int | None, strategy: Strategy, backbone: Backbone, images: int) -> int | None:
    """Return the patience where it can stop a run on so many training images, else `None`."""
    if patience is None or not strategy.trains:
        return None
    return patience if patience < _epochs(strategy, backbone, images)[-1] else None


def demand_effect(request: CompareRequest) -> list[str]:
    """Return lines that name the candidates in which the patience can stop nothing.

    Raises `NothingToStop` if there are no others.
    """
    patience = request.config.patience
    if patience is None:
        return []
    images = len(resampling.split(request.data, Cell(0, 0), request.config.seed).subset("train"))
    idle = [
        str(candidate.strategy)
        for candidate in request.candidates
        if effective(patience, candidate.strategy, request.backbones[candidate.model], images) is None
    ]
    names, given = ", ".join(dict.fromkeys(idle)), option("patience", patience)
    if len(idle) < len(request.candidates):
        return [f"{given} has no effect on {names}: no phase to stop."] if idle else []
    longest = max(
        (
            _epochs(candidate.strategy, request.backbones[candidate.model], images)[-1]
            for candidate in request.candidates
            if candidate.strategy.trains
        ),
        default=0,
    )
    if longest < 2:
        raise NothingToStop(f"{given} can stop nothing: {names} has no epochs to wait for. Leave it out.")
    raise NothingToStop(
        f"{given} can stop nothing: it counts the epochs of a last phase, and the longest of {names} has "
        f"{longest} here. Give at most {longest - 1}, or more epochs."
    )


def winners_epochs(
    strategy: Strategy, backbone: Backbone, images: int, results: Sequence[Mapping[str, Any]]
) -> tuple[int, int]:
    """Return after how many epochs a winner stops that holds out no image, and of how many.

    Of its last phase it does the median of the shares that its runs did of theirs.

    Parameters
    ----------
    strategy
        The winner's, which trains.
    backbone
        Its backbone.
    images
        Number of images that it learns from.
    results
        Of its runs with the longest schedule.
    """
    *before, last = _epochs(strategy, backbone, images)
    shares = []
    for result in results:
        early = result.get("early_stopping")
        shares.append(1.0 - early["epochs_saved"] / early["last_phase"] if early else 1.0)
    done = max(1, round(statistics.median(shares) * last))
    return sum(before) + done, sum(before) + last


def _epochs(strategy: Strategy, backbone: Backbone, images: int) -> list[int]:
    """Return the epochs of each phase, which the images per step do not change."""
    return [phase.epochs for phase in schedule(strategy, stages=len(backbone.stages), images=images, batch=1)]
