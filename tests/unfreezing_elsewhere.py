"""A tiny network trained by stages under Lightning and under transformers; as a script, in two processes.

python unfreezing_elsewhere.py lightning|transformers PROCESSES FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset

import frostline
from frostline.models import Backbone, training_modes
from tiny import tiny_backbone

STRATEGY = "gradual_unfreeze(2, lr=0.01)"
GENTLE = "gradual_unfreeze(2, lr=0.0001)"  # AdamW makes full steps of rounding where a gradient is almost 0
EPOCHS, STEPS, BATCH = 8, 3, 8


class Killed(Exception):
    """Stands for a process that is gone."""


class Images(Dataset[Any]):
    """Random pictures, always in this order and of this kind."""

    def __len__(self) -> int:
        return STEPS * BATCH

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        made = torch.Generator().manual_seed(index)
        return {
            "pixel_values": torch.randn(3, 16, 16, generator=made),
            "labels": torch.randint(0, 3, (), generator=made),
        }


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def look(backbone: Backbone, model: nn.Module, cut: int) -> dict[str, Any]:
    """What there is to see at the first step of an epoch."""
    modes = training_modes(backbone, model, backbone.cut(cut))
    return {
        "cut": cut,
        "before": {name: value.clone() for name, value in model.state_dict().items()},
        "training": [module.training for module, _ in modes],
        "expected": [learns for _, learns in modes],
    }


# --- Lightning ------------------------------------------------------------------------------------------


def lightning_module(backbone: Backbone) -> Any:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = without_dropout(backbone.adapt(3))
            self.seen: list[dict[str, Any]] = []
            self.groups: set[int] = set()
            self.validated = 0
            self.dies_in_epoch: int | None = None
            self.optimizer = lambda: torch.optim.AdamW(frostline.param_groups(backbone, self.model))

        def configure_optimizers(self) -> Any:
            return self.optimizer()

        def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
            if index == 0:
                if self.current_epoch == self.dies_in_epoch:
                    raise Killed
                [schedule] = [self.lr_schedulers()]
                self.seen.append(look(backbone, self.model, schedule.cut.index))
                self.groups.add(len(self.trainer.optimizers[0].param_groups))
            return F.cross_entropy(self.model(batch["pixel_values"]), batch["labels"])

        def on_train_epoch_end(self) -> None:
            self.seen[-1]["after"] = {k: v.clone() for k, v in self.model.state_dict().items()}

        def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
            assert not any(module.training for module in self.model.modules())
            self.model(batch["pixel_values"])
            self.validated += int(index == 0 and not self.trainer.sanity_checking)

    return Module()


def lightning_fit(
    backbone: Backbone,
    module: Any,
    folder: Path,
    checkpoint: Path | None = None,
    *,
    processes: int = 1,
    gentle: bool = False,
) -> None:
    import lightning

    from frostline.integrations.lightning import UnfreezingCallback

    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        max_epochs=EPOCHS,
        default_root_dir=folder,
        use_distributed_sampler=False,  # Lightning's own would shuffle
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[UnfreezingCallback(backbone, GENTLE if gentle else STRATEGY)],
    )
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    mine = Subset(Images(), range(rank, STEPS * BATCH, processes))
    loader = DataLoader(mine, batch_size=BATCH // processes)
    held_out = DataLoader(Subset(Images(), range(4)), batch_size=4)
    trainer.fit(module, loader, held_out, ckpt_path=checkpoint)


# --- transformers ---------------------------------------------------------------------------------------


class WithLoss(nn.Module):
    """What a Hugging Face trainer expects of a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.model(pixel_values)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def transformers_trainer(
    backbone: Backbone,
    folder: Path,
    *,
    processes: int = 1,
    dies_in_epoch: int | None = None,
    scheduler: bool = False,
    gentle: bool = False,
) -> tuple[Any, list[dict[str, Any]]]:
    import transformers

    from frostline.integrations.transformers import UnfreezingCallback

    model = without_dropout(backbone.adapt(3))
    seen: list[dict[str, Any]] = []

    class Eye(transformers.TrainerCallback):
        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if round(state.epoch or 0) == dies_in_epoch:
                raise Killed

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % STEPS == 0:
                schedule = kwargs["lr_scheduler"]
                seen.append(look(backbone, model, schedule.cut.index))
                groups = kwargs["optimizer"].param_groups
                seen[-1]["rates"] = {group["stage"]: group["lr"] for group in groups}

        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen[-1]["after"] = {k: v.clone() for k, v in model.state_dict().items()}

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *arguments: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH // processes,
        use_cpu=True,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **({"ddp_backend": "gloo"} if processes > 1 else {}),
    )
    given = torch.optim.AdamW(model.parameters())
    late = (given, torch.optim.lr_scheduler.StepLR(given, 1)) if scheduler else (None, None)
    trainer = InOrder(
        WithLoss(model),
        arguments,
        train_dataset=Images(),
        eval_dataset=Subset(Images(), range(4)),
        optimizers=late,
    )
    trainer.add_callback(UnfreezingCallback(trainer, backbone, GENTLE if gentle else STRATEGY))
    trainer.add_callback(Eye())
    return trainer, seen


def main(library: str, processes: int, folder: Path) -> None:
    torch.set_num_threads(1)
    backbone = tiny_backbone()
    if library == "lightning":
        module = lightning_module(backbone)
        lightning_fit(backbone, module, folder, processes=processes, gentle=True)
        model, rank = module.model, module.global_rank
    else:
        trainer, _ = transformers_trainer(
            backbone, folder / f"t{processes}", processes=processes, gentle=True
        )
        trainer.train()
        model, rank = trainer.model.model, trainer.args.process_index
    torch.save(model.state_dict(), folder / f"{processes}-{rank}.pt")
    if torch.distributed.is_initialized():  # else threads of gloo's may end the process with an error
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
