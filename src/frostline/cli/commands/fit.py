"""`frostline fit`: the whole story in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from frostline.cli.command import Verb, everywhere
from frostline.cli.commands.compare import StrategyList
from frostline.cli.options import (
    Minutes,
    Share,
    config_option,
    followed,
    given,
    group_by_option,
    label_column_option,
    leave_config,
    logger_option,
    model_options,
    path_column_option,
    running,
    shown_options,
    split_names_option,
    varied_options,
)
from frostline.config import FILE


class NameList(click.ParamType[tuple[str, ...] | str]):
    """Names with commas between them, or `auto`."""

    name = "MODELS"

    def convert(
        self, value: str | tuple[str, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...] | str:
        """Return the names."""
        if isinstance(value, tuple) or value == "auto":
            return value
        names = tuple(name.strip() for name in value.split(",") if name.strip())
        if not names:
            self.fail("names no network; expected names such as lite0,lite1, or auto.", param, ctx)
        return names


@click.command(short_help="The whole story: from images to a model and a number to trust.")
@click.argument("data")
@click.option("--minutes", type=Minutes(), help="What it all may take [announced].")
@click.option(
    "--strategies", "names", type=StrategyList(), help="Race these [what experience advises for the images]."
)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="New splits and seeds.")
@click.option(
    "--study",
    default="frostline-fit",
    show_default=True,
    help="Folder that keeps everything; images that it knows keep their part.",
)
@click.option("--database", help="Optuna storage URL for workers on several machines [SQLite in the study].")
@click.option(
    "--metric",
    type=click.Choice(["accuracy", "balanced_accuracy", "macro_f1", "auroc", "log_loss"]),
    default="accuracy",
    show_default=True,
    help="What the race is decided by.",
)
@click.option(
    "--augment",
    type=click.Choice(["none", "light", "standard", "strong"]),
    default="standard",
    show_default=True,
    help="How much training images are varied.",
)
@varied_options
@click.option(
    "--interpolate-weights",
    type=Share(),
    help="Take the winner back towards the pretrained weights: 0 is those with a probe, 1 the adapted ones; "
    "auto asks the folds.",
)
@click.option("--strict", is_flag=True, help="Refuse if any image cannot be used.")
@split_names_option
@shown_options
@path_column_option
@label_column_option
@group_by_option
@click.option(
    "--models",
    type=NameList(),
    help="Choose among these, such as lite0,lite1; auto: what is on disk (lite0 to lite2 where installed, "
    "timm's in the hub's cache).",
)
@click.option(
    "--max-latency-ms",
    type=click.FloatRange(0, min_open=True),
    help="What a network may take for one image, measured here [no limit].",
)
@click.option(
    "--max-size-mb",
    type=click.FloatRange(0, min_open=True),
    help="How large a network's weights may be, in 10⁶ bytes [no limit].",
)
@model_options
@running
@logger_option
@config_option
@everywhere
def fit(data: str, **options: Any) -> None:
    """Check the images of DATA, measure them, plan, race strategies, train the winner, say what it is worth.

    With --models, each network passes over the images once. The one whose linear probe, asked out of fold,
    is best races with the largest of those that are not separated from it, by their strategies.

    DATA is a folder with one folder per class, one with train/, val/ and test/ inside, or a CSV or Parquet
    file with the columns path, label and, if you like, split and group. A model answers within seconds, and
    gets better until the time is up. Interrupted, the same command goes on.
    """
    with Verb(options) as verb:
        loggers = followed(verb, options)
        verb.start_for(data)
        import frostline
        from frostline.cli.output import fit_text

        named = (
            "models",
            "max_latency_ms",
            "max_size_mb",
            "architecture",
            "size",
            "resize",
            "download",
            "minutes",
            "repeats",
            "study",
            "database",
            "seed",
            "metric",
            "augment",
            "min_crop",
            "rotate",
            "deterministic",
            "precision",
            "threads",
            "workers",
            "interpolate_weights",
            "strict",
            "split_names",
            "intensity_range",
            "alpha_background",
            "path_column",
            "label_column",
            "group_by",
        )
        found = frostline.fit(
            data,
            model=options["model"] if given("model") or not options["models"] else None,
            strategies=options["names"],
            watch=verb.since_called,
            logger=loggers,
            progress=verb.progress,
            log=verb.progress.log,
            **{key: options[key] for key in named},
        )
        verb.progress.close()
        leave_config(Path(options["study"]) / FILE)
        verb.done(found.result, lambda: fit_text.fitted(found))
