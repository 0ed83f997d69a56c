"""`report`: read the study, tell the story, write the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from frostline.errors import StudyError
from frostline.reports import conclusions, prediction_table, tried_strategies
from frostline.reports.conclusions import DAMAGE, Found
from frostline.reports.page import render
from frostline.reports.sections import sections
from frostline.reports.study_reader import note, read
from frostline.studies.study_folder import Study
from frostline.system import directories

NAME = "report.html"


@dataclass(frozen=True)
class Report:
    """A page that was written, and its conclusions: at most ten sentences."""

    path: Path
    lines: tuple[str, ...]
    notes: tuple[str, ...]  # what could not be read, each with a file's name
    bytes: int

    def _repr_html_(self) -> str:
        """The conclusions, in a notebook."""
        from frostline.reports.notebook import lines_html

        return lines_html("Report", self.lines, str(self.path))


def report(study: str | Path | Study, output: str | Path | None = None) -> Report:
    """Write a study as one self-contained HTML page: `report.html` in its folder, or `output`.

    Made from the folder alone; the same folder gives the same bytes. Parts without data are left out.
    Raises `StudyError` where the folder is no study or the page can't be written.
    """
    place = study.path if isinstance(study, Study) else Path(study)
    found = gathered(place)
    page = render(found, sections(found))
    target = Path(output) if output is not None else place / NAME
    try:
        directories.write_atomically(target, page)
    except OSError as error:
        raise StudyError(
            f"The report cannot be written to {target} ({error.strerror}). Name another file with --output."
        ) from None
    lines = tuple(conclusions.conclusions(found, str(place)))
    return Report(target, lines, tuple(found.told.damaged), len(page))


def gathered(study: Path) -> Found:
    """Read a study and work out once what the sections share."""
    told = read(study)
    rows = []
    try:
        rows = tried_strategies.tried(told)
    except DAMAGE as error:
        note(
            told,
            f"What was tried cannot be told: comparison.json or a run's result.json of {study} ({error!r}).",
        )
    answers, doubts = prediction_table.judged(told), prediction_table.held_out(told)
    doubtful = [] if doubts is None else prediction_table.doubtful(told, doubts).tolist()
    return Found(told, rows, answers, doubts, doubtful)
