"""Two processes that shard models from the meta device: the weights are those of whole ones, and no process holds them.

Prints one line of JSON a process: the memory that filling a large model took at most, in shares of the whole model.
"""

import json
import resource
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

sys.path.insert(0, str(Path(__file__).parents[2]))
from laws.families import VARIANTS, small_config
from retentive.checkpoints.weights import save_model
from retentive.models.registry import build, family_names
from retentive.models.retnet import RetNetConfig
from retentive.training.processes.parallelism import parallelise
from retentive.training.processes.processes import Processes, joined_processes
from retentive.training.run.config import TrainConfig
from retentive.training.run.first_model import first_model, first_model_to_shard


def sharded(model: Any, config: TrainConfig, processes: Processes) -> torch.nn.Module:
    """A model as the trainer shards it."""
    torch.manual_seed(1)
    bare, weights = first_model_to_shard(model, config)
    return parallelise(bare, processes, "fsdp", "float32", weights)


def check_equal(model: Any, config: TrainConfig, processes: Processes) -> None:
    """The sharded weights, joined, are those of the whole model, and the generator stands where it would."""
    torch.manual_seed(1)
    whole = first_model(model, config)
    drawn = torch.rand(1)
    parts = sharded(model, config, processes)
    assert torch.equal(drawn, torch.rand(1)), model
    expected, found = dict(whole.named_parameters()), dict(parts.named_parameters())
    assert expected.keys() == found.keys(), model
    for name, tensor in expected.items():
        part = found[name]
        assert isinstance(part, DTensor), name
        assert part.to_local().numel() <= -(-len(tensor) // 2) * (tensor.numel() // max(1, len(tensor))), name
        assert torch.equal(part.full_tensor(), tensor), (model, name)
        assert part.requires_grad == tensor.requires_grad, name


def peak_share(config: TrainConfig, processes: Processes) -> float:
    """Peak memory of sharding a model of 100 MB, beyond what the process had, over the size of the model."""
    large = RetNetConfig(vocab_size=257, hidden_size=512, num_layers=8, num_heads=4)
    with torch.device("meta"):
        size = sum(4 * parameter.numel() for parameter in build(large).parameters())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parts = sharded(large, config, processes)
    mine = [parameter.to_local() for parameter in parts.parameters() if isinstance(parameter, DTensor)]
    assert 0.49 * size < sum(4 * part.numel() for part in mine) < 0.51 * size
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / size


def main() -> None:
    """Check every family, and the starts from saved models."""
    with joined_processes("cpu") as processes, tempfile.TemporaryDirectory() as own:
        nowhere: dict[str, Any] = {"store": Path(own), "run": Path(own) / "run", "steps": 1}
        for family in family_names():
            check_equal(small_config(family, **VARIANTS[family][-1]), TrainConfig(**nowhere), processes)
        backbone = small_config("retnet")
        save_model(build(backbone), Path(own) / "backbone")
        check_equal(backbone, TrainConfig(**nowhere, init=Path(own) / "backbone"), processes)
        check_equal(
            small_config("retro", backbone=backbone), TrainConfig(**nowhere, retrofit=Path(own) / "backbone"), processes
        )
        around = replace(small_config("rmt"), backbone=backbone, causal_memory=True)
        check_equal(around, TrainConfig(**nowhere, retrofit=Path(own) / "backbone"), processes)
        share = peak_share(TrainConfig(**nowhere), processes)  # last: what is loaded once is not counted
        sys.stdout.write(json.dumps({"share": share}) + "\n")


main()
