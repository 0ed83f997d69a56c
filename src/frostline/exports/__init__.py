"""Export a model as weights, a program or a delta that needs no study, with a model card.

exported_model, verification                  the model to export; compare it with `predict`
code_examples                                 example code that loads an image as the study does
standalone_loader                             copied into exports: builds the network without frostline
safetensors_export, onnx_and_torch            safetensors; ONNX and torch.export
delta_export                                  changed weights only
infer                                         copied into programs: labels images without frostline
golden_images, quantisation                   images that prove a program elsewhere; INT8
model_card, output_folder, exporter           the model card; an atomic folder; the function `export`
"""

from __future__ import annotations

from frostline.exports.exporter import FORMATS, Export, export

__all__ = ["FORMATS", "Export", "export"]
