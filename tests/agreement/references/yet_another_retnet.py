"""RetNets of yet-another-retnet 0.5.1."""

from typing import Any

import torch
from references.drawing import EPSILONS, TIME, VOCAB, case, drawn, tokens
from torch import Tensor
from yet_another_retnet.retnet import RetNet

SIZES = {"num_tokens": VOCAB, "d_model": 16, "nhead": 2, "num_layers": 2, "dim_feedforward": 20}


def recurrent(model: RetNet) -> Tensor:
    steps, states = [], []
    for time in range(TIME):
        step, states = model.forward_recurrent(tokens()[:, time], time, states)
        steps.append(step)
    return torch.stack(steps, 1)


def chunkwise(model: RetNet) -> Tensor:
    pieces, states = [], []
    for begin in range(0, TIME, 8):
        piece, states = model.forward_chunkwise(tokens()[:, begin : begin + 8], begin, states)
        pieces.append(piece)
    return torch.cat(pieces, 1)


def cases() -> dict[str, dict[str, Any]]:
    found = {}
    for epsilon in EPSILONS:
        for activation in ("swish", "gelu"):
            settings = {**SIZES, "activation": activation, "layer_norm_eps": epsilon}
            model = drawn(RetNet(**settings))
            forms = {
                "parallel": lambda model=model: model.forward_parallel(tokens()),
                "chunkwise": lambda model=model: chunkwise(model),
                "recurrent": lambda model=model: recurrent(model),
            }
            found[f"yet-another-retnet-{activation}-{epsilon:g}"] = case(settings, model, forms)
    return found
