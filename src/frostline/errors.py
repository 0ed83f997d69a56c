"""The errors and warnings of frostline.

    FrostlineError
    ├── UsageError        the call itself is wrong: an unknown strategy, a flag out of range
    │   └── NoTime        the time limit is too short
    ├── DataError         the images, labels or splits cannot be used as they are
    │   └── DamagedImage  one file cannot be decoded; callers skip it and continue
    │       └── MissingImage  there is no such file
    ├── ModelError        a backbone cannot be loaded, read or cut
    ├── StudyError        a study folder belongs to something else or cannot be written
    └── TrainingError     training cannot continue
        └── LostProcess   another process of the job is gone

    CacheWarning          not an error: the feature cache cannot be used; features are computed instead
    LoggerWarning        not an error: a logger cannot be written, and the run continues without it
    RunWarning            not an error: something went wrong, and the run handles it

Each message says what was found, what was expected and what to do, and is written to be shown to a
person unchanged. The command line prints it without a traceback and leaves with `exit_code`. Options are
named by `option`, which knows whether the command line or Python reads the message.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Real

# Options whose name at the prompt is not that in Python with dashes.
AT_PROMPT = {"continue_from": "--continue", "hyperparameters": "--set"}
NOT_GIVEN = object()
_prompts = 0  # calls of the command line that this process is inside of


class FrostlineError(Exception):
    """Base of every error that frostline raises on purpose."""

    exit_code = 1


class UsageError(FrostlineError):
    """The call itself is wrong."""

    exit_code = 2


class NoTime(UsageError):
    """The time limit is shorter than what must be done within it."""


class DataError(FrostlineError):
    """The images, labels or splits cannot be used as they are."""


class DamagedImage(DataError):
    """One image cannot be decoded."""


class MissingImage(DamagedImage):
    """There is no such image."""


class ModelError(FrostlineError):
    """A backbone cannot be loaded, read or cut."""


class StudyError(FrostlineError):
    """A study folder belongs to something else, or cannot be written."""


class TrainingError(FrostlineError):
    """Training cannot continue."""


class LostProcess(TrainingError):
    """Another process of the job has ended or can't be reached."""


class CacheWarning(UserWarning):
    """The feature cache is damaged, full or out of reach: features are computed; the result is the same."""


class LoggerWarning(UserWarning):
    """A logger is out of reach or cannot write: the run continues without it, with the same result."""


class RunWarning(UserWarning):
    """Something went wrong, and the run continues; the message says how."""


@contextmanager
def at_the_prompt() -> Iterator[None]:
    """Let messages name options as the command line has them, until the block ends."""
    global _prompts
    _prompts += 1
    try:
        yield
    finally:
        _prompts -= 1


def option(name: str, value: object = NOT_GIVEN) -> str:
    """Return an option as whoever reads the message writes it.

    Parameters
    ----------
    name : str
        Its name in Python, such as "min_recall".
    value : object
        What it is set to; a truth value makes a switch.

    Returns
    -------
    str
        At the prompt ``--min-recall`` or ``--min-recall 0.98``, ``--int8`` and ``--no-golden``; in Python
        ``min_recall`` or ``min_recall=0.98``, ``to='onnx'``, ``int8=True`` and ``golden=False``.
    """
    if not _prompts:
        return name if value is NOT_GIVEN else f"{name}={value!r}"
    flag = AT_PROMPT.get(name, f"--{name.replace('_', '-')}")
    if value is NOT_GIVEN or value is True:
        return flag
    return f"--no-{flag[2:]}" if value is False else f"{flag} {value}"


def spoken(at_the_prompt: str, in_python: str) -> str:
    """Return the words for whoever reads the message, where the two do different things about it."""
    return at_the_prompt if _prompts else in_python


def demand_kind(name: str, value: object, kind: type | tuple[type, ...], expected: str) -> None:
    """Raise `UsageError` where an argument is no instance of `kind`; `expected` says what it should be.

    True and False are no numbers.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        named = repr(value) if isinstance(value, str | int | float | tuple | None) else _article(value)
        raise UsageError(f"{name} must be {expected}, found {named}.")


def _article(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def demand_share(name: str, value: float, example: float, *, zero: bool = False) -> None:
    """Raise `UsageError` where a value is no share: above 0 and below 1.

    Parameters
    ----------
    name : str
        The option's name in Python, such as "min_recall".
    value : float
        What it is set to.
    example : float
        A sensible value.
    zero : bool
        Whether 0 is a share, too.
    """
    demand_kind(option(name), value, Real, f"a share, such as {example:g}")
    if 0 < value < 1 or (zero and value == 0):
        return
    meant = f" For {value:g} % write {value / 100:g}." if 1 < value < 100 else ""
    raise UsageError(
        f"{option(name)} must {'be at least' if zero else 'lie above'} 0 and below 1, such as {example:g}; "
        f"found {value!r}.{meant}"
    )


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the nearest known word, or an empty string."""
    from difflib import get_close_matches  # only a message needs it

    close = get_close_matches(str(word), list(candidates), n=1, cutoff=0.55)
    return f" Did you mean {close[0]!r}?" if close else ""
