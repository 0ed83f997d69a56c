"""Shared fixtures. Every test gets its own cache, no hub, and few threads."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from frostline.data import Manifest
    from frostline.models import Backbone

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # networks are tiny: a second thread costs more than it brings

# The same examples in each run, so that a change and no draw is what turns a test red. Draw others, now and
# then, with pytest --hypothesis-profile default.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")


def pytest_addoption(parser: pytest.Parser) -> None:
    for marker in ("slow", "system", "ecosystem"):
        parser.addoption(f"--{marker}", action="store_true", help=f"run the tests marked {marker!r}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = {
        "slow": "takes minutes: run with --slow",
        "system": "needs programs that pip cannot install: run with --system",
        "ecosystem": "needs pip install -e '.[ecosystem]': run with --ecosystem",
    }
    no_gpu = _no_gpu() if any(item.get_closest_marker("gpu") for item in items) else ""
    for item in items:
        if no_gpu and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=no_gpu))
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker) and not config.getoption(f"--{marker}"):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """Let the next test begin with one thread of torch, after all that this test patched is undone.

    A test that pretends a processor of eight cores, or a command that chooses its threads, leaves others. On
    two cores eight threads wait for each other, and what is tiny takes thirty times the processor's time.
    """
    yield
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)


def _no_gpu() -> str:
    """Return why tests that need a GPU are skipped; empty where there is one."""
    import torch

    return "" if torch.cuda.is_available() else "needs a GPU that torch can use, and finds none here"


@pytest.fixture
def on_processor() -> Iterator[None]:
    """Let `device="auto"` be the processor: for what is asserted of its bits, or computed beside it."""
    from frostline.system import devices

    with devices.computing("cpu"):
        yield


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point everything that outlives a run at a fresh folder."""
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FROSTLINE_CACHE_DIR", str(path))
    return path


@pytest.fixture(scope="session", autouse=True)
def nothing_synced() -> Iterator[None]:
    """Let no file wait for the disk: only a power cut, which no test makes, would tell the difference.

    A process that is killed loses nothing that it wrote. Processes that a test starts sync as ever.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda number: None)
        yield


@pytest.fixture(scope="session")
def known_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which lite0's weights were converted, and its speed at 32 px measured, once."""
    from frostline.models.zoo import load_backbone

    return _measured(tmp_path_factory, lambda: load_backbone("lite0", size=32))


@pytest.fixture(scope="session")
def known_tiny_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which the cuts and the speed of `tiny_backbone()` were measured, once."""
    from tiny import tiny_backbone

    return _measured(tmp_path_factory, tiny_backbone)


def _measured(tmp_path_factory: pytest.TempPathFactory, load: Callable[[], Backbone]) -> Path:
    path = tmp_path_factory.mktemp("known")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FROSTLINE_CACHE_DIR", str(path))
        from frostline import load_data, profiling
        from frostline.feature_cache import FeatureCache
        from frostline.feature_extraction.augmentation import Policy
        from frostline.feature_extraction.image_batches import Images
        from tiny import write_table

        backbone = load()
        data = load_data(write_table(tmp_path_factory.mktemp("pictures"), train=4, test=0), test_size=0.0)
        images = Images(data, data.subset("train"), backbone.preprocessing, policy=Policy("standard"))
        profiling.measure(backbone, images, cache=FeatureCache(), threads=1)
    return path


@pytest.fixture
def warm_cache(own_cache: Path, known_network: Path) -> Path:
    """This test's own cache, as on a machine where lite0 was used before; none of its features are in it."""
    shutil.copytree(known_network, own_cache, dirs_exist_ok=True)
    return own_cache


@pytest.fixture
def tiny_store(own_cache: Path, known_tiny_network: Path) -> Path:
    """This test's own cache, as on a machine where `tiny_backbone()` was used before, without features.

    What is measured is found by the network's bytes, the threads and the device: any other times anew.
    """
    shutil.copytree(known_tiny_network, own_cache, dirs_exist_ok=True)
    return own_cache


@pytest.fixture
def backbone() -> Backbone:
    """A network of five stages with random weights, made in a moment."""
    from tiny import tiny_backbone

    return tiny_backbone()


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    """A table of small pictures with train, val and test, for files that need nothing special of it."""
    from frostline import load_data
    from tiny import write_table

    return load_data(write_table(tmp_path / "images", val=6), near_copies=False)


@pytest.fixture
def each_step_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint between any two steps."""
    from frostline.training.loop import trainer

    monkeypatch.setattr(trainer, "CHECKPOINT_SHARE", 1e9)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The cuts whose prefix was run on pixels, as they are run."""
    import torch

    from frostline.feature_extraction import Frozen

    counts: list[int] = []
    real = Frozen.launch

    def spy(self: Frozen, pixels: torch.Tensor, *taps: object) -> object:
        counts.append(self.cut.index)
        return real(self, pixels, *taps)

    monkeypatch.setattr(Frozen, "launch", spy)
    return counts
