"""`frostline cache`: show and maintain the cached features of frozen layers. Only `fill` needs torch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from frostline.cli.command_context import Verb, everywhere
from frostline.cli.command_inputs import loaded
from frostline.cli.options import (
    data_options,
    model_options,
    pixels_option,
    ray_option,
    running,
    varied_options,
)
from frostline.cli.parameter_types import SizeType, StrategyTextType


@click.group(
    invoke_without_command=True, short_help="Show and maintain the cached features of frozen layers."
)
@everywhere
@click.pass_context
def cache(context: click.Context, /, **options: Any) -> None:
    """Show the cached features of frozen layers, by model and cut.

    Deleting them costs time, but changes no result: missing features are computed again.
    """
    context.obj = options
    if context.invoked_subcommand is None:
        with Verb(options) as verb:
            from frostline.cli.output import formatting
            from frostline.feature_cache import FeatureCache

            verb.start_light()
            with FeatureCache() as feature_cache:
                entries = [
                    {**asdict(holding), "form": asdict(holding.form) if holding.form else None}
                    for holding in feature_cache.holdings()
                ]
                result = {
                    "path": str(feature_cache.path),
                    "bytes": feature_cache.total_bytes(),
                    "entries": entries,
                }
                verb.done(result, lambda: formatting.cache_table(feature_cache))


@cache.command()
@click.argument("data")
@click.option(
    "--strategy",
    type=StrategyTextType(),
    default="head",
    show_default=True,
    help="Cache what this strategy will read.",
)
@click.option(
    "--cut", type=click.IntRange(1), help="Cache features of this cut alone (see frostline stages)."
)
@click.option("--views", type=click.IntRange(1), help="Views of each training image, the plain one first.")
@click.option(
    "--augment",
    type=click.Choice(["none", "light", "standard", "strong", "randaugment"]),
    default="standard",
    show_default=True,
    help="Strength of the augmentation in training.",
)
@varied_options
@ray_option
@model_options
@running
@pixels_option
@data_options
@everywhere
@click.pass_obj
def fill(group_options: dict[str, Any], /, data: str, **options: Any) -> None:
    """Compute and cache the features of DATA's images, before anything is trained.

    Training reads them where model, --size, --resize, --seed, --augment, --min-crop, --rotate and --precision
    are the same. Interrupted, the same command resumes; several at once, also on several machines, share the
    work.
    """
    options = {**options, **_merged(group_options, {key: options[key] for key in group_options})}
    with Verb(options) as verb:
        import frostline
        from frostline.cli.output import formatting

        manifest, backbone = loaded(verb, data, options)
        verb.progress.log(formatting.data_lines(manifest))
        forwarded = (
            *("cut", "views", "ray", "seed", "augment", "min_crop", "rotate", "deterministic", "precision"),
            *("device", "threads", "workers", "pixels"),
        )
        filled = frostline.fill_cache(
            backbone,
            manifest,
            options["strategy"],
            progress=verb.progress,
            **{key: options[key] for key in forwarded},
        )
        verb.done(
            asdict(filled),
            lambda: click.echo(
                f"{filled.wanted:,} features needed, {filled.computed:,} computed now by {filled.workers} "
                f"worker(s), in {filled.cache_dir}"
            ),
        )


@cache.command()
@click.option("--max-size", type=SizeType(), required=True, help="Size to reduce the cache to, such as 5GB.")
@everywhere
@click.pass_obj
def prune(group_options: dict[str, Any], /, max_size: int, **options: Any) -> None:
    """Delete the least recently used features until at most --max-size is left."""
    with Verb(_merged(group_options, options)) as verb:
        from frostline.cli.output.formatting import size
        from frostline.feature_cache import FeatureCache

        verb.start_light()
        with FeatureCache() as feature_cache:
            freed_bytes = feature_cache.prune(max_size)
            left_bytes = feature_cache.total_bytes()
            verb.done(
                {"path": str(feature_cache.path), "freed_bytes": freed_bytes, "bytes": left_bytes},
                lambda: click.echo(
                    f"{size(freed_bytes)} deleted, {size(left_bytes)} left in {feature_cache.path}"
                ),
            )


@cache.command()
@everywhere
@click.pass_obj
def verify(group_options: dict[str, Any], /, **options: Any) -> None:
    """Read every cached feature and delete what is damaged."""
    with Verb(_merged(group_options, options)) as verb:
        from frostline.feature_cache import FeatureCache

        verb.start_light()
        with FeatureCache() as feature_cache:
            checked = feature_cache.verify()
            verb.done(
                {"path": str(feature_cache.path), **asdict(checked)},
                lambda: click.echo(
                    f"{checked.intact:,} features are intact, {checked.damaged:,} were damaged and deleted, "
                    f"{checked.lost:,} were missing, {checked.adopted:,} were found on disk and added."
                ),
            )


@cache.command()
@everywhere
@click.pass_obj
def clear(group_options: dict[str, Any], /, **options: Any) -> None:
    """Delete every cached feature."""
    with Verb(_merged(group_options, options)) as verb:
        from frostline.cli.output.formatting import size
        from frostline.feature_cache import FeatureCache

        verb.start_light()
        with FeatureCache() as feature_cache:
            freed_bytes = feature_cache.clear()
            verb.done(
                {
                    "path": str(feature_cache.path),
                    "freed_bytes": freed_bytes,
                    "bytes": feature_cache.total_bytes(),
                },
                lambda: click.echo(f"{size(freed_bytes)} deleted from {feature_cache.path}"),
            )


def _merged(group_options: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return options as given to the command or its group: `cache --json verify` or `cache verify --json`."""
    return {key: options[key] or group_options[key] for key in options}
