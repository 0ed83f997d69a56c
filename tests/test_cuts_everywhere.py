"""The bar for cuts: the smallest member of every timm family, random weights, no code per architecture.

Run it with `pytest --slow -s tests/test_cuts_everywhere.py`, or as a program with names of families:
`python tests/test_cuts_everywhere.py resnet swin_transformer`.
"""

from __future__ import annotations

import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import timm
import torch
from torch import nn

from frostline.models import Backbone, Preprocessing, assemble, prefix, suffix
from frostline.models.cutting.cuts import agree

LARGEST = 50_000_000  # parameters: the bar speaks of members up to here
ENOUGH = 4  # cuts besides 0 and the head
SHARE = 0.85  # of the families
LIMIT_S = 240.0  # for one model, on one thread


@dataclass
class Row:
    family: str
    model: str
    parameters: int = 0
    cuts: int = 0
    stages: int = 0
    wrong: int = 0
    seconds: float = 0.0
    note: str = ""

    def __str__(self) -> str:
        size, cuts = f"{self.parameters / 1e6:6.1f}M", f"{self.cuts:3d} cuts of {self.stages - 2:3d}"
        took = f"{self.seconds:6.1f}s"
        return f"{self.family:28s} {self.model:44s} {size} {cuts} {self.wrong} wrong {took} {self.note}"


class TooSlow(Exception):
    pass


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise TooSlow(f"over {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def smallest_member(family: str) -> tuple[str, int] | None:
    """Return the family's smallest classifier of three-channel images, and its number of parameters."""
    sizes = {}
    for name in timm.list_models(module=family):
        try:
            with torch.device("meta"):
                model = timm.create_model(name)
        except Exception:  # some tables cannot be computed on meta tensors
            model = timm.create_model(name)
        if getattr(model, "num_classes", 0) > 0:
            sizes[name] = sum(parameter.numel() for parameter in model.parameters())
    name = min(sizes, key=lambda key: sizes[key], default="")
    return (name, sizes[name]) if name and sizes[name] <= LARGEST else None


def stirred(model: nn.Module) -> nn.Module:
    """Give constant parameters (zero gammas, layer scales of 1e-6) some noise, so that a leak would show."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and (
                parameter.ndim <= 1 or bool((parameter == parameter.flatten()[0]).all())
            ):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def wrong_cuts(backbone: Backbone) -> list[str]:
    """Compare halves and whole on images the search has not seen, in an order it has not seen."""
    pooled = not backbone.classifier.plain
    model = backbone.adapt(5, seed=1) if pooled else backbone.model
    images = torch.randn(3, 3, backbone.preprocessing.size, backbone.preprocessing.size)
    wrong = []
    with torch.no_grad():
        whole = model(images)
        for cut in backbone.cuts:
            z = prefix(backbone, model, cut)(images)
            with suffix(backbone, model, cut) as run:
                if not agree(run(z), whole) or not agree(run(z[[2, 0]]), whole[[2, 0]]):
                    wrong.append(cut.name)
    return wrong


def scanned(family: str) -> Row | None:
    member = smallest_member(family)
    if member is None:
        return None
    row = Row(family, *member)
    start = time.perf_counter()
    try:
        with limited(LIMIT_S):
            torch.manual_seed(0)
            model = stirred(timm.create_model(row.model))
            side = timm.data.resolve_model_data_config(model)["input_size"][-1]
            plain = Preprocessing(side, 0.9, "bicubic", (0.5,) * 3, (0.5,) * 3)
            backbone = assemble(model, plain, name=row.model, source={})
            row.stages, row.cuts = len(backbone.stages), len(backbone.cuts) - 2
            wrong = wrong_cuts(backbone)
            row.wrong, row.note = len(wrong), "; ".join([*wrong, *backbone.notes])[:160]
    except Exception as error:  # one family's failure is a row in the table, not the end of the scan
        row.note = f"{type(error).__name__}: {str(error)[:140]}"
    row.seconds = time.perf_counter() - start
    return row


def scan(families: list[str]) -> list[Row]:
    torch.set_num_threads(1)
    rows = []
    for family in families:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # timm's own deprecations, while models are built and run
            row = scanned(family)
        if row is not None:
            rows.append(row)
            print(row, flush=True)
    return rows


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_most_families_can_be_cut_and_no_cut_is_wrong() -> None:
    rows = scan(timm.list_modules())
    missed = [row for row in rows if row.cuts < ENOUGH]
    print(f"{len(rows) - len(missed)} of {len(rows)} families have {ENOUGH} or more exact cuts")
    assert len(rows) > 60
    assert not [row for row in rows if row.wrong]
    assert len(rows) - len(missed) >= SHARE * len(rows), "\n".join(map(str, missed))


if __name__ == "__main__":
    scan(sys.argv[1:] or timm.list_modules())
