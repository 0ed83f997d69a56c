"""Results are typed: every figure that a result holds is an attribute, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

import frostline
from frostline.errors import StudyError
from frostline.studies.result_fields import Figure
from tiny import tiny_backbone, tiny_model, write_table

pytestmark = pytest.mark.usefixtures("tiny_store")

FIELDS = {"run", "study", "reused"}  # of the results themselves


def figures(kind: type) -> set[str]:
    return {name for base in kind.__mro__ for name, value in vars(base).items() if isinstance(value, Figure)}


@pytest.mark.slow
def test_every_figure_of_a_result_is_an_attribute(tmp_path: Path) -> None:
    data = frostline.load_data(write_table(tmp_path / "images"), near_copies=False)
    options = {"threads": 1, "flip": "none", "metric": "macro_f1"}
    race = frostline.compare(
        tiny_backbone(), data, ["linear_probe", "head(epochs=1)"], study=tmp_path / "s", repeats=1, **options
    )
    run = race.run
    written = frostline.export(race.study.path, output=tmp_path / "out", module=tiny_model())
    for result in (run, race, written):
        missing = set(result.result) - figures(type(result)) - FIELDS
        assert missing - {"val_macro_f1"} == set(), type(result).__name__
        for name in figures(type(result)) & set(result.result):
            assert getattr(result, name) == result.result[name]
    assert run.interpolation is None  # a figure that this run does not have
    del run.result["strategy"]
    with pytest.raises(StudyError, match="holds no 'strategy'"):
        _ = run.strategy
    with pytest.raises(AttributeError, match="acuracy"):
        _ = run.acuracy  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        run.accuracy = 1.0
    assert "95 % interval" in str(type(run).low.__doc__)
