"""What is said of images, models and options is what is there; what can't be done is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import frostline
from frostline.cli.main import cli
from frostline.errors import UsageError
from frostline.integrations.sklearn import FrostlineClassifier, _backbone
from frostline.unfreezing import Unfreezing
from tiny import picture, tiny_backbone, write_folder, write_table


def test_copies_count_where_long_pictures_are_counted(tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos", classes=2, per_class=10)
    long = photos / "kind 0" / "long.png"
    picture(0, np.random.default_rng(9)).resize((80, 20)).save(long)
    for number in range(4):
        shutil.copy(long, photos / "kind 0" / f"copy {number}.png")
    data = frostline.load_data(photos)
    cut = data.cut_away()
    assert (cut.images, cut.long) == (25, 5)


def test_a_model_card_counts_each_subset(tmp_path: Path) -> None:
    data = frostline.load_data(write_table(tmp_path / "set", train=12, val=3, test=8))
    run = frostline.train(tiny_backbone(), data, "linear_probe", study=tmp_path / "s", flip="none", threads=1)
    frostline.export(run, output=tmp_path / "out", module=tiny_backbone().model)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| class | train | val | test |" in card
    assert "| kind 0 | 12 | 3 | 8 |" in card


def test_a_place_where_a_format_is_expected_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"to must be one of safetensors, .*found "):
        frostline.export(tmp_path, tmp_path / "out")  # type: ignore[arg-type]


def test_a_scheduler_refuses_a_head_that_is_solved_for_afterwards() -> None:
    backbone = tiny_backbone()
    model = backbone.adapt(3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(UsageError, match=r"refit_layers is up to `frostline\.train`"):
        Unfreezing(optimizer, backbone, model, "lp_ft(refit_layers=4)", epochs=1, steps_per_epoch=2)


@pytest.mark.parametrize("name", ["stages.jpg", "stages.svg", "stages.png", "stages.pdf"])
def test_stages_are_drawn_in_every_format(name: str, tmp_path: Path) -> None:
    from frostline.models import stage_table

    stage_table.image(tiny_backbone(), tmp_path / name)
    assert (tmp_path / name).stat().st_size > 1000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("threads: {a: 1}\n", "gives threads entries of its own"),
        (
            "hyperparameters: {layers: last}\nset: [layers=2]\n",
            "gives hyperparameters and set, which are one",
        ),
    ],
)
def test_a_file_of_options_that_would_be_half_obeyed_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    outcome = CliRunner().invoke(cli, ["train", str(tmp_path), "--config", str(tmp_path / "c.yaml")])
    assert outcome.exit_code == 2
    assert said in outcome.output.replace("\n", " ")


def test_a_backbone_in_hand_has_its_size(tmp_path: Path) -> None:
    backbone = tiny_backbone()
    assert _backbone(backbone, 16, None).preprocessing.size == 16
    images = [picture(kind, np.random.default_rng(kind)) for kind in (0, 1)] * 10
    with pytest.raises(ValueError, match="size=64, but the backbone that was handed over takes 16 px"):
        FrostlineClassifier(backbone, size=64).fit(images, ["a", "b"] * 10)


def test_what_lies_on_the_disk_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    monkeypatch.setattr(
        "frostline.integrations.sklearn.load_backbone",
        lambda name, size: loads.append(name) or tiny_backbone(),
    )
    for _ in range(2):
        _backbone(str(tmp_path), None, None)
    assert loads == [str(tmp_path)] * 2


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_a_name_that_a_table_of_features_cannot_hold_is_said_before_the_pass(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    photos = write_folder(tmp_path / "photos", classes=2, per_class=6)
    odd = os.path.join(os.fsencode(photos / "kind 0"), b"odd\xff.png")
    with open(odd, "wb") as file:
        file.write((photos / "kind 0" / "000.png").read_bytes() + b" ")
    data = frostline.load_data(photos)
    with pytest.raises(UsageError, match=r"cannot hold the name .*which is not UTF-8"):
        frostline.extract_features(tiny_backbone(), data, output=tmp_path / "f.parquet")
