"""RETRO token by token, written from the paper's algorithm 1 and listing 1: loops, and distances instead of rotation
by position. It shares parameters, norms, mixers and feed-forwards with the model, and nothing else."""

import torch
from torch import Tensor

from retentive.layers.cross_attention import CrossAttention
from retentive.models.retro import Retro


def turned(heads: Tensor, distance: int) -> Tensor:
    """Rotate (heads, dim) by a distance, so that the score of a query and a key tells how far apart they are."""
    dim = heads.shape[-1]
    angle = distance * 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    first, second = heads[:, 0::2], heads[:, 1::2]
    return torch.stack(
        (first * angle.cos() - second * angle.sin(), first * angle.sin() + second * angle.cos()), -1
    ).flatten(1)


def attend(layer: CrossAttention, x: Tensor, memory: list[tuple[Tensor, int]]) -> Tensor:
    """One token reads memory: what it is made of, and the distance d(query, key) of each entry."""
    heads, dim = layer.config.num_heads, layer.config.head_dim
    if not memory:
        return torch.zeros_like(x)
    query = (x @ layer.query_proj.weight.T).view(heads, dim)
    scores, values = [], []
    for entry, distance in memory:
        key, value = (entry @ layer.key_value_proj.weight.T).chunk(2)
        turned_query = turned(query, distance) if layer.config.rotary else query
        scores.append((turned_query * key.view(heads, dim)).sum(-1) / dim**0.5)
        values.append(value.view(heads, dim))
    weights = torch.stack(scores).softmax(0)
    return (weights[..., None] * torch.stack(values)).sum(0).flatten() @ layer.output_proj.weight.T


def encode(model: Retro, neighbour: list[int], chunk: Tensor) -> list[Tensor]:
    """ENCODER of algorithm 1, for one neighbour without padding and the hidden states of its chunk."""
    encoder = model.encoder
    table = model.decoder.embedding.tokens if encoder.embedding is None else encoder.embedding
    tokens = [table.weight[token] for token in neighbour]
    if encoder.embedding_proj is not None:
        tokens = [encoder.embedding_proj(x) for x in tokens]
    condition = chunk if encoder.condition_norm is None else encoder.condition_norm(chunk)
    for block in encoder.blocks:
        scale = block.residual_scale

        def add(x: Tensor, output: Tensor, norm, scale=scale) -> Tensor:
            return x + output if scale is None else norm(scale * x + output)

        def before(x: Tensor, norm, scale=scale) -> Tensor:
            return norm(x) if scale is None else x

        read = [before(x, block.attention_norm) for x in tokens]
        mixed = [
            attend(block.attention, query, [(entry, i - j) for j, entry in enumerate(read)])
            for i, query in enumerate(read)
        ]
        tokens = [add(x, m, block.attention_norm) for x, m in zip(tokens, mixed, strict=True)]
        if block.cross is not None:
            mixed = [
                attend(block.cross, before(x, block.cross_norm), [(h, i - j) for j, h in enumerate(condition)])
                for i, x in enumerate(tokens)
            ]
            tokens = [add(x, m, block.cross_norm) for x, m in zip(tokens, mixed, strict=True)]
        tokens = [
            add(x, block.feed_forward(before(x, block.feed_forward_norm)[None, None])[0, 0], block.feed_forward_norm)
            for x in tokens
        ]
    return [encoder.norm(x) for x in tokens]


def added(block, x: Tensor, output: Tensor, norm) -> Tensor:
    """The residual stream of the decoder after one half of a block."""
    return x + output if block.residual_scale is None else norm(block.residual_scale * x + output)


def naive_logits(model: Retro, tokens: Tensor, neighbours: Tensor) -> Tensor:
    """Logits of one row of tokens (time) with neighbours (chunks, k, length), -1 only at the end of each."""
    config = model.config
    m, time = config.chunk_size, len(tokens)
    layout = model.decoder.layout(tokens[None], None)
    hidden = model.decoder.embed(tokens[None], layout)
    encoded: list[list[list[Tensor]]] = []
    for number, block in enumerate(model.decoder.blocks, 1):
        mixed = block.mixer(hidden if block.residual_scale else block.mixer_norm(hidden), None, layout)[0]
        hidden = added(block, hidden, mixed, block.mixer_norm)
        if number == config.cross_layers[0]:
            for u in range(time // m):
                real = [[int(token) for token in neighbour if token >= 0] for neighbour in neighbours[u]]
                encoded.append([encode(model, neighbour, hidden[0, u * m : (u + 1) * m]) for neighbour in real])
        if number in config.cross_layers:
            cross = model.cross[config.cross_layers.index(number)]
            rows = []
            for position in range(time):
                x = hidden[0, position]
                # The attending chunk of E_u is H from position (u + 1) m - 1 on, m tokens long.
                u, i = (position + 1) // m - 1, (position + 1) % m
                memory = [
                    (entry, i - j + m - 1)
                    for neighbour in (encoded[u] if u >= 0 else [])
                    for j, entry in enumerate(neighbour)
                ]
                if not memory:
                    rows.append(x)
                elif cross.residual_scale is None:
                    rows.append(x + attend(cross.attention, cross.norm(x), memory))
                else:
                    rows.append(cross.norm(cross.residual_scale * x + attend(cross.attention, x, memory)))
            hidden = torch.stack(rows)[None]
        fed = block.feed_forward(hidden if block.residual_scale else block.feed_forward_norm(hidden))
        hidden = added(block, hidden, fed, block.feed_forward_norm)
    return model.decoder.logits(model.decoder.norm(hidden))[0]
