"""Drafts against plain greedy decoding, by how many of them are right: ``python -m benchmarks.drafts``.

A greedy text is known once it was written. Its tokens are then drafted, each wrong with a given probability, and the
text is written again: same model, same text, and drafts of a known quality, with drafting that pauses where it loses
and with drafting that never does, in turns. Writes ``runs/bench/drafts.json`` and ``drafts.png``, and prints a table.
"""

import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from matplotlib import pyplot

from benchmarks.racing.pictures import finish
from retentive import RetNet, RetNetConfig, Sampling, Transformer, TransformerConfig
from retentive.generation.beginning import Beginning
from retentive.generation.decoding import DecodingOptions
from retentive.generation.drafts.decoding import DraftedDecoding
from retentive.generation.prompt import PromptBatch
from retentive.generation.stopping import Stopping
from retentive.models.base import DecoderModel

COLOURS = {"RetNet": "#1f77b4", "Transformer": "#ff7f0e"}
RIGHT = (0.0, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
TOKENS, ROUNDS, LONGEST = 256, 7, 8
SIZES = {"vocab_size": 8192, "hidden_size": 256, "num_layers": 4, "num_heads": 4, "intermediate_size": 512}


class KnownText:
    """Drafts a text that is known, each token wrong with some probability."""

    def __init__(self, text: Sequence[int], right: float, seed: int) -> None:
        """Take the text that will be written, its prompt included."""
        self._text, self._right, self._at, self._random = text, right, 0, random.Random(seed)

    def extend(self, tokens: Sequence[int]) -> None:
        """Count the tokens."""
        self._at += len(tokens)

    def draft(self, most: int) -> list[int]:
        """The next tokens, some of them wrong."""
        known = self._text[self._at : self._at + min(most, LONGEST)]
        return [token if self._random.random() < self._right else (token + 1) % 8192 for token in known]


class NoDrafts:
    """Drafts nothing: plain decoding by the same loop."""

    def extend(self, tokens: Sequence[int]) -> None:
        """Forget the tokens."""

    def draft(self, most: int) -> list[int]:
        """Nothing."""
        return []


def write(
    model: DecoderModel, prompt: torch.Tensor, drafter: KnownText | NoDrafts, *, pauses: bool = False
) -> tuple[list[int], float]:
    """Write the text; its tokens and the seconds after the first."""
    options = DecodingOptions(sampling=Sampling(), stopping=Stopping(max_new_tokens=TOKENS))
    beginning = Beginning(first=PromptBatch(tokens=prompt, mask=None), state=None, counts=None)
    decoding = DraftedDecoding(model, beginning, options, drafter, pauses=pauses)
    tokens = decoding.step().tolist()
    begun = time.perf_counter()
    while decoding.active:
        tokens += decoding.step().tolist()
    return tokens, time.perf_counter() - begun


def measure(model: DecoderModel) -> list[dict[str, float]]:
    """Speed by the share of drafted tokens that are right."""
    prompt = torch.randint(0, SIZES["vocab_size"], (1, 64))
    text, _ = write(model, prompt, NoDrafts())
    whole, found = [*prompt[0].tolist(), *text], []
    for right in RIGHT:
        ratios: dict[bool, list[float]] = {False: [], True: []}
        for seed in range(ROUNDS):
            _, plain = write(model, prompt, NoDrafts())
            for pauses, reached in ratios.items():
                again, drafted = write(model, prompt, KnownText(whole, right, seed), pauses=pauses)
                assert again == text, "drafts changed the text"
                reached.append(plain / drafted)
        always, pausing = median(ratios[False]), median(ratios[True])
        found.append({"right": right, "always": always, "pausing": pausing})
        print(f"{right:.0%} of drafted tokens right: {always:.2f}x, {pausing:.2f}x where it may pause", flush=True)
    return found


def main() -> None:
    """Measure both models, and draw."""
    torch.manual_seed(0)
    models: dict[str, DecoderModel] = {
        "RetNet": RetNet(RetNetConfig(**SIZES)).eval(),
        "Transformer": Transformer(TransformerConfig(**SIZES)).eval(),
    }
    results = {}
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for name, model in models.items():
        print(name)
        results[name] = measure(model)
        for kind, style in (("pausing", "o-"), ("always", "x:")):
            speeds = [row[kind] for row in results[name]]
            label = name if kind == "pausing" else f"{name}, drafting never pauses"
            axes.plot(RIGHT, speeds, style, color=COLOURS[name], label=label)
    axes.axhline(1, color="#888888", linestyle="--", linewidth=1)
    axes.set_xlabel("share of drafted tokens that are right")
    axes.set_ylabel("speed over plain greedy decoding")
    axes.legend()
    folder = Path("runs/bench")
    folder.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    measured = {"sizes": SIZES, "longest": LONGEST, "threads": threads, "results": results}
    (folder / "drafts.json").write_text(json.dumps(measured, indent=1))
    finish(figure, folder / "drafts.png", f"Drafts of {LONGEST} tokens, 256 channels, 4 layers, threads: {threads}")


if __name__ == "__main__":
    main()
