"""Types of options and arguments: each value is checked before anything is loaded."""

from __future__ import annotations

import math
import re
from typing import Any

import click

from frostline import strategies
from frostline.config import AUTO_BATCH
from frostline.distributed import ray_cluster
from frostline.errors import UsageError
from frostline.loggers import parse_names


class StrategyTextType(click.ParamType[str]):
    """A strategy in its notation, checked before anything is loaded."""

    name = "STRATEGY"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the canonical notation."""
        try:
            return str(strategies.parse(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


class MinutesType(click.FloatRange):
    """A finite time above 0: click accepts `nan` and `inf`, which would be no limit."""

    def __init__(self) -> None:
        super().__init__(0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return minutes."""
        minutes = super().convert(value, param, ctx)
        if not math.isfinite(minutes):
            self.fail(f"{value!r} is not a number of minutes. Leave it out for no limit.", param, ctx)
        return minutes


class SplitNamesType(click.ParamType[dict[str, str] | str]):
    """Subsets with their folders, or `none`."""

    name = "SUBSET=FOLDER,…"

    def convert(
        self, value: dict[str, str] | str, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, str] | str:
        """Return folders with their subsets."""
        if isinstance(value, dict) or value == "none":
            return value
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        subsets = ("train", "val", "test")
        if not pairs or not all(folder and subset.strip() in subsets for subset, _, folder in pairs):
            self.fail(f"{value!r} is neither none nor like train=FOLDER,test=FOLDER.", param, ctx)
        return {folder.strip().rstrip("/"): subset.strip() for subset, _, folder in pairs}


class ShareType(click.ParamType[float | str]):
    """A number between 0 and 1, or `auto`."""

    name = "SHARE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        """Return the number, or "auto"."""
        if value == "auto":
            return "auto"
        try:
            share = float(value)
        except ValueError:
            share = math.nan
        if not 0 <= share <= 1:
            self.fail(f"{value!r} is neither auto nor a number between 0 and 1.", param, ctx)
        return share


class WorkersType(click.ParamType[int | str]):
    """A number from 0, or `auto`."""

    name = "auto|NUMBER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Return the number, or "auto"."""
        if value == "auto":
            return "auto"
        try:
            number = int(value)
        except ValueError:
            number = -1
        if number < 0:
            self.fail(f"{value!r} is neither auto nor a number of threads, 0 or more.", param, ctx)
        return number


UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class SizeType(click.ParamType[int]):
    """A number of bytes, such as 500MB or 2.5 GB."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return bytes."""
        text = str(value).strip().upper().replace(" ", "")
        digits = text.rstrip("KMGTB")
        unit = text[len(digits) :]
        try:
            size = float(digits) * UNITS[unit if unit.endswith("B") else f"{unit}B"]
            size = size if unit or not size else -1  # 5 may be meant as 5 GB
        except (ValueError, KeyError):
            size = -1
        if not 0 <= size < math.inf:
            self.fail(f"{value!r} is not a size. Expected a number with a unit, such as 500MB or 2GB.")
        return int(size)


class BatchSizesType(click.ParamType[int | str]):
    """A number from 1, or `auto`."""

    name = "auto|NUMBER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Return the number, or "auto"."""
        return AUTO_BATCH if value == AUTO_BATCH else click.IntRange(1).convert(value, param, ctx)


class LoggerNamesType(click.ParamType[str]):
    """Loggers separated by commas, checked before anything is loaded."""

    name = "LOGGER"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the names as they are written."""
        try:
            return ",".join(parse_names(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


class RayAddressType(click.ParamType[str]):
    """Address of a Ray cluster. A value that looks like a path was meant as DATA."""

    name = "ADDRESS"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the address."""
        if value not in (ray_cluster.AUTO, ray_cluster.LOCAL) and not re.fullmatch(
            r"(ray://)?[^/\s]+:\d+", value
        ):
            self.fail(
                f"{value!r} is not the address of a Ray cluster. Expected {ray_cluster.ADDRESSES}; "
                "write --ray last, or --ray=auto.",
                param,
                ctx,
            )
        return value


class DeviceType(click.ParamType[str]):
    """The name of a device, whether this machine has it or not: that is known once torch is imported."""

    name = "DEVICE"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name."""
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
            self.fail(
                f"{value!r} names no device. Expected auto, cpu, cuda, cuda:1 (a GPU's number) or mps.",
                param,
                ctx,
            )
        return value


class MetricNameType(click.ParamType[str]):
    """A metric's name, checked before anything is loaded."""

    name = "METRIC"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name."""
        from frostline import metrics

        try:
            return metrics.checked_name(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class SettingType(click.ParamType[str]):
    """A hyperparameter with its value."""

    name = "KEY=VALUE"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text without spaces around its parts."""
        key, sign, text = (part.strip() for part in value.partition("="))
        if not (key and sign and text):
            self.fail(
                f"{value!r} is not KEY=VALUE. Expected a hyperparameter with its value, such as "
                "layer_decay=0.8 (frostline strategies lists them).",
                param,
                ctx,
            )
        return f"{key}={text}"


class GroupByType(click.ParamType[str]):
    """What makes a group, checked before anything is loaded."""

    name = "GROUPS"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text."""
        from frostline.data.splits.grouping import parsed

        try:
            parsed(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)
        return value


class IntensityRangeType(click.ParamType[str]):
    """Two values, or how to find them."""

    name = "auto|per-image|LOW,HIGH"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the range in its stored form."""
        from frostline.data.pixels.rendering import checked_range

        try:
            return checked_range(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class AlphaBackgroundType(click.ParamType[str]):
    """A colour, or how to find it."""

    name = "auto|white|grey|black|R,G,B"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text."""
        from frostline.data.pixels.rendering_choice import rendering_options

        try:
            rendering_options(None, value)
        except UsageError as error:
            self.fail(str(error), param, ctx)
        return value
