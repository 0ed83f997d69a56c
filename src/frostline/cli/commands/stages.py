"""`frostline stages`: show a backbone's stages and cuts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from frostline.cli.command_context import Verb, everywhere
from frostline.cli.options import (
    shape_options,
)
from frostline.cli.output_files import checked_output


@click.command(short_help="Show a backbone's stages and cuts.")
@click.argument("model", default="lite0")
@shape_options
@click.option(
    "--no-pretrained", is_flag=True, help="Random weights: show an architecture without its weights."
)
@click.option(
    "--plot", type=click.Path(dir_okay=False), metavar="FILE.png", help="Draw the stages to this PNG file."
)
@everywhere
def stages(model: str, **options: Any) -> None:
    """Show a backbone from stem to head, and where each strategy cuts it."""
    with Verb(options) as verb:
        from frostline.reports.classification import PICTURES

        options["plot"] = checked_output("--plot", options["plot"], PICTURES)
        verb.start_with("models.zoo")
        from frostline.models.zoo import load_backbone

        backbone = load_backbone(
            model,
            size=options["size"],
            random=options["no_pretrained"],
            architecture=options["architecture"],
            download=options["download"],
        )
        if options["plot"]:
            from frostline.cli.output.model_text import cut_marks
            from frostline.models import stage_table

            stage_table.image(backbone, Path(options["plot"]), cut_marks(len(backbone.stages)))

        def show() -> None:  # not for JSON, which needs no tables
            from frostline.cli.output import model_text

            model_text.stages(backbone, model_text.cut_marks(len(backbone.stages)), options["plot"])

        verb.done(backbone.as_dict(), show)
