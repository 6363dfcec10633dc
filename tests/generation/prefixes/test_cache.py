"""States of prefixes: within their budgets, on disk, and never another model's or person's."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from laws.families import random_tokens, small_model
from retentive.generation import PrefixCache, Request, RequestBatch, Retrieval, Sampling, generate
from retentive.generation.neighbours.retrieval import OwnNeighbours
from retentive.generation.prefixes import PrefixReader
from retentive.models.base import DecoderModel
from retentive.state import named_tensors

TEXTS = random_tokens(6, 20).tolist()


def read(cache: PrefixCache, model: DecoderModel, *texts: list[int], scope: str = "") -> None:
    PrefixReader(model, cache, scope=scope).states_after(texts)


def known(cache: PrefixCache, model: DecoderModel, scope: str = "") -> list[int]:
    """How much of each text has a state; asking changes the order of use."""
    return [cache.find(model, text, scope=scope).length for text in TEXTS]


def test_memory_stays_within_its_budget_and_the_least_used_goes_first():
    model = small_model("retnet")
    probe = PrefixCache()
    read(probe, model, TEXTS[0])
    cache = PrefixCache(probe.ram_in_use * 2)
    read(cache, model, TEXTS[0], TEXTS[1])
    assert cache.find(model, TEXTS[0]).length == 20
    read(cache, model, TEXTS[2])
    assert cache.ram_in_use <= probe.ram_in_use * 2
    assert known(cache, model) == [20, 0, 20, 0, 0, 0]
    assert len(cache) == 2
    nothing = PrefixCache(0)
    read(nothing, model, TEXTS[0])
    assert (len(nothing), nothing.ram_in_use) == (0, 0)


def test_what_is_larger_than_all_that_may_be_kept_drives_out_nothing(tmp_path: Path):
    model, long = small_model("transformer"), random_tokens(1, 400, seed=1).tolist()[0]
    probe = PrefixCache()
    read(probe, model, TEXTS[0])
    cache = PrefixCache(probe.ram_in_use * 3)
    read(cache, model, TEXTS[0], long)
    assert (known(cache, model)[0], cache.find(model, long).length) == (20, 0)
    with PrefixCache(0, folder=tmp_path / "a") as files:
        read(files, model, TEXTS[0])
        size = files.disk_in_use
    with PrefixCache(0, folder=tmp_path / "b", disk_bytes=size * 3) as files:
        read(files, model, TEXTS[0], long)
        assert (known(files, model)[0], files.find(model, long).length) == (20, 0)
        assert files.disk_in_use == size


def test_states_go_to_disk_and_come_back_in_another_process(tmp_path: Path):
    model = small_model("hybrid", dtype=torch.float32)
    with PrefixCache(0, folder=tmp_path) as cache:
        read(cache, model, TEXTS[0], TEXTS[1])
        assert (len(cache), cache.ram_in_use) == (2, 0)
        assert cache.disk_in_use == sum(path.stat().st_size for path in tmp_path.iterdir())
        with pytest.raises(BlockingIOError, match="another process is writing to this folder"):
            PrefixCache(folder=tmp_path)
    with PrefixCache(folder=tmp_path) as cache:
        assert known(cache, model) == [20, 20, 0, 0, 0, 0]
        state = cache.find(model, TEXTS[0]).state
        assert state is not None
        fresh = PrefixReader(model, PrefixCache()).states_after([TEXTS[0]])
        for name, tensor in named_tensors(fresh).items():
            assert torch.equal(named_tensors(state)[name], tensor), name


def test_the_disk_stays_within_its_budget(tmp_path: Path):
    model = small_model("retnet")
    with PrefixCache(0, folder=tmp_path / "probe") as probe:
        read(probe, model, TEXTS[0])
        size = probe.disk_in_use
    with PrefixCache(0, folder=tmp_path / "cache", disk_bytes=2 * size + size // 2) as cache:
        read(cache, model, *TEXTS[:4])
        assert cache.disk_in_use <= 2 * size + size // 2
        assert known(cache, model) == [0, 0, 20, 20, 0, 0]
    assert len(list((tmp_path / "cache").iterdir())) == 2
    with PrefixCache(0, folder=tmp_path / "cache", disk_bytes=size + size // 2) as cache:  # a smaller one from now on
        assert known(cache, model) == [0, 0, 0, 20, 0, 0]
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("damage", ["cut", "altered", "header", "gone"])
def test_a_damaged_file_is_a_miss_and_is_said(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture):
    model = small_model("retnet")
    with PrefixCache(0, folder=tmp_path) as cache:
        read(cache, model, TEXTS[0])
        assert known(cache, model)[0] == 20
        for path in tmp_path.iterdir():
            content = bytearray(path.read_bytes())
            if damage == "header":
                content = content.replace(b'"rows":"1"', b'"rows":"q"')
            else:
                content[-5] ^= 1
            path.write_bytes(content[: -9 if damage == "cut" else None])
            if damage == "gone":
                path.unlink()
        with caplog.at_level(logging.WARNING):
            assert known(cache, model) == [0] * 6
        assert "will be made again" in caplog.text
        assert (len(cache), cache.disk_in_use) == (0, 0)
        read(cache, model, TEXTS[0])
        assert known(cache, model)[0] == 20


def test_damaged_files_of_an_earlier_process_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    model = small_model("retnet")
    with PrefixCache(0, folder=tmp_path) as cache:
        read(cache, model, *TEXTS[:2])
    first, second = sorted(tmp_path.iterdir())
    first.write_bytes(first.read_bytes()[:100])
    (tmp_path / f"{second.name}.tmp").write_bytes(b"half")
    with PrefixCache(folder=tmp_path) as cache:
        assert sum(known(cache, model)) == 20
    assert "will be made again" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == [second.name]


def test_what_others_keep_in_the_folder_stays_theirs(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    model = small_model("retnet")
    with PrefixCache(0, folder=tmp_path) as cache:
        read(cache, model, TEXTS[0])
    (ours,) = tmp_path.iterdir()
    theirs = [tmp_path / "prefix-tuning.safetensors", tmp_path / "prefix-tuning.safetensors.tmp", tmp_path / "a"]
    for path in theirs:
        path.write_bytes(b"theirs")
    hidden = tmp_path / f"prefix-{'0' * 40}.safetensors"
    hidden.mkdir()
    with PrefixCache(folder=tmp_path, disk_bytes=0) as cache:
        assert known(cache, model) == [0] * 6
    assert not ours.exists()
    assert [path.read_bytes() for path in theirs] == [b"theirs"] * 3
    assert caplog.text == ""


def test_states_of_other_weights_and_of_other_people_are_not_found():
    model, cache = small_model("retnet"), PrefixCache()
    read(cache, model, TEXTS[0], scope="ann")
    assert cache.find(model, TEXTS[0], scope="ann").length == 20
    assert cache.find(model, TEXTS[0], scope="bob").length == 0
    assert cache.find(model, TEXTS[0]).length == 0
    assert cache.find(small_model("retnet", seed=1), TEXTS[0], scope="ann").length == 0
    assert cache.find(small_model("retnet", dtype=torch.float32), TEXTS[0], scope="ann").length == 0
    with torch.no_grad():
        next(model.parameters()).data.add_(1e-6)
    assert cache.find(model, TEXTS[0], scope="ann").length == 0


class Scaled(torch.nn.Linear):
    """What an adapter looks like: it can be disabled, and its weights stay."""

    is_on = True

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * (3.0 if self.is_on else -1.0)


def change_one_value(model: DecoderModel) -> None:
    with torch.no_grad():
        model.decoder.embedding.tokens.weight[3, 5] += 3  # a fingerprint reads a few values of each tensor


def disable_adapter(model: DecoderModel) -> None:
    for part in model.modules():
        if isinstance(part, Scaled):
            part.is_on = False


def add_a_hook(model: DecoderModel) -> None:
    model.decoder.blocks[0].register_forward_hook(lambda _, __, made: (made[0] * 2, *made[1:]))


def replace_the_activation(model: DecoderModel) -> None:
    for part in model.modules():
        if hasattr(part, "activation"):
            part.activation = torch.tanh  # pyright: ignore[reportAttributeAccessIssue]


def patch_a_projection(model: DecoderModel) -> None:
    projection = next(part for part in model.modules() if isinstance(part, Scaled))
    projection.forward = lambda x: projection.weight.new_ones(*x.shape[:-1], projection.out_features)


@pytest.mark.parametrize(
    "change", [change_one_value, disable_adapter, add_a_hook, replace_the_activation, patch_a_projection]
)
def test_states_from_before_a_part_was_changed_are_not_found(change: Callable[[DecoderModel], None]):
    model, cache = small_model("retnet"), PrefixCache(least_tokens=4)
    for part in list(model.modules()):
        if type(part) is torch.nn.Linear:
            part.__class__ = Scaled
    tokens = torch.full((1, 24), 3)
    generate(model, tokens, max_new_tokens=2, prefix_cache=cache)
    change(model)
    after = generate(model, tokens, max_new_tokens=2, prefix_cache=cache)
    assert cache.hits == 0
    expected = generate(model, tokens, max_new_tokens=2)
    assert torch.equal(after.tokens[0], expected.tokens[0])
    generate(model, tokens, max_new_tokens=2, prefix_cache=cache)
    assert cache.hits == 1, "and those after it are"


def test_the_second_question_about_a_document_does_not_read_it_all():
    model, cache = small_model("retnet", dtype=torch.float32), PrefixCache()
    (document,) = random_tokens(1, 1400).tolist()
    asked = [[*document, *question] for question in TEXTS[:3]]
    read(cache, model, asked[0])
    assert cache.find(model, asked[1]).length == 1024
    read(cache, model, asked[1])
    assert cache.find(model, asked[2]).length == 1400
    read(cache, model, document[:700] + TEXTS[3])  # where it parts from the others
    assert cache.find(model, document[:700]).length == 700


def said_in(batch: RequestBatch) -> list[int]:
    """What the only request of a batch gets until it ends."""
    said: list[int] = []
    while batch.is_busy:
        said += [step.token for step in batch.step() if step.token is not None]
    return said


def test_a_conversation_that_is_sent_whole_is_read_from_its_last_answer_on():
    model, cache = small_model("retnet"), PrefixCache(least_tokens=1)
    batch = RequestBatch(model, prefix_cache=cache)
    first = batch.admit(Request(prompt=TEXTS[0], max_new_tokens=9, sampling=Sampling(temperature=1.0, seed=1)))
    said = said_in(batch)
    assert batch.progress(first).cached_tokens == 0
    second = Request(prompt=[*TEXTS[0], *said, 1, 2], max_new_tokens=4)
    number = batch.admit(second)
    assert batch.progress(number).cached_tokens == 28
    assert said_in(batch) == generate(model, second.prompt, max_new_tokens=4).tokens[0].tolist()
    refused = batch.admit(Request(prompt=TEXTS[0], max_new_tokens=1, use_prefixes=False))
    assert batch.progress(refused).cached_tokens == 0


def test_neighbours_are_part_of_what_a_state_depends_on():
    model, cache = small_model("retro"), PrefixCache(least_tokens=1)
    texts, own = TEXTS[:2], [OwnNeighbours([[1, 2, 3]], 4), OwnNeighbours([[4, 5, 6]], 4)]
    for _ in range(2):
        for retriever in (None, *own, Retrieval(retriever=own[0], every=2)):
            alone = generate(model, texts, max_new_tokens=6, retriever=retriever).tokens
            found = generate(model, texts, max_new_tokens=6, retriever=retriever, prefix_cache=cache).tokens
            assert [row.tolist() for row in found] == [row.tolist() for row in alone]
    assert cache.hits >= 8
    with pytest.raises(ValueError, match="retriever must have a method `fingerprint` for a prefix_cache"):
        generate(model, texts, max_new_tokens=1, retriever=lambda chunks: chunks[:, None], prefix_cache=cache)
    late = Retrieval(retriever=own[0], end_with_prompt=True)
    with pytest.raises(ValueError, match="end_with_prompt must be False with a prefix_cache"):
        generate(model, texts, max_new_tokens=1, retriever=late, prefix_cache=cache)
    with pytest.raises(ValueError, match="state must be None with a prefix_cache"):
        generate(model, [[1]], max_new_tokens=1, state=model(torch.tensor([[2]])).state, prefix_cache=cache)
