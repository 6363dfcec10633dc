"""One of two processes that replay their halves of a batch; prints how far their gradients are from those of one.

Run by `test_replay.py`, with the rank and a file to meet in as arguments.
"""

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[2]))

from laws.families import random_tokens
from models.rmt.small import small_backbone, small_rmt
from retentive.training.step.pieces import cut_text
from retentive.training.step.replay import replay
from retentive.training.step.unroll import unrolled


def main(rank: int, meeting: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    # No dropout: two processes and one draw different numbers.
    model = small_rmt(xl_length=4, backbone=small_backbone(num_kv_heads=2)).train()
    tokens, labels = random_tokens(4, 22), random_tokens(4, 22, seed=1)
    labels[0, :9] = -100
    mask = torch.ones(4, 22, dtype=torch.bool)
    mask[3, 13:] = False
    labels = labels.where(mask, -100)
    total = (labels != -100).sum()

    unrolled(cut_text(model, tokens, labels, length=5, mask=mask), None)[0].backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()

    wrapped = DistributedDataParallel(model)
    mine = slice(2 * rank, 2 * rank + 2)
    pieces = cut_text(wrapped, tokens[mine], labels[mine], length=5, mask=mask[mine], total_labels=total)
    replay(pieces, None, scale=2.0, exchange=lambda last: nullcontext() if last else wrapped.no_sync())
    errors = {
        name: (parameter.grad - expected[name]).abs().max().item() for name, parameter in model.named_parameters()
    }
    print(json.dumps(errors))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
