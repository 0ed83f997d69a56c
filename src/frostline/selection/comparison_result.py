"""The result of a comparison, and what an earlier call wrote of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline import sentences
from frostline.reports import notebook
from frostline.selection.outcome_text import titled
from frostline.studies.predicting_runs import COMPARISON
from frostline.studies.result_fields import AccuracyFigures, Figure, Rows
from frostline.studies.study_folder import Study
from frostline.training import Run


@dataclass(frozen=True)
class Comparison(AccuracyFigures):
    """Result of `compare`. Keys of `result` are also attributes.

    Parameters
    ----------
    result
        Contents of `comparison.json`: `standings` (one for each candidate), `winner`, `separated`, `verdict`
        (sentences), `seconds`, `budget_seconds` and more; and `predicting`, the run that `predict` uses now.
    folder
        Folder of the comparison.
    study
        The study.
    run
        The winner, trained on every image.
    reused
        Whether all of it was finished before and read back.
    """

    result: dict[str, Any]
    folder: Path
    study: Study
    run: Run
    reused: bool = False

    winner = Figure[str]("The winner's strategy.")
    augment = Figure[str]("Its augmentation.")
    loads_in = Figure[list[str]]("Libraries that load the winner's weights without a loader of frostline's.")
    separated = Figure[bool]("Whether it is significantly better than the next one.")
    finished = Figure[bool]("Whether everything planned was run.")
    ended_because = Figure[str]("Why no more was run.")
    cuts = Figure[bool]("Whether the candidates were cuts.")
    left_out = Figure[list[str]]("Candidates that no run was made of.")
    promising = Figure[list[str]]("Candidates ahead on the folds they were seen on, which are not all.")
    repeats = Figure[int]("Repeats that every judged candidate has.")
    folds = Figure[int]("Folds of a repeat.")
    judged_on_folds = Figure[int]("Folds of a repeat that candidates were judged on.")
    metric = Figure[str]("What decided.")
    standings = Figure[Rows]("One row a candidate, the best first.")
    strategies_tried = Figure[int]("Candidates that were run.")
    runs = Figure[int]("Runs of all of them.")
    differences = Figure[Rows]("The winner's lead over each other candidate, with interval.")
    over_leader = Figure[dict[str, float | None] | None](
        "Where the winner is not who scored best: its score less the other's: measured, earlier, expected."
    )
    out_of_fold = Figure[dict[str, Any]]("The winner's figures on images that its runs held out.")
    interpolation = Figure[dict[str, Any] | None]("How far back to the pretrained weights, and the points.")
    operating_point = Figure[dict[str, Any] | None]("How the winner decides, where one was asked for.")
    early_stopping = Figure[dict[str, Any] | None](
        "Of `patience`: it, after how many epochs of those planned the winner stops, what its runs saved."
    )
    every_image = Figure[bool]("Whether the winner was trained on every image that may be learned from.")
    accuracy = Figure[float | None]("Share of test images predicted correctly, 0–1; None without any.")
    test_evaluations = Figure[int | None]("Configurations that have read this test set.")
    seconds = Figure[float]("Wall time, those of resumed calls included.")
    budget_seconds = Figure[float | None]("The limit.")
    ended = Figure[str]("When, ISO 8601 in UTC.")
    model = Figure[str]("The winner's backbone.")
    models = Figure[list[str] | None]("All backbones, where there were several.")
    options = Figure[dict[str, Any]]("What the call was given.")
    joined = Figure[list[Any]]("Candidates that joined from earlier runs.")
    not_compared = Figure[Rows]("Earlier runs that were not compared, and why.")
    evaluation = Figure[dict[str, Any]]("How the winner was evaluated: folds and scores.")
    predicting = Figure[dict[str, Any] | None]("The run that `predict` uses now.")
    headline = Figure[dict[str, Any]]("The accuracy to report, with its basis.")
    verdict = Figure[list[str]]("The outcome in sentences.")

    def __repr__(self) -> str:
        """Return two lines: the winner and its accuracy."""
        tried = f"{self.strategies_tried} tried in {sentences.counted(self.runs, 'run')}"
        first = f"<Comparison: {titled(self.result)} of {tried}; in {self.study.path}"
        return f"{first}\n{sentences.accuracy(self.headline)}>"

    def _repr_html_(self) -> str:
        """Return an HTML table for notebooks."""
        shown = ("model", "strategy", "accuracy", "low", "high", "run_seconds", "repeats")
        rows = [{key: row[key] for key in shown if key in row} for row in self.result["standings"]]
        return notebook.table_html("Comparison", rows, self.result["verdict"])

    def to_pandas(self) -> Any:
        """Return the standings, a row for each strategy. Raises `UsageError` if pandas is not installed."""
        return notebook.frame(self.result["standings"])

    def plot(self) -> notebook.Plot:
        """Return a plot of accuracy against seconds."""
        return notebook.standings_plot(self.result["standings"])


def read_result(folder: Path) -> dict[str, Any] | None:
    """Return the result that an earlier call wrote to a comparison's folder; `None` if there is none."""
    try:
        return dict(json.loads((folder / COMPARISON).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # a damaged file is written anew
        return None
