"""Labelled images, however they arrive, as one Manifest with three parts of fixed roles.

findings                                   what there is to say, by kind: notes and `check` read it
labels                                     what a label may be, for all of them
cells ── columns ── tables                 which cells of a table hold what
sources ── folders · tables · objects · pairs      what each way of handing over images says
formats · dicom · listing                  what files are, and which of a folder are pictures
depth ── rendering ── decoding             the one decoder: any file to upright RGB, or why not
traits ── showing                          what an image holds; how a study shows its images
framing                                    how much of each is cut away where it is made square
memory ── indexing ── copies               digests and damage remembered; what looks alike
samples ── splitting ── folding ── parts   units never separated; who is held out, and in which fold
grouping                                   what belongs together by name: as one says, or as names give away
describing ── resplitting                  what a person should know of a split; a split made anew
assignment                                 the part and folds of each image, as a study remembers them
written ── manifest ── loading             the result, kept and made
pixels ── recognition                      which images a model has met before
asked ── sorting                           images without labels; copied to a folder for each answer
"""

from __future__ import annotations

from frostline.data.findings import KINDS, TROUBLE, Finding
from frostline.data.image_index import in_threads
from frostline.data.labels import is_missing, read_labels
from frostline.data.loading import load_data
from frostline.data.manifest import Manifest
from frostline.data.pixels.cropping import CutAway, cut_away
from frostline.data.pixels.decoding import open_image
from frostline.data.pixels.rendering import Rendering, as_options
from frostline.data.pixels.rendering_choice import RenderedImage, notes_on, rendered_from_picture
from frostline.data.samples import PARTS, Conflict, Sample, SetAside
from frostline.data.sorting import SortedImages, folder_names, sort_into, unsure_folder_name
from frostline.data.sources.arrays import Pairs, unlabelled
from frostline.data.sources.common import OnProgress
from frostline.data.sources.file_listing import find_images, is_study
from frostline.data.sources.prediction_inputs import PredictionInput, PredictionInputs, prediction_inputs
from frostline.data.sources.python_datasets import CHANNELS
from frostline.data.sources.tables import read_paths
from frostline.data.splits.folding import numbered
from frostline.data.splits.recognition import Recognised, fingerprints_of, recognised

__all__ = [
    "CHANNELS",
    "KINDS",
    "PARTS",
    "TROUBLE",
    "Conflict",
    "CutAway",
    "Finding",
    "Manifest",
    "OnProgress",
    "Pairs",
    "PredictionInput",
    "PredictionInputs",
    "Recognised",
    "RenderedImage",
    "Rendering",
    "Sample",
    "SetAside",
    "SortedImages",
    "as_options",
    "cut_away",
    "find_images",
    "fingerprints_of",
    "folder_names",
    "in_threads",
    "is_missing",
    "is_study",
    "load_data",
    "notes_on",
    "numbered",
    "open_image",
    "prediction_inputs",
    "read_labels",
    "read_paths",
    "recognised",
    "rendered_from_picture",
    "sort_into",
    "unlabelled",
    "unsure_folder_name",
]
