"""`measure`: the rates of one network with some of its images, for cost predictions."""

from __future__ import annotations

import functools
import io
import math
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frostline import metrics, probe
from frostline import models as bb
from frostline.config import L2_GRID
from frostline.cost import Learning, Line, Peaks, Pipeline, Rates, StageRates
from frostline.cost.run_time import TIMED_IMAGES
from frostline.data.decoding_threads import AUTO, Workers
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction import ForwardConfig, Frozen
from frostline.feature_extraction.image_batches import Images, contact_sheet, evaluation_batch
from frostline.feature_extraction.random_transforms import size_of
from frostline.models import Backbone, Cut
from frostline.profiling import numeric_search, rate_correction, training_rates
from frostline.profiling.live_tensors import live_bytes
from frostline.system import cpu_threads, deadline, devices, directories, numerics
from frostline.system.timing import PeakMemory, imported_baseline_bytes, resident_bytes

# A head of so many classes or of twice as many is timed for all in between; it is a layer of many that learn,
# and where it learns alone the optimizer's time goes by its parameters, which are counted.
LIVE_IMAGES = 4  # in the pass in which live tensors are counted; their bytes follow the images
FEWEST_CLASSES = 16
ROW_BYTES = (4_000, 100_000)  # rows that a disk is measured with: pooled features, and a middle block's
FILE_BYTES = (1_000, 8_000_000)  # files that a disk is measured with
PROBE_IMAGES = (40, 200)  # heads that are solved for to measure how long that takes: a fraction of a second
# Invented features: classes' middles beside the spread within a class, and how fast the spread of the k-th
# direction falls (k ** -FALLS). Real features took 0.8 to 2.4 times the steps of these at an exponent of 0.5
# (three image sets, two networks, 48 to 242 images).
APART, FALLS = 0.1, 0.6
L2 = 1e-3  # of a head that is solved for alone (training/techniques/flip_safety.py)
FIGURES = 100  # images whose metrics are computed: a fraction of a second


def measure(
    backbone: Backbone,
    images: Images,
    *,
    cache: FeatureCache,
    batch: int = 32,
    threads: int | None = None,
    classes: int = 0,
    workers: Workers = AUTO,
) -> Rates:
    """Return the rates of a network on this machine, with images like `images`, augmented as they are.

    Rates of the network are cached; a run after this times nothing again. Resets this process's high-water
    mark of memory.

    Parameters
    ----------
    backbone : Backbone
    images : Images
    cache : FeatureCache
        Its reads and writes are timed.
    batch : int
        Images a training step.
    threads : int or None
    classes : int
        Width of the new head; 0 is the number of classes of the images.
    workers : int or str
        Threads that decode, as in `train`.

    Returns
    -------
    Rates
    """
    base_bytes = _base_bytes()  # before anything is timed, as in the process of a run that finds the rates
    count = numerics.thread_count(threads)
    classes = classes or len(images.manifest.classes)
    timed = _as_wide(classes)
    config = numeric_search.forward_config(backbone, threads=threads)
    rates_name = _rates_name(backbone, batch, classes)
    newly_timed: list[float] = []  # the share of the processor that was left

    def network() -> dict[str, Any]:
        began = cpu_threads.Reading.now()
        network_rates = _network(backbone, config, batch, timed, count)
        newly_timed.append(cpu_threads.share_since(began, count))
        return network_rates

    timed_before = numerics.is_remembered(rates_name, count)
    network_rates = numerics.measured(rates_name, network, count)
    if timed_before and newly_timed:  # what runs took was held against rates that are gone
        rate_correction.forget(backbone, count)
    network_rates["stages"][-1]["parameters"] -= (timed - classes) * (backbone.feature_width + 1)
    with numerics.threads(count), cache, deadline.work(numerics.TIMING):
        other_rates = {
            **network_rates["around"],
            **_image_seconds(images),
            **_disk_seconds(cache),
            **_metric_seconds(classes),
        }
        other_rates |= {
            **_solver_seconds(backbone.feature_width, classes),
            "find": _lookup_seconds(backbone, config, cache),
        }
    rates = Rates(
        name=backbone.name,
        size=backbone.preprocessing.size,
        threads=count,
        batch=batch,
        stages=_stages(backbone, config, network_rates, batch, count),
        depth=len(backbone.stages),
        feature_width=backbone.feature_width,
        frozen_batch=config.batch,
        value_bytes=_value_bytes(config),
        copies=bool(config.folded),
        evaluation_batch=evaluation_batch(),
        **other_rates,
        peaks=Peaks(base=base_bytes, **network_rates["peaks"]),
        statistics=tuple(tap.width for tap in bb.stage_taps(backbone)),
        notes=_notes(newly_timed[0]) if newly_timed else (),
        device=numerics.device_name(),
        others=cpu_threads.free().others,
        pipeline=pipeline_of(images, workers, count),
        factor=rate_correction.factor(backbone, count, trains=True),
        solved_factor=rate_correction.factor(backbone, count, trains=False),
    )
    return rates if newly_timed else rate_correction.checked(rates, backbone, network_rates["check"])


def pipeline_of(images: Images, workers: Workers, threads: int) -> Pipeline:
    """Return how pictures are decoded beside computing on this device.

    Parameters
    ----------
    images : Images
    workers : int or str
        As in `train`.
    threads : int
        That compute, where the processor does.

    Returns
    -------
    Pipeline
    """
    on_gpu = devices.current().type != "cpu"
    with numerics.threads(threads):
        count = images.workers(workers)
        in_turn = images.decodes_in_turn(count)
    return Pipeline(count, cpu_threads.free().cores if on_gpu else threads, on_gpu, in_turn)


def ready(backbone: Backbone, *, batch: int = 32, threads: int | None = None, classes: int) -> bool:
    """Return whether the network was timed on this machine, so that `measure` takes a second or two.

    Parameters
    ----------
    backbone : Backbone
    batch : int
        Images a training step.
    threads : int or None
    classes : int
        Width of the new head.

    Returns
    -------
    bool
    """
    count = threads or torch.get_num_threads()

    def absent() -> dict[str, Any]:
        raise numerics.NotTimed

    try:
        with numerics.nothing_timed():
            numeric_search.forward_config(backbone, threads=threads)
            numerics.measured(_rates_name(backbone, batch, classes), absent, count)
    except numerics.NotTimed:
        return False
    return True


def _rates_name(backbone: Backbone, batch: int, classes: int) -> str:
    """Name what is timed of a network, for it to be remembered by."""
    return f"stages {numeric_search.network_name(backbone)} batch {batch} classes {_as_wide(classes)}"


def _as_wide(classes: int) -> int:
    """Return the classes of the head that is timed: a power of two, so that other images find the rates."""
    return max(FEWEST_CLASSES, 1 << (classes - 1).bit_length())


def _notes(share: float) -> tuple[str, ...]:
    if share >= cpu_threads.QUIET:
        return ()
    doubt = (
        f"Something else used the processor while rates were measured ({share:.0%} of its time was left): "
        "predicted times are uncertain until another timing or the first runs correct them."
    )
    return (doubt,)


def _base_bytes() -> int:
    """Return the bytes that this process holds above its imports, after freed memory is returned."""
    with PeakMemory(0):
        return max(0, resident_bytes() - imported_baseline_bytes())


def _stages(
    backbone: Backbone, config: ForwardConfig, network_rates: dict[str, Any], batch: int, threads: int
) -> tuple[StageRates, ...]:
    plans = training_rates.chosen_plans(
        backbone, network_rates["learning"], network_rates["around"]["step_s"], batch, threads
    )
    return tuple(
        StageRates(
            name=backbone.stages[cut.index].name,
            cut=cut.index,
            row_bytes=bb.row_elements(backbone, cut) * (_value_bytes(config) if cut.index else 1),
            plan=plans[place],
            learning={name: Learning(*rows[place]) for name, rows in network_rates["learning"].items()},
            **network_rates["stages"][place],
        )
        for place, cut in enumerate(backbone.cuts)
    )


def _value_bytes(config: ForwardConfig) -> int:
    return 2 if config.plan.precision == "bfloat16" else 4


def _network(
    backbone: Backbone, config: ForwardConfig, batch: int, classes: int, threads: int
) -> dict[str, Any]:
    """Measure what depends on the network alone, as plain data."""
    last_cut, exact = backbone.cuts[-1], numerics.exact_plan(threads)
    steps = _training_steps(backbone, batch, classes, threads)
    evaluation_pass = training_rates.measure_warm(
        numeric_search.forward(backbone, ForwardConfig(exact, evaluation_batch()), last_cut)
    )
    forwards = [forward for forward, *_ in steps.rates["channels-last"]]
    evaluation_s = [
        evaluation_pass.seconds / evaluation_batch() * share / sum(forwards) for share in forwards
    ]
    frozen_s = [*numeric_search.stages_s(backbone, config), 0.0]  # the head is never frozen
    stages = [
        {"parameters": parameters, "frozen_s": each_s, "evaluation_s": evaluation}
        for parameters, each_s, evaluation in zip(steps.parameters, frozen_s, evaluation_s, strict=True)
    ]
    pixels = torch.zeros((batch, 3, *2 * (backbone.preprocessing.size,)), dtype=torch.uint8)
    normalise = functools.partial(exact.batch, pixels, backbone.preprocessing.normalise)
    around = {
        "touch_s": _touch_s([evaluation_pass, steps.full_step]),
        "step_s": steps.step_s,
        "update_s": steps.update_s,
        "normalise_s": numerics.seconds(normalise) / batch,
        "copy_s": numerics.seconds(lambda: backbone.adapt(classes)),
        "frozen_copy_s": numerics.seconds(lambda: Frozen(backbone, backbone.model, last_cut, config).place()),
    }
    peaks = {
        "frozen": training_rates.peak(numeric_search.forward(backbone, config, last_cut)).peak_bytes,
        "evaluation": evaluation_pass.peak_bytes,
        "step": steps.peak_bytes,
    }
    if devices.current().type == "cuda":
        evaluation = ForwardConfig(exact, evaluation_batch())
        peaks |= {"live_frozen": _live(backbone, config), "live_evaluation": _live(backbone, evaluation)}
    check = rate_correction.check_of(backbone, sum(evaluation_s), threads)
    return {"stages": stages, "learning": steps.rates, "around": around, "peaks": peaks, "check": check}


def _live(backbone: Backbone, config: ForwardConfig) -> int:
    """Return the bytes of tensors an image that are alive at once in a pass without gradients."""
    run = numeric_search.forward(backbone, replace(config, batch=LIVE_IMAGES), backbone.cuts[-1])
    run()  # what is made once, such as a copy with BatchNorm folded
    return live_bytes(run, devices.current().type) // LIVE_IMAGES


def _training_steps(backbone: Backbone, batch: int, classes: int, threads: int) -> training_rates.Steps:
    """Return what training steps cost.

    They are the longest part of all timings, so they are remembered also where a time limit ends the rest.
    """

    def timed() -> dict[str, Any]:
        with torch.random.fork_rng(devices=devices.random_states()):  # dropout draws
            return asdict(training_rates.steps(backbone, batch, classes, threads))

    name = f"steps of {_rates_name(backbone, batch, classes)}"
    return training_rates.Steps.from_dict(numerics.measured(name, timed, threads))


def _touch_s(works: list[training_rates.Measured]) -> float:
    """Return the seconds that a byte of memory takes the first time, beyond those of later times."""
    extra = sum(work.first_s - work.seconds for work in works)
    return max(0.0, extra) / max(1, sum(work.first_bytes for work in works))


def _image_seconds(images: Images) -> dict[str, Any]:
    """Seconds for the pixels of an image: from its file, and each view from the decoded picture."""
    positions = range(min(TIMED_IMAGES, len(images)))
    for position in positions:
        images.decode(position)  # from the disk, whatever that takes: later looks come from memory
    start = time.perf_counter()
    pictures = [images.decode(position) for position in positions]
    read_at = time.perf_counter()
    for picture in pictures:
        images.crop(picture)
    cropped_at = time.perf_counter()
    for view in (1, 2):  # the second finds the pictures decoded
        started = time.perf_counter()
        for position in positions:
            images[position, view]
    augmented_at = time.perf_counter()
    contact_sheet(images).save(io.BytesIO(), format="PNG")
    return {
        "sheet_s": time.perf_counter() - augmented_at,
        "file_s": (read_at - start) / len(positions),
        "crop_s": (cropped_at - read_at) / len(positions),
        "augment_s": (augmented_at - started) / len(positions),
        "picture_bytes": sum(3 * math.prod(size_of(picture)) for picture in pictures) // len(positions),
    }


def decode_s(images: Images) -> float:
    """Return the seconds for the pixels of one view; the second time, when decoded pictures may be in memory.

    Parameters
    ----------
    images : Images

    Returns
    -------
    float
        Of one thread.
    """
    items = [(position, 1) for position in range(min(TIMED_IMAGES, len(images)))]
    for _ in range(2):
        begun = time.perf_counter()
        for item in items:
            images[item]
        taken = time.perf_counter() - begun
    return taken / len(items)


def _disk_seconds(cache: FeatureCache) -> dict[str, Any]:
    """Seconds to read and keep a row, and to write a file, by their bytes; and to find that out for a row."""
    start = time.perf_counter()
    small, large = (cache.seconds_per_row(row_bytes) for row_bytes in ROW_BYTES)
    probe_s = (time.perf_counter() - start) / len(ROW_BYTES)
    try:
        write_seconds = _write_seconds(directories.folder("rates"))
    except OSError:  # it can't be written, as the feature cache has warned
        write_seconds = _write_seconds(Path(tempfile.gettempdir()))
    return {
        "look_s": probe_s,
        "read": _line(ROW_BYTES, (small[0], large[0])),
        "keep": _line(ROW_BYTES, (small[1], large[1])),
        "write": _line(FILE_BYTES, (write_seconds[0], write_seconds[1])),
    }


def _write_seconds(place: Path) -> list[float]:
    with tempfile.TemporaryDirectory(dir=place) as folder:
        path = Path(folder) / "file"
        return [
            numerics.seconds(functools.partial(directories.write_atomically, path, bytes(size)))
            for size in FILE_BYTES
        ]


def _lookup_seconds(backbone: Backbone, config: ForwardConfig, cache: FeatureCache) -> Line:
    """Seconds to find a cut's features in the cache, by the numbers below it, at the first and last cut."""
    cuts = (backbone.cuts[1], backbone.cuts[-1])
    stage_of = backbone.stage_of(backbone.model)
    sizes = [(stage_of[name], value.numel()) for name, value in backbone.model.named_parameters()]
    few, many = (sum(size for stage, size in sizes if stage < cut.index) for cut in cuts)

    def find(cut: Cut) -> None:
        _ = Frozen(backbone, backbone.model, cut, config, cache).cached

    first_s, last_s = (numerics.seconds(functools.partial(find, cut)) for cut in cuts)
    return _line((few, many), (first_s, last_s))


def _line(places_: tuple[int, int], seconds: tuple[float, float]) -> Line:
    """Return the line through two measurements, never falling and never below zero."""
    apart = places_[1] - places_[0]
    slope = max(0.0, seconds[1] - seconds[0]) / apart if apart else 0.0
    return Line(max(0.0, seconds[0] - slope * places_[0]), slope)


def _solver_seconds(width: int, classes: int) -> dict[str, Line]:
    """Seconds to solve for a head with one L2 and with the grid, by images × numbers an image × classes."""
    rng, spread = np.random.default_rng(0), np.arange(1, width + 1) ** -FALLS
    solve_seconds: dict[str, list[float]] = {"solve": [], "solve_grid": []}
    for images in PROBE_IMAGES:
        targets = np.arange(images) % classes
        middle = rng.normal(size=(classes, width)) * APART
        features = ((rng.normal(size=(images, width)) + middle[targets]) * spread).astype(np.float32)
        for name, grid in (("solve", (L2,)), ("solve_grid", L2_GRID)):
            start = time.perf_counter()
            probe.path(features, targets, classes, grid)
            solve_seconds[name].append(time.perf_counter() - start)
    few, many = (images * min(images, width) * classes for images in PROBE_IMAGES)
    return {name: _line((few, many), (low, high)) for name, (low, high) in solve_seconds.items()}


def _metric_seconds(classes: int) -> dict[str, float]:
    """Seconds to fit a temperature, and to compute a run's metrics on test."""
    rng = np.random.default_rng(0)
    targets = np.arange(FIGURES) % classes
    logits = 2.0 * np.eye(classes)[targets] + rng.normal(size=(FIGURES, classes))
    names, probabilities = [str(place) for place in range(classes)], metrics.softmax(logits)

    def calibrate() -> None:
        metrics.fit_temperature(logits, targets)
        metrics.score("log_loss", targets, probabilities)

    return {
        "temperature_s": numerics.seconds(calibrate),
        "summary_s": numerics.seconds(lambda: metrics.summary(names, targets, probabilities, [1] * classes)),
    }
