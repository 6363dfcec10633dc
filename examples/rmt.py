"""A Recurrent Memory Transformer remembers a token over segments that it cannot see any more.

Each row begins with a secret, goes on with noise for several segments, and ends with a question: which was it?
"""

import torch

from retentive import RecurrentMemoryConfig, RecurrentMemoryTransformer, TransformerConfig

VOCAB, SECRETS, ASK = 12, 4, 11
SEGMENT, STEPS = 8, 220

torch.manual_seed(0)
backbone = TransformerConfig(vocab_size=VOCAB, hidden_size=32, num_layers=2, num_heads=2)
config = RecurrentMemoryConfig(backbone=backbone, segment_length=SEGMENT, num_memory_tokens=2)


def rows(number: int, segments: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, and the secret as the label of the last one."""
    tokens = torch.randint(SECRETS, ASK, (number, segments * SEGMENT))
    secret = torch.randint(SECRETS, (number,))
    tokens[:, 0], tokens[:, -1] = secret, ASK
    labels = torch.full_like(tokens, -100)
    labels[:, -1] = secret
    return tokens, labels


def train(model: RecurrentMemoryTransformer) -> float:
    """Learn over one segment, then two, then three; the share of right answers over three."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(STEPS):
        tokens, labels = rows(32, segments=1 + step * 3 // STEPS)
        loss = model(tokens, labels=labels, logits_to_keep=0).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tokens, labels = rows(200, segments=3)
    return (model.eval()(tokens, logits_to_keep=1).logits[:, -1].argmax(-1) == labels[:, -1]).float().mean().item()


with_memory = train(RecurrentMemoryTransformer(config))
print(f"with {config.num_memory_tokens} memory tokens: {with_memory:.0%} right")
blind = RecurrentMemoryConfig(backbone=backbone, segment_length=SEGMENT, num_memory_tokens=0)
print(f"without: {train(RecurrentMemoryTransformer(blind)):.0%} right; guessing gives {1 / SECRETS:.0%}")
