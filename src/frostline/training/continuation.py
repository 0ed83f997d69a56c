"""Training on from a finished run: its weights and its split, fresh moments and a schedule of its own.

That is a new run, which names its parent. An interrupted run is resumed instead, by the call that began it.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from frostline.config import AUTO_BATCH, Config
from frostline.data import Manifest
from frostline.errors import StudyError, UsageError, option, spoken
from frostline.models import Backbone, Preprocessing, weights_digest
from frostline.sentences import counted
from frostline.strategies import Strategy, hyperparameters, overridden, parse
from frostline.studies.best_run import best_of
from frostline.studies.study_folder import CUSTOM, RunFolder, Study

# The peak of the new schedule, as a share of the parent's last one. A choice: warm restarts begin anew at the
# whole of it (SGDR, arXiv 1608.03983), but these weights have come to rest, and go on from there.
PEAK_SHARE = 0.5
INHERITED = (
    *("seed", "metric", "augment", "flip", "min_crop", "rotate", "imbalance", "batch_size", "deterministic"),
    "precision",
)


@dataclass(frozen=True)
class Parent:
    """The finished run that another one goes on from, and for how long.

    Parameters
    ----------
    folder
        The parent's.
    config
        The parent's configuration.
    weights
        Digest of the parent's weights.
    epochs
        Epochs that were trained before, of all generations, those after the best one included.
    cut
        Index of the earliest stage that learned, which keeps learning with all above it.
    extra_epochs
        Epochs of the new schedule: the strategy's warm-up and schedule, in one phase.
    lr
        Its peak at the head.
    """

    folder: RunFolder
    config: Mapping[str, Any]
    weights: str
    epochs: int
    cut: int
    extra_epochs: int
    lr: float

    @classmethod
    def of(cls, folder: RunFolder, backbone: Backbone, extra_epochs: int, lr: float | None = None) -> Parent:
        """Return what a run begins with that goes on from this one.

        Parameters
        ----------
        folder
            Of a finished run whose last phase trained.
        backbone
            That the run began with.
        extra_epochs
            At least 1.
        lr
            Peak of the new schedule; None: `PEAK_SHARE` of the peak of the parent's last phase.

        Raises
        ------
        UsageError
            There is nothing to go on from, or a number makes no sense.
        StudyError
            The run is not finished, or its files are damaged.
        """
        config = folder.checked_config()
        if not folder.finished:
            raise StudyError(
                f"Run {folder.name} is not finished, so none can continue from it: the command that began it "
                "resumes it."
            )
        result = folder.read("result.json")
        if not parse(config["strategy"]).trains:
            raise UsageError(
                f"Run {folder.name} is {config['strategy']}, whose head is solved for: it has no epochs, and "
                "more of them would change nothing. Train lp_ft or top_k(1), which start from such a head."
            )
        if result.get("layers") is not None:
            raise UsageError(
                f"Run {folder.name} is {config['strategy']}, whose head was solved for after its last epoch: "
                "steps would begin from another head. Continue a run without refit_layers."
            )
        if isinstance(extra_epochs, bool) or not isinstance(extra_epochs, int) or extra_epochs < 1:
            raise UsageError(
                f"{option('extra_epochs')} must be a whole number of at least 1, found {extra_epochs!r}."
            )
        if lr is not None and not 0 < lr < math.inf:
            raise UsageError(f"lr must be above 0, found {lr:g}.")
        rows = folder.metrics()
        if not rows:
            raise UsageError(f"Run {folder.name} was stopped within its first epoch: train it anew.")
        cuts = [cut.index for cut in backbone.cuts if cut.name == result.get("cut")]
        earlier = config.get("parent") or {}
        return cls(
            folder=RunFolder(folder.path.absolute()),
            config=config,
            weights=str(result.get("weights_digest")),
            epochs=len(rows) + int(earlier.get("epochs", 0)),
            cut=min(cuts, default=0),
            extra_epochs=extra_epochs,
            lr=lr or float(f"{PEAK_SHARE * float(rows[-1]['peak_lr']):.3g}"),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return what of it belongs to the configuration and the result of the run that goes on."""
        return {
            "run": self.folder.name,
            "weights": self.weights,
            "epochs": self.epochs,
            "extra_epochs": self.extra_epochs,
            "lr": self.lr,
        }

    def sentence(self, strategy: Strategy, backbone: Backbone) -> str:
        """Return the schedule of the run that goes on, in a sentence."""
        known = hyperparameters(strategy)
        learning = "all stages" if self.cut == 0 else f"{backbone.stages[self.cut].name} and all after it"
        warmup = f", rising for {100 * known.warmup:g} % of the steps" if known.warmup else ""
        return (
            f"It trains on from run {self.folder.name}: {counted(self.extra_epochs, 'epoch')} more of "
            f"{learning}, the learning rate at the head up to {self.lr:g} ({known.schedule}{warmup}), the "
            "optimizer's moments fresh."
        )

    def load(self, model: nn.Module) -> nn.Module:
        """Return the model with the parent's weights. Raises `StudyError` where they are damaged."""
        try:
            model.load_state_dict(load_file(self.folder.weights))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise StudyError(f"The weights of run {self.folder.name} cannot be loaded: {error}") from None
        if weights_digest(model) != self.weights:
            raise StudyError(
                f"The weights of run {self.folder.name} are not those that its result names: the study is "
                "damaged. Train it again."
            )
        return model


def run_folder(run: str | Path) -> RunFolder:
    """Return the folder of a run.

    Raises
    ------
    StudyError
        It is none; of a study, the message names the run by which it predicts.
    """
    path = Path(run)
    if (path / "config.json").is_file():
        return RunFolder(path)
    if (path / "study.json").is_file():
        best = best_of(Study(path)).folder.path
        raise StudyError(
            f"{path} is a study. Name one of its runs to continue from, such as {shlex.quote(str(best))}, by "
            "which it predicts."
        )
    raise StudyError(f"{path} is not the folder of a run. Expected one such as STUDY/runs/1a2b3c4d5e6f.")


def outer_study(folder: RunFolder) -> Path:
    """Return the study that remembers the images of a run; that of a comparison's run is some floors up."""
    study = folder.study.absolute()
    while study.parent.name == "splits":
        study = study.parent.parent
    return study


def inherited(
    folder: RunFolder, strategy: Strategy | None, config: Config | None, options: Mapping[str, Any]
) -> tuple[Strategy, Config, float | None]:
    """Return the strategy and the options of a run that goes on from this one, and its peak rate if named.

    Of `INHERITED` they are the parent's; the others are those given.

    Raises
    ------
    UsageError
        What is given contradicts the parent.
    """
    own, chosen = folder.checked_config(), Config.of(config, options, without=("repeats",))
    given = {*options, *chosen.changed()}
    wrong = []
    if strategy is not None and str(strategy) != own["strategy"]:
        wrong.append(f"strategy={strategy}, and it is {own['strategy']}")
    changes = dict(chosen.of_strategy)
    if "epochs" in changes:
        raise UsageError(
            f"{option('epochs')} says how long a run is, and {folder.name} is over. Give "
            f"{option('extra_epochs')} alone: how many more there are."
        )
    lr = changes.pop("lr", None)
    (changed,) = overridden([parse(own["strategy"])], changes).strategies
    if str(changed) != own["strategy"]:
        wrong += [f"{key}={value}, and it is {own['strategy']}" for key, value in changes.items()]
    values = {name: own.get(name, getattr(Config, name)) for name in INHERITED}  # of batches, the number
    if str(values["augment"]).startswith(CUSTOM):  # a callable, which no file holds
        values["augment"] = chosen.augment
        if not callable(chosen.augment):
            wrong.append("no function as augment, and it was augmented by one of yours")
    for name, value in values.items():
        if name == "batch_size" and chosen.batch_size == AUTO_BATCH:
            continue
        if name in given and getattr(chosen, name) != value:
            wrong.append(f"{name}={getattr(chosen, name)}, and it has {value}")
    if wrong:
        raise UsageError(
            f"A run that continues from {folder.name} keeps its settings. Found {'; '.join(wrong)}. Leave "
            "these out, or train anew."
        )
    if chosen.temperature is None:  # without val images there is nothing to fit another one on
        values["temperature"] = own.get("temperature")
    return parse(own["strategy"]), replace(chosen, **values), None if lr is None else float(lr)


def demand_same_backbone(folder: RunFolder, backbone: Backbone) -> None:
    """Raise `UsageError` where a run did not begin with this backbone."""
    own = folder.checked_config()
    if own.get("weights") != backbone.digest:
        raise UsageError(
            f"Run {folder.name} began with {own.get('model')}, and this is {backbone.name} with other "
            "weights. Pass the backbone that it began with: the run's own weights are loaded on top."
        )
    theirs = Preprocessing.from_dict(own["preprocessing"]).as_dict()
    differences = [
        f"{name} {value} (it: {theirs[name]})"
        for name, value in backbone.preprocessing.as_dict().items()
        if theirs[name] != value
    ]
    if differences:
        raise UsageError(
            f"Run {folder.name} sees images in another way. Found {', '.join(differences)}. Leave "
            f"{option('size')} and {option('resize')} as it had them."
        )


def in_its_subsets(folder: RunFolder, data: Manifest) -> Manifest:
    """Return the images in the subsets that the run had them in.

    The winner of a comparison learned from the val images, too; its test set is the same.

    Raises
    ------
    UsageError
        They are other images, labels or subsets: test images of the parent could be learned from.
    """
    own = folder.checked_config()
    whole = tuple(
        replace(sample, split="train" if sample.split == "val" else sample.split) for sample in data.samples
    )
    for subsets in (data, replace(data, samples=whole)):
        if (subsets.digest, subsets.split_digest) == (own.get("data"), own.get("split")):
            return subsets
    what = "in other subsets" if data.digest == own.get("data") else "others, or labelled otherwise"
    raise UsageError(
        f"The images of run {folder.name} were {what}: a run that continues keeps them, so that what it was "
        f"tested on stays out of training. "
        + spoken(
            "Give DATA as it was, and begin from --model STUDY where images were added.",
            f"Load them with load_data(…, study={str(outer_study(folder))!r}), and begin from the study "
            "as the "
            "backbone where images were added.",
        )
    )
