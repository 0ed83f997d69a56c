"""The first model of `fit`: a linear probe that can predict within seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from frostline import metrics
from frostline.advice import outlook
from frostline.advice.knowledge import read_experience
from frostline.config import FOLDS, REPEATS, Config
from frostline.data import Manifest, spread_of_folds
from frostline.feature_cache import FeatureCache
from frostline.loggers import Loggers
from frostline.models import Backbone
from frostline.progress import Progress
from frostline.selection import sub_study
from frostline.studies.best_run import has_finished_run
from frostline.studies.study_folder import Study
from frostline.system import deadline
from frostline.training import Run, train


def probe_config(config: Config, metric_name: str) -> Config:
    """Return the options of the first probe: the same whatever the comparison varies."""
    plain = replace(deciding_config(config), min_recall=None, min_precision=None, costs=None)
    return plain if metric_name.startswith(metrics.SENSITIVITY) else replace(plain, positive=None)


def deciding_config(config: Config) -> Config:
    """Return those options with the operating point, which a probe has where nothing is compared."""
    return replace(
        config,
        resize=None,
        minutes=None,
        interpolate_weights=None,
        patience=None,
        repeats=REPEATS,
        augment=Config.augment,
        batch_size=Config.batch_size,
    ).without_strategy


@dataclass(frozen=True)
class FirstModel:
    """A linear probe of one backbone on the images of a study.

    Parameters
    ----------
    backbone, data, study
        What is trained, on which images, and where it is saved.
    config
        As `probe_config` makes it.
    loggers, cache, progress
        Handed on to `train`.
    """

    backbone: Backbone
    data: Manifest
    study: Study
    config: Config
    loggers: Loggers
    cache: FeatureCache
    progress: Progress

    def cross_validated(self) -> Run:
        """Train on all train and val images. It answers for the study until a run of it has finished."""
        samples = tuple(replace(s, split="train") for s in self.data.samples if s.split != "test")
        # A second process waits here and finds the model trained.
        with deadline.exclusive(self.study.path / "first.lock", "trains the first model"):
            run = self._train(replace(self.data, samples=samples))
            if not (has_finished_run(self.study) or self.study.answer):
                score = run.result["cv_score"]
                self.study.answer_by(run.folder, "a linear probe, the first model of this study", score)
        return run

    def tested(self) -> Run:
        """Train on all train and val images and evaluate on the test set: where none can be held out."""
        samples = tuple(replace(s, split="train") if s.split == "val" else s for s in self.data.samples)
        run = self._train(replace(self.data, samples=samples))
        self.study.answer_by(run.folder, "a linear probe, since nothing can be held out to compare on")
        return run

    def _train(self, data: Manifest) -> Run:
        return train(
            self.backbone,
            data,
            "linear_probe",
            study=sub_study(self.study, data),
            config=self.config,
            logger=self.loggers,
            feature_cache=self.cache,
            progress=self.progress,
        )


def cross_validated_interval(run: Run) -> tuple[float, float]:
    """Return the 95 % interval of the first probe's cross-validated accuracy on new images."""
    assert run.cv_score is not None
    return metrics.wilson(run.cv_score, (run.cv_images or run.n_train) / spread_of_folds(FOLDS))


def first_line(
    run: Run, metric: str, seconds: float, *, pretrained: bool = True, plain_timm: bool = False
) -> str:
    """Return the line that says that there is a first model, after so many seconds, and how good it is.

    What unfreezing gained is of pretrained weights, and said of them alone.
    """
    line = f"After {seconds:.0f} s there is a first model, a linear probe"
    if metric == "accuracy" and run.cv_score is not None:
        low, high = cross_validated_interval(run)
        line += f": accuracy {100 * run.cv_score:.0f} % ({100 * low:.0f}–{100 * high:.0f} %, cross-validated)"
    return f"{line}. {outlook(read_experience(), plain_timm=plain_timm) if pretrained else ''}".rstrip()
