"""Small models decode on one thread, and the number of threads of all others is left as it was."""

import threading

import pytest
import torch

from laws.families import small_model
from retentive import generate, stream
from retentive.engine.threads import one_thread, rows_worth_sharing
from retentive.state import named_tensors


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_products_are_shared_from_a_size_on():
    model = small_model("retnet")
    largest = 16 * 96  # the projection to query, key, value and gate
    assert rows_worth_sharing(model) == (1 << 22) // largest + 1


@pytest.mark.usefixtures("two_threads")
def test_the_number_of_threads_is_left_as_it_was():
    model = small_model("retnet")
    seen: list[int] = []
    model.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    long_enough = rows_worth_sharing(model)
    generate(model, [1] * long_enough, max_new_tokens=3)
    assert seen[-3:] == [2, 1, 1]  # the prompt on all threads, then steps
    for _ in stream(model, [1, 2, 3], max_new_tokens=3):
        assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_an_error_leaves_the_number_of_threads_too():
    def fail():
        with one_thread(True):
            assert torch.get_num_threads() == 1
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_threads_that_start_during_a_step_have_the_number_of_the_process():
    model, seen = small_model("retnet"), []

    def start_a_thread(*_: object) -> None:
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()

    for module in model.modules():
        module.register_forward_hook(start_a_thread)
    generate(model, [1, 2, 3], max_new_tokens=3)
    tokens = torch.tensor([[4, 5, 6]])
    model.train()(tokens, labels=tokens).loss.backward()
    assert set(seen) == {2}


def test_no_step_sets_the_number_of_the_process(monkeypatch: pytest.MonkeyPatch):
    def refuse(number: int) -> None:
        raise AssertionError(f"the whole process would have {number} threads")

    monkeypatch.setattr(torch, "set_num_threads", refuse)
    for family in ("retnet", "transformer", "rmt", "retro"):
        model, tokens = small_model(family), torch.tensor([[4, 5, 6]])
        generate(model, tokens, max_new_tokens=3)
        model.train()(tokens, labels=tokens).loss.backward()


def test_a_generated_state_can_be_learned_from():
    model = small_model("retnet")
    result = generate(model, [1, 2, 3], max_new_tokens=3)
    for tensor in named_tensors(result.state).values():
        assert not tensor.is_inference()
    tokens = torch.tensor([[4, 5, 6]])
    model.train()(tokens, result.state.model, tokens).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
