"""Each verb imports what it uses: starting up is most of what a small call takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

import frostline
import studies
from frostline.cli.main import cli
from tiny import write_table

pytestmark = pytest.mark.usefixtures("warm_cache")

TRAINING = {
    "frostline.training",
    "frostline.selection",
    "frostline.diagnostics",
    "scipy.optimize",
    "scipy.stats",
}
TABLES = {"pandas", "pyarrow", "narwhals", "datasets"}
LEARNING = {"sklearn", "optuna", "cleanlab", "imagehash", "ray", "transformers", "lightning"}
DRAWING = {"matplotlib", "vl_convert", "jinja2", "IPython"}
PRINTING = {"rich.console", "rich.table"}
NETWORKS = {"torch", "torchvision", "timm"}
LISTED = TRAINING | TABLES | LEARNING | DRAWING | PRINTING | NETWORKS | {"numpy", "PIL", "scipy"}


def imported(*arguments: str) -> set[str]:
    """Which of the listed modules a call of the command line has imported when it ends."""
    (modules,) = imported_by_then(arguments)
    return modules


def imported_by_then(*calls: Sequence[str]) -> list[set[str]]:
    """Which of the listed modules one process has imported after each of several calls."""
    code = (
        "import json, sys; from frostline.cli import main\n"
        f"for call in {[list(call) for call in calls]!r}:\n"
        "    sys.argv = ['frostline', *call]\n"
        "    try: main()\n"
        "    except SystemExit as end: assert not end.code, call\n"
        "    print('IMPORTED' + json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    lines = [
        line.removeprefix("IMPORTED") for line in done.stderr.splitlines() if line.startswith("IMPORTED")
    ]
    assert len(lines) == len(calls), done.stderr
    return [LISTED & set(json.loads(line)) for line in lines]


@pytest.fixture
def study(tmp_path: Path) -> tuple[str, Path]:
    table = write_table(tmp_path / "images", train=4, test=3)
    call = ["train", str(table), "--strategy", "linear_probe", "--study", str(tmp_path / "study")]
    done = CliRunner().invoke(cli, [*call, "--size", "32", "--deterministic", "--threads", "1", "--quiet"])
    assert done.exit_code == 0, done.output
    return str(tmp_path / "study"), table


def test_the_package_alone_imports_nothing_heavy() -> None:
    code = "import sys, json, frostline; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not LISTED & set(json.loads(done.stdout))


def test_the_version_is_an_attribute() -> None:
    assert frostline.__version__ == metadata.version("frostline")


def test_help_imports_nothing_heavy() -> None:
    """One process prints the help of every verb, and says after each what it has imported by then."""
    code = (
        "import json, sys; from frostline.cli import main\n"
        f"for verb in {['', *cli.commands]!r}:\n"
        "    sys.argv = ['frostline', *filter(None, [verb]), '--help']\n"
        "    try: main()\n"
        "    except SystemExit as end: assert not end.code, verb\n"
        "    print(json.dumps([verb, sorted(sys.modules)]), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seen = dict(json.loads(line) for line in done.stderr.splitlines())
    assert list(seen) == ["", *cli.commands]
    assert {verb: LISTED & set(modules) for verb, modules in seen.items() if LISTED & set(modules)} == {}
    assert not set(seen[""]) & {"filelock", "importlib.metadata", "difflib"}  # a fifth of the time


@pytest.mark.slow
def test_predict_imports_what_answers(study: tuple[str, Path], tmp_path: Path) -> None:
    where, table = study
    image = str(next(table.parent.glob("*.png")))
    seen = imported("predict", where, image, "--json")
    assert {"torch", "timm"} <= seen
    assert not seen & (TRAINING | TABLES | LEARNING | DRAWING | PRINTING)
    listed = imported("predict", where, str(table), "--output", str(tmp_path / "answers.csv"), "--top", "2")
    assert not listed & (TRAINING | TABLES | LEARNING | DRAWING)


def test_imports_of_a_command_pass_without_full_collections() -> None:
    code = (
        "import gc, sys; from frostline.cli import main\n"
        "sys.argv = ['frostline', 'strategies']; sys.stdout = sys.stderr\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "gc.unfreeze()\n"
        "before = gc.get_stats()\n"
        "import torch, torchvision\n"
        "print(*(now['collections'] - then['collections'] for now, then in zip(gc.get_stats(), before)),"
        " file=sys.__stdout__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    youngest, _, full = map(int, done.stdout.split())
    assert full == 0
    assert youngest > 10  # what is short-lived is still found


@pytest.mark.slow
def test_stages_imports_a_network_alone() -> None:
    assert not imported("stages", "--json", "--size", "32") & (LISTED - NETWORKS - {"numpy", "PIL"})
    assert not imported("stages", "--size", "32") & (TRAINING | TABLES | LEARNING | DRAWING)


def test_check_report_and_models_build_no_network(tmp_path: Path) -> None:
    """In one process: what a call has imported, the calls after it have.

    Which answers are doubtful is cleanlab's to say; scikit-learn, pandas and datasets come with it.
    """
    table = write_table(tmp_path / "images", train=4, test=3)
    frostline.load_data(table)  # what was decoded before isn't decoded again
    page = str(tmp_path / "page.html")
    report = ["report", str(studies.fitted(tmp_path / "study"))]
    calls = (["check", str(table), "--json"], ["check", str(table), "--page", page], report)
    seen, shown, reported = imported_by_then(*calls)
    assert not seen & (NETWORKS | TRAINING | TABLES | LEARNING | DRAWING | PRINTING)
    assert not shown & (NETWORKS | LEARNING)
    assert "cleanlab" in reported
    assert not reported & (NETWORKS | {"frostline.training", "frostline.selection", "frostline.diagnostics"})
    assert not reported & {"optuna", "imagehash", "ray", "matplotlib", "transformers", "IPython"}
    assert not imported("models", "--json") & (LISTED - {"torch", "numpy", "PIL"})


def test_reading_a_name_changes_nothing_in_the_process() -> None:
    code = (
        "import ctypes, os\n"
        "real, before = ctypes.CDLL, dict(os.environ)\n"
        "class Library(real):\n"
        "    def __getattr__(self, name):\n"
        "        assert name not in ('mallopt', 'malloc_trim'), name\n"
        "        return super().__getattr__(name)\n"
        "ctypes.CDLL = Library\n"
        "import frostline\n"
        "for name in frostline.__all__: getattr(frostline, name)\n"
        "from frostline.system import timing\n"
        "changed = {k for k in {**before, **os.environ} if before.get(k) != os.environ.get(k)}\n"
        "assert not {name for name in changed if name.startswith(('OMP', 'MKL', 'KMP', 'GOMP'))}, changed\n"
        "assert timing._imported == []\n"
        "timing.reuse_freed_memory()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    # Only the last line of the code calls it, which shows that a call would be caught.
    assert done.stderr.strip().endswith("AssertionError: mallopt"), (
        done.stderr
    )  # the last line alone is caught
