"""Compiles all programs for GPUs, which need not be there: ``python -m ops.kernels.compiling`` prints their memory."""

import inspect
import json
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from retentive.ops.kernels.launch import Launch

CAPABILITIES = (80, 90)
TYPES = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
}


class Compiled(Launch):
    """Compiles what would be launched."""

    memory: dict[str, int]

    def _run(self, program: Any, grid: tuple[int, ...], *tensors: torch.Tensor, **constants: Any) -> None:
        parameters = inspect.signature(program.fn).parameters.values()
        fixed = {parameter.name for parameter in parameters if parameter.annotation is triton.language.constexpr}
        names = [parameter.name for parameter in parameters][: len(tensors)]
        signature = {name: TYPES[tensor.dtype] for name, tensor in zip(names, tensors, strict=True)}
        given = {**self._constants, **constants}
        signature |= {name: "constexpr" if name in fixed else "i32" for name in given}
        source = ASTSource(program, signature, constexprs={name: given[name] for name in given if name in fixed})
        for capability in CAPABILITIES:
            compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
            self.memory[f"{program.__name__}, {self.query.dtype}, {capability}"] = compiled.metadata.shared


def main() -> None:
    """Print the bytes of shared memory that each program takes, as JSON."""
    Compiled.memory = {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16):  # float16 has the products of float32
        query, value = torch.zeros(1, 2, 130, 128, dtype=dtype), torch.zeros(1, 2, 130, 256, dtype=dtype)
        launch = Compiled(query, query, value, torch.zeros(1, 2, 3, 64))
        output, after, states = launch.outputs(torch.zeros(1, 2, 128, 256, dtype=launch._wide))
        launch.gradients(states, output, after, of_decay=True)
    json.dump(Compiled.memory, sys.stdout)


if __name__ == "__main__":
    main()
