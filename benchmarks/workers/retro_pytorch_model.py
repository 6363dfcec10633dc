"""The model of the ``retro-pytorch`` package (0.3.9), called as its own training and generation call it.

Its constructor takes ``heads`` and does not pass it on; the encoder and the decoder are made here by its own classes
with the heads that are asked for, which is kinder to it than its 8. Its encoder reads the chunk in the first layer
alone, as in the paper and as ours; by default it would in every one.

It has no state: each new token is a call over all tokens so far with the neighbours of all chunks. That call is what is
timed; looking for neighbours is in nobody's time.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from retro_pytorch.retro_pytorch import RETRO, Decoder, Encoder
from torch import Tensor

from benchmarks.racing.worker import Work
from benchmarks.workers.training_step import random_neighbours, random_tokens, training_step


def works(
    *,
    vocab_size: int,
    hidden_size: int,
    encoder_layers: int,
    num_layers: int,
    cross_layers: list[int],
    num_heads: int,
    chunk_size: int,
    neighbours: int,
    max_length: int,
    threads: int,
) -> Mapping[str, Callable[..., Work]]:
    """The works, over one model of the given shape."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = RETRO(
        num_tokens=vocab_size,
        max_seq_len=max_length,
        enc_dim=hidden_size,
        enc_depth=encoder_layers,
        enc_cross_attn_layers=(1,),
        dec_dim=hidden_size,
        dec_depth=num_layers,
        dec_cross_attn_layers=tuple(cross_layers),
        dim_head=hidden_size // num_heads,
        chunk_size=chunk_size,
        pad_id=-1,
    )
    shape = {"dim": hidden_size, "heads": num_heads, "dim_head": hidden_size // num_heads}
    model.encoder = Encoder(
        **shape, context_dim=hidden_size, depth=encoder_layers, cross_attn_layers=(1,), output_dim=hidden_size
    )
    model.decoder = Decoder(**shape, depth=num_layers, cross_attn_layers=tuple(cross_layers), chunk_size=chunk_size)
    sizes = (vocab_size, chunk_size, neighbours)
    return {"training_step": partial(_training_step, model, *sizes), "decode": partial(_decode, model, *sizes)}


def _training_step(
    model: RETRO, vocab_size: int, chunk_size: int, k: int, *, time: int, precision: str = "float32"
) -> Work:
    found = random_neighbours(1, time // chunk_size, k, 2 * chunk_size, vocab_size)

    def loss_of(tokens: Tensor, labels: Tensor) -> Tensor:
        # It cuts the labels off a text that is one token longer.
        return model(torch.cat((tokens, labels[:, -1:]), 1), retrieved=found, return_loss=True)

    work = training_step(model, loss_of, vocab_size=vocab_size, time=time, precision=precision)
    return Work(run=work.run, units=work.units, facts={"parameters": float(sum(p.numel() for p in model.parameters()))})


def _decode(model: RETRO, vocab_size: int, chunk_size: int, k: int, *, context: int, steps: int) -> Work:
    """Some tokens after ``context``, whole chunks: each by a call over everything."""
    tokens = random_tokens(1, context + steps, vocab_size)
    found = random_neighbours(1, context // chunk_size, k, 2 * chunk_size, vocab_size)

    def run() -> None:
        model.eval()
        with torch.inference_mode():
            for step in range(steps):
                model(tokens[:, : context + step], retrieved=found)[:, -1].argmax(-1)

    return Work(run=run, units=steps)
