"""`report`: read the study, build its sections, write the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from frostline.errors import StudyError
from frostline.reports import (
    conclusions,
    images_section,
    prediction_table,
    quality_section,
    trials_section,
    tried_strategies,
    usage_section,
)
from frostline.reports.conclusions import DAMAGED_FILE_ERRORS, ReportContext
from frostline.reports.page import render
from frostline.reports.section import Section
from frostline.reports.study_reader import add_problem, read
from frostline.studies.study_folder import study_and_run
from frostline.system import directories

NAME = "report.html"
# The files that a section reads, and the function that builds it, in the order of the page.
PARTS: tuple[tuple[str, Callable[[ReportContext], Section | None]], ...] = (
    ("manifest.jsonl or signals.json", images_section.images),
    ("signals.json", images_section.features),
    ("comparison.json, backbone.json or a run's result.json", trials_section.trials),
    ("comparison.json or backbone.json", trials_section.cuts),
    ("a table of predictions", quality_section.classes),
    ("a table of predictions or error-gallery.json", quality_section.mistakes),
    ("a table of predictions or error-gallery.json", quality_section.labels),
    ("a table of predictions", quality_section.calibration),
    ("advice.json or comparison.json", usage_section.forecasts),
    ("a run's config.json", usage_section.usage),
)


@dataclass(frozen=True)
class Report:
    """A report that was written.

    Attributes
    ----------
    path
        The page's file.
    lines
        The conclusions, at most ten sentences.
    notes
        What could not be read, one sentence per problem with the file's name.
    bytes
        The page's size.
    """

    path: Path
    lines: tuple[str, ...]
    notes: tuple[str, ...]
    bytes: int

    def _repr_html_(self) -> str:
        """Return the conclusions as HTML, for a notebook."""
        from frostline.reports.notebook import lines_html

        return lines_html("Report", self.lines, str(self.path))


def report(study: str | PathLike[str], output: str | Path | None = None) -> Report:
    """Write a study as one self-contained HTML page.

    The page is rendered from the study folder alone; the same folder gives the same bytes. Sections without
    data are left out, and damaged files are noted.

    Parameters
    ----------
    study
        A study, or its folder.
    output
        The page's file; by default `report.html` in the study's folder.

    Returns
    -------
    Report
        The page's path, its conclusions and the problems found.

    Raises
    ------
    StudyError
        Where the folder is not a study, or the page can't be written.
    """
    study_path = study_and_run(study)[0]
    context = read_context(study_path)
    page = render(context, sections(context))
    target = Path(output) if output is not None else study_path / NAME
    try:
        directories.write_atomically(target, page)
    except OSError as error:
        raise StudyError(
            f"The report cannot be written to {target} ({error.strerror}). Name another file with --output."
        ) from None
    lines = tuple(conclusions.conclusions(context, str(study_path)))
    return Report(target, lines, tuple(context.contents.problems), len(page))


def read_context(study: Path) -> ReportContext:
    """Read a study, and compute what the sections share."""
    contents = read(study)
    rows = []
    try:
        rows = tried_strategies.strategy_rows(contents)
    except DAMAGED_FILE_ERRORS as error:
        add_problem(
            contents,
            f"The strategies can't be shown: comparison.json or a run's result.json of {study} is damaged "
            f"({error!r}).",
        )
    predictions, label_table = (
        prediction_table.evaluation_predictions(contents),
        prediction_table.label_predictions(contents),
    )
    label_issues = (
        [] if label_table is None else prediction_table.label_issues(contents, label_table).tolist()
    )
    return ReportContext(contents, rows, predictions, label_table, label_issues)


def sections(context: ReportContext) -> list[Section]:
    """Return the sections that have data, in the order of the page."""
    built = []
    for source, build in PARTS:
        try:
            section = build(context)
        except DAMAGED_FILE_ERRORS as error:
            problem = f"{source} in {context.contents.path} does not hold what was expected"
            add_problem(
                context.contents,
                f"“{build.__name__}” is left out: {problem} ({type(error).__name__}: {error}).",
            )
            continue
        if section is not None:
            built.append(section)
    return built
