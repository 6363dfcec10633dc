"""Retention by hand: Python loops over every query and key, shared with no code of the package."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from seeds import seeded


class Case(NamedTuple):
    """Arguments of one retention call, in float64."""

    query: Tensor
    key: Tensor
    value: Tensor
    state: Tensor | None
    log_decay: Tensor
    mask: Tensor | None
    starts: Tensor | None

    def flags(self) -> dict[str, Tensor | None]:
        return {"log_decay": self.log_decay, "mask": self.mask, "starts": self.starts}

    def between(self, first: int, last: int) -> "Case":
        """The same for some of the tokens; the state is the caller's affair."""
        query, key, value = (tensor[:, :, first:last] for tensor in self[:3])
        log_decay = self.log_decay if self.log_decay.dim() == 1 else self.log_decay[:, :, first:last]
        mask, starts = (None if flags is None else flags[:, first:last] for flags in self[5:])
        return Case(query, key, value, self.state, log_decay, mask, starts)

    def learned(self) -> list[str]:
        """Fields that have a gradient; a decay of each head has none."""
        names = ["query", "key", "value", *([] if self.log_decay.dim() == 1 else ["log_decay"])]
        return names if self.state is None else [*names, "state"]


GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "paper": lambda x: torch.nn.functional.logsigmoid(x) / 16,
    "any": torch.nn.functional.logsigmoid,
    "strong": lambda x: -30 * x.abs(),
    "strong beside weak": lambda x: torch.where(x > 0, -1e5 * x, -1e-5 * x.abs()),
    "none": lambda x: 0 * x,
}


def random_case(
    seed: int,
    time: int,
    *,
    batch: int = 2,
    heads: int = 2,
    key_dim: int = 3,
    value_dim: int = 5,
    state: bool = True,
    mask: bool = False,
    starts: bool = False,
    log_decay: Tensor | None = None,
    gates: str | None = None,
) -> Case:
    """Normal inputs that, like those of a layer, are transposed views of ``(batch, time, heads, dim)``.

    With ``gates``, the name of a kind of decay in `GATES`, each row, head and token has a decay of its own.
    """
    random = seeded(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    if gates is not None:
        log_decay = GATES[gates](normal(batch, time, heads)).transpose(1, 2)
    query, key, value = (normal(batch, time, heads, dim).transpose(1, 2) for dim in (key_dim, key_dim, value_dim))
    return Case(
        query,
        key,
        value,
        normal(batch, heads, key_dim, value_dim) if state else None,
        torch.log1p(-torch.rand(heads, generator=random, dtype=torch.float64)) if log_decay is None else log_decay,
        torch.rand(batch, time, generator=random) < 0.7 if mask else None,
        torch.rand(batch, time, generator=random) < 0.2 if starts else None,
    )


def direct_retention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    state: Tensor | None,
    log_decay: Tensor,
    mask: Tensor | None,
    starts: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Outputs and last state; for each pair of query and key one weight, the product of the real tokens' decays.

    ``log_decay`` holds one number a head, or one for each row, head and token.
    """
    batch, heads, time, key_dim = query.shape
    rate = log_decay.view(1, heads, 1).expand(batch, heads, time) if log_decay.dim() == 1 else log_decay
    nothing = torch.zeros(key_dim, value.shape[3], dtype=query.dtype)
    outputs: list[Tensor] = []
    states: list[Tensor] = []

    def is_real(row: int, token: int) -> bool:
        return mask is None or bool(mask[row, token])

    def weight(row: int, head: int, source: int, sink: int) -> Tensor | None:
        """Of what was there after ``source`` (-1: the incoming state) at ``sink``; None if forgotten."""
        between = range(source + 1, sink + 1)
        if starts is not None and any(bool(starts[row, token]) for token in between):
            return None
        real = [token for token in between if is_real(row, token)]
        return rate[row, head, real].sum().exp()

    for row in range(batch):
        for head in range(heads):
            parts: list[tuple[int, Tensor]] = [] if state is None else [(-1, state[row, head])]
            for now in range(time):
                if is_real(row, now):
                    parts.append((now, torch.outer(key[row, head, now], value[row, head, now])))
                matrices = [w * m for source, m in parts if (w := weight(row, head, source, now)) is not None]
                total = sum(matrices, nothing)
                outputs.append(query[row, head, now] @ total if is_real(row, now) else nothing[0])
            states.append(total)
    return torch.stack(outputs).view(value.shape), torch.stack(states).view(batch, heads, *nothing.shape)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest deviation, as a share of the largest expected value."""
    found, expected = found.detach().double(), expected.detach()
    scale = expected.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    return float((found - expected).abs().max() / scale)


def check_long_text(
    form: Callable[..., tuple[Tensor, Tensor]],
    dtype: torch.dtype,
    log_decay: Tensor,
    weights: Callable[[int], Tensor],
) -> None:
    """Compare a form over 131,072 tokens with sums in float64; ``weights(now)`` are those of the tokens up to one."""
    time, heads, dim = 131_072, 2, 4
    random = seeded(0)
    # Positive inputs: sums as large as they get.
    query, key, value = (torch.rand(1, heads, time, dim, generator=random).to(dtype) for _ in range(3))
    output, state = form(query, key, value, log_decay=log_decay)
    assert output.dtype == dtype
    assert state.dtype == torch.float32
    assert output.isfinite().all()
    tolerance = {torch.bfloat16: 1e-2, torch.float16: 1e-3, torch.float32: 5e-6}[dtype]
    q, k, v = (tensor.double() for tensor in (query, key, value))
    for now in (0, 63, 64, 65_537, time - 1):
        read = k[0, :, : now + 1], weights(now), v[0, :, : now + 1]
        exact = torch.einsum("hd,htd,ht,hte->he", q[0, :, now], *read)
        assert relative_error(output[0, :, now], exact) < tolerance
    assert relative_error(state[0], torch.einsum("htd,ht,hte->hde", k[0], weights(time - 1), v[0])) < tolerance
