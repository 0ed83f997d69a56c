"""A report that is watched, what training leaves for it, and what a notebook shows."""

from __future__ import annotations

import http.client
import json
import re
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import frostline
import studies
from frostline.cli.main import cli
from frostline.errors import UsageError
from frostline.inference import error_gallery
from frostline.inference.prediction_rows import Prediction, Predictions
from frostline.reports import notebook, page
from frostline.reports.live_page import server, state_of
from frostline.reports.study_reader import read
from frostline.reports.writer import read_context, sections
from tiny import tiny_backbone, write_table

# --- the command, and watching -----------------------------------------------------------------------------


def test_the_command_prints_the_conclusions_and_one_object(tmp_path: Path) -> None:
    study = studies.fitted(tmp_path / "study")
    result = CliRunner().invoke(
        cli, ["report", str(study), "--output", str(tmp_path / "page.html"), "--json"]
    )
    assert result.exit_code == 0, result.output
    output = json.loads(result.stdout)
    assert output["report"] == str(tmp_path / "page.html")
    assert len(output["conclusions"]) <= 10
    assert "gradual_unfreeze" in output["conclusions"][0]
    assert (tmp_path / "page.html").is_file()
    result = CliRunner().invoke(cli, ["report", str(study)])
    assert "91.0 %" in result.stdout
    refused = CliRunner().invoke(cli, ["report", str(tmp_path / "no")])
    assert refused.exit_code == 1
    assert "Traceback" not in refused.output


def get(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers={"Host": f"{host}:{port}"})
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_a_watched_study_follows_its_files_on_loopback_alone(tmp_path: Path) -> None:
    study = studies.compared(tmp_path / "study", finished=False)
    served = server(study)
    port = served.server_address[1]
    assert served.server_address[0] == "127.0.0.1"
    threading.Thread(target=served.serve_forever, daemon=True).start()
    try:
        status, first = get(port, "/")
        assert status == 200
        assert b"1 run unfinished" in first
        assert b"connect-src &#39;self&#39;" in first
        state = get(port, "/state")[1]
        data = read(study).data
        assert data is not None
        studies.write_run(study / "splits" / "fold2", "full", data, keep="last", val=data.samples[:9])
        assert get(port, "/state")[1] != state
        assert b"unfinished" not in get(port, "/")[1].split(b"<main")[0]
        assert get(port, "/", host="evil.example")[0] == 403
        assert get(port, "/../study.json")[0] == 404
        with pytest.raises(UsageError, match="--port"):
            server(study, port)
    finally:
        served.shutdown()
        served.server_close()
    assert state_of(study) == state_of(study)


# --- what training leaves ----------------------------------------------------------------------------------


def test_a_real_run_leaves_its_network_and_looks(tmp_path: Path) -> None:
    """A whole run on a tiny network, from images to page, with mistakes that can be looked at."""
    table = write_table(tmp_path / "images", train=8, test=10)
    text = table.read_text()
    swapped = re.sub(r"^(0_01\d\.png),kind 0,test", r"\1,kind 1,test", text, flags=re.MULTILINE)
    table.write_text(swapped)  # test images with wrong labels: mistakes are certain
    data = frostline.load_data(table, near_copies=False)
    options: dict[str, Any] = {"deterministic": True, "flip": "none", "threads": 1}
    run = frostline.train(tiny_backbone(), data, "top_k(1, epochs=6)", study=tmp_path / "study", **options)
    gallery = json.loads((run.folder.path / "error-gallery.json").read_text())
    assert 0 < len(gallery["rows"]) <= error_gallery.MOST
    assert gallery["note"] == ""
    for row in gallery["rows"]:
        for name in (row["picture"], row["map"]):
            with Image.open(run.folder.path / "error-gallery" / name) as picture:
                assert picture.format == "JPEG"
    assert json.loads((run.folder.path / "backbone.json").read_text()) == tiny_backbone().as_dict()
    report = frostline.report(run.study)
    assert report.notes == ()
    page_text = report.path.read_text()
    assert page_text.count("data:image/jpeg;base64,") == 2 * len(gallery["rows"])
    assert "class-activation map" in page_text


def test_a_map_sums_to_the_logit() -> None:
    """The mean of a class's map is its logit without bias; a network without pooling has no map."""
    backbone = tiny_backbone()
    model = backbone.adapt(3, seed=1)
    pixels = torch.randint(0, 255, (2, 3, 16, 16), dtype=torch.uint8)
    maps = error_gallery.class_maps(backbone, model, pixels, [0, 2])
    assert maps is not None
    assert maps.shape[0] == 2
    assert maps.min() == 0.0
    assert maps.max() == 1.0
    model.pool = torch.nn.AdaptiveMaxPool2d(1)
    assert error_gallery.class_maps(backbone, model, pixels, [0, 2]) is None


def test_a_comparison_leaves_looks_by_the_models_that_answered(tmp_path: Path) -> None:
    """Out of fold: maps come from the fold that had not seen the image; the page shows them."""
    table = write_table(tmp_path / "images", train=8)
    table.write_text("\n".join(line.replace(",train", ",") for line in table.read_text().splitlines()))
    data = frostline.load_data(table, test_size=0.0, val_size=0.0, near_copies=False)
    options: dict[str, Any] = {"deterministic": True, "flip": "none", "threads": 1, "repeats": 1}
    comparison = frostline.compare(
        tiny_backbone(), data, ["linear_probe", "head(epochs=2)"], study=tmp_path / "study", **options
    )
    gallery = json.loads((comparison.folder / "error-gallery.json").read_text())
    wrong = sum(
        row.split(",")[1] != row.split(",")[2]
        for row in (comparison.folder / "out-of-fold.csv").read_text().splitlines()[1:]
    )
    assert len(gallery["rows"]) == min(wrong, error_gallery.MOST)
    assert all(row["map"] for row in gallery["rows"])
    report = frostline.report(comparison.study)
    assert report.notes == ()
    assert "frostline compare" in report.path.read_text()
    assert "linear_probe" in comparison._repr_html_()
    assert len(comparison.to_pandas()) == 2
    assert comparison.plot().spec["data"]["values"]
    assert "epoch" in comparison.run.to_pandas() or comparison.run.strategy == "linear_probe"


# --- notebooks ------------------------------------------------------------------------------------------


def test_a_notebooks_table_escapes_and_pandas_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    text = notebook.table_html("<b>", [{"a": "<script>", "b": 0.123456}, {"a": None}])
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert list(notebook.frame([{"a": 1}]).columns) == ["a"]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="pip install pandas"):
        notebook.frame([])


def test_every_chart_is_one_that_vega_lite_knows(tmp_path: Path) -> None:
    import vl_convert

    context = read_context(studies.fitted(tmp_path / "study", studies.EVIL))
    charts = [chart for section in sections(context) for chart in page.all_charts(section)]
    assert len(charts) >= 11
    for chart in charts:
        assert vl_convert.vegalite_to_vega(chart.spec)["marks"]
        assert chart.rows
        assert all(len(row) == len(chart.header) for row in chart.rows)
    drawn = notebook.plot(charts[0].spec)._repr_mimebundle_()
    assert "<svg" in drawn["image/svg+xml"]
    assert "var(--" not in json.dumps(drawn["application/vnd.vegalite.v6+json"])


def test_answers_and_progress_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Predictions((Prediction("a<b>.png", (("cat", 0.9),)),), (), "run", "why", "head")
    assert "a&lt;b&gt;.png" in answers._repr_html_()
    assert list(answers.to_pandas()["label"]) == ["cat"]
    assert answers.plot().spec["data"]["values"][0]["count"] == 1
    shown: list[str] = []

    class Handle:
        def update(self, html: str) -> None:
            shown.append(html)

    kernel = SimpleNamespace(kernel=True)
    display = SimpleNamespace(HTML=str, display=lambda html, display_id: shown.append(html) or Handle())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: kernel, display=display))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "IPython.display", display)  # type: ignore[arg-type]
    progress = frostline.Progress()
    progress("<train>", 1, 2)
    progress("<train>", 2, 2)
    assert [text.count("&lt;train&gt;") for text in shown] == [1, 1]
