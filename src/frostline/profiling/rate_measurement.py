"""`measure`: every rate that a prediction needs, of one network and some of the images it will see."""

from __future__ import annotations

import functools
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frostline import metrics, probe
from frostline import models as bb
from frostline.cost import Learning, Line, Peaks, Rates, StageRates
from frostline.feature_cache import Store
from frostline.features import Frozen, Way
from frostline.features.image_batches import EVALUATION_BATCH, Images, contact_sheet
from frostline.models import Backbone, Cut
from frostline.profiling import numeric_search, rate_correction, training_rates
from frostline.system import directories, numerics, processor
from frostline.system.timing import PeakMemory, imported_baseline_bytes, resident_bytes

# A head of so many classes or of twice as many is timed for all in between; it is a layer of many that learn,
# and where it learns alone the optimizer's time goes by its parameters, which are counted.
FEWEST_CLASSES = 16
LOOKED_AT = 16  # images decoded to measure how long that takes: a fraction of a second
ROW_BYTES = (4_000, 100_000)  # rows that a disk is measured with: pooled features, and a middle block's
FILE_BYTES = (1_000, 8_000_000)  # files that a disk is measured with
PROBE_IMAGES = (40, 200)  # heads that are solved for to measure how long that takes: a fraction of a second
# Invented features: classes' middles beside the spread within a class, and how fast the spread of the k-th
# direction falls (k ** -FALLS). Real features took 0.8 to 2.4 times the steps of these at an exponent of 0.5
# (three image sets, two networks, 48 to 242 images).
APART, FALLS = 0.1, 0.6
L2 = 1e-3  # of a head that is solved for alone (training/flips.py)
FIGURES = 100  # images whose figures are worked out: a fraction of a second
BUSY_S = 0.1  # how long it is asked whether this process has the processor to itself
GIVEN = (
    0.8  # of the threads' time; idle machines gave 0.9 and more, one neighbour on two cores took it to 0.5
)


def measure(
    backbone: Backbone, images: Images, *, batch: int = 32, threads: int | None = None, classes: int = 0
) -> Rates:
    """Return the rates of this network on this machine, with images like `images`, augmented as they are.

    Everything is timed in the numeric plans that `train` chooses from. `batch` is the images a step,
    `classes` the new head's width (0: as many as the images have). Rates of the network are remembered; a
    run after this has nothing left to time. Resets this process's high-water mark of memory.
    """
    count = numerics.thread_count(threads)
    classes = classes or len(images.manifest.classes)
    timed = _as_wide(classes)
    way = numeric_search.frozen_way(backbone, threads=threads)
    fresh: list[bool] = []

    def network() -> dict[str, Any]:
        fresh.append(True)
        return _network(backbone, way, batch, timed, count)

    found = numerics.measured(_what(backbone, batch, classes), network, count)
    found["stages"][-1]["parameters"] -= (timed - classes) * (backbone.feature_width + 1)
    with numerics.threads(count), Store() as store:
        around = {**found["around"], **_pictures(images), **_disk(store), **_figures(classes)}
        around |= {**_solving(backbone.feature_width, classes), "find": _finding(backbone, way, store)}
    rates = Rates(
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
        peaks=Peaks(base=_base_bytes(), **found["peaks"]),
        notes=_notes(found["given"]) if fresh else (),
        device=numerics.device_name(),
        others=processor.free().others,
        factor=rate_correction.factor(backbone, count),
    )
    return rates if fresh else rate_correction.checked(rates, backbone, found["check"])


def ready(backbone: Backbone, *, batch: int = 32, threads: int | None = None, classes: int) -> bool:
    """Whether `measure` finds the network timed on this machine, so that it takes a second or two."""
    count = threads or torch.get_num_threads()

    def absent() -> dict[str, Any]:
        raise numerics.NotTimed

    try:
        with numerics.nothing_timed():
            numeric_search.frozen_way(backbone, threads=threads)
            numerics.measured(_what(backbone, batch, classes), absent, count)
    except numerics.NotTimed:
        return False
    return True


def _what(backbone: Backbone, batch: int, classes: int) -> str:
    """Name what is timed of a network, for it to be remembered by."""
    return f"stages {numeric_search.named(backbone)} batch {batch} classes {_as_wide(classes)}"


def _as_wide(classes: int) -> int:
    """Return the classes of the head that is timed: a power of two, so that other images find the rates."""
    return max(FEWEST_CLASSES, 1 << (classes - 1).bit_length())


def _notes(given: float) -> tuple[str, ...]:
    if given >= GIVEN:
        return ()
    doubt = (
        f"Something else used the processor while rates were measured ({given:.0%} of its time was left): "
        "predicted times are doubtful until a timing or the first runs have corrected them."
    )
    return (doubt,)


def _given(threads: int) -> float:
    """Return the share of the threads' time that this process gets when it asks for all of it."""
    square = torch.ones((512, 512))
    square @ square
    begun, used = time.perf_counter(), time.process_time()
    while time.perf_counter() - begun < BUSY_S:
        square @ square
    return (time.process_time() - used) / (time.perf_counter() - begun) / threads


def _base_bytes() -> int:
    """What this process holds above its imports, once the C library has given back what is free."""
    with PeakMemory(0):
        return max(0, resident_bytes() - imported_baseline_bytes())


def _stages(
    backbone: Backbone, way: Way, found: dict[str, Any], batch: int, threads: int
) -> tuple[StageRates, ...]:
    plans = training_rates.chosen(backbone, found["learning"], found["around"]["step_s"], batch, threads)
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
    last, exact = backbone.cuts[-1], numerics.exact_plan(threads)
    given = _given(threads)
    with torch.random.fork_rng(devices=[]):  # dropout draws
        steps = training_rates.steps(backbone, batch, classes, threads)
    whole = training_rates.watched(numeric_search.forward(backbone, Way(exact, EVALUATION_BATCH), last))
    forwards = [forward for forward, *_ in steps.rates["channels-last"]]
    evaluation_s = [whole.seconds / EVALUATION_BATCH * share / sum(forwards) for share in forwards]
    frozen_s = [*numeric_search.stages_s(backbone, way), 0.0]  # the head is never frozen
    stages = [
        {"parameters": parameters, "frozen_s": each_s, "evaluation_s": evaluation}
        for parameters, each_s, evaluation in zip(steps.parameters, frozen_s, evaluation_s, strict=True)
    ]
    pixels = torch.zeros((batch, 3, *2 * (backbone.preprocessing.size,)), dtype=torch.uint8)
    normalise = functools.partial(exact.batch, pixels, backbone.preprocessing.normalise)
    around = {
        "touch_s": _touch_s([whole, steps.whole]),
        "step_s": steps.step_s,
        "update_s": steps.update_s,
        "normalise_s": numerics.seconds(normalise) / batch,
        "copy_s": numerics.seconds(lambda: backbone.adapt(classes)),
        "frozen_copy_s": numerics.seconds(lambda: Frozen(backbone, backbone.model, last, way).place()),
    }
    peaks = {
        "frozen": training_rates.peak(numeric_search.forward(backbone, way, last)).peak_bytes,
        "evaluation": whole.peak_bytes,
        "step": steps.peak_bytes,
    }
    given = min(given, _given(threads))
    check = rate_correction.check_of(backbone, sum(evaluation_s), threads)
    found = {"stages": stages, "learning": steps.rates, "around": around, "peaks": peaks, "given": given}
    return {**found, "check": check}


def _touch_s(works: list[training_rates.Watched]) -> float:
    """Return the seconds that a byte of memory takes the first time, beyond those of later times."""
    extra = sum(work.first_s - work.seconds for work in works)
    return max(0.0, extra) / max(1, sum(work.first_bytes for work in works))


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
    augmented = time.perf_counter()
    contact_sheet(images).save(io.BytesIO(), format="PNG")
    return {
        "sheet_s": time.perf_counter() - augmented,
        "file_s": (read - begun) / len(some),
        "crop_s": (cropped - read) / len(some),
        "augment_s": (augmented - started) / len(some),
        "picture_bytes": sum(3 * picture.width * picture.height for picture in pictures) // len(some),
    }


def _disk(store: Store) -> dict[str, Any]:
    """Seconds to read and keep a row, and to write a file, by their bytes; and to find that out for a row."""
    begun = time.perf_counter()
    small, large = (store.seconds_per_row(row_bytes) for row_bytes in ROW_BYTES)
    looked = (time.perf_counter() - begun) / len(ROW_BYTES)
    with tempfile.TemporaryDirectory(dir=directories.folder("rates")) as folder:
        path = Path(folder) / "file"
        written = [
            numerics.seconds(functools.partial(directories.write_atomically, path, bytes(size)))
            for size in FILE_BYTES
        ]
    return {
        "look_s": looked,
        "read": _line(ROW_BYTES, (small[0], large[0])),
        "keep": _line(ROW_BYTES, (small[1], large[1])),
        "write": _line(FILE_BYTES, (written[0], written[1])),
    }


def _finding(backbone: Backbone, way: Way, store: Store) -> Line:
    """Seconds to find a cut's rows in the store, by the numbers below it, from the first and the last cut."""
    cuts = (backbone.cuts[1], backbone.cuts[-1])
    stage_of = backbone.stage_of(backbone.model)
    sizes = [(stage_of[name], value.numel()) for name, value in backbone.model.named_parameters()]
    few, many = (sum(size for stage, size in sizes if stage < cut.index) for cut in cuts)

    def find(cut: Cut) -> None:
        _ = Frozen(backbone, backbone.model, cut, way, store).shelf

    first, last = (numerics.seconds(functools.partial(find, cut)) for cut in cuts)
    return _line((few, many), (first, last))


def _line(places_: tuple[int, int], seconds: tuple[float, float]) -> Line:
    """Return the line through two measurements, never falling and never below zero."""
    apart = places_[1] - places_[0]
    each = max(0.0, seconds[1] - seconds[0]) / apart if apart else 0.0
    return Line(max(0.0, seconds[0] - each * places_[0]), each)


def _solving(width: int, classes: int) -> dict[str, Line]:
    """Seconds to solve for a head with one L2 and with the grid, by images × numbers an image × classes."""
    rng, spread = np.random.default_rng(0), np.arange(1, width + 1) ** -FALLS
    taken: dict[str, list[float]] = {"solve": [], "solve_grid": []}
    for images in PROBE_IMAGES:
        targets = np.arange(images) % classes
        middle = rng.normal(size=(classes, width)) * APART
        features = ((rng.normal(size=(images, width)) + middle[targets]) * spread).astype(np.float32)
        for name, grid in (("solve", (L2,)), ("solve_grid", probe.GRID)):
            begun = time.perf_counter()
            probe.path(features, targets, classes, grid)
            taken[name].append(time.perf_counter() - begun)
    few, many = (images * min(images, width) * classes for images in PROBE_IMAGES)
    return {name: _line((few, many), (low, high)) for name, (low, high) in taken.items()}


def _figures(classes: int) -> dict[str, float]:
    """Seconds to fit a temperature, and to sum up a run's answers on test."""
    rng = np.random.default_rng(0)
    targets = np.arange(FIGURES) % classes
    logits = 2.0 * np.eye(classes)[targets] + rng.normal(size=(FIGURES, classes))
    names, answers = [str(place) for place in range(classes)], metrics.softmax(logits)

    def calibrate() -> None:
        metrics.fit_temperature(logits, targets)
        metrics.score("log_loss", targets, answers)

    return {
        "temperature_s": numerics.seconds(calibrate),
        "summary_s": numerics.seconds(lambda: metrics.summary(names, targets, answers, [1] * classes)),
    }
