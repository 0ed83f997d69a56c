"""Labelled images, however they arrive, as one Manifest with three parts of fixed roles.

labels                                     what a label may be, for all of them
cells ── columns ── tables                 which cells of a table hold what
sources ── folders · tables · objects · pairs      what each way of handing over images says
decoding                                   the one decoder: any file to upright RGB, or why not
memory ── indexing ── copies               digests and damage remembered; what looks alike
folding ── splitting ── parts              units never separated; who is held out
written ── manifest ── loading             the result, kept and made
asked ── sorting                           images without labels; copied to a folder for each answer
"""

from __future__ import annotations

from frostline.dataset.asked import Question, questions
from frostline.dataset.decoding import find_images, open_image
from frostline.dataset.indexing import in_threads
from frostline.dataset.labels import is_missing, read_labels
from frostline.dataset.loading import load_data
from frostline.dataset.manifest import PARTS, Conflict, Manifest, Sample, SetAside
from frostline.dataset.objects import CHANNELS
from frostline.dataset.pairs import Pairs, unlabelled
from frostline.dataset.sorting import Sorted, doubted_name, folder_names, sort_into
from frostline.dataset.tables import read_paths

__all__ = [
    "CHANNELS",
    "PARTS",
    "Conflict",
    "Manifest",
    "Pairs",
    "Question",
    "Sample",
    "SetAside",
    "Sorted",
    "doubted_name",
    "find_images",
    "folder_names",
    "in_threads",
    "is_missing",
    "load_data",
    "open_image",
    "questions",
    "read_labels",
    "read_paths",
    "sort_into",
    "unlabelled",
]
