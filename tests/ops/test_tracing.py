"""The mathematics can be traced: no operation reads a value to decide what comes next."""

import subprocess
import sys

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ops.direct_sum import relative_error
from retentive.ops import (
    gated_retention_chunkwise,
    gated_retention_parallel,
    retention_chunkwise,
    retention_parallel,
    rotary_frequencies,
    rotary_tables,
    rotate,
)

# In a process of its own: torch.compile cannot trace functions whose shapes are checked at run time.
COMPILED = """
import torch
from retentive.ops import attention, gated_retention_chunkwise, log_decay_gate, log_decay_geometric
from retentive.ops import retention_chunkwise, rotary_frequencies, rotary_tables, rotate

def mix(query, key, value, mask, starts, pairs):
    cos, sin = rotary_tables(torch.arange(21)[None], frequencies)
    query, key = rotate(query, cos, sin, pairs=pairs), rotate(key, cos, sin, pairs=pairs)
    output, state = retention_chunkwise(query, key, value, log_decay=log_decay, chunk_size=8, mask=mask, starts=starts)
    gates = log_decay_gate(query.sum(-1))
    gated, state = gated_retention_chunkwise(
        query, key, value, state, log_decay=gates, chunk_size=8, mask=mask, starts=starts
    )
    return output + gated + attention(query, key, value, causal=True), state

frequencies, log_decay = rotary_frequencies(8), log_decay_geometric(3)
flags = torch.rand(2, 21) < 0.8, torch.rand(2, 21) < 0.1
for pairs, (mask, starts) in (("interleaved", (None, None)), ("half", flags)):
    inputs = [torch.randn(2, 21, 3, 8).transpose(1, 2).detach().requires_grad_() for _ in range(3)]
    results = []
    for function in (mix, torch.compile(mix, backend="aot_eager", fullgraph=True)):
        output, state = function(*inputs, mask, starts, pairs)
        results.append((output, state, *torch.autograd.grad(output.sum() + state.sum(), inputs)))
    for plain, compiled in zip(*results, strict=True):
        assert (compiled - plain).abs().max() < 1e-5 * plain.abs().max()
"""


def test_compiles_in_one_graph():
    run = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_shapes_alone_are_enough():
    with FakeTensorMode():
        fake = [torch.randn(2, 3, 70, 8, requires_grad=True) for _ in range(3)]
        output, state = retention_chunkwise(*fake)
        output.sum().backward()
        assert output.shape == (2, 3, 70, 8)
        assert state.shape == (2, 3, 8, 8)
        log_decay = torch.randn(2, 3, 70, requires_grad=True)
        output, state = gated_retention_chunkwise(*fake, log_decay=log_decay)
        output.sum().backward()
        assert output.shape == (2, 3, 70, 8)
        assert state.shape == (2, 3, 8, 8)
        assert log_decay.grad.shape == (2, 3, 70)
    meta = torch.randn(2, 3, 70, 8, device="meta")
    cos, sin = rotary_tables(torch.arange(70, device="meta")[None], rotary_frequencies(8, device="meta"))
    assert rotate(meta, cos, sin).shape == retention_chunkwise(meta, meta, meta)[0].shape == meta.shape
    assert gated_retention_chunkwise(meta, meta, meta, log_decay=meta[..., 0])[0].shape == meta.shape


def test_functional_gradients():
    inputs = [torch.randn(1, 2, 9, 4, dtype=torch.float64) for _ in range(3)]

    def loss(form):
        return lambda query, key, value: form(query, key, value)[0].square().sum()

    found = torch.func.grad(loss(retention_chunkwise), argnums=(0, 1, 2))(*inputs)
    expected = torch.func.grad(loss(retention_parallel), argnums=(0, 1, 2))(*inputs)
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours, theirs) < 1e-12


def test_functional_gradients_of_gated_retention():
    inputs = [torch.randn(1, 2, 9, 4, dtype=torch.float64) for _ in range(3)]
    log_decay = -torch.rand(1, 2, 9, dtype=torch.float64)

    def loss(form):
        return lambda query, key, value, log_decay: form(query, key, value, log_decay=log_decay)[0].square().sum()

    found = torch.func.grad(loss(gated_retention_chunkwise), argnums=(0, 1, 2, 3))(*inputs, log_decay)
    expected = torch.func.grad(loss(gated_retention_parallel), argnums=(0, 1, 2, 3))(*inputs, log_decay)
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours, theirs) < 1e-12
