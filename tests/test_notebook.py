"""The notebook runs from top to bottom, shows what it should, and is kept without outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "first-hour.ipynb"


def test_the_notebook_is_kept_without_outputs_and_its_code_is_python() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 10
    for cell in cells:
        assert (cell["outputs"], cell["execution_count"]) == ([], None)
        compile("".join(cell["source"]), NOTEBOOK.name, "exec")


@pytest.mark.ecosystem
@pytest.mark.usefixtures("warm_cache")
def test_the_notebook_runs(tmp_path: Path) -> None:
    import nbclient
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3", resources=resources).execute()
    outputs = [(cell["source"], data) for cell in notebook.cells for data in _shown(cell)]
    for text in (
        "linear_probe",
        "top_k(1, epochs=6)",
        "Recommended:",
        "image[9]",
        "digit 3",
        "model.safetensors",
    ):
        assert any(text in data.get("text/html", "") for _, data in outputs), text
    assert sum("image/svg+xml" in data for _, data in outputs) == 2
    assert (tmp_path / "first-hour" / "study" / "report.html").is_file()
    assert len(list((tmp_path / "first-hour" / "sorted").rglob("*.png"))) == 300


def _shown(cell: Any) -> list[dict[str, Any]]:
    return [output["data"] for output in cell.get("outputs", []) if "data" in output]
