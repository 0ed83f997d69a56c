"""The report's sections, in order. Imports no torch.

A section without data is left out. One with damaged files is noted, and the others are still built.
"""

from __future__ import annotations

from collections.abc import Callable

from frostline.reports import images_section, quality_section, trials_section, usage_section
from frostline.reports.conclusions import DAMAGED_FILE_ERRORS, ReportContext
from frostline.reports.section import Section
from frostline.reports.study_reader import add_problem

# The files that a section reads, and the function that builds it, in the order of the page.
PARTS: tuple[tuple[str, Callable[[ReportContext], Section | None]], ...] = (
    ("manifest.jsonl or signals.json", images_section.images),
    ("signals.json", images_section.features),
    ("comparison.json, backbone.json or a run's result.json", trials_section.trials),
    ("comparison.json or backbone.json", trials_section.cuts),
    ("a table of predictions", quality_section.classes),
    ("a table of predictions or looks.json", quality_section.mistakes),
    ("a table of predictions or looks.json", quality_section.labels),
    ("a table of predictions", quality_section.calibration),
    ("advice.json or comparison.json", usage_section.forecasts),
    ("a run's config.json", usage_section.usage),
)


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
