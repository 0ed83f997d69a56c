"""`measure`: every rate that a prediction needs, of one network and some of the images it will see."""

from __future__ import annotations

import functools
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frostline import backbone as bb
from frostline import numerics, places, probe
from frostline.backbone import Backbone
from frostline.cost import Learning, Line, Peaks, Rates, StageRates
from frostline.frozen import Frozen, Way
from frostline.images import EVALUATION_BATCH, Images
from frostline.rates import learning, ways
from frostline.store import Store
from frostline.timing import PeakMemory, imported_baseline_bytes, resident_bytes

LOOKED_AT = 16  # images decoded to measure how long that takes: a fraction of a second
ROW_BYTES = (4_000, 100_000)  # rows that a disk is measured with: pooled features, and a middle block's
FILE_BYTES = (1_000, 8_000_000)  # files that a disk is measured with
PROBE_IMAGES = (40, 200)  # heads that are solved for to measure how long that takes: a fraction of a second
APART = 0.1  # classes' middles, beside the spread within a class


def measure(
    backbone: Backbone, images: Images, *, batch: int = 32, threads: int | None = None, classes: int = 0
) -> Rates:
    """Return the rates of this network on this machine, with images like `images`, augmented as they are.

    Everything is timed in the numeric plans that `train` chooses from. `batch` is the images a step,
    `classes` the new head's width (0: as many as the images have). Rates of the network are remembered; a
    run after this has nothing left to time. Resets this process's high-water mark of memory.
    """
    count = threads or torch.get_num_threads()
    classes = classes or len(images.manifest.classes)
    way = ways.frozen_way(backbone, threads=threads)
    what = f"stages {ways.named(backbone)} batch {batch} classes {classes}"
    found = numerics.measured(what, lambda: _network(backbone, way, batch, classes, count), count)
    with numerics.threads(count), Store() as store:
        around = {**found["around"], **_pictures(images), **_disk(store)}
        solving = _solving(backbone.feature_width, classes)
    return Rates(
        name=backbone.name,
        size=backbone.preprocessing.size,
        threads=count,
        batch=batch,
        stages=_stages(backbone, way, found, batch, count),
        depth=len(backbone.stages),
        feature_width=backbone.feature_width,
        frozen_batch=way.batch,
        value_bytes=_value_bytes(way),
        copies=bool(way.folded),
        evaluation_batch=EVALUATION_BATCH,
        **around,
        probe=solving,
        peaks=Peaks(base=_base_bytes(), **found["peaks"]),
    )


def _base_bytes() -> int:
    """What this process holds above its imports, once the C library has given back what is free."""
    with PeakMemory(0):
        return max(0, resident_bytes() - imported_baseline_bytes())


def _stages(
    backbone: Backbone, way: Way, found: dict[str, Any], batch: int, threads: int
) -> tuple[StageRates, ...]:
    plans = learning.chosen(backbone, found["learning"], found["around"]["step_s"], batch, threads)
    return tuple(
        StageRates(
            name=backbone.stages[cut.index].name,
            cut=cut.index,
            row_bytes=bb.row_elements(backbone, cut) * (_value_bytes(way) if cut.index else 1),
            plan=plans[place],
            learning={name: Learning(*rows[place]) for name, rows in found["learning"].items()},
            **found["stages"][place],
        )
        for place, cut in enumerate(backbone.cuts)
    )


def _value_bytes(way: Way) -> int:
    return 2 if way.plan.precision == "bfloat16" else 4


def _network(backbone: Backbone, way: Way, batch: int, classes: int, threads: int) -> dict[str, Any]:
    """Measure what depends on the network alone, as plain data."""
    cuts, last = backbone.cuts, backbone.cuts[-1]
    with torch.random.fork_rng(devices=[]):  # dropout draws
        steps = learning.steps(backbone, batch, classes, threads)
    whole = ways.forward(backbone, Way(numerics.exact_plan(threads), EVALUATION_BATCH), last)
    evaluation_s = numerics.seconds(whole) / EVALUATION_BATCH
    forwards = [forward for forward, _, _ in steps.rates["channels-last"]]
    reached = np.maximum.accumulate([0.0, *(ways.prefix_s(backbone, way, cut) for cut in cuts[1:])])
    frozen = [*np.diff(reached).tolist(), 0.0]  # the head is never frozen
    stages = [
        {"parameters": parameters, "frozen_s": frozen_s, "evaluation_s": evaluation_s * share / sum(forwards)}
        for parameters, frozen_s, share in zip(steps.parameters, frozen, forwards, strict=True)
    ]
    around = {
        "step_s": steps.step_s,
        "update_s": steps.update_s,
        "copy_s": numerics.seconds(lambda: backbone.adapt(classes)),
        "frozen_copy_s": numerics.seconds(lambda: Frozen(backbone, backbone.model, last, way).place()),
        "digest_s": numerics.seconds(lambda: bb.prefix_digest(backbone, backbone.model, last)),
    }
    peaks = {
        "frozen": learning.peak_bytes(ways.forward(backbone, way, last)),
        "evaluation": learning.peak_bytes(whole),
        "step": steps.peak_bytes,
    }
    return {"stages": stages, "learning": steps.rates, "around": around, "peaks": peaks}


def _pictures(images: Images) -> dict[str, Any]:
    """Seconds for the pixels of an image: from its file, and each view from the decoded picture."""
    some = images.samples[:LOOKED_AT]
    for sample in some:
        images.manifest.read(sample)  # from the disk, whatever that takes: later looks come from memory
    begun = time.perf_counter()
    pictures = [images.manifest.read(sample) for sample in some]
    read = time.perf_counter()
    for picture in pictures:
        images.preprocessing.crop(picture)
    cropped = time.perf_counter()
    for view in (1, 2):  # the second finds the pictures decoded
        started = time.perf_counter()
        for position in range(len(some)):
            images[position, view]
    return {
        "file_s": (read - begun) / len(some),
        "crop_s": (cropped - read) / len(some),
        "augment_s": (time.perf_counter() - started) / len(some),
        "picture_bytes": sum(3 * picture.width * picture.height for picture in pictures) // len(some),
    }


def _disk(store: Store) -> dict[str, Line]:
    """Seconds to read and keep a row, and to write a file, by their bytes."""
    small, large = (store.seconds_per_row(row_bytes) for row_bytes in ROW_BYTES)
    with tempfile.TemporaryDirectory(dir=places.folder("rates")) as folder:
        path = Path(folder) / "file"
        written = [
            numerics.seconds(functools.partial(places.write_atomically, path, bytes(size)))
            for size in FILE_BYTES
        ]
    return {
        "read": _line(ROW_BYTES, (small[0], large[0])),
        "keep": _line(ROW_BYTES, (small[1], large[1])),
        "write": _line(FILE_BYTES, (written[0], written[1])),
    }


def _line(places_: tuple[int, int], seconds: tuple[float, float]) -> Line:
    """Return the line through two measurements, never falling and never below zero."""
    each = max(0.0, seconds[1] - seconds[0]) / (places_[1] - places_[0])
    return Line(max(0.0, seconds[0] - each * places_[0]), each)


def _solving(width: int, classes: int) -> Line:
    """Seconds to solve for a head with every L2 of the grid, by images × numbers an image × classes."""
    rng = np.random.default_rng(0)
    sizes, taken = [], []
    for images in PROBE_IMAGES:
        targets = np.arange(images) % classes
        middle = rng.normal(size=(classes, width)) * APART
        features = (rng.normal(size=(images, width)) + middle[targets]).astype(np.float32)
        begun = time.perf_counter()
        probe.path(features, targets, classes, probe.GRID)
        taken.append(time.perf_counter() - begun)
        sizes.append(images * min(images, width) * classes)
    return _line((sizes[0], sizes[1]), (taken[0], taken[1]))
