"""A comparison's outcome in sentences. Imports nothing of frostline's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def verdict_lines(result: Mapping[str, Any]) -> list[str]:
    """Say who won, by how much, and whether that means anything."""
    winner = titled(result)
    lines = [_first(result)]
    for found in sorted(result["differences"], key=lambda d: d["mean"])[:2]:
        span = f"{100 * found['mean']:+.1f} points ({100 * found['low']:+.1f} to {100 * found['high']:+.1f})"
        word = "separated" if found["separated"] else "too close to call"
        lines.append(f"{found['leader']} over {found['other']}: {span}, {word}.")
    if found := result.get("interpolation"):
        lines.append(_gone_back(found, result["metric"]))
    lines += [_promising(found, result) for found in result.get("promising", [])]
    if result.get("ended_because"):
        lines.append(str(result["ended_because"]))
    elif not result["finished"]:
        lines.append("The time was up before the race was: more minutes would repeat more of the strategies.")
    if result.get("left_out"):
        lines.append(f"More minutes would let {', '.join(result['left_out'])} race, too.")
    if not result.get("every_image", True):
        lines.append(
            f"No time was left to train {winner} on every image: the model that answers learned from those "
            "of one split. The same command with more minutes goes on."
        )
    return lines


def _promising(found: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """Say who is ahead on the folds that it was asked about, which are not all."""
    ahead = f"{100 * found['ahead']:+.1f} points beside {found['beside']} on the same images"
    return f"{found['strategy']} is promising: {found['folds']} of {result['folds']} folds, {ahead}."


def _gone_back(found: Mapping[str, Any], metric: str) -> str:
    """Say how far the winner goes back, and what the points gave."""
    best = next(point for point in found["points"] if point["share"] == found["share"])
    end = next((point for point in found["points"] if point["share"] == 1.0), None)
    where = f"at {found['share']:g} of the way from the pretrained network with a probe"
    figures = f"{metric} {best[metric]:.3f}, log loss {best['log_loss']:.3f} out of fold"
    if end is None:
        return f"It is taken {where}, as asked for: {figures}."
    if best is end:
        count = len(found["points"])
        return f"Of {count} points on the way back none was better than where it ended: {figures}."
    beside = f"where it ended {end[metric]:.3f}, {end['log_loss']:.3f}"
    judged = "" if found.get("apart", True) else ", by the very images that its accuracy is told of"
    return f"It is taken {where}: {figures}; {beside}. Chosen of {len(found['points'])} points{judged}."


def titled(result: Mapping[str, Any]) -> str:
    """Name the winner: its strategy, and its network where several raced."""
    return f"{result['winner']} on {result['model']}" if "models" in result else str(result["winner"])


def _first(result: Mapping[str, Any]) -> str:
    winner, repeats = titled(result), result["repeats"]
    seen = f"{repeats} repeat{'s' if repeats != 1 else ''}" if repeats else "part of the first repeat"
    if result.get("judged_on_folds", result.get("folds")) != result.get("folds"):
        seen = (
            f"one hold-out of {result['out_of_fold']['images']} images"
            if repeats == 1
            else f"{repeats} hold-outs"
        )
    if len(result["standings"]) == 1:
        return f"{winner} was the only one asked for, seen on {seen}."
    if not result["differences"]:
        return f"{winner} was judged on {seen}, and no other was: too few to name a winner."
    leader = result["differences"][0]["leader"]
    if result["separated"]:
        return f"{winner} wins over {seen}, separated from every other strategy that was repeated."
    if leader != winner:
        return (
            f"{winner} and {leader} are too close to call over {seen}: {winner} is cheaper, so it is taken."
        )
    if all(found["separated"] for found in result["differences"]):
        return f"{winner} leads over {seen}, ahead of every other: too few to name a winner."
    return f"{winner} leads over {seen}, too close to the next to call, and no cheaper one is as near."
