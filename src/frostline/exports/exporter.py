"""`export`: write a run's model to a new folder, verified before the folder appears."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from frostline.errors import UsageError, did_you_mean, option
from frostline.exports import (
    delta_export,
    golden_images,
    model_card,
    onnx_and_torch,
    output_folder,
    quantisation,
    safetensors_export,
    verification,
)
from frostline.exports.exported_model import ExportedModel, load_exported_model
from frostline.exports.golden_images import GoldenImages
from frostline.exports.quantisation import MAX_LOSS, Quantised
from frostline.exports.safetensors_export import FormatDetails
from frostline.exports.verification import LogitsFunction, VerificationResult
from frostline.inference.chosen_model import DECIDED_BY, decided_by
from frostline.models import Backbone
from frostline.models.zoo import delta
from frostline.progress import Activity, OnProgress, Progress
from frostline.reports import notebook
from frostline.studies.best_run import Best
from frostline.studies.result_fields import Figure, Rows
from frostline.studies.study_folder import plain
from frostline.system import devices, directories, text_output

FORMATS = ("safetensors", "onnx", "torch", "delta")
CARD = "README.md"
FORMAT = 1  # of the "frostline" part of config.json


@dataclass(frozen=True)
class Export:
    """An export that was written. Every key of `result` is an attribute, too.

    Attributes
    ----------
    result
        `export` (the folder), `format`, `run`, `strategy`, `model`, `classes`, `temperature`, `files`,
        `bytes`, `check` (the comparison with `predict`), `golden`, `int8`, `usage` (Python code) and `notes`.
    path
        The folder.
    best
        The exported run, and the runs that were passed over.
    """

    result: dict[str, Any]
    path: Path
    best: Best

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
    golden = Figure[dict[str, Any] | None]("Golden images: how many, of what, and their tolerance.")
    int8 = Figure[dict[str, Any] | None](
        "Accuracy, recall and precision of a class with a threshold, latency and bytes, before and after."
    )
    decided_by = Figure[list[str]]("How it decides, where that is not the highest probability.")
    notes = Figure[list[str]]("What to know of it.")

    def _repr_html_(self) -> str:
        """Return the list of files as HTML, for a notebook."""
        return notebook.table_html(f"Export: {self.path.name}", self.result["files"])


@devices.computes(float32=True)
def export(
    study: str | PathLike[str],
    to: str = "safetensors",
    *,
    run: str | None = None,
    output: str | Path | None = None,
    with_preprocessing: bool = False,
    int8: bool = False,
    max_loss: float | None = None,
    golden: bool = True,
    fingerprints: bool = True,
    images: str | Path | None = None,
    module: nn.Module | None = None,
    base: str | nn.Module | Backbone | None = None,
    device: str = "auto",
    progress: OnProgress | None = None,
) -> Export:
    """Write a run's model to a new folder, with a model card.

    The temperature is folded into the head, so that a plain softmax of the logits gives the probabilities of
    `predict`. The exported model is loaded back and compared with the study's on up to 64 images; where one
    prediction changes, nothing is written.

    Parameters
    ----------
    study
        The study's folder.
    to
        "safetensors" (loads with timm alone where the model is timm's and its head reads the last stage),
        "onnx", "torch" (torch.export), or "delta" (only the weights that training changed, for the same base
        weights).
    run
        The name of a run; by default the study's best run.
    output
        The folder; by default "frostline-FORMAT". An earlier export of the same format is replaced, anything
        else refused.
    with_preprocessing
        Whether an ONNX or torch program takes uint8 (n, size, size, 3), and scales and normalises it.
    int8
        Whether an ONNX program is quantised to INT8, calibrated on training images, and measured before and
        after on val, by the rule that the model decides by. Without a val set, or where the model has learned
        from it, too (a comparison's winner), on training images that calibration did not use.
    max_loss
        The points that INT8 may lose of accuracy, and of the recall or precision that a threshold was chosen
        for; more is refused. By default 1.
    golden
        Whether an ONNX or torch program comes with up to eight images of val, else (or where the model has
        learned from val, too) of train, copied without their names, by which `python infer.py --check` proves
        it on another machine.
    fingerprints
        Whether to include short digests of the training images (no picture and no name), so that a later
        training can keep these images out of its evaluation.
    images
        A file or folder of images to compare on; by default the study's own. They also become the golden
        images where the study's cannot be read.
    module
        The architecture, for a backbone of your own.
    base
        The base weights, for a delta.
    device
        What the study's model predicts on for the comparison; what is exported computes on the processor.
    progress
        Called with the name of the work, the steps done, and the steps in all.

    Returns
    -------
    Export
        The folder, its files, and the result of the comparison.

    Raises
    ------
    UsageError
        Where an argument doesn't fit the format, or a package is missing.
    StudyError
        Where the study or run can't be read, or the folder can't be written.
    ModelError
        Where the model can't be exported, the exported model predicts otherwise, or INT8 loses too much.
    DataError
        Where none of `images` can be read, or for `int8` the study's.
    """
    _check(to, with_preprocessing, int8, max_loss, golden)
    folder = output_folder.checked_folder(Path(output) if output is not None else Path(f"frostline-{to}"), to)
    exported = load_exported_model(study, run, module)
    check_images = verification.load_check_images(
        exported.study, exported.preprocessing, images, exported.rendering
    )
    progress = Progress.of(progress)
    progress(Activity.EXPORT, 0, 1)
    expected = verification.predicted_probabilities(exported.predictor, check_images.pixels)
    with output_folder.atomic_folder(folder) as temporary_folder:
        if to in onnx_and_torch.FORMATS:
            write = onnx_and_torch.write_onnx if to == "onnx" else onnx_and_torch.write_torch
            details, logits = write(exported, temporary_folder, with_preprocessing)
        elif to == "delta":
            details = delta_export.write(exported, temporary_folder, base if base is not None else module)
            logits = verification.logits_function(details.loaded, exported.preprocessing)
        else:
            details = safetensors_export.write(exported, temporary_folder, check_images, module)
            logits = verification.logits_function(details.loaded, exported.preprocessing)
        check = verification.verify(expected, logits, check_images)
        extras = ProgramExtras()
        if to in onnx_and_torch.FORMATS:
            loss_limit = (MAX_LOSS if max_loss is None else max_loss) if int8 else None
            details, extras = _with_extras(
                exported, temporary_folder, details, logits, with_preprocessing, loss_limit, golden, images
            )
        if fingerprints and exported.folder.fingerprints.is_file():
            directories.write_atomically(
                temporary_folder / exported.folder.fingerprints.name,
                exported.folder.fingerprints.read_bytes(),
            )
        files = _finish(exported, to, temporary_folder, details, check)
        if extras.golden is not None:
            golden_images.require_agreement(temporary_folder)
    progress(Activity.EXPORT, 1, 1)
    result = {
        "export": str(folder),
        "format": to,
        "run": exported.folder.name,
        "strategy": exported.config["strategy"],
        "model": exported.config["model"],
        "why": exported.best.why,
        "passed_over": [run_passed_over.as_dict() for run_passed_over in exported.best.passed_over],
        "classes": len(exported.classes),
        "temperature": exported.predictor.temperature,
        "files": files,
        "bytes": sum(row["bytes"] for row in files),
        "check": {
            "images": check.images,
            "of": check.source,
            "largest_difference": check.largest_difference,
            "answers_changed": 0,
        },
        "golden": None if extras.golden is None else asdict(extras.golden),
        "int8": None if extras.int8 is None else extras.int8.as_dict(),
        "usage": details.usage,
        "decided_by": list(decided_by(exported.folder.path, exported.predictor)),
        "notes": list(details.notes),
    }
    return Export(plain(result), folder, exported.best)


@dataclass(frozen=True)
class ProgramExtras:
    """What comes with a program: golden images, and what quantising it cost."""

    golden: GoldenImages | None = None
    int8: Quantised | None = None


def _with_extras(
    exported: ExportedModel,
    folder: Path,
    details: FormatDetails,
    logits: LogitsFunction,
    with_preprocessing: bool,
    max_loss: float | None,
    golden: bool,
    images: str | Path | None,
) -> tuple[FormatDetails, ProgramExtras]:
    """Quantise a program where `max_loss` is a number, and write the script and the golden images."""
    config, notes = details.config, list(details.notes)
    quantised, float_logits = None, None
    if max_loss is not None:
        quantised, logits, float_logits = quantisation.quantise(
            exported, folder, with_preprocessing, max_loss
        )
        config = {**config, "int8": quantised.as_dict()}
        notes.append(quantised.text)
    golden_images.write_script(folder)
    written = None
    if golden:
        written = golden_images.write(exported, folder, logits, with_preprocessing, images, float_logits)
        notes.append(golden_images.note(written))
    return replace(details, config=config, notes=tuple(notes)), ProgramExtras(written, quantised)


def _check(to: str, with_preprocessing: bool, int8: bool, max_loss: float | None, golden: bool) -> None:
    if to not in FORMATS:
        raise UsageError(f"to must be one of {', '.join(FORMATS)}, found {to!r}.{did_you_mean(to, FORMATS)}")
    if with_preprocessing and to not in ("onnx", "torch"):
        raise UsageError(
            f"Preprocessing can be part of a program (onnx, torch), not of {to}, which holds weights: "
            "config.json describes the preprocessing."
        )
    if not golden and to not in onnx_and_torch.FORMATS:
        raise UsageError(
            f"Golden images come with a program (onnx, torch), and {to} has none to leave out: drop "
            f"{option('golden', False)}."
        )
    if int8 and to != "onnx":
        raise UsageError(f"INT8 is for ONNX, by ONNX Runtime, and not for {to}: take {option('to', 'onnx')}.")
    if max_loss is not None and not int8:
        raise UsageError(
            f"{option('max_loss')} is what INT8 may lose, and has no effect without it: add "
            f"{option('int8', True)}, or leave out {option('max_loss')}."
        )
    if max_loss is not None and not 0 <= max_loss <= 100:
        raise UsageError(f"{option('max_loss')} is {max_loss:g}; expected 0 to 100 points of accuracy.")
    if to == "onnx":
        onnx_and_torch.require_onnx()


def _finish(
    exported: ExportedModel,
    to: str,
    folder: Path,
    details: FormatDetails,
    check: VerificationResult,
) -> list[dict[str, Any]]:
    """Write the model card and `config.json`, which lists the export's files; return their sizes."""
    (folder / CARD).write_bytes(text_output.encoded(model_card.text(exported, to, details, check)))
    names = sorted({*directories.files_in(folder), delta.CONFIG})
    frostline_config = {
        "export": to,
        "format": FORMAT,
        "version": metadata.version("frostline"),
        "run": exported.folder.name,
        "strategy": exported.config["strategy"],
        "head": exported.head,
        "temperature": exported.predictor.temperature,
        "digest": exported.digest,
        "source": exported.source,
        "preprocessing": exported.preprocessing.as_dict(),
        "rendering": exported.rendering.as_dict(),
        **details.delta_config,
        "files": names,
    }
    decision = exported.predictor.decision
    if decision is not None and "int8" not in details.config:  # what it promises is of float32
        sentences = list(decided_by(exported.folder.path, exported.predictor))
        frostline_config[DECIDED_BY] = {"rule": decision.as_config(), "sentences": sentences}
    content = {
        **details.config,
        **({} if decision is None else decision.as_config()),
        "frostline": frostline_config,
    }
    text = json.dumps(plain(content), indent=1, allow_nan=False)
    (folder / delta.CONFIG).write_text(text + "\n", encoding="utf-8")
    return [{"name": name, "bytes": (folder / name).stat().st_size} for name in names]
