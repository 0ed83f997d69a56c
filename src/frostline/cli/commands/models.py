"""`frostline models`: list backbones by size, with licence, download size and whether they are on disk."""

from __future__ import annotations

from typing import Any

import click

from frostline.cli.command_context import Verb, everywhere


@click.command(short_help="List backbones by size, with licence, download and whether on disk.")
@everywhere
def models(**options: Any) -> None:
    """List common backbones by the hardware that they suit, and whether they are on this machine.

    It is a short list, not a limit: --model takes any name of timm's, torchvision's and transformers'.
    """
    with Verb(options) as verb:
        verb.start_with("models.zoo")
        from frostline.models.zoo.catalogue import catalogue

        listing = catalogue()

        def show() -> None:  # not for JSON, which needs no tables
            from frostline.cli.output import model_text

            model_text.models(listing)

        verb.done(listing, show)
