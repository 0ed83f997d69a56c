"""`frostline report`: a study as one page, and its conclusions in ten lines."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Any

import click

from frostline.cli.command import Verb, everywhere


@click.command(short_help="A study as one web page, and its conclusions in ten lines.")
@click.argument("study", type=click.Path())
@click.option("--output", type=click.Path(dir_okay=False), help="The page's file [report.html in STUDY].")
@click.option("--open", "show_it", is_flag=True, help="Open the page in the browser.")
@click.option("--watch", is_flag=True, help="Serve the page to this machine, and follow a study at work.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="For --watch [any that is free].")
@everywhere
def report(study: str, **options: Any) -> None:
    """Tell what STUDY found: one self-contained HTML page, made from the folder alone.

    It needs no network, no torch and none of the images. Parts without data are left out.
    """
    with Verb(options) as verb:
        verb.start_light()
        if options["watch"]:
            _watch(study, options["port"], options["show_it"])
            return
        from frostline.cli.output import report_text
        from frostline.reports import report as make

        made = make(study, options["output"])
        if options["show_it"]:
            webbrowser.open(made.path.resolve().as_uri())
        result = {
            "report": str(made.path),
            "bytes": made.bytes,
            "conclusions": list(made.lines),
            "notes": list(made.notes),
        }
        verb.done(result, lambda: report_text.report(made))


def _watch(study: str, port: int, show_it: bool) -> None:
    from frostline.reports.live_page import LOOPBACK, server

    served = server(Path(study), port)
    address = f"http://{LOOPBACK}:{served.server_address[1]}/"
    click.echo(f"Watching {study} at {address}, on this machine alone. Ctrl-C ends it.")
    if show_it:
        webbrowser.open(address)
    try:
        served.serve_forever()
    except KeyboardInterrupt:
        click.echo("No longer watching.")
    finally:
        served.server_close()
