"""One document and many questions, with a prefix cache and without.

``python -m benchmarks.prefixes --output docs/numbers/prefixes.json``. Both ways answer the same questions, one by one
in turn, in one process; the seconds of each way are summed, and answers that differ are counted.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from retentive import PrefixCache, RecurrentMemoryConfig, RetNetConfig, TransformerConfig, generate
from retentive.models.protocol import LanguageModel
from retentive.models.registry import build

VOCAB = 1024
SIZES: dict[str, Any] = {"vocab_size": VOCAB, "hidden_size": 256, "num_layers": 4, "num_heads": 4}
CONFIGS: dict[str, Any] = {
    "retnet": RetNetConfig(**SIZES),
    "rmt": RecurrentMemoryConfig(backbone=TransformerConfig(**SIZES), segment_length=512, num_memory_tokens=16),
}


def compare(model: LanguageModel, tokens: int, questions: int, new_tokens: int) -> dict[str, Any]:
    """Seconds of all questions with the cache and without."""
    generator = torch.Generator().manual_seed(0)
    document = torch.randint(0, VOCAB, (tokens,), generator=generator).tolist()
    asked = [torch.randint(0, VOCAB, (16,), generator=generator).tolist() for _ in range(questions)]
    cache, seconds, differing = PrefixCache(), {"with": 0.0, "without": 0.0}, 0
    generate(model, document[:600], max_new_tokens=2)
    for question in asked:
        said: list[list[int]] = []
        for way, used in (("without", None), ("with", cache)):
            begin = time.perf_counter()
            result = generate(model, document + question, max_new_tokens=new_tokens, prefix_cache=used)
            seconds[way] += time.perf_counter() - begin
            said.append(result.tokens[0].tolist())
        differing += said[0] != said[1]
    return {
        "document_tokens": tokens,
        "questions": questions,
        "question_tokens": 16,
        "new_tokens": new_tokens,
        "seconds_with": round(seconds["with"], 2),
        "seconds_without": round(seconds["without"], 2),
        "times_faster": round(seconds["without"] / seconds["with"], 1),
        "answers_that_differ": differing,
        "hits": cache.hits,
        "state_bytes": cache.ram_in_use,
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--tokens", type=int, default=8000)
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--new-tokens", type=int, default=8)
    parser.add_argument("--families", nargs="+", choices=sorted(CONFIGS), default=sorted(CONFIGS))
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for name, config in CONFIGS.items():
        if name not in options.families:
            continue
        torch.manual_seed(0)
        results[name] = compare(build(config).eval(), options.tokens, options.questions, options.new_tokens)
        print(name, results[name], flush=True)
    if options.output is not None:
        options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
