"""`frostline strategies`: list strategies with their hyperparameters, defaults, meaning and sources."""

from __future__ import annotations

from typing import Any

import click

from frostline.cli.command_context import Verb, everywhere
from frostline.strategies import descriptions
from frostline.strategies.validation import unknown


@click.command("strategies", short_help="List strategies with their hyperparameters.")
@click.argument("names", nargs=-1)
@everywhere
def list_strategies(names: tuple[str, ...], **options: Any) -> None:
    """List strategies with their hyperparameters: default, meaning and source of the default.

    NAMES are the strategies to list, such as top_k [all]. A hyperparameter is set in a strategy's brackets,
    "top_k(2, lr=0.0005)", or beside it, --lr 0.0005 or --set lr=0.0005: both make the same run.
    """
    with Verb(options) as verb:
        verb.start_light()
        listing = {description.name: description for description in descriptions()}
        named = [name.partition("(")[0].strip() for name in names]  # top_k(2) is listed as top_k
        for name in named:
            if name not in listing:
                raise unknown(name)
        chosen = [listing[name] for name in named or listing]

        def show() -> None:  # not for JSON, which needs no tables
            from frostline.cli.output import strategy_text

            show_them = strategy_text.one_by_one if names else strategy_text.together
            show_them(chosen)

        verb.done({"strategies": [description.as_dict() for description in chosen]}, show)
