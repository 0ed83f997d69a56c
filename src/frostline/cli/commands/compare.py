"""`frostline compare`: compare strategies, and report the winner with its accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from frostline import strategies
from frostline.cli.command_context import Verb, everywhere, given
from frostline.cli.command_inputs import demand_effect, followed, given_hyperparameters, loaded
from frostline.cli.config_file import config_option, continue_elsewhere, leave_config
from frostline.cli.options import (
    OF_RUNS,
    augment_option,
    batch_size_option,
    compile_option,
    data_options,
    database_option,
    device_memory_option,
    flip_option,
    hyperparameter_options,
    imbalance_option,
    logger_option,
    metric_option,
    model_options,
    no_pretrained_option,
    operating_options,
    patience_option,
    pixels_option,
    plain_timm,
    ray_option,
    repeats_option,
    running,
    test_data_option,
    varied_options,
    winner_weights_option,
)
from frostline.cli.parameter_types import MinutesType
from frostline.config import FILE, SEARCHED
from frostline.errors import UsageError, did_you_mean


def _settings(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Return the settings of --search, each once; several may stand in one value, with commas."""
    names = [name.strip() for value in values for name in value.split(",")]
    for name in names:
        if name not in SEARCHED:
            raise click.BadParameter(
                f"{name!r} cannot be searched.{did_you_mean(name, SEARCHED)} Expected some of "
                f"{', '.join(SEARCHED)}; the range is the setting's own.",
                ctx,
                param,
            )
    return tuple(dict.fromkeys(names))


class StrategyList(click.ParamType[tuple[str, ...]]):
    """Strategies separated by commas; commas inside brackets belong to a strategy."""

    name = "STRATEGIES"

    def convert(
        self, value: str | tuple[str, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Return the canonical notations."""
        if isinstance(value, tuple):
            return value
        try:
            names = tuple(str(strategy) for strategy in strategies.parse_list(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)
        if not names:
            self.fail("names no strategy; expected names such as linear_probe,top_k(2).", param, ctx)
        return names


ADVISED = "advised"  # in place of names: the best by `plan`


class CandidateList(StrategyList):
    """A list of strategies, or `advised`."""

    def convert(
        self, value: str | tuple[str, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Return the canonical notations, or the word alone."""
        return (ADVISED,) if value == ADVISED else super().convert(value, param, ctx)


@click.command(short_help="Compare strategies, name the winner, train it.")
@click.argument("data")
@click.option(
    "--strategies",
    "names",
    type=CandidateList(),
    help='Strategies to compare, such as "linear_probe,top_k(2),lp_ft", or advised: the probe and the best '
    "of the advice [every strategy but scratch].",
)
@click.option(
    "--cuts", is_flag=True, help="Compare unfreezing from every stage instead: how many layers to freeze?"
)
@click.option(
    "--earlier/--no-earlier",
    default=True,
    help="Include strategies that were trained in the study before [included].",
)
@click.option("--minutes", type=MinutesType(), help="Time limit for everything [no limit].")
@repeats_option
@click.option(
    "--search",
    multiple=True,
    metavar="|".join(SEARCHED),
    callback=_settings,
    help="Add variants of the strategies with this setting sampled; several: lr,layer_decay, or given again.",
)
@click.option(
    "--draws", type=click.IntRange(0), default=8, show_default=True, help="Number of variants for --search."
)
@click.option(
    "--study",
    default="frostline-study",
    show_default=True,
    help="Folder of the runs, of one data set and one split.",
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
@ray_option
@model_options
@running
@device_memory_option
@compile_option
@pixels_option
@plain_timm
@logger_option
@data_options
@test_data_option
@continue_elsewhere
@config_option
@everywhere
def compare(data: str, **options: Any) -> None:
    """Compare strategies on DATA, and train the winner on all train and val images.

    Every repeat is a new split, order, initialisation and augmentation, shared by all strategies; with
    fewer than 2,000 images it is five folds. Decisions use validation images alone; the test set is
    evaluated once, for the winner. Interrupted, the same command resumes; several at once share the work.
    """
    with Verb(options, minutes=options["minutes"]) as verb:
        if options["cuts"] and options["names"]:
            raise UsageError(
                "--cuts compares one strategy per stage, and --strategies names others: give one of the two."
            )
        if given("draws") and not options["search"]:
            raise UsageError(
                "--draws is the number of variants for --search: give --search, such as lr, too."
            )
        if options["no_pretrained"] and (options["cuts"] or options["names"] in (None, (ADVISED,))):
            raise UsageError(
                "--no-pretrained gives random weights, and this comparison has strategies that freeze "
                "layers: random ones carry no knowledge. Name strategies that train every layer, such as "
                "--strategies scratch,full."
            )
        all_names = strategies.NAMED if options["names"] in (None, (ADVISED,)) else options["names"]
        demand_effect(options, all_names)
        import frostline
        from frostline.cli.output import comparison_text, formatting
        from frostline.feature_cache import FeatureCache
        from frostline.pipelines import candidates, demand_measuring
        from frostline.selection.candidates import listed, searched

        if options["names"] not in (None, (ADVISED,)):  # refused before the images are read
            compared = listed(
                options["names"],
                options["augment"],
                least=1 if options["search"] else 2,
                plain_timm=options["plain_timm"],
                values=given_hyperparameters(options),
            )
            searched(compared, options["search"], options["draws"], options["seed"])
        loggers = followed(verb, options)
        manifest, backbone = loaded(verb, data, options, learns=True)
        verb.progress.log(formatting.data_lines(manifest))
        forwarded = (*OF_RUNS, "cuts", "earlier", "repeats", "search", "database", "ray")
        arguments = {key: options[key] for key in forwarded}
        names, cache = options["names"], FeatureCache()
        if names == (ADVISED,):
            demand_measuring(
                backbone,
                manifest,
                options["minutes"],
                verb.since_called,
                seed=options["seed"],
                threads=options["threads"],
                feature_cache=cache,
            )
            planned = frostline.plan(
                backbone,
                manifest,
                seed=options["seed"],
                device=options["device"],
                threads=options["threads"],
                feature_cache=cache,
                progress=verb.progress,
            )
            values = given_hyperparameters(options)  # which go before what the advice names
            plain_heads = options["plain_timm"] or options["interpolate_weights"] is not None
            advised = [
                strategies.at_defaults(strategies.parse(name), values)
                for name in candidates(planned.advice, plain_heads=plain_heads)
            ]
            names = tuple(dict.fromkeys(map(str, advised)))
            verb.progress.log(f"Comparing {', '.join(names)}.")
        if names:
            arguments["strategies"] = names
        comparison = frostline.compare(
            backbone,
            manifest,
            draws=options["draws"] if options["search"] else 0,
            watch=verb.since_called,
            logger=loggers,
            feature_cache=cache,
            progress=verb.progress,
            **arguments,
        )
        verb.progress.close()
        leave_config(Path(options["study"]) / FILE)
        verb.done(comparison.result, lambda: comparison_text.comparison(comparison))
