"""A model to take away: weights, programs and deltas that need no study, each with a model card.

naming                         names of classes in Markdown, where they must stay text
subject ── proof               what is taken away; that it answers what `predict` answers
snippets                       example code for an image's pixels, as the study makes them
rebuild                        copied into exports: builds the network again without frostline
weights · programs · thawed    safetensors · ONNX and torch.export · what was thawed
card ── folder ── making       the model card; all or nothing; the verb
"""

from __future__ import annotations

from frostline.exports.exporter import FORMATS, Export, export

__all__ = ["FORMATS", "Export", "export"]
