"""Nothing on a hot path reads a tensor's numbers or meets a tensor of another device: a GPU would wait, or refuse.

Tensors without numbers stand for those of a GPU: what reads one, or mixes devices, is refused.
"""

from collections.abc import Iterator

import pytest
import torch
from torch._functorch import config
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from laws.families import SMALL, case_name, cases, small_config
from retentive.engine.eager import EagerSteps
from retentive.generation import Sampling
from retentive.generation.sampling import choose
from retentive.models.registry import build, config_class, family_names

# What checks shapes at run time asks configs for numbers of their own.
pytestmark = pytest.mark.usefixtures("without_shape_checks", "without_numbers")


@pytest.fixture
def without_numbers(without_shape_checks: None) -> Iterator[None]:
    """Everything that is made has a shape, a dtype and a device, and nothing more."""
    with config.patch(fake_tensor_allow_meta=True), FakeTensorMode(), torch.device("meta"):
        yield


def cut_by_shapes() -> list[tuple[str, dict]]:
    """All but memories whose segments are told apart by numbers: their documentation says that a GPU is waited for."""
    return [(family, changes) for family, changes in cases() if changes.get("read_first", True)]


def test_what_reads_or_mixes_is_refused():
    with pytest.raises(DataDependentOutputException):
        bool(torch.ones(2).all())
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(2) + torch.ones(2, device="cpu")


@pytest.mark.parametrize("family", family_names())
def test_configs_and_models_are_made_without_numbers(family: str):
    # Heads as in no other test: what was computed before would be remembered.
    plain = SMALL["retnet"] | {"num_heads": 8}
    changes = {"backbone": config_class("retnet")(**plain)} if "backbone" in SMALL[family] else {"num_heads": 8}
    if family == "rmt":
        changes |= {"num_memory_tokens": 1}
    assert build(small_config(family, **changes)).config.family == family


@pytest.mark.parametrize(("family", "changes"), cut_by_shapes(), ids=case_name)
def test_training_reading_and_writing_wait_for_nothing(family: str, changes: dict):
    model, tokens = build(small_config(family, **changes)), torch.zeros(2, 9, dtype=torch.long)
    # Where chunks and segments end follows from numbers as soon as rows can differ.
    even_only = family in ("retro", "rmt")
    beside = {"neighbours": torch.zeros(2, 2, 2, 8, dtype=torch.long)} if family == "retro" else {}
    flags = {} if even_only else {"mask": tokens == 0, "starts": tokens == 0}
    output = model(tokens, labels=tokens, **beside, **flags)
    output.loss.backward()
    if family == "retro":
        return
    with torch.inference_mode():
        steps = EagerSteps(model.eval())
        steps.begin()
        state = steps.own(model(tokens[:, :4], output.state.detach()).state)
        logits, state = steps.step(tokens[:, 0], state, {})
        logits, _ = steps.step(choose(logits, Sampling(), None), state, {})
        choose(logits, Sampling(temperature=1.0, top_k=3, top_p=0.9, min_p=0.1), torch.rand(2, dtype=torch.float64))
