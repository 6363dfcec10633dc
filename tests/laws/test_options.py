"""Every constructor option changes something or is refused."""

import pytest
import torch

from laws.families import ALTERNATIVES, SPEED_ONLY, beside, family_names, options, random_tokens, small_config
from retentive.models.registry import build, config_from_dict, config_to_dict
from seeds import seeded


def behaviour(family: str, changes: dict) -> list[torch.Tensor]:
    """Parameters, logits and gradients of a model, the same for the same config; in training mode, for dropout."""
    torch.manual_seed(0)
    model = build(small_config(family, **changes)).double().train()
    generator = seeded(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    torch.manual_seed(2)
    tokens = random_tokens(2, 19)
    output = model(tokens, labels=random_tokens(2, 19, seed=1), **beside(model, tokens))
    output.loss.backward()
    parameters = list(model.parameters())
    return [*parameters, output.logits, *(parameter.grad for parameter in parameters if parameter.grad is not None)]


def differ(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    """Whether a user could tell two models apart."""
    return [t.shape for t in first] != [t.shape for t in second] or any(
        not torch.equal(a, b) for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("family", family_names())
def test_every_option_has_an_alternative_to_try(family: str):
    assert set(options(family)) == set(ALTERNATIVES[family]) | SPEED_ONLY[family]


@pytest.mark.parametrize(
    ("family", "option"), [(family, option) for family in family_names() for option in ALTERNATIVES[family]]
)
def test_every_option_changes_something(family: str, option: str):
    assert differ(behaviour(family, {}), behaviour(family, ALTERNATIVES[family][option]))


@pytest.mark.parametrize("family", family_names())
def test_a_config_survives_json(family: str):
    for option in ALTERNATIVES[family]:
        config = small_config(family, **ALTERNATIVES[family][option])
        assert config_from_dict(config_to_dict(config)) == config


def test_speed_options_change_no_result():
    first, second = (behaviour("retnet", {"chunk_size": size}) for size in (3, 64))
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
