"""Labelled images from any source, as one Manifest with three subsets of fixed roles.

findings                               observations by kind: notes and `check` use them
labels                                 the one reader of labels
sources.table_cells · table_columns · tables       tables of paths and labels
sources.class_folders · folder_layout · file_listing · remote · tar_shards      folders and addresses
sources.python_datasets · arrays · prediction_inputs       datasets and images in memory
pixels.formats · dicom · deep_pixels · decoding     any file to upright pixels, or the reason why not
pixels.rendering · rendering_choice · image_traits  deep and transparent pixels to 8-bit RGB
pixels.cropping · random_rotation      the share that a square crop removes; rotated images
digest_cache ── image_scan             digests, traits and damage, cached
splits.near_duplicates · grouping      images that look alike; groups by name
splits.splitting · folding · train_val_test · saved_splits     subsets and folds that keep units together
splits.split_notes · pinned_split      findings on a split; a split made again
manifest_entries · manifest_file · sample_reader ── manifest ── loading        the result
pixels.pixel_digest ── seen_images     images that a model has seen before
sort_into_folders                      images copied to a folder for each label
"""

from __future__ import annotations

from frostline.data.findings import KINDS, TROUBLE, Finding
from frostline.data.labels import is_missing, read_labels
from frostline.data.loading import LabelledImages, LoadOptions, load_data, load_labelled
from frostline.data.manifest import Manifest, demand_manifest
from frostline.data.manifest_entries import SUBSETS, Conflict, Sample, SkippedImage
from frostline.data.pixels.cropping import CutAway, cut_away
from frostline.data.pixels.decoding import open_image
from frostline.data.pixels.rendering import Rendering, as_options
from frostline.data.pixels.rendering_choice import RenderedImage, notes_on, rendered_from_picture
from frostline.data.seen_images import Recognised, fingerprints_of, recognised
from frostline.data.sort_into_folders import SortedImages, folder_names, sort_into, unsure_folder_name
from frostline.data.sources.arrays import Pairs, unlabelled
from frostline.data.sources.file_listing import find_images, is_study
from frostline.data.sources.prediction_inputs import (
    PredictionInput,
    PredictionInputs,
    inputs_of_entries,
    prediction_inputs,
)
from frostline.data.sources.python_datasets import CHANNELS
from frostline.data.sources.tables import read_paths
from frostline.data.splits.folding import numbered, spread_of_folds

__all__ = [
    "CHANNELS",
    "KINDS",
    "SUBSETS",
    "TROUBLE",
    "Conflict",
    "CutAway",
    "Finding",
    "LabelledImages",
    "LoadOptions",
    "Manifest",
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
    "demand_manifest",
    "find_images",
    "fingerprints_of",
    "folder_names",
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
    "spread_of_folds",
    "unlabelled",
    "unsure_folder_name",
]
