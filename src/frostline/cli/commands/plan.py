"""`frostline measure | plan`: measure images and recommend a strategy, before anything is trained."""

from __future__ import annotations

import shlex
from typing import Any

import click

from frostline.cli.command_context import Verb, everywhere, stack
from frostline.cli.command_inputs import loaded
from frostline.cli.options import data_options, device_option, model_options, plain_timm, workers_option
from frostline.cli.parameter_types import MinutesType, SizeType

measuring = stack(
    click.option("--seed", default=0, show_default=True, help="Split, folds and random weights."),
    click.option("--threads", type=click.IntRange(1), help="Torch threads [the number of free cores]."),
    device_option,
    workers_option,
)


@click.command(short_help="Measure images against a backbone, before training.")
@click.argument("data")
@model_options
@data_options
@measuring
@click.option("--no-random", is_flag=True, help="Leave out the probes on random weights.")
@everywhere
def measure(data: str, **options: Any) -> None:
    """Measure the training images of DATA against a backbone: similarity, and probes at each depth.

    Nothing is trained. Similarity and the probes of stages use at most 200 training images (10 a class,
    if that is more), linear_probe and the learning curve at most 2,000.
    """
    with Verb(options) as verb:
        import frostline
        from frostline.cli.output import advice_text

        manifest, backbone = loaded(verb, data, options)
        signals = frostline.measure(
            backbone,
            manifest,
            random=not options["no_random"],
            seed=options["seed"],
            device=options["device"],
            threads=options["threads"],
            workers=options["workers"],
            progress=verb.progress,
        )
        verb.done(signals.as_dict(), lambda: advice_text.signals(signals))


@click.command(short_help="Recommend a strategy, with reasons, costs and what would change it.")
@click.argument("data")
@model_options
@data_options
@measuring
@click.option("--minutes", type=MinutesType(), help="Time limit of one run [no limit].")
@click.option(
    "--memory", type=SizeType(), help="Memory that a run may use above its imports, e.g. 4GB [no limit]."
)
@click.option(
    "--device-memory", type=SizeType(), help="Memory of a GPU that a run may use, e.g. 8GB [all that it has]."
)
@click.option("--disk", type=SizeType(), help="Disk for cached features, e.g. 2GB [no limit].")
@plain_timm
@everywhere
def plan(data: str, **options: Any) -> None:
    """Recommend a strategy for DATA: expected accuracy, seconds, memory and disk of each, and why.

    Nothing is trained. A strategy that does not fit the budget is never recommended; pass the same --minutes
    to `frostline train`, which stops in time.
    """
    with Verb(options) as verb:
        import frostline
        from frostline.cli.output import advice_text

        manifest, backbone = loaded(verb, data, options)
        planned = frostline.plan(
            backbone,
            manifest,
            minutes=options["minutes"],
            memory_bytes=options["memory"],
            disk_bytes=options["disk"],
            device_memory_bytes=options["device_memory"],
            plain_timm=options["plain_timm"],
            seed=options["seed"],
            device=options["device"],
            threads=options["threads"],
            workers=options["workers"],
            progress=verb.progress,
        )
        verb.done(planned.as_dict(), lambda: advice_text.advice(planned, _train(data, options)))


def _train(data: str, options: dict[str, Any]) -> str:
    """Return the `frostline train` command for this call, ready to be pasted, without a strategy."""
    automatic = {"device": "auto", "workers": "auto"}
    defaults = {"model": "lite0", "seed": 0, "test_size": 0.2, "val_size": 0.2, **automatic}
    forwarded = (
        *("model", "architecture", "size", "resize", "seed", "test_size", "val_size", "minutes", "device"),
        *("threads", "workers", "cache_dir", "path_column", "label_column", "group_by"),
    )
    arguments = ["frostline", "train", data]
    if options["split_names"]:
        from frostline.data.sources.folder_layout import split_names_text

        arguments += ["--split-names", split_names_text(options["split_names"])]
    for name in ("intensity_range", "alpha_background"):
        if options.get(name):
            arguments += [f"--{name.replace('_', '-')}", options[name]]
    for name in forwarded:
        value = options.get(name)
        if value is not None and value != defaults.get(name):
            text = f"{value:g}" if isinstance(value, float) else str(value)
            arguments += [f"--{name.replace('_', '-')}", text]
    flags = [f"--{name.replace('_', '-')}" for name in ("strict", "plain_timm") if options[name]]
    return shlex.join([*arguments, *flags])
