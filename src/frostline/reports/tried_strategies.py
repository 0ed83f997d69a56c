"""The strategies of a study as rows: accuracy, cost, and the lowest stage trained. Imports no torch.

The rows are a comparison's candidates, or single runs where strategies were trained one by one. Runs of one
strategy on several folds and repeats are one row.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from frostline import metrics, strategies
from frostline.errors import UsageError
from frostline.reports.study_reader import RunContents, StudyContents, read_predictions
from frostline.sentences import Basis
from frostline.studies.trial_records import TrialRecord


@dataclass(frozen=True)
class Row:
    """One strategy that was run. Accuracies are on images it was not trained on, with a 95 % interval."""

    key: str  # unique, and valid as an id in a page
    strategy: str
    augment: str
    accuracy: float | None
    low: float | None
    high: float | None
    seconds: float | None  # of one run
    predicted_s: float | None
    runs: tuple[RunContents, ...]  # that the metrics are computed from
    count: int  # of all its runs, short ones too
    repeats: int
    epoch_share: float  # trained share of its epochs, below 1 where it was eliminated before a complete run
    cut: int | None  # stages below it stay frozen throughout
    winner: bool
    evaluated_on: str  # the images that the accuracy is measured on
    stopped: bool = False
    folds_done: str = ""  # of its first repeat, where it was eliminated before the repeat ended
    model: str = ""  # empty where all rows have the same backbone
    candidate: int | None = None  # its number in a finished comparison
    parent: str = ""  # the run that it continued from
    size: int | None = None  # of its images in pixels, where the rows differ in it

    @property
    def title(self) -> str:
        """Return the row's name, with what tells it from others: its parent run, size and backbone."""
        name = f"{self.strategy} after {self.parent}" if self.parent else self.strategy
        name = f"{name} at {self.size} px" if self.size else name
        return f"{name} on {self.model}" if self.model else name

    @property
    def is_linear_probe(self) -> bool:
        """Return whether it is a linear probe; not if its notation is of another version."""
        try:
            return strategies.parse(self.strategy).name == "linear_probe"
        except UsageError:
            return False

    @property
    def complete(self) -> bool:
        """Return whether its metrics are of complete schedules."""
        return self.epoch_share == 1.0 and not self.stopped and not self.folds_done

    @property
    def example_run(self) -> RunContents | None:
        """Return one of its runs, to show in detail."""
        return self.runs[0] if self.runs else None


def strategy_rows(contents: StudyContents) -> list[Row]:
    """Return a row for each strategy that was run, the best first."""
    comparison = contents.comparison
    if comparison is not None and comparison.result is not None:
        rows = [
            _standing_row(contents, standing, number)
            for number, standing in enumerate(comparison.result["standings"])
        ]
    elif comparison is not None:
        rows = _unfinished_rows(contents)
    else:
        rows = _single_run_rows(contents)
    return rows


def strategy_count(contents: StudyContents, rows: Sequence[Row]) -> int:
    """Return the number of strategies with a run: of a comparison, as stored in its result."""
    comparison = contents.comparison
    if comparison is not None and comparison.result is not None:
        return int(comparison.result["strategies_tried"])
    return len({row.title for row in rows if row.count})


def run_count(contents: StudyContents, rows: Sequence[Row]) -> int:
    """Return the number of runs: of a comparison, as stored in its result."""
    comparison = contents.comparison
    if comparison is not None and comparison.result is not None:
        return int(comparison.result["runs"])
    return sum(row.count for row in rows)


def runs_s(contents: StudyContents) -> float:
    """Return the seconds of all runs that are counted, in whichever command they were made."""
    comparison = contents.comparison
    if comparison is not None and comparison.result is not None:
        return sum(float(row["seconds"]) for row in comparison.result["standings"])
    return sum(float(run.result["seconds"]) for run in contents.all_runs if run.result)


def rows_of_backbone(contents: StudyContents, rows: Iterable[Row]) -> list[Row]:
    """Return the rows of the chosen backbone, which the study's advice and stages describe."""
    name = (contents.backbone or {}).get("model")
    return [row for row in rows if row.model in ("", name)]


def pareto_front(rows: Iterable[Row]) -> list[Row]:
    """Return the Pareto-optimal rows in run time and accuracy, the cheapest first."""
    candidates = [
        row for row in rows if row.accuracy is not None and row.seconds is not None and row.complete
    ]
    front: list[Row] = []
    for row in sorted(candidates, key=lambda r: (r.seconds or 0.0, -(r.accuracy or 0.0))):
        if not front or (row.accuracy or 0.0) > (front[-1].accuracy or 0.0):
            front.append(row)
    return front


def stage_count(contents: StudyContents, run: RunContents | None = None) -> int | None:
    """Return the number of stages of the network, the head included."""
    backbone = (run.backbone if run and run.backbone else None) or contents.backbone
    stages = (backbone or {}).get("stages")
    return len(stages) if isinstance(stages, list) and stages else None


def resolved_phases(contents: StudyContents, run: RunContents) -> tuple[strategies.ResolvedPhase, ...]:
    """Return a run's phases as training resolved them; none for a head fitted in closed form."""
    stages, images = stage_count(contents, run), _train_size(run)
    if stages is None or images is None:
        return ()
    batch, parent = int(run.config.get("batch_size", 32)), run.config.get("parent")
    if parent:
        return strategies.continued(
            strategies.parse(run.strategy),
            cut=lowest_cut(contents, run.strategy, run) or 0,
            images=images,
            batch=batch,
            epochs=parent["extra_epochs"],
            lr=parent["lr"],
        )
    return strategies.schedule(
        strategies.parse(run.strategy),
        stages=stages,
        images=images,
        batch=batch,
        lr_factor=float(run.config.get("lr_factor", 1.0)),
    )


def _train_size(run: RunContents) -> int | None:
    """Return the number of training images."""
    if run.result is not None:
        return int(run.result["n_train"])
    return None


def lowest_cut(contents: StudyContents, name: str, run: RunContents | None) -> int | None:
    """Return the lowest stage that a strategy trains."""
    stages = stage_count(contents, run)
    if stages is None:
        return None
    try:
        phases = strategies.schedule(strategies.parse(name), stages=stages, images=1000, batch=32)
    except UsageError:  # written by another version
        return None
    return min((phase.cut for phase in phases), default=stages - 1)


def _standing_row(contents: StudyContents, standing: dict[str, Any], number: int) -> Row:
    """Return the row of one candidate of a finished comparison."""
    assert contents.comparison is not None
    assert contents.comparison.result is not None
    result, name = contents.comparison.result, str(standing["strategy"])
    epoch_share = (
        float(standing["share"]) if _is_trained(name) else 1.0
    )  # closed-form heads have no short runs
    trials = frozenset(standing["trials"])
    runs = tuple(run for run in contents.split_runs if run.path in trials and run.result is not None)
    cell_count, folds = int(standing.get("folds", 0)), int(result["folds"])
    eliminated = epoch_share == 1.0 and not standing["repeats"] and 0 < cell_count < folds
    return Row(
        key=f"tried-{number}",
        strategy=name,
        augment=str(standing["augment"]),
        accuracy=_optional_float(standing["accuracy"]),
        low=_optional_float(standing["low"]),
        high=_optional_float(standing["high"]),
        seconds=_optional_float(standing["run_seconds"]),
        predicted_s=_optional_float(standing["predicted_seconds"]) if epoch_share == 1.0 else None,
        runs=runs,
        count=int(standing["runs"]),
        repeats=int(standing["repeats"]),
        epoch_share=epoch_share,
        cut=lowest_cut(contents, name, runs[0] if runs else None),
        winner=bool(standing["winner"]),
        evaluated_on="held-out images",
        folds_done=f"{cell_count} of {folds} folds" if eliminated else "",
        model=str(standing.get("model", "")),
        candidate=int(standing["candidate"]),
    )


def _unfinished_rows(contents: StudyContents) -> list[Row]:
    """Return the rows of an unfinished comparison, from the trials that are finished.

    As in a finished one, the metrics are of each candidate's longest runs.
    """
    assert contents.comparison is not None
    finished = {run.path: run for run in contents.split_runs if run.result is not None}
    by_candidate: dict[int, list[TrialRecord]] = {}
    for trial in contents.comparison.trials:
        if trial.run in finished:
            by_candidate.setdefault(trial.candidate, []).append(trial)
    rows = []
    for candidate, trials in sorted(by_candidate.items()):
        name, share = trials[0].strategy, max(trial.share for trial in trials)
        paths = sorted({trial.run for trial in trials if trial.share == share})
        runs = tuple(finished[path] for path in paths)
        results = [run.result for run in runs if run.result is not None]
        row = Row(
            key=f"tried-{candidate}",
            strategy=name,
            augment=trials[0].augment,
            accuracy=statistics.fmean(float(result["val_accuracy"]) for result in results),
            low=None,
            high=None,
            seconds=statistics.fmean(float(result["seconds"]) for result in results),
            predicted_s=None,
            runs=runs,
            count=len({trial.run for trial in trials}),
            repeats=0,
            epoch_share=share if _is_trained(name) else 1.0,
            cut=lowest_cut(contents, name, runs[0]),
            winner=False,
            evaluated_on="held-out images, so far",
            model=trials[0].model,
        )
        rows.append(_with_interval(contents, row, float((contents.comparison.plan or {}).get("spread", 1.0))))
    return sorted(rows, key=lambda row: -(row.accuracy or 0.0))


def _single_run_rows(contents: StudyContents) -> list[Row]:
    """Return a row for each single run: evaluated on val where all have one, else on the test set."""
    finished = [run for run in contents.runs if run.result is not None]
    on_val = bool(finished) and all((run.result or {}).get("val_accuracy") is not None for run in finished)
    rows = [_run_row(contents, run, number, on_val) for number, run in enumerate(finished)]
    sizes = [_size(run) for run in finished]
    if len(set(sizes)) > 1:
        rows = [replace(row, size=size) for row, size in zip(rows, sizes, strict=True)]
    return sorted(rows, key=lambda row: (-(row.accuracy or 0.0), row.seconds or 0.0, row.strategy))


def _size(run: RunContents) -> int | None:
    preprocessing = run.config.get("preprocessing")
    return preprocessing.get("size") if isinstance(preprocessing, dict) else None


def _run_row(contents: StudyContents, run: RunContents, number: int, on_val: bool) -> Row:
    result = run.result or {}
    row = Row(
        key=f"tried-{number}",
        strategy=run.strategy,
        augment=str(result.get("augment", run.config.get("augment"))),
        accuracy=_optional_float(result["val_accuracy"] if on_val else result["accuracy"]),
        low=None if on_val else _optional_float(result["low"]),
        high=None if on_val else _optional_float(result["high"]),
        seconds=_optional_float(result["seconds"]),
        predicted_s=None,
        runs=(run,),
        count=1,
        repeats=1,
        epoch_share=1.0,
        cut=lowest_cut(contents, run.strategy, run),
        winner=contents.best_run is not None and run.path == contents.best_run.path,
        evaluated_on="the val set" if on_val else "the test set",
        stopped=bool(result.get("stopped")),
        parent=str((run.config.get("parent") or {}).get("run", "")),
    )
    return _with_interval(contents, row) if on_val else row


def _with_interval(contents: StudyContents, row: Row, spread: float = 1.0) -> Row:
    """Add the accuracy's interval from the runs' predictions, over groups of images where there are any.

    `spread` widens it, see `metrics.rate_interval`.
    """
    correct: dict[str, list[float]] = {}
    for run in row.runs:
        predictions = read_predictions(contents, run.folder / "predictions-val.csv", Basis.VAL)
        if predictions is None:
            return row
        for path, is_correct in zip(
            predictions.paths, (predictions.predicted == predictions.targets).tolist(), strict=True
        ):
            correct.setdefault(path, []).append(float(is_correct))
    units = None
    if contents.data is not None:
        by_path = {sample.path: sample for sample in contents.data.samples}
        if all(path in by_path for path in correct):
            units = contents.data.units([by_path[path] for path in correct])
    rates = np.array([statistics.fmean(correct_flags) for correct_flags in correct.values()])
    low, high = metrics.rate_interval(rates, units, spread)
    return replace(row, low=low, high=high)


def _is_trained(name: str) -> bool:
    try:
        return strategies.parse(name).trains
    except UsageError:
        return True


def _optional_float(value: Any) -> float | None:
    return None if value is None else float(value)


def epoch_curves(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return loss and accuracy by epoch: the mean over a row's runs, and their range."""
    points = []
    for row in rows:
        lengths = [len(run.epochs) for run in row.runs if run.epochs]
        for epoch in range(max(lengths, default=0)):
            lines = [run.epochs[epoch] for run in row.runs if len(run.epochs) > epoch]
            for key, series in (("loss", "training"), ("val_loss", "held out"), ("val_accuracy", "accuracy")):
                values = [float(line[key]) for line in lines if line.get(key) is not None]
                if values:
                    points.append(
                        {
                            "row": row.key,
                            "epoch": epoch + 1,
                            "what": series,
                            "value": round(statistics.fmean(values), 5),
                            "low": round(min(values), 5),
                            "high": round(max(values), 5),
                        }
                    )
    return points
