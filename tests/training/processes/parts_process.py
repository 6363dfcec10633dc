"""One of three processes that read parts of texts: ``parts_process.py RANK STORE``, a file for their meeting.

The first prints a line of JSON for each case: how far outputs and gradients are from those of the whole text.
"""

import faulthandler
import gc
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.checkpoint import checkpoint

sys.path.insert(0, str(Path(__file__).parents[2]))
from laws.families import random_tokens, small_model
from retentive.models.recomputing import set_recomputing
from retentive.state import map_tensors, named_tensors
from retentive.training.processes.text_parts import read_in_parts

CUTS = {2: (7, 12), 3: (1, 9, 14)}
"""Where each process's part ends, the last at the end of the text: uneven, one of a single token."""

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "retention": ("retnet", {"normalise_scores": True}),
    "gated retention": ("hybrid", {"pattern": ("gated_retention",)}),
    "all mixers": (
        "hybrid",
        {"pattern": ("window_attention", "gated_retention", "attention"), "num_layers": 3, "window": 5},
    ),
    "a window of one token": ("transformer", {"window": 1}),
    "attention": ("transformer", {"positions": "learned", "max_positions": 64, "num_kv_heads": 2}),
    "shared cache": ("yoco", {"self_mixer": "window_attention", "window": 5, "chunk_size": 64}),
}
TEXTS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "after a state": ("state",),
    "padding after a state": ("state", "mask"),
    "documents after a state": ("state", "starts"),
    "padding and documents": ("mask", "starts"),
}
CASES = [
    (count, model, text)
    for count in CUTS
    for model in MODELS
    for text in (TEXTS if "retention" in model or model == "all mixers" else ("after a state", "padding and documents"))
]


def errors_of(group: Any, count: int, rank: int, name: str, text: str) -> tuple[float, float]:
    """The largest difference in logits, here and after the text, and in gradients, the state's included."""
    family, options = MODELS[name]
    model, length = small_model(family, **options).train(), CUTS[count][-1]
    tokens, labels = random_tokens(2, length), random_tokens(2, length, seed=1)
    labels[0, 2:5] = -100
    torch.manual_seed(2)
    mask = torch.rand(2, length) > 0.3 if "mask" in TEXTS[text] else None
    starts = torch.rand(2, length) < 0.15 if "starts" in TEXTS[text] else None
    state = None
    if "state" in TEXTS[text]:
        state = model(random_tokens(2, 6, seed=3)).state.detach()
        state = map_tensors(state, lambda tensor: tensor.requires_grad_(tensor.is_floating_point()))
    leaves = dict(model.named_parameters()) | ({} if state is None else named_tensors(state))
    leaves = {key: tensor for key, tensor in leaves.items() if tensor.requires_grad}

    def read(columns: slice, share_of_next: float) -> tuple[Any, dict[str, Any]]:
        """Logits, also of the next three tokens, and gradients."""
        wanted = labels[:, columns]
        flags = {"mask": mask, "starts": starts}
        flags = {key: None if flag is None else flag[:, columns] for key, flag in flags.items()}
        output = model(tokens[:, columns], state, wanted, **flags)
        read_in_parts(model, None)
        following = model(tokens[:, :3], output.state, labels[:, :3])
        loss = output.loss * (wanted != -100).sum() / (labels != -100).sum() + share_of_next * following.loss
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        real = output.logits if mask is None else output.logits * mask[:, columns, None]
        return (real, following.logits), dict(zip(leaves, found, strict=True))

    (whole, after), expected = read(slice(None), 1.0)
    read_in_parts(model, group)
    set_recomputing(model, partial(checkpoint, use_reentrant=False) if text == "plain" else None)
    columns = slice((0, *CUTS[count])[rank], CUTS[count][rank])
    (mine, mine_after), gradients = read(columns, float(rank == count - 1))
    outputs = max(float((mine - whole[:, columns]).abs().max()), float((mine_after - after).abs().max()))
    worst = 0.0
    for key, gradient in gradients.items():
        dist.all_reduce(gradient, group=group)
        if gradient.numel():
            worst = max(worst, float((gradient - expected[key]).abs().max()))
    largest = torch.tensor([outputs, worst], dtype=torch.float64)
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
    return float(largest[0]), float(largest[1])


def refusal_of_rows(group: Any, rank: int) -> str:
    """What processes are told that read different numbers of rows."""
    model = small_model("retnet")
    read_in_parts(model, group)
    try:
        model(random_tokens(1 + rank, 5))
    except ValueError as error:
        return str(error)
    return "nothing"


def main() -> None:
    """Read every case. In a function, so that nothing refers to the groups when they are destroyed."""
    faulthandler.dump_traceback_later(100, exit=True)
    rank = int(sys.argv[1])
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=max(CUTS))
    groups = {count: dist.new_group(list(range(count))) for count in CUTS}
    for count, model, text in CASES:
        if rank < count:
            outputs, gradients = errors_of(groups[count], count, rank, model, text)
            if rank == 0:
                case = {"case": [count, model, text], "outputs": outputs, "gradients": gradients}
                sys.stdout.write(json.dumps(case) + "\n")
    sys.stdout.write(json.dumps({"refusal": refusal_of_rows(groups[3], rank)}) + "\n")
    del groups
    gc.collect()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
