"""The works of the ``yet-another-retnet`` package (0.5.1), called in the ways that are fastest for it.

Training is its ``forward(inputs, labels)``, the parallel form: the only call of the package that gives a loss.
``training_step_by_chunks`` is what a user could write by hand around its ``forward_chunkwise``; nothing in the package
does that, but it shows how much of a difference the form makes.

Prefill is its chunkwise form, the only one that both takes many tokens and gives a state. The model's own
``forward_chunkwise`` computes the logits of every token (``prefill_all_logits``); ``prefill`` calls its public parts,
``embedding``, ``decoder`` and ``out``, and applies the head to the last position only, which is kinder to it.

Decode is its ``forward_recurrent``, in inference mode; ``decode_on_one_thread`` lowers torch's threads around it.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from yet_another_retnet.retnet import RetNet

from benchmarks.racing.worker import Work
from benchmarks.workers.training_step import products_in, random_tokens, training_step


def works(
    *, vocab_size: int, hidden_size: int, num_layers: int, num_heads: int, intermediate_size: int, threads: int
) -> Mapping[str, Callable[..., Work]]:
    """The works, over one model of the given shape."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = RetNet(
        vocab_size,
        d_model=hidden_size,
        nhead=num_heads,
        num_layers=num_layers,
        dim_feedforward=intermediate_size,
        dropout=0.0,
    )
    return {
        "training_step": lambda time, precision="float32": training_step(
            model, model, vocab_size=vocab_size, time=time, precision=precision
        ),
        "training_step_by_chunks": partial(_training_step_by_chunks, model, vocab_size),
        "prefill": partial(_prefill, model, vocab_size),
        "prefill_all_logits": partial(_prefill_all_logits, model, vocab_size),
        "decode": partial(_decode, model, vocab_size),
        "decode_on_one_thread": partial(_decode_on_one_thread, model, vocab_size),
        "save": partial(_save, model, vocab_size),
    }


def _training_step_by_chunks(
    model: RetNet, vocab_size: int, *, time: int, chunk_size: int, precision: str = "float32"
) -> Work:
    def loss_of(tokens: Tensor, labels: Tensor) -> Tensor:
        states: list[Tensor] = []
        losses: list[Tensor] = []
        for begin in range(0, time, chunk_size):
            logits, states = model.forward_chunkwise(tokens[:, begin : begin + chunk_size], begin, states)
            chunk_labels = labels[:, begin : begin + chunk_size]
            losses.append(torch.nn.functional.cross_entropy(logits[0], chunk_labels[0], reduction="sum"))
        return torch.stack(losses).sum() / time

    return training_step(model, loss_of, vocab_size=vocab_size, time=time, precision=precision)


def _prefill(model: RetNet, vocab_size: int, *, time: int, chunk_size: int, precision: str = "float32") -> Work:
    tokens = random_tokens(1, time, vocab_size)

    def run() -> None:
        with products_in(precision):
            read(model, tokens, chunk_size)

    return Work(run=run, units=time)


def _prefill_all_logits(model: RetNet, vocab_size: int, *, time: int, chunk_size: int) -> Work:
    tokens = random_tokens(1, time, vocab_size)

    @torch.inference_mode()
    def run() -> tuple[Tensor, list[Tensor]]:
        model.eval()
        states: list[Tensor] = []
        for begin in range(0, time, chunk_size):
            logits, states = model.forward_chunkwise(tokens[:, begin : begin + chunk_size], begin, states)
        return logits[:, -1], states

    return Work(run=run, units=time)


def _decode(model: RetNet, vocab_size: int, *, batch: int, context: int, steps: int) -> Work:
    _, states = read(model, random_tokens(batch, context, vocab_size), min(context, 512))
    following = random_tokens(batch, steps, vocab_size)

    @torch.inference_mode()
    def run() -> None:
        model.eval()
        carried = states
        for step in range(steps):
            _, carried = model.forward_recurrent(following[:, step], context + step, carried)

    size = sum(state.numel() * state.element_size() for state in states)
    return Work(run=run, units=steps, facts={"state_bytes": size})


def _decode_on_one_thread(model: RetNet, vocab_size: int, *, batch: int, context: int, steps: int) -> Work:
    """The same, with what `retentive.generate` does by itself done by hand: small products are not shared out."""
    work = _decode(model, vocab_size, batch=batch, context=context, steps=steps)

    def run() -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            work.run()
        finally:
            torch.set_num_threads(threads)

    return Work(run=run, units=work.units, facts=work.facts)


def _save(model: RetNet, vocab_size: int, *, path: str, time: int) -> Work:
    """Write weights, tokens and their logits, for the other side to show that it is the same model."""
    tokens = random_tokens(1, time, vocab_size)
    # no_grad: the package keeps decay masks, and one made in inference mode could not be trained with.
    with torch.no_grad():
        logits = model.eval().forward_parallel(tokens)
    torch.save({"weights": model.state_dict(), "tokens": tokens, "logits": logits}, path)
    return Work(run=lambda: None)


@torch.inference_mode()
def read(model: RetNet, tokens: Tensor, chunk_size: int) -> tuple[Tensor, list[Tensor]]:
    """Read a prompt chunk by chunk; the logits after its last token, and the state."""
    model.eval()
    states: list[Tensor] = []
    hidden = torch.empty(0)
    for begin in range(0, tokens.shape[1], chunk_size):
        embedded = model.embedding(tokens[:, begin : begin + chunk_size])
        hidden, states = model.decoder.forward_chunkwise(embedded, begin, states)
    return model.out(hidden[:, -1]), states
