"""`frostline measure`: what the images say, before anything is trained."""

from __future__ import annotations

from typing import Any

import click

from frostline.cli.options import data_options, loaded, model_options
from frostline.cli.verb import Verb, everywhere, stack

looking = stack(
    click.option("--seed", default=0, show_default=True, help="Split, folds and random weights."),
    click.option("--threads", type=click.IntRange(1), help="Torch threads [torch's own choice]."),
)


@click.command(short_help="Measure images against a backbone, before training.")
@click.argument("data")
@model_options
@data_options
@looking
@click.option("--no-random", is_flag=True, help="Leave out the probes on random weights.")
@everywhere
def measure(data: str, **options: Any) -> None:
    """Measure the training images of DATA against a backbone: how near they lie, what each depth knows.

    Nothing is trained: one forward pass over at most 2,000 training images.
    """
    with Verb(options) as verb:
        import frostline
        from frostline.cli import show_signals

        manifest, backbone = loaded(verb, data, options)
        found = frostline.measure(
            backbone,
            manifest,
            random=not options["no_random"],
            seed=options["seed"],
            threads=options["threads"],
            tell=verb.progress,
        )
        verb.done(found.as_dict(), lambda: show_signals.signals(found))
