"""A mixer from outside the package: a file like this one, and a name in the registry."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from laws.families import random_tokens
from retentive import HybridConfig, generate, load_model, save_model
from retentive.layers.batch_layout import BatchLayout
from retentive.layers.mixers.protocol import InputProjection, Mixer, MixerConfig, MixerSizes
from retentive.layers.mixers.registry import MIXERS, MixerKind, register_mixer
from retentive.layers.token_place import TokenPlace, place_of
from retentive.models.registry import build
from retentive.ops.precision import state_dtype
from retentive.shapes import Hidden
from retentive.state import RecurrentState, StateShape


@dataclass(frozen=True, slots=True, kw_only=True)
class AverageConfig:
    """A moving average of each channel: ``m = (m + x W) / 2``."""

    hidden_size: int
    num_heads: int
    rotary: None = None
    window: None = None
    state_is_bounded: bool = True
    takes_attention_mask: bool = False
    half_lives: None = None

    @classmethod
    def of_sizes(cls, sizes: MixerSizes) -> "AverageConfig":
        return cls(hidden_size=sizes.hidden_size, num_heads=sizes.num_heads)

    @property
    def state_shape(self) -> StateShape:
        return ("average", self.hidden_size)

    def build(self) -> "Average":
        return Average(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class AverageState(RecurrentState):
    mean: Float[Tensor, "batch hidden"]

    @property
    def shape(self) -> StateShape:
        return ("average", self.mean.shape[1])


class Average(nn.Module):
    def __init__(self, config: AverageConfig):
        super().__init__()
        self.config = config
        self.input_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.output_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def initial_state(self, batch: int, device: torch.device | None, dtype: torch.dtype) -> AverageState:
        mean = torch.zeros(batch, self.config.hidden_size, device=device, dtype=state_dtype(dtype))
        return AverageState(mean=mean)

    def forward(self, x: Hidden, state: AverageState | None, layout: BatchLayout) -> tuple[Hidden, AverageState]:
        state = self.initial_state(x.shape[0], x.device, x.dtype) if state is None else state
        if layout.is_one_token:
            output, state = self.step(x[:, 0], state, place_of(layout))
            return output[:, None], state
        outputs = []
        for column in range(x.shape[1]):
            if layout.starts is not None:
                state = state.restart(layout.starts[:, column])
            after = (state.mean + self.input_proj(x[:, column])) / 2
            if layout.mask is not None:
                after = torch.where(layout.mask[:, column, None], after, state.mean)
            state = replace(state, mean=after)
            outputs.append(after)
        return self.output_proj(torch.stack(outputs, 1).to(x.dtype)), state

    def step(
        self, x: Float[Tensor, "batch hidden"], state: AverageState, place: TokenPlace
    ) -> tuple[Float[Tensor, "batch hidden"], AverageState]:
        mean = (state.mean + self.input_proj(x)) / 2
        return self.output_proj(mean.to(x.dtype)), AverageState(mean=mean)

    def input_projections(self) -> tuple[InputProjection, ...]:
        return (InputProjection(self.input_proj, {"value": self.config.hidden_size}),)


@pytest.fixture
def average():
    register_mixer("average", AverageConfig.of_sizes)
    yield "average"
    del MIXERS["average"]


def config(name: str) -> HybridConfig:
    return HybridConfig(
        vocab_size=23, hidden_size=16, num_layers=3, num_heads=2, pattern=(name, "attention", "retention")
    )


def test_it_is_a_mixer_like_any_other(average: str, tmp_path: Path):
    model = build(config(average)).double().eval()
    assert isinstance(model.config.decoder.mixers[0], MixerConfig)
    assert isinstance(model.decoder.blocks[0].mixer, Mixer)
    tokens = random_tokens(2, 12)
    whole = model(tokens, labels=tokens)
    whole.loss.backward()
    assert model.decoder.blocks[0].mixer.input_proj.weight.grad.abs().sum() > 0
    first = model(tokens[:, :5])
    second = model(tokens[:, 5:], first.state)
    torch.testing.assert_close(torch.cat((first.logits, second.logits), 1), whole.logits, rtol=0, atol=1e-12)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, :4] = False
    padded = model(tokens, mask=mask).logits[0, 4:]
    torch.testing.assert_close(padded, model(tokens[:1, 4:]).logits[0], rtol=0, atol=1e-12)
    starts = torch.zeros(2, 12, dtype=torch.bool)
    starts[0, 2] = starts[1, 4] = True  # the first of them at padding
    begun = model(tokens, mask=mask, starts=starts).logits
    torch.testing.assert_close(begun[:, 4:], model(tokens[:, 4:]).logits, rtol=0, atol=1e-12)
    result = generate(model, tokens, max_new_tokens=5)
    again = model(torch.cat((tokens, torch.stack(result.tokens)), 1)).logits[:, 11:-1].argmax(-1)
    assert torch.equal(torch.stack(result.tokens), again)
    save_model(model, tmp_path)
    assert torch.equal(load_model(tmp_path).double()(tokens).logits, whole.logits)


def test_a_name_that_nobody_registered_is_refused():
    with pytest.raises(ValueError, match=r"mixer must be one of retention, .*, but is 'average'; register_mixer adds"):
        config("average")


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="name of a mixer must be new, but 'retention' is taken"):
        register_mixer("retention", AverageConfig.of_sizes)


def test_an_option_that_no_mixer_takes_is_refused():
    with pytest.raises(ValueError, match="window means nothing to the mixers retention, but is 5; leave it at None"):
        HybridConfig(vocab_size=23, hidden_size=16, num_layers=2, num_heads=2, pattern=("retention",), window=5)


def test_an_option_that_no_family_gives_is_refused():
    with pytest.raises(ValueError, match=r"of MixerSizes, but 'windw' are not: take some of hidden_size, .*window"):
        register_mixer("average", AverageConfig.of_sizes, frozenset({"windw"}))


@dataclass(frozen=True)
class HalfConfig:
    """Has two parts of a config."""

    hidden_size: int
    num_heads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearConfig(AverageConfig):
    """Builds what is no mixer."""

    def build(self) -> nn.Linear:
        return nn.Linear(self.hidden_size, self.hidden_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class MistakenConfig(AverageConfig):
    """Says another shape than its states have."""

    @property
    def state_shape(self) -> StateShape:
        return ("average", 2 * self.hidden_size)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            HalfConfig,
            "mixer 'average' must make a MixerConfig, but its HalfConfig lacks rotary, window, .*, build",
        ),
        (
            LinearConfig,
            "LinearConfig.build must make .* but its Linear lacks output_proj, initial_state",
        ),
        (
            MistakenConfig,
            r"MistakenConfig.state_shape must be .*'average', 32\) where .* is \('average', 16\)",
        ),
    ],
)
def test_a_part_that_is_missing_is_named(average: str, made: type, said: str):
    MIXERS["average"] = MixerKind(lambda sizes: made(hidden_size=sizes.hidden_size, num_heads=sizes.num_heads))
    with pytest.raises(TypeError, match=said):
        build(config(average))
