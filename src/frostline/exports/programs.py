"""ONNX and torch.export: the network as a program that needs no Python of ours.

The batch is free, the image's size is not. With preprocessing the program takes bytes as decoders give them,
and scales and normalises them itself; resizing stays outside, since Pillow's, which the network was trained
with, rounds to bytes between its two passes, and no operator of ONNX or torch does just that.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from frostline.errors import ModelError, UsageError
from frostline.exports.exported_model import Subject
from frostline.exports.safetensors_export import Written
from frostline.exports.verification import Answer
from frostline.models import Preprocessing

ONNX, TORCH = "model.onnx", "model.pt2"
INPUT, OUTPUT = "images", "logits"
# Protocol Buffers hold at most 2 GiB in one file; ONNX keeps larger weights in a second one.
MOST_BYTES_IN_ONE_FILE = 1_900_000_000
NEEDED = ("onnx", "onnxscript", "onnxruntime")


class FromBytes(nn.Module):
    """Takes uint8 (n, s, s, 3), red first, as image decoders give them; answers logits (n, classes)."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        scaled = images.permute(0, 3, 1, 2).to(torch.float32) / 255.0
        answer: Tensor = self.model((scaled - self.mean) / self.std)
        return answer


def demand_extra() -> None:
    """Raise `UsageError` with the pip line where what ONNX needs is not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"--to onnx needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            'installed: pip install "frostline[export]"'
        )


def write_torch(subject: Subject, place: Path, included: bool) -> tuple[Written, Answer]:
    """Write `model.pt2`, and load it back as something to ask."""
    program = _traced(subject, included)
    program.example_inputs = None  # torch would pickle them
    config = described(subject, included)
    with _quietly():
        torch.export.save(program, place / TORCH, extra_files={"config.json": json.dumps(config)})
        loaded = torch.export.load(place / TORCH).module()
    usage = (
        "import torch\n\n"
        'model = torch.export.load("path/to/this/folder/model.pt2").module()\n'
        f"probabilities = model(images).softmax(dim=1)  # images: {_taken(subject, included)}"
    )
    return Written(config, "pytorch", usage, notes=_notes(included)), _of_module(loaded, subject, included)


def write_onnx(subject: Subject, place: Path, included: bool) -> tuple[Written, Answer]:
    """Write `model.onnx`, and open it in ONNX Runtime as something to ask."""
    config = described(subject, included)
    try:
        with _quietly():
            made: Any = torch.onnx.export(
                _traced(subject, included),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise ModelError(f"{subject.config['model']} cannot be put in ONNX: {_first_line(error)}") from error
    _forget_machine(made.model)
    made.model.metadata_props.update({key: json.dumps(value) for key, value in config.items()})
    weights = sum(value.numel() * value.element_size() for value in subject.model.state_dict().values())
    made.save(place / ONNX, external_data=weights > MOST_BYTES_IN_ONE_FILE)
    usage = (
        "import onnxruntime\nfrom scipy.special import softmax\n\n"
        'session = onnxruntime.InferenceSession("path/to/this/folder/model.onnx")\n'
        f'logits = session.run(["{OUTPUT}"], {{"{INPUT}": images}})[0]  # {_taken(subject, included)}\n'
        "probabilities = softmax(logits, axis=1)"
    )
    return Written(config, "onnx", usage, notes=_notes(included)), _of_onnx(place / ONNX, subject, included)


def described(subject: Subject, included: bool) -> dict[str, Any]:
    """Return `config.json`: names, what goes in and comes out, and what must happen to an image before."""
    seen = subject.preprocessing
    side = seen.size
    shape = ["batch", side, side, 3] if included else ["batch", 3, side, side]
    return {
        "num_classes": len(subject.classes),
        "label_names": subject.classes,
        "input": {"name": INPUT, "dtype": "uint8" if included else "float32", "shape": shape},
        "output": {"name": OUTPUT, "shape": ["batch", len(subject.classes)], "probabilities": "softmax"},
        "preprocessing": {
            **seen.as_dict(),
            # pixels: of the shorter side where crop_mode is center or floor, of the longer where it is border
            "resize": math.floor(side / seen.crop_pct),
            **({"fill": list(seen.fill)} if seen.resize == "pad" else {}),
            "words": seen.text,
            "included": ["scale", "normalise"] if included else [],
        },
        "rendering": subject.rendering.as_dict(),
    }


def _taken(subject: Subject, included: bool) -> str:
    side = subject.preprocessing.size
    return f"uint8 (n, {side}, {side}, 3), RGB" if included else f"float32 (n, 3, {side}, {side}), normalised"


def _notes(included: bool) -> tuple[str, ...]:
    if included:
        note = (
            "Scaling to 0–1 and normalisation are in the program; resizing and cropping are not, since no "
            "operator does to the bit what Pillow does. config.json says how."
        )
        return (note,)
    return ("No preprocessing is in the program; config.json says what must happen to an image before.",)


def _traced(subject: Subject, included: bool) -> torch.export.ExportedProgram:
    """Return the network as a program for any number of images, without a trace of this machine."""
    side = subject.preprocessing.size
    model = FromBytes(subject.model, subject.preprocessing).eval() if included else subject.model
    example = (
        torch.zeros((2, side, side, 3), dtype=torch.uint8) if included else torch.zeros(2, 3, side, side)
    )
    batch = torch.export.Dim("batch", min=1)
    try:
        with _quietly(), torch.no_grad():
            program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},), strict=False)
    except Exception as error:  # whatever a network does that torch.export cannot follow
        raise ModelError(
            f"torch.export cannot follow {subject.config['model']}: {_first_line(error)} "
            "Take --to safetensors instead."
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names of files on this machine
    return program


def _forget_machine(model: Any) -> None:
    """Take names of files on this machine out of an ONNX model's nodes."""
    for graph in (model.graph, *model.functions.values()):
        for node in graph.all_nodes():
            node.metadata_props.clear()


def _of_module(model: nn.Module, subject: Subject, included: bool) -> Answer:
    def answer(pixels: Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(model(_input(pixels, subject.preprocessing, included)).numpy())

    return answer


def _of_onnx(path: Path, subject: Subject, included: bool) -> Answer:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def answer(pixels: Tensor) -> NDArray[np.float32]:
        given = _input(pixels, subject.preprocessing, included).contiguous().numpy()
        return np.asarray(session.run([OUTPUT], {INPUT: given})[0])

    return answer


def _input(pixels: Tensor, preprocessing: Preprocessing, included: bool) -> Tensor:
    return pixels.permute(0, 2, 3, 1) if included else preprocessing.normalise(pixels)


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporters' own remarks off the terminal: what matters is checked afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _first_line(error: BaseException) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text if text.endswith(".") else f"{text}."
