"""Write a comparison's outcome in sentences. Imports nothing of frostline's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def verdict_lines(result: Mapping[str, Any]) -> list[str]:
    """Return sentences that name the winner, its lead, and whether the lead is significant."""
    winner = titled(result)
    lines = [_first(result)]
    for difference in sorted(result["differences"], key=lambda d: d["mean"])[:2]:
        mean, low, high = (100 * difference[key] for key in ("mean", "low", "high"))
        word = "significant" if difference["separated"] else "not significantly different"
        lines.append(
            f"{difference['leader']} over {difference['other']}: {mean:+.1f} points "
            f"({low:+.1f} to {high:+.1f}), {word}."
        )
    if interpolation := result.get("interpolation"):
        lines.append(_interpolated(interpolation, result["metric"]))
    lines += [_promising(row, result) for row in result.get("promising", [])]
    if result.get("ended_because"):
        lines.append(str(result["ended_because"]))
    elif not result["finished"]:
        lines.append("The time was up before all runs were made: with more minutes, more are repeated.")
    if result.get("left_out"):
        lines.append(f"Not started for lack of time: {', '.join(result['left_out'])}. Give more minutes.")
    if not result.get("every_image", True):
        lines.append(
            f"No time was left to train {winner} on every image: the model used learned from those of one "
            "split. The same command with more minutes resumes."
        )
    return lines


def _promising(row: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """Return a sentence about a strategy that leads on some folds but was not run on all."""
    ahead = f"{100 * row['ahead']:+.1f} points compared with {row['beside']} on the same images"
    return f"{row['strategy']} is promising: {row['folds']} of {result['folds']} folds, {ahead}."


def _interpolated(interpolation: Mapping[str, Any], metric: str) -> str:
    """Return a sentence about the interpolated weights: the share, and the scores that chose it."""
    points, share = interpolation["points"], interpolation["share"]
    best = next(point for point in points if point["share"] == share)
    end = next((point for point in points if point["share"] == 1.0), None)
    where = f"at {share:g} between the pretrained network with a probe (0) and the adapted one (1)"
    figures = f"{metric} {best[metric]:.3f}, log loss {best['log_loss']:.3f} out of fold"
    if end is None:
        return f"Its weights are interpolated {where}, as requested: {figures}."
    if best is end:
        return f"Of {len(points)} interpolations none was better than the adapted weights: {figures}."
    adapted = f"the adapted weights {end[metric]:.3f}, {end['log_loss']:.3f}"
    biased = (
        "" if interpolation.get("apart", True) else ", on the same images that its accuracy is reported on"
    )
    return (
        f"Its weights are interpolated {where}: {figures}; {adapted}. Chosen of {len(points)} points{biased}."
    )


def titled(result: Mapping[str, Any]) -> str:
    """Return the winner's strategy, with its network if several were compared."""
    return f"{result['winner']} on {result['model']}" if "models" in result else str(result["winner"])


def _first(result: Mapping[str, Any]) -> str:
    winner, repeats = titled(result), result["repeats"]
    basis = f"{repeats} repeat{'s' if repeats != 1 else ''}" if repeats else "part of the first repeat"
    if result.get("judged_on_folds", result.get("folds")) != result.get("folds"):
        basis = (
            f"one hold-out of {result['out_of_fold']['images']} images"
            if repeats == 1
            else f"{repeats} hold-outs"
        )
    if len(result["standings"]) == 1:
        return f"{winner} was the only candidate, evaluated on {basis}."
    if not result["differences"]:
        return f"{winner} was evaluated on {basis}, and no other was: not enough to name a winner."
    leader = result["differences"][0]["leader"]
    if result["separated"]:
        return f"{winner} wins over {basis}, significantly better than every other repeated strategy."
    if leader != winner:
        return (
            f"{winner} and {leader} are not significantly different over {basis}: {winner} is chosen because "
            "it is cheaper."
        )
    if all(difference["separated"] for difference in result["differences"]):
        return f"{winner} leads every other over {basis}: not enough to name a winner."
    return f"{winner} leads over {basis}, not significantly, and no cheaper one is as close."
