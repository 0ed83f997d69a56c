"""Shared fixtures. Every test gets its own store, no hub, and few threads."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # networks are tiny: a second thread costs more than it brings


def pytest_addoption(parser: pytest.Parser) -> None:
    for marker in ("slow", "system", "ecosystem"):
        parser.addoption(f"--{marker}", action="store_true", help=f"run the tests marked {marker!r}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = {
        "slow": "takes minutes: run with --slow",
        "system": "needs programs that pip cannot install: run with --system",
        "ecosystem": "needs pip install -e '.[ecosystem]': run with --ecosystem",
    }
    for item in items:
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker) and not config.getoption(f"--{marker}"):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def own_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point everything that outlives a run at a fresh folder."""
    path = tmp_path_factory.mktemp("store")
    monkeypatch.setenv("FROSTLINE_STORE", str(path))
    return path


@pytest.fixture(scope="session")
def converted_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which lite0's weights were converted once."""
    path = tmp_path_factory.mktemp("converted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FROSTLINE_STORE", str(path))
        from frostline.zoo import load_backbone

        load_backbone("lite0", size=32)
    return path


@pytest.fixture
def warm_store(own_store: Path, converted_weights: Path) -> Path:
    """This test's own store, with lite0's converted weights already in it."""
    shutil.copytree(converted_weights, own_store, dirs_exist_ok=True)
    return own_store


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The cuts whose prefix was run on pixels, as they are run."""
    import torch

    from frostline.frozen import Frozen

    found: list[int] = []
    real = Frozen.compute

    def spy(self: Frozen, pixels: torch.Tensor) -> torch.Tensor:
        found.append(self.cut.index)
        return real(self, pixels)

    monkeypatch.setattr(Frozen, "compute", spy)
    return found
