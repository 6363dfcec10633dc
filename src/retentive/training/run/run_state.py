"""The tensors of a checkpoint by name: weights, optimizer and carried states.

Neither a random number generator nor a position in the data is among them: both follow from the run's seed and the
number of the step.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from retentive.checkpoints.tensor_file import LateTensors
from retentive.errors import MismatchError
from retentive.models.protocol import LanguageModel
from retentive.state import named_tensors, with_tensors
from retentive.training.processes.processes import Processes, alone
from retentive.training.processes.sharded_tensors import read_tensors, stored_tensors
from retentive.training.step.learner import Learner

MODEL, OPTIMIZER, CARRIED = "model.", "optimizer.", "carried."

Stored = Mapping[str, tuple[torch.Size, torch.dtype]]
Block = dict[str, Tensor]


def run_tensors(learner: Learner) -> dict[str, Tensor]:
    """Return the tensors of a run by name, for all processes to write together."""
    tensors = {MODEL + name: tensor for name, tensor in learner.model.state_dict().items()}
    for name, parameter in learner.model.named_parameters():
        for slot, value in learner.optimizer.state.get(parameter, {}).items():
            tensors[f"{OPTIMIZER}{name}.{slot}"] = value
    # Each part's rows are a block by themselves: rows of two parts can stand at different places of a segment.
    for number, state in zip(_my_blocks(learner.processes, len(learner.states)), learner.states, strict=True):
        # A file holds no tensor twice, and the layers of a state may share their positions.
        named = named_tensors(state, f"{CARRIED}{number}.").items()
        tensors |= {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in named}
    return tensors


def restore_run(learner: Learner, path: Path, *, parts: int) -> None:
    """Load a checkpoint into a learner.

    Args:
        learner: With the same config, over any number of processes.
        path: A checkpoint that was checked to be whole.
        parts: Parts that each process's rows are cut into.

    Raises:
        MismatchError: If the checkpoint is not of this model, or its carried states cannot be split among this many
            processes.
    """
    stored = stored_tensors(path)
    weights = {MODEL + name: tensor for name, tensor in learner.model.state_dict().items()}
    _check_weights(weights, stored, path)
    slots = _optimizer_targets(learner, stored)
    blocks = _carried_targets(learner, stored, path, parts)
    tensors = weights | {name: tensor for found in slots.values() for name, tensor in found.items()}
    tensors |= {f"{CARRIED}{number}.{name}": t for number, block in blocks.items() for name, t in block.items()}
    read_tensors(path, tensors, learner.processes)
    for name, parameter in learner.model.named_parameters():
        if name in slots:
            prefix = f"{OPTIMIZER}{name}."
            learner.optimizer.state[parameter] = {key.removeprefix(prefix): value for key, value in slots[name].items()}
    mine = _my_blocks(learner.processes, parts)
    if blocks:
        if _num_blocks(stored) != learner.processes.row_count * parts:
            blocks = _cut_anew(blocks, learner.processes.row_count * parts)
        rows = next(iter(blocks[mine[0]].values())).shape[0]
        template = learner.objective.initial_state(learner.model, rows)
        learner.states = [with_tensors(template, blocks[number]) for number in mine]


def read_weights(path: Path, model: LanguageModel) -> None:
    """Load the weights of a checkpoint, checked to be whole, into a model of this process alone.

    Raises:
        MismatchError: If the checkpoint is not of this model.
    """
    weights = {MODEL + name: tensor for name, tensor in model.state_dict().items()}
    _check_weights(weights, stored_tensors(path), path)
    read_tensors(path, weights, alone())


def weights_one_by_one(path: Path, model: LanguageModel) -> LateTensors:
    """Return the weights of a checkpoint, checked to be whole, each read when it is asked for.

    Args:
        path: The checkpoint.
        model: Which may have no memory for its weights (device "meta").

    Raises:
        MismatchError: If the checkpoint is not of this model.
    """
    expected = {MODEL + name: tensor for name, tensor in model.state_dict().items()}
    _check_weights(expected, stored_tensors(path), path)

    def read(name: str) -> Tensor:
        tensor = torch.zeros_like(expected[MODEL + name], device="cpu")
        read_tensors(path, {MODEL + name: tensor}, alone())
        return tensor

    return LateTensors({name.removeprefix(MODEL): tensor.shape for name, tensor in expected.items()}, read)


def _optimizer_targets(learner: Learner, stored: Stored) -> dict[str, dict[str, Tensor]]:
    """Allocate the optimizer tensors that the checkpoint holds, by parameter and then by name."""
    targets: dict[str, dict[str, Tensor]] = {}
    for name, parameter in learner.model.named_parameters():
        prefix = f"{OPTIMIZER}{name}."
        for key, (shape, dtype) in stored.items():
            if key.startswith(prefix) and "." not in key.removeprefix(prefix):
                if shape == parameter.shape:  # sharded as the parameter is
                    target = torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
                else:
                    target = torch.zeros(shape, dtype=dtype, device=parameter.device)
                targets.setdefault(name, {})[key] = target
    return targets


def _carried_targets(learner: Learner, stored: Stored, path: Path, parts: int) -> dict[int, Block]:
    """Allocate the blocks of carried states that this process reads: its own, or all if rows move between blocks."""
    shapes: dict[int, dict[str, tuple[torch.Size, torch.dtype]]] = {}
    for key, entry in stored.items():
        if key.startswith(CARRIED):
            number, name = key.removeprefix(CARRIED).split(".", 1)
            shapes.setdefault(int(number), {})[name] = entry
    count = learner.processes.row_count * parts
    if len(shapes) in (0, count):
        needed = _my_blocks(learner.processes, parts) if shapes else range(0)
    else:
        needed = range(len(shapes))
        if any(_without_rows(shapes[number]) != _without_rows(shapes[0]) for number in needed):
            raise MismatchError(
                f"checkpoint {path} holds states of {len(shapes)} parts of a batch that stand at different places, so "
                f"they cannot be shared among {count}: go on with as many processes times hardware.accumulation as "
                "before."
            )
    return {number: _zeros(shapes[number], learner.processes.device) for number in needed}


def _zeros(shapes: Stored, device: torch.device) -> Block:
    return {name: torch.zeros(shape, dtype=dtype, device=device) for name, (shape, dtype) in shapes.items()}


def _my_blocks(processes: Processes, parts: int) -> range:
    return range(processes.row_rank * parts, (processes.row_rank + 1) * parts)


def _num_blocks(stored: Stored) -> int:
    return len({name.split(".")[1] for name in stored if name.startswith(CARRIED)})


def _without_rows(block: Mapping[str, tuple[torch.Size, torch.dtype]]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (shape[1:], dtype) for name, (shape, dtype) in block.items()}


def _cut_anew(blocks: Mapping[int, Block], count: int) -> dict[int, Block]:
    """Join the rows of all blocks and cut them into ``count`` equal blocks."""
    joined = {name: torch.cat([block[name] for block in blocks.values()]).chunk(count) for name in blocks[0]}
    return {number: {name: pieces[number] for name, pieces in joined.items()} for number in range(count)}


def _check_weights(weights: Mapping[str, Tensor], stored: Stored, path: Path) -> None:
    """Validate that a checkpoint has the model's weights; the message names those that differ."""
    found = {name: shape for name, (shape, _) in stored.items() if name.startswith(MODEL)}
    wrong = [name for name in weights if name in found and found[name] != weights[name].shape]
    for fault, names in (
        ("lacks", weights.keys() - found.keys()),
        ("has, unlike the model,", found.keys() - weights.keys()),
        ("has in another shape", wrong),
    ):
        if names:
            raise MismatchError(f"checkpoint {path} {fault} {_listed(names)}: it is not of this model.")


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(name.removeprefix(MODEL) for name in names)
    return ", ".join(ordered[:3]) + (f" and {len(ordered) - 3} more" if len(ordered) > 3 else "")
