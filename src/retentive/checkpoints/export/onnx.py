"""ONNX files of trained models, for runtimes that know no Python."""

from pathlib import Path

import torch

from retentive.files.targets import check_file_target
from retentive.models.rmt import RecurrentMemoryTransformer
from retentive.models.rmt.segment_step import SegmentStep


def export_segment_step(model: RecurrentMemoryTransformer, path: Path | str) -> None:
    """Write a model's `SegmentStep` as an ONNX file of dynamic batch and length; needs ``retentive[onnx]``.

    Inputs are ``tokens``, ``memory`` and, for a model that recalls, ``history``; outputs are ``logits``,
    ``next_memory`` and ``next_history``, which go into the next step. What a document begins with is
    ``SegmentStep(model).first_inputs(batch)``.

    Args:
        model: In eval mode afterwards.
        path: The file.

    Raises:
        ValueError: If the model's memory is not one of tokens, or its backbone is not one of attention.
        ImportError: If ``onnx`` or ``onnxscript`` is not installed.
    """
    check_file_target("path", Path(path), suggestion="segment_step.onnx")
    step = SegmentStep(model)
    inputs = (torch.zeros(2, min(3, model.config.segment_length), dtype=torch.long), *step.first_inputs(2))
    batch = torch.export.Dim("batch", min=1)
    time = torch.export.Dim("time", min=1, max=model.config.segment_length)
    names = ("memory", "history")[: len(inputs) - 1]
    with torch.no_grad():
        torch.onnx.export(
            step,
            inputs,
            str(path),
            dynamo=True,
            input_names=["tokens", *names],
            output_names=["logits", *(f"next_{name}" for name in names)],
            dynamic_shapes=({0: batch, 1: time}, *({0: batch} for _ in names)),
        )
