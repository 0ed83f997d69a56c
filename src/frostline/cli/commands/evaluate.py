"""`frostline evaluate`: how good finished models are on labelled images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from frostline.cli.command_context import Verb, everywhere
from frostline.cli.options import (
    device_option,
    evaluation_metric_option,
    group_by_option,
    label_column_option,
    path_column_option,
    split_names_option,
    tta_option,
)
from frostline.cli.output_files import checked_output


@click.command(short_help="Evaluate models on labelled images.")
@click.argument("models", nargs=-1, required=True, type=click.Path(), metavar="STUDY|EXPORT...")
@click.argument("data", metavar="DATA")
@evaluation_metric_option
@click.option("--positive", metavar="CLASS", help="The class of --metric sensitivity@specificity=….")
@click.option(
    "--by",
    metavar="COLUMN|parent|re:REGEX",
    help="Also for each camera, site or lot: a column of the table, the folder below the class folder, or "
    "the match of an expression in a file's name (in the path if it holds a slash).",
)
@click.option(
    "--predictions",
    type=click.Path(dir_okay=False),
    multiple=True,
    metavar="FILE",
    help="Compare with the system in use: a CSV of path, label and optionally probability that it "
    "predicted. May be given more than once.",
)
@click.option(
    "--mistakes",
    type=click.IntRange(0),
    default=5,
    show_default=True,
    help="Most confident mistakes to list.",
)
@click.option(
    "--confusion", type=click.Path(dir_okay=False), metavar="FILE.csv", help="Write the confusion matrix."
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False),
    metavar="FILE.png",
    help="Draw the confusion matrix (.png, .svg, .pdf, .jpg).",
)
@click.option("--run", "run_name", help="Run of the study [the one that predict uses].")
@tta_option
@device_option
@split_names_option
@path_column_option
@label_column_option
@group_by_option
@click.option("--base", type=click.Path(), help="For a delta: the base weights' file, if they have no name.")
@everywhere
def evaluate(models: tuple[str, ...], data: str, **options: Any) -> None:
    """Evaluate the models of studies or exports on the labelled images DATA.

    DATA is a folder with one folder per class, or a CSV or Parquet file with the columns path and label; all
    of it is used. Classes are matched by name. Images that a model learned from stand apart. Several models
    are compared with the first, image by image.
    """
    with Verb(options) as verb:
        import frostline
        from frostline.reports.classification import PICTURES

        read = {"images": [data], "others": (*models, *options["predictions"])}
        options["confusion"] = checked_output("--confusion", options["confusion"], (".csv",), **read)
        options["plot"] = checked_output("--plot", options["plot"], PICTURES, **read)
        if "://" not in data and not Path(data).exists():
            frostline.load_data(data)  # says what is missing, before the heavy imports
        verb.start_with("pipelines.evaluation")
        evaluation = frostline.evaluate(
            list(models),
            data,
            metric=options["metric"],
            positive=options["positive"],
            by=options["by"],
            predictions=options["predictions"],
            run=options["run_name"],
            tta=options["tta"],
            split_names=options["split_names"],
            path_column=options["path_column"],
            label_column=options["label_column"],
            group_by=options["group_by"],
            base=options["base"],
            device=options["device"],
            progress=verb.progress,
        )
        if options["confusion"]:
            evaluation.confusion.to_csv(options["confusion"])
        if options["plot"]:
            evaluation.confusion.save(options["plot"])
        for one in (evaluation, *evaluation.others):
            if one.run:
                verb.progress.log(f"{one.model}: run {one.run} ({one.strategy}), {one.why}.")
        mistakes = evaluation.mistakes(options["mistakes"])
        result = {
            **evaluation.as_dict(),
            "mistakes": [asdict(mistake) for mistake in mistakes],
            "confusion_file": options["confusion"],
            "plot": options["plot"],
        }

        def show() -> None:  # not for JSON, which needs no tables
            from frostline.cli.output import evaluation_text

            written = [options[name] for name in ("confusion", "plot") if options[name]]
            evaluation_text.evaluation(evaluation, mistakes, written)

        verb.done(result, show)
