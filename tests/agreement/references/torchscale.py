"""RetNets of torchscale 0.3.0, and with other names those of syncdoth/RetNet, which computes the same.

syncdoth/RetNet is in no package registry. Its decays can be the paper's: they are put in torchscale's place here.
"""

import math
import sys
from types import ModuleType
from typing import Any

import torch
from references.drawing import EPSILONS, TIME, VOCAB, case, drawn, tokens
from torch import Tensor, nn

# torchscale takes one function of timm, for dropping whole layers in training; timm itself wants a torchvision that was
# built for this very torch.
timm = ModuleType("timm.models.layers")
timm.drop_path = None
sys.modules.update({"timm": ModuleType("timm"), "timm.models": ModuleType("timm.models"), "timm.models.layers": timm})

from torchscale.architecture.config import RetNetConfig  # noqa: E402
from torchscale.architecture.retnet import RetNetDecoder  # noqa: E402

SIZES = {
    "decoder_embed_dim": 16,
    "decoder_value_embed_dim": 24,
    "decoder_retention_heads": 2,
    "decoder_ffn_embed_dim": 20,
    "decoder_layers": 2,
    "vocab_size": VOCAB,
}


def made(settings: dict[str, Any], linear_decay: bool = False) -> RetNetDecoder:
    config = RetNetConfig(**settings, chunkwise_recurrent=False, recurrent_chunk_size=8)
    model = RetNetDecoder(config, nn.Embedding(VOCAB, config.decoder_embed_dim))
    drawn(model)
    if linear_decay:
        heads = config.decoder_retention_heads
        gaps = torch.exp(torch.linspace(math.log(1 / 32), math.log(1 / 512), heads))
        model.retnet_rel_pos.decay.copy_(torch.log(1 - gaps))
    return model


def parallel(model: RetNetDecoder) -> Tensor:
    return model(tokens())[0]


def chunkwise(model: RetNetDecoder) -> Tensor:
    model.chunkwise_recurrent = True
    try:
        return model(tokens())[0]
    finally:
        model.chunkwise_recurrent = False


def recurrent(model: RetNetDecoder) -> Tensor:
    memory: dict[Any, Any] = {}
    steps = [model(tokens()[:, : time + 1], incremental_state=memory)[0] for time in range(TIME)]
    return torch.cat(steps, 1)


FORMS = {"parallel": parallel, "chunkwise": chunkwise, "recurrent": recurrent}


def compare(settings: dict[str, Any], linear_decay: bool = False) -> dict[str, Any]:
    model = made(settings, linear_decay)
    return case(settings, model, {name: lambda form=form: form(model) for name, form in FORMS.items()})


def cases() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for epsilon in EPSILONS:
        found[f"torchscale-{epsilon:g}"] = compare({**SIZES, "activation_fn": "swish", "layernorm_eps": epsilon})
    varied = {"deepnorm": True, "no_scale_embedding": False, "layernorm_embedding": True, "layernorm_eps": 1e-12}
    found["torchscale-deepnorm"] = compare({**SIZES, **varied, "share_decoder_input_output_embed": True})
    many = {"decoder_embed_dim": 44, "decoder_value_embed_dim": 44, "decoder_retention_heads": 22, "decoder_layers": 1}
    found["torchscale-22-heads"] = compare({**SIZES, **many, "layernorm_eps": 1e-12})
    settings = {**SIZES, "layernorm_eps": 1e-12, "no_scale_embedding": False, "layernorm_embedding": True}
    syncdoth = compare({**settings, "activation_fn": "gelu"}, linear_decay=True)
    syncdoth["settings"] = {**syncdoth["settings"], "model_type": "retnet", "use_lm_decay": True, "use_glu": True}
    renamed = {
        "lm_head.weight" if name == "output_projection.weight" else f"model.{name}": tensor
        for name, tensor in syncdoth["weights"].items()
    }
    found["syncdoth"] = {**syncdoth, "weights": renamed}
    return found
