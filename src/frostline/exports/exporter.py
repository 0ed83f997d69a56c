"""`export`: a run's model in a folder of its own, checked before it appears."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import nn

from frostline.data import OnProgress
from frostline.errors import UsageError, did_you_mean
from frostline.exports import (
    delta_export,
    model_card,
    output_folder,
    programs,
    safetensors_export,
    verification,
)
from frostline.exports.exported_model import Subject, subject
from frostline.exports.safetensors_export import Written
from frostline.exports.verification import Proof
from frostline.models import Backbone
from frostline.models.zoo import delta
from frostline.reports import notebook
from frostline.studies.figures import Figure, Rows
from frostline.studies.study_folder import plain
from frostline.system import directories, text_output

FORMATS = ("safetensors", "onnx", "torch", "delta")
CARD = "README.md"
FORMAT = 1  # of the part of config.json that is frostline's


@dataclass(frozen=True)
class Export:
    """What was written: `result` holds `export` (the folder), `format`, `files`, `check`, `notes`."""

    result: dict[str, Any]
    path: Path

    export = Figure[str]("The folder.")
    format = Figure[str]("safetensors, onnx, torch or delta.")
    run = Figure[str]("The run it was made from.")
    strategy = Figure[str]("Its strategy.")
    model = Figure[str]("Its backbone's name.")
    why = Figure[str]("Why this run.")
    passed_over = Figure[list[Any] | None]("Runs with better figures that were not taken, and why.")
    classes = Figure[int]("Number of classes.")
    temperature = Figure[float]("The temperature that was folded into the head.")
    bytes = Figure[int]("Size of all files.")
    usage = Figure[str]("Lines of Python that load it.")
    files = Figure[Rows]("Name, bytes and purpose of each file.")
    check = Figure[dict[str, Any]]("Images it was checked on, and the largest difference of a probability.")
    notes = Figure[list[str]]("What to know of it.")

    def _repr_html_(self) -> str:
        """The files, in a notebook."""
        return notebook.table_html(f"Export: {self.path.name}", self.result["files"])


def export(
    study: str | Path,
    to: str = "safetensors",
    *,
    run: str | None = None,
    out: str | Path | None = None,
    with_preprocessing: bool = False,
    fingerprints: bool = True,
    images: str | Path | None = None,
    module: nn.Module | None = None,
    base: str | nn.Module | Backbone | None = None,
    progress: OnProgress | None = None,
) -> Export:
    """Write a run's model to a folder of its own: the one that answers, or the one called `run`.

    `to`: "safetensors" (loads with timm alone where the model is timm's), "onnx", "torch" (torch.export), or
    "delta" (only what was thawed, for the same base weights). The temperature is folded into the head, so
    that a plain softmax gives the probabilities `predict` gives. `out` is the folder ["frostline-FORMAT"]; an
    earlier export of the same format is replaced, anything else refused. `with_preprocessing` lets an ONNX or
    torch program take uint8 (n, s, s, 3) and normalise it. `fingerprints` of the images that the model
    learned from (short digests, no picture and no name) let a later training keep them apart from what judges
    it.

    The exported model is loaded back and asked about up to 64 of the study's images, or `images`; if one
    answer changes, nothing is written. `module` is the architecture of a backbone of your own, `base` its
    weights, for a delta. Raises `UsageError`, `StudyError`, `ModelError` or `DataError`.
    """
    _check(to, with_preprocessing)
    place = output_folder.checked(Path(out) if out is not None else Path(f"frostline-{to}"), to)
    found = subject(study, run, module)
    shown = verification.pictures(found.study, found.preprocessing, images, found.rendering)
    if progress:
        progress("export", 0, 1)
    expected = verification.probabilities(found.predictor, shown.pixels)
    with output_folder.whole(place) as new:
        if to in ("onnx", "torch"):
            write = programs.write_onnx if to == "onnx" else programs.write_torch
            written, answer = write(found, new, with_preprocessing)
        elif to == "delta":
            written = delta_export.write(found, new, base if base is not None else module)
            answer = verification.logits(written.loaded, found.preprocessing)
        else:
            written = safetensors_export.write(found, new, shown, module)
            answer = verification.logits(written.loaded, found.preprocessing)
        check = verification.compared(expected, answer, shown)
        if fingerprints and found.folder.fingerprints.is_file():
            directories.write_atomically(
                new / found.folder.fingerprints.name, found.folder.fingerprints.read_bytes()
            )
        files = _finish(found, to, new, written, check)
    if progress:
        progress("export", 1, 1)
    result = {
        "export": str(place),
        "format": to,
        "run": found.folder.name,
        "strategy": found.config["strategy"],
        "model": found.config["model"],
        "why": found.best.why,
        "passed_over": [one.as_dict() for one in found.best.passed_over],
        "classes": len(found.classes),
        "temperature": found.predictor.temperature,
        "files": files,
        "bytes": sum(row["bytes"] for row in files),
        "check": {
            "images": check.images,
            "of": check.what,
            "largest_difference": check.largest_difference,
            "answers_changed": 0,
        },
        "usage": written.usage,
        "notes": list(written.notes),
    }
    return Export(plain(result), place)


def _check(to: str, with_preprocessing: bool) -> None:
    if to not in FORMATS:
        raise UsageError(f"to must be one of {', '.join(FORMATS)}, found {to!r}.{did_you_mean(to, FORMATS)}")
    if with_preprocessing and to not in ("onnx", "torch"):
        raise UsageError(
            f"Preprocessing can be put into a program (onnx, torch), not into {to}, which holds weights: "
            "config.json says what must happen to an image."
        )
    if to == "onnx":
        programs.demand_extra()


def _finish(found: Subject, to: str, new: Path, written: Written, check: Proof) -> list[dict[str, Any]]:
    """Write the model card and `config.json`, which says which files are the export's; list them."""
    (new / CARD).write_bytes(text_output.encoded(model_card.text(found, to, written, check)))
    names = sorted({path.name for path in new.iterdir()} | {delta.CONFIG})
    told = {
        "export": to,
        "format": FORMAT,
        "version": metadata.version("frostline"),
        "run": found.folder.name,
        "strategy": found.config["strategy"],
        "head": found.head,
        "temperature": found.predictor.temperature,
        "digest": found.digest,
        "source": found.source,
        "preprocessing": found.preprocessing.as_dict(),
        "rendering": found.rendering.as_dict(),
        **written.told,
        "files": names,
    }
    text = json.dumps(plain({**written.config, "frostline": told}), indent=1, allow_nan=False)
    (new / delta.CONFIG).write_text(text + "\n", encoding="utf-8")
    return [{"name": name, "bytes": (new / name).stat().st_size} for name in names]
