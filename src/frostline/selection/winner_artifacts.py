"""What a comparison leaves with its winner: pictures of mistakes out of fold, and what it doubts by."""

from __future__ import annotations

from frostline.feature_cache import FeatureCache
from frostline.features.image_batches import Images
from frostline.inference import error_gallery, selective_prediction
from frostline.selection import resampling, weight_interpolation
from frostline.selection.out_of_fold import longest
from frostline.selection.request import CompareRequest
from frostline.selection.runner import Contest
from frostline.studies.study_folder import Study
from frostline.system import directories
from frostline.training import Run, below_of


def leave_looks(request: CompareRequest, contest: Contest, place: int, share: float | None) -> None:
    """Leave pictures of the winner's worst answers out of fold, each mapped by the model that gave it."""
    table, backbone = request.folder / "out-of-fold.csv", request.backbones[request.candidates[place].model]
    if contest.clock.late:
        request.log("No time was left for pictures of the mistakes.")
    elif table.is_file():
        models = weight_interpolation.models(request, contest, place, longest(contest.outcomes, place), share)
        error_gallery.write_gallery(request.folder, table, backbone, request.data, models)


def leave_familiar(
    request: CompareRequest, contest: Contest, place: int, run: Run, share: float | None
) -> None:
    """Leave with the winner what it may doubt its answers by: those out of fold, and one fold's distances.

    The model that is taken away has learned from every image. How far new ones lie is told by a run of the
    same strategy that held some out: one of them, since it costs a pass over the images.
    """
    table, known = request.folder / "out-of-fold.csv", selective_prediction.read(run.folder.path)
    if known is None or not table.is_file():
        return
    directories.write_atomically(run.folder.path / selective_prediction.HELD_OUT, table.read_bytes())
    task = min(longest(contest.outcomes, place), key=lambda t: (t.cell.repeat, t.cell.fold))
    backbone = request.backbones[request.candidates[place].model]
    split = resampling.split(contest.data, task.cell, request.config.seed)
    models = weight_interpolation.models(request, contest, place, [task], share)
    train, held = (Images(split, split.part(p), backbone.preprocessing) for p in ("train", "val"))
    model = models(held.samples[0].path) if held.samples else None
    most = _to_doubt_by(request, contest, max(len(train), len(held)))
    if model is not None and most:
        folder = Study(request.study.path).run_at(contest.outcomes[task].get("run"))
        with FeatureCache() as store:
            below = below_of(backbone, folder, folder.read("result.json")["cut"], store)
            distances = selective_prediction.distances(backbone, model, below, train, held, most)
        selective_prediction.write(
            run.folder.path, selective_prediction.FamiliarFeatures(known.features, distances)
        )


def _to_doubt_by(request: CompareRequest, contest: Contest, images: int) -> int:
    """Return how many images of each part there is time to pass, of those learned from and those held out."""
    most = min(selective_prediction.MOST, images)
    if request.config.minutes is None:
        return most
    fits = int((contest.clock.left_s - contest.clock.ending_s) / (2 * max(contest.pass_s, 1e-9)))
    if fits >= most:
        return most
    if fits < selective_prediction.FEWEST:
        request.log("No time was left to say how far new images may lie from those learned from.")
        return 0
    request.log(f"Little time was left: unfamiliar images are told by {fits} images instead of {most}.")
    return fits
