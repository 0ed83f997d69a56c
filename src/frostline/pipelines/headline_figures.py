"""The accuracy that `fit` reports, and what it rests on: of a comparison, or of the first model alone."""

from __future__ import annotations

from typing import Any

from frostline import metrics, sentences
from frostline.config import FOLDS
from frostline.data import Manifest
from frostline.pipelines.first_model import cross_validated_interval
from frostline.selection import Comparison, pool
from frostline.sentences import Basis
from frostline.studies.study_folder import Study
from frostline.training import Run


def comparison_figures(comparison: Comparison) -> dict[str, Any]:
    """Return the winner's figures: the comparison's own headline.

    `accuracy_of` names the model that the accuracy belongs to: the final one, evaluated on the test set, or
    the same strategy's models on the folds that they were not trained on.
    """
    return {
        "strategy": comparison.winner,
        "loads_in": comparison.loads_in,
        **_headline_figures(comparison.headline),
        "accuracy_of": _accuracy_of(comparison),
        "separated": comparison.separated,
        "run": comparison.result["run"],
        "tried": comparison.standings,
        "strategies_tried": comparison.strategies_tried,
        "runs": comparison.runs,
        "verdict": comparison.verdict,
    }


def _accuracy_of(comparison: Comparison) -> dict[str, Any]:
    own = {"strategy": comparison.winner, "model": comparison.model}
    if comparison.accuracy is not None:
        return {**own, "runs": [comparison.result["run"]], "images": comparison.run.n_test, "folds": None}
    return {**own, **{key: comparison.out_of_fold[key] for key in ("runs", "images", "folds")}}


def probe_figures(run: Run, study: Study, metric: str, data: Manifest) -> dict[str, Any]:
    """Return the figures of the first model, if there was no comparison."""
    why = (
        "Nothing could be held out for a comparison"
        if run.cv_score is None
        else "There was no time for a comparison"
    )
    headline = _probe_headline(run, metric, data)
    return {
        "strategy": run.result["strategy"],
        "loads_in": run.loads_in,
        **_headline_figures(headline),
        "accuracy_of": {
            "strategy": run.result["strategy"],
            "model": run.result["model"],
            "runs": [str(run.folder.path.relative_to(study.path))],
            "images": headline["images"],
            "folds": None if headline["basis"] == Basis.TEST else FOLDS,
        },
        "separated": False,
        "run": str(run.folder.path.relative_to(study.path)),
        "tried": [],
        "strategies_tried": 1,
        "runs": 1,
        "verdict": [f"{why}: the linear probe is the model."],
    }


def _headline_figures(headline: dict[str, Any]) -> dict[str, Any]:
    """Return the headline as the report reads it, and its figures as keys of their own."""
    return {
        **{key: headline[key] for key in ("accuracy", "low", "high", *metrics.BELIEVED, *metrics.BALANCE)},
        "basis": headline["basis"],
        "optimism": headline["optimism"],
        "headline": headline,
    }


def _probe_headline(run: Run, metric: str, data: Manifest) -> dict[str, Any]:
    """Return the headline of a probe without a comparison: test set, else cross-validated, else unknown."""
    tested = run.accuracy is not None
    figures = run.result if tested else dict.fromkeys(("accuracy", "low", "high"))
    note = None
    if not tested and run.cv_score is None:
        note = sentences.NOTHING_TO_ASK
    elif not tested and metric != "accuracy":
        note = f"Cross-validated {metric} {run.cv_score:.3f}; accuracy was not the metric."
    elif not tested:
        low, high = cross_validated_interval(run)
        figures = {"accuracy": run.cv_score, "low": low, "high": high}
    balance = (*metrics.BELIEVED, *metrics.BALANCE)
    return {
        **dict.fromkeys(balance),
        **{key: figures[key] for key in ("accuracy", "low", "high", *balance) if key in figures},
        "basis": (Basis.TEST if tested else Basis.CROSS_VALIDATION).value,
        "images": run.n_test if tested else run.cv_images or run.n_train,
        "pool": len(pool(data)),
        "folds": 0,
        "optimism": None,
        "test_evaluations": run.test_evaluations,
        "note": note,
    }
