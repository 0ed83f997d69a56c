"""What `fuzz.py` feeds: each target takes bytes and an empty folder, and answers or raises."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).parents[1] / "tests"
FEW_PIXELS = 1 << 18  # that keep an execution short


def _frostline() -> Any:
    import frostline.errors

    return frostline.errors


@contextlib.contextmanager
def _at_most(pixels: int) -> Iterator[None]:
    from frostline.data.pixels import decoding

    before, decoding.MAX_PIXELS = decoding.MAX_PIXELS, pixels
    try:
        yield
    finally:
        decoding.MAX_PIXELS = before


def image(data: bytes, folder: Path) -> None:
    """The decoder, with a pixel limit that keeps an execution short."""
    from frostline.data.pixels import decoding, image_traits, rendering
    from frostline.data.splits import near_duplicates

    with _at_most(FEW_PIXELS):
        decoding.header(io.BytesIO(data))
        with contextlib.suppress(_frostline().DamagedImage):
            image_traits.with_decoded_traits(decoding.picture_small(data, 32))
        seen = decoding.picture(data)
    about = image_traits.with_decoded_traits(seen)
    assert image_traits.Traits.read(about.text()) == about
    near_duplicates.mark_of(seen)
    for how in ("0,255", "-1e300,1e300", "per-image"):
        made = seen.rgb(rendering.Rendering(how, ground=(1, 2, 3)))
        assert made.mode == "RGB"
    assert rendering.Rendering.from_dict(rendering.PLAIN.as_dict()) == rendering.PLAIN


def lies(data: bytes, folder: Path) -> None:
    """Headers that promise far more than the file holds, under the limit that people have."""
    from frostline.data.pixels import decoding, image_traits

    seen = decoding.picture(_promising(data))
    image_traits.with_decoded_traits(seen)
    assert seen.rgb().mode == "RGB"


def _promising(data: bytes) -> bytes:
    """Return a picture whose header says another size: its number, width and height are the first bytes."""
    number, width, height = data[0] if data else 0, *np.frombuffer(data[1:9].ljust(8, b"\0"), "<u4")
    kind, made = list(_headers().items())[number % len(_headers())]
    changed = bytearray(made)
    for (at, form), value in zip(LIES[kind], (int(width), int(height)), strict=True):
        size = np.dtype(form).itemsize
        if value:
            changed[at : at + size] = np.array(value % (1 << (8 * size)), form).tobytes()
    return bytes(changed) + data[9:]


# Where each format keeps its width and height, and as what.
LIES: dict[str, tuple[tuple[int, str], tuple[int, str]]] = {
    "PNG": ((16, ">u4"), (20, ">u4")),
    "BMP": ((18, "<u4"), (22, "<u4")),
    "GIF": ((6, "<u2"), (8, "<u2")),
    "JPEG": ((5, ">u2"), (7, ">u2")),  # after the marker, which `_headers` looks for
    "TIFF": ((0, "<u4"), (0, "<u4")),
    "JPEG2000": ((48, ">u4"), (52, ">u4")),
    "WEBP": ((26, "<u2"), (28, "<u2")),
}
_promises: dict[str, bytes] = {}


def _headers() -> dict[str, bytes]:
    """Return a small picture of each kind, and note in `LIES` where its size stands."""
    if not _promises:
        from PIL import Image

        picture = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
        for kind in LIES:
            made = io.BytesIO()
            picture.save(made, format=kind)
            _promises[kind] = made.getvalue()
        start = _promises["JPEG"].index(b"\xff\xc0")
        LIES["JPEG"] = ((start + 7, ">u2"), (start + 5, ">u2"))
        tags = _promises["TIFF"]
        places = [tags.index(bytes([tag, 1])) + 8 for tag in (0, 1)]  # 256 and 257, as Pillow writes them
        LIES["TIFF"] = ((places[0], "<u2"), (places[1], "<u2"))
        box = _promises["JPEG2000"].index(b"ihdr")
        LIES["JPEG2000"] = ((box + 8, ">u4"), (box + 4, ">u4"))
    return _promises


def csv_table(data: bytes, folder: Path) -> None:
    """A table of paths and labels as CSV."""
    _table(data, folder / "table.csv")


def parquet_table(data: bytes, folder: Path) -> None:
    """A table of paths and labels as Parquet."""
    _table(data, folder / "table.parquet")


def _table(data: bytes, path: Path) -> None:
    from frostline.data.sources.tables import read_paths, read_table

    path.write_bytes(data)
    with contextlib.suppress(_frostline().DataError):
        read_paths(path)
    read_table(path)


def manifest(data: bytes, folder: Path) -> None:
    """A study's manifest; what is read must be written back the same, whatever its digest says."""
    from frostline.data import Manifest, manifest_file

    (folder / "manifest.jsonl").write_bytes(data)
    with contextlib.suppress(_frostline().DataError):
        Manifest.load(folder / "manifest.jsonl")
    header, rows = manifest_file.parse(data.decode("ascii", "replace"))
    try:
        made = Manifest(**manifest_file.fields_of(header, rows))
        manifest_file.demand_plain(made)
    except (KeyError, TypeError, ValueError):
        return
    assert Manifest.from_json(made.to_json()).digest == made.digest


def study(data: bytes, folder: Path) -> None:
    """A study whose answer, card, plan, run or figures are strange: choosing a run, reading it, its model."""
    from frostline.inference.predictor import Predictor
    from frostline.reports import study_reader
    from frostline.studies.best_run import best_of
    from frostline.studies.study_folder import Study

    place = _study(folder, data)
    study_reader.read(place)
    place_of = Study.existing(place)
    run = best_of(place_of).folder
    assert run.path.resolve().is_relative_to(place.resolve())
    _ = place_of.card, place_of.answer, run.metrics()
    Predictor.of_run(run)


def page(data: bytes, folder: Path) -> None:
    """The whole report of such a study."""
    from frostline.reports import report

    report(_study(folder, data))


PARTS = (
    "answer.json",
    "study.json",
    "fit.json",
    "signals.json",
    "advice.json",
    "RUN/config.json",
    "RUN/result.json",
    "RUN/metrics.jsonl",
    "RUN/backbone.json",
    "comparisons/abc/plan.json",
    "comparisons/abc/comparison.json",
    "comparisons/abc/error-gallery.json",
    "comparisons/abc/out-of-fold.csv",
)


def _study(folder: Path, data: bytes) -> Path:
    place = folder / "study"
    shutil.copytree(example(), place)
    run = next((place / "splits" / "everything" / "runs").iterdir()).relative_to(place).as_posix()
    part = PARTS[(data[0] if data else 0) % len(PARTS)].replace("RUN", run)
    (place / part).write_bytes(data[1:])
    return place


_made: list[Path] = []


def example() -> Path:
    if not _made:
        sys.path.insert(0, str(TESTS))
        import studies

        _made.append(studies.fitted(Path(tempfile.mkdtemp(prefix="fuzz-study-")) / "study"))
    return _made[0]


def shard(data: bytes, folder: Path) -> None:
    """A file of stored rows; `OSError` and `ValueError` are its contract."""
    from frostline.feature_cache import shard_file

    path = folder / f"a{shard_file.SUFFIX}"
    path.write_bytes(data)
    with contextlib.suppress(OSError, ValueError):
        shard_file.contents(path)
    opened = shard_file.Opened(path)
    opened.read(0, b"k" * shard_file.KEY_BYTES, 0, np.empty(16, dtype=np.uint8))
    opened.close()


def index(data: bytes, folder: Path) -> None:
    """A store's index: nothing outside the store may be read, written or deleted by what it says."""
    from frostline.feature_cache import FeatureCache

    victim, place = folder / "victim", folder / "store"
    victim.write_text("mine")
    place.mkdir()
    (place / "index.sqlite").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = FeatureCache(place)
        store.holdings()
        store.verify()
        store.prune(0)
        store.close()
    assert victim.read_text() == "mine"


def weights(data: bytes, folder: Path) -> None:
    """A .safetensors file of weights."""
    from frostline.models.zoo import weight_files

    path = folder / "weights.safetensors"
    path.write_bytes(data)
    _, about = weight_files.read(path)
    weight_files.named_architecture(path, about, None, None)


def torch_weights(data: bytes, folder: Path) -> None:
    """A torch file of weights: nothing but tensors may be built."""
    from frostline.models.zoo import weight_files

    path = folder / "weights.pth"
    path.write_bytes(data)
    weight_files.read(path)


def checkpoint(data: bytes, folder: Path) -> None:
    """Where an unfinished run goes on."""
    from torch import nn

    from frostline.training.resilience import checkpoint as module

    (folder / module.STATE).write_bytes(data)
    module.read(folder, nn.Linear(2, 2))


def strategy(data: bytes, folder: Path) -> None:
    """The notation of strategies: what is read is written back the same, and can be scheduled."""
    from frostline.strategies import parse, schedule

    strategy_read = parse(data.decode("utf-8", "replace"))
    assert parse(str(strategy_read)) == strategy_read
    schedule(strategy_read, stages=5, images=100, batch=32)


def amounts(data: bytes, folder: Path) -> None:
    """Budgets and sizes as the command line takes them: `90s`, `5m`, `2GB`."""
    import click

    from frostline.cli import parameter_types

    text = data.decode("utf-8", "replace")
    for kind in vars(parameter_types).values():
        if (
            isinstance(kind, type)
            and issubclass(kind, click.ParamType)
            and kind.__module__ == parameter_types.__name__
        ):
            with contextlib.suppress(click.BadParameter, click.UsageError):
                kind().convert(text, None, None)


def columns(data: bytes, folder: Path) -> None:
    """A table beside its images, all the way to a manifest; the first line names the columns."""
    import frostline
    from frostline.data import prediction_inputs

    options, _, table = data.partition(b"\n")
    path, _, label = options.decode("utf-8", "replace").partition("|")
    _write_images(folder)
    (folder / "table.csv").write_bytes(table)
    with contextlib.suppress(_frostline().DataError):
        for question in prediction_inputs(folder / "table.csv", path or None):
            with contextlib.suppress(_frostline().DamagedImage):
                question.open()
    made = frostline.load_data(
        folder / "table.csv", path_column=path or None, label_column=label or None, near_copies=False
    )
    assert len(made.classes) > 1
    assert all(sample.label in made.classes for sample in made.samples)


_pictures: list[bytes] = []


def _write_images(folder: Path) -> None:
    if not _pictures:
        from PIL import Image

        for grey in range(6):
            made = io.BytesIO()
            Image.new("L", (4, 4), 40 * grey).save(made, format="PNG")
            _pictures.append(made.getvalue())
    for name, picture in zip("abcdef", _pictures, strict=True):
        (folder / f"{name}.png").write_bytes(picture)


MOST_FOLDERS, MOST_LETTERS = 40, 60


def layout(data: bytes, folder: Path) -> None:
    """Folders by any names, and `--split-names`: the first line; then a path a line."""
    import click

    from frostline.cli.parameter_types import SplitNamesType
    from frostline.data.sources import folder_layout as module
    from frostline.data.sources.class_folders import read_folder

    first, *lines = data.decode("utf-8", "replace").split("\n")
    try:
        named = SplitNamesType().convert(first, None, None) if first else None
    except click.ClickException:
        named = None
    paths = ["/".join(part for part in line.split("/") if part.strip(".")) for line in lines]
    paths = [path[:MOST_LETTERS].rstrip("/") for path in paths if "/" in path and "\0" not in path]
    root = folder / "set"
    root.mkdir()
    for number, path in enumerate(paths[:MOST_FOLDERS]):
        with contextlib.suppress(OSError):  # a file where a folder is wanted
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(b"%d" % number)
    tree = module.Tree.of(path for path in paths if path)
    with contextlib.suppress(_frostline().FrostlineError):
        layout = module.layout_of(tree, str(root), module.checked_split_names(named))
        for place in (*layout.classes_in, *layout.unlabelled):
            tree.at(place)
    source = read_folder(root, module.checked_split_names(named))
    assert {image.split for image in source.images} <= {"", *module.SUBSETS}
    for image in source.images:
        assert (root / image.path).exists()
        assert image.label in [module_name(part) for part in image.path.split("/")[:-1]]


def module_name(folder: str) -> str:
    """Return a folder's name as a class has it."""
    import unicodedata

    return unicodedata.normalize("NFC", folder)


def labels(data: bytes, folder: Path) -> None:
    """Labels of every type that JSON, numpy, torch and pandas have."""
    import torch

    from frostline.data.labels import is_missing, read_labels

    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(document, list) or not document:
        return
    kind, *values = document
    made: list[Any] = [value.encode() if kind == "bytes" and _is_text(value) else value for value in values]
    with contextlib.suppress(TypeError, ValueError, OverflowError, RuntimeError):  # no array of these
        if kind == "numpy":
            made = list(np.array(values))
        elif kind == "torch":
            made = list(torch.tensor(values))
    names = ("a", "b", "c") if kind == "named" else ()
    read = read_labels(made, names)
    assert len(read) == len(made)
    assert all(isinstance(label, str) for label in read)
    for value, label in zip(made, read, strict=True):
        assert bool(label) or is_missing(value) or not isinstance(value, str)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.isascii()


def tar(data: bytes, folder: Path) -> None:
    """Tar shards of images and labels; nothing is unpacked."""
    from frostline.data.sources import tar_shards as module

    path = folder / "shard.tar"
    path.write_bytes(data)
    with contextlib.suppress(_frostline().DataError):
        module.images_in(str(path), module.Fetcher())
    source = module.read_shards(str(path))
    for image in source.images[:5]:
        with contextlib.suppress(_frostline().DamagedImage):
            source.items(image.path)
    assert [item.name for item in folder.iterdir()] == ["shard.tar"]


def rendering(data: bytes, folder: Path) -> None:
    """How a study shows pixels: as options, and as a study keeps it."""
    from frostline.data.pixels import rendering as module
    from frostline.data.pixels import rendering_choice

    first, _, rest = data.partition(b"\n")
    text = first.decode("utf-8", "replace")
    with contextlib.suppress(_frostline().UsageError):
        assert module.checked_range(module.checked_range(text)) == module.checked_range(text)
    with contextlib.suppress(_frostline().UsageError):
        assert all(0 <= level <= 255 for level in module.parsed_ground(text))
    (folder / "manifest.jsonl").write_bytes(rest)
    rendering = rendering_choice.study_rendering(folder)
    assert rendering is not None
    assert module.Rendering.from_dict(rendering.as_dict()) == rendering
    values = np.linspace(-1e6, 1e6, 64, dtype=np.float32).reshape(8, 8)
    for kind, low, high in rendering.ranges:
        assert math.isfinite(high - low)
        assert rendering.picture(module.Deep(kind, values)).mode == "RGB"


def words(data: bytes, folder: Path) -> None:
    """Names on their way out: to terminals of any encoding, and through a table of answers."""
    import os

    from frostline.data import read_paths
    from frostline.inference.prediction_rows import Prediction, Predictions
    from frostline.system import text_output

    name = os.fsdecode(data[:200].replace(b"\0", b""))
    assert text_output.encoded(name) == os.fsencode(name)
    for encoding in ("ascii", "cp437", "latin-1", "cp932", "utf-16", "utf-8"):
        for terminal in (True, False):
            out = io.BytesIO()
            stream = io.TextIOWrapper(out, encoding=encoding, newline="")
            stream.isatty = lambda answer=terminal: answer  # type: ignore[method-assign]
            text_output.never_fail(stream)
            stream.write(name)
            stream.flush()
    rows = (Prediction(name, ((name, 0.5),)),)
    Predictions(rows, (), "run", "why", "head").to_csv(folder / "out.csv")
    assert os.fsencode(name).replace(b'"', b'""') in (folder / "out.csv").read_bytes()
    with contextlib.suppress(_frostline().DataError):
        read_paths(folder / "out.csv")


def arrays(data: bytes, folder: Path) -> None:
    """Arrays and tensors of any type and shape, as images to be asked about."""
    import torch

    from frostline.data import prediction_inputs

    kinds = ("u1", "i1", "u2", "i4", "f2", "f4", "f8", "?", "c8", "S1", "O")
    head = data[:6].ljust(6, b"\1")
    kind, shape = kinds[head[0] % len(kinds)], [size % 9 for size in head[2 : 2 + head[1] % 5]]
    count = math.prod(shape)
    if kind == "O":
        made = np.array([data] * count, dtype=object).reshape(shape)
    else:
        size = np.dtype(kind).itemsize * count
        made = np.frombuffer(data[6 : 6 + size].ljust(size, b"\7"), kind).reshape(shape)
    arrays_read: list[Any] = [made, list(made) if made.ndim else made]
    with contextlib.suppress(TypeError, ValueError):
        arrays_read.append(torch.from_numpy(made.copy()))
    for images in arrays_read:
        with contextlib.suppress(_frostline().FrostlineError):
            for question in prediction_inputs(images):
                with contextlib.suppress(_frostline().FrostlineError):
                    assert question.open().mode == "RGB"


def processor(data: bytes, folder: Path) -> None:
    """What a folder of transformers' says of its model, and of how images are prepared."""
    from frostline.models.zoo import hugging_face

    (folder / "config.json").write_bytes(data)
    with contextlib.suppress(_frostline().ModelError):
        hugging_face._place(str(folder), False)
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(data)
        if isinstance(document, dict):
            assert isinstance(hugging_face.described(document), str | hugging_face.Preprocessing)


Target = Callable[[bytes, Path], None]
TARGETS: dict[str, Target] = {
    "image": image,
    "heic": image,
    "dicom": image,
    "lies": lies,
    "arrays": arrays,
    "csv": csv_table,
    "parquet": parquet_table,
    "columns": columns,
    "layout": layout,
    "labels": labels,
    "tar": tar,
    "rendering": rendering,
    "words": words,
    "processor": processor,
    "manifest": manifest,
    "study": study,
    "page": page,
    "shard": shard,
    "index": index,
    "weights": weights,
    "torch": torch_weights,
    "checkpoint": checkpoint,
    "strategy": strategy,
    "amounts": amounts,
}
