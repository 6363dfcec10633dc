"""How often a request in a batch gets another token than alone, in float32, where products of batches round otherwise.

``python -m benchmarks.batched_rows --output docs/numbers/batched-rows.json``. Requests come and go in a `RequestBatch`,
half of them greedy and half drawn by a seed. Each is compared with ``generate`` alone: log-probabilities of the whole
vocabulary and the token, up to the first token that differs.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from retentive import (
    HybridConfig,
    RecurrentMemoryConfig,
    RetNetConfig,
    RetroConfig,
    Sampling,
    TransformerConfig,
    YocoConfig,
    generate,
)
from retentive.generation import Request, RequestBatch, RequestStep
from retentive.models.base import DecoderModel
from retentive.models.registry import build

VOCAB = 257
SIZES: dict[str, Any] = {"vocab_size": VOCAB, "hidden_size": 128, "num_layers": 4, "num_heads": 4}
CONFIGS: dict[str, Any] = {
    "transformer": TransformerConfig(**SIZES),
    "retnet": RetNetConfig(**SIZES),
    "hybrid": HybridConfig(**SIZES, pattern=("gated_retention", "attention")),
    "yoco": YocoConfig(**SIZES),
    "retro": RetroConfig(
        backbone=TransformerConfig(**SIZES),
        chunk_size=16,
        cross_layers=(2, 4),
        encoder_hidden_size=64,
        encoder_num_layers=2,
        encoder_num_heads=2,
    ),
    "rmt": RecurrentMemoryConfig(backbone=TransformerConfig(**SIZES), segment_length=64, num_memory_tokens=8),
}


def requests(count: int, new_tokens: int) -> list[Request]:
    """Prompts of different lengths; every other one is drawn."""
    generator = torch.Generator().manual_seed(1)
    made: list[Request] = []
    for number in range(count):
        prompt = torch.randint(0, VOCAB, (3 + 11 * number % 90,), generator=generator).tolist()
        sampling = Sampling(temperature=1.0, seed=number) if number % 2 else Sampling()
        made.append(Request(prompt=prompt, max_new_tokens=new_tokens, sampling=sampling, logprobs=VOCAB))
    return made


def in_a_batch(model: DecoderModel, asked: list[Request], at_once: int) -> list[list[RequestStep]]:
    """What each request gets, so many at a time: one comes when one has ended."""
    batch, left = RequestBatch(model, tokens_per_step=32), list(enumerate(asked))
    names: dict[int, int] = {}
    got: list[list[RequestStep]] = [[] for _ in asked]
    while left or batch.is_busy:
        if left and len(batch.running) + len(batch.waiting) < at_once:
            number, request = left.pop(0)
            names[batch.admit(request)] = number
        for step in batch.step():
            got[names[step.number]].append(step)
    return got


def compare(model: DecoderModel, asked: list[Request], at_once: int) -> dict[str, Any]:
    """Tokens compared, those that differ first, and the largest difference of log-probabilities."""
    compared, differing, largest = 0, 0, 0.0
    for request, steps in zip(asked, in_a_batch(model, asked, at_once), strict=True):
        alone = generate(
            model, request.prompt, max_new_tokens=request.max_new_tokens, sampling=request.sampling, logprobs=VOCAB
        )
        assert alone.logprobs is not None
        for token, logprobs, step in zip(alone.tokens[0].tolist(), alone.logprobs[0], steps, strict=True):
            assert step.logprobs is not None
            own, other = dict(logprobs.top), dict(step.logprobs.top)
            largest = max(largest, *(abs(own[each] - other[each]) for each in own))
            compared += 1
            if token != step.token:
                differing += 1
                break
    return {"tokens": compared, "first_tokens_that_differ": differing, "largest_difference": largest}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--families", nargs="+", choices=sorted(CONFIGS), default=sorted(CONFIGS))
    options = parser.parse_args()
    asked, results = requests(options.requests, options.new_tokens), dict[str, Any]()
    for name in options.families:
        torch.manual_seed(0)
        model = build(CONFIGS[name]).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2)  # so that the likeliest token depends on the text
        results[name] = compare(model, asked, options.at_once)
        print(name, results[name], flush=True)
    if options.output is not None:
        options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
