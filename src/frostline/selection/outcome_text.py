"""Write a comparison's outcome in sentences. Of frostline's it imports `sentences` alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from frostline import sentences
from frostline.sentences import percent, signed

ACCURACY, LOG_LOSS, SENSITIVITY = "accuracy", "log_loss", "sensitivity@"
SHARES = (ACCURACY, "balanced_accuracy", "macro_f1", "auroc", "average_precision")  # differences in points
WORDS = {LOG_LOSS: "log loss", "quadratic_kappa": "quadratic kappa", "macro_f1": "macro F1", "auroc": "AUROC"}


def verdict_lines(result: Mapping[str, Any]) -> list[str]:
    """Return sentences that name the winner, its lead, and whether the lead is significant."""
    winner = titled(result)
    lines = [_first(result)]
    for difference in sorted(result["differences"], key=lambda d: d["mean"])[:2]:
        word = "significant" if difference["separated"] else "not significantly different"
        gap = _gap(difference, result.get("metric", ACCURACY))
        fewer = difference.get("repeats", result["repeats"]) < result["repeats"]
        where = " on the first repeat alone" if fewer else ""
        lines.append(f"{difference['leader']} over {difference['other']}{where}: {gap}, {word}.")
    lines += [
        _on_more_folds(row, result)
        for row in result["standings"]
        if row.get("all_folds_accuracy") is not None
    ]
    if interpolation := result.get("interpolation"):
        lines.append(_interpolated(interpolation, result["metric"]))
    if stopping := result.get("early_stopping"):
        lines.append(_stopped_early(stopping, winner))
    lines += [_promising(row, result) for row in result.get("promising", [])]
    if result.get("ended_because"):
        lines.append(str(result["ended_because"]))
    elif not result["finished"]:
        lines.append("The time was up before all runs were made: with more minutes, more are repeated.")
    if result.get("left_out"):
        lines.append(f"Not evaluated for lack of time: {', '.join(result['left_out'])}. Give more minutes.")
    if not result.get("every_image", True):
        lines.append(
            f"No time was left to train {winner} on every image: the model used learned from those of one "
            "split. The same command with more minutes resumes."
        )
    return lines


def _gap(difference: Mapping[str, Any], metric: str) -> str:
    """Return by how much the leader is better, with the interval, in the unit of what decided."""
    low, high = difference["low"], difference["high"]
    factor, digits = (100, 1) if _is_share(metric) else (1, 3)
    span = f"{signed(factor * low, digits)} to {signed(factor * high, digits)}"
    return f"{_ahead(difference['mean'], metric)} ({span})"


def _ahead(by: float, metric: str) -> str:
    """Return a lead in the unit of what decided; a log loss leads by being lower."""
    if metric == LOG_LOSS:
        return f"log loss {by:.3f} lower"
    if not _is_share(metric):
        return f"{in_words(metric)} {signed(by, 3)}"
    return f"{signed(100 * by)} points{'' if metric == ACCURACY else f' of {in_words(metric)}'}"


def _is_share(metric: str) -> bool:
    return metric in SHARES or metric.startswith(SENSITIVITY)


def in_words(metric: str) -> str:
    """Return a metric's name as a sentence has it."""
    sensitivity, _, specificity = metric.partition("@specificity=")
    if specificity:
        return f"{sensitivity} at a specificity of {specificity}"
    return WORDS.get(metric, metric.replace("_", " ") if metric in SHARES else metric)


def _on_more_folds(row: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """Return a sentence about a strategy with more folds than it was judged on: whether that fold is hard."""
    everywhere, judged = percent(row["all_folds_accuracy"]), percent(row["accuracy"])
    title = f"{row['strategy']} on {row['model']}" if "model" in row else row["strategy"]
    return (
        f"{title} was evaluated on all {result['folds']} folds: {everywhere} there, {judged} on "
        "the one that decides."
    )


def _promising(row: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """Return a sentence about a strategy that leads on some folds but was not run on all."""
    ahead = _ahead(row["ahead"], result.get("metric", ACCURACY))
    return (
        f"{row['strategy']} is promising: {row['folds']} of {result['folds']} folds, {ahead} compared with "
        f"{row['beside']} on the same images."
    )


def _interpolated(interpolation: Mapping[str, Any], metric: str) -> str:
    """Return a sentence about the interpolated weights: the share, and the scores that chose it."""
    points, share = interpolation["points"], interpolation["share"]
    best = next(point for point in points if point["share"] == share)
    end = next((point for point in points if point["share"] == 1.0), None)
    where = sentences.interpolated(share)
    figures = f"{metric} {best[metric]:.3f}, log loss {best['log_loss']:.3f} out of fold"
    if end is None:
        return f"Its weights are interpolated {where}, as requested: {figures}."
    if best is end:
        return f"Of {len(points)} interpolations none was better than the adapted weights: {figures}."
    adapted = f"the adapted weights {end[metric]:.3f}, {end['log_loss']:.3f}"
    biased = (
        "" if interpolation.get("unbiased", True) else ", on the same images that its accuracy is reported on"
    )
    return (
        f"Its weights are interpolated {where}: {figures}; {adapted}. Chosen of {len(points)} points{biased}."
    )


def _stopped_early(stopping: Mapping[str, Any], winner: str) -> str:
    """Return a sentence about what patience saved, and the epochs that the winner was trained for."""
    epochs, planned = stopping["epochs"], stopping["planned"]
    if not stopping["epochs_saved"]:
        return f"Patience of {stopping['patience']} stopped none of its runs: {winner} trains to its end."
    where = "to the schedule's end" if epochs == planned else f"until epoch {epochs} of {planned}"
    return (
        f"Stopping by the images that they held out, its runs saved {stopping['epochs_saved']} epochs, about "
        f"{stopping['seconds_saved']:.1f} s. On every image {winner} is trained {where}, as the median of "
        "them."
    )


def titled(result: Mapping[str, Any]) -> str:
    """Return the winner's strategy, with its network if several were compared."""
    return f"{result['winner']} on {result['model']}" if "models" in result else str(result["winner"])


def _first(result: Mapping[str, Any]) -> str:
    winner, repeats = titled(result), result["repeats"]
    basis = f"{repeats} repeat{'s' if repeats != 1 else ''}" if repeats else "part of the first repeat"
    metric = result.get("metric", ACCURACY)
    by = "" if metric == ACCURACY else f" by {in_words(metric)}"
    if result.get("judged_on_folds", result.get("folds")) != result.get("folds"):
        basis = (
            f"one hold-out of {result['out_of_fold']['images']} images"
            if repeats == 1
            else f"{repeats} hold-outs"
        )
        # The figures of a winner that was run on more cells are of images that the others never predicted.
        if repeats == 1 and len(result["out_of_fold"].get("runs", ())) > 1:
            basis = f"the first of {result['folds']} folds"
    if len(result["standings"]) == 1:
        return f"{winner} was the only candidate, evaluated on {basis}."
    if not result["differences"]:
        row = next(row for row in result["standings"] if row.get("winner"))
        if repeats == 1 and row["folds"] == result["folds"] > 1:  # others would have had a hold-out each
            basis = f"all {result['folds']} folds"
        return f"{winner} was evaluated on {basis}, and no other was: not enough to name a winner."
    leader = result["differences"][0]["leader"]
    if result["separated"]:
        return f"{winner} wins{by} over {basis}, significantly better than every other repeated strategy."
    if (over := result.get("over_leader")) is not None:
        return _over_leader(winner, leader, over, metric, f" over {basis}")
    if leader != winner:  # of cuts
        heads = winner.startswith("linear_probe") and leader.startswith("head")
        why = "is fitted without epochs" if heads else "unfreezes fewer layers"
        return (
            f"{winner} and {leader} are not significantly different{by} over {basis}: {winner} is chosen "
            f"because it {why}."
        )
    if all(difference["separated"] for difference in result["differences"]):
        return f"{winner} leads every other{by} over {basis}: not enough to name a winner."
    if equal := [d["other"] for d in result["differences"] if d["leader"] == winner and d["mean"] == 0]:
        names = f"{', '.join([winner, *equal[:-1]])} and {equal[-1]}"
        cheaper = f"{equal[0]} is not" if len(equal) == 1 else "none of the others is"
        return (
            f"{names} score the same{by} over {basis}: {winner} is chosen, since {cheaper} clearly cheaper."
        )
    return (
        f"{winner} leads{by} over {basis}, not significantly, and none that is clearly cheaper is as close."
    )


def _over_leader(winner: str, leader: str, over: Mapping[str, float | None], metric: str, basis: str) -> str:
    """Return why `winner` was chosen over the candidate that scored best."""
    measured, earlier, expected = over["measured"], over["earlier"], over["expected"]
    assert measured is not None
    assert expected is not None
    if _is_share(metric):
        ahead = f"{-100 * measured:.1f} points{'' if metric == ACCURACY else f' of {in_words(metric)}'}"
        little = "half a point"
    else:
        ahead, little = f"{-measured:.3f} of {in_words(metric)}", "0.005"
    line, few = f"{leader} leads {winner} by {ahead}{basis}, not significantly", f" and by {little} at most"
    if measured == 0:
        by = "" if metric == ACCURACY else f" by {in_words(metric)}"
        line, few = f"{leader} and {winner} score the same{by}{basis}", ""
    if earlier is None:
        return f"{line}{few}: {winner} is chosen because it is cheaper."
    beside = f"{abs(100 * earlier):.1f} points {'better' if earlier >= 0 else 'worse'}"
    line += f"; in earlier trials {winner} was {beside} on average. By both "
    if expected >= 0:
        return f"{line}{winner} is expected to be better, and is chosen."
    return f"{line}the two are within half a point, and {winner} is chosen because it is cheaper."
