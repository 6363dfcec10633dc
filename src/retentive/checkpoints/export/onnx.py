"""ONNX files of trained models, for runtimes that know no Python."""

from pathlib import Path

import torch

from retentive.files.targets import check_file_target
from retentive.models.rmt import RecurrentMemoryTransformer
from retentive.models.rmt.segment_step import SegmentStep


def export_segment_step(model: RecurrentMemoryTransformer, path: Path | str) -> None:
    """Write a model's `SegmentStep` as an ONNX file of dynamic batch and length; needs ``retentive[onnx]``.

    Inputs are ``tokens``, ``memory`` and whatever else `SegmentStep.carried_names` names for the model; outputs are
    ``logits``, ``next_memory`` and so on, which go into the next step. ``SegmentStep(model).first_inputs(batch)`` gives
    what a document begins with. Segments of one token have no dynamic length.

    Args:
        model: Put into eval mode, and left in it.
        path: The file to write.

    Raises:
        ValueError: If the model has no memory tokens, its backbone is no Transformer, or the file cannot be written.
        ImportError: If ``onnx`` or ``onnxscript`` is not installed.
    """
    check_file_target("path", Path(path), suggestion="segment_step.onnx")
    step = SegmentStep(model)
    inputs = (torch.zeros(2, min(3, model.config.segment_length), dtype=torch.long), *step.first_inputs(2))
    batch = torch.export.Dim("batch", min=1)
    longest, names = model.config.segment_length, step.carried_names
    columns = {0: batch} if longest == 1 else {0: batch, 1: torch.export.Dim("time", min=1, max=longest)}
    with torch.no_grad():
        torch.onnx.export(
            step,
            inputs,
            str(path),
            dynamo=True,
            input_names=["tokens", *names],
            output_names=["logits", *(f"next_{name}" for name in names)],
            dynamic_shapes=(columns, {0: batch}, *([tuple({0: batch} for _ in names[1:])] if names[1:] else ())),
        )
