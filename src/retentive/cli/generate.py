"""``retentive generate``: text as a stream, and a state that goes on later."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from jsonargparse import ArgumentParser, Namespace

from retentive.checkpoints import load_model, load_state, save_state
from retentive.cli.options import add_config, read_config
from retentive.data.tokenizer import load_tokenizer
from retentive.generation import Sampling, TokenStream, stream
from retentive.generation.text_stream import TextStream

POSITIONAL = "checkpoint"


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Write text with a trained model.

    Args:
        checkpoint: Folder of a model, as "retentive train" writes it.
        prompt: Text to go on from; "-" reads it from standard input. Without it a new document begins, or the state
            goes on.
        max_new_tokens: Tokens to write at most.
        temperature: Logits are divided by it: below 1 the likely gain; 0 always takes the likeliest.
        top_k: Draw among so many of the likeliest tokens only.
        top_p: Draw among the fewest tokens whose probability reaches this.
        seed: The same seed writes the same text; without it, another text each time.
        stop_at_end: Stop where the model ends the document.
        state: File of a saved state to go on from; the prompt, if any, is read after it.
        save_state: File to write the state to at the end, or on Ctrl-C.
        echo: Print the prompt before the text.
        device: "cpu", "cuda", or "auto": a GPU where there is one.
    """

    checkpoint: Path
    prompt: str | None = None
    max_new_tokens: int = 200
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    stop_at_end: bool = True
    state: Path | None = None
    save_state: Path | None = None
    echo: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device must be 'auto', 'cpu' or 'cuda', but is {self.device!r}.")


def add_options(parser: ArgumentParser, arguments: list[str]) -> None:
    """Every field of `GenerateConfig`."""
    add_config(parser, GenerateConfig)


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Stream text to standard output."""
    config = read_config(parser, options, GenerateConfig)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    model = load_model(config.checkpoint, device)
    tokenizer = load_tokenizer(config.checkpoint)
    prompt = sys.stdin.read() if config.prompt == "-" else config.prompt
    state = None if config.state is None else load_state(config.state, model)
    ids = tokenizer.encode(prompt) if prompt else []
    if state is None:
        ids = [tokenizer.end_of_text, *ids]  # as every document began in training
    tokens = stream(
        model,
        ids or None,
        max_new_tokens=config.max_new_tokens,
        sampling=_sampling(config),
        stop_tokens=[tokenizer.end_of_text] if config.stop_at_end else [],
        state=state,
    )
    if config.echo and prompt:
        print(prompt, end="", flush=True)
    finished = _print(tokens, TextStream(tokenizer))
    if config.save_state is not None:
        save_state(tokens.state, config.save_state, model)
        print(f"state saved: go on with --state {config.save_state}", file=sys.stderr)
    if not finished:
        raise KeyboardInterrupt


def _sampling(config: GenerateConfig) -> Sampling:
    if config.temperature == 0:
        return Sampling(top_k=config.top_k, top_p=config.top_p, seed=config.seed)
    return Sampling(temperature=config.temperature, top_k=config.top_k, top_p=config.top_p, seed=config.seed)


def _print(tokens: TokenStream, text: TextStream) -> bool:
    """Write text as it comes; False if Ctrl-C ended it."""
    finished = True
    try:
        for (token,) in tokens:
            if token is not None:
                print(text.push(token), end="", flush=True)
    except KeyboardInterrupt:
        finished = False
    print(text.finish(), flush=True)
    return finished
