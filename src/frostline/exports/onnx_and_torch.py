"""Export as ONNX or torch.export: the network as a program that needs no frostline.

The batch size is dynamic, the image size fixed. With preprocessing the program takes uint8 images, and scales
and normalises them itself; resizing stays outside, since Pillow's, by which the network was judged, rounds
to bytes between its two passes, and no operator of ONNX or torch does quite the same.
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
from frostline.exports import code_examples
from frostline.exports.exported_model import ExportedModel
from frostline.exports.safetensors_export import FormatDetails
from frostline.exports.verification import LogitsFunction
from frostline.models import Preprocessing

FORMATS = ("onnx", "torch")
ONNX, TORCH = "model.onnx", "model.pt2"
ONNX_RUNTIME, TORCH_RUNTIME = "onnxruntime", "torch"  # which `infer.py` imports
INPUT, OUTPUT = "images", "logits"
# Protocol Buffers hold at most 2 GiB in one file; ONNX keeps larger weights in a second one.
MOST_BYTES_IN_ONE_FILE = 1_900_000_000
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class FromBytes(nn.Module):
    """Normalise uint8 RGB images (n, size, size, 3), and return the model's logits (n, classes)."""

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
        logits: Tensor = self.model((scaled - self.mean) / self.std)
        return logits


def require_onnx() -> None:
    """Raise `UsageError` with the pip command where a package for ONNX is not installed."""
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"--to onnx needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            'installed: pip install "frostline[export]"'
        )


def write_torch(
    exported: ExportedModel, folder: Path, with_preprocessing: bool
) -> tuple[FormatDetails, LogitsFunction]:
    """Write `model.pt2`, and load it back as a function of pixels."""
    program = _exported_program(exported, with_preprocessing)
    program.example_inputs = None  # torch would pickle them
    config = program_config(exported, with_preprocessing, TORCH_RUNTIME)
    with silenced():
        torch.export.save(program, folder / TORCH, extra_files={"config.json": json.dumps(config)})
        loaded = torch.export.load(folder / TORCH).module()
    usage = code_examples.usage_code(
        exported.rendering,
        exported.preprocessing,
        ("import torch",),
        f'model = torch.export.load("{code_examples.FOLDER}/{TORCH}").module()\n',
        "probabilities = model(torch.from_numpy(pixels)).softmax(dim=1)[0]  # in the order of label_names",
        with_preprocessing,
    )
    return FormatDetails(config, "pytorch", usage, notes=_notes(with_preprocessing)), module_logits(
        loaded, exported.preprocessing, with_preprocessing
    )


def write_onnx(
    exported: ExportedModel, folder: Path, with_preprocessing: bool
) -> tuple[FormatDetails, LogitsFunction]:
    """Write `model.onnx`, and open it in ONNX Runtime as a function of pixels."""
    config = program_config(exported, with_preprocessing, ONNX_RUNTIME)
    try:
        with silenced():
            onnx_program: Any = torch.onnx.export(
                _exported_program(exported, with_preprocessing),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise ModelError(
            f"{exported.config['model']} cannot be exported to ONNX: {_first_line(error)}"
        ) from error
    _remove_local_paths(onnx_program.model)
    onnx_program.model.metadata_props.update({key: json.dumps(value) for key, value in config.items()})
    weights = sum(value.numel() * value.element_size() for value in exported.model.state_dict().values())
    onnx_program.save(folder / ONNX, external_data=weights > MOST_BYTES_IN_ONE_FILE)
    usage = code_examples.usage_code(
        exported.rendering,
        exported.preprocessing,
        ("import onnxruntime", "from scipy.special import softmax"),
        f'session = onnxruntime.InferenceSession("{code_examples.FOLDER}/{ONNX}")\n',
        f'logits = session.run(["{OUTPUT}"], {{"{INPUT}": pixels}})[0]\n'
        "probabilities = softmax(logits, axis=1)[0]  # in the order of label_names in config.json",
        with_preprocessing,
    )
    return FormatDetails(config, "onnx", usage, notes=_notes(with_preprocessing)), onnx_logits(
        folder / ONNX, exported.preprocessing, with_preprocessing
    )


def program_config(exported: ExportedModel, with_preprocessing: bool, runtime: str) -> dict[str, Any]:
    """Return `config.json`: class names, program, input, output, and the preprocessing of an image."""
    preprocessing = exported.preprocessing
    size = preprocessing.size
    shape = ["batch", size, size, 3] if with_preprocessing else ["batch", 3, size, size]
    return {
        "num_classes": len(exported.classes),
        "label_names": exported.classes,
        "program": {"runtime": runtime, "file": ONNX if runtime == ONNX_RUNTIME else TORCH},
        "input": {"name": INPUT, "dtype": "uint8" if with_preprocessing else "float32", "shape": shape},
        "output": {"name": OUTPUT, "shape": ["batch", len(exported.classes)], "probabilities": "softmax"},
        "preprocessing": {
            **preprocessing.as_dict(),
            # pixels: of the shorter side where crop_mode is center or floor, of the longer where it is border
            "resize": math.floor(size / preprocessing.crop_pct),
            **({"fill": list(preprocessing.fill)} if preprocessing.resize == "pad" else {}),
            "words": preprocessing.text,
            "included": ["scale", "normalise"] if with_preprocessing else [],
        },
        "rendering": exported.rendering.as_dict(),
    }


def _notes(with_preprocessing: bool) -> tuple[str, ...]:
    if with_preprocessing:
        note = (
            "Scaling to 0–1 and normalisation are in the program; resizing and cropping are not, since no "
            "operator gives the same pixels as Pillow. config.json describes them."
        )
        return (note,)
    return ("No preprocessing is in the program; config.json describes it.",)


def _exported_program(exported: ExportedModel, with_preprocessing: bool) -> torch.export.ExportedProgram:
    """Return the network as a program with a dynamic batch size, without local file names."""
    size = exported.preprocessing.size
    model = FromBytes(exported.model, exported.preprocessing).eval() if with_preprocessing else exported.model
    example = (
        torch.zeros((2, size, size, 3), dtype=torch.uint8)
        if with_preprocessing
        else torch.zeros(2, 3, size, size)
    )
    batch = torch.export.Dim("batch", min=1)
    try:
        with silenced(), torch.no_grad():
            program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},), strict=False)
    except Exception as error:  # torch.export raises many kinds
        raise ModelError(
            f"torch.export cannot follow {exported.config['model']}: {_first_line(error)} "
            "Take --to safetensors instead."
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names of files on this machine
    return program


def _remove_local_paths(model: Any) -> None:
    """Remove local file names from an ONNX model's nodes."""
    for graph in (model.graph, *model.functions.values()):
        for node in graph.all_nodes():
            node.metadata_props.clear()


def module_logits(model: nn.Module, preprocessing: Preprocessing, with_preprocessing: bool) -> LogitsFunction:
    """Return a torch program as a function of pixels."""

    def logits(pixels: Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(model(model_input(pixels, preprocessing, with_preprocessing)).numpy())

    return logits


def onnx_logits(path: Path, preprocessing: Preprocessing, with_preprocessing: bool) -> LogitsFunction:
    """Open an ONNX file in ONNX Runtime, on the processor, as a function of pixels."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def logits(pixels: Tensor) -> NDArray[np.float32]:
        inputs = model_input(pixels, preprocessing, with_preprocessing).contiguous().numpy()
        return np.asarray(session.run([OUTPUT], {INPUT: inputs})[0])

    return logits


def model_input(pixels: Tensor, preprocessing: Preprocessing, with_preprocessing: bool) -> Tensor:
    """Return uint8 pixels (n, 3, size, size) as the program takes them."""
    return pixels.permute(0, 2, 3, 1) if with_preprocessing else preprocessing.normalise(pixels)


@contextmanager
def silenced() -> Iterator[None]:
    """Silence the exporters' warnings and log messages: the export is verified afterwards."""
    disabled_level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled_level)


def _first_line(error: BaseException) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text if text.endswith(".") else f"{text}."
