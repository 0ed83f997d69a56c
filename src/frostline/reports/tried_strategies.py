"""What was tried: each strategy with what it reached, what it cost, and where it cut. Imports no torch.

A comparison's candidates, or, where strategies were trained one by one, the runs. Runs of one strategy on
several folds and repeats are one row.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from frostline import metrics, strategies
from frostline.errors import UsageError
from frostline.reports.study_reader import RunRead, Told, answers


@dataclass(frozen=True)
class Row:
    """One thing that was tried. Accuracies are of images it had not learned from, with a 95 % interval."""

    key: str  # unlike that of every other row; fit for an id in a page
    strategy: str
    augment: str
    accuracy: float | None
    low: float | None
    high: float | None
    seconds: float | None  # of one run
    predicted_s: float | None
    runs: tuple[RunRead, ...]  # those that the figures are of
    count: int  # of all its runs, short ones too
    repeats: int
    share: float  # of its epochs, below 1 where it was left out before a whole run
    cut: int | None  # stages below it stay frozen throughout
    winner: bool
    on: str  # what the accuracy is of
    stopped: bool = False
    part: str = ""  # of its first repeat that it was seen on, where it was left out before the end
    model: str = ""  # empty where all rows are of one network

    @property
    def title(self) -> str:
        """What it is called."""
        return f"{self.strategy} on {self.model}" if self.model else self.strategy

    @property
    def whole(self) -> bool:
        """Whether its figures are of whole schedules."""
        return self.share == 1.0 and not self.stopped and not self.part

    @property
    def one(self) -> RunRead | None:
        """One of its runs, to look at."""
        return self.runs[0] if self.runs else None


def tried(told: Told) -> list[Row]:
    """Return what was tried, the best first."""
    race = told.comparison
    if race is not None and race.result is not None:
        rows = [_standing(told, found, n) for n, found in enumerate(race.result["standings"])]
    elif race is not None:
        rows = _at_work(told)
    else:
        rows = _one_by_one(told)
    return rows


def strategies_tried(told: Told, rows: Sequence[Row]) -> int:
    """Return how many strategies were tried: of a race, those with a run, as it was stored."""
    race = told.comparison
    if race is not None and race.result is not None:
        return int(race.result["strategies_tried"])
    return len({row.title for row in rows if row.count})


def runs(told: Told, rows: Sequence[Row]) -> int:
    """Return how many runs the rows are of: of a race, as it was stored."""
    race = told.comparison
    if race is not None and race.result is not None:
        return int(race.result["runs"])
    return sum(row.count for row in rows)


def of_network(told: Told, rows: Iterable[Row]) -> list[Row]:
    """Return the rows of the network that the study's advice and stages are about: the chosen one."""
    name = (told.backbone or {}).get("model")
    return [row for row in rows if row.model in ("", name)]


def pareto(rows: Iterable[Row]) -> list[Row]:
    """Return the rows than which nothing is both cheaper and better, the cheapest first."""
    known = [row for row in rows if row.accuracy is not None and row.seconds is not None and row.whole]
    found: list[Row] = []
    for row in sorted(known, key=lambda r: (r.seconds or 0.0, -(r.accuracy or 0.0))):
        if not found or (row.accuracy or 0.0) > (found[-1].accuracy or 0.0):
            found.append(row)
    return found


def stage_count(told: Told, run: RunRead | None = None) -> int | None:
    """Return how many stages the network has, the head included."""
    found = (run.backbone if run and run.backbone else None) or told.backbone
    stages = (found or {}).get("stages")
    return len(stages) if isinstance(stages, list) and stages else None


def resolved_phases(told: Told, run: RunRead) -> tuple[strategies.ResolvedPhase, ...]:
    """Return a run's phases, made concrete as training did it; none for a head that is solved for."""
    stages, images = stage_count(told, run), _learned_from(run)
    if stages is None or images is None:
        return ()
    batch = int(run.config.get("batch_size", 32))
    return strategies.schedule(strategies.parse(run.strategy), stages=stages, images=images, batch=batch)


def _learned_from(run: RunRead) -> int | None:
    """How many images the run learned from."""
    if run.result is not None:
        return int(run.result["n_train"])
    return None


def lowest_cut(told: Told, name: str, run: RunRead | None) -> int | None:
    """Return the lowest stage that learns under a strategy."""
    stages = stage_count(told, run)
    if stages is None:
        return None
    try:
        phases = strategies.schedule(strategies.parse(name), stages=stages, images=1000, batch=32)
    except UsageError:  # written by another version
        return None
    return min((phase.cut for phase in phases), default=stages - 1)


def _standing(told: Told, found: dict[str, Any], number: int) -> Row:
    """A candidate of a finished comparison."""
    assert told.comparison is not None
    assert told.comparison.result is not None
    result, name, augment = told.comparison.result, str(found["strategy"]), str(found["augment"])
    model = str(found.get("model", ""))
    share = float(found["share"]) if _trains(name) else 1.0  # a head that is solved for has no short runs
    runs = tuple(run for run in told.cells if _is_of(run, name, augment, share, model))
    cells, folds = int(found.get("cells", 0)), int(result["folds"])
    left_out = share == 1.0 and not found["repeats"] and 0 < cells < folds
    return Row(
        key=f"tried-{number}",
        strategy=name,
        augment=augment,
        accuracy=_number(found["accuracy"]),
        low=_number(found["low"]),
        high=_number(found["high"]),
        seconds=_number(found["run_seconds"]),
        predicted_s=_number(found["predicted_seconds"]) if share == 1.0 else None,
        runs=runs,
        count=int(found["runs"]),
        repeats=int(found["repeats"]),
        share=share,
        cut=lowest_cut(told, name, runs[0] if runs else None),
        winner=(name, augment) == (result["winner"], result["augment"]) and model in ("", result["model"]),
        on="images held out",
        part=f"{cells} of {folds} folds" if left_out else "",
        model=model,
    )


def _at_work(told: Told) -> list[Row]:
    """The candidates of a comparison that is not finished, as far as their runs tell."""
    groups: dict[tuple[str, str, str], list[RunRead]] = {}
    for run in told.cells:
        if run.config.get("keep") == "last" and run.result is not None:
            kind = (run.strategy, str(run.config.get("augment")), str(run.config.get("model", "")))
            groups.setdefault(kind, []).append(run)
    several = len({model for *_, model in groups}) > 1
    rows = []
    for number, ((name, augment, model), runs) in enumerate(sorted(groups.items())):
        row = Row(
            key=f"tried-{number}",
            strategy=name,
            augment=augment,
            accuracy=statistics.fmean(float(run.result["val_accuracy"]) for run in runs if run.result),
            low=None,
            high=None,
            seconds=statistics.fmean(float(run.result["seconds"]) for run in runs if run.result),
            predicted_s=None,
            runs=tuple(runs),
            count=len(runs),
            repeats=0,
            share=1.0,
            cut=lowest_cut(told, name, runs[0]),
            winner=False,
            on="images held out, so far",
            model=model if several else "",
        )
        plan = told.comparison.plan if told.comparison else None
        rows.append(_with_interval(told, row, float((plan or {}).get("spread", 1.0))))
    return sorted(rows, key=lambda row: -(row.accuracy or 0.0))


def _one_by_one(told: Told) -> list[Row]:
    """Runs that were trained one by one: judged on val where all have it, else on the test part."""
    done = [run for run in told.runs if run.result is not None]
    on_val = bool(done) and all((run.result or {}).get("val_accuracy") is not None for run in done)
    rows = [_run_row(told, run, number, on_val) for number, run in enumerate(done)]
    return sorted(rows, key=lambda row: (-(row.accuracy or 0.0), row.seconds or 0.0, row.strategy))


def _run_row(told: Told, run: RunRead, number: int, on_val: bool) -> Row:
    result = run.result or {}
    row = Row(
        key=f"tried-{number}",
        strategy=run.strategy,
        augment=str(result.get("augment", run.config.get("augment"))),
        accuracy=_number(result["val_accuracy"] if on_val else result["accuracy"]),
        low=None if on_val else _number(result["low"]),
        high=None if on_val else _number(result["high"]),
        seconds=_number(result["seconds"]),
        predicted_s=None,
        runs=(run,),
        count=1,
        repeats=1,
        share=1.0,
        cut=lowest_cut(told, run.strategy, run),
        winner=told.answering is not None and run.path == told.answering.path,
        on="the val part" if on_val else "the test part",
        stopped=bool(result.get("stopped")),
    )
    return _with_interval(told, row) if on_val else row


def _with_interval(told: Told, row: Row, spread: float = 1.0) -> Row:
    """Add the interval that the runs' own tables give: over images, and what ties them together.

    `spread` widens it, as `metrics.rate_interval` says.
    """
    right: dict[str, list[float]] = {}
    for run in row.runs:
        found = answers(told, run.folder / "predictions-val.csv", "val part")
        if found is None:
            return row
        for path, hit in zip(found.paths, (found.guesses == found.targets).tolist(), strict=True):
            right.setdefault(path, []).append(float(hit))
    units = None
    if told.data is not None:
        by_path = {sample.path: sample for sample in told.data.samples}
        if all(path in by_path for path in right):
            units = told.data.units([by_path[path] for path in right])
    rates = np.array([statistics.fmean(hits) for hits in right.values()])
    low, high = metrics.rate_interval(rates, units, spread)
    return replace(row, low=low, high=high)


def _is_of(run: RunRead, name: str, augment: str, share: float, model: str) -> bool:
    """Whether a run is one of a candidate's, with that share of its epochs."""
    if model and run.config.get("model") != model:
        return False
    if run.result is None or run.config.get("keep") != "last" or run.config.get("augment") != augment:
        return False
    images = _learned_from(run)
    try:
        return images is not None and run.strategy == str(
            strategies.scaled(strategies.parse(name), share, images)
        )
    except UsageError:
        return False


def _trains(name: str) -> bool:
    try:
        return strategies.parse(name).trains
    except UsageError:
        return True


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def curves(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return loss and accuracy by epoch: the mean over a row's runs, and their range."""
    found = []
    for row in rows:
        lengths = [len(run.epochs) for run in row.runs if run.epochs]
        for epoch in range(max(lengths, default=0)):
            lines = [run.epochs[epoch] for run in row.runs if len(run.epochs) > epoch]
            for key, what in (("loss", "training"), ("val_loss", "held out"), ("val_accuracy", "accuracy")):
                values = [float(line[key]) for line in lines if line.get(key) is not None]
                if values:
                    found.append(
                        {
                            "row": row.key,
                            "epoch": epoch + 1,
                            "what": what,
                            "value": round(statistics.fmean(values), 5),
                            "low": round(min(values), 5),
                            "high": round(max(values), 5),
                        }
                    )
    return found
