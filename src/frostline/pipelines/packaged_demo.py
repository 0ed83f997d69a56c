"""`demo`: train several strategies offline, on packaged weights and real images."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frostline import metrics, training
from frostline.data import Manifest, load_data
from frostline.feature_cache import FeatureCache
from frostline.models import zoo
from frostline.progress import OnProgress, Progress
from frostline.system import devices
from frostline.training import Run

DEMO_STUDY = "frostline-demo"
DEMO_STRATEGIES = ("linear_probe", "top_k(2)", "lp_ft", "full")
DEMO_SIZE = 96  # pixels: the digits are 8 × 8, and a forward pass costs a fifth of what it does at 224
DEMO_TRAIN = 10  # images a class
DEMO_TEST = 100  # images a class: ±2 points on a thousand
ENLARGED = 64  # side in pixels of the written files; crops of the original 8 × 8 could have 1 pixel


@dataclass(frozen=True)
class Baseline:
    """Test accuracy of a baseline without a network, with its 95 % interval, 0–1, and its seconds."""

    name: str
    accuracy: float
    low: float
    high: float
    seconds: float


@dataclass(frozen=True)
class Demo:
    """Result of `demo`: the runs, two baselines, the data and the study's folder."""

    runs: tuple[Run, ...]
    majority: Baseline
    pixels: Baseline
    data: Manifest
    study: Path


@devices.computes()
def demo(
    *,
    study: str | Path = DEMO_STUDY,
    model: str = "lite0",
    download: bool | None = None,
    size: int = DEMO_SIZE,
    resize: str | None = None,
    seed: int = 0,
    strategies: Sequence[str] = DEMO_STRATEGIES,
    device: str = "auto",
    deterministic: bool = False,
    threads: int | None = None,
    workers: int | str = "auto",
    progress: OnProgress | None = None,
    begin: Callable[[str], None] | None = None,
    finished: Callable[[Run], None] | None = None,
) -> Demo:
    """Adapt a pretrained network to scikit-learn's handwritten digits, 10 training images per class.

    The digits are written as PNG files under the study, so that every later command works on them.

    Parameters
    ----------
    study
        Folder of the runs and images.
    model, download, size, resize
        As in `load_backbone`.
    seed, device, deterministic, threads, workers
        As in `train`.
    strategies
        Strategies to train.
    progress
        Called as `progress(what, done, total)`.
    begin
        Called with each strategy before it is trained.
    finished
        Called with each run after it is trained.

    Returns
    -------
    Demo
        Runs and baselines.
    """
    folder, progress = Path(study), Progress.of(progress)
    table = write_digits(folder / "digits", seed)
    data = load_data(table, seed=seed, progress=progress)
    backbone = zoo.load_backbone(model, size=size, resize=resize, download=download)
    runs, cache = [], FeatureCache()
    for strategy in strategies:
        if begin:
            begin(strategy)
        runs.append(
            training.train(
                backbone,
                data,
                strategy,
                study=folder,
                seed=seed,
                device=device,
                deterministic=deterministic,
                threads=threads,
                workers=workers,
                feature_cache=cache,
                progress=Progress.of(progress, lambda line: None),  # no line an epoch: the demo is a table
            )
        )
        if finished:
            finished(runs[-1])
    return Demo(tuple(runs), _majority(data), _svm_on_pixels(data), data, folder)


def write_digits(folder: Path, seed: int) -> Path:
    """Write scikit-learn digits as PNG files and a CSV of labels and subsets; return the path of the CSV."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = bunch.images, bunch.target
    rows = []
    for digit in range(10):
        chosen = np.random.default_rng((seed, digit)).permutation(np.flatnonzero(labels == digit))
        for rank, index in enumerate(chosen[: DEMO_TRAIN + DEMO_TEST]):
            name = f"{digit}/{index:04d}.png"
            _write_digit(folder / name, images[index])
            rows.append((name, str(digit), "train" if rank < DEMO_TRAIN else "test"))
    table = folder / f"digits-seed-{seed}.csv"
    with open(table, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    return table


def _write_digit(path: Path, values: NDArray[np.float64]) -> None:
    """Write one digit, values 0–16 of shape (8, 8), as an enlarged PNG file."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(np.round(values * (255 / 16)).astype(np.uint8))
        small.resize((ENLARGED, ENLARGED), Image.Resampling.BICUBIC).save(path)


def _majority(data: Manifest) -> Baseline:
    """Return the baseline that always predicts the commonest training class."""
    train, test = data.targets(data.subset("train")), data.targets(data.subset("test"))
    prediction = np.full(len(test), np.bincount(train).argmax())
    return _baseline("majority class", test, prediction, 0.0)


def _svm_on_pixels(data: Manifest) -> Baseline:
    """Return the baseline of a support vector machine on the pixels, with scikit-learn's defaults."""
    from sklearn.svm import SVC

    from frostline.system.timing import Stopwatch

    watch = Stopwatch()
    pixels = {}
    for subset in ("train", "test"):
        images = [
            data.read(sample).convert("L").resize((8, 8), Image.Resampling.BOX)
            for sample in data.subset(subset)
        ]
        pixels[subset] = np.stack([np.asarray(picture, dtype=np.float64).ravel() for picture in images]) / 255
    fitted = SVC().fit(pixels["train"], data.targets(data.subset("train")))
    predictions = fitted.predict(pixels["test"])
    return _baseline("SVM on raw pixels", data.targets(data.subset("test")), predictions, watch.seconds)


def _baseline(
    name: str, targets: NDArray[np.int64], predictions: NDArray[np.int64], seconds: float
) -> Baseline:
    low, high = metrics.interval(targets, predictions)
    return Baseline(name, float((targets == predictions).mean()), low, high, seconds)
