"""The rows of docs/gpu.md's table: what a card should reach, and how each is measured. Run by `gpu.py`.

The pictures are made here: JPEGs of 500 × 375 pixels, ten classes by the direction of stripes. Weights are
random but for lite0's, which a package brings, so these are speeds and no accuracies. No network is needed.
"""

from __future__ import annotations

import itertools
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import frostline
from frostline import profiling
from frostline.cost import predict
from frostline.data import Manifest
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction import Frozen, features
from frostline.feature_extraction.augmentation import Policy
from frostline.feature_extraction.image_batches import Images
from frostline.models import Backbone
from frostline.system import cpu_threads, numerics

CLASSES = 10
NETWORKS = {"lite0": "lite0", "vit": "timm/vit_base_patch16_224", "convnext": "timm/convnext_base"}
WARM = 5
TESTS_S = {"gpu": 90, "default": 360}  # a part has eight minutes
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Sizes:
    """How large everything is: as the table says, or tiny, to see that the script runs."""

    images: int = 4000
    pixels: int = 224
    batch: int = 256
    network: str = "timm/resnet50"
    networks: tuple[str, ...] = tuple(NETWORKS.values())
    epochs: int = 8
    head_epochs: int = 10
    people_epochs: int = 3  # of the loop that people write; the rest are as long as those after the first
    minutes: float = 2.0
    runs: int = 12
    steps: int = 20  # of what takes milliseconds; the first few are left out


TINY = Sizes(
    images=60, pixels=64, batch=16, network="timm/test_resnet", networks=("timm/test_vit",), epochs=2,
    head_epochs=2, people_epochs=1, minutes=0.7, runs=2, steps=2,
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """What every row works with."""

    folder: Path
    sizes: Sizes

    @property
    def photos(self) -> Path:
        """The folder of the pictures, made when it is first wanted."""
        place = self.folder / f"photos-{self.sizes.images}"
        if not place.exists():
            make_photos(place, self.sizes.images)
        return place

    def data(self) -> Manifest:
        """All pictures, a fiftieth of them in val and in test each."""
        share = 0.02 if self.sizes.images > 1000 else 0.2
        return frostline.load_data(self.photos, near_copies=False, test_size=share, val_size=share)

    def backbone(self, name: str | None = None) -> Backbone:
        """A network with random weights, but lite0."""
        chosen = name or self.sizes.network
        return frostline.load_backbone(chosen, random=chosen != "lite0", size=self.sizes.pixels)

    def study(self, name: str) -> Path:
        """A folder for a study that is new each time."""
        place = self.folder / "studies" / name
        return next(path for n in itertools.count() if not (path := Path(f"{place}-{n}")).exists())

    @property
    def device(self) -> str:
        """What computes."""
        return numerics.device()


# --- pictures ---------------------------------------------------------------------------------------------


def make_photos(folder: Path, count: int, first: int = 0) -> None:
    """Write `count` JPEGs, a folder a class, in as many processes as there are cores.

    No picture is like one of another `first`.
    """
    jobs = [(folder / f"class {n % CLASSES}" / f"{n:05d}.jpg", n % CLASSES, first + n) for n in range(count)]
    for kind in range(CLASSES):
        (folder / f"class {kind}").mkdir(parents=True, exist_ok=True)
    if count < 1000:
        for job in jobs:
            make_photo(job)
        return
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(make_photo, jobs, chunksize=64))


def make_photo(job: tuple[Path, int, int]) -> None:
    """Write one picture of a class: soft shapes, stripes whose direction is the class's, and noise."""
    path, kind, seed = job
    rng = np.random.default_rng(seed)
    soft = Image.fromarray(rng.integers(0, 256, (9, 12, 3)).astype(np.uint8))
    shapes = np.asarray(soft.resize((500, 375), Image.Resampling.BICUBIC)).astype(np.float32)
    y, x = np.mgrid[:375, :500].astype(np.float32)
    turn = np.pi * kind / CLASSES
    stripes = 40.0 * np.sin((x * np.cos(turn) + y * np.sin(turn)) / 6.0 + rng.uniform(0, 6))
    picture = 0.6 * shapes + 60.0 + stripes[..., None] + rng.normal(0, 9, shapes.shape)
    Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(path, quality=92)


# --- limits -----------------------------------------------------------------------------------------------


def limits(table: Table, name: str, *, compiled: bool = False) -> dict[str, float]:
    """Return images a second of a step and of a forward pass on invented pixels, as people write them."""
    sizes, device = table.sizes, table.device
    model = table.backbone(name).adapt(CLASSES).to(device).to(memory_format=torch.channels_last)
    x = torch.randn(sizes.batch, 3, sizes.pixels, sizes.pixels, device=device)
    x, y = x.to(memory_format=torch.channels_last), torch.randint(0, CLASSES, (sizes.batch,), device=device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=device != "mps")
    run = torch.compile(model) if compiled else model
    half = torch.autocast(torch.device(device).type, torch.bfloat16)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with half:
            loss = nn.functional.cross_entropy(run(x), y)
        loss.backward()
        optimizer.step()

    def forward() -> None:
        with torch.no_grad(), half:
            run(x)

    rates = {}
    for what, work, training in (("step", step, True), ("forward", forward, False)):
        model.train(training)
        began = numerics.now()
        work()
        first_s = numerics.now() - began
        steps = sizes.steps if first_s < 5.0 else min(3, sizes.steps)
        for _ in range(min(WARM, steps)):
            work()
        began = numerics.now()
        for _ in range(steps):
            work()
        rates[what] = sizes.batch * steps / (numerics.now() - began)
        if compiled:
            rates[f"{what}_compile_s"] = first_s
    return rates


# --- rows -------------------------------------------------------------------------------------------------


def steady(table: Table, *, compiled: bool = False, name: str | None = None) -> dict[str, Any]:
    """Full fine-tuning from JPEGs, steady state, beside the step on invented pixels."""
    sizes, name = table.sizes, name or table.sizes.network
    limit = limits(table, name, compiled=compiled)
    run = frostline.train(
        table.backbone(name),
        table.data(),
        f"full(epochs={sizes.epochs})",
        study=table.study("steady"),
        batch_size=sizes.batch,
        flip="none",
        compile="on" if compiled else "off",
    )
    each_s = statistics.median(row["seconds"] for row in run.folder.metrics()[1:])
    rate = run.result["n_train"] / each_s
    return {
        "measured": rate / limit["step"],
        "images_per_s": rate,
        "limit": limit,
        "pace": run.result.get("pace"),
        "plan": run.numeric_plan["precision"],
        "compiled": run.numeric_plan["compiled"],
    }


def steady_compiled(table: Table) -> dict[str, Any]:
    """The same compiled, beside the compiled step."""
    return steady(table, compiled=True)


def first_pass(table: Table, name: str | None = None) -> dict[str, Any]:
    """First frozen pass from JPEGs, beside the slower of decoding and forward pass."""
    backbone, data = table.backbone(name), table.data()
    config = profiling.forward_config(backbone)
    forward_s = numerics.seconds(profiling.forward(backbone, config, backbone.cuts[-1])) / config.batch
    chunks = [
        [(position, 0) for position in range(start, min(start + config.batch, len(data.samples)))]
        for start in range(0, len(data.samples), config.batch)
    ]
    began = numerics.now()
    for _ in Images(data, data.samples, backbone.preprocessing).batches(chunks, "auto"):
        pass
    decode_s = (numerics.now() - began) / len(data.samples)
    images = Images(data, data.samples, backbone.preprocessing)
    with numerics.threads(config.plan.threads), FeatureCache(table.study("rows")) as cache:
        began = numerics.now()
        features(Frozen(backbone, backbone.model, backbone.cuts[-1], config, cache), images, workers="auto")
        pass_s = (numerics.now() - began) / len(data.samples)
    return {
        "measured": max(forward_s, decode_s) / pass_s,
        "images_per_s": {"pass": 1 / pass_s, "decoding": 1 / decode_s, "forward": 1 / forward_s},
    }


def _known(table: Table, backbone: Backbone) -> None:
    """Let the network be timed and everything be imported, by a run on other pictures."""
    place = table.folder / "others"
    if not place.exists():
        make_photos(place, 60, first=10**6)
    data = frostline.load_data(place, near_copies=False, test_size=0.2, val_size=0.2)
    run = frostline.train(backbone, data, "head(epochs=1)", study=table.study("known"), flip="none")
    frostline.predict(run.study.path, place)


def _train_s(
    table: Table, backbone: Backbone, strategy: str, cache: FeatureCache, **options: Any
) -> tuple[float, Any]:
    data = table.data()
    began = time.perf_counter()
    run = frostline.train(
        backbone, data, strategy, study=table.study("run"), feature_cache=cache, flip="none", **options
    )
    return time.perf_counter() - began, run


def _empty(table: Table) -> FeatureCache:
    return FeatureCache(table.study("rows"))


def head(table: Table) -> dict[str, Any]:
    """`head` on lite0, augmented, empty cache, network known, after imports, beside the loop people write."""
    backbone = table.backbone("lite0")
    _known(table, backbone)
    epochs = table.sizes.head_epochs
    head_s, run = _train_s(table, backbone, f"head(epochs={epochs})", _empty(table))
    each_s = list(_people_s(table, backbone, table.sizes.people_epochs))
    later_s = each_s[1:] or each_s  # the first one starts the workers
    people_s = each_s[0] + statistics.median(later_s) * (epochs - 1)
    return {
        "measured": people_s / head_s,
        "head_s": head_s,
        "people_s": people_s,
        "people_epochs_s": each_s,
        "parts": run.result.get("decoding"),
    }


def _people_s(table: Table, backbone: Backbone, epochs: int) -> Iterator[float]:
    """Yield the seconds of each epoch of the loop people write: a frozen network, a head, a DataLoader."""
    from torchvision import transforms as tv
    from torchvision.datasets import ImageFolder

    device, sizes = table.device, table.sizes
    transform = tv.Compose(
        [
            tv.RandomResizedCrop(sizes.pixels, scale=(0.35, 1)),
            tv.RandomHorizontalFlip(),
            tv.ToTensor(),
            tv.Normalize(MEAN, STD),
        ]
    )
    loader = torch.utils.data.DataLoader(
        ImageFolder(str(table.photos), transform),
        min(sizes.batch, 32),
        shuffle=True,
        num_workers=min(16, cpu_threads.free().cores),
        pin_memory=device.startswith("cuda"),
        persistent_workers=True,
    )
    model = backbone.adapt(CLASSES).to(device).train()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    learned = model.get_submodule(backbone.head)
    for parameter in learned.parameters():
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(learned.parameters(), 1e-3)
    for _ in range(epochs):
        began = numerics.now()
        for x, y in loader:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(torch.device(device).type, torch.bfloat16):
                loss = nn.functional.cross_entropy(
                    model(x.to(device, non_blocking=True)), y.to(device, non_blocking=True)
                )
            loss.backward()
            optimizer.step()
        yield numerics.now() - began


def kept_rows(table: Table) -> dict[str, Any]:
    """A second run on kept rows, after imports."""
    backbone, cache = table.backbone("lite0"), _empty(table)
    _known(table, backbone)
    strategy = f"head(epochs={table.sizes.head_epochs})"
    first_s, _ = _train_s(table, backbone, strategy, cache)
    second_s, run = _train_s(table, backbone, strategy, cache)
    return {"measured": second_s, "first_s": first_s, "features": run.result["features"]}


def linear_probe(table: Table) -> dict[str, Any]:
    """`linear_probe`, empty cache, network known, after imports."""
    backbone = table.backbone("lite0")
    _known(table, backbone)
    seconds, run = _train_s(table, backbone, "linear_probe", _empty(table))
    return {"measured": seconds, "features": run.result["features"], "accuracy": run.accuracy}


def prediction(table: Table) -> dict[str, Any]:
    """`predict` for all pictures, after imports."""
    backbone = table.backbone("lite0")
    _known(table, backbone)
    _, run = _train_s(table, backbone, "linear_probe", _empty(table))
    others = table.folder / "unlabelled"
    if not others.exists():
        make_photos(others, table.sizes.images, first=2 * 10**6)
    began = time.perf_counter()
    answers = frostline.predict(run.study.path, others)
    return {"measured": time.perf_counter() - began, "images": len(answers.rows)}


def fitted(table: Table) -> dict[str, Any]:
    """`fit --minutes 2`: is every default candidate judged?"""
    began = time.perf_counter()
    fit = frostline.fit(
        table.photos, study=table.study("fit"), minutes=table.sizes.minutes, size=table.sizes.pixels
    )
    seconds = time.perf_counter() - began
    repeats = {row["strategy"]: row.get("repeats") or 0 for row in fit.tried if fit.comparison is not None}
    judged = sum(count > 0 for count in repeats.values())
    return {
        "measured": judged / max(1, len(repeats)),
        "repeats": repeats,
        "winner": fit.strategy,
        "seconds": seconds,
        "accuracy": fit.accuracy,
    }


def networks(table: Table) -> dict[str, Any]:
    """lite0, ViT-B/16 and ConvNeXt-B beside the same limits."""
    listed = {}
    for name in table.sizes.networks:
        batch = min(table.sizes.batch, 128)
        one = replace(table, sizes=replace(table.sizes, batch=batch, epochs=3, network=name))
        listed[name] = {"full": steady(one), "first pass": first_pass(one)}
    flat = {
        f"{name} {row}": values["measured"] for name, rows in listed.items() for row, values in rows.items()
    }
    return {"listed": flat, "details": listed}


FORESEEN = (
    "linear_probe", "head(epochs=3)", "top_k(1, epochs=2)", "top_k(2, epochs=2)", "full(epochs=2)",
    "lp_ft(epochs=2)",
)  # fmt: skip


def foreseen(table: Table) -> dict[str, Any]:
    """Seconds and the card's memory, predicted beside taken, of twelve runs."""
    lines = []
    for name in ("lite0", table.sizes.network) if table.sizes.network != "lite0" else ("lite0",):
        backbone, data = table.backbone(name), table.data()
        images = Images(data, data.subset("train"), backbone.preprocessing, policy=Policy("standard"))
        cache = _empty(table)
        known = profiling.measure(backbone, images, cache=cache)
        counts = {part: len(data.subset(part)) for part in ("train", "val", "test")}
        for strategy in FORESEEN[: table.sizes.runs]:
            predicted = predict(strategy, known, classes=CLASSES, flip="none", **counts)
            seconds, run = _train_s(table, backbone, strategy, _empty(table), batch_size=known.batch)
            lines.append(
                {
                    "network": name,
                    "strategy": strategy,
                    "seconds": [predicted.seconds, seconds],
                    "device_bytes": [predicted.device_peak_bytes, run.device_peak_bytes],
                }
            )

    def off(key: str) -> float | None:
        pairs = [line[key] for line in lines if None not in line[key]]
        return statistics.median(abs(a - b) / b for a, b in pairs) if pairs else None

    memory, seconds_off = off("device_bytes"), off("seconds")
    return {"measured": seconds_off, "memory_off": memory, "runs": lines}


def foreseen_memory(answer: dict[str, Any]) -> float | None:
    """Return by how much memory was off at the median."""
    memory: float | None = answer.get("memory_off")
    return memory


def tests(table: Table) -> dict[str, Any]:
    """Whether the default tests, and those marked gpu, pass here."""
    root = Path(__file__).parents[1]
    chosen = [str(root / "tests" / "test_transfers.py")] if table.sizes is TINY else [str(root / "tests")]
    done: dict[str, Any] = {}
    cores = str(cpu_threads.cores())
    for name, options in (("gpu", ["-m", "gpu"]), ("default", ["-n", cores, "--maxprocesses", cores])):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *chosen]
        # A session of its own: pytest's processes end with it, and no other row has to run beside them.
        run = subprocess.Popen(
            command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            shown, _ = run.communicate(timeout=TESTS_S[name])
            done[name] = {"passed": run.returncode in (0, 5), "last": shown.splitlines()[-3:]}
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            shown, _ = run.communicate()
            done[name] = {"passed": False, "last": [*shown.splitlines()[-3:], "out of time"]}
    return {"measured": float(all(one["passed"] for one in done.values())), **done}


# --- the table --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One row: what is measured, in which part of the script, and what it should reach."""

    name: str
    part: str
    measure: Callable[[Table], dict[str, Any]]
    bar: str
    aim: str = ""
    meets: Callable[[float], bool] | None = None

    @property
    def question(self) -> str:
        """The row in words."""
        return (self.measure.__doc__ or "").splitlines()[0].rstrip(".")


def at_least(bar: float) -> Callable[[float], bool]:
    """Return whether a value reaches the bar."""
    return lambda value: value >= bar


def at_most(bar: float) -> Callable[[float], bool]:
    """Return whether a value stays under the bar."""
    return lambda value: value <= bar


ROWS = (
    Row("steady", "training", steady, "≥ 0.75", "0.95", at_least(0.75)),
    Row("compiled", "training", steady_compiled, "≥ 0.60", "0.90", at_least(0.60)),
    Row("first-pass", "frozen", first_pass, "≥ 0.50", "0.85", at_least(0.50)),
    Row("head", "frozen", head, "≥ 8 × sooner", "20 ×", at_least(8.0)),
    Row("kept-rows", "frozen", kept_rows, "≤ 1.5 s", "0.5 s", at_most(1.5)),
    Row("linear-probe", "frozen", linear_probe, "≤ 4 s", "2 s", at_most(4.0)),
    Row("predict", "frozen", prediction, "≤ 4 s", "1.5 s", at_most(4.0)),
    Row("fit", "fit", fitted, "all candidates judged", "", at_least(1.0)),
    Row("networks", "networks", networks, "listed"),
    Row("foreseen", "foreseen", foreseen, "seconds within 20 %, memory within 10 %", "", at_most(0.2)),
    Row("tests", "tests", tests, "pass", "", at_least(1.0)),
)
ON_FOUR_CORES = ("steady", "compiled", "first-pass", "head", "kept-rows", "linear-probe", "predict")
