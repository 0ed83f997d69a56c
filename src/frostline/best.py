"""Which run of a study is the best: one definition, for all that ask a study without naming a run.

A run is judged by images that it had not learned from, and never by the test part.

1. Runs that were judged alike are compared: those of `train` by the study's val part; winners of comparisons
   by the folds that they share; a winner, which has learned from the val part, and runs of `train` by the
   images of the val part, about which the winner's strategy was asked out of fold. The figure is the metric
   that all of them were judged by, else accuracy.
2. A strategy that raced was judged by its race: a run of it that `train` made does not meet the race's winner
   once more on fewer images.
3. Of what can't be compared the newest answers, and what was judged before what was not.

Who is newer or looks better and does not answer is named, with the reason. Imports no torch.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline.errors import StudyError, did_you_mean
from frostline.record import RunFolder, Study

LISTED = 8  # runs named in a message
SAME = ("flip", "imbalance", "batch", "views")  # settings beside the strategy that change what it learns
COMPARISON = "comparison.json"  # in a comparison's folder, written at its end


@dataclass(frozen=True)
class PassedOver:
    """A run that does not answer though it is newer or looks better, and the reason."""

    run: str
    strategy: str
    figure: str  # what it was judged by, in words
    reason: str

    def __str__(self) -> str:
        return f"{self.strategy} (run {self.run}, {self.figure}): {self.reason}"

    def as_dict(self) -> dict[str, str]:
        """As JSON holds it."""
        return {"run": self.run, "strategy": self.strategy, "figure": self.figure, "reason": self.reason}


@dataclass(frozen=True)
class Best:
    """The run that answers, why it does, and the runs that one might have expected instead."""

    folder: RunFolder
    why: str
    passed_over: tuple[PassedOver, ...] = ()


@dataclass(frozen=True)
class OnVal:
    """What was answered about the study's val part without having learned from it; higher is better."""

    accuracy: float
    metric: str
    goodness: float | None


@dataclass(frozen=True)
class Race:
    """How a winner was judged: equal `folds`, the same folds. `raced` holds each candidate's accuracy."""

    folds: str | None
    metric: str
    score: float | None
    accuracy: float | None
    raced: Mapping[tuple[str, str, str], float | None]  # by strategy, augmentation and network
    settings: Mapping[str, Mapping[str, Any]]  # of its runs, by a candidate's network
    whole: bool


@dataclass(frozen=True)
class Contender:
    """A finished run that may answer: one of `train`, or, with a race, a comparison's winner."""

    folder: RunFolder
    strategy: str
    ended: str
    on_val: OnVal | None
    config: Mapping[str, Any]
    stopped: bool = False
    race: Race | None = None

    @property
    def accuracy(self) -> float | None:
        """What it is known by."""
        if self.race is not None:
            return self.race.accuracy
        return self.on_val.accuracy if self.on_val else None

    @property
    def figure(self) -> str:
        """What it was judged by, in words."""
        if self.accuracy is None:
            return "judged by no val part"
        rate = f"{100 * self.accuracy:.1f} %"
        return f"{rate} out of fold" if self.race else f"val {rate}"


def passed_over_line(runs: Sequence[PassedOver]) -> str:
    """Name the runs that were passed over, in one sentence, and not too many; empty where there is none."""
    more = f"; and {len(runs) - LISTED} more" if runs[LISTED:] else ""
    return f"Passed over: {'; '.join(map(str, runs[:LISTED]))}{more}." if runs else ""


def best_of(study: Study, name: str | None = None) -> Best:
    """Return the run called `name` (or its start), else the best.

    Raises `StudyError` where no run is finished, none or several are called so, or a file is damaged.
    """
    if name is not None:
        return Best(_called(study, name), "as asked for")
    winners = _winners(study)
    trained = trained_runs(study)
    if winners:
        return _with_winners(winners, trained)
    at_work = _at_work(study)
    if not trained:
        if at_work is None:
            raise _nothing(study)
        return at_work
    found = _of_trained(trained)
    if at_work is not None and _ended(at_work.folder) > found.folder.ended:
        figures = {run.folder.path: run for run in trained}
        over = _named(figures[found.folder.path], "judged on other images, and older")
        return Best(at_work.folder, at_work.why, (over,))
    return found


def answers_already(study: Study) -> bool:
    """Whether something finished answers, so that a comparison at work need not offer its leader."""
    return bool(study.runs() or _winners(study))


def trained_runs(study: Study) -> list[Contender]:
    """Return the finished runs that `train` made in this study, those first that ended first."""
    found = []
    for folder in study.runs():
        config, result = folder.read("config.json"), folder.read("result.json")
        if not isinstance(config, dict) or not isinstance(config.get("strategy"), str):
            raise StudyError(
                f"{folder.path / 'config.json'} is damaged: it names no strategy. Remove the run's folder, "
                "or name another run with --run."
            )
        on_val = _on_val(result.get("val_accuracy"), config.get("metric"), result.get("val_goodness"))
        stopped = bool(result.get("stopped"))
        found.append(Contender(folder, config["strategy"], folder.ended, on_val, config, stopped))
    return found


def apart_from(study: Study, outcome: Mapping[str, Any]) -> list[PassedOver]:
    """Return the runs of `train` whose strategies a comparison's outcome doesn't hold, with the reasons."""
    race = _race(outcome)
    reasons = {str(row["run"]): str(row["reason"]) for row in outcome.get("apart") or ()}
    found = []
    for run in trained_runs(study) if race.settings else ():
        if not _judged_by(run, [race]):
            late = unlike(run, race.settings) or "it was trained after the comparison"
            found.append(_named(run, reasons.get(run.folder.name, late)))
    return found


def unlike(run: Contender, settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Say how a run of `train` was made unlike the runs of a comparison; nothing where it was made alike.

    `settings` are a comparison's, by a candidate's network.
    """
    config = run.config
    mine = [known for known in settings.values() if known["weights"] == config.get("weights")]
    if not mine:
        return f"trained on another network, {config.get('model')}"
    size = (config.get("preprocessing") or {}).get("size")
    if all(known["preprocessing"] != config.get("preprocessing") for known in mine):
        other = all(known["preprocessing"].get("size") != size for known in mine)
        return f"trained at {size} px" if other else "trained with another preprocessing"
    apart = [f"{key}={config.get(key)}" for key in SAME if config.get(key) != mine[0][key]]
    if str(config.get("augment")).startswith("custom"):
        apart.append("an augmentation of its own")
    if config.get("interpolate") is not None:
        apart.append(f"interpolate={config['interpolate']}")
    if apart:
        return f"trained with {', '.join(apart)}"
    return "stopped by its time limit" if run.stopped else ""


def network_of(run: Contender, settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Return by which name a comparison calls the network of a run that is not unlike its own."""
    same = (run.config.get("weights"), run.config.get("preprocessing"))
    return next(
        name for name, known in settings.items() if (known["weights"], known["preprocessing"]) == same
    )


def _with_winners(winners: Sequence[Contender], trained: Sequence[Contender]) -> Best:
    """Return who is best where a comparison has ended; `winners` in the order in which they ended."""
    newest = winners[-1]
    alike = [one for one in winners if one is newest or (_folds(one) and _folds(one) == _folds(newest))]
    lead = _leading(alike)
    races = [one.race for one in alike if one.race]
    raced = {run.folder.path: reason for run in trained if (reason := _judged_by(run, races))}
    rivals = [run for run in trained if run.on_val and run.folder.path not in raced]
    chosen, why = lead, _why(lead)
    if rivals:
        rival = _best_on_val(rivals)
        if lead.on_val is None:
            newer = rival.ended > lead.ended
            apart = (
                f"it and the winner of the comparison, {lead.strategy}, were not judged on the same images"
            )
            chosen, why = (rival, f"the newest: {apart}") if newer else (lead, why)
        elif _best_on_val([rival, lead]) is rival:  # the winner where both are as good
            word = _figure_of([rival, lead])[1]
            there = f"{100 * lead.on_val.accuracy:.1f} % right there, out of fold"
            chosen = rival
            why = (
                f"the best by {word} on val, {100 * (rival.on_val or lead.on_val).accuracy:.1f} % right, "
                f"ahead of the winner of the comparison, {lead.strategy} ({there})"
            )
    over = []
    for one in (*trained, *winners):
        if one is chosen or not (one is lead or _notable(one, chosen)):
            continue
        if one.folder.path in raced:
            reason = raced[one.folder.path]
        elif one.race:
            reason = _why_not_winner(one, lead, alike)
        elif one.on_val is None:
            reason = "no val part judges it"
        elif lead.on_val is None and chosen is lead:
            reason = "judged on other images, and older"
        else:
            reason = f"no better by {_figure_of([one, chosen])[1]} on the same val images" + (
                f" ({100 * lead.on_val.accuracy:.1f} % out of fold)" if chosen is lead and lead.on_val else ""
            )
        over.append(_named(one, reason))
    return Best(chosen.folder, why, tuple(over))


def _why_not_winner(one: Contender, lead: Contender, alike: Sequence[Contender]) -> str:
    if one is lead:
        return "the comparison's winner; see why the other answers"
    return "no better on the same folds" if one in alike else "judged on other folds, and older"


def _of_trained(trained: Sequence[Contender]) -> Best:
    """Return who is best among runs of `train` alone."""
    judged = [run for run in trained if run.on_val]
    if not judged:
        others = [run.folder for run in trained[:-1]]
        more = f"; name another with --run: {_listed(others)}" if others else ""
        return Best(trained[-1].folder, f"the newest, since no run has a val part to choose by{more}")
    chosen, word = _best_on_val(judged), _figure_of(judged)[1]
    over = [
        _named(run, f"no better by {word} on the same val part" if run.on_val else "no val part judges it")
        for run in trained
        if run is not chosen and _notable(run, chosen)
    ]
    return Best(chosen.folder, f"the best of {len(judged)} by {word} on val", tuple(over))


def _notable(one: Contender, chosen: Contender) -> bool:
    """Whether somebody might have expected it to answer: it is newer, or looks better."""
    shown = [c.accuracy for c in (one, chosen)]
    if one.on_val and chosen.on_val:
        shown = [one.on_val.accuracy, chosen.on_val.accuracy]
    better = shown[0] is not None and shown[1] is not None and shown[0] > shown[1]
    return better or one.ended > chosen.ended


def _judged_by(run: Contender, races: Sequence[Race]) -> str:
    """Say that a race has judged a run's strategy; nothing where none has."""
    for race in races:
        if not race.settings or unlike(run, race.settings):
            continue
        key = (run.strategy, str(run.config.get("augment")), network_of(run, race.settings))
        if key in race.raced:
            rate = race.raced[key]
            figure = "" if rate is None else f", {100 * rate:.1f} % out of fold"
            return f"its strategy raced and was judged there{figure}"
    return ""


def _figure_of(contenders: Sequence[Contender]) -> tuple[list[float], str]:
    """Return the figures on val that contenders are compared by, and the metric's name."""
    figures = [one.on_val for one in contenders if one.on_val]
    goodness = [figure.goodness for figure in figures if figure.goodness is not None]
    if len({figure.metric for figure in figures}) == 1 and len(goodness) == len(figures):
        return goodness, figures[0].metric
    return [figure.accuracy for figure in figures], "accuracy"


def _best_on_val(contenders: Sequence[Contender]) -> Contender:
    """Return the best on val; of equals the last."""
    figures, _ = _figure_of(contenders)
    return contenders[max((figure, place) for place, figure in enumerate(figures))[1]]


def _leading(alike: Sequence[Contender]) -> Contender:
    """Return the best of winners that were judged on the same folds; of equals the newest."""
    races = [one.race for one in alike if one.race]
    scores = [race.score for race in races if race.score is not None]
    if len({race.metric for race in races}) > 1 or len(scores) < len(races):
        scores = [race.accuracy or 0.0 for race in races]
    return alike[max((score, place) for place, score in enumerate(scores))[1]]


def _why(lead: Contender) -> str:
    assert lead.race is not None
    learned = ", trained on train and val" if lead.race.whole else "; no time was left to train it on all"
    return f"the winner of the comparison{learned}"


def _folds(one: Contender) -> str | None:
    return one.race.folds if one.race else None


def _named(one: Contender, reason: str) -> PassedOver:
    return PassedOver(one.folder.name, one.strategy, one.figure, reason)


def _winners(study: Study) -> list[Contender]:
    """Return the winners of comparisons that have ended, those first that ended first."""
    found: dict[Path, Contender] = {}
    for file in sorted((study.path / "comparisons").glob(f"*/{COMPARISON}")):
        winner = _winner(study, file)
        known = found.get(winner.folder.path)  # two comparisons may end with one and the same run
        if known is None or (winner.race and known.race and len(winner.race.raced) > len(known.race.raced)):
            found[winner.folder.path] = winner
    return sorted(found.values(), key=lambda one: (one.ended, one.folder.name))


def _winner(study: Study, file: Path) -> Contender:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        folder, judged = study.run_at(told.get("run")), told.get("judged") or {}
        val = judged.get("val") or {}
        on_val = _on_val(val.get("accuracy"), told["metric"], val.get("goodness"))
        return Contender(folder, str(told["winner"]), _ended(folder), on_val, {}, race=_race(told))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StudyError(
            f"{file} is damaged ({str(error)[:80] or type(error).__name__}). Expected what `compare` leaves: "
            "give its command again, or name a run with --run."
        ) from None


def _race(told: Mapping[str, Any]) -> Race:
    """Read how a comparison judged."""
    judged, rows = told.get("judged") or {}, [row for row in told["standings"] if row["runs"]]
    names = [(str(row["strategy"]), str(row["augment"]), str(row.get("model", ""))) for row in rows]
    return Race(
        folds=judged.get("folds"),
        metric=str(told["metric"]),
        score=_number(judged.get("score")),
        accuracy=_number(judged.get("accuracy")),
        raced={name: _number(row["accuracy"]) for name, row in zip(names, rows, strict=True)},
        settings=dict(judged.get("settings") or {}),
        whole=bool(told.get("every_image", True)),
    )


def _at_work(study: Study) -> Best | None:
    """Return the leader that a comparison at work has offered."""
    told = study.answer
    return None if told is None else Best(study.run_at(told.get("run")), str(told.get("why")))


def _ended(folder: RunFolder) -> str:
    return folder.ended if folder.finished else ""


def _on_val(accuracy: object, metric: object, goodness: object) -> OnVal | None:
    right = _number(accuracy)
    return None if right is None else OnVal(right, str(metric), _number(goodness))


def _number(value: object) -> float | None:
    known = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if known else None  # type: ignore[arg-type]


def _nothing(study: Study) -> StudyError:
    return StudyError(f"{study.path} holds no finished run yet. Run `frostline train` on it first.")


def _called(study: Study, name: str) -> RunFolder:
    """Return the run whose name begins so: of `train`, or a comparison's winner."""
    known = {run.path: run for run in study.runs()}
    with contextlib.suppress(StudyError):  # a damaged comparison keeps nobody from naming another run
        known |= {winner.folder.path: winner.folder for winner in _winners(study)}
    runs = list(known.values())
    if not runs:
        raise _nothing(study)
    found = [run for run in runs if run.name.startswith(name)]
    if len(found) == 1:
        return found[0]
    names = [run.name for run in runs]
    raise StudyError(
        f"{len(found)} runs of {study.path} begin with {name!r}.{did_you_mean(name, names)} "
        f"Finished runs: {_listed(runs)}."
    )


def _listed(runs: list[RunFolder]) -> str:
    """Name runs with their strategies, the newest first, and not too many."""
    named = [f"{run.name} ({run.read('config.json')['strategy']})" for run in reversed(runs)]
    return ", ".join(named[:LISTED]) + (f" and {len(named) - LISTED} more" if named[LISTED:] else "")
