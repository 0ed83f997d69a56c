"""`frostline cache`: what is kept of frozen layers, and its upkeep. Only `fill` needs torch."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import click

from frostline.cli.command import Verb, everywhere
from frostline.cli.options import (
    StrategyText,
    data_options,
    loaded,
    model_options,
    ray_option,
    running,
    varied_options,
)

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class Size(click.ParamType[int]):
    """A number of bytes, such as 500MB or 2.5 GB."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return bytes."""
        text = str(value).strip().upper().replace(" ", "")
        digits = text.rstrip("KMGTB")
        unit = text[len(digits) :] or "B"
        try:
            size = float(digits) * UNITS[unit if unit.endswith("B") else f"{unit}B"]
        except (ValueError, KeyError):
            size = -1
        if not 0 <= size < math.inf:
            self.fail(f"{value!r} is not a size. Expected a number with a unit, such as 500MB or 2GB.")
        return int(size)


@click.group(invoke_without_command=True, short_help="Show what is kept of frozen layers, and tidy it.")
@everywhere
@click.pass_context
def cache(context: click.Context, /, **options: Any) -> None:
    """Show the rows of frozen layers that are kept, by model and cut.

    Deleting them costs time, never a result: what is missing is computed again.
    """
    context.obj = options
    if context.invoked_subcommand is None:
        with Verb(options) as verb:
            from frostline.cli.output import formatting
            from frostline.feature_cache import FeatureCache

            verb.start_light()
            with FeatureCache() as kept:
                shelves = [
                    {**asdict(held), "form": asdict(held.form) if held.form else None}
                    for held in kept.holdings()
                ]
                result = {"path": str(kept.path), "bytes": kept.total_bytes(), "shelves": shelves}
                verb.done(result, lambda: formatting.store(kept))


@cache.command()
@click.argument("data")
@click.option(
    "--strategy", type=StrategyText(), default="head", show_default=True, help="Keep what this will read."
)
@click.option("--cut", type=click.IntRange(1), help="Keep the rows of this cut alone (see frostline stages).")
@click.option("--views", type=click.IntRange(1), help="Views of each training image, the plain one first.")
@click.option(
    "--augment",
    type=click.Choice(["none", "light", "standard", "strong"]),
    default="standard",
    show_default=True,
    help="How much training images will be varied.",
)
@varied_options
@ray_option
@model_options
@running
@data_options
@everywhere
@click.pass_obj
def fill(before: dict[str, Any], /, data: str, **options: Any) -> None:
    """Compute the frozen layers of DATA's images and keep them, before anything is trained.

    Training reads them where model, --size, --resize, --seed, --augment, --min-crop, --rotate and --precision
    are the same. Interrupted, the same command goes on; several at once, also on several machines, share the
    work.
    """
    options = {**options, **_both(before, {key: options[key] for key in before})}
    with Verb(options) as verb:
        import frostline
        from frostline.cli.output import formatting

        manifest, backbone = loaded(verb, data, options)
        verb.progress.log(formatting.data_lines(manifest))
        named = (
            *("cut", "views", "ray", "seed", "augment", "min_crop", "rotate", "deterministic", "precision"),
            *("threads", "workers"),
        )
        found = frostline.fill_cache(
            backbone,
            manifest,
            options["strategy"],
            progress=verb.progress,
            **{key: options[key] for key in named},
        )
        verb.done(
            asdict(found),
            lambda: click.echo(
                f"{found.wanted:,} rows are wanted, {found.computed:,} were computed now, by {found.workers} "
                f"worker(s), in {found.store}"
            ),
        )


@cache.command()
@click.option("--max-size", type=Size(), required=True, help="Keep at most this much, such as 5GB.")
@everywhere
@click.pass_obj
def prune(before: dict[str, Any], /, max_size: int, **options: Any) -> None:
    """Delete the least recently used rows until at most --max-size is left."""
    with Verb(_both(before, options)) as verb:
        from frostline.cli.output.formatting import size
        from frostline.feature_cache import FeatureCache

        verb.start_light()
        with FeatureCache() as kept:
            gone = kept.prune(max_size)
            left = kept.total_bytes()
            verb.done(
                {"path": str(kept.path), "freed_bytes": gone, "bytes": left},
                lambda: click.echo(f"{size(gone)} deleted, {size(left)} left in {kept.path}"),
            )


@cache.command()
@everywhere
@click.pass_obj
def verify(before: dict[str, Any], /, **options: Any) -> None:
    """Read every row and drop what is damaged."""
    with Verb(_both(before, options)) as verb:
        from frostline.feature_cache import FeatureCache

        verb.start_light()
        with FeatureCache() as kept:
            found = kept.verify()
            verb.done(
                {"path": str(kept.path), **asdict(found)},
                lambda: click.echo(
                    f"{found.right:,} rows are right, {found.damaged:,} were damaged and are dropped, "
                    f"{found.lost:,} were gone, {found.adopted:,} were found on disk and are known now."
                ),
            )


@cache.command()
@everywhere
@click.pass_obj
def clear(before: dict[str, Any], /, **options: Any) -> None:
    """Delete every row."""
    with Verb(_both(before, options)) as verb:
        from frostline.cli.output.formatting import size
        from frostline.feature_cache import FeatureCache

        verb.start_light()
        with FeatureCache() as kept:
            gone = kept.clear()
            verb.done(
                {"path": str(kept.path), "freed_bytes": gone, "bytes": kept.total_bytes()},
                lambda: click.echo(f"{size(gone)} deleted from {kept.path}"),
            )


def _both(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Take an option wherever it was given: `store --json verify` or `cache verify --json`."""
    return {key: after[key] or before[key] for key in after}
