"""Feed every reader with what no one meant it to read, guided by which lines it reaches (atheris, libFuzzer).

    pip install atheris
    python benchmarks/fuzz.py --out FOLDER --minutes 2              each target for two minutes
    python benchmarks/fuzz.py --out FOLDER --target csv --minutes 10

A reader may answer, or raise `FrostlineError` with its message; a store may also warn. Anything else is a
finding: another exception, a hang of 20 s, 3 GB of memory, a crash of the process, a file touched outside of
the folder it was given. Findings and the corpus stay in --out, and a second call goes on from them; a line of
figures for each target is appended to results.jsonl there. tests/test_guard.py runs a short form without
atheris: the same targets, on seeds damaged at random.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

HANG_S, MEMORY_MB = 20, 3000
LARGEST_BYTES = 20_000  # of an input: headers are what readers trip over
RESTARTS = 20  # after findings that end the process


def _frostline() -> Any:
    import frostline.errors

    return frostline.errors


# --- targets: (bytes, an empty folder) → nothing, or an exception ------------------------------------------


def image(data: bytes, folder: Path) -> None:
    """The decoder, with a pixel limit that keeps an execution short."""
    from frostline.dataset import copies, decoding, rendering, traits

    decoding.MAX_PIXELS = 1 << 18
    decoding.header(io.BytesIO(data))
    with contextlib.suppress(_frostline().DamagedImage):
        traits.looked_at(decoding.picture_small(data, 32))
    seen = decoding.picture(data)
    about = traits.looked_at(seen)
    assert traits.Traits.read(about.text()) == about
    copies.mark_of(seen)
    assert seen.rgb(rendering.Rendering("0,255")).mode == "RGB"
    pixels = decoding.decode(data)
    assert pixels.mode == "RGB"


def csv_table(data: bytes, folder: Path) -> None:
    """A table of paths and labels as CSV."""
    _table(data, folder / "table.csv")


def parquet_table(data: bytes, folder: Path) -> None:
    """A table of paths and labels as Parquet."""
    _table(data, folder / "table.parquet")


def _table(data: bytes, path: Path) -> None:
    from frostline.dataset.tables import read_paths, read_table

    path.write_bytes(data)
    with contextlib.suppress(_frostline().DataError):
        read_paths(path)
    read_table(path)


def manifest(data: bytes, folder: Path) -> None:
    """A study's manifest; what is read must be written back the same, whatever its digest says."""
    from frostline.dataset import Manifest
    from frostline.dataset import manifest as module

    (folder / "manifest.jsonl").write_bytes(data)
    with contextlib.suppress(_frostline().DataError):
        Manifest.load(folder / "manifest.jsonl")
    header, rows = module.written.parse(data.decode("ascii", "replace"))
    try:
        made = module._built(header, rows)
    except (KeyError, TypeError, ValueError):
        return
    assert Manifest.from_json(made.to_json()).digest == made.digest


def study(data: bytes, folder: Path) -> None:
    """A study whose answer, card, plan, run or figures are strange: choosing a run, reading it, its model."""
    from frostline.best import best_of
    from frostline.prediction import Predictor
    from frostline.record import Study
    from frostline.reporting import reading

    place = _study(folder, data)
    reading.read(place)
    found = Study.existing(place)
    run = best_of(found).folder
    assert run.path.resolve().is_relative_to(place.resolve())
    _ = found.card, found.answer, run.metrics()
    Predictor.of_run(run)


def page(data: bytes, folder: Path) -> None:
    """The whole report of such a study."""
    from frostline.reporting import report

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
    "comparisons/abc/looks.json",
    "comparisons/abc/out-of-fold.csv",
)


def _study(folder: Path, data: bytes) -> Path:
    place = folder / "study"
    shutil.copytree(_example(), place)
    run = next((place / "splits" / "everything" / "runs").iterdir()).relative_to(place).as_posix()
    part = PARTS[(data[0] if data else 0) % len(PARTS)].replace("RUN", run)
    (place / part).write_bytes(data[1:])
    return place


_made: list[Path] = []


def _example() -> Path:
    if not _made:
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
        import studies

        _made.append(studies.fitted(Path(tempfile.mkdtemp(prefix="fuzz-study-")) / "study"))
    return _made[0]


def shard(data: bytes, folder: Path) -> None:
    """A file of stored rows; `OSError` and `ValueError` are its contract."""
    from frostline.store import shards

    path = folder / f"a{shards.SUFFIX}"
    path.write_bytes(data)
    with contextlib.suppress(OSError, ValueError):
        shards.contents(path)
    opened = shards.Opened(path)
    opened.read(0, b"k" * shards.KEY_BYTES, 0, np.empty(16, dtype=np.uint8))
    opened.close()


def index(data: bytes, folder: Path) -> None:
    """A store's index: nothing outside the store may be read, written or deleted by what it says."""
    from frostline.store import Store

    victim, place = folder / "victim", folder / "store"
    victim.write_text("mine")
    place.mkdir()
    (place / "index.sqlite").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = Store(place)
        store.holdings()
        store.verify()
        store.prune(0)
        store.close()
    assert victim.read_text() == "mine"


def weights(data: bytes, folder: Path) -> None:
    """A .safetensors file of weights."""
    from frostline.zoo import files

    path = folder / "weights.safetensors"
    path.write_bytes(data)
    _, about = files.read(path)
    files.named_architecture(path, about, None, None)


def torch_weights(data: bytes, folder: Path) -> None:
    """A torch file of weights: nothing but tensors may be built."""
    from frostline.zoo import files

    path = folder / "weights.pth"
    path.write_bytes(data)
    files.read(path)


def checkpoint(data: bytes, folder: Path) -> None:
    """Where an unfinished run goes on."""
    from torch import nn

    from frostline.training import checkpoint as module

    (folder / module.STATE).write_bytes(data)
    module.read(folder, nn.Linear(2, 2))


def strategy(data: bytes, folder: Path) -> None:
    """The notation of strategies: what is read is written back the same, and can be scheduled."""
    from frostline.strategy import parse, schedule

    found = parse(data.decode("utf-8", "replace"))
    assert parse(str(found)) == found
    schedule(found, stages=5, images=100, batch=32)


def amounts(data: bytes, folder: Path) -> None:
    """Budgets and sizes as the command line takes them: `90s`, `5m`, `2GB`."""
    import click

    from frostline.cli import options

    text = data.decode("utf-8", "replace")
    for kind in vars(options).values():
        if (
            isinstance(kind, type)
            and issubclass(kind, click.ParamType)
            and kind.__module__ == options.__name__
        ):
            with contextlib.suppress(click.BadParameter, click.UsageError):
                kind().convert(text, None, None)


Target = Callable[[bytes, Path], None]
TARGETS: dict[str, Target] = {
    "image": image,
    "csv": csv_table,
    "parquet": parquet_table,
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


# --- seeds: small files that are right --------------------------------------------------------------------


def seeds(name: str) -> list[bytes]:
    """Return a few right inputs of a target, made here."""
    return list(_SEEDS[name]())


def _images() -> Iterator[bytes]:
    from PIL import Image

    picture = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF"):
        with contextlib.suppress(OSError, KeyError):
            made = io.BytesIO()
            picture.save(made, format=kind)
            yield made.getvalue()
    for mode in ("1", "L", "P", "LA", "RGBA", "I;16", "CMYK", "F"):
        with contextlib.suppress(OSError, KeyError, ValueError):
            made = io.BytesIO()
            picture.convert("L").convert(mode).save(made, format="TIFF" if mode in ("CMYK", "F") else "PNG")
            yield made.getvalue()
    yield from _deep_images()


def _deep_images() -> Iterator[bytes]:
    """More than 8 bits a sample, in either byte order; DICOM where pydicom is installed."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import deep_examples

    values = np.arange(256, dtype=np.uint16).reshape(8, 8, 4) * 200
    for order in "<>":
        for kind in (np.uint16, np.int16, np.uint32, np.float32):
            yield deep_examples.tiff(values[..., 0].astype(kind), order)
        for bands in (3, 4, 13):
            yield deep_examples.tiff(np.resize(values, (8, 8, bands)), order)
    for bands in (1, 2, 3, 4):
        yield deep_examples.png(values[..., :bands])
    yield deep_examples.ppm(values[..., :3], 40000)
    with contextlib.suppress(ImportError):
        yield deep_examples.dicom(values[..., 0], RescaleSlope="2", RescaleIntercept="-9", PatientID="x")
        yield deep_examples.dicom((values[..., :3] >> 8).astype(np.uint8))


def _csvs() -> Iterator[bytes]:
    yield b"path,label,split,group\na.png,cat,train,g\nb.png,dog,test,h\n"
    yield "\ufeffPath;Label\n../a.png;c\u00e9\nC:\\b\\c.png;d\n".encode()
    yield b'path\tlabel\n"a\nb"\tx\n'


def _parquets() -> Iterator[bytes]:
    import pyarrow
    import pyarrow.parquet

    for compression in ("none", "snappy"):
        made = io.BytesIO()
        rows = {"path": ["a.png", "b.png"], "label": [1.0, None], "group": [b"x", b"y"]}
        pyarrow.parquet.write_table(pyarrow.table(rows), made, compression=compression)
        yield made.getvalue()


def _manifests() -> Iterator[bytes]:
    yield (_example() / "manifest.jsonl").read_bytes()[:LARGEST_BYTES]
    head = {"frostline_manifest": 1, "root": None, "digest": "", "split_digest": "", "set_aside": []}
    head |= {"conflicts": [], "classes": ["a", "b"], "near_copies": [], "suspects": [], "notes": []}
    lines = [head, ["a.png", "a", "0" * 64, "", "train"], ["b.png", "b", "1" * 64, "", "test"]]
    yield "".join(json.dumps(line) + "\n" for line in lines).encode()


def _studies() -> Iterator[bytes]:
    place = _example()
    run = next((place / "splits" / "everything" / "runs").iterdir()).relative_to(place).as_posix()
    for number, part in enumerate(PARTS):
        path = place / part.replace("RUN", run)
        yield bytes([number]) + (path.read_bytes()[: LARGEST_BYTES - 1] if path.exists() else b"{}")
    yield b"\x00" + json.dumps({"run": "../../elsewhere", "why": 3, "score": 1e999}).encode()
    yield (
        b"\x05"
        + json.dumps(
            {"classes": ["a", "b"], "strategy": "head", "preprocessing": {}, "source": {"kind": "timm"}}
        ).encode()
    )


def _shards() -> Iterator[bytes]:
    from frostline.store import shards

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{shards.SUFFIX}"
        rows = np.arange(32, dtype=np.uint8).reshape(2, 16)
        shards.write(path, "d" * 64, "{}", shards.Form("float32", (4,)), [b"k" * 16, b"l" * 16], rows)
        yield path.read_bytes()


def _indices() -> Iterator[bytes]:
    import sqlite3

    from frostline.store import Store, key_of
    from frostline.store.shards import Form

    with tempfile.TemporaryDirectory() as folder:
        with Store(folder) as store:
            shelf = store.shelf({"a": 1})
            shelf.put([key_of("0" * 64, "0")], np.zeros((1, 16), dtype=np.uint8), Form("float32", (4,)))
            shelf.flush()
        yield (Path(folder) / "index.sqlite").read_bytes()
        with sqlite3.connect(Path(folder) / "index.sqlite") as connection:
            connection.execute("UPDATE shards SET name = '../victim'")
        connection.close()
        yield (Path(folder) / "index.sqlite").read_bytes()


def _weights() -> Iterator[bytes]:
    import torch
    from safetensors.torch import save

    yield save({"a": torch.zeros(2, 2)}, metadata={"architecture": "timm/resnet18", "mean": "[0.5]"})
    yield b"\xff" * 8 + b"{}"


def _torches() -> Iterator[bytes]:
    import torch

    for new in (True, False):
        made = io.BytesIO()
        torch.save({"state_dict": {"a": torch.zeros(2, 2)}}, made, _use_new_zipfile_serialization=new)
        yield made.getvalue()


def _checkpoints() -> Iterator[bytes]:
    from torch import nn

    from frostline.training import checkpoint as module

    with tempfile.TemporaryDirectory() as folder:
        module.write(Path(folder), nn.Linear(2, 2), module.Progress(), {})
        yield (Path(folder) / module.STATE).read_bytes()


def _strategies() -> Iterator[bytes]:
    for text in ("linear_probe", "head(epochs=3)", "top_k(2, lr=0.001)", "gradual_unfreeze(2, epochs=6)"):
        yield text.encode()
    yield b"phases(1 for 2 at 0.001 > all for 3, decay=0.5)"
    yield b"full(epochs=1e308, lr=nan)"


_SEEDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "image": _images,
    "csv": _csvs,
    "parquet": _parquets,
    "manifest": _manifests,
    "study": _studies,
    "page": _studies,
    "shard": _shards,
    "index": _indices,
    "weights": _weights,
    "torch": _torches,
    "checkpoint": _checkpoints,
    "strategy": _strategies,
    "amounts": lambda: iter([b"90s", b"5m", b"2GB", b"1e999", b"\xd9\xa1GB"]),
}


def damaged(seed: bytes, rng: random.Random) -> bytes:
    """Return a seed with a few bytes changed, cut, doubled or replaced by numbers that readers trip over."""
    data = bytearray(seed)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0 and data:
            data[at % len(data)] = rng.randrange(256)
        elif kind == 1:
            del data[at : at + rng.randint(1, 16)]
        elif kind == 2:
            data[at:at] = data[at : at + rng.randint(1, 64)]
        elif kind == 3:
            data[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"])
        else:
            data[at:at] = rng.choice([b"null", b"1e999", b"NaN", b"[[[[", b"../", b"\0", b"-1", b'""', b"{}"])
    return bytes(data)


# --- running ----------------------------------------------------------------------------------------------


def once(name: str, data: bytes) -> BaseException | None:
    """Execute a target in a folder of its own; return what it raised, if it may not raise that."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            TARGETS[name](data, folder)
    except _frostline().FrostlineError:
        return None
    except Exception as error:
        return error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return None


def _where(error: BaseException) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "frostline" in f.filename]
    last = frames[-1] if frames else traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} {Path(last.filename).name}:{last.lineno}"


def child(name: str, out: Path, seconds: int) -> None:
    """Fuzz one target in this process until the time is up; never returns."""
    import atheris
    import torch

    torch.set_num_threads(1)
    with atheris.instrument_imports(include=["frostline", "PIL"]):
        import frostline.prediction
        import frostline.reporting
        import frostline.training.checkpoint  # noqa: F401 - the reader is reached through it
    corpus = out / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in seeds(name):
        (corpus / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    finds = out / "findings"
    finds.mkdir(exist_ok=True)
    seen: set[str] = set()

    def one(data: bytes) -> None:
        error = once(name, data)
        if error is None or (where := _where(error)) in seen:
            return
        seen.add(where)
        stem = re.sub(r"\W+", "-", f"{name}-{where}")
        (finds / f"{stem}.bin").write_bytes(data)
        (finds / f"{stem}.txt").write_text("".join(traceback.format_exception(error)))

    options = [f"-max_total_time={seconds}", f"-timeout={HANG_S}", f"-rss_limit_mb={MEMORY_MB}"]
    options += [f"-max_len={LARGEST_BYTES}", f"-artifact_prefix={finds}/{name}-", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


def fuzz(name: str, out: Path, minutes: float) -> dict[str, Any]:
    """Fuzz one target for so long, again from its corpus where the process ended early; return figures."""
    before = set((out / "findings").glob(f"{name}-*")) if (out / "findings").exists() else set()
    began, executions, ended = time.monotonic(), 0, 0
    while (left := int(60 * minutes - (time.monotonic() - began))) > 0 and ended <= RESTARTS:
        command = [sys.executable, __file__, "--out", str(out), "--target", name, "--child", str(left)]
        threads = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "FROSTLINE_STORE": str(out / "store")}
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=os.environ | threads
        )
        counts = re.findall(r"stat::number_of_executed_units: (\d+)", done.stderr)
        counts = counts or re.findall(r"^#(\d+)", done.stderr, re.MULTILINE)[-1:]
        executions += int(counts[0]) if counts else 0
        if done.returncode == 0:
            break
        ended += 1
        (out / f"{name}-{ended}.log").write_text(done.stderr[-20_000:])
    found = sorted(path.name for path in set((out / "findings").glob(f"{name}-*")) - before)
    return {
        "target": name,
        "executions": executions,
        "seconds": round(time.monotonic() - began, 1),
        "findings": [file for file in found if not file.endswith(".txt")],
        "ended_early": ended,
        "corpus": len(list((out / "corpus" / name).glob("*"))),
    }


def main() -> None:
    """Fuzz the targets that were asked for, one after another."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--out", type=Path, required=True, help="where corpus, findings and figures are kept")
    asked.add_argument("--minutes", type=float, default=1.0, help="for each target")
    asked.add_argument("--target", choices=TARGETS, action="append", help="again for more; without, all")
    asked.add_argument("--child", type=int, help=argparse.SUPPRESS)
    given = asked.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.child:
        child(given.target[0], given.out.resolve(), given.child)
        return
    for name in given.target or TARGETS:
        figures = fuzz(name, given.out.resolve(), given.minutes)
        with open(given.out / "results.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
