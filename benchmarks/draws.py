"""What benchmarks share: the six sets, draws of images from a set as a table, and a cache of their own."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

Row = tuple[str, str, str, str]  # path, label, split, group
SIX_SETS = (  # from near to ImageNet to far from it
    "clothing10",
    "trashnet6",
    "clipart12",
    "sign_digits",
    "fashion_mnist10",
    "spoken_digit_spectrograms10",
)


@contextmanager
def own_store() -> Iterator[None]:
    """A block in which frostline keeps its cache in a folder that goes at the end, unless one was named."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ.setdefault("FROSTLINE_CACHE_DIR", cache)
        yield


def draw(
    table: Path,
    per_class: int,
    seed: int,
    grouped: bool,
    *,
    test_per_class: int | None = 80,
    test: int | None = None,
) -> list[Row]:
    """Return rows (path, label, split, group): `per_class` images of each class to train.

    To test: up to `test_per_class` of each class and `test` in all. With `grouped`, no group is in both.
    """
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rng = np.random.default_rng((seed, per_class))
    held = held_groups(rows, rng) if grouped else set()
    chosen: list[Row] = []
    tests: list[Row] = []
    for label in sorted({row["label"] for row in rows}):
        mine = [row for row in rows if row["label"] == label]
        mine = [mine[i] for i in rng.permutation(len(mine))]
        if not grouped:
            train, rest = mine[:per_class], mine[per_class:]
        else:
            train = [r for r in mine if r["group"] not in held][:per_class]
            used = {r["path"] for r in train}
            rest = [r for r in mine if (r["group"] in held or not r["group"]) and r["path"] not in used]
        for split, part, into in (("train", train, chosen), ("test", rest[:test_per_class], tests)):
            into += [
                (str(table.parent / r["path"]), label, split, r["group"] if grouped else "") for r in part
            ]
    picked = sorted(rng.permutation(len(tests))[:test].tolist())
    return chosen + [tests[i] for i in picked]


def draw_table(
    table: Path,
    per_class: int,
    seed: int,
    grouped: bool,
    folder: Path,
    *,
    test_per_class: int | None = 80,
    test: int | None = None,
) -> Path:
    """Write a draw as a CSV that `load_data` reads."""
    rows = draw(table, per_class, seed, grouped, test_per_class=test_per_class, test=test)
    sheet = folder / "draw.csv"
    with open(sheet, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "split", "group"), *rows])
    return sheet


def held_groups(rows: list[dict[str, str]], rng: np.random.Generator) -> set[str]:
    """Pick whole groups for testing: about a third of them."""
    groups = sorted({row["group"] for row in rows if row["group"]})
    return set(rng.permutation(groups)[: round(len(groups) / 3)].tolist())
