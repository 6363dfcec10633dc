"""One model in several processes: DDP copies it, FSDP2 shards it; and its precision."""

from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from retentive.layers.block import Block
from retentive.models.protocol import LanguageModel, ModelOutput, as_module
from retentive.training.processes.processes import Processes

Precision = Literal["float32", "bfloat16"]


def parallelise(
    model: LanguageModel,
    processes: Processes,
    strategy: Literal["ddp", "fsdp"],
    precision: Precision,
    weights: Iterable[tuple[str, Tensor]] | None = None,
) -> nn.Module:
    """Wrap a model, which has the same weights in all processes, for training in all of them.

    The gradients of the result are means over the processes.

    Args:
        model: On the processes' device; FSDP shards a model from any device, in place and block by block.
        processes: The processes that train together; for one alone the model is returned unchanged.
        strategy: DDP or FSDP2.
        precision: FSDP computes in it by casting parameters; for the others see `autocast`.
        weights: For FSDP, of a model without memory (on the meta device): every parameter by name, whole and the same
            in all processes. Each is cut and freed before the next is asked for.
    """
    module = as_module(model)
    if processes.mesh is None:
        return module
    module.register_forward_hook(_use_every_parameter)  # before FSDP's, which looks at what the forward pass returns
    if strategy == "ddp":
        on_gpu = processes.device.type == "cuda"
        return DistributedDataParallel(
            module, device_ids=[processes.device] if on_gpu else None, gradient_as_bucket_view=True
        )
    policy = MixedPrecisionPolicy()
    if precision == "bfloat16":
        # Inputs stay as they are: a carried state among them is float32, whatever the layers compute in.
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for part in module.modules():
        if isinstance(part, Block):
            fully_shard(part, mesh=processes.mesh, mp_policy=policy)
    fully_shard(module, mesh=processes.mesh, mp_policy=policy)
    if weights is not None:
        _fill_shards(module, processes.device, weights)
    return module


@torch.no_grad()
def _fill_shards(module: nn.Module, device: torch.device, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Give a sharded model memory for this process's parts alone, and fill them."""
    module.to_empty(device=device)
    unfilled = dict(module.named_parameters())
    for name, whole in weights:
        shard = unfilled.pop(name)
        assert isinstance(shard, DTensor)
        # Without a source rank: each process cuts what it has, and sends nothing.
        mine = distribute_tensor(whole, shard.device_mesh, shard.placements, src_data_rank=None)
        shard.to_local().copy_(mine.to_local())
    assert not unfilled, unfilled.keys()


def _use_every_parameter(module: nn.Module, _: tuple[object, ...], output: ModelOutput) -> ModelOutput:
    """Give every parameter a gradient, as all processes must exchange the same ones."""
    if not torch.is_grad_enabled():
        return output
    others = [parameter for parameter in cast("LanguageModel", module).optional_parameters() if parameter.requires_grad]
    if not others:
        return output
    nothing = sum((parameter.flatten()[:1].sum() * 0.0 for parameter in others), start=others[0].new_zeros(()))
    if output.loss is not None:
        return replace(output, loss=output.loss + nothing)
    return output if output.logits is None else replace(output, logits=output.logits + nothing)


def autocast(model: nn.Module, device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return the context for products in bfloat16, if that is the precision; FSDP casts parameters by itself."""
    if precision == "float32" or isinstance(model, FSDPModule):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


@contextmanager
def gradients_exchanged(model: nn.Module, exchange: bool) -> Generator[None]:
    """Decide whether backward passes inside exchange gradients: only the last part of an accumulated batch needs to."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(exchange)
        yield
    elif isinstance(model, DistributedDataParallel) and not exchange:
        with model.no_sync():
            yield
    else:
        yield


def release(model: nn.Module) -> None:
    """Free the gathered parameters that FSDP keeps after a forward pass without a backward pass."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
