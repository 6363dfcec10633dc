"""``retro_pytorch.optimizer``."""

from collections.abc import Iterable

import torch
from torch import nn


def get_optimizer(
    params: Iterable[nn.Parameter], lr: float = 3e-4, wd: float = 1e-1, filter_by_requires_grad: bool = False
) -> torch.optim.AdamW:
    """AdamW with weight decay for matrices only; parameters keep the model's order, which saved states need."""
    chosen = [parameter for parameter in params if parameter.requires_grad or not filter_by_requires_grad]
    groups = [
        {"params": [parameter for parameter in chosen if parameter.ndim >= 2]},
        {"params": [parameter for parameter in chosen if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, weight_decay=wd)
