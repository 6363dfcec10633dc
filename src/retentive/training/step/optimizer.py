"""AdamW, with weight decay for the matrices of linear layers alone."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from retentive.training.step.config import OptimizerConfig


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Make AdamW over all trainable parameters, in one group with weight decay and one without."""
    decaying, steady = decaying_parameters(model)
    groups = [
        {"params": list(decaying.values()), "weight_decay": config.weight_decay},
        {"params": list(steady.values()), "weight_decay": 0.0},
    ]
    devices = {parameter.device.type for parameter in (*decaying.values(), *steady.values())}
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=devices <= {"cpu", "cuda"},
    )


def decaying_parameters(model: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Return trainable parameters by name: those with weight decay and those without, in the order of the model.

    The matrices of linear layers decay. Norms, biases, embeddings and all else do not, nor does a matrix that is an
    embedding too (a tied head): weight decay would shrink the rows of tokens that a batch does not contain.
    """
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    matrices -= {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    decaying = {name: parameter for name, parameter in learning.items() if id(parameter) in matrices}
    return decaying, {name: parameter for name, parameter in learning.items() if name not in decaying}


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Float[Tensor, ""]:
    """Return the norm of all gradients together, over all processes where they are sharded."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def scale_gradients(parameters: Iterable[nn.Parameter], factor: float) -> None:
    """Multiply all gradients by a factor."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(factor)
