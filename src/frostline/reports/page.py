"""Render sections as one self-contained page: it loads nothing, and no text from a study can become code.

The template escapes everything. Chart data is embedded as JSON whose angle brackets are escaped. The page's
content security policy allows its own scripts (by their SHA-256) and nothing else, no connection included.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from importlib import metadata, resources
from typing import Any

from frostline import sentences
from frostline.reports import conclusions, tried_strategies
from frostline.reports.chart_parts import Chart
from frostline.reports.conclusions import DAMAGED_FILE_ERRORS, ReportContext
from frostline.reports.display_names import visible
from frostline.reports.section import Section
from frostline.reports.study_reader import add_problem
from frostline.studies.study_folder import plain

# Addresses in the chart library that lead outside: its editor, and a page that a warning names.
OUTSIDE = ("https://vega.github.io/editor/", "https://github.com/vega/vega-lite/issues/2415")
ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", ord("'"): "\\u0027"}


def render(context: ReportContext, sections: Sequence[Section], *, live: str = "") -> bytes:
    """Return the page. `live` is the status line of a watched page, which polls its server for changes."""
    from markupsafe import Markup

    charts = [chart for section in sections for chart in all_charts(section)]
    scripts = {"library": library(), "script": _text("page.js") + ("\n" + _text("watch.js") if live else "")}
    lines, head = conclusions.conclusions(context), conclusions.headline(context)
    study = context.contents.path.resolve().name
    text: str = template("page.html.j2").render(
        policy=policy(scripts.values(), live=bool(live)),
        version=metadata.version("frostline"),
        title=f"{visible(study)}: frostline report",
        study=study,
        live=live,
        head=head,
        basis=f"{head.basis[:1].upper()}{head.basis[1:]}" if head else "",
        caveats=head.caveats if head else [],
        opening=lines[0] if len(lines) > 1 else "No run is finished yet",
        facts=_facts(context),
        lines=[line for line in lines[1:] if line not in (head.caveats if head else [])] or lines[-1:],
        notes=context.contents.problems,
        sections=sections,
        percent=sentences.percent,
        between=sentences.between,
        style=stylesheet(),
        specs=Markup(safe_json({chart.key: chart.spec for chart in charts})),
        **{name: Markup(script) for name, script in scripts.items()},
    )
    return text.encode("utf-8", errors="replace")


def all_charts(section: Section) -> list[Chart]:
    """Return a section's charts, including those of its own template part."""
    return [*section.charts, *section.more.get("curves", [])]


def safe_json(value: Any) -> str:
    """Return JSON for a script element: it holds no character with a meaning in HTML."""
    text = json.dumps(plain(value), allow_nan=False, separators=(",", ":"), sort_keys=True)
    return text.translate(ESCAPES)


@functools.cache
def library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script, from the bundle that vl-convert carries."""
    import vl_convert

    text: str = vl_convert.javascript_bundle("window.frostlineEmbed=vegaEmbed;")
    for address in OUTSIDE:
        text = text.replace(address, "")
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def policy(scripts: Iterable[str], live: bool = False) -> str:
    """Return a content security policy for these scripts, and pictures within the page, and nothing else."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts
    )
    allowed = f"script-src {hashes}; " if hashes else ""
    connect = "connect-src 'self'; " if live else ""
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; {connect}{allowed}"
        "base-uri 'none'; form-action 'none'"
    )


def stylesheet() -> Any:
    """Return the style sheet of every page, as markup."""
    from markupsafe import Markup

    return Markup(_text("page.css"))


@functools.cache
def template(name: str) -> Any:
    """Return a page's template, with autoescaping."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    environment.filters["visible"] = lambda value: visible(str(value))
    environment.filters["visible_code"] = lambda code: "\n".join(visible(line) for line in code.split("\n"))
    environment.filters["count"] = _count
    return environment.from_string(_text(name))


@functools.cache
def _text(name: str) -> str:
    return (resources.files("frostline.reports") / "template" / name).read_text(encoding="utf-8")


def _count(parameters: int) -> str:
    """Format a number of parameters for people."""
    for limit, unit in ((1_000_000, "M"), (1_000, "k")):
        if parameters >= limit:
            return f"{parameters / limit:.3g} {unit} parameters"
    return f"{parameters:,} parameters"


def _facts(context: ReportContext) -> list[tuple[str, str]]:
    """Return the numbers shown under the headline."""
    contents, facts = context.contents, []
    if contents.data is not None:
        facts.append(("images", f"{len(contents.data.samples):,}"))
        facts.append(("classes", f"{len(contents.data.classes):,}"))
    try:
        strategies, runs = (
            tried_strategies.strategy_count(contents, context.rows),
            tried_strategies.run_count(contents, context.rows),
        )
    except DAMAGED_FILE_ERRORS as error:
        add_problem(
            contents, f"Runs are not counted: comparison.json of {contents.path} is damaged ({error!r})."
        )
        strategies = runs = 0
    if strategies > 1:
        facts.append((f"{'candidates' if context.rows[0].model else 'strategies'} tried", f"{strategies:,}"))
    if runs > 1:
        facts.append(("runs", f"{runs:,}"))
    spent = _spent(context)
    if spent is not None:
        facts.append(("time spent", conclusions.duration(spent)))
    return facts


def _spent(context: ReportContext) -> float | None:
    """Return the seconds of the last command, or of the runs, where earlier commands made most of them."""
    contents = context.contents
    comparison = contents.comparison
    try:
        command_s = 0.0
        if contents.fit is not None:
            command_s = float(contents.fit["seconds"])
        elif comparison is not None and comparison.result is not None:
            command_s = float(comparison.result["seconds"])
        return max(command_s, tried_strategies.runs_s(contents)) or None
    except DAMAGED_FILE_ERRORS:
        return None
