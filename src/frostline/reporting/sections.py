"""The story, section by section. Imports no torch.

A section without data is left out. One whose files are damaged says so and stops no other.
"""

from __future__ import annotations

from collections.abc import Callable

from frostline.reporting import closing, opening, outcomes, trials
from frostline.reporting.reading import note
from frostline.reporting.section import Section
from frostline.reporting.words import DAMAGE, Found

# What a section is told from, and what tells it, in the order of the story.
PARTS: tuple[tuple[str, Callable[[Found], Section | None]], ...] = (
    ("manifest.jsonl or signals.json", opening.images),
    ("signals.json", opening.seeing),
    ("comparison.json, backbone.json or a run's result.json", trials.tried),
    ("comparison.json or backbone.json", trials.cuts),
    ("a table of predictions", outcomes.classes),
    ("a table of predictions or looks.json", outcomes.mistakes),
    ("a table of predictions or looks.json", outcomes.labels),
    ("a table of predictions", outcomes.trust),
    ("advice.json or comparison.json", closing.foresight),
    ("a run's config.json", closing.use),
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
