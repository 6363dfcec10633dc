"""A RETRO learns to read what was found for it, and then writes from a table of text that it never saw.

Random codes cannot be predicted, unless they are looked up: a chunk's neighbour is the same chunk in the table, with
what follows it there.
"""

import torch

from retentive import TransformerConfig, generate
from retentive.models.retro import Retro, RetroConfig

VOCAB, CHUNK, STEPS = 32, 8, 120

torch.manual_seed(0)
backbone = TransformerConfig(vocab_size=VOCAB, hidden_size=48, num_layers=2, num_heads=2)
config = RetroConfig(
    backbone=backbone,
    chunk_size=CHUNK,
    cross_layers=(1, 2),
    encoder_hidden_size=48,
    encoder_num_layers=1,
    encoder_num_heads=2,
)
model = Retro(config)


def neighbours_of(tokens: torch.Tensor) -> torch.Tensor:
    """Each chunk and the one after it, as an exact search over these rows finds them; (batch, chunks, 2 * CHUNK)."""
    chunks = tokens.unflatten(1, (-1, CHUNK))
    following = torch.cat((chunks[:, 1:], torch.full_like(chunks[:, :1], -1)), 1)
    return torch.cat((chunks, following), 2)


optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
losses = []
for _ in range(STEPS):
    tokens = torch.randint(VOCAB, (16, 4 * CHUNK))
    labels = torch.cat((tokens[:, 1:], torch.full_like(tokens[:, :1], -100)), 1)
    loss = model(tokens, labels=labels, neighbours=neighbours_of(tokens), logits_to_keep=0).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f} nats per token; no model can go below 3.47 without reading")

store = torch.randint(VOCAB, (1, 4 * CHUNK))
table = {tuple(found[:CHUNK].tolist()): found for found in neighbours_of(store)[0]}


def look_up(chunks: torch.Tensor) -> torch.Tensor:
    """The neighbour of each chunk in the table; nothing where there is none."""
    nothing = torch.full((2 * CHUNK,), -1)
    return torch.stack([table.get(tuple(chunk.tolist()), nothing) for chunk in chunks])[:, None]


written = generate(model.eval(), store[0, :CHUNK], max_new_tokens=CHUNK, retriever=look_up).tokens[0]
right = (written == store[0, CHUNK : 2 * CHUNK]).float().mean()
print(f"of a text in the table, {right:.0%} of the next chunk is written as it stands there")
