"""Files that a comparison writes for its winner: pictures of out-of-fold errors, and novelty distances."""

from __future__ import annotations

from frostline.feature_extraction.image_batches import Images
from frostline.inference import error_gallery, selective_prediction
from frostline.inference.selective_prediction import FamiliarFeatures
from frostline.selection import resampling, wise_ft_share
from frostline.selection.compare_request import CompareRequest
from frostline.selection.out_of_fold import longest
from frostline.selection.trial_runner import TrialRunner
from frostline.studies.study_folder import Study
from frostline.system import directories
from frostline.training import Run, forward_pass_of


def write_error_gallery(
    request: CompareRequest, runner: TrialRunner, winner: int, share: float | None
) -> None:
    """Write pictures of the winner's worst out-of-fold errors, with maps by the model that made each.

    Nothing is written if the time is up.

    Parameters
    ----------
    request
        Options of the comparison.
    runner
        Its runs.
    index
        Index of the winner.
    share
        Share of the weight interpolation, 0–1; `None` for none.
    """
    table, backbone = request.folder / "out-of-fold.csv", request.backbones[request.candidates[winner].model]
    if runner.clock.late:
        request.progress.log("No time was left for pictures of the mistakes.")
    elif table.is_file():
        models = wise_ft_share.models(request, runner, winner, longest(runner.outcomes, winner), share)
        error_gallery.write_gallery(request.folder, table, backbone, request.data, models)


def write_selective_prediction(
    request: CompareRequest, runner: TrialRunner, winner: int, run: Run, share: float | None
) -> None:
    """Write what the winner estimates uncertainty by: out-of-fold predictions, and distances of one fold.

    The final model was trained on every image. How far new images lie from training images is measured by a
    run of the same strategy that held some out; by one run only, since it costs a pass over the images.

    Parameters
    ----------
    request
        Options of the comparison.
    runner
        Its runs.
    index
        Index of the winner.
    run
        The winner trained on every image.
    share
        Share of the weight interpolation, 0–1; `None` for none.
    """
    table, familiar = request.folder / "out-of-fold.csv", selective_prediction.read(run.folder.path)
    if familiar is None or not table.is_file():
        return
    directories.write_atomically(run.folder.path / selective_prediction.HELD_OUT, table.read_bytes())
    task = min(longest(runner.outcomes, winner), key=lambda t: (t.cell.repeat, t.cell.fold))
    backbone = request.backbones[request.candidates[winner].model]
    split = resampling.split(runner.data, task.cell, request.config.seed)
    models = wise_ft_share.models(request, runner, winner, [task], share)
    fast = request.config.fast_pixels  # of training images, as the run that left the rows
    train = Images(split, split.subset("train"), backbone.preprocessing, fast=fast)
    held_out = Images(
        split, split.subset("val"), backbone.preprocessing, fast=fast and "val" in split.learned_subsets
    )
    model = models(held_out.samples[0].path) if held_out.samples else None
    image_limit = _images_in_time(request, runner, max(len(train), len(held_out)))
    if model is not None and image_limit:
        folder = Study(request.study.path).run_at(runner.outcomes[task].get("run"))
        with request.cache as cache:
            cut = folder.read("result.json")["cut"]
            features = forward_pass_of(backbone, model, folder, cut, cache, request.config.workers).features
            of_fold = FamiliarFeatures.of(
                features(train.evenly(image_limit)), features(held_out.evenly(image_limit))
            )
        selective_prediction.write(run.folder.path, FamiliarFeatures(familiar.features, of_fold.distances))


def _images_in_time(request: CompareRequest, runner: TrialRunner, images: int) -> int:
    """Return for how many training and held-out images there is time to compute distances."""
    image_limit = min(selective_prediction.MOST, images)
    if request.config.minutes is None:
        return image_limit
    affordable = int((runner.clock.left_s - runner.clock.ending_s) / (2 * max(runner.pass_s, 1e-9)))
    if affordable >= image_limit:
        return image_limit
    if affordable < selective_prediction.FEWEST:
        request.progress.log(
            "No time was left to measure how far new images may lie from the training images."
        )
        return 0
    request.progress.log(
        f"Little time was left: unfamiliar images are detected by {affordable} images, not {image_limit}."
    )
    return affordable
