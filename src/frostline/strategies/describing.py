"""What every strategy is, takes, and where its defaults come from, read off the constructors. No torch."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, fields
from typing import Any

from frostline.strategies import constructors
from frostline.strategies.overrides import no_use
from frostline.strategies.strategy import KINDS, SOLVED_SMOOTHING, Hyperparameters, Strategy, hyperparameters


@dataclass(frozen=True)
class Setting:
    """A hyperparameter of one strategy."""

    name: str
    default: int | float | str | None  # None: has to be named, or follows from the images or the network
    meaning: str
    source: str  # of the default; empty where there is none

    def as_dict(self) -> dict[str, object]:
        """Return it as plain data."""
        return {
            "name": self.name,
            "default": self.default,
            "meaning": self.meaning,
            "source": self.source or None,
        }


@dataclass(frozen=True)
class Description:
    """A strategy with its hyperparameters, those in brackets without a name first."""

    name: str
    usage: str  # how it is written, such as top_k(k)
    meaning: str
    settings: tuple[Setting, ...]

    def as_dict(self) -> dict[str, object]:
        """Return it as plain data."""
        return {
            "strategy": self.name,
            "usage": self.usage,
            "meaning": self.meaning,
            "hyperparameters": [setting.as_dict() for setting in self.settings],
        }


def descriptions() -> list[Description]:
    """Return every strategy that the notation knows."""
    return [_description(name) for name in KINDS]


def _description(name: str) -> Description:
    kind, constructor = KINDS[name], getattr(constructors, name)
    summary = inspect.cleandoc(constructor.__doc__).partition("\n")[0].replace("`", "")
    inside = "0@3, 2@5, all@10" if kind.takes == "phases" else kind.takes
    usage = f"{name}({inside})" if inside else name
    probed = Strategy(name, head_init="probe")  # with which every hyperparameter of the head has an effect
    taken = {kind.takes, *(key for key in kind.allowed if not no_use(probed, key))}
    names = [entry.name for entry in fields(Strategy) if entry.name in taken]
    return Description(name, usage, summary, tuple(_setting(name, key) for key in names))


def _setting(name: str, key: str) -> Setting:
    """Return a hyperparameter with the strategy's own default, where it has one."""
    kind, shared = KINDS[name], {entry.name: entry for entry in fields(Hyperparameters)}
    entry = shared.get(key) or Strategy.__dataclass_fields__[key]
    default: Any = getattr(hyperparameters(Strategy(name)), key, None) if key in shared else entry.default
    if key == "label_smoothing" and not Strategy(name).trains:
        default = SOLVED_SMOOTHING
    meaning = str(entry.metadata["meaning"])
    if key == "epochs" and kind.passes != 1.0:
        meaning += f", and {kind.passes:g} times as many here"
    source = kind.sources.get(key, str(entry.metadata["source"]))
    return Setting(key, None if default == () else default, meaning, source)
