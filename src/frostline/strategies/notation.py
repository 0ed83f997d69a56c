"""The notation: `top_k(2, lr=0.0005)` read back."""

from __future__ import annotations

import re

from frostline.errors import UsageError, demand_kind, did_you_mean
from frostline.strategies.strategy import ALL, KINDS, Phase, Strategy
from frostline.strategies.validation import checked, unknown

WORDS = ("head", "head_init", "bn", "solver", "optimizer", "schedule")  # settings that are no numbers


def read_strategy(strategy: object) -> Strategy:
    """Return a strategy, given as such or in its notation. Raises `UsageError`."""
    demand_kind("strategy", strategy, (str, Strategy), "a strategy or its name, such as 'top_k(2)'")
    return parse(strategy) if isinstance(strategy, str) else checked(strategy)  # type: ignore[arg-type]


def parse(text: str) -> Strategy:
    """Read a strategy from its notation; `parse(str(strategy)) == strategy`.

    Parameters
    ----------
    text : str
        A name, with settings in brackets: "full", "top_k(2, lr=0.0005)", "phases(0@3, all@10)". Settings that
        are left out have their defaults.

    Returns
    -------
    Strategy

    Raises
    ------
    UsageError
        A name or setting is unknown, or a value is out of range; the message says which.
    """
    match = re.fullmatch(r"\s*([A-Za-z_]\w*)\s*(?:\((.*)\))?\s*", text, re.DOTALL)
    if match is None:
        raise UsageError(f"{text!r} is not a strategy. Expected a name like 'full' or 'top_k(2, lr=0.0005)'.")
    name, inside = match.group(1), match.group(2) or ""
    if name not in KINDS:
        raise unknown(name)
    values: dict[str, object] = {}
    phases: list[Phase] = []
    for part in _split(inside):
        key, sign, value = part.partition("=")
        if sign:
            _set(values, name, key.strip(), value_of(name, key.strip(), value.strip()))
        elif KINDS[name].takes == "phases":
            phases.append(_phase(part))
        elif KINDS[name].takes:
            _set(values, name, KINDS[name].takes, value_of(name, KINDS[name].takes, part))
        else:
            raise UsageError(
                f"{name} takes no bare argument, found {part!r}. Settings are written key=value."
            )
    return checked(Strategy(name, phases=tuple(phases), **values))  # type: ignore[arg-type]


def parse_list(text: str) -> list[Strategy]:
    """Read strategies separated by commas; `parse_list(", ".join(map(str, strategies))) == strategies`.

    Parameters
    ----------
    text : str
        Such as "linear_probe, top_k(2, lr=0.0005), full"; commas in brackets belong to a strategy.

    Returns
    -------
    list of Strategy
        In the order of the text.

    Raises
    ------
    UsageError
        A name or setting is unknown, or a value is out of range; the message says which.
    """
    return [parse(part) for part in _split(text)]


def _split(text: str) -> list[str]:
    """Split at commas that are not inside brackets, however deep; empty parts are left out."""
    parts, depth = [""], 0
    for sign in text:
        depth = max(0, depth + {"(": 1, ")": -1}.get(sign, 0))
        if sign == "," and not depth:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts if part.strip()]


def _set(values: dict[str, object], name: str, key: str, value: object) -> None:
    if key in values:
        raise UsageError(f"{name} names {key!r} twice. Name each setting once.")
    values[key] = value


def value_of(name: str, key: str, text: str) -> object:
    """Return the value of a hyperparameter of the strategy `name`. Raises `UsageError` if it is wrong."""
    allowed = (*KINDS[name].allowed, KINDS[name].takes)
    if key not in allowed or not key:
        known = [word for word in allowed if word]
        raise UsageError(
            f"{name} has no setting {key!r}.{did_you_mean(key, known)} Known: {', '.join(known)}."
        )
    if key in WORDS or (key == "layers" and not text.isdigit()):
        return text
    try:
        return int(text) if key in ("k", "layers", "refit_layers") else float(text)
    except ValueError:
        kind = "a whole number" if key in ("k", "refit_layers") else "a number"
        raise UsageError(f"{name}: {key} must be {kind}, found {text!r}.") from None


def _phase(text: str) -> Phase:
    match = re.fullmatch(r"(all|\d+)(?:@([\d.eE+-]+))?(?:\*([\d.eE+-]+))?", text.strip())
    try:
        if match is None:
            raise ValueError
        unfrozen = ALL if match.group(1) == "all" else int(match.group(1))
        epochs = None if match.group(2) is None else float(match.group(2))
        return Phase(unfrozen, epochs, None if match.group(3) is None else float(match.group(3)))
    except ValueError:
        raise UsageError(
            f"{text!r} is not a phase. Expected UNFROZEN@EPOCHS*LR, such as 0@3 (head only for 3 epochs), "
            "2@5*0.0005 or all@10."
        ) from None
