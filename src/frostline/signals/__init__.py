"""What images say about themselves and about a network, before anything is trained."""

from frostline.signals.similarity import Similarity, similarity

__all__ = ["Similarity", "similarity"]
