"""Typed figures of a result: an attribute for each that the docs promise, read from its JSON object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, Protocol, TypeVar, cast, overload

T = TypeVar("T")
Rows = list[dict[str, Any]]


class HasResult(Protocol):
    """What figures are read from."""

    @property
    def result(self) -> Mapping[str, Any]:
        """The figures by name, as JSON holds them."""


class Figure(Generic[T]):
    """An attribute that is the figure of its own name; None where the result has none.

    `Figure[float | None]("…")` in a class with a `result` gives the type, and the sentence that documents it.
    """

    def __init__(self, about: str) -> None:
        self.__doc__ = about

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, found: None, owner: type) -> Figure[T]: ...
    @overload
    def __get__(self, found: HasResult, owner: type) -> T: ...
    def __get__(self, found: HasResult | None, owner: type) -> Figure[T] | T:
        return self if found is None else cast(T, found.result.get(self._name))

    def __set__(self, found: HasResult, value: T) -> None:
        raise AttributeError(f"{self._name} is a figure of a result and can't be set.")
