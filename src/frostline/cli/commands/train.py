"""`frostline train`: train one strategy on images."""

from __future__ import annotations

from typing import Any

import click

from frostline import strategies
from frostline.cli.command_context import Verb, everywhere
from frostline.cli.command_inputs import demand_effect, followed, loaded
from frostline.cli.config_file import config_option, continue_options, leave_config
from frostline.cli.options import (
    OF_RUNS,
    batch_size_option,
    compile_option,
    data_options,
    device_memory_option,
    flip_option,
    hyperparameter_options,
    imbalance_option,
    logger_option,
    metric_option,
    model_options,
    no_pretrained_option,
    operating_options,
    pixels_option,
    plain_timm,
    ray_option,
    running,
    test_data_option,
    varied_options,
)
from frostline.cli.parameter_types import MinutesType, ShareType, StrategyTextType
from frostline.config import FILE
from frostline.errors import NoTime
from frostline.system import deadline


@click.command()
@click.argument("data")
@click.option(
    "--strategy",
    type=StrategyTextType(),
    default="top_k(2)",
    show_default=True,
    help=f"One of {', '.join(strategies.NAMED)}, with hyperparameters in brackets.",
)
@continue_options
@hyperparameter_options
@no_pretrained_option
@model_options
@running
@device_memory_option
@compile_option
@pixels_option
@plain_timm
@click.option(
    "--study",
    default="frostline-study",
    show_default=True,
    help="Folder of the runs, of one data set and one split.",
)
@metric_option
@operating_options
@click.option(
    "--augment",
    type=click.Choice(["none", "light", "standard", "strong", "randaugment"]),
    default="standard",
    show_default=True,
    help="Strength of the augmentation: crops; strong adds colours and erased patches, randaugment two "
    "random operations an image.",
)
@flip_option
@varied_options
@imbalance_option
@click.option(
    "--views",
    type=click.IntRange(0),
    help="Augmented versions of each image while layers are frozen, the plain image among them. Epochs take "
    "turns; 0: a new one each epoch [by the number of epochs].",
)
@click.option(
    "--cache",
    type=click.Choice(["auto", "keep", "compute"]),
    default="auto",
    show_default=True,
    help="Cache the features of frozen layers, or compute them each time; the result is the same.",
)
@click.option(
    "--minutes",
    type=MinutesType(),
    help="Hard time limit: training stops in time for the final evaluation, with the best weights so far.",
)
@click.option(
    "--patience",
    type=click.IntRange(1),
    metavar="EPOCHS",
    help="Stop early: after so many epochs of the last phase in a row without a better metric on val [run to "
    "the end].",
)
@click.option(
    "--interpolate-weights",
    type=ShareType(),
    help="Interpolate weights: 0 is the pretrained ones with a probe, 1 the adapted ones; auto uses val.",
)
@click.option(
    "--source-data",
    type=click.Path(),
    help="Images labelled with the backbone's own classes, to measure forgetting.",
)
@click.option("--explain", is_flag=True, help="Show the arithmetic behind --cache auto.")
@batch_size_option
@ray_option
@logger_option
@data_options
@test_data_option
@config_option
@everywhere
def train(data: str, **options: Any) -> None:
    """Adapt a backbone to DATA by one strategy.

    DATA is a folder with one folder per class, one with train/, val/ and test/ inside, or a CSV or
    Parquet file with the columns path, label and optionally split and group. Several processes or GPUs
    share one run: torchrun --nproc-per-node 2 -m frostline train DATA …
    """
    with Verb(options, divided=True, minutes=options["minutes"]) as verb, verb.together():
        import frostline
        from frostline.cli.output import formatting, run_text
        from frostline.diagnostics import feature_drift

        # A rate beside --continue is of the new schedule, and goes before the parent's in the brackets.
        of_parent = {**options, "lr": None} if options["continue_from"] else options
        demand_effect(of_parent, [options["strategy"]])
        loggers = followed(verb, options)
        with verb.in_turn():
            manifest, backbone = loaded(verb, data, options, learns=True)
        verb.progress.log(formatting.data_lines(manifest))
        source_data = None
        if options["source_data"]:  # its problems are reported before training
            source_data = frostline.load_data(
                options["source_data"], test_size=0.0, val_size=0.0, progress=verb.progress
            )
            feature_drift.own_targets(backbone, source_data)
        forwarded = (*OF_RUNS, "views", "cache", "continue_from", "extra_epochs", "ray")
        run = frostline.train(
            backbone,
            manifest,
            options["strategy"],
            logger=loggers,
            watch=verb.since_called,
            progress=verb.progress,
            **{key: options[key] for key in forwarded},
        )
        if source_data is not None:
            try:
                forgetting = frostline.forgetting(
                    backbone,
                    frostline.load_model(run.folder),
                    source_data,
                    device=options["device"],
                    workers=options["workers"],
                    progress=deadline.telling(verb.progress, "the run and what it forgot of --source-data"),
                )
                run.result["forgetting"] = forgetting.as_dict()
                run.folder.write(feature_drift.KEPT, forgetting.as_dict())
            except NoTime as error:
                verb.warn([f"What the model forgot was not measured. {error}"])
        verb.progress.close()
        if verb.leads:
            leave_config(run.folder.path / FILE)
        verb.warn(run_text.warnings(run.result))
        result = {**run.result, "run_seconds": run.result["seconds"], "reused": run.reused}
        verb.done(result, lambda: run_text.run(run, options["explain"]))
