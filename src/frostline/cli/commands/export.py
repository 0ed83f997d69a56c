"""`frostline export`: write a model to a folder."""

from __future__ import annotations

from typing import Any

import click

from frostline.cli.command_context import Verb, everywhere
from frostline.cli.options import device_option

FORMATS = ("safetensors", "onnx", "torch", "delta")


@click.command(short_help="Export a run's model to a folder.")
@click.argument("study", type=click.Path())
@click.option("--to", type=click.Choice(FORMATS), default="safetensors", show_default=True, help="Format.")
@click.option("--run", "run_name", help="Which run [the one that predict uses].")
@click.option(
    "--output",
    "-o",
    type=click.Path(file_okay=False),
    metavar="FOLDER",
    help="The folder [frostline-FORMAT].",
)
@click.option(
    "--with-preprocessing",
    is_flag=True,
    help="onnx, torch: take bytes (n, size, size, 3), and scale and normalise them; resizing is not part.",
)
@click.option(
    "--int8",
    is_flag=True,
    help="onnx: quantise to INT8, calibrated on training images; accuracy before and after on val [without "
    "a val set, on training images that calibration did not use].",
)
@click.option(
    "--max-loss",
    type=float,
    help="Points that INT8 may lose of accuracy, and of the recall or precision of a threshold [1].",
)
@click.option(
    "--no-golden",
    is_flag=True,
    help="onnx, torch: leave out the copies of eight images by which infer.py --check proves itself.",
)
@click.option(
    "--no-fingerprints",
    is_flag=True,
    help="Leave out the short digests of the training images, by which a later training keeps them out of "
    "its val and test sets.",
)
@click.option("--images", type=click.Path(), help="Images to check the export on [64 of the study's own].")
@click.option("--base", type=click.Path(), help="For a delta: the base weights' file, if they have no name.")
@device_option
@everywhere
def export(study: str, **options: Any) -> None:
    """Write the model of STUDY to a folder that needs no study, with a model card.

    safetensors loads with timm alone (models that are not timm's, and heads that read several stages: with
    a small loader in the folder), onnx and torch are programs, delta holds only the trained layers.
    Probabilities are calibrated in all of them: a plain softmax gives what `frostline predict` gives. Each is
    loaded back and checked on real images.

    onnx and torch come with infer.py, which labels image files without frostline, and with golden images.
    """
    with Verb(options) as verb:
        import frostline

        verb.start()
        exported = frostline.export(
            study,
            options["to"],
            run=options["run_name"],
            output=options["output"],
            with_preprocessing=options["with_preprocessing"],
            int8=options["int8"],
            max_loss=options["max_loss"],
            golden=not options["no_golden"],
            fingerprints=not options["no_fingerprints"],
            images=options["images"],
            base=options["base"],
            device=options["device"],
            progress=verb.progress,
        )
        from frostline.cli.output import model_text

        verb.done(exported.result, lambda: model_text.export(exported))
