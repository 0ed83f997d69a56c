"""A head that is solved for anew after training, on several stages of the network that has learned."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

import frostline
from frostline.data import Manifest
from frostline.errors import UsageError
from frostline.strategies import parse, timm_loadable
from tiny import tiny_backbone, tiny_model, write_table

FAST = {"deterministic": True, "threads": 1, "flip": "none"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    table = write_table(tmp_path_factory.mktemp("images"), train=12, val=4, test=6)
    return frostline.load_data(table, near_copies=False)


@pytest.mark.parametrize("strategy", ["lp_ft(epochs=1{})", "top_k(1, epochs=1{})"])
def test_the_network_stays_and_the_head_reads_its_stages(
    strategy: str, data: Manifest, tmp_path: Path
) -> None:
    plain, refitted = (
        frostline.train(tiny_backbone(), data, strategy.format(more), study=tmp_path / name, **FAST)
        for name, more in (("plain", ""), ("refit", ", refit_layers=2"))
    )
    assert (plain.layers, refitted.layers) == (None, 2)
    assert "timm" not in refitted.loads_in
    before, after = (
        frostline.load_model(run.folder, module=tiny_model()).state_dict() for run in (plain, refitted)
    )
    own = {key: value for key, value in before.items() if not key.startswith(tiny_backbone().head)}
    assert own
    assert all(torch.equal(value, after[key]) for key, value in own.items())
    test = data.subset("test")
    predicted = refitted.predict([data.read(sample) for sample in test])
    with open(refitted.folder.path / "predictions-test.csv", newline="", encoding="utf-8") as file:
        written = {row["path"]: row for row in csv.DictReader(file)}
    for sample, row in zip(test, predicted.rows, strict=True):
        assert row.label == written[sample.path]["predicted"]
        assert row.probability == pytest.approx(float(written[sample.path][f"p({row.label})"]), abs=1e-4)
    again = frostline.train(
        tiny_backbone(), data, strategy.format(", refit_layers=2"), study=tmp_path / "again", **FAST
    )
    assert again.weights_digest == refitted.weights_digest


def test_what_cannot_be_refitted_is_refused(data: Manifest, tmp_path: Path) -> None:
    for wrong, words in (
        ("linear_probe(refit_layers=2)", "no setting 'refit_layers'"),
        ("head(refit_layers=2)", "no setting 'refit_layers'"),
        ("lp_ft(refit_layers=-1)", "refit_layers must be a whole number"),
        ("full(head=cosine, refit_layers=2)", "ends with a linear head"),
    ):
        with pytest.raises(UsageError, match=words):
            parse(wrong)
    with pytest.raises(UsageError, match="refit_layers=2"):
        timm_loadable(parse("lp_ft(refit_layers=2)"))
    with pytest.raises(UsageError, match="nothing can be interpolated"):
        frostline.train(
            tiny_backbone(), data, "lp_ft(refit_layers=2)", interpolate_weights=0.5, study=tmp_path, **FAST
        )
