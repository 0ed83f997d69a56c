"""One contender of `peers.py`, in a process of its own: learn from the train rows, answer on the test rows.

    python benchmarks/contenders.py TASK.json   # prints one line of JSON

A task names the contender, its settings, a table (`path,label,split`), the images' size, a seed, a folder
for what it writes, and the file with lite0's weights under timm's names. Only what lies between importing and
a model that can answer is timed (`with clock`); importing is told apart, and answering on the test images is
not counted. Seconds of the processor hold those of the system and of child processes.
"""

from __future__ import annotations

import csv
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ARCHITECTURE = "tf_efficientnet_lite0"  # timm's name of what the packaged weights are
BATCH = 32


@dataclass(frozen=True)
class Task:
    """What one contender is to do."""

    contender: str
    sheet: str
    size: int
    seed: int
    folder: str
    weights: str
    settings: dict[str, Any] = field(default_factory=dict)

    def rows(self, split: str) -> list[tuple[str, str]]:
        """Return (path, label) of one subset."""
        with open(self.sheet, newline="", encoding="utf-8") as file:
            return [(row["path"], row["label"]) for row in csv.DictReader(file) if row["split"] == split]

    @property
    def paths(self) -> list[str]:
        """The test images."""
        return [path for path, _ in self.rows("test")]

    @property
    def classes(self) -> list[str]:
        return sorted({label for _, label in self.rows("train")})

    @property
    def local(self) -> dict[str, Any]:
        """What timm is told so that it takes the weights from a file."""
        return {"pretrained_cfg_overlay": {"file": self.weights}}

    def folder_of(self, split: str) -> Path:
        """Return a folder per class, of links, for those who want one."""
        for path, label in self.rows(split):
            link = Path(self.folder, "images", split, label, Path(path).name)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
        return Path(self.folder, "images", split)


def cpu_s() -> float:
    """Seconds of the processor so far, children that ended included."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def peak_bytes() -> int:
    """The most memory this process ever held (Linux; `ru_maxrss` would hold the parent's)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


class Clock:
    """Seconds and memory of one `with` block, and of what came before it."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}

    def __enter__(self) -> Clock:
        self._cpu, self._wall = cpu_s(), time.perf_counter()
        self.found = {"import_cpu_s": self._cpu, "imported_bytes": peak_bytes()}
        return self

    def mark(self, name: str) -> None:
        """Note the seconds up to here."""
        self.found[f"{name}cpu_s"] = cpu_s() - self._cpu
        self.found[f"{name}wall_s"] = time.perf_counter() - self._wall

    def __exit__(self, *error: object) -> None:
        self.mark("")
        self.found["peak_bytes"] = peak_bytes()


def right(task: Task, answers: list[str]) -> float:
    """The share of test images answered right."""
    truth = [label for _, label in task.rows("test")]
    return sum(a == b for a, b in zip(answers, truth, strict=True)) / len(truth)


def frostline(task: Task, clock: Clock) -> float:
    """One strategy with its defaults: checks, proofs of the cuts, timings and rows included."""
    import frostline as fl

    load_data, load_backbone, train, predict = fl.load_data, fl.load_backbone, fl.train, fl.predict
    with clock:
        data = load_data(learning_sheet(task), test_size=0.0, val_size=0.0)
        backbone = load_backbone("lite0", size=task.size)
        study = Path(task.folder, "study")
        run = train(backbone, data, task.settings["strategy"], study=study, seed=task.seed, threads=1)
    return right(task, [answer.label for answer in predict(run.study.path, task.paths)])


def frostline_fit(task: Task, clock: Clock) -> float:
    """The whole story: a probe at once, measuring, planning, a race, training the winner."""
    import frostline as fl

    fit, predict = fl.fit, fl.predict

    def hear(line: str) -> None:
        if "there is a model that answers" in line:
            clock.mark("first_")

    with clock:
        study, minutes = Path(task.folder, "study"), task.settings["minutes"]
        sheet = learning_sheet(task)
        fitted = fit(sheet, size=task.size, minutes=minutes, study=study, seed=task.seed, threads=1, log=hear)
    clock.found["strategy"] = str(fitted.strategy)  # type: ignore[assignment]
    return right(task, [answer.label for answer in predict(fitted.run.study.path, task.paths)])


def learning_sheet(task: Task) -> Path:
    """Write the table of the train rows alone."""
    sheet = Path(task.folder, "learn.csv")
    with open(sheet, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *task.rows("train")])
    return sheet


def plain(task: Task, clock: Clock) -> float:
    """The loop people write (`plain.py`); reading the table and making the model are not counted."""
    import frostline as fl
    import plain as loop
    from frostline.system import timing

    timing.reuse_freed_memory = lambda: None  # type: ignore[assignment]  # people's loops don't have it
    fl.train, fl.load_backbone  # noqa: B018  # imports what they need
    data, backbone = loop.drawn(Path(task.sheet)), fl.load_backbone("lite0", size=task.size)
    thawed = task.settings.get("thawed", len(backbone.stages) - 1)
    with clock:
        _, model = loop.plain_loop(
            backbone,
            data,
            thawed,
            task.settings["epochs"],
            augment=True,
            lr=task.settings["lr"],
            bn=task.settings.get("bn", "affine"),
        )
    return loop.accuracy(backbone, model, data)


def sklearn(task: Task, clock: Clock) -> float:
    """Pooled features of timm, scaled, and logistic regression: with its default C, or C by folds."""
    import numpy as np
    import timm
    import torch
    from PIL import Image
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def features(model: Any, rows: list[tuple[str, str]]) -> Any:
        config = timm.data.resolve_model_data_config(model) | {"input_size": (3, task.size, task.size)}
        transform = timm.data.create_transform(**config)
        predictions = []
        with torch.inference_mode():
            for start in range(0, len(rows), BATCH):
                images = [transform(Image.open(p).convert("RGB")) for p, _ in rows[start : start + BATCH]]
                predictions.append(model(torch.stack(images)).numpy())
        return np.concatenate(predictions)

    with clock:
        model = timm.create_model(ARCHITECTURE, pretrained=True, num_classes=0, **task.local).eval()
        chooses = task.settings.get("chooses_c")
        if chooses:
            head = LogisticRegressionCV(
                max_iter=1000, l1_ratios=(0,), use_legacy_attributes=False, scoring="accuracy"
            )
        else:
            head = LogisticRegression(max_iter=1000)
        answering = make_pipeline(StandardScaler(), head)
        rows = task.rows("train")
        answering.fit(features(model, rows), [label for _, label in rows])
    return right(task, list(answering.predict(features(model, task.rows("test")))))


def fastai(task: Task, clock: Clock) -> float:
    """`vision_learner(...).fine_tune(epochs)`; unlike its default every image learns, none validates."""
    import pandas as pd
    from fastai.vision.all import (
        CategoryBlock,
        ColReader,
        DataBlock,
        ImageBlock,
        IndexSplitter,
        Resize,
        aug_transforms,
        set_seed,
        vision_learner,
    )

    set_seed(task.seed, reproducible=True)
    with clock:
        frame = pd.DataFrame(task.rows("train"), columns=["path", "label"])
        augmented = {"batch_tfms": aug_transforms()} if task.settings.get("augment", True) else {}
        block = DataBlock(
            (ImageBlock, CategoryBlock),
            get_x=ColReader("path"),
            get_y=ColReader("label"),
            splitter=IndexSplitter([]),
            item_tfms=Resize(task.size),
            **augmented,
        )
        loaders = block.dataloaders(frame, bs=task.settings["batch"], num_workers=0, path=task.folder)
        learn = vision_learner(loaders, ARCHITECTURE, **task.local)
        with learn.no_bar(), learn.no_logging():
            rate = task.settings.get("lr")
            if rate is None:  # as its documentation has it: the finder's valley
                rate = clock.found["found_lr"] = float(learn.lr_find(show_plot=False).valley)
            learn.fine_tune(task.settings["epochs"], rate)
    loader = learn.dls.test_dl([Path(path) for path in task.paths], num_workers=0)
    with learn.no_bar():
        predictions = learn.get_preds(dl=loader)[0].argmax(1).tolist()
    return right(task, [learn.dls.vocab[i] for i in predictions])


def lightning(task: Task, clock: Clock) -> float:
    """finetuning-scheduler's explicit schedule: head, last two blocks, all; transitions by epoch."""
    import logging

    import lightning as pl
    import timm
    import torch
    from finetuning_scheduler import FinetuningScheduler
    from PIL import Image
    from torch.nn import functional as F
    from torch.utils.data import DataLoader, Dataset

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    index = {name: i for i, name in enumerate(task.classes)}
    epochs, lr = task.settings["epochs"], task.settings["lr"]

    class Rows(Dataset):  # type: ignore[type-arg]
        def __init__(self, rows: list[tuple[str, str]], transform: Callable[[Any], Any]) -> None:
            self.rows, self.transform = rows, transform

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, i: int) -> Any:
            path, label = self.rows[i]
            return self.transform(Image.open(path).convert("RGB")), index[label]

    class Net(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = timm.create_model(
                ARCHITECTURE, pretrained=True, num_classes=len(index), **task.local
            )

        def training_step(self, batch: Any, _: int) -> Any:
            loss = F.cross_entropy(self.model(batch[0]), batch[1], label_smoothing=0.1)
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            opt = torch.optim.AdamW(self.parameters(), lr=lr)
            return [opt], [torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=epochs)]

    first, second = max(1, epochs // 5), max(2, 2 * epochs // 5)
    upper = r"model\.(conv_head|bn2|blocks\.[56]).*"
    lower = r"model\.(conv_stem|bn1|blocks\.[0-4]).*"
    schedule = {
        0: {"params": [r"model\.classifier.*"], "max_transition_epoch": first},
        1: {"params": [upper], "max_transition_epoch": second, "lr": lr / 2},
        2: {"params": [lower], "max_transition_epoch": epochs, "lr": lr / 4},
    }
    pl.seed_everything(task.seed, verbose=False)
    with clock:
        net = Net()
        config = timm.data.resolve_model_data_config(net.model) | {"input_size": (3, task.size, task.size)}
        augmented = timm.data.create_transform(
            **config, is_training=True, scale=(0.35, 1.0), color_jitter=None
        )
        rows = Rows(task.rows("train"), augmented)
        scheduler = FinetuningScheduler(
            schedule, epoch_transitions_only=True, restore_best=False, logging_level=logging.ERROR
        )
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            callbacks=[scheduler],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=task.folder,
        )
        trainer.fit(net, DataLoader(rows, BATCH, shuffle=True, num_workers=0))
    net.eval()
    tests = DataLoader(Rows(task.rows("test"), timm.data.create_transform(**config)), BATCH)
    with torch.inference_mode():
        predictions = torch.cat([net.model(x).argmax(1) for x, _ in tests]).tolist()
    clock.found["learned_share"] = sum(p.requires_grad for p in net.parameters()) / len(
        list(net.parameters())
    )
    return right(task, [task.classes[i] for i in predictions])


def vyntri(task: Task, clock: Clock) -> float:
    """`Vyntri().fit(train)`: its defaults, with lite0 and that network's preprocessing in its registry."""
    import timm
    import torch
    from vyntri import Vyntri
    from vyntri import model as theirs
    from vyntri.backbones import registry
    from vyntri.data.dataset import FolderDataset
    from vyntri.features import extractor

    def factory() -> torch.nn.Module:
        return timm.create_model(ARCHITECTURE, pretrained=True, num_classes=0, **task.local).eval()

    def transform(input_size: int = 224) -> Any:
        config = timm.data.resolve_model_data_config(timm.create_model(ARCHITECTURE))
        return timm.data.create_transform(**config | {"input_size": (3, task.size, task.size)})

    registry._register(registry.BackboneInfo("lite0", 1280, "lite0", 4_652_008, True, factory))
    own = transform()  # made before the clock: their own is as cheap
    theirs.get_transform = extractor.get_transform = lambda input_size=224: own
    train = str(task.folder_of("train"))
    with clock:
        options = task.settings.get("options", {})
        model = Vyntri(backbone="lite0", cache_dir=str(Path(task.folder, "cache")), **options)
        model.fit(train=FolderDataset(train))
    return right(task, list(model.predict_batch(task.paths).labels))


CONTENDERS: dict[str, Callable[[Task, Clock], float]] = {
    "fastai": fastai,
    "frostline": frostline,
    "frostline_fit": frostline_fit,
    "lightning": lightning,
    "plain": plain,
    "sklearn": sklearn,
    "vyntri": vyntri,
}


def main() -> None:
    """Do one task."""
    import torch

    torch.set_num_threads(1)
    task, clock = Task(**json.loads(Path(sys.argv[1]).read_text())), Clock()
    accuracy = CONTENDERS[task.contender](task, clock)
    threads = torch.get_num_threads()
    print("\n" + json.dumps({"accuracy": accuracy, "threads": threads, "pid": os.getpid(), **clock.found}))


if __name__ == "__main__":
    main()
