"""Earlier runs of `train` in a study: which of their strategies join a comparison, which do not, and why.

A resumed comparison has the candidates of its first call, which writes what joined to a file.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace

import filelock

from frostline.errors import StudyError, UsageError
from frostline.selection.candidates import Candidate
from frostline.selection.compare_request import CompareRequest, EarlierRuns
from frostline.strategies import Strategy, parse, timm_loadable
from frostline.studies.best_run import PassedOver
from frostline.studies.predicting_runs import Contender, network_of, setting_difference, trained_runs
from frostline.studies.run_exclusions import Reason, ReasonKind
from frostline.system import directories

JOINED = "earlier.json"  # in a comparison's folder: the candidates that joined it


def join(request: CompareRequest) -> CompareRequest:
    """Return the request with the candidates that join from earlier runs, after its own.

    A run of `train` joins with its strategy and augmentation if its other settings equal the comparison's.
    None joins if `joins` is false or `cuts` are compared.

    Parameters
    ----------
    request
        Options of the comparison.

    Raises
    ------
    StudyError
        If the file of joined candidates is damaged.
    """
    trained = trained_runs(request.study)
    request.folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(request.folder / "earlier.lock"):  # the first of several processes decides
        joined = _joined(request, trained if request.joins and not request.thorough else ())
    together = replace(request, candidates=[*request.candidates, *joined])
    kind = (
        ReasonKind.CUTS_ONLY
        if request.thorough
        else ReasonKind.TRAINED_LATER
        if request.joins
        else ReasonKind.LEFT_OUT
    )
    reasons = [(run, _difference(run, request) or _missing(run, together, kind)) for run in trained]
    apart = [PassedOver.of(run, reason) for run, reason in reasons if reason]
    return replace(together, earlier=EarlierRuns(tuple(joined), tuple(apart)))


def _joined(request: CompareRequest, trained: Sequence[Contender]) -> list[Candidate]:
    """Return the candidates that join: those written at the first call, else those trained until now."""
    file = request.folder / JOINED
    if file.exists():
        try:
            rows = json.loads(file.read_text(encoding="utf-8"))
            return [Candidate(parse(row[0]), *map(str, row[1:])) for row in rows]
        except (OSError, ValueError, TypeError, LookupError, UsageError) as error:
            raise StudyError(
                f"{file} is damaged ({str(error)[:80]}). Expected the candidates that joined a comparison: "
                "remove its folder to start it again."
            ) from None
    joinable = [run for run in trained if not _difference(run, request)]
    candidates = dict.fromkeys(_candidate(run, request) for run in joinable)
    joined = [
        candidate for candidate in candidates if candidate is not None and candidate not in request.candidates
    ]
    directories.write_atomically(file, json.dumps([candidate.as_list() for candidate in joined]).encode())
    return joined


def _difference(run: Contender, request: CompareRequest) -> Reason | None:
    """Return how a run was made unlike those of the comparison; `None` where it was made alike."""
    difference = setting_difference(run, request.settings)
    strategy = _strategy(run)
    if difference is not None or strategy is None or not request.config.plain_timm:
        return difference
    with contextlib.suppress(UsageError):
        if timm_loadable(strategy) == strategy:
            return None
    return Reason(ReasonKind.OTHER_SETTINGS, "a head that timm alone cannot load")


def _missing(run: Contender, request: CompareRequest, kind: ReasonKind) -> Reason | None:
    """Return why a run's strategy is not compared although its settings fit; `None` if it is."""
    candidate = _candidate(run, request)
    if candidate is None:
        return Reason(ReasonKind.UNREADABLE)
    return None if candidate in request.candidates else Reason(kind)


def _candidate(run: Contender, request: CompareRequest) -> Candidate | None:
    """Return a run's strategy as a candidate; `None` if its notation is of another version."""
    strategy = _strategy(run)
    if strategy is None:
        return None
    return Candidate(strategy, str(run.config.get("augment")), network_of(run, request.settings))


def _strategy(run: Contender) -> Strategy | None:
    """Return a run's strategy; `None` if its notation is of another version."""
    try:
        return parse(run.strategy)
    except UsageError:
        return None
