"""Statistics of the stages below a cut, in the cache: each stage's are rows of their own.

They are found by the weights up to the end of that stage, so that networks which differ above it share them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from frostline import models as bb
from frostline.feature_cache import CachedPrefix, FeatureCache
from frostline.feature_extraction.tensor_bytes import from_bytes, to_bytes
from frostline.models import Backbone
from frostline.models.stage_statistics import VERSION, Tap


class StatisticsCache:
    """The cached statistics of some stages of one network.

    Parameters
    ----------
    backbone : Backbone
    digests : PrefixDigests
        Of the backbone's model, or of an adapted copy.
    taps : sequence of Tap
    computed : mapping
        The numeric configuration of the pass.
    cache : FeatureCache
    """

    def __init__(
        self,
        backbone: Backbone,
        digests: bb.PrefixDigests,
        taps: Sequence[Tap],
        computed: Mapping[str, Any],
        cache: FeatureCache,
    ) -> None:
        self.taps = tuple(taps)
        self._rows: dict[int, CachedPrefix] = {}  # by stage; a stage without numbers has none
        for tap in taps:
            if not tap.width:  # the head is given all of it anyway
                continue
            about = {
                "prefix": digests.at(backbone.cut(tap.stage + 1)),
                "preprocessing": backbone.preprocessing.as_dict(),
                "computed": computed,
                "statistics": VERSION,
            }
            display = {"model": backbone.name, "cut": f"statistics of {backbone.stages[tap.stage].name}"}
            self._rows[tap.stage] = cache.prefix(about, display)

    @property
    def parts(self) -> list[CachedPrefix]:
        """The rows of each stage."""
        return list(self._rows.values())

    def put(self, keys: Sequence[bytes], statistics: Mapping[int, Tensor]) -> None:
        """Cache what is not cached yet of a batch: (n, width) by stage, for n keys."""
        for stage, values in statistics.items():
            rows = self._rows.get(stage)
            if rows is None:
                continue
            missing = set(rows.missing(keys))
            places = [place for place, key in enumerate(keys) if key in missing]
            if not places:
                continue
            form, raw = to_bytes(values[places])
            if form is not None:
                rows.put([keys[place] for place in places], raw, form)

    def read(self, keys: Sequence[bytes]) -> tuple[dict[int, Tensor], list[int]]:
        """Return statistics (n, width) by stage, and the positions at which any is missing."""
        gone: set[int] = set()
        statistics = {}
        for tap in self.taps:
            statistics[tap.stage] = torch.zeros(len(keys), tap.width)
            if (rows := self._rows.get(tap.stage)) is None:
                continue
            raw, missing = rows.read(keys)
            gone.update(missing)
            if rows.form is not None:
                statistics[tap.stage] = from_bytes(raw, rows.form)
        return statistics, sorted(gone)

    def flush(self) -> None:
        """Put on disk what waits."""
        for rows in self._rows.values():
            rows.flush()

    def close(self) -> None:
        """Flush, and give up claims that came to nothing."""
        for rows in self._rows.values():
            rows.close()
