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
person unchanged. The command line prints it without a traceback and leaves with `exit_code`.
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


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the nearest known word, or an empty string."""
    close = get_close_matches(word, list(candidates), n=1, cutoff=0.55)
    return f" Did you mean {close[0]!r}?" if close else ""
