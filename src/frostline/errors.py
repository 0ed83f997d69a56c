"""Everything that can go wrong, as a drawn tree.

    FrostlineError
    ├── UsageError        the call itself is wrong: an unknown strategy, a flag out of range
    ├── DataError         the images, labels or splits cannot be used as they are
    │   └── DamagedImage  one file cannot be decoded; callers set it aside and go on
    ├── ModelError        a backbone cannot be had, read or cut
    ├── StudyError        a study folder belongs to something else or cannot be written
    └── TrainingError     training cannot go on
        └── LostProcess   another process of the job is gone

    StoreWarning          not an error: the store cannot help, and what it held is computed instead
    LoggerWarning        not an error: a logger cannot be written, and the run goes on without it
    RunWarning            not an error: something went wrong on the way, and the run deals with it

Each message says what was found, what was expected and what to do, and is written to be shown to a
person as it stands. The command line prints it without a traceback and leaves with `exit_code`.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class FrostlineError(Exception):
    """Base of every error that frostline raises on purpose."""

    exit_code = 1


class UsageError(FrostlineError):
    """The call itself is wrong."""

    exit_code = 2


class DataError(FrostlineError):
    """The images, labels or splits cannot be used as they are."""


class DamagedImage(DataError):
    """One image cannot be decoded."""


class ModelError(FrostlineError):
    """A backbone cannot be had, read or cut."""


class StudyError(FrostlineError):
    """A study folder belongs to something else, or cannot be written."""


class TrainingError(FrostlineError):
    """Training cannot go on."""


class LostProcess(TrainingError):
    """Another process of the job has ended or can't be reached."""


class StoreWarning(UserWarning):
    """The store is damaged, full or out of reach: rows are computed instead, and the result is the same."""


class LoggerWarning(UserWarning):
    """A logger is out of reach or cannot write: the run goes on without it, and the result is the same."""


class RunWarning(UserWarning):
    """Something went wrong on the way, and the run goes on: with what, is said."""


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the nearest known word, or an empty string."""
    close = get_close_matches(found, list(known), n=1, cutoff=0.55)
    return f" Did you mean {close[0]!r}?" if close else ""
