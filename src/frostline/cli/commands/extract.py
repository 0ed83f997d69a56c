"""`frostline extract`: vectors of frozen layers as a table."""

from __future__ import annotations

from typing import Any

import click

from frostline.cli.command_context import Verb, everywhere
from frostline.cli.command_inputs import loaded
from frostline.cli.options import data_options, device_option, model_options, workers_option
from frostline.cli.output_files import checked_output


class Layers(click.ParamType[int | str]):
    """`last`, `all`, or a number of stages."""

    name = "LAYERS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Return the word or the number."""
        if value in ("last", "all"):
            return str(value)
        try:
            number = int(value)
        except ValueError:
            number = 0
        if number < 1:
            self.fail(
                f"{value!r} is no choice of layers. Expected last, all or a number, 1 or more.", param, ctx
            )
        return number


@click.command(short_help="Write the features of images as a table.")
@click.argument("data")
@click.option(
    "--output", "-o", required=True, metavar="FILE.parquet", help="Table of path, label, split and vector."
)
@click.option(
    "--layers",
    type=Layers(),
    metavar="last|all|NUMBER",
    default="last",
    show_default=True,
    help="Features before the head alone, or with mean and standard deviation of so many of the last stages.",
)
@model_options
@data_options
@click.option("--seed", default=0, show_default=True, help="Seed of the split.")
@device_option
@click.option("--threads", type=click.IntRange(1), help="Torch threads [the number of free cores].")
@workers_option
@everywhere
def extract(data: str, **options: Any) -> None:
    """Write a vector for each image of DATA: feature extraction with a pretrained network.

    Images are seen as in evaluation. Features stay in the feature cache, where training finds them.
    """
    with Verb(options) as verb:
        import frostline

        options["output"] = checked_output("--output", options["output"], (".parquet",), images=[data])
        manifest, backbone = loaded(verb, data, options)
        extracted = frostline.extract_features(
            backbone,
            manifest,
            layers=options["layers"],
            output=options["output"],
            device=options["device"],
            threads=options["threads"],
            workers=options["workers"],
            progress=verb.progress,
        )
        result = {
            "output": extracted.path,
            "images": len(extracted.paths),
            "skipped": len(manifest.skipped),
            "width": extracted.width,
            "layers": options["layers"],
            "stages": extracted.stages,
            "model": backbone.name,
        }
        line = f"{len(extracted.paths):,} vectors of {extracted.width:,} numbers written to {extracted.path}"
        if manifest.skipped:
            line += f"; {len(manifest.skipped):,} image(s) skipped (`frostline check` says why)"
        verb.done(result, lambda: click.echo(line))
