"""Print the result of `compare` and of `fit`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from frostline import sentences
from frostline.advice.advice_wording import minutes
from frostline.cli.output.formatting import AGAIN, Row, console_out, table
from frostline.selection.outcome_text import ACCURACY, LOG_LOSS, in_words
from frostline.sentences import between, counted, percent

if TYPE_CHECKING:
    from frostline.pipelines import Fitted
    from frostline.selection import Comparison


def comparison(outcome: Comparison) -> None:
    """Print the standings, the verdict and the winner's accuracy."""
    out = console_out()
    if outcome.reused:
        out.print(again_line(outcome.finished))
    out.print(standings(outcome.result))
    first, *rest = outcome.verdict
    out.print(first, style="bold")
    for line in rest:
        out.print(line)
    out.print(sentences.accuracy(outcome.headline), style="bold")
    for line in decided_lines(outcome.result):
        out.print(line)
    spent = minutes(outcome.seconds)
    budget = "" if outcome.budget_seconds is None else f" of {limit_text(outcome.budget_seconds)}"
    out.print(f"{spent}{budget}; {counted(outcome.runs, 'run')} in {outcome.study.path}")
    for line in _other_run_lines(outcome.result["predicting"]):
        out.print(line)
    command = f"frostline predict {shlex.quote(str(outcome.study.path))} IMAGES"
    out.print(f"\n  {command}", soft_wrap=True)


def _other_run_lines(predicting: Mapping[str, Any]) -> list[str]:
    """Return a line that `predict` uses another run than the winner shown; nothing where it is that."""
    if predicting["winner"]:
        return []
    return [f"predict uses run {predicting['run']} instead: {predicting['why']}."]


def decided_lines(result: dict[str, Any]) -> list[str]:
    """Return what a result's operating point promises, in sentences; nothing without one."""
    return list((result.get("operating_point") or {}).get("sentences", ()))


def again_line(finished: bool) -> str:
    """Return the line that nothing was done; `finished` is false if the time limit ended the comparison."""
    more = "" if finished else " (its time was up before all runs were made: more --minutes resume it)"
    return f"{AGAIN}{more}, with the figures from then."


def standings(result: dict[str, Any]) -> Table:
    """Return a table of the standings."""
    several, metric = "models" in result, result["metric"]
    decides = () if metric == ACCURACY else (in_words(metric),)
    title = f"Accuracy on held-out images (95 % interval of a new model{_folds(result)})"
    title += f"; {decides[0]} decides" if decides else ""
    rows: list[Row] = []
    for row in result["standings"]:
        cells = (
            *((row["model"],) if several else ()),
            row["strategy"]
            if row["augment"] == result["augment"]
            else f"{row['strategy']}, {row['augment']}",
            *([_score(row["score"], metric)] if decides else []),
            "" if row["accuracy"] is None else percent(row["accuracy"]),
            "" if row["low"] is None else between(row["low"], row["high"]),
            "" if row["run_seconds"] is None else minutes(row["run_seconds"]),
            str(row["repeats"]) if row["repeats"] else "",
            _remark(row, result["folds"]),
        )
        rows.append((cells, "bold" if _is_winner(row, result) else None))
    names = (*(("network",) if several else ()), "strategy", *(("score",) if decides else ()))
    narrowest = {"network": 8, "strategy": len("lp_ft(refit_layers=4)"), "": len("trained")}
    return table(title, (*names, "accuracy", "95 %", "a run", "repeats", ""), rows, narrowest)


def _folds(result: dict[str, Any]) -> str:
    """Return how many folds all rows are of; nothing where there is one fold or rows differ."""
    folds, ranked = result["folds"], [row for row in result["standings"] if row["repeats"]]
    each = {row["folds"] / row["repeats"] for row in ranked}
    if folds == 1 or len(each) != 1:
        return ""
    return f", {folds} folds each" if each == {folds} else f", one fold of {folds}" if each == {1} else ""


def _score(score: float | None, metric: str) -> str:
    """Return a row's score, of which higher is better: of a log loss it is the negative."""
    return "" if score is None else f"{-score if metric == LOG_LOSS else score:.3f}"


def _remark(row: dict[str, Any], folds: int) -> str:
    joined = ["trained before"] if row.get("joined") else []
    if not row["runs"]:
        return "; ".join([*joined, "no time left"])
    if row["share"] == 1.0 and not row["repeats"]:
        return "; ".join([*joined, f"{row['folds']} of {folds} folds"])
    return "; ".join(joined if row["share"] == 1.0 else [*joined, f"{row['share']:g} of its epochs"])


def _is_winner(row: dict[str, Any], result: dict[str, Any]) -> bool:
    row_key = (row["strategy"], row["augment"], row.get("model", result["model"]))
    return row_key == (result["winner"], result["augment"], result["model"])


def networks(screened: list[dict[str, Any]]) -> Table:
    """Return a table of the screened networks."""
    rows: list[Row] = []
    for row in screened:
        probed = row["probe_accuracy"] is not None
        cells = (
            row["model"],
            percent(row["probe_accuracy"]) if probed else "",
            between(row["low"], row["high"]) if probed else "",
            f"{row['latency_ms']:.1f} ms",
            f"{row['size_mb']:.1f} MB",
            row["reason"],
        )
        rows.append((cells, "bold" if row["selected"] else None))
    title = "Networks: out-of-fold linear probe (95 % interval), latency of one image, size of the weights"
    names = ("network", "accuracy", "95 %", "an image", "weights", "")
    return table(title, names, rows, {"network": 18, "": len("significantly")})


def fitted(outcome: Fitted) -> None:
    """Print the standings, the verdict, the accuracy with its basis, and the next command."""
    out = console_out()
    if outcome.result.get("models"):
        out.print(networks(outcome.result["models"]))
    if outcome.reused:
        out.print(again_line(outcome.comparison is None or outcome.comparison.finished))
    if outcome.comparison:
        out.print(standings(outcome.comparison.result))
    for line in outcome.verdict[:3]:
        out.print(line)
    out.print(sentences.accuracy(outcome.result["headline"]), style="bold")
    for line in decided_lines(outcome.result):
        out.print(line)
    if outcome.result.get("forecast"):
        out.print(sentences.forecast(outcome.result["forecast"]))
    if outcome.recommended not in (None, outcome.strategy):
        out.print(f"The advice had recommended {outcome.recommended}.")
    spent, budget = minutes(outcome.seconds), limit_text(outcome.budget_seconds)
    on_every_image = outcome.comparison is None or outcome.comparison.every_image
    suffix = "; the model was trained on all train and val images" if on_every_image else ""
    out.print(f"{spent} of {budget}{suffix}.")
    for line in _other_run_lines(outcome.result["predicting"]):
        out.print(line)
    command = f"frostline predict {shlex.quote(str(outcome.study))} IMAGES"
    out.print(f"\n  {command}", soft_wrap=True)


def limit_text(seconds: float) -> str:
    """Return a time limit as --minutes takes it: one and a half are not two."""
    return f"{round(seconds / 60, 1):g} min" if 60 <= seconds < 600 else minutes(seconds)
