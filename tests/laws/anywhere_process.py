"""Compiled training of a family, in a process of its own: ``anywhere_process.py FAMILY...``.

Torch cannot trace functions whose shapes are checked at run time, as those of the test run are.
"""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from laws.families import beside, random_tokens, small_model

UNROLLED = ("rmt", "retro")
"""Families that unroll segments or chunks: a program for each length."""


def gradients(call: object, model: torch.nn.Module, time: int) -> dict[str, torch.Tensor]:
    """Of the loss of some tokens."""
    tokens, labels = random_tokens(2, time), random_tokens(2, time, seed=1)
    model.zero_grad()
    loss = call(tokens, labels=labels, logits_to_keep=0, **beside(model, tokens)).loss
    loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"loss": loss.detach(), **{name: gradient.clone() for name, gradient in found.items()}}


class Logits(torch.nn.Module):
    """A model whose output is a tensor, as exported programs need it."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model(tokens).logits


def compare_exported(family: str, **changes: object) -> None:
    """Run an exported program for more rows than its example had, and for other numbers of tokens or none."""
    model = Logits(small_model(family, **changes))
    batch, time = torch.export.Dim("batch", min=2), torch.export.Dim("time", min=2)
    lengths = (9,) if family in UNROLLED else (2, 8, 9, 12, 13)
    if family in UNROLLED:
        with pytest.raises(ValueError, match=f"the number of tokens must be fixed to export a {family}"):
            torch.export.export(model, (random_tokens(2, 9),), dynamic_shapes=({0: batch, 1: time},))
    free = {0: batch} if family in UNROLLED else {0: batch, 1: time}
    exported = torch.export.export(model, (random_tokens(2, 9),), dynamic_shapes=(free,))
    if family == "retnet":
        assert not exported.constants, f"{family} copies {list(exported.constants)} to the device"
    program = exported.module()
    for length in lengths:
        tokens = random_tokens(3, length, seed=1)
        torch.testing.assert_close(program(tokens), model(tokens), rtol=1e-8, atol=1e-10, msg=f"{family} {length}")


def main() -> None:
    """Compare compiled training and exported programs with plain calls, and count programs."""
    compare_exported("transformer")
    compare_exported("retnet", log_decay=(-0.5, -0.01))
    for family in sys.argv[1:]:
        compare_exported(family)
        model = small_model(family).train()
        torch._dynamo.reset()
        programs = []

        def count(module: torch.fx.GraphModule, _: object, programs: list[object] = programs) -> object:
            programs.append(module)
            return module.forward

        compiled = torch.compile(model, backend=count, fullgraph=True, dynamic=family not in UNROLLED)
        # Chunks and a remainder, whole chunks, more of them.
        for time in (9,) if family in UNROLLED else (9, 12, 21):
            ours, plain = gradients(compiled, model, time), gradients(model, model, time)
            assert ours.keys() == plain.keys(), (family, time)
            for name, expected in plain.items():
                torch.testing.assert_close(ours[name], expected, rtol=1e-8, atol=1e-10, msg=f"{family} {time} {name}")
        assert len(programs) == 1, f"{family} was compiled {len(programs)} times"


if __name__ == "__main__":
    main()
