"""Labelled images from any source, as one Manifest with three parts of fixed roles.

findings                               observations by kind: notes and `check` use them
labels                                 the one reader of labels
sources.table_cells · table_columns · tables       tables of paths and labels
sources.class_folders · folder_layout · file_listing · remote · tar_shards      folders and addresses
sources.python_datasets · arrays · prediction_inputs       datasets and images in memory
pixels.formats · dicom · deep_pixels · decoding     any file to upright pixels, or the reason why not
pixels.rendering · rendering_choice · traits        deep and transparent pixels to 8-bit RGB
pixels.cropping · rotation             the share that a square crop removes; rotated images
digest_cache ── image_index            digests, traits and damage, cached
splits.near_duplicates · grouping      images that look alike; groups by name
splits.splitting · folding · parts · assignment     parts and folds that keep units together
splits.split_notes · resplitting       findings on a split; a split made again
manifest_file ── manifest ── loading   the result
pixels.pixel_digest ── splits.recognition       images that a model has seen before
sorting                                images copied to a folder for each label
"""

from __future__ import annotations

from frostline.data.findings import KINDS, TROUBLE, Finding
from frostline.data.image_index import in_threads
from frostline.data.labels import is_missing, read_labels
from frostline.data.loading import LabelledImages, load_data, load_labelled
from frostline.data.manifest import Manifest
from frostline.data.pixels.cropping import CutAway, cut_away
from frostline.data.pixels.decoding import open_image
from frostline.data.pixels.rendering import Rendering, as_options
from frostline.data.pixels.rendering_choice import RenderedImage, notes_on, rendered_from_picture
from frostline.data.samples import PARTS, Conflict, Sample, SkippedImage
from frostline.data.sorting import SortedImages, folder_names, sort_into, unsure_folder_name
from frostline.data.sources.arrays import Pairs, unlabelled
from frostline.data.sources.common import OnProgress
from frostline.data.sources.file_listing import find_images, is_study
from frostline.data.sources.prediction_inputs import (
    PredictionInput,
    PredictionInputs,
    inputs_of_entries,
    prediction_inputs,
)
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
    "LabelledImages",
    "Manifest",
    "OnProgress",
    "Pairs",
    "PredictionInput",
    "PredictionInputs",
    "Recognised",
    "RenderedImage",
    "Rendering",
    "Sample",
    "SkippedImage",
    "SortedImages",
    "as_options",
    "cut_away",
    "find_images",
    "fingerprints_of",
    "folder_names",
    "in_threads",
    "inputs_of_entries",
    "is_missing",
    "is_study",
    "load_data",
    "load_labelled",
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
