"""Every family on the device: autocast in bfloat16 and float16, the whole model compiled, and steps as CUDA graphs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.utils import counters

from benchmarks.gpu_check.measuring import seconds_of
from laws.families import beside, family_names, random_tokens, small_model
from retentive import RetNet, RetNetConfig, Transformer, TransformerConfig, generate
from retentive.models.base import DecoderModel

LOOSE = {torch.bfloat16: 0.1, torch.float16: 0.02}
COMPILED = ("retnet", "hybrid")
BATCHES = (1, 8, 64)


class Trained:
    """A model whose loss and gradients in float32 are known."""

    def __init__(self, family: str, device: str) -> None:
        """Make a small one, and read a text."""
        self._model = small_model(family, dtype=torch.float32).to(device)
        self._tokens = random_tokens(2, 40).to(device)
        self._device = torch.device(device).type
        self._loss, self._gradient = self._trained(self._model)

    def under_autocast(self, dtype: torch.dtype) -> dict[str, float]:
        """How far loss and gradient are from float32, as a share."""
        with torch.autocast(self._device, dtype):
            return self._apart(self._model, LOOSE[dtype])

    def compiled(self) -> dict[str, float]:
        """How far loss and gradient of the compiled model are from eager ones, as a share."""
        return self._apart(torch.compile(self._model), 1e-3)

    def _apart(self, call: Callable[..., Any], most: float) -> dict[str, float]:
        loss, gradient = self._trained(call)
        found = {
            "loss": abs(loss - self._loss) / abs(self._loss),
            "gradient": float((gradient - self._gradient).norm() / self._gradient.norm()),
        }
        if not found["loss"] < most or not gradient.isfinite().all():
            raise ValueError(f"a loss or gradient is too far from eager float32: {found}")
        return found

    def _trained(self, call: Callable[..., Any]) -> tuple[float, Tensor]:
        loss = call(self._tokens, labels=self._tokens, **beside(self._model, self._tokens)).loss
        gradients = torch.autograd.grad(loss, list(self._model.parameters()), materialize_grads=True)
        return float(loss.detach()), torch.cat([gradient.flatten().float() for gradient in gradients])


def _tried(found: dict[str, Any], name: str, work: Callable[..., Any], *arguments: Any) -> None:
    """Do a work and keep what it returns; its failure is an entry of ``errors``, and no other work's affair."""
    try:
        found[name] = work(*arguments)
    except Exception as error:
        found["errors"].append(f"{name}: {type(error).__name__}: {error}"[:500])


def check_precisions(device: str, *, quick: bool, seconds: float) -> dict[str, Any]:
    """A training step of each family under autocast beside float32, and compiled beside eager."""
    found: dict[str, Any] = {"errors": []}
    for family in family_names():
        trained = Trained(family, device)
        for dtype in LOOSE:
            _tried(found, f"{family} {dtype}", trained.under_autocast, dtype)
        if family in COMPILED and not quick:
            _tried(found, f"{family} compiled", trained.compiled)
    return found


def check_decoding(device: str, *, quick: bool, seconds: float) -> dict[str, Any]:
    """Steps with and without CUDA graphs: the same tokens, and how many a second."""
    found: dict[str, Any] = {"errors": []}
    width, layers, count = (64, 2, 8) if quick else (1024, 8, 200)
    sizes = {"vocab_size": 8192, "hidden_size": width, "num_layers": layers, "num_heads": 8}
    for model in (RetNet(RetNetConfig(**sizes)), Transformer(TransformerConfig(**sizes))):
        model.to(device).eval()
        for batch in BATCHES[:1] if quick else BATCHES:
            _tried(found, f"{model.config.family} {batch}", _engines, model, batch, count, torch.device(device))
    # With none, every compiled step is a graph.
    found["graphs_skipped"] = counters["inductor"]["cudagraph_skips"]
    if found["graphs_skipped"]:
        found["errors"].append(f"{found['graphs_skipped']} programs were not captured as CUDA graphs")
    return found


def _engines(model: DecoderModel, batch: int, count: int, device: torch.device) -> dict[str, Any]:
    prompts = [[1 + row, 2, 3] for row in range(batch)]

    def write(engine: str, tokens: int) -> Tensor:
        return torch.stack(generate(model, prompts, max_new_tokens=tokens, engine=engine).tokens)

    eager, compiled = write("eager", count), write("compile", count)
    taken: dict[str, list[float]] = {"eager": [], "compile": []}
    for _ in range(3):
        for engine, times in taken.items():
            times.append(seconds_of(lambda engine=engine: write(engine, count), device))
    return {
        "same_tokens": float((eager == compiled).double().mean()),
        "tokens_per_second": {engine: batch * count / sorted(times)[1] for engine, times in taken.items()},
    }
