"""`frostline check | fit | measure | plan | compare | train | report | predict | evaluate | export | …`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from frostline import sentences, strategies
from frostline.cli.command_context import Verb, everywhere
from frostline.cli.command_inputs import demand_effect, followed, loaded
from frostline.cli.commands.cache import cache
from frostline.cli.commands.check import check
from frostline.cli.commands.compare import compare
from frostline.cli.commands.evaluate import evaluate
from frostline.cli.commands.export import export
from frostline.cli.commands.extract import extract
from frostline.cli.commands.fit import fit
from frostline.cli.commands.models import models
from frostline.cli.commands.plan import measure, plan
from frostline.cli.commands.report import report
from frostline.cli.commands.strategies import list_strategies
from frostline.cli.config_file import config_option, continue_options, leave_config
from frostline.cli.options import (
    OF_RUNS,
    batch_size_option,
    compile_option,
    data_options,
    device_memory_option,
    device_option,
    flip_option,
    hyperparameter_options,
    imbalance_option,
    logger_option,
    metric_option,
    model_options,
    no_pretrained_option,
    operating_options,
    path_column_option,
    pixels_option,
    plain_timm,
    ray_option,
    running,
    shape_options,
    test_data_option,
    tta_option,
    varied_options,
)
from frostline.cli.parameter_types import Minutes, Share, StrategyText
from frostline.config import FILE
from frostline.distributed.torchrun_env import launched
from frostline.errors import DataError, NoTime, UsageError, at_the_prompt
from frostline.system import deadline
from frostline.system.text_output import standard_streams


class Spoken(click.Group):
    """The commands; while they run, messages name options as the command line has them."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command."""
        with at_the_prompt():
            return super().main(*args, **kwargs)


@click.group(cls=Spoken, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="frostline")
def cli() -> None:
    """Adapt a pretrained vision model to your own labelled images."""


@cli.command()
@click.argument("data")
@click.option(
    "--strategy",
    type=StrategyText(),
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
    help="Folder of the runs; images that it has seen keep their part.",
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
    help="Views of each image, including the plain one, to cycle through while layers are frozen; 0: a new "
    "augmented one each epoch [by the number of epochs].",
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
    type=Minutes(),
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
    type=Share(),
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
        (strategy,) = demand_effect(of_parent, [options["strategy"]])
        loggers = followed(verb, options)
        with verb.in_turn():
            manifest, backbone = loaded(verb, data, options, learns=True)
        verb.progress.log(formatting.data_lines(manifest))
        known = strategies.hyperparameters(strategy)
        if (known.layers != "last" or known.refit_layers) and not options["plain_timm"]:
            verb.progress.log(
                "The head reads several stages: timm alone cannot load the model, so an export brings a "
                "loader. --plain-timm keeps to the last stage."
            )
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
        result = {**run.result, "run_seconds": run.result["seconds"], "again": run.again}
        verb.done(result, lambda: run_text.run(run, options["explain"]))


@cli.command(short_help="Label images with a run of a study.")
@click.argument("study", type=click.Path())
@click.argument("images", nargs=-1, required=True)
@click.option("--run", "run_name", help="Run to predict with [the best: on val, or by a comparison].")
@click.option("--top", type=click.IntRange(1), default=1, show_default=True, help="Labels per image.")
@click.option(
    "--target-accuracy",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="ACCURACY",
    help="Mark predictions below this expected accuracy, e.g. 0.95, and images unlike the training images.",
)
@click.option(
    "--min-confidence",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="PROBABILITY",
    help="Mark predictions with a lower probability as unsure, e.g. 0.8.",
)
@click.option(
    "--all-probabilities",
    is_flag=True,
    help="Also write the probability of every class, a column each, to --output or with --json.",
)
@tta_option
@path_column_option
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False),
    metavar="FILE.csv|FILE.parquet",
    help="Write a CSV or Parquet file instead of the terminal.",
)
@click.option(
    "--copy-to",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Copy the images into a folder for each label below DIR, and uncertain ones into a separate one.",
)
@click.option("--base", type=click.Path(), help="For a delta: the base weights' file, if they have no name.")
@device_option
@everywhere
def predict(study: str, images: tuple[str, ...], **options: Any) -> None:
    """Label IMAGES with a run of STUDY, or with a delta.

    IMAGES are a folder, files, a CSV with a column path, addresses such as s3://bucket/new, or tar shards.
    """
    with Verb(options) as verb:
        import frostline
        from frostline.studies.best_run import passed_over_line

        if options["output"] and not (folder := Path(options["output"]).absolute().parent).is_dir():
            raise UsageError(
                f"--output names a file in {folder}, which does not exist. Make that folder first."
            )
        if options["all_probabilities"]:
            if options["top"] > 1:
                raise UsageError(
                    "--all-probabilities gives every class of an image in one row, and --top a row for each "
                    "of some: give one of the two."
                )
            if not options["output"] and not options["as_json"]:
                raise UsageError(
                    "--all-probabilities is for a file or a program: add --output FILE.csv, --output "
                    "FILE.parquet or --json."
                )
        verb.start_with("inference.prediction")
        predictions = frostline.predict(
            study,
            images,
            run=options["run_name"],
            top=options["top"],
            base=options["base"],
            target_accuracy=options["target_accuracy"],
            min_confidence=options["min_confidence"],
            all_probabilities=options["all_probabilities"],
            tta=options["tta"],
            path_column=options["path_column"],
            device=options["device"],
            progress=verb.progress,
        )
        if options["output"]:
            is_parquet = options["output"].lower().endswith(".parquet")
            (predictions.to_parquet if is_parquet else predictions.to_csv)(options["output"])
        copied = predictions.copy_to(options["copy_to"]) if options["copy_to"] else None
        result = {
            "run": predictions.run,
            "strategy": predictions.strategy,
            "why": predictions.why,
            "passed_over": [run.as_dict() for run in predictions.passed_over],
            "predictions": [
                {"path": row.path, "label": row.label, "probability": row.probability}
                | ({"unsure": row.unsure} if predictions.marks_unsure else {})
                | (
                    {}
                    if predictions.probabilities is None
                    else {
                        "probabilities": dict(
                            zip(predictions.classes, predictions.probabilities[place].tolist(), strict=True)
                        )
                    }
                )
                | (
                    {"top": [{"label": n, "probability": p} for n, p in row.top]}
                    if options["top"] > 1
                    else {}
                )
                for place, row in enumerate(predictions.rows)
            ],
            **({"decided_by": list(predictions.decided_by)} if predictions.decided_by else {}),
            **({} if predictions.doubts is None else {"doubts": predictions.doubts.as_dict()}),
            **({} if copied is None else {"copied": copied.as_dict()}),
            "notes": list(predictions.notes),
            "unreadable": [{"path": path, "reason": reason} for path, reason in predictions.unreadable],
        }
        verb.warn(predictions.notes)
        verb.progress.log(
            f"Predicting with run {predictions.run} ({predictions.strategy}): {predictions.why}."
        )
        if predictions.passed_over:
            verb.progress.log(passed_over_line(predictions.passed_over))

        def show() -> None:  # not for JSON, which needs no tables
            from frostline.cli.output import data_text

            data_text.predictions(predictions, options["output"], copied)

        verb.done(result, show)
        if not predictions.rows:
            raise DataError(f"None of {len(predictions.unreadable)} files could be read as an image.")


@cli.command(short_help="Show a backbone's stages and cuts.")
@click.argument("model", default="lite0")
@shape_options
@click.option(
    "--no-pretrained", is_flag=True, help="Random weights: show an architecture without its weights."
)
@click.option(
    "--plot", type=click.Path(dir_okay=False), metavar="FILE.png", help="Draw the stages to this PNG file."
)
@everywhere
def stages(model: str, **options: Any) -> None:
    """Show a backbone from stem to head, and where each strategy cuts it."""
    with Verb(options) as verb:
        verb.start_with("models.zoo")
        from frostline.models.zoo import load_backbone

        backbone = load_backbone(
            model,
            size=options["size"],
            random=options["no_pretrained"],
            architecture=options["architecture"],
            download=options["download"],
        )
        if options["plot"]:
            from frostline.cli.output.model_text import cut_marks
            from frostline.models import stage_table

            stage_table.image(backbone, Path(options["plot"]), cut_marks(len(backbone.stages)))

        def show() -> None:  # not for JSON, which needs no tables
            from frostline.cli.output import model_text

            model_text.stages(backbone, model_text.cut_marks(len(backbone.stages)), options["plot"])

        verb.done(backbone.as_dict(), show)


@cli.command(short_help="Train offline on packaged real images.")
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
                f"    {sentences.percent(run.accuracy or 0.0)} on the test part"
            ),
        )
        rows = (demonstration.majority, demonstration.pixels)
        result = {
            "runs": [
                {**run.result, "run_seconds": run.result["seconds"], "again": run.again}
                for run in demonstration.runs
            ],
            "baselines": [asdict(row) for row in rows],
        }
        verb.done(result, lambda: run_text.demo(demonstration))


cli.add_command(check)
cli.add_command(compare)
cli.add_command(evaluate)
cli.add_command(export)
cli.add_command(extract)
cli.add_command(fit)
cli.add_command(measure)
cli.add_command(models)
cli.add_command(plan)
cli.add_command(report)
cli.add_command(list_strategies)
cli.add_command(cache)


def main() -> None:
    """Run the command line."""
    standard_streams()
    Verb.owns_process = True
    if _leads():
        cli(prog_name="frostline")
        return
    try:
        cli.main(prog_name="frostline", standalone_mode=False)
    except click.ClickException as error:  # the first process of the job reports it
        raise SystemExit(error.exit_code) from None


def _leads() -> bool:
    try:
        return launched().leads
    except UsageError:  # reported by the command
        return True
