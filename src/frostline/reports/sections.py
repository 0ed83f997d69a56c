"""The story, section by section. Imports no torch.

A section without data is left out. One whose files are damaged says so and stops no other.
"""

from __future__ import annotations

from collections.abc import Callable

from frostline.reports import images_section, quality_section, trials_section, usage_section
from frostline.reports.conclusions import DAMAGE, Found
from frostline.reports.section import Section
from frostline.reports.study_reader import note

# What a section is told from, and what tells it, in the order of the story.
PARTS: tuple[tuple[str, Callable[[Found], Section | None]], ...] = (
    ("manifest.jsonl or signals.json", images_section.images),
    ("signals.json", images_section.seeing),
    ("comparison.json, backbone.json or a run's result.json", trials_section.tried),
    ("comparison.json or backbone.json", trials_section.cuts),
    ("a table of predictions", quality_section.classes),
    ("a table of predictions or looks.json", quality_section.mistakes),
    ("a table of predictions or looks.json", quality_section.labels),
    ("a table of predictions", quality_section.trust),
    ("advice.json or comparison.json", usage_section.foresight),
    ("a run's config.json", usage_section.use),
)


def sections(found: Found) -> list[Section]:
    """Return the sections that have something to tell, in the order of the story."""
    made = []
    for source, build in PARTS:
        try:
            section = build(found)
        except DAMAGE as error:
            problem = f"{source} in {found.told.path} does not hold what was expected"
            note(found.told, f"“{build.__name__}” is left out: {problem} ({type(error).__name__}: {error}).")
            continue
        if section is not None:
            made.append(section)
    return made
