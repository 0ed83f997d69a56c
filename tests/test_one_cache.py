"""One cache object is handed down: only entry points make one, and each makes one."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import frostline
from frostline.errors import UsageError
from frostline.feature_cache import FeatureCache
from tiny import tiny_backbone, write_table

pytestmark = pytest.mark.usefixtures("tiny_store")

SOURCE = Path(frostline.__file__).parent
ENTRY_POINTS = {
    "cli/commands/cache.py": {"cache", "clear", "prune", "verify"},
    "cli/commands/compare.py": {"compare"},
    "diagnostics/measurement.py": {"measure"},
    "feature_cache/feature_cache.py": {"seconds_per_row"},  # an empty folder of its own, to time the disk
    "integrations/sklearn.py": {"predict_proba", "transform"},
    "pipelines/feature_table.py": {"extract_features"},
    "pipelines/fit_pipeline.py": {"fit"},
    "pipelines/packaged_demo.py": {"demo"},
    "selection/backbone_screening.py": {"screen"},
    "selection/comparison.py": {"compare"},
    "training/caching/cache_filling.py": {"fill_cache"},
    "training/train_pipeline.py": {"train"},
    "training/techniques/lr_finder.py": {"lr_find"},
}


def makers(node: ast.AST, function: str = "") -> Iterator[str]:
    """Yield the name of the function around each `FeatureCache(...)`; "" for a module's own level."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            called = child.func
            if "FeatureCache" in (getattr(called, "id", None), getattr(called, "attr", None)):
                yield function
        inner = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from makers(child, child.name if inner else function)


def test_makers_are_told_from_what_only_names_a_cache() -> None:
    source = """
def first(cache: FeatureCache) -> None:
    with FeatureCache() as other, cache: pass
def second(cache: FeatureCache | None = None): return [feature_cache.FeatureCache(path) for path in paths]
third = FeatureCache()
"""
    assert list(makers(ast.parse(source))) == ["first", "second", ""]


def test_only_entry_points_make_a_cache() -> None:
    places = {}
    for path in sorted(SOURCE.rglob("*.py")):
        if functions := set(makers(ast.parse(path.read_text(encoding="utf-8")))):
            places[path.relative_to(SOURCE).as_posix()] = functions
    assert places == ENTRY_POINTS, "take `cache: FeatureCache` as a parameter below an entry point"
    assert not [name for functions in places.values() for name in functions if name.startswith("_")]


def _fit(table: Path, study: Path) -> None:
    frostline.fit(
        table, model=tiny_backbone(), strategies=["linear_probe"], study=study,
        threads=1, deterministic=True, repeats=1,
    )  # fmt: skip


def _compare(table: Path, study: Path) -> None:
    frostline.compare(
        tiny_backbone(), frostline.load_data(table), ["linear_probe", "head(epochs=1)"], study=study,
        threads=1, deterministic=True, repeats=1, interpolate_weights=0.5,
    )  # fmt: skip


def _train(table: Path, study: Path) -> None:
    frostline.train(tiny_backbone(), frostline.load_data(table), "linear_probe", study=study, threads=1)


def _plan(table: Path, study: Path) -> None:
    frostline.plan(tiny_backbone(), frostline.load_data(table), threads=1)


def test_a_plan_is_of_runs_with_as_many_decoding_threads(tmp_path: Path) -> None:
    table = write_table(tmp_path / "images", train=8, test=0)
    backbone, data = tiny_backbone(), frostline.load_data(table)
    workers = [
        frostline.plan(backbone, data, threads=1, workers=workers).signals.rates.pipeline.workers
        for workers in (0, 3)
    ]
    assert workers == [0, 3]
    with pytest.raises(UsageError, match='workers must be "auto", or 0 or more, found -1'):
        frostline.plan(backbone, data, threads=1, workers=-1)


@pytest.mark.parametrize("entry_point", [_fit, _compare, _train, _plan])
def test_an_entry_point_makes_one_cache(
    entry_point: Callable[[Path, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    real = FeatureCache.__init__

    def counted(self: FeatureCache, *arguments: object, **options: object) -> None:
        real(self, *arguments, **options)  # type: ignore[arg-type]
        if not self.path.name.startswith(".rate-"):  # the folder that a disk is timed with
            made.append(self.path)

    monkeypatch.setattr(FeatureCache, "__init__", counted)
    entry_point(write_table(tmp_path / "images", train=20, test=4), tmp_path / "study")
    assert len(made) == 1
