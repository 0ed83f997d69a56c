"""Typed figures of a result: an attribute for each that the docs promise, read from its JSON object."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from types import NoneType
from typing import Any, Generic, Protocol, TypeVar, cast, get_args, overload

from frostline.errors import StudyError

T = TypeVar("T")
Rows = list[dict[str, Any]]


class HasResult(Protocol):
    """What figures are read from."""

    @property
    def result(self) -> Mapping[str, Any]:
        """The figures by name, as JSON holds them."""


class Figure(Generic[T]):
    """An attribute that is the figure of its own name.

    `Figure[float | None]("…")` in a class with a `result` gives the type, and the sentence that documents it.
    Where the result lacks it, it is None if its type says so; else reading it raises `StudyError`.
    """

    def __init__(self, about: str) -> None:
        self.__doc__ = about

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Figure[T]: ...
    @overload
    def __get__(self, instance: HasResult, owner: type) -> T: ...
    def __get__(self, instance: HasResult | None, owner: type) -> Figure[T] | T:
        if instance is None:
            return self
        if self._name not in instance.result and not self._optional:
            raise StudyError(
                f"A result holds no {self._name!r}, which all of its kind have. Its study is damaged or "
                "incomplete: make the run again."
            )
        return cast(T, instance.result.get(self._name))

    @cached_property
    def _optional(self) -> bool:
        (kind,) = get_args(self.__orig_class__)  # type: ignore[attr-defined]
        return NoneType in get_args(kind)

    def __set__(self, instance: HasResult, value: T) -> None:
        raise AttributeError(f"{self._name} is a figure of a result and can't be set.")


class AccuracyFigures:
    """Figures beside an accuracy: its interval, and what it hides."""

    low = Figure[float | None]("Lower end of its 95 % interval.")
    high = Figure[float | None]("Upper end of its 95 % interval.")
    balanced_accuracy = Figure[float | None]("Mean over classes of the share predicted correctly.")
    majority_class = Figure[str | None]("The class with most of those images.")
    majority_share = Figure[float | None]("Its share of them: what always predicting it would score.")
    worst_class = Figure[dict[str, Any] | None]("The class with the lowest share predicted correctly.")
    absent_classes = Figure[list[str] | None]("Classes without any of those images.")
    class_ratio = Figure[float | None]("Images of the largest training class by those of the smallest.")


class ProbabilityFigures:
    """Figures of probabilities, on the images of the accuracy."""

    log_loss = Figure[float | None]("Mean negative log probability of the true class, in nats.")
    log_loss_low = Figure[float | None]("Lower end of its 95 % interval.")
    log_loss_high = Figure[float | None]("Upper end of its 95 % interval.")
    brier = Figure[float | None]("Brier score.")
    brier_low = Figure[float | None]("Lower end of its 95 % interval.")
    brier_high = Figure[float | None]("Upper end of its 95 % interval.")
    ece = Figure[float | None]("Expected calibration error, 0–1.")
    ece_bins = Figure[int | None]("Bins it was computed in.")
