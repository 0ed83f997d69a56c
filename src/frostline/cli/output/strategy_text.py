"""Print strategies with their hyperparameters."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from frostline.cli.output.formatting import console_out
from frostline.strategies.describing import Description, Setting

HINT = """\
A hyperparameter is set in the brackets, "top_k(2, lr=0.0005)", or beside the strategy, --lr 0.0005 or \
--set lr=0.0005. frostline strategies NAME lists those of one strategy."""


def one_by_one(descriptions: Sequence[Description]) -> None:
    """Print each strategy with its own hyperparameters."""
    out = console_out()
    for description in descriptions:
        out.print(_title(description))
        table = _table()
        for setting in description.settings:
            table.add_row(setting.name, _text(setting.default), f"{setting.meaning}{_source(setting)}")
        out.print(table)


def together(descriptions: Sequence[Description]) -> None:
    """Print all strategies, then each hyperparameter once, with the strategies whose default is another."""
    out = console_out()
    for description in descriptions:
        out.print(_title(description))
        out.print(f"  {', '.join(setting.name for setting in description.settings)}")
    table = _table()
    for name in dict.fromkeys(setting.name for one in descriptions for setting in one.settings):
        usual, *others = _by_default(descriptions, name)
        table.add_row(name, _text(usual[0].default), f"{usual[0].meaning}{_source(usual[0])}")
        for setting, strategies in others:
            names, other = ", ".join(strategies), setting.meaning != usual[0].meaning
            what = f"{names}: {setting.meaning}" if other else f"{names}{_source(setting)}"
            table.add_row("", _text(setting.default), what)
    out.print()
    out.print(table)
    out.print()
    out.print(HINT)


def _by_default(descriptions: Sequence[Description], name: str) -> list[tuple[Setting, list[str]]]:
    """Return a hyperparameter once for each default, with the strategies that have it, most of them first."""
    groups: dict[tuple[object, str], tuple[Setting, list[str]]] = {}
    for description in descriptions:
        for setting in description.settings:
            if setting.name == name:
                groups.setdefault((setting.default, setting.meaning), (setting, []))[1].append(
                    description.name
                )
    return sorted(groups.values(), key=lambda group: -len(group[1]))


def _table() -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    return table


def _title(description: Description) -> Text:
    return Text.assemble((description.usage, "bold"), f"  {description.meaning}")


def _text(default: object) -> str:
    return "" if default is None else f"{default:g}" if isinstance(default, float) else str(default)


def _source(setting: Setting) -> str:
    return f" [{setting.source}]" if setting.source else ""
