"""Export a delta: the weights that a run changed in its base network, and the base network's digest."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save
from torch import Tensor, nn

from frostline.errors import ModelError, option
from frostline.exports.exported_model import ExportedModel
from frostline.exports.safetensors_export import FormatDetails
from frostline.models import Backbone, zoo
from frostline.models.zoo import delta
from frostline.system import directories


def write(exported: ExportedModel, folder: Path, base: str | nn.Module | Backbone | None) -> FormatDetails:
    """Write `delta.safetensors`. Raises `ModelError` where the base weights are not those of the run."""
    backbone = zoo.load_base(exported.source, base)
    if backbone.digest != exported.config["weights"]:
        raise ModelError(
            f"These are other base weights: {backbone.name} has digest {backbone.digest[: delta.SHOWN]}…, "
            f"and run {exported.folder.name} began with {exported.config['weights'][: delta.SHOWN]}…. "
            f"Pass the weights it was trained from as {option('base')}."
        )
    tensors = delta.changed(exported.model, backbone)
    directories.write_atomically(folder / delta.WEIGHTS, save(tensors, {"format": "pt"}))
    n_stored = sum(value.numel() for value in tensors.values())
    n_parameters = sum(value.numel() for value in exported.model.state_dict().values())
    config = {
        "num_classes": len(exported.classes),
        "label_names": exported.classes,
        "preprocessing": exported.preprocessing.as_dict(),
    }
    usage = (
        "import frostline\n\n"
        'for answer in frostline.predict("path/to/this/folder", "new-photos/"):\n'
        "    print(answer.path, answer.label, answer.probability)\n\n"
        'model = frostline.load_model("path/to/this/folder")  # a module; softmax gives probabilities'
    )
    note = (
        f"{n_stored:,} of {n_parameters:,} numbers (weights and BatchNorm's statistics) are here; the rest "
        f"are those of {exported.config['model']}, which are needed: other base weights are refused by their "
        "digest."
    )
    delta_config = {
        "base": {"source": exported.source, "digest": delta.digest_of(backbone.model.state_dict())}
    }
    model = _reassembled(exported, folder, backbone, tensors)
    return FormatDetails(config, "frostline", usage, model, (note,), delta_config=delta_config)


def _reassembled(
    exported: ExportedModel, folder: Path, backbone: Backbone, tensors: dict[str, Tensor]
) -> nn.Module:
    """Load the delta as `frostline.load_model` does. Raises `ModelError` where the weights differ."""
    model = delta.together(folder, backbone, exported.head, len(exported.classes), tensors)
    if delta.digest_of(model.state_dict()) != exported.digest:
        raise ModelError(f"The delta of run {exported.folder.name} doesn't restore the same weights.")
    return model
