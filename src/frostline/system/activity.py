"""What progress is of, as `progress(what, done, total)` is called. Imports nothing of frostline's."""

from __future__ import annotations

from enum import StrEnum


class Activity(StrEnum):
    """What progress is of; a plain string for the caller."""

    INDEX = "indexing"
    FIND_COPIES = "looking for copies"
    DECODE = "decoding"
    FROZEN_LAYERS = "frozen layers"
    TRAIN = "train"
    EPOCHS = "epochs"
    MEASURE = "measure"
    PREDICT = "predict"
    REMEMBER = "remember"
    EXPORT = "export"
