"""What `train` made in a study before: which of its strategies join a comparison, which stand apart, and why.

A comparison that goes on keeps the candidates it began with: what joined is written down at its first call.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import filelock

from frostline.errors import StudyError, UsageError
from frostline.selection.candidates import Candidate
from frostline.selection.request import CompareRequest, EarlierRuns
from frostline.strategies import parse
from frostline.studies.best_run import PassedOver
from frostline.studies.contenders import Contender, network_of, trained_runs, unlike
from frostline.system import directories

JOINED = "earlier.json"  # in a comparison's folder: the candidates that joined it


def join(request: CompareRequest) -> CompareRequest:
    """Return the call with what joins it, behind its own candidates; nothing joins where `joins` is off.

    A run of `train` joins with its strategy and augmentation where all else is the comparison's own. Searched
    variants and thaws (`cuts`) are compared among themselves.
    """
    trained = trained_runs(request.study)
    request.folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(request.folder / "earlier.lock"):  # of several processes the first decides
        joined = _joined(request, trained if request.joins and not request.thorough else ())
    together = replace(request, candidates=[*request.candidates, *joined])
    late = "trained after this comparison began; name it among the strategies"
    why = (
        "cuts compares thaws alone"
        if request.thorough
        else late
        if request.joins
        else "left out, as asked for"
    )
    reasons = [(run, unlike(run, request.settings) or _missing(run, together, why)) for run in trained]
    apart = [
        PassedOver(run.folder.name, run.strategy, run.figure, reason) for run, reason in reasons if reason
    ]
    return replace(together, earlier=EarlierRuns(tuple(joined), tuple(apart)))


def _joined(request: CompareRequest, trained: Sequence[Contender]) -> list[Candidate]:
    """Return what joins: as written down at the first call, else what was trained until now."""
    file = request.folder / JOINED
    if file.exists():
        try:
            rows = json.loads(file.read_text(encoding="utf-8"))
            return [Candidate(parse(row[0]), *map(str, row[1:])) for row in rows]
        except (OSError, ValueError, TypeError, LookupError, UsageError) as error:
            raise StudyError(
                f"{file} is damaged ({str(error)[:80]}). Expected the candidates that joined a comparison: "
                "remove its folder to begin it again."
            ) from None
    alike = [run for run in trained if not unlike(run, request.settings)]
    found = dict.fromkeys(_candidate(run, request) for run in alike)
    joined = [one for one in found if one is not None and one not in request.candidates]
    directories.write_atomically(file, json.dumps([one.as_list() for one in joined]).encode())
    return joined


def _missing(run: Contender, request: CompareRequest, why: str) -> str:
    """Say why a run's strategy does not race, though its settings are right; nothing where it does."""
    candidate = _candidate(run, request)
    if candidate is None:
        return "its strategy cannot be read"
    return "" if candidate in request.candidates else why


def _candidate(run: Contender, request: CompareRequest) -> Candidate | None:
    """Return a run's strategy as it would race; `None` where another version wrote it."""
    try:
        strategy = parse(run.strategy)
    except UsageError:
        return None
    return Candidate(strategy, str(run.config.get("augment")), network_of(run, request.settings))
