"""Whether two checkouts compute the same bytes: weights, predictions and figures of deterministic runs.

    python benchmarks/same_bytes.py BEFORE AFTER        # two folders that hold src/frostline

For a change of names or of structure that must change no result. Both checkouts make the same runs on this
machine, each in a process of its own: every strategy, a comparison, an export and a delta, the Lightning and
Hugging Face callbacks (where they are installed). Bytes differ between processors and versions of torch, so
nothing is pinned in a file. Then AFTER makes the runs once more on the feature cache that BEFORE filled: it
must find every row, so that a renamed key shows. Exits with 1 and the names of what differs.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import inspect
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

CLASSES, EACH, SIDE, EPOCHS, STEPS, BATCH = 3, 24, 32, 4, 3, 8
STRATEGIES = (
    "linear_probe",
    "linear_probe(ridge)",
    "head(epochs=2)",
    "head(head=mlp(8), epochs=2)",
    "top_k(1, epochs=2)",
    "top_k(2, epochs=2)",
    "lp_ft(epochs=2)",
    "gradual_unfreeze(2, epochs=4)",
    "full(epochs=2, bn=train)",
    "full(epochs=2, l2_sp=0.1)",
    "scratch(epochs=2)",
    "phases(0@1, 2@1*0.0005, all@1)",
)
FIGURES = ("accuracy", "low", "high", "val_accuracy", "temperature", "log_loss", "cv_score")
# What a keyword was called, and what it may be called in the other checkout.
NAMES = {"exact": ("exact", "deterministic"), "rows": ("rows", "cache"), "output": ("out", "output")}


def pictures(folder: Path) -> Path:
    """Write a folder a class of small pictures, the same each time."""
    random = np.random.default_rng(0)
    for kind in range(CLASSES):
        (folder / f"class {kind}").mkdir(parents=True)
        for number in range(EACH):
            pixels = random.integers(0, 120, (SIDE, SIDE, 3), dtype=np.uint8)
            pixels[:, 8 * kind : 8 * kind + 6, kind] += 100
            Image.fromarray(pixels).save(folder / f"class {kind}" / f"{number:03}.png")
    return folder


def digest(parts: Mapping[str, Any]) -> str:
    """Return a digest of tensors, arrays and plain data, by name."""
    sha = hashlib.sha256()
    for name in sorted(parts):
        value = parts[name]
        value = value.detach().cpu().contiguous().numpy() if isinstance(value, Tensor) else value
        data = value.tobytes() if isinstance(value, np.ndarray) else json.dumps(value, default=str).encode()
        sha.update(name.encode() + b"\0" + data + b"\0")
    return sha.hexdigest()[:16]


def called(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call with the keywords by the names that this checkout has for them."""
    known = set(inspect.signature(function).parameters)
    if "options" in known:  # the fields of one dataclass
        known |= set(importlib.import_module("frostline.config").NAMES)
    named = {next((n for n in NAMES.get(key, (key,)) if n in known), key): options[key] for key in options}
    return function(*arguments, **named)


def rows_computed(result: Mapping[str, Any]) -> int:
    """Return how many features a run computed, by either name."""
    return int(result["features"]["computed"] if "features" in result else result["store"]["rows_computed"])


def figures(result: Any) -> dict[str, Any]:
    """Return the figures that a result has."""
    figures_read = {name: getattr(result, name, None) for name in FIGURES}
    return {name: value for name, value in figures_read.items() if value is not None}


def one(folder: Path) -> dict[str, Any]:
    """Make every run in this process; returns digests by name, and how many rows were computed."""
    import frostline

    data = frostline.load_data(pictures(folder / "pictures"))
    backbone = frostline.load_backbone("lite0", size=SIDE)
    settings = {"exact": True, "threads": 1, "flip": "none", "seed": 1}
    digests: dict[str, str] = {}
    computed = 0
    for number, strategy in enumerate(STRATEGIES):
        study = folder / f"study {number}"
        run = called(frostline.train, backbone, data, strategy, study=study, rows="keep", **settings)
        computed += rows_computed(run.result)
        answers = [(answer.label, answer.probability) for answer in run.predict(folder / "pictures")]
        digests[f"{strategy}: weights"] = digest(frostline.load_model(study).state_dict())
        digests[f"{strategy}: predictions"] = digest({"answers": answers})
        digests[f"{strategy}: figures"] = digest(figures(run))
    for to in ("safetensors", "delta"):
        out = folder / f"export {to}"
        called(frostline.export, folder / "study 4", to, output=out)
        digests |= {f"export to {to}: {file.name}": tensors(file) for file in out.rglob("*.safetensors")}
    names = "linear_probe, head(epochs=1), top_k(1, epochs=1)"
    race = called(frostline.compare, backbone, data, names, study=folder / "race", repeats=1, **settings)
    standings = [(row["strategy"], row["accuracy"], row["low"], row["high"]) for row in race.standings]
    digests["compare: standings"] = digest({"rows": standings, "winner": race.winner})
    digests["compare: weights"] = digest(frostline.load_model(folder / "race").state_dict())
    digests |= unfrozen(backbone, folder)
    return {"digests": digests, "computed": computed}


def tensors(file: Path) -> str:
    """Return a digest of the tensors of a safetensors file, whatever its metadata say."""
    from safetensors.torch import load_file

    return digest(load_file(file))


class Noise(torch.utils.data.Dataset[Any]):
    """Random pictures and labels, each the same at every call."""

    def __len__(self) -> int:
        return STEPS * BATCH

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        source = torch.Generator().manual_seed(index)
        return {
            "pixel_values": torch.randn(3, SIDE, SIDE, generator=source),
            "labels": torch.randint(0, CLASSES, (), generator=source),
        }


def adapted(backbone: Any) -> nn.Module:
    """Return the network with a new head, the same each time."""
    torch.manual_seed(0)
    return backbone.adapt(CLASSES)


def unfrozen(backbone: Any, folder: Path) -> dict[str, str]:
    """Return digests of weights that other loops trained by the schedule."""
    digests = {}
    for name, train in (("lightning", with_lightning), ("transformers", with_transformers)):
        try:
            model = train(backbone, folder / name)
        except ImportError:
            print(f"{name} is not installed, and left out", file=sys.stderr)
            continue
        digests[f"{name}: weights"] = digest(model.state_dict())
    return digests


def with_lightning(backbone: Any, folder: Path) -> nn.Module:
    """Train by Lightning with the callback."""
    import lightning
    from torch.nn import functional as F

    import frostline
    from frostline.integrations.lightning import UnfreezingCallback

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = adapted(backbone)

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(frostline.param_groups(backbone, self.model))

        def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
            return F.cross_entropy(self.model(batch["pixel_values"]), batch["labels"])

    module = Module()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        default_root_dir=folder,
        callbacks=[UnfreezingCallback(backbone, "gradual_unfreeze(2)")],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    torch.manual_seed(0)
    trainer.fit(module, torch.utils.data.DataLoader(Noise(), batch_size=BATCH))
    return module.model


class Wrapped(nn.Module):
    """What a `Trainer` calls: it answers with a loss where there are labels."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.model(pixel_values)
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def with_transformers(backbone: Any, folder: Path) -> nn.Module:
    """Train by Hugging Face's `Trainer` with the callback."""
    import transformers

    from frostline.integrations.transformers import UnfreezingCallback

    model = adapted(backbone)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
    )
    trainer = transformers.Trainer(model=Wrapped(model), args=arguments, train_dataset=Noise())
    trainer.add_callback(UnfreezingCallback(trainer, backbone, "gradual_unfreeze(2)"))
    trainer.train()
    return model


def made(checkout: Path, scratch: Path, store: Path) -> dict[str, Any]:
    """Make the runs by the code of a checkout."""
    out = scratch / "out.json"
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "HF_HUB_OFFLINE": "1"}
    environment |= {"FROSTLINE_STORE": str(store), "FROSTLINE_CACHE_DIR": str(store), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", __file__, "--one", str(out), "--folder", str(scratch / "runs")]
    subprocess.run(command, env=environment, check=True)
    return json.loads(out.read_text())


def compared(before: Path, after: Path) -> int:
    """Compare the runs of two checkouts; returns how many differ."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        results = {}
        for name, checkout in (("before", before), ("after", after)):
            (place / name).mkdir()
            results[name] = made(checkout, place / name, place / f"store {name}")
        (place / "again").mkdir()
        shutil.copytree(place / "store before", place / "store again")
        again = made(after, place / "again", place / "store again")
    one, two = results["before"]["digests"], results["after"]["digests"]
    differ = [name for name in one | two if one.get(name) != two.get(name)]
    for name in sorted(one | two):
        print(f"{'DIFFERS' if name in differ else 'same':8} {name}")
    rows = [results["before"]["computed"], results["after"]["computed"], again["computed"]]
    print("rows computed: {} before, {} after, {} after on the cache from before".format(*rows))
    if rows[2] or rows[0] != rows[1]:
        differ.append("rows")
    return len(differ)


def main() -> None:
    """Compare two checkouts, or make the runs of one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkouts", nargs="*", type=Path, metavar="CHECKOUT")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        arguments.one.write_text(json.dumps(one(arguments.folder)))
        return
    if len(arguments.checkouts) != 2:
        parser.error(f"expected two checkouts, found {len(arguments.checkouts)}")
    sys.exit(1 if compared(*(checkout.resolve() for checkout in arguments.checkouts)) else 0)


if __name__ == "__main__":
    main()
