"""Small files that are right, made here: what `fuzz.py` begins with."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from fuzz_targets import PARTS, TESTS, example

LARGEST_BYTES = 20_000  # of an input: headers are what readers trip over


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
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        made = io.BytesIO()
        picture.save(made, format="TIFF", compression=compression)
        yield made.getvalue()
    yield from _deep_images()


def _heics() -> Iterator[bytes]:
    from PIL import Image

    yield b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
        for mode in ("RGB", "RGBA", "L"):
            made = io.BytesIO()
            Image.new(mode, (16, 16), 90).save(made, format="HEIF", quality=30)
            yield made.getvalue()


def _dicoms() -> Iterator[bytes]:
    yield b"\0" * 128 + b"DICM"
    with contextlib.suppress(ImportError):
        sys.path.insert(0, str(TESTS))
        import deep_examples

        values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 40
        yield deep_examples.dicom(values, RescaleSlope="2", RescaleIntercept="-9", PatientID="x")
        yield deep_examples.dicom(values.astype(np.int16), PixelPaddingValue=0)
        yield deep_examples.dicom(values.astype(np.uint8), PhotometricInterpretation="MONOCHROME1")
        yield deep_examples.dicom(np.stack([values.astype(np.uint8)] * 3))
        yield deep_examples.dicom(np.stack([values.astype(np.uint8)] * 3, axis=-1))


def _lies() -> Iterator[bytes]:
    for kind in range(7):
        for width, height in ((0, 9), (5_000, 5_000)):
            yield bytes([kind]) + np.array([width, height], "<u4").tobytes()


def _arrays() -> Iterator[bytes]:
    for kind in range(11):
        for shape in ((2, 8, 8), (3, 8, 8, 3), (3, 3, 8, 8), (4, 2, 4, 4, 3), (1, 5), (0,)):
            yield bytes([kind, *shape]).ljust(6, b"\1") + bytes(range(200))


def _column_tables() -> Iterator[bytes]:
    rows = "".join(f"{name}.png,{label}\n" for name, label in zip("abcdef", "xyxyxy", strict=True))
    yield f"\npath,label\n{rows}".encode()
    yield f"file|kind\nsep=,\n\nfile,kind,,\n{rows}".encode()
    yield f"\nfilename,class\n{rows}".replace(".png", "").encode()
    yield f"\nimage_id;label;is_valid\n{rows}".replace(",", ";").replace("x\n", "x;True\n").encode()
    yield f"\npath\tlabel\n{rows}".replace(",", "\t").replace("x", "é").encode("cp1252")
    yield b"\n" + f"path,label\n{rows}".encode("utf-16")
    yield f"\npath,label,split,group\n{rows}".replace("x\n", "x,train,g\n").encode()


def _layouts() -> Iterator[bytes]:
    for parts in (
        ("",),
        ("train/", "test/"),
        ("seg_train/seg_train/", "seg_test/seg_test/"),
        ("fold0/", "fold1/"),
    ):
        for first in ("", "none", "train=fold0,test=fold1"):
            files = [f"{part}{label}/{n}.png" for part in parts for label in ("cat", "dog") for n in "12"]
            yield "\n".join([first, *files]).encode()
    yield b"\ntrain/a/1.png\nholdout/a/1.png\ntrain/b/1.png\ntest1/2.png\nx/.DS_Store\ny/Thumbs.db"


def _label_lists() -> Iterator[bytes]:
    for kind in ("plain", "numpy", "torch", "bytes", "named"):
        yield json.dumps([kind, "a", "b", None, "", "nan"]).encode()
        yield json.dumps([kind, 0, 1, -1, 2, True]).encode()
        yield json.dumps([kind, [0, 1], [1, 0]]).encode()
        yield json.dumps([kind, 0.5, 1.5, 2.5]).encode()
    yield b'["plain", "a|b", "a;b", "a", "b", "[1, 2]", {"a": 1}, [[]], NaN, 1e999]'


def _tars() -> Iterator[bytes]:
    import tarfile

    for members in (
        {"a.png": b"\x89PNG\r\n\x1a\n", "a.cls": b"1", "b.png": b"x", "b.json": b'{"label": "y"}'},
        {"../a.png": b"x", "/b.png": b"x", "c": b"\xff\xd8\xff\xe0", "c.txt": b"\xff"},
    ):
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as written:
            for name, content in members.items():
                about = tarfile.TarInfo(name)
                about.size = len(content)
                written.addfile(about, io.BytesIO(content))
        yield made.getvalue()


def _renderings() -> Iterator[bytes]:
    for text in ("auto", "per-image", "0,4095", "1e-320,1e308", "white", "1,2,3"):
        rendering = {"intensity_range": "auto", "ranges": {"uint16": [0, 4095.5]}, "alpha_background": "auto"}
        yield (
            text.encode()
            + b"\n"
            + json.dumps({"rendering": {**rendering, "ground": [255, 255, 255]}}).encode()
        )


def _words() -> Iterator[bytes]:
    yield "Größe × … 写真.png".encode()
    yield b'caf\xe9,"x"\r\n\x1b[31m=cmd()'


def _processors() -> Iterator[bytes]:
    plain = {"do_resize": True, "do_rescale": True, "size": {"shortest_edge": 256}, "resample": 3}
    crop = {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}, "model_type": "vit"}
    yield json.dumps(
        {**plain, **crop, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    ).encode()
    yield json.dumps({**plain, "size": {"height": 224, "width": 224}}).encode()
    yield json.dumps({**plain, "crop_pct": 0.875}).encode()
    yield json.dumps({**plain, **crop, "do_normalize": True, "image_mean": 3, "resample": 99}).encode()
    yield json.dumps({**plain, "size": 224}).encode()


def _deep_images() -> Iterator[bytes]:
    """More than 8 bits a sample, in either byte order; DICOM where pydicom is installed."""
    sys.path.insert(0, str(TESTS))
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
    yield (example() / "manifest.jsonl").read_bytes()[:LARGEST_BYTES]
    head = {"frostline_manifest": 2, "root": None, "digest": "", "split_digest": "", "skipped": []}
    head |= {"conflicts": [], "classes": ["a", "b"], "near_copies": [], "suspects": [], "notes": []}
    lines = [head, ["a.png", "a", "0" * 64, "", "train"], ["b.png", "b", "1" * 64, "", "test"]]
    yield "".join(json.dumps(line) + "\n" for line in lines).encode()


def _studies() -> Iterator[bytes]:
    place = example()
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
    from frostline.feature_cache import shard_file

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{shard_file.SUFFIX}"
        rows = np.arange(32, dtype=np.uint8).reshape(2, 16)
        shard_file.write(path, "d" * 64, "{}", shard_file.Form("float32", (4,)), [b"k" * 16, b"l" * 16], rows)
        yield path.read_bytes()


def _indices() -> Iterator[bytes]:
    import sqlite3

    from frostline.feature_cache import FeatureCache, key_of
    from frostline.feature_cache.shard_file import Form

    with tempfile.TemporaryDirectory() as folder:
        with FeatureCache(folder) as cache:
            prefix = cache.prefix({"a": 1})
            prefix.put([key_of("0" * 64, "0")], np.zeros((1, 16), dtype=np.uint8), Form("float32", (4,)))
            prefix.flush()
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

    from frostline.training.resilience import checkpoint as module

    with tempfile.TemporaryDirectory() as folder:
        module.write(Path(folder), nn.Linear(2, 2), module.TrainingState(), {})
        yield (Path(folder) / module.STATE).read_bytes()


def _strategies() -> Iterator[bytes]:
    for text in ("linear_probe", "head(epochs=3)", "top_k(2, lr=0.001)", "gradual_unfreeze(2, epochs=6)"):
        yield text.encode()
    yield b"phases(1 for 2 at 0.001 > all for 3, decay=0.5)"
    yield b"full(epochs=1e308, lr=nan)"


_SEEDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "image": _images,
    "heic": _heics,
    "dicom": _dicoms,
    "lies": _lies,
    "arrays": _arrays,
    "csv": _csvs,
    "columns": _column_tables,
    "layout": _layouts,
    "labels": _label_lists,
    "tar": _tars,
    "rendering": _renderings,
    "words": _words,
    "processor": _processors,
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
