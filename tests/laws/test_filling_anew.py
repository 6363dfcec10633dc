"""A model that was made without memory is filled by `reset_parameters` with the numbers of an ordinary one."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from laws.families import ALTERNATIVES, VARIANTS, VOCAB, small_config
from retentive.layers.parameters.late_filling import late_filling
from retentive.models.registry import build, family_names
from retentive.models.rmt.classifier import ClassifierConfig
from retentive.nucleotides.model import ReverseComplementConfig


def configs(family: str) -> list[Any]:
    """The small config of a family with every variant and every option."""
    return [small_config(family, **changes) for changes in ({}, *VARIANTS[family], *ALTERNATIVES[family].values())]


def heads() -> list[Any]:
    """Models with a head of their own over a recurrent memory."""
    memory = small_config("rmt", bidirectional=True)
    return [
        ClassifierConfig(backbone=small_config("rmt"), num_classes=3),
        ReverseComplementConfig(backbone=memory, complement=tuple(range(VOCAB))),
    ]


@pytest.mark.parametrize("family", [*family_names(), "heads"])
def test_a_model_from_the_meta_device_has_the_numbers_of_any_other(family: str):
    for config in heads() if family == "heads" else configs(family):
        torch.manual_seed(0)
        expected = build(config).state_dict()
        with torch.device("meta"):
            model = build(config)
        model.to_empty(device="cpu")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(torch.nan)
        torch.manual_seed(0)
        model.reset_parameters()
        drawn = torch.rand(1)
        found = model.state_dict()
        assert found.keys() == expected.keys()
        different = [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)]
        assert not different, (config, different)
        with torch.device("meta"):
            bare = build(config)
        torch.manual_seed(0)
        make = late_filling(bare)
        assert torch.equal(torch.rand(1), drawn), config
        names = reversed([name for name, _ in bare.named_parameters()])
        different = [name for name in names if not torch.equal(make(name), found[name])]
        assert not different, (config, different)


@pytest.mark.parametrize("family", [*family_names(), "heads"])
def test_every_module_with_parameters_can_be_filled_alone(family: str):
    """As torch's FSDP does it, which gives memory to one module after another."""
    for config in heads() if family == "heads" else [small_config(family, **changes) for changes in VARIANTS[family]]:
        with torch.device("meta"):
            model = build(config)
        for module in model.modules():
            if next(module.parameters(recurse=False), None) is not None:
                module.to_empty(device="cpu", recurse=False)
                module.reset_parameters()
        assert all(bool(parameter.isfinite().all()) for parameter in model.parameters()), config


def test_a_part_that_cannot_be_filled_is_named():
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    model = build(small_config("retnet"))
    model.decoder.blocks[0].mixer_norm = Scale()
    with pytest.raises(TypeError, match=r"a Scale must have reset_parameters\(\) to be filled anew"):
        model.reset_parameters()


def test_buffers_are_filled_by_nobody():
    with torch.device("meta"):
        model = build(small_config("retnet"))
        model.decoder.blocks[0].register_buffer("scale", torch.ones(1))
    with pytest.raises(TypeError, match=r"no buffers, which nothing fills, but has decoder\.blocks\.0\.scale"):
        late_filling(model)


def test_sharded_parameters_are_refused():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        with torch.device("meta"):
            model = build(small_config("retnet"))
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        model.to_empty(device="cpu")
        with pytest.raises(ValueError, match=r"parameters must be whole .*tokens\.weight is sharded; call reset_param"):
            model.reset_parameters()
    finally:
        torch.distributed.destroy_process_group()
