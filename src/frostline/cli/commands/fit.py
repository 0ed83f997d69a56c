"""`frostline fit`: the whole pipeline in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from frostline.cli.command_context import Verb, everywhere, given
from frostline.cli.command_inputs import demand_effect, followed
from frostline.cli.commands.compare import StrategyList
from frostline.cli.config_file import config_option, continue_elsewhere, leave_config
from frostline.cli.options import (
    OF_RUNS,
    augment_option,
    batch_size_option,
    compile_option,
    database_option,
    device_memory_option,
    flip_option,
    group_by_option,
    hyperparameter_options,
    imbalance_option,
    label_column_option,
    logger_option,
    metric_option,
    model_options,
    no_pretrained_option,
    operating_options,
    path_column_option,
    patience_option,
    pixels_option,
    plain_timm,
    repeats_option,
    running,
    shown_options,
    split_names_option,
    test_data_option,
    varied_options,
    winner_weights_option,
)
from frostline.cli.parameter_types import MinutesType
from frostline.config import FILE
from frostline.errors import UsageError
from frostline.strategies import NAMED


class NameList(click.ParamType[tuple[str, ...] | str]):
    """Names separated by commas, or `auto`."""

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


def _network(options: dict[str, Any]) -> Any:
    """Return the name of the one network, `None` where there are several; itself with random weights."""
    if options["no_pretrained"]:
        import frostline

        return frostline.load_backbone(
            options["model"],
            size=options["size"],
            resize=options["resize"],
            architecture=options["architecture"],
            random=True,
        )
    return options["model"] if given("model") or not options["models"] else None


@click.command(short_help="From images to a model with a reliable accuracy, in one command.")
@click.argument("data")
@click.option("--minutes", type=MinutesType(), help="Time limit for everything [shown at the start].")
@click.option(
    "--strategies", "names", type=StrategyList(), help="Strategies to compare [the best of the advice]."
)
@repeats_option
@click.option(
    "--study",
    default="frostline-fit",
    show_default=True,
    help="Folder of everything, of one data set and one split.",
)
@database_option
@metric_option
@operating_options
@hyperparameter_options
@no_pretrained_option
@augment_option
@flip_option
@varied_options
@imbalance_option
@batch_size_option
@patience_option
@winner_weights_option
@test_data_option
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
    help="Largest latency of a network for one image, measured here [no limit].",
)
@click.option(
    "--max-size-mb",
    type=click.FloatRange(0, min_open=True),
    help="Largest size of a network's weights, in 10⁶ bytes [no limit].",
)
@model_options
@running
@device_memory_option
@compile_option
@pixels_option
@plain_timm
@logger_option
@continue_elsewhere
@config_option
@everywhere
def fit(data: str, **options: Any) -> None:
    """Check the images of DATA, measure them, compare strategies, train the winner, report its accuracy.

    With --models, each network passes over the images once. Strategies are then compared on the one with the
    best out-of-fold linear probe, and on the largest of those not significantly worse.

    DATA is a folder with one folder per class, one with train/, val/ and test/ inside, or a CSV or Parquet
    file with the columns path, label and optionally split and group. A first model is ready within seconds,
    and better ones follow until the time is up. Interrupted, the same command resumes.
    """
    with Verb(options, minutes=options["minutes"]) as verb:
        if options["no_pretrained"] and options["models"]:
            raise UsageError(
                "--models chooses by what pretrained weights know, and --no-pretrained gives random ones: "
                "name one architecture with --model."
            )
        if options["no_pretrained"] and not options["names"]:
            raise UsageError(
                "--no-pretrained gives random weights, and the advice is about pretrained ones. Name "
                "strategies that train every layer, such as --strategies scratch,full."
            )
        demand_effect(options, options["names"] or NAMED)
        loggers = followed(verb, options)
        verb.start_for(data)
        import frostline
        from frostline.cli.output import comparison_text

        forwarded = (
            *OF_RUNS,
            "models",
            "max_latency_ms",
            "max_size_mb",
            "architecture",
            "size",
            "resize",
            "download",
            "repeats",
            "database",
            "strict",
            "split_names",
            "intensity_range",
            "alpha_background",
            "path_column",
            "label_column",
            "group_by",
            "test_data",
        )
        fitted = frostline.fit(
            data,
            model=_network(options),
            strategies=options["names"],
            watch=verb.since_called,
            logger=loggers,
            progress=verb.progress,
            **{key: options[key] for key in forwarded},
        )
        verb.progress.close()
        leave_config(Path(options["study"]) / FILE)
        verb.done(fitted.result, lambda: comparison_text.fitted(fitted))
