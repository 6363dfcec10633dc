"""Export small models and chain their steps in onnxruntime; prints the largest difference from torch for each.

``onnx_process.py NAME ...`` with names of `VARIANTS`; run by `test_onnx.py` without the shape hook, under which the
exporter's symbolic sizes are no numbers.
"""

import json
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from laws.families import random_tokens
from models.rmt.small import small_backbone, small_rmt
from retentive.checkpoints.export.onnx import export_segment_step
from retentive.models.rmt.segment_step import SegmentStep

LEARNED = small_backbone(positions="learned", max_positions=8, num_kv_heads=2)
VARIANTS = {
    "one_token": {"segment_length": 1, "read_first": False, "xl_length": 1},
    "unread_first": {"read_first": False},
    "recalling": {"xl_length": 4, "memory_code": "sign", "token_shift": True},
    "causal": {"causal_memory": True, "backbone": LEARNED},
    "encoder": {"bidirectional": True, "xl_length": 2},
}


def largest_difference(changes: dict, folder: Path) -> float:
    model = small_rmt(dtype=torch.float32, **{"segment_length": 8, **changes})
    longest = model.config.segment_length
    export_segment_step(model, folder / "step.onnx")
    session, step = onnxruntime.InferenceSession(folder / "step.onnx"), SegmentStep(model)
    names = [entry.name for entry in session.get_inputs()]
    assert names == ["tokens", *step.carried_names], names
    largest = 0.0
    for batch, lengths in ((1, (8, 5, 8)), (3, (1, 8, 3))):
        ours = step.first_inputs(batch)
        theirs = [tensor.numpy() for tensor in ours]
        for number, length in enumerate(lengths):
            tokens = random_tokens(batch, min(length, longest), seed=number)
            with torch.no_grad():
                logits, *ours = step(tokens, *ours)
            found, *theirs = session.run(None, dict(zip(names, [tokens.numpy(), *theirs], strict=True)))
            pairs = zip((logits, *ours), (found, *theirs), strict=True)
            largest = max(largest, *(float(np.abs(a.numpy().astype(float) - b).max()) for a, b in pairs))
    return largest


def main() -> None:
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        found = {name: largest_difference(VARIANTS[name], Path(folder)) for name in sys.argv[1:]}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
