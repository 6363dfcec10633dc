"""Every family generates through transformers as it does through us."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from laws.families import case_name, cases, random_tokens, small_model
from retentive.checkpoints import load_state, save_state
from retentive.generation import PrefixCache, generate
from retentive.huggingface import RetentiveForCausalLM, StateCache, register
from retentive.huggingface.cache import CACHE_NAME
from retentive.models.base import DecoderModel
from retentive.text.byte_tokenizer import ByteTokenizer

register()

EVERY_CASE = pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
EVERY_FAMILY = pytest.mark.parametrize("family", ["transformer", "retnet", "retro", "rmt"])
GREEDY = {"do_sample": False, "pad_token_id": 0}


def wrapped(family: str, **changes) -> tuple[RetentiveForCausalLM, DecoderModel]:
    model = small_model(family, dtype=torch.float32, **changes)
    return RetentiveForCausalLM.of(model), model


def padded() -> tuple[torch.Tensor, torch.Tensor]:
    """Two prompts, the first of them shorter, and their mask."""
    tokens, mask = random_tokens(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[0, :4] = 0
    return tokens, mask


@EVERY_CASE
def test_greedy_tokens_are_ours(family: str, changes: dict):
    theirs, ours = wrapped(family, **changes)
    tokens, mask = padded()
    found = theirs.generate(tokens, attention_mask=mask, max_new_tokens=14, **GREEDY)
    expected = generate(ours, [tokens[0, 4:], tokens[1]], max_new_tokens=14)
    assert torch.equal(found[:, 9:], torch.stack(expected.tokens))


@EVERY_CASE
@pytest.mark.parametrize("how", [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2, "top_k": 0}])
def test_the_state_gives_what_reading_all_again_gives(family: str, changes: dict, how: dict):
    theirs, _ = wrapped(family, **changes)
    tokens, mask = padded()
    found = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        options = {**GREEDY, **how, "use_cache": use_cache, "max_new_tokens": 6}
        found.append(theirs.generate(tokens, attention_mask=mask, **options))
    assert torch.equal(*found)


def until_end(tokens: torch.Tensor, end: int) -> list[int]:
    """What a row says; beams that end early are filled up."""
    return [*tokens.tolist(), end][: [*tokens.tolist(), end].index(end)]


@EVERY_CASE
def test_beams_of_a_ragged_batch_are_those_of_each_row_alone(family: str, changes: dict):
    theirs = RetentiveForCausalLM.of(small_model(family, **changes))
    lengths, longest, end = (1, 4, 11), 11, 1
    tokens, mask = random_tokens(3, longest), torch.zeros(3, longest, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, longest - length :] = 1
    how = {**GREEDY, "num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 7, "eos_token_id": end}
    together = theirs.generate(tokens, attention_mask=mask, **how)[:, longest:]
    for row, length in enumerate(lengths):
        alone = theirs.generate(
            tokens[row : row + 1, longest - length :], attention_mask=mask.new_ones(1, length), **how
        )
        found = [until_end(beam, end) for beam in together[2 * row : 2 * row + 2]]
        assert found == [until_end(beam, end) for beam in alone[:, length:]]
        assert any(found)


@EVERY_FAMILY
def test_the_prompt_may_be_read_in_pieces(family: str):
    theirs, _ = wrapped(family)
    tokens, mask = padded()
    whole = theirs.generate(tokens, attention_mask=mask, max_new_tokens=4, **GREEDY)
    pieces = theirs.generate(tokens, attention_mask=mask, max_new_tokens=4, prefill_chunk_size=4, **GREEDY)
    assert torch.equal(pieces, whole)


@EVERY_FAMILY
def test_a_returned_cache_goes_on_and_can_be_kept(family: str):
    theirs, _ = wrapped(family)
    tokens = random_tokens(2, 6)
    # Left out, the mask would be 0 wherever an id is that of the padding.
    options = {"attention_mask": torch.ones_like(tokens), **GREEDY}
    whole = theirs.generate(tokens, max_new_tokens=9, **options)
    first = theirs.generate(tokens, max_new_tokens=4, return_dict_in_generate=True, **options)
    options["attention_mask"] = torch.ones_like(first.sequences)
    for _ in range(2):
        kept = StateCache.of(first[CACHE_NAME])
        rest = theirs.generate(first.sequences, **{CACHE_NAME: kept}, max_new_tokens=5, **options)
        assert torch.equal(rest, whole)
    assert kept.batch_size == 2


@EVERY_FAMILY
@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_cache_is_taken_by_both_of_its_names(family: str, name: str):
    theirs, _ = wrapped(family)
    tokens = random_tokens(2, 9)
    first = theirs(tokens[:, :6], use_cache=True)
    read = first[CACHE_NAME]
    rest = theirs(tokens[:, 6:], **{name: StateCache.of(read)})
    assert torch.equal(rest.logits, theirs(tokens[:, 6:], None, read).logits)
    torch.testing.assert_close(rest.logits, theirs(tokens).logits[:, 6:], rtol=1e-4, atol=1e-5)
    # Left out, the mask would be 0 wherever an id is that of the padding.
    options = {"attention_mask": torch.ones_like(tokens[:, :7]), "max_new_tokens": 5, **GREEDY}
    written = theirs.generate(tokens[:, :7], **{name: theirs(tokens[:, :6])[CACHE_NAME]}, **options)
    assert torch.equal(written, theirs.generate(tokens[:, :7], **options))


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_another_cache_is_refused_by_its_name(name: str):
    theirs, _ = wrapped("retnet")
    tokens = random_tokens(1, 4)
    with pytest.raises(ValueError, match=f"{name} must be a StateCache, but is a DynamicCache; start with none"):
        theirs(tokens, **{name: DynamicCache()})
    cache = StateCache()
    with pytest.raises(ValueError, match="cache and past_key_values are two names of one argument"):
        theirs(tokens, cache=cache, past_key_values=cache)


@EVERY_FAMILY
def test_a_saved_state_goes_on_in_transformers(family: str, tmp_path: Path):
    theirs, ours = wrapped(family)
    tokens = random_tokens(1, 12)
    save_state(ours(tokens[:, :7]).state, tmp_path / "state", ours)
    cache = StateCache(load_state(tmp_path / "state", ours))
    assert cache.get_seq_length() == 0  # of the ids that it will be given
    torch.testing.assert_close(theirs(tokens[:, 7:], cache=cache).logits, ours(tokens).logits[:, 7:])
    assert cache.get_seq_length() == 5


class Collector(BaseStreamer):
    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.ended = False

    def put(self, value: torch.Tensor) -> None:
        self.tokens += value.flatten().tolist()

    def end(self) -> None:
        self.ended = True


class StopAt(StoppingCriteria):
    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_) -> torch.Tensor:
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.length)


def test_streamers_and_stopping_criteria():
    theirs, _ = wrapped("retnet")
    tokens, streamer = random_tokens(1, 5), Collector()
    whole = theirs.generate(tokens, max_new_tokens=8, **GREEDY)
    criteria = StoppingCriteriaList([StopAt(9)])
    found = theirs.generate(tokens, max_new_tokens=8, streamer=streamer, stopping_criteria=criteria, **GREEDY)
    assert torch.equal(found, whole[:, :9])
    assert streamer.tokens == found.flatten().tolist()
    assert streamer.ended


def test_rows_end_at_a_string(tmp_path: Path):
    theirs, _ = wrapped("retnet", vocab_size=257)
    ByteTokenizer().save(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    prompt = tokenizer("Hello", return_tensors="pt")
    # Letters alone, so that any two of them are a string.
    options = {**prompt, **GREEDY, "max_new_tokens": 12, "suppress_tokens": [*range(97), *range(123, 257)]}
    whole = theirs.generate(**options)
    text = tokenizer.decode(whole[0, prompt["input_ids"].shape[1] :])
    found = theirs.generate(**options, stop_strings=[text[4:6]], tokenizer=tokenizer)
    assert found.shape[1] - prompt["input_ids"].shape[1] == text.index(text[4:6]) + 2
    assert torch.equal(found, whole[:, : found.shape[1]])


def test_rows_end_at_their_end_token():
    theirs, ours = wrapped("retnet")
    tokens = random_tokens(2, 5)
    whole = torch.stack(generate(ours, tokens, max_new_tokens=10).tokens)
    ending = int(whole[0, 3])
    mask = torch.ones_like(tokens)  # left out, every id that is the padding's would be taken for padding
    options = {"attention_mask": mask, "eos_token_id": ending, "max_new_tokens": 10}
    found = theirs.generate(tokens, **options, **GREEDY)
    expected = generate(ours, tokens, max_new_tokens=10, stop_tokens=[ending])
    for row, new in zip(found[:, 5:], expected.tokens, strict=True):
        assert torch.equal(row[: len(new)], new)
        assert (row[len(new) :] == 0).all()


def test_a_retriever_is_asked_as_ours_is():
    theirs, ours = wrapped("retro")

    def retriever(chunks: torch.Tensor) -> torch.Tensor:
        return torch.stack((chunks, (2 * chunks + 1) % 23), 1).repeat(1, 1, 2)

    tokens, mask = padded()
    theirs.retriever = retriever
    found = theirs.generate(tokens, attention_mask=mask, max_new_tokens=14, **GREEDY)
    expected = generate(ours, [tokens[0, 4:], tokens[1]], max_new_tokens=14, retriever=retriever)
    assert torch.equal(found[:, 9:], torch.stack(expected.tokens))
    theirs.retriever = None
    without = theirs.generate(tokens, attention_mask=mask, max_new_tokens=14, **GREEDY)
    assert not torch.equal(found, without)


@pytest.mark.parametrize("family", ["transformer", "retnet"])
def test_embedded_prompts(family: str):
    theirs, ours = wrapped(family, scale_embeddings=True)
    tokens, mask = padded()
    embedded = ours.decoder.embedding.tokens(tokens)
    found = theirs.generate(inputs_embeds=embedded, attention_mask=mask, max_new_tokens=5, **GREEDY)
    whole = theirs.generate(tokens, attention_mask=mask, max_new_tokens=5, **GREEDY)
    assert torch.equal(found, whole[:, 9:])


def test_what_cannot_be_is_refused_by_name(tmp_path: Path):
    theirs, ours = wrapped("rmt")
    tokens = random_tokens(1, 5)
    for kind in ("offloaded", "quantized"):
        with pytest.raises(ValueError, match=f"cache_implementation must be left out.*is '{kind}'"):
            theirs.generate(tokens, max_new_tokens=2, cache_implementation=kind, **GREEDY)
    with pytest.raises(ValueError, match="inputs_embeds must be None for a rmt, whose state remembers token ids"):
        theirs(inputs_embeds=ours.decoder.embedding.tokens(tokens))
    with pytest.raises(ValueError, match="assisted generation is not supported with stateful models"):
        theirs.generate(tokens, assistant_model=theirs, max_new_tokens=2, **GREEDY)
    cache = theirs(tokens)[CACHE_NAME]
    with pytest.raises(NotImplementedError, match="cannot be cropped, for what was read cannot be unread"):
        cache.crop(3)
    with pytest.raises(NotImplementedError, match="a state holds no keys and values to update"):
        cache.update(tokens, tokens, 0)


def test_the_auto_class_is_given_a_model_that_was_saved(tmp_path: Path):
    theirs, _ = wrapped("retnet")
    theirs.save_pretrained(tmp_path)
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path), RetentiveForCausalLM)


@pytest.mark.parametrize("family", ["transformer", "retnet"])
def test_what_begins_alike_is_read_once(family: str):
    theirs = RetentiveForCausalLM.of(small_model(family))
    tokens, mask = padded()
    cache = PrefixCache(least_tokens=1)
    expected = theirs.generate(tokens, attention_mask=mask, max_new_tokens=5, **GREEDY)
    for hits in (0, 2):
        found = theirs.generate(tokens, attention_mask=mask, max_new_tokens=5, prefix_cache=cache, **GREEDY)
        assert torch.equal(found, expected)
        assert cache.hits == hits
    with pytest.raises(ValueError, match="num_beams must be 1 with a prefix_cache, but is 2"):
        theirs.generate(tokens, attention_mask=mask, max_new_tokens=5, prefix_cache=cache, num_beams=2, **GREEDY)
    with pytest.raises(ValueError, match="attention_mask must be given with a prefix_cache where rows hold"):
        theirs.generate(torch.tensor([[0, 1]]), max_new_tokens=5, prefix_cache=cache, **GREEDY)


def test_rows_that_end_with_padding_are_refused():
    theirs = RetentiveForCausalLM.of(small_model("retnet"))
    tokens = random_tokens(2, 8).clamp_min(1)
    mask = torch.ones_like(tokens)
    mask[1, 5:] = 0
    options = {"max_new_tokens": 2, "pad_token_id": 0, "eos_token_id": None}
    for given in ({"attention_mask": mask}, {}):
        with pytest.raises(ValueError, match="must end with a token, but row 1 ends with padding"):
            theirs.generate(tokens * mask, **given, **options)
    assert theirs.generate(tokens * mask, attention_mask=torch.ones_like(mask), **options).shape == (2, 10)
