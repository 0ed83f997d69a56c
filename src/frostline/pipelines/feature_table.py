"""`extract_features`: vectors of frozen layers for images, in memory or streamed into a table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frostline import models as bb
from frostline.data import Manifest, Sample, demand_manifest
from frostline.errors import UsageError
from frostline.feature_cache import FeatureCache
from frostline.feature_extraction import ForwardConfig, Frozen
from frostline.feature_extraction.image_batches import EVALUATION_BATCH, Images
from frostline.models import Backbone, demand_backbone
from frostline.progress import OnProgress, Progress
from frostline.system import devices, numerics, timing

ROWS_WRITTEN = 1024  # images a row group of the table: 10 MB of 2,500 numbers each


@dataclass(frozen=True)
class ExtractedFeatures:
    """Vectors of images.

    Attributes
    ----------
    paths, labels, splits : list of str
        Of each image; a split is train, val or test.
    vectors : ndarray of float32, shape (images, width), or None
        None where they were written to a file.
    width : int
    stages : list of str
        The stages that the vectors read, the last one first; a vector starts with the features before the
        head, followed by the statistics of each stage.
    path : str or None
        The table that was written.
    """

    paths: list[str]
    labels: list[str]
    splits: list[str]
    vectors: NDArray[np.float32] | None
    width: int
    stages: list[str]
    path: str | None = None


@devices.computes()
def extract_features(
    backbone: Backbone,
    data: Manifest,
    *,
    layers: int | str = "last",
    output: str | Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    workers: int | str = "auto",
    progress: OnProgress | None = None,
) -> ExtractedFeatures:
    """Return a vector for every image: the pretrained features, and statistics of earlier stages if wanted.

    Images are seen as in evaluation, in float32. Features are read from the feature cache, or computed in one
    pass and cached.

    Parameters
    ----------
    backbone : Backbone
    data : Manifest
    layers : int or str
        "last": the features before the head, (width,). A number of stages, or "all": the same, then mean and
        standard deviation over space of the outputs of so many of the last stages (of tokens the class token,
        too).
    output : path or None
        A .parquet file to write: path, label, split, vector. The vectors are then not held in memory.
    device : str
        auto, cpu, cuda, cuda:N or mps.
    threads : int or None
        Torch threads; None: as many as cores are free.
    workers : int or "auto"
        Processes that decode images.
    progress : callable or None
        Called with (what, done, total).

    Returns
    -------
    ExtractedFeatures

    Raises
    ------
    UsageError
        `layers` or `output` is nothing of the kind.
    DataError
        An image cannot be decoded.
    """
    demand_backbone(backbone)
    demand_manifest(data)
    timing.prepare_process()
    taps = bb.stage_taps(backbone)[: _layers(layers, backbone)]
    place = None if output is None else _checked(Path(output).expanduser())
    progress = Progress.of(progress)
    data = data.checked(progress)
    if place is not None:
        _demand_writable(place, data.samples)
    images = Images(data, data.samples, backbone.preprocessing)
    plan = numerics.exact_plan(threads)
    with numerics.threads(plan.threads), FeatureCache() as cache:
        frozen = Frozen(
            backbone,
            backbone.model,
            backbone.cuts[-1],
            ForwardConfig(plan, EVALUATION_BATCH),
            cache,
            layers=len(taps),
        )
        items = [(position, 0) for position in range(len(images))]
        frozen.fill_statistics(images, items, workers=workers, progress=progress)
        chunks = [items[i : i + EVALUATION_BATCH] for i in range(0, len(items), EVALUATION_BATCH)]
        batches = (values.numpy() for values in frozen.with_statistics(images, chunks, workers))
        vectors = np.concatenate(list(batches)) if place is None else None
        if place is not None:
            _write(place, data.samples, batches)
    samples = data.samples
    return ExtractedFeatures(
        [sample.path for sample in samples],
        [sample.label for sample in samples],
        [sample.split for sample in samples],
        vectors,
        backbone.feature_width + sum(tap.width for tap in taps),
        [backbone.stages[tap.stage].name for tap in taps],
        None if place is None else str(place),
    )


def _layers(layers: int | str, backbone: Backbone) -> int:
    offered = len(bb.stage_taps(backbone))
    if layers in ("last", "all"):
        return 0 if layers == "last" else offered
    if isinstance(layers, bool) or not isinstance(layers, int) or not 1 <= layers <= offered:
        raise UsageError(
            f"layers is {layers!r}. Expected last, all, or a number of stages from 1 to {offered}: "
            f"{backbone.name} has no more that end at an exact cut."
        )
    return layers


def _checked(path: Path) -> Path:
    if path.suffix != ".parquet":
        raise UsageError(f"{path} is no name of a table. Expected one that ends with .parquet.")
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {path.parent}. Make it, or name another file.")
    return path


def _demand_writable(path: Path, samples: Sequence[Sample]) -> None:
    """Raise `UsageError` for a path or label that Parquet, whose texts are UTF-8, can't hold."""
    for sample in samples:
        try:
            f"{sample.path}{sample.label}".encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"{path} cannot hold the name {sample.path!r}, which is not UTF-8. Rename the file, or take "
                "the features in Python: frostline.extract_features(…) without output."
            ) from None


def _write(path: Path, samples: Sequence[Sample], batches: Iterator[NDArray[np.float32]]) -> None:
    """Write a table row group by row group; it appears under its name once it is whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    writer, written = None, 0
    try:
        for vectors in _joined(batches):
            group = samples[written : written + len(vectors)]
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
            table = pa.table(
                {
                    "path": [sample.path for sample in group],
                    "label": [sample.label for sample in group],
                    "split": [sample.split for sample in group],
                    "vector": column,
                }
            )
            writer = writer or pq.ParquetWriter(temporary, table.schema)
            writer.write_table(table)
            written += len(vectors)
        if writer is not None:
            writer.close()
            temporary.replace(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}). Name another file.") from None
    finally:
        temporary.unlink(missing_ok=True)


def _joined(batches: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    waiting: list[NDArray[np.float32]] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= ROWS_WRITTEN:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)
