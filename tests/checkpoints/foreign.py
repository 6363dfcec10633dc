"""Frozen checkpoints of other packages with what the packages compute; `agreement.freeze` wrote them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

FROZEN = Path(__file__).parent / "frozen"
CASES = sorted(path.stem for path in FROZEN.glob("*.safetensors"))


@dataclass
class Case:
    """A checkpoint in parts that a test may change before it is written."""

    weights: dict[str, Tensor]
    settings: dict[str, Any]
    tokens: Tensor
    logits: dict[str, Tensor]

    def write(self, folder: Path) -> Path:
        """As a folder that can be converted."""
        folder.mkdir(exist_ok=True, parents=True)
        torch.save(self.weights, folder / "pytorch_model.bin")
        (folder / "config.json").write_text(json.dumps(self.settings))
        return folder


def frozen(name: str) -> Case:
    """A case by its name."""
    with safe_open(FROZEN / f"{name}.safetensors", framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        settings = json.loads(file.metadata()["settings"])

    def group(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}

    return Case(group("weights."), settings, tensors["tokens"], group("logits."))
