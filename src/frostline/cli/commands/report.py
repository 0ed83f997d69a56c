"""`frostline report`: write a study as one web page, and print its conclusions."""

from __future__ import annotations

import webbrowser
from typing import Any

import click

from frostline.cli.command_context import Verb, everywhere
from frostline.cli.output_files import PAGES, checked_output


@click.command(short_help="Write a study as one web page, and print its conclusions.")
@click.argument("study", type=click.Path())
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False),
    metavar="FILE.html",
    help="The page's file [report.html in STUDY].",
)
@click.option("--open", "show_it", is_flag=True, help="Open the page in the browser.")
@click.option(
    "--watch", is_flag=True, help="Serve the page to this machine, and update it while the study runs."
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="For --watch [any that is free].")
@everywhere
def report(study: str, **options: Any) -> None:
    """Report STUDY as one self-contained HTML page, made from its folder alone.

    It needs no network, no torch and none of the images. Sections without data are left out.
    """
    with Verb(options) as verb:
        verb.start_light()
        options["output"] = checked_output("--output", options["output"], PAGES, others=[study])
        if options["watch"]:
            _watch(study, options["port"], options["show_it"])
            return
        from frostline.cli.output import run_text
        from frostline.reports import report as write_report

        written = write_report(study, options["output"])
        if options["show_it"]:
            webbrowser.open(written.path.resolve().as_uri())
        result = {
            "report": str(written.path),
            "bytes": written.bytes,
            "conclusions": list(written.lines),
            "notes": list(written.notes),
        }
        verb.done(result, lambda: run_text.report(written))


def _watch(study: str, port: int, show_it: bool) -> None:
    from frostline.reports.live_page import LOOPBACK, server
    from frostline.studies.study_folder import study_and_run

    served = server(study_and_run(study)[0], port)
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
