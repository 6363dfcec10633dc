"""Drafts change the time that a text takes, and nothing of the text, its distribution or its state."""

import pytest
import torch

from laws.families import small_model
from retentive import Sampling, generate, stream
from retentive.errors import DivergedError
from retentive.generation.beginning import Beginning
from retentive.generation.decoding import DecodingOptions
from retentive.generation.drafts.decoding import DraftedDecoding
from retentive.generation.drafts.prompt_lookup import DraftPauses, NgramIndex, PromptLookup
from retentive.generation.prompt import PromptBatch
from retentive.generation.stopping import Stopping
from retentive.models.registry import family_names
from retentive.state import named_tensors

ALWAYS = PromptLookup(longest=4, ngram=3, shortest_ngram=1, pauses=False)
PROMPT = [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.7, seed=5, top_k=4)], ids=["greedy", "drawn"])
@pytest.mark.parametrize("family", family_names())
def test_tokens_and_state_are_those_without_drafts(family: str, sampling: Sampling):
    model = small_model(family)
    expected = generate(model, PROMPT, max_new_tokens=16, sampling=sampling)
    found = generate(model, PROMPT, max_new_tokens=16, sampling=sampling, drafts=ALWAYS)
    assert found.tokens[0].tolist() == expected.tokens[0].tolist()
    assert_same_state(found.state, expected.state)


def assert_same_state(found: object, expected: object) -> None:
    ours, theirs = named_tensors(found), named_tensors(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-8)


@pytest.mark.parametrize("family", ["hybrid", "rmt"])
def test_a_stream_can_be_left_at_any_token(family: str):
    model = small_model(family)
    expected = generate(model, PROMPT, max_new_tokens=12).tokens[0].tolist()
    tokens = stream(model, PROMPT, max_new_tokens=12, drafts=ALWAYS)
    for count in range(1, 12):
        assert next(tokens) == (expected[count - 1],)
        assert_same_state(tokens.state, generate(model, PROMPT, max_new_tokens=count).state)
    rest = generate(model, state=tokens.state, max_new_tokens=3, drafts=ALWAYS)
    assert rest.tokens[0].tolist() == generate(model, state=tokens.state, max_new_tokens=3).tokens[0].tolist()


def test_a_stop_token_inside_a_draft_ends_the_text():
    model = small_model("retnet")
    free = generate(model, PROMPT, max_new_tokens=20).tokens[0].tolist()
    for stop in sorted(set(free))[:4]:
        expected = generate(model, PROMPT, max_new_tokens=20, stop_tokens=[stop])
        found = generate(model, PROMPT, max_new_tokens=20, stop_tokens=[stop], drafts=ALWAYS)
        assert found.tokens[0].tolist() == expected.tokens[0].tolist()
        assert found.stopped == expected.stopped
        assert_same_state(found.state, expected.state)


def test_right_drafts_save_calls():
    model = small_model("retnet")
    greedy = generate(model, PROMPT, max_new_tokens=60).tokens[0].tolist()
    prompt = PromptBatch(tokens=torch.tensor([[*PROMPT, *greedy]]), mask=None)
    # Read again after itself, the text is known whole: what follows is drafted from it.
    tokens = torch.cat((prompt.tokens, prompt.tokens[:, : len(PROMPT)]), 1)
    repeated = Beginning(first=PromptBatch(tokens=tokens, mask=None), state=None, counts=None)
    options = DecodingOptions(sampling=Sampling(), stopping=Stopping(max_new_tokens=40))
    decoding = DraftedDecoding(model, repeated, options, NgramIndex(ALWAYS), pauses=False)
    while decoding.active:
        decoding.step()
    assert decoding.calls < 40


@pytest.mark.slow
def test_sampled_tokens_have_the_models_distribution():
    """Chi-square of 23 tokens at the third place, 120 times, against sampling without drafts by other seeds."""
    model = small_model("retnet")
    counts = torch.zeros(2, 23)
    for row, drafts in enumerate((ALWAYS, None)):
        for seed in range(120):
            sampling = Sampling(temperature=1.0, seed=1000 * row + seed)
            found = generate(model, PROMPT, max_new_tokens=3, sampling=sampling, drafts=drafts)
            counts[row, found.tokens[0][2]] += 1
    total = counts.sum(0)
    kept = total > 0
    statistic = ((counts[0] - counts[1])[kept] ** 2 / total[kept]).sum()
    assert statistic < 22 + 4 * (2 * 22) ** 0.5


def test_what_followed_the_longest_ngram_is_drafted():
    index = NgramIndex(PromptLookup(longest=3, ngram=3, shortest_ngram=2))
    index.extend([5, 6, 7, 8, 9, 1, 6, 7, 2, 5, 6, 7])
    assert index.draft(9) == [8, 9, 1]
    assert index.draft(2) == [8, 9]
    assert index.draft(0) == []
    index.extend([3])
    assert index.draft(9) == []


def test_drafts_pause_where_they_lose():
    now = [0.0]
    pauses = DraftPauses(pauses=True, clock=lambda: now[0])
    assert not pauses.wants_draft()
    now[0] += 1
    pauses.note(1, drafted=False)
    drafted = 0
    for _ in range(200):
        wants = pauses.wants_draft()
        drafted += wants
        now[0] += 3 if wants else 1
        pauses.note(2 if wants else 1, drafted=wants)  # 1.5 a token
    assert drafted < 12


def test_drafts_are_refused_where_they_cannot_be():
    model = small_model("retro")
    with pytest.raises(ValueError, match="drafts must be None for several rows"):
        generate(model, [[1, 2], [3, 4]], max_new_tokens=2, drafts=ALWAYS)
    with pytest.raises(ValueError, match="drafts must be None with a retriever"):
        generate(model, [1, 2], max_new_tokens=2, drafts=ALWAYS, retriever=lambda chunks: chunks[:, None])
    with pytest.raises(ValueError, match="drafts must be None with penalties"):
        generate(model, [1, 2], max_new_tokens=2, drafts=ALWAYS, sampling=Sampling(presence_penalty=1.0))
    with pytest.raises(ValueError, match="shortest_ngram must be at most ngram = 2 tokens, but is 3"):
        PromptLookup(ngram=2, shortest_ngram=3)


@pytest.mark.parametrize("logprobs", [None, 1])
def test_where_no_token_is_left_the_model_has_diverged(logprobs: int | None):
    model = small_model("retnet")
    nothing = Sampling(never=tuple(range(model.vocab_size)))
    for drafts in (None, ALWAYS):
        with pytest.raises(DivergedError, match="logits must be finite"):
            generate(model, PROMPT, max_new_tokens=4, sampling=nothing, drafts=drafts, logprobs=logprobs)
