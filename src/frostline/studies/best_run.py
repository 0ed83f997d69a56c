"""Which run of a study is the best: one definition, for all that ask a study without naming a run.

A run is judged by images that it had not learned from, and never by the test part.

1. Runs that were judged alike are compared: those of `train` by the study's val part; winners of comparisons
   by the folds that they share; a winner, which has learned from the val part, and runs of `train` by the
   images of the val part, about which the winner's strategy was asked out of fold. The figure is the metric
   that all of them were judged by, else accuracy. A winner gives way only where chance would not do it: a val
   part is small beside the folds, and has chosen the epoch that a run of `train` ended with.
2. A strategy that raced was judged by its race: a run of it that `train` made does not meet the race's winner
   once more on fewer images.
3. Of what can't be compared the newest answers, and what was judged before what was not.

Who is newer or looks better and does not answer is named, with the reason. Imports no torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from frostline.errors import StudyError, did_you_mean
from frostline.studies.contenders import (
    Contender,
    Race,
    ended_of,
    network_of,
    race_of,
    separated,
    trained_runs,
    unlike,
    winners_of,
)
from frostline.studies.study_folder import RunFolder, Study

LISTED = 8  # runs named in a message


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
    winners = winners_of(study)
    trained = trained_runs(study)
    if winners:
        return _with_winners(study, winners, trained)
    at_work = _at_work(study)
    if not trained:
        if at_work is None:
            raise _nothing(study)
        return at_work
    found = _of_trained(trained)
    if at_work is not None and ended_of(at_work.folder) > max(run.ended for run in trained):
        figures = {run.folder.path: run for run in trained}
        over = _named(figures[found.folder.path], "judged on other images, and older")
        return Best(at_work.folder, at_work.why, (over,))
    return found


def answers_already(study: Study) -> bool:
    """Whether something finished answers, so that a comparison at work need not offer its leader."""
    return bool(study.runs() or winners_of(study))


def apart_from(study: Study, outcome: Mapping[str, Any]) -> list[PassedOver]:
    """Return the runs of `train` whose strategies a comparison's outcome doesn't hold, with the reasons."""
    race = race_of(outcome)
    reasons = {str(row["run"]): str(row["reason"]) for row in outcome.get("apart") or ()}
    found = []
    for run in trained_runs(study) if race.settings else ():
        if not _judged_by(run, [race]):
            late = unlike(run, race.settings) or "trained after the comparison"
            found.append(_named(run, reasons.get(run.folder.name, late)))
    return found


def _with_winners(study: Study, winners: Sequence[Contender], trained: Sequence[Contender]) -> Best:
    """Return who is best where a comparison has ended; `winners` in the order in which they ended."""
    newest = winners[-1]
    alike = [one for one in winners if one is newest or (_folds(one) and _folds(one) == _folds(newest))]
    lead = _leading(alike)
    races = [one.race for one in alike if one.race]
    raced = {run.folder.path: said for run in trained if (said := _judged_by(run, races))}
    rivals = [run for run in trained if run.on_val and run.folder.path not in raced]
    chosen, why = _ahead(study, lead, rivals)
    over = []
    for one in (*trained, *winners):
        if one.folder.path == chosen.folder.path or not (one is lead or _notable(one, chosen)):
            continue
        reason = raced.get(one.folder.path)
        if reason is None and one.race and one is not lead:
            reason = "no better on the same folds" if one in alike else "judged on other folds, and older"
        over.append(_named(one, reason or _beside(one, chosen)))
    return Best(chosen.folder, why, tuple(over))


def _ahead(study: Study, lead: Contender, rivals: Sequence[Contender]) -> tuple[Contender, str]:
    """Return who is ahead, a comparison's winner or a run of `train` that no race has judged; and why."""
    assert lead.race is not None
    learned = ", trained on train and val" if lead.race.whole else "; no time was left to train it on all"
    winner = f"the winner of the comparison{learned}"
    if not rivals:
        return lead, winner
    rival = _best_on_val(rivals)
    if lead.on_val is None:
        if max(run.ended for run in rivals) < lead.ended:
            return lead, winner
        best = f"the best of {len(rivals)} by {_figure_of(rivals)[1]} on val"
        return rival, f"{best}; the winner of the comparison, {lead.strategy}, was judged on other images"
    if _best_on_val([rival, lead]) is lead or not separated(rival, lead, study):
        return lead, winner
    assert rival.on_val is not None
    ours, theirs = (f"{100 * one.accuracy:.1f} %" for one in (rival.on_val, lead.on_val))
    return rival, (
        f"the best by {_figure_of([rival, lead])[1]} on val, {ours} right, ahead of the winner of the "
        f"comparison, {lead.strategy} ({theirs} right there, out of fold)"
    )


def _beside(one: Contender, chosen: Contender) -> str:
    """Say why one that was not chosen was not, where no race has judged it."""
    if one.on_val is None and not one.race:
        return "no val part judges it"
    if one.on_val is None or chosen.on_val is None:
        return "judged on other images, and older"
    word = _figure_of([one, chosen])[1]
    theirs = one if one.race else chosen
    rate = f" ({100 * theirs.on_val.accuracy:.1f} % out of fold)" if theirs.race and theirs.on_val else ""
    if chosen.race and _best_on_val([one, chosen]) is one:
        return f"ahead by {word} on the same val part{rate}, but too close to call"
    return f"no better by {word} on the same val part{rate}"


def _of_trained(trained: Sequence[Contender]) -> Best:
    """Return who is best among runs of `train` alone."""
    judged = [run for run in trained if run.on_val]
    if not judged:
        others = [run.folder for run in trained[:-1]]
        more = f"; name another with --run: {_listed(others)}" if others else ""
        return Best(trained[-1].folder, f"the newest, since no run has a val part to choose by{more}")
    chosen, word = _best_on_val(judged), _figure_of(judged)[1]
    over = [
        _named(run, _beside(run, chosen)) for run in trained if run is not chosen and _notable(run, chosen)
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


def _folds(one: Contender) -> str | None:
    return one.race.folds if one.race else None


def _named(one: Contender, reason: str) -> PassedOver:
    return PassedOver(one.folder.name, one.strategy, one.figure, reason)


def _at_work(study: Study) -> Best | None:
    """Return the leader that a comparison at work has offered."""
    told = study.answer
    return None if told is None else Best(study.run_at(told.get("run")), str(told.get("why")))


def _nothing(study: Study) -> StudyError:
    return StudyError(f"{study.path} holds no finished run yet. Run `frostline train` on it first.")


def _called(study: Study, name: str) -> RunFolder:
    """Return the run whose name begins so: of `train`, or a comparison's winner."""
    known = {run.path: run for run in study.runs()}
    with contextlib.suppress(StudyError):  # a damaged comparison keeps nobody from naming another run
        known |= {winner.folder.path: winner.folder for winner in winners_of(study)}
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
