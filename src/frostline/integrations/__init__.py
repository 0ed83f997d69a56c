"""Pieces for other people's stacks; each module needs its library, and none is imported unless asked for.

from frostline.integrations.lightning import UnfreezingCallback      # pip install lightning
from frostline.integrations.transformers import UnfreezingCallback   # pip install "transformers[torch]"
from frostline.integrations.sklearn import FrostlineClassifier
"""
