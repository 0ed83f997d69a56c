"""`frostline check | fit | measure | plan | compare | train | report | predict | evaluate | export | …`."""

from __future__ import annotations

import gc
from typing import Any

import click

from frostline.cli.command_context import Verb
from frostline.cli.commands.cache import cache
from frostline.cli.commands.check import check
from frostline.cli.commands.compare import compare
from frostline.cli.commands.demo import demo
from frostline.cli.commands.evaluate import evaluate
from frostline.cli.commands.export import export
from frostline.cli.commands.extract import extract
from frostline.cli.commands.fit import fit
from frostline.cli.commands.models import models
from frostline.cli.commands.plan import measure, plan
from frostline.cli.commands.predict import predict
from frostline.cli.commands.report import report
from frostline.cli.commands.stages import stages
from frostline.cli.commands.strategies import list_strategies
from frostline.cli.commands.train import train
from frostline.distributed.torchrun_env import launched
from frostline.errors import UsageError, at_the_prompt
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


for command in (
    *(train, predict, stages, demo, check, compare, evaluate, export, extract, fit, measure, models, plan),
    *(report, list_strategies, cache),
):
    cli.add_command(command)


def main() -> None:
    """Run the command line."""
    standard_streams()
    Verb.owns_process = True
    # Modules are a million objects and no garbage, which full collections look through eight times while they
    # are imported: 1 s of 8.5 of a small run (docs/LOG.md 2026-12-01). Younger ones are collected as ever.
    gc.set_threshold(*gc.get_threshold()[:2], 1000)
    try:
        if _leads():
            cli(prog_name="frostline")
        else:
            cli.main(prog_name="frostline", standalone_mode=False)
    except click.ClickException as error:  # the first process of the job reports it
        raise SystemExit(error.exit_code) from None
    finally:
        # As it ends, the interpreter would look through every object for cycles to free: with torch and timm
        # imported about 1.5 processor seconds (docs/LOG.md 2026-11-29). The process's memory goes anyway.
        gc.freeze()


def _leads() -> bool:
    try:
        return launched().leads
    except UsageError:  # reported by the command
        return True
