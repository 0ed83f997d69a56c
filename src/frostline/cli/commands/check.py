"""`frostline check`: what was read, its problems, and how it would be split, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from frostline.cli.command_context import Verb, everywhere
from frostline.cli.options import data_options, workers_option
from frostline.cli.output_files import PAGES, checked_output
from frostline.errors import StudyError, did_you_mean

FOUND = 3  # exit code if --fail-on names a kind that was found; 1 is an error
ANY = "any"


class KindList(click.ParamType[tuple[str, ...]]):
    """Kinds of findings separated by commas, or `any`: each that may be a problem."""

    name = "KIND,…"

    def convert(
        self, value: str | tuple[str, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Return the kinds."""
        from frostline.data.findings import KINDS, TROUBLE

        if isinstance(value, tuple):
            return value
        names = [name.strip() for name in value.split(",") if name.strip()]
        unknown = [name for name in names if name not in (*KINDS, ANY)]
        if unknown or not names:
            problem = f"There is no kind {unknown[0]!r}." if unknown else "No kind is named."
            guess = did_you_mean(unknown[0], KINDS) if unknown else ""
            self.fail(f"{problem}{guess} Expected {ANY}, or some of {', '.join(KINDS)}.", param, ctx)
        kinds = [kind for name in names for kind in (TROUBLE if name == ANY else (name,))]
        return tuple(dict.fromkeys(kinds))


@click.command(short_help="Find problems in images, before any training.")
@click.argument("data")
@click.option(
    "--fail-on",
    type=KindList(),
    default=(),
    help=f"Exit with {FOUND} if one of these kinds is found (docs/cli.md lists them); {ANY}: if anything may "
    "be wrong.",
)
@click.option(
    "--page",
    type=click.Path(dir_okay=False),
    metavar="FILE.html",
    help="Write a page with the pictures concerned.",
)
@click.option(
    "--resize",
    type=click.Choice(["crop", "squash", "pad"]),
    help="How pictures will become square [as the study has it, else crop].",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the split.")
@click.option("--study", type=click.Path(), help="A study whose images keep their subset.")
@workers_option
@data_options
@everywhere
def check(data: str, **options: Any) -> None:
    """Show what is in DATA, its problems, and how it would be split. Nothing is trained.

    DATA is what `train` takes. Files are decoded once and cached; a second check takes seconds.
    """
    with Verb(options) as verb:
        page = checked_output("--page", options["page"], PAGES, images=[data])
        verb.start_with("data")
        import frostline

        forwarded = (
            *(
                "seed",
                "test_size",
                "val_size",
                "strict",
                "workers",
                "study",
                "split_names",
                "intensity_range",
            ),
            *("alpha_background", "path_column", "label_column", "group_by"),
        )
        manifest = frostline.load_data(
            data, progress=verb.progress, **{key: options[key] for key in forwarded}
        )
        manifest = manifest.framed(*_geometry(options["resize"], options["study"]))
        if page:
            from frostline.reports import check_page

            check_page.write(manifest, data, Path(page))
        kinds = {finding.kind for finding in manifest.findings}
        failed = [kind for kind in options["fail_on"] if kind in kinds]
        result = {
            "data": data,
            "n_images": len(manifest.samples),
            "classes": manifest.counts,
            "subsets": {subset: len(manifest.subset(subset)) for subset in ("train", "val", "test")},
            "predefined": list(manifest.predefined),
            "skipped": [
                {"path": skipped.path, "label": skipped.label, "kind": skipped.kind, "reason": skipped.reason}
                for skipped in manifest.skipped
            ],
            "findings": [finding.as_dict() for finding in manifest.findings],
            "failed": failed,
            "page": page,
        }

        def show() -> None:
            from frostline.cli.output import data_text

            data_text.checked(manifest, page)

        verb.done(result, show)
        if failed:
            verb.warn([f"Found what --fail-on names: {', '.join(failed)}."])
            raise SystemExit(FOUND)


def _geometry(resize: str | None, study: str | None) -> tuple[str, float]:
    """Return how pictures become square, and the share of a side that a crop keeps.

    As given, else as the study's best run has it, else a crop that keeps the most.
    """
    if resize is not None or study is None or not (Path(study) / "study.json").is_file():
        return resize or "crop", 1.0
    from frostline.studies.best_run import best_of
    from frostline.studies.study_folder import Study

    opened_study = Study.existing(study)
    try:
        preprocessing = best_of(opened_study).folder.checked_config()["preprocessing"]
    except StudyError:  # no run is finished yet
        return "crop", 1.0
    return str(preprocessing.get("crop_mode", "crop")), float(preprocessing.get("crop_pct", 1.0))
