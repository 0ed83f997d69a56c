"""`frostline demo`: train offline on packaged real images."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from frostline import sentences
from frostline.cli.command_context import Verb, everywhere
from frostline.cli.options import (
    model_options,
    running,
)


@click.command(short_help="Train offline on packaged real images.")
@model_options
@running
@click.option("--study", default="frostline-demo", show_default=True, help="Folder of the runs.")
@everywhere
def demo(**options: Any) -> None:
    """Adapt an ImageNet network to handwritten digits, offline, by four strategies."""
    with Verb(options) as verb:
        from frostline import pipelines
        from frostline.cli.output import run_text

        verb.start()
        verb.progress.log(run_text.DEMO_OPENING.format(model=options["model"]))
        demonstration = pipelines.demo(
            study=options["study"],
            model=options["model"],
            download=options["download"],
            size=options["size"] or pipelines.DEMO_SIZE,
            resize=options["resize"],
            seed=options["seed"],
            device=options["device"],
            deterministic=options["deterministic"],
            threads=options["threads"],
            workers=options["workers"],
            progress=verb.progress,
            begin=lambda name: verb.progress.log(f"  {name}: {run_text.MEANING[name]}"),
            finished=lambda run: verb.progress.log(
                f"    {sentences.percent(run.accuracy or 0.0)} on the test set"
            ),
        )
        rows = (demonstration.majority, demonstration.pixels)
        result = {
            "runs": [
                {**run.result, "run_seconds": run.result["seconds"], "reused": run.reused}
                for run in demonstration.runs
            ],
            "baselines": [asdict(row) for row in rows],
        }
        verb.done(result, lambda: run_text.demo(demonstration))
