"""A delta: what a run changed in its base network, and the base network's digest."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save
from torch import Tensor, nn

from frostline.errors import ModelError
from frostline.exports.exported_model import Subject
from frostline.exports.safetensors_export import Written
from frostline.models import Backbone, zoo
from frostline.models.zoo import delta
from frostline.system import directories


def write(subject: Subject, place: Path, base: str | nn.Module | Backbone | None) -> Written:
    """Write `delta.safetensors`. Raises `ModelError` where the base weights are not those of the run."""
    found = zoo.load_base(subject.source, base)
    if found.digest != subject.config["weights"]:
        raise ModelError(
            f"These are other base weights: {found.name} has digest {found.digest[: delta.SHOWN]}…, and run "
            f"{subject.folder.name} began with {subject.config['weights'][: delta.SHOWN]}…. Hand over the "
            "weights it was trained from: base= in Python, --base FILE at the prompt."
        )
    tensors = delta.changed(subject.model, found)
    directories.write_atomically(place / delta.WEIGHTS, save(tensors, {"format": "pt"}))
    held = sum(value.numel() for value in tensors.values())
    whole = sum(value.numel() for value in subject.model.state_dict().values())
    config = {
        "num_classes": len(subject.classes),
        "label_names": subject.classes,
        "preprocessing": subject.preprocessing.as_dict(),
    }
    usage = (
        "import frostline\n\n"
        'for answer in frostline.predict("path/to/this/folder", "new-photos/"):\n'
        "    print(answer.path, answer.label, answer.probability)\n\n"
        'model = frostline.load_model("path/to/this/folder")  # a module; softmax gives probabilities'
    )
    note = (
        f"{held:,} of {whole:,} numbers are here; the rest are {subject.config['model']}'s, which must be at "
        "hand: other base weights are refused by their digest."
    )
    told = {"base": {"source": subject.source, "digest": delta.digest_of(found.model.state_dict())}}
    model = _together(subject, place, found, tensors)
    return Written(config, "frostline", usage, model, (note,), told=told)


def _together(subject: Subject, place: Path, base: Backbone, tensors: dict[str, Tensor]) -> nn.Module:
    """Put the delta together again as `frostline.load_model` will. Raises where it is not the same bits."""
    model = delta.together(place, base, subject.head, len(subject.classes), tensors)
    if delta.digest_of(model.state_dict()) != subject.digest:
        raise ModelError(f"The delta of run {subject.folder.name} does not give the same bits again.")
    return model
