"""`frostline models`: backbones by size, with licence and download, and which of them are here."""

from __future__ import annotations

from typing import Any

import click

from frostline.cli.command import Verb, everywhere


@click.command(short_help="Backbones by size, with licence and download; which are here.")
@everywhere
def models(**options: Any) -> None:
    """List backbones that people mean, by where they are comfortable to train, and what of them is here.

    It is a short list, not a limit: --model takes any name of timm's, torchvision's and transformers'.
    """
    with Verb(options) as verb:
        verb.start_with("models.zoo")
        from frostline.models.zoo.catalogue import catalogue

        found = catalogue()

        def show() -> None:  # for a person alone: JSON needs no tables
            from frostline.cli.output import models_text

            models_text.models(found)

        verb.done(found, show)
