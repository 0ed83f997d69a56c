"""`frostline predict`: label images with a run of a study, or with a delta."""

from __future__ import annotations

from typing import Any

import click

from frostline.cli.command_context import Verb, everywhere
from frostline.cli.options import (
    device_option,
    path_column_option,
    tta_option,
)
from frostline.cli.output_files import checked_output
from frostline.errors import DataError, UsageError


@click.command(short_help="Label images with a run of a study.")
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

        options["output"] = checked_output(
            "--output", options["output"], ("", ".csv", ".parquet"), images=images, others=[study]
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
