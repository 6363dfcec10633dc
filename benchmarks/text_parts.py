"""Memory of a training step on one long text, read in parts by 1, 2 and 4 processes.

``python -m benchmarks.text_parts --output docs/numbers/text-parts.json``. Each number of processes is started anew; a
process's memory is the most that is resident during the step above what was resident before it, with the model made and
a short step behind it. The losses are compared: they are of the same text and the same weights.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.racing.worker import peak_resident_bytes, start_of_peak
from retentive import HybridConfig, RetNetConfig, TransformerConfig
from retentive.models.registry import build
from retentive.training.processes.text_parts import read_in_parts

SIZES = {"vocab_size": 1024, "hidden_size": 256, "num_layers": 4, "num_heads": 4}
CONFIGS: dict[str, Any] = {
    "retention": RetNetConfig(**SIZES),
    "gated retention": HybridConfig(**SIZES, pattern=("gated_retention",)),
    "window attention": HybridConfig(**SIZES, pattern=("window_attention",), window=256),
    "attention": TransformerConfig(**SIZES),
}


def step(name: str, tokens: int, rank: int, count: int) -> tuple[float, float]:
    """One process's share of a forward and a backward pass: peak memory in MiB, and its part of the mean loss."""
    torch.manual_seed(0)
    model = build(CONFIGS[name])
    read_in_parts(model, dist.group.WORLD)
    text = torch.randint(0, SIZES["vocab_size"], (1, tokens + 1), generator=torch.Generator().manual_seed(1))

    def share(length: int) -> float:
        columns = slice(length * rank // count, length * (rank + 1) // count)
        loss = model(text[:, :-1][:, columns], labels=text[:, 1:][:, columns], logits_to_keep=0).loss
        loss = loss * (columns.stop - columns.start) / length
        loss.backward()
        return float(loss.detach())

    share(64 * count)
    model.zero_grad(set_to_none=False)
    before = start_of_peak()
    loss = share(tokens)
    return (peak_resident_bytes() - before) / 2**20, loss


def work(rank: int, count: int, meeting: str, name: str, tokens: int) -> None:
    """Measure as one of some processes; the first prints the highest peak and the loss."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    peak, loss = step(name, tokens, rank, count)
    highest, total = torch.tensor(peak), torch.tensor(loss)
    dist.all_reduce(highest, dist.ReduceOp.MAX)
    dist.all_reduce(total)
    if rank == 0:
        sys.stdout.write(json.dumps({"mebibytes": round(float(highest), 1), "loss": round(float(total), 5)}) + "\n")
    dist.destroy_process_group()


def measure(name: str, tokens: int, count: int) -> dict[str, Any]:
    """Start the processes of one measurement."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [sys.executable, "-m", "benchmarks.text_parts", "--count", str(count), "--model", name]
        arguments += ["--tokens", str(tokens), "--meeting", f"{folder}/group"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        started = [
            subprocess.Popen([*arguments, "--rank", str(rank)], stdout=subprocess.PIPE, text=True, env=environment)
            for rank in range(count)
        ]
        said = [process.communicate()[0] for process in started]
    return {"processes": count, **json.loads(said[0])}


def main() -> None:
    """Measure every model with 1, 2 and 4 processes, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--rank", type=int)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--model", default="retention")
    parser.add_argument("--meeting")
    asked = parser.parse_args()
    if asked.rank is not None:
        work(asked.rank, asked.count, asked.meeting, asked.model, asked.tokens)
        return
    found: dict[str, Any] = {"tokens": asked.tokens, **SIZES}
    for name in CONFIGS:
        found[name] = [measure(name, asked.tokens, count) for count in (1, 2, 4)]
        print(name, *found[name], sep="\n  ", flush=True)
    if asked.output is not None:
        asked.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
