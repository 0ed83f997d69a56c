"""Which run of a study is the best: one definition, wherever a study is given without a run.

A run is judged by images that it has not learned from, and never by the test set.

1. Runs that were judged alike are compared: those of `train` by the study's val set; winners of comparisons
   by the folds that they share; a winner, which has learned from the val set, and runs of `train` by the
   images of the val set, which the winner's strategy predicted out of fold. The figure is the metric
   that all of them were judged by, else accuracy. A winner gives way only where chance would not do it: a val
   set is small beside the folds, and has chosen the epoch that a run of `train` ended with.
2. A strategy that was part of a comparison was judged there: a run of it by `train` is not compared with the
   winner once more on fewer images.
3. Of runs that cannot be compared the newest is used, and evaluated ones before those that are not.

Runs that are newer or have a higher accuracy and are not used are listed, with the reason. Imports no torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from frostline.errors import StudyError, did_you_mean
from frostline.studies.predicting_runs import (
    ComparisonResult,
    Contender,
    comparison_result,
    ended_of,
    network_of,
    setting_difference,
    significantly_better,
    trained_runs,
    winners_of,
)
from frostline.studies.run_exclusions import Reason, ReasonKind
from frostline.studies.study_folder import RunFolder, Study, study_and_run

LISTED = 8  # runs named in a message


@dataclass(frozen=True)
class PassedOver:
    """A run that is not used though it is newer or has a higher accuracy, and the reason.

    Parameters
    ----------
    run
        The name of its folder.
    strategy
        Its strategy, in notation.
    accuracy
        What it was judged by, 0–1; `None` if it was not evaluated.
    out_of_fold
        Whether that is a comparison's accuracy; else it is that of the val set.
    cause
        The reason.
    """

    run: str
    strategy: str
    accuracy: float | None
    out_of_fold: bool
    cause: Reason

    @classmethod
    def of(cls, contender: Contender, cause: Reason) -> PassedOver:
        """Return the record of a run that is passed over for this reason."""
        return cls(
            contender.folder.name,
            contender.strategy,
            contender.accuracy,
            contender.comparison is not None,
            cause,
        )

    @property
    def figure(self) -> str:
        """What it was judged by, in words."""
        if self.accuracy is None:
            return str(Reason(ReasonKind.NOT_EVALUATED))
        rate = f"{100 * self.accuracy:.1f} %"
        return f"{rate} out of fold" if self.out_of_fold else f"val {rate}"

    @property
    def reason(self) -> str:
        """The reason, in words."""
        return str(self.cause)

    def __str__(self) -> str:
        unevaluated = self.accuracy is None and self.cause.kind is ReasonKind.NOT_EVALUATED
        figure = "" if unevaluated else f", {self.figure}"  # the reason says so already
        return f"{self.strategy} (run {self.run}{figure}): {self.reason}"

    def as_dict(self) -> dict[str, str]:
        """As JSON holds it."""
        return {
            "run": self.run,
            "strategy": self.strategy,
            "figure": self.figure,
            "kind": self.cause.kind.value,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Best:
    """The run that predicts, why, and the runs that one might have expected instead."""

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
        return Best(_run_named(study, name), "as requested")
    winners = winners_of(study)
    trained = trained_runs(study)
    if winners:
        return _with_winners(study, winners, trained)
    leader = _running_leader(study)
    if not trained:
        if leader is None:
            raise _no_run_error(study)
        return leader
    best = _of_trained(trained)
    if leader is not None and ended_of(leader.folder) > max(run.ended for run in trained):
        figures = {run.folder.path: run for run in trained}
        passed_over = PassedOver.of(figures[best.folder.path], Reason(ReasonKind.OTHER_IMAGES))
        return Best(leader.folder, leader.why, (passed_over,))
    return best


def best_at(path: str | PathLike[str], name: str | None = None) -> Best:
    """Return `best_of` the study in a folder, or the run in STUDY/runs/RUN. Raises `StudyError`."""
    study, run = study_and_run(path)
    return best_of(Study.existing(study), name or run)


def predicting_run(study: Study, shown: RunFolder) -> dict[str, Any]:
    """Return the run that `predict` uses, why, and whether it is the one that a command has shown."""
    best = best_of(study)
    return {"run": best.folder.name, "why": best.why, "winner": best.folder.path == shown.path}


def has_finished_run(study: Study) -> bool:
    """Return whether a finished run predicts, so that a running comparison need not offer its leader."""
    return bool(study.runs() or winners_of(study))


def apart_from(study: Study, outcome: Mapping[str, Any]) -> list[PassedOver]:
    """Return the runs of `train` whose strategies a comparison's outcome doesn't hold, with the reasons."""
    comparison = comparison_result(outcome)
    recorded = {str(row["run"]): _recorded(row) for row in outcome.get("not_compared") or ()}
    passed_over = []
    for run in trained_runs(study) if comparison.settings else ():
        if not _judged_by(run, [comparison]):
            afterwards = Reason(ReasonKind.TRAINED_AFTERWARDS)
            reason = setting_difference(run, comparison.settings) or recorded.get(run.folder.name, afterwards)
            passed_over.append(PassedOver.of(run, reason))
    return passed_over


def _recorded(row: Mapping[str, Any]) -> Reason:
    """Return the reason in a comparison's record; records of earlier versions hold its sentence alone."""
    if "kind" not in row:
        return Reason(ReasonKind.RECORDED, str(row["reason"]))
    return Reason(ReasonKind(row["kind"]))


def _with_winners(study: Study, winners: Sequence[Contender], trained: Sequence[Contender]) -> Best:
    """Return the best run where a comparison has ended; `winners` in the order in which they ended."""
    newest = winners[-1]
    comparable = [
        contender
        for contender in winners
        if contender is newest or (_folds(contender) and _folds(contender) == _folds(newest))
    ]
    lead = _leading(comparable)
    comparisons = [contender.comparison for contender in comparable if contender.comparison]
    judged_there = {run.folder.path: reason for run in trained if (reason := _judged_by(run, comparisons))}
    rivals = [run for run in trained if run.val_score and run.folder.path not in judged_there]
    chosen, why = _ahead(study, lead, len(comparable), rivals)
    passed_over = []
    for contender in (*trained, *winners):
        if contender.folder.path == chosen.folder.path or not (
            contender is lead or _might_be_expected(contender, chosen)
        ):
            continue
        reason = judged_there.get(contender.folder.path)
        if reason is None and contender.comparison and contender is not lead:
            reason = Reason(
                ReasonKind.NOT_BETTER_ON_FOLDS if contender in comparable else ReasonKind.OTHER_FOLDS
            )
        passed_over.append(PassedOver.of(contender, reason or _beside(contender, chosen)))
    return Best(chosen.folder, why, tuple(passed_over))


def _ahead(
    study: Study, lead: Contender, comparisons: int, rivals: Sequence[Contender]
) -> tuple[Contender, str]:
    """Return the better of a winner and the runs of `train` that no comparison has judged; and why.

    `lead` is the best of so many comparisons' winners.
    """
    assert lead.comparison is not None
    learned = (
        ", trained on train and val"
        if lead.comparison.trained_on_all
        else "; no time was left to train it on all images"
    )
    winner = f"the winner of the comparison{learned}"
    if comparisons > 1:
        winner = f"the best of the winners of {comparisons} comparisons by the same folds{learned}"
    if not rivals:
        return lead, winner
    rival = _best_on_val(rivals)
    if lead.val_score is None:
        if max(run.ended for run in rivals) < lead.ended:
            return lead, winner
        best = f"the best of {len(rivals)} by {_figure_of(rivals)[1]} on val"
        return rival, f"{best}; the winner of the comparison, {lead.strategy}, was evaluated on other images"
    if _best_on_val([rival, lead]) is lead or not significantly_better(rival, lead, study):
        return lead, winner
    assert rival.val_score is not None
    rival_rate, lead_rate = (f"{100 * score.accuracy:.1f} %" for score in (rival.val_score, lead.val_score))
    return rival, (
        f"the best by {_figure_of([rival, lead])[1]} on val, accuracy {rival_rate}, ahead of the winner of "
        f"the comparison, {lead.strategy} (accuracy {lead_rate} there, out of fold)"
    )


def _beside(contender: Contender, chosen: Contender) -> Reason:
    """Return why a contender was not chosen, where no comparison has judged it."""
    if contender.val_score is None and not contender.comparison:
        return Reason(ReasonKind.NOT_EVALUATED)
    if contender.val_score is None or chosen.val_score is None:
        return Reason(ReasonKind.OTHER_IMAGES)
    metric = _figure_of([contender, chosen])[1]
    judged_out_of_fold = contender if contender.comparison else chosen
    rate = (
        judged_out_of_fold.val_score.accuracy
        if judged_out_of_fold.comparison and judged_out_of_fold.val_score
        else None
    )
    ahead = chosen.comparison and _best_on_val([contender, chosen]) is contender
    return Reason(ReasonKind.NOT_SIGNIFICANT if ahead else ReasonKind.NOT_BETTER, metric, rate)


def _of_trained(trained: Sequence[Contender]) -> Best:
    """Return the best among runs of `train` alone."""
    judged = [run for run in trained if run.val_score]
    if not judged:
        older = [run.folder for run in trained[:-1]]
        more = f"; name another with --run: {_listed(older)}" if older else ""
        return Best(trained[-1].folder, f"the newest, since no run was evaluated on a val set{more}")
    chosen, word = _best_on_val(judged), _figure_of(judged)[1]
    passed_over = [
        PassedOver.of(run, _beside(run, chosen))
        for run in trained
        if run is not chosen and _might_be_expected(run, chosen)
    ]
    return Best(chosen.folder, f"the best of {len(judged)} by {word} on val", tuple(passed_over))


def _might_be_expected(contender: Contender, chosen: Contender) -> bool:
    """Return whether a user might have expected it to be used: it is newer, or has a higher accuracy."""
    accuracies = [c.accuracy for c in (contender, chosen)]
    if contender.val_score and chosen.val_score:
        accuracies = [contender.val_score.accuracy, chosen.val_score.accuracy]
    better = accuracies[0] is not None and accuracies[1] is not None and accuracies[0] > accuracies[1]
    return better or contender.ended > chosen.ended


def _judged_by(run: Contender, comparisons: Sequence[ComparisonResult]) -> Reason | None:
    """Return the reason where a comparison has judged a run's strategy; `None` where none has."""
    for comparison in comparisons:
        if not comparison.settings or setting_difference(run, comparison.settings):
            continue
        key = (run.strategy, str(run.config.get("augment")), network_of(run, comparison.settings))
        if key in comparison.candidates:
            return Reason(ReasonKind.COMPARED, rate=comparison.candidates[key])
    return None


def _figure_of(contenders: Sequence[Contender]) -> tuple[list[float], str]:
    """Return the figures on val that contenders are compared by, and the metric's name."""
    figures = [contender.val_score for contender in contenders if contender.val_score]
    goodness = [figure.goodness for figure in figures if figure.goodness is not None]
    if len({figure.metric for figure in figures}) == 1 and len(goodness) == len(figures):
        return goodness, figures[0].metric
    return [figure.accuracy for figure in figures], "accuracy"


def _best_on_val(contenders: Sequence[Contender]) -> Contender:
    """Return the best on val; of equals the last."""
    figures, _ = _figure_of(contenders)
    return contenders[max((figure, place) for place, figure in enumerate(figures))[1]]


def _leading(winners: Sequence[Contender]) -> Contender:
    """Return the best of winners that were judged on the same folds; of equals the newest."""
    comparisons = [winner.comparison for winner in winners if winner.comparison]
    scores = [comparison.score for comparison in comparisons if comparison.score is not None]
    if len({comparison.metric for comparison in comparisons}) > 1 or len(scores) < len(comparisons):
        scores = [comparison.accuracy or 0.0 for comparison in comparisons]
    return winners[max((score, place) for place, score in enumerate(scores))[1]]


def _folds(contender: Contender) -> str | None:
    return contender.comparison.folds if contender.comparison else None


def _running_leader(study: Study) -> Best | None:
    """Return the leader that a running comparison has offered."""
    answer = study.answer
    return None if answer is None else Best(study.run_at(answer.get("run")), str(answer.get("why")))


def _no_run_error(study: Study) -> StudyError:
    return StudyError(f"{study.path} holds no finished run yet. Run `frostline train` on it first.")


def _run_named(study: Study, name: str) -> RunFolder:
    """Return the run whose name begins so: of `train`, or a comparison's winner."""
    run_by_path = {run.path: run for run in study.runs()}
    with contextlib.suppress(StudyError):  # a damaged comparison does not prevent naming another run
        run_by_path |= {winner.folder.path: winner.folder for winner in winners_of(study)}
    runs = list(run_by_path.values())
    if not runs:
        raise _no_run_error(study)
    matches = [run for run in runs if run.name.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    names = [run.name for run in runs]
    raise StudyError(
        f"{len(matches)} runs of {study.path} begin with {name!r}.{did_you_mean(name, names)} "
        f"Finished runs: {_listed(runs)}."
    )


def _listed(runs: list[RunFolder]) -> str:
    """Name runs with their strategies, the newest first, and not too many."""
    lines = [f"{run.name} ({run.read('config.json')['strategy']})" for run in reversed(runs)]
    return ", ".join(lines[:LISTED]) + (f" and {len(lines) - LISTED} more" if lines[LISTED:] else "")
