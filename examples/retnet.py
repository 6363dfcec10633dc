"""A RetNet learns a text, writes, saves its state, and goes on from it: a state of constant size."""

import calendar
import inspect
import tempfile
from pathlib import Path

import torch

from retentive import RetNet, RetNetConfig, Sampling, generate, load_model, load_state, save_model, save_state
from retentive.text.byte_tokenizer import ByteTokenizer

STEPS, WINDOW = 60, 64

torch.manual_seed(0)
tokenizer = ByteTokenizer()
text = torch.tensor(tokenizer.encode(inspect.getsource(calendar)))
model = RetNet(RetNetConfig(vocab_size=tokenizer.vocab_size, hidden_size=64, num_layers=2, num_heads=2))
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)

losses = []
for _ in range(STEPS):
    begins = torch.randint(len(text) - WINDOW - 1, (12,))
    rows = torch.stack([text[begin : begin + WINDOW + 1] for begin in begins])
    loss = model(rows[:, :-1], labels=rows[:, 1:], logits_to_keep=0).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f} nats per byte")

prompt, sampling = tokenizer.encode("def "), Sampling(temperature=0.7, seed=0)
first = generate(model, prompt, max_new_tokens=60, sampling=sampling)
print("def " + tokenizer.decode(first.tokens[0].tolist()))

with tempfile.TemporaryDirectory() as folder:
    save_model(model, Path(folder) / "model", tokenizer)
    save_state(first.state, Path(folder) / "session.safetensors", model)
    again = load_model(Path(folder) / "model")
    state = load_state(Path(folder) / "session.safetensors", again)
rest = generate(again, max_new_tokens=40, sampling=sampling, state=state)
whole = generate(model, prompt, max_new_tokens=100, sampling=sampling)
assert torch.equal(torch.cat((first.tokens[0], rest.tokens[0])), whole.tokens[0])
print(f"went on from a state of {state.size_in_bytes:,} bytes with the same text as without a stop")
