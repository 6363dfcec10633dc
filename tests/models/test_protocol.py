"""A language model is whatever has the methods of one: the families, and a model that knows nothing of them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from evaluation.stores import write_store
from laws.families import SMALL, small_model
from retentive import generate, load_state, save_state
from retentive.data.batch import Batch
from retentive.errors import MismatchError
from retentive.evaluation.measures.bits_per_byte import bits_per_byte_in_one_pass, bits_per_byte_in_windows
from retentive.evaluation.measures.documents import select_documents
from retentive.models.calls import check_call
from retentive.models.protocol import LanguageModel, ModelOutput, as_module
from retentive.state import ModelState, RecurrentState
from retentive.text.byte_tokenizer import ByteTokenizer
from retentive.training.run.fit import fit
from retentive.training.step.config import OptimizerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class AverageConfig:
    """A moving average of embeddings."""

    family: ClassVar[str] = "moving_average"

    vocab_size: int
    hidden_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AverageState(RecurrentState):
    average: Tensor


class MovingAverage(nn.Module):
    """Predicts the next token from a moving average of all embeddings so far; of the library it uses values alone."""

    recomputes_segments: bool | None = None
    longest_text = None
    state_is_bounded = True
    caches_tokens = False
    predicts_next_token = True
    chunked_reading = None

    def __init__(self, config: AverageConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.head = nn.Linear(2 * config.hidden_size, config.vocab_size)

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def products(self) -> nn.Module:
        return self.embedding  # no layer between embedding and head

    def optional_parameters(self) -> Iterable[nn.Parameter]:
        return ()

    def initial_state(self, batch_size: int, device: torch.device | None = None) -> ModelState:
        average = torch.zeros(batch_size, self.config.hidden_size, device=device or self.device)
        position = torch.zeros(batch_size, dtype=torch.long, device=device or self.device)
        return ModelState(layers=(AverageState(average=average),), position=position, config=self.config)

    def check_state(self, state: object) -> None:
        if not isinstance(state, ModelState) or state.config != self.config:
            raise MismatchError("state must be of this moving average.")

    def step(self, tokens: Tensor, state: ModelState, context: object = None) -> tuple[Tensor, ModelState]:
        output = self.forward(tokens[:, None], state)
        return output.logits[:, -1], output.state

    def forward(
        self,
        tokens: Tensor,
        state: ModelState | None = None,
        labels: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        starts: Tensor | None = None,
        logits_to_keep: int | None = None,
    ) -> ModelOutput:
        check_call(tokens, state, labels, mask, starts, logits_to_keep)
        state = self.initial_state(len(tokens)) if state is None else state
        real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        begins = torch.zeros_like(real) if starts is None else starts
        average, logits = state.layers[0].average, []
        for vector, is_real, is_first in zip(
            self.embedding(tokens).unbind(1), real.unbind(1), begins.unbind(1), strict=True
        ):
            average = average.masked_fill(is_first[:, None], 0)
            average = torch.where(is_real[:, None], 0.8 * average + 0.2 * vector, average)
            logits.append(self.head(torch.cat((average, vector), 1)))
        every = torch.stack(logits, 1)
        loss = None if labels is None else nn.functional.cross_entropy(every.flatten(0, 1), labels.flatten())
        following = replace(state, layers=(AverageState(average=average),), position=state.position + real.sum(1))
        if logits_to_keep is not None:
            every = every[:, tokens.shape[1] - logits_to_keep :]
        return ModelOutput(None if logits_to_keep == 0 else every, following, loss)


def moving_average(vocab_size: int = 23) -> MovingAverage:
    torch.manual_seed(0)
    return MovingAverage(AverageConfig(vocab_size=vocab_size, hidden_size=16))


@pytest.mark.parametrize("family", SMALL)
def test_every_family_is_a_language_model(family: str):
    model = small_model(family)
    assert isinstance(model, LanguageModel)
    assert model.vocab_size == model.config.decoder.embedding.vocab_size
    own = {id(parameter) for parameter in model.decoder.parameters()}
    outside = {id(parameter) for parameter in model.optional_parameters()}
    assert own.isdisjoint(outside)
    assert own | outside == {id(parameter) for parameter in model.parameters()}


def test_a_module_without_the_methods_is_none():
    assert not isinstance(nn.Linear(2, 2), LanguageModel)
    assert isinstance(moving_average(), LanguageModel)
    assert as_module(moving_average()).training


@pytest.mark.parametrize("carries_state", [False, True])
def test_a_model_from_elsewhere_is_trained(carries_state: bool):
    def batches(_: int) -> Batch:
        tokens = torch.arange(12)[None] + torch.arange(4)[:, None]
        return Batch(tokens=tokens, labels=tokens + 1, starts=torch.zeros_like(tokens, dtype=torch.bool))

    steps = fit(
        moving_average(),
        batches,
        steps=30,
        optimizer=OptimizerConfig(learning_rate=0.05),
        carries_state=carries_state,
    )
    assert steps[-1].loss < 0.2 * steps[0].loss


def test_a_model_from_elsewhere_generates_and_goes_on_from_a_file(tmp_path: Path):
    model = moving_average().eval()
    prompts = [torch.tensor([1, 2, 3]), torch.tensor([4])]
    whole = generate(model, prompts, max_new_tokens=8).tokens
    for prompt, new in zip(prompts, whole, strict=True):
        logits = model(torch.cat((prompt, new))[None]).logits[0, len(prompt) - 1 : -1]
        assert torch.equal(logits.argmax(-1), new)
    first = generate(model, prompts, max_new_tokens=3)
    save_state(first.state, tmp_path / "state.safetensors", model)
    state: Any = load_state(tmp_path / "state.safetensors", model)
    later = generate(model, state=state, max_new_tokens=5).tokens
    assert all(torch.equal(torch.cat(both), row) for *both, row in zip(first.tokens, later, whole, strict=True))


def test_a_model_from_elsewhere_is_measured(tmp_path: Path):
    tokenizer = ByteTokenizer()
    store = write_store(tmp_path / "store", tokenizer, ["ab", "naïve café", "x" * 40])
    documents, model = select_documents(store), moving_average(tokenizer.vocab_size)
    in_windows = bits_per_byte_in_windows(model, documents, window=64, stride=32)
    in_one_pass = bits_per_byte_in_one_pass(model, documents, chunk_size=7)
    assert in_windows.tokens > 40
    assert in_windows.bits_per_byte == pytest.approx(in_one_pass.bits_per_byte, rel=1e-5)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
    uniform = torch.tensor(tokenizer.vocab_size).log2().item()
    assert bits_per_byte_in_one_pass(model, documents).bits_per_byte == pytest.approx(uniform, rel=1e-5)
