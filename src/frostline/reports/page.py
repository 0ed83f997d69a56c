"""From sections to one self-contained page: no address is loaded, and no text from a study can become code.

The template escapes everything. What charts show travels as JSON whose angle brackets are written as escapes.
The page's own policy allows these very scripts (by their SHA-256) and nothing else, no connection included.
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
from frostline.reports.conclusions import DAMAGE, Found
from frostline.reports.display_names import visible
from frostline.reports.section import Section
from frostline.reports.study_reader import note
from frostline.studies.study_folder import plain

# Addresses in the chart library that lead outside: its editor, and a page that a warning names.
OUTSIDE = ("https://vega.github.io/editor/", "https://github.com/vega/vega-lite/issues/2415")
ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", ord("'"): "\\u0027"}


def render(found: Found, sections: Sequence[Section], *, live: str = "") -> bytes:
    """Return the page. `live` is what a watched page says of itself; it asks its server for news."""
    from markupsafe import Markup

    charts = [chart for section in sections for chart in all_charts(section)]
    scripts = {"library": library(), "script": _text("page.js") + ("\n" + _text("watch.js") if live else "")}
    lines, head = conclusions.conclusions(found), conclusions.headline(found)
    study = found.told.path.resolve().name
    text: str = template("page.html.j2").render(
        policy=policy(scripts.values(), live=bool(live)),
        version=metadata.version("frostline"),
        title=f"{visible(study)}: frostline report",
        study=study,
        live=live,
        head=head,
        basis=f"{head.basis[:1].upper()}{head.basis[1:]}" if head else "",
        caveats=head.caveats if head else [],
        opening=lines[0] if len(lines) > 1 else "Nothing is finished yet",
        facts=_facts(found),
        lines=[line for line in lines[1:] if line not in (head.caveats if head else [])] or lines[-1:],
        notes=found.told.damaged,
        sections=sections,
        percent=sentences.percent,
        between=sentences.between,
        style=stylesheet(),
        specs=Markup(safe_json({chart.key: chart.spec for chart in charts})),
        **{name: Markup(script) for name, script in scripts.items()},
    )
    return text.encode("utf-8", errors="replace")


def all_charts(section: Section) -> list[Chart]:
    """Return a section's charts, the ones of its own piece of the template too."""
    return [*section.charts, *section.more.get("curves", [])]


def safe_json(value: Any) -> str:
    """Return JSON that can stand in a script element: it holds no character that HTML knows."""
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
    """Return a policy that allows these scripts, and pictures within the page, and nothing else."""
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
    """Return the style of every page, as markup."""
    from markupsafe import Markup

    return Markup(_text("page.css"))


@functools.cache
def template(name: str) -> Any:
    """Return a page's template, which escapes all that it is given."""
    import jinja2

    made = jinja2.Environment(autoescape=True, trim_blocks=True)
    made.filters["visible"] = lambda value: visible(str(value))
    made.filters["visible_code"] = lambda code: "\n".join(visible(line) for line in code.split("\n"))
    made.filters["count"] = _count
    return made.from_string(_text(name))


@functools.cache
def _text(name: str) -> str:
    return (resources.files("frostline.reports") / "template" / name).read_text(encoding="utf-8")


def _count(parameters: int) -> str:
    """A count of parameters as people read it."""
    for limit, unit in ((1_000_000, "M"), (1_000, "k")):
        if parameters >= limit:
            return f"{parameters / limit:.3g} {unit} parameters"
    return f"{parameters:,} parameters"


def _facts(found: Found) -> list[tuple[str, str]]:
    """The few numbers that stand under the headline."""
    told, facts = found.told, []
    if told.data is not None:
        facts.append(("images", f"{len(told.data.samples):,}"))
        facts.append(("classes", f"{len(told.data.classes):,}"))
    try:
        strategies, runs = (
            tried_strategies.strategies_tried(told, found.rows),
            tried_strategies.runs(told, found.rows),
        )
    except DAMAGE as error:
        note(told, f"Runs are not counted: comparison.json of {told.path} is damaged ({error!r}).")
        strategies = runs = 0
    if strategies > 1:
        facts.append((f"{'candidates' if found.rows[0].model else 'strategies'} tried", f"{strategies:,}"))
    if runs > 1:
        facts.append(("runs", f"{runs:,}"))
    spent = _spent(found)
    if spent is not None:
        facts.append(("time spent", conclusions.duration(spent)))
    return facts


def _spent(found: Found) -> float | None:
    race = found.told.comparison
    try:
        if found.told.fit is not None:
            return float(found.told.fit["seconds"])
        if race is not None and race.result is not None:
            return float(race.result["seconds"])
        return sum(float(run.result["seconds"]) for run in found.told.everyone if run.result) or None
    except DAMAGE:
        return None
