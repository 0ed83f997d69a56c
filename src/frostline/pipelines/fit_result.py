"""The result of `fit`: the model, its accuracy and how it was chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from frostline import sentences
from frostline.advice import Advice
from frostline.diagnostics import Signals
from frostline.reports import notebook
from frostline.selection import Comparison
from frostline.studies.result_fields import AccuracyFigures, Figure, ProbabilityFigures, Rows
from frostline.training import Run


@dataclass(frozen=True)
class Fitted(AccuracyFigures, ProbabilityFigures):
    """Result of `fit`. Keys of `result` are also attributes.

    Parameters
    ----------
    result
        Every figure.
    run
        The run whose model predicts.
    comparison
        The comparison; `None` if there was no time for a single run.
    signals, advice
        What was measured and recommended; `None` if there was no time to measure the network.
    reused
        Whether all of it was finished before and read back.
    """

    result: dict[str, Any]
    run: Run
    comparison: Comparison | None
    signals: Signals | None
    advice: Advice | None
    reused: bool = False

    strategy = Figure[str]("The strategy of the model that predicts.")
    loads_in = Figure[list[str]]("Libraries that load its weights without a loader of frostline's.")
    accuracy = Figure[float | None]("Share of new images predicted correctly (see `basis`), 0–1.")
    basis = Figure[str]("What the accuracy rests on: test set, out of fold or cross-validation.")
    optimism = Figure[float | None]("How much choosing the best made of it, taken off; 0–1.")
    operating_point = Figure[dict[str, Any] | None]("How the model decides, where one was asked for.")
    headline = Figure[dict[str, Any]]("The accuracy to report, with its basis.")
    accuracy_of = Figure[dict[str, Any]]("The model and runs that the accuracy is of.")
    separated = Figure[bool]("Whether the winner is significantly better than the next one.")
    tried = Figure[Rows]("One row a candidate, the best first.")
    strategies_tried = Figure[int]("Candidates that were run.")
    runs = Figure[int]("Runs of all of them.")
    verdict = Figure[list[str]]("The outcome in sentences.")
    recommended = Figure[str | None]("The strategy that the advice named.")
    forecast = Figure[dict[str, Any] | None]("What was forecast for the strategy, beside what was measured.")
    model = Figure[str]("The backbone's name.")
    models = Figure[Rows | None]("Every backbone that was considered, with reasons.")
    images = Figure[int]("Usable images.")
    seconds = Figure[float]("Wall time in seconds.")
    budget_seconds = Figure[float]("The limit in seconds.")
    options = Figure[dict[str, Any]]("What the call was given.")
    study = Figure[str]("The study's folder.")
    report = Figure[str | None]("The page; None where no time was left for it, or it can't be written.")

    def __repr__(self) -> str:
        """Return two lines: the model and its accuracy."""
        first = f"<Fitted: {self.result['strategy']} on {self.result['model']}; in {self.result['study']}"
        return f"{first}\n{sentences.accuracy(self.result['headline'])}>"

    def _repr_html_(self) -> str:
        """Return an HTML table for notebooks."""
        shown = ("strategy", "model", "accuracy", "low", "high", "basis", "seconds", "report")
        rows = [{key: self.result.get(key) for key in shown}]
        return notebook.table_html("Fitted", rows, self.result["verdict"])

    def to_pandas(self) -> Any:
        """Return the standings, a row for each strategy. Raises `UsageError` if pandas is not installed."""
        return notebook.frame(self.result["tried"])

    def plot(self) -> notebook.Plot:
        """Return a plot of accuracy against seconds."""
        return notebook.standings_plot(self.result["tried"])
