"""One step: what it minimises, what it draws, and when it refuses."""

import copy
from typing import Any

import pytest
import torch

from laws.families import VOCAB, small_config, small_model
from models.test_protocol import moving_average
from retentive.data.batch import Batch
from retentive.data.tasks.synthetic import repeat_copy
from retentive.errors import DivergedError
from retentive.models.protocol import LanguageModel
from retentive.state import named_tensors
from retentive.training.processes.processes import alone
from retentive.training.run.fit import fit
from retentive.training.step.config import OptimizerConfig, ScheduleConfig
from retentive.training.step.learner import Learner


def learner_of(
    model: LanguageModel, *, clip_norm: float | None = None, carries_state: bool = False, way: Any = "plain"
) -> Learner:
    """A learner whose learning rate is high enough that steps show."""
    return Learner(
        model,
        optimizer=OptimizerConfig(learning_rate=1e-2, epsilon=1e-3, clip_norm=clip_norm),
        schedule=ScheduleConfig(warmup_steps=0),
        decay_steps=10,
        seed=3,
        carries_state=carries_state,
        processes=alone(),
        backpropagation=way,
    )


def batch_of(seed: int, rows: int = 4, time: int = 9) -> Batch:
    """Random rows, the later ones with fewer labels."""
    tokens = torch.randint(0, VOCAB, (rows, time + 1), generator=torch.Generator().manual_seed(seed))
    labels = tokens[:, 1:].clone()
    for row in range(rows):
        labels[row, : 2 * row] = -100
    return Batch(tokens=tokens[:, :-1], labels=labels, starts=torch.zeros(rows, time, dtype=torch.bool))


def cut(batch: Batch, parts: int) -> list[list[Batch]]:
    """Equal parts of the rows."""
    pieces = (tensor.chunk(parts) for tensor in (batch.tokens, batch.labels, batch.starts))
    return [[Batch(tokens=t, labels=y, starts=s)] for t, y, s in zip(*pieces, strict=True)]


@pytest.mark.parametrize("carries_state", [False, True])
def test_accumulated_parts_are_one_batch(carries_state: bool):
    results = {}
    for parts in (1, 2, 4):
        learner = learner_of(small_model("retnet"), carries_state=carries_state)
        results[parts] = [learner.step(step, cut(batch_of(step), parts)) for step in range(3)], learner.model
    for parts in (2, 4):
        for ours, whole in zip(results[parts][0], results[1][0], strict=True):
            assert ours.num_labels == whole.num_labels == 4 * 9 - 12
            assert ours.loss == pytest.approx(whole.loss, rel=1e-12)
            assert ours.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-9)
        for ours, whole in zip(results[parts][1].parameters(), results[1][1].parameters(), strict=True):
            torch.testing.assert_close(ours, whole, rtol=1e-8, atol=1e-10)


def test_the_loss_is_the_mean_over_labels_and_not_of_means():
    model, batch = small_model("retnet"), batch_of(0)
    expected = float(model(batch.tokens, labels=batch.labels).loss.detach())
    assert learner_of(model).step(0, cut(batch, 4)).loss == pytest.approx(expected, rel=1e-12)


def test_a_batch_without_labels_learns_nothing_but_decay():
    batch = batch_of(0)
    empty = Batch(tokens=batch.tokens, labels=torch.full_like(batch.labels, -100), starts=batch.starts)
    result = learner_of(small_model("retnet")).step(0, [[empty]])
    assert (result.loss, result.gradient_norm, result.num_labels) == (0.0, 0.0, 0)


def test_gradients_are_clipped_to_the_norm():
    learner = learner_of(small_model("retnet"), clip_norm=0.01)
    result = learner.step(0, [[batch_of(0)]])
    assert result.gradient_norm > 0.02
    left = torch.cat([p.grad.flatten() for p in learner.model.parameters() if p.grad is not None]).norm()
    assert float(left) == pytest.approx(0.01, rel=1e-9)


def test_dropout_depends_on_seed_and_step_alone():
    model = small_model("retnet", dropout=0.4)
    losses = []
    for disturbance in (0, 1):
        torch.manual_seed(disturbance)
        learner = learner_of(copy.deepcopy(model))
        expected_next = torch.Generator().manual_seed(disturbance)
        losses.append([learner.step(step, [[batch_of(step)]]).loss for step in range(2)])
        assert torch.equal(torch.rand(3), torch.rand(3, generator=expected_next))  # the user's generator is untouched
    assert losses[0] == losses[1]
    same_batch = [learner_of(copy.deepcopy(model)).step(step, [[batch_of(0)]]).loss for step in (0, 1)]
    assert same_batch[0] != same_batch[1]


def test_states_are_carried_from_step_to_step():
    model = small_model("retnet")
    learner = learner_of(copy.deepcopy(model), carries_state=True)
    learner.step(0, [[batch_of(0)]])
    state = model(batch_of(0).tokens).state
    torch.testing.assert_close(learner.states[0].layers[0].kv, state.layers[0].kv.detach(), rtol=1e-12, atol=0)
    forgetful = learner_of(copy.deepcopy(learner.model), carries_state=False)
    assert learner.step(1, [[batch_of(1)]]).loss != forgetful.step(1, [[batch_of(1)]]).loss


def test_a_loss_that_is_not_a_number_stops_before_the_weights():
    model = small_model("retnet")
    with torch.no_grad():
        model.decoder.head.weight[0, 0] = float("nan")
    learner = learner_of(model)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(DivergedError, match=r"step 5: the loss is nan, and the gradient of .* \d+ more parameters"):
        learner.step(4, [[batch_of(0)]])
    assert all(
        torch.equal(
            before[name],
            value,
        )
        or value.isnan().any()
        for name, value in model.state_dict().items()
    )
    assert not learner.optimizer.state


def test_a_gradient_that_is_not_finite_is_named():
    model = small_model("retnet")
    model.decoder.blocks[1].mixer.output_proj.weight.register_hook(lambda gradient: gradient * float("inf"))
    learner = learner_of(model)
    before = copy.deepcopy(model.state_dict())
    expected = (
        r"step 1: the loss is 3\.\d+, and the gradient of decoder\.blocks\.1\.mixer\.output_proj\.weight is not fin"
    )
    with pytest.raises(DivergedError, match=expected):
        learner.step(0, [[batch_of(0)]])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_attention_to_everything_is_not_streamed():
    with pytest.raises(ValueError, match=r"data\.mode='streamed' needs a model whose state stops growing, but the"):
        learner_of(small_model("transformer"), carries_state=True)
    for family, changes in (("transformer", {"window": 4}), ("rmt", {})):
        learner_of(small_model(family, **changes), carries_state=True)


@pytest.mark.parametrize("family", ["retnet", "transformer", "rmt"])
def test_fit_learns_to_copy(family: str):
    def task(step: int) -> Batch:
        return repeat_copy(step % 4, batch_size=8, length=4, num_symbols=6, seed=0)

    model = small_model(family, dtype=torch.float32)
    results = fit(model, task, steps=60, optimizer=OptimizerConfig(learning_rate=1e-2), seed=0)
    assert results[-1].loss < 0.5 * results[0].loss
    assert results[-1].learning_rate < results[0].learning_rate


def test_fit_sends_gradients_back_through_windows():
    def task(step: int) -> Batch:  # symbols in the even windows, their copy in the odd ones
        whole = repeat_copy(step // 2 % 4, batch_size=8, length=3, num_symbols=2, seed=0)
        columns = slice(0, 3) if step % 2 == 0 else slice(3, 6)
        starts = torch.zeros(8, 3, dtype=torch.bool)
        starts[:, 0] = step % 2 == 0
        return Batch(tokens=whole.tokens[:, columns], labels=whole.labels[:, columns], starts=starts)

    options: dict[str, Any] = {"optimizer": OptimizerConfig(learning_rate=1e-2), "carries_state": True}
    model = small_model("retnet", dtype=torch.float32)
    results = fit(model, task, steps=60, windows_per_graph=2, **options)
    assert results[-1].loss < 0.3


@pytest.mark.parametrize("way", ["recompute", "replay"])
def test_every_way_back_gives_the_same_steps(way: str):
    """Two parts of a batch, each of three windows that follow one another, with dropout and state."""
    changes = {"backbone": small_config("transformer", dropout=0.2), "xl_length": 3}
    learners = [learner_of(small_model("rmt", **changes), carries_state=True, way=name) for name in ("plain", way)]
    for step in range(2):
        windows = [cut(batch_of(10 * step + number), 2) for number in range(3)]
        parts = [[window[part][0] for window in windows] for part in range(2)]
        plain, other = (learner.step(step, parts) for learner in learners)
        assert other.loss == pytest.approx(plain.loss, rel=1e-12)
        assert other.gradient_norm == pytest.approx(plain.gradient_norm, rel=1e-10)
    for ours, theirs in zip(*(learner.model.parameters() for learner in learners), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    for mine, whole in zip(*(learner.states for learner in learners), strict=True):
        for name, tensor in named_tensors(whole).items():
            torch.testing.assert_close(named_tensors(mine)[name], tensor, rtol=0, atol=1e-10, msg=name)
            assert not tensor.requires_grad


def test_recomputed_blocks_take_the_memory_of_their_inputs_and_of_one_block():
    """A stack of 8 blocks: what 8 keep is at most a third of what they kept, and dropout draws the same."""
    kept, losses = {}, {}
    for way in ("plain", "recompute"):
        saved: list[int] = []

        def pack(tensor: torch.Tensor, saved: list[int] = saved) -> torch.Tensor:
            saved.append(tensor.untyped_storage().nbytes())
            return tensor

        learner = learner_of(small_model("retnet", num_layers=8, dropout=0.1), way=way)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = learner.model.train()(batch_of(0, time=40).tokens, labels=batch_of(0, time=40).labels).loss
        kept[way], losses[way] = sum(saved), learner.step(0, [[batch_of(0)]])
        assert loss.requires_grad
    assert kept["recompute"] < kept["plain"] / 3
    assert losses["recompute"] == losses["plain"]


def test_only_families_of_the_library_are_recomputed():
    with pytest.raises(ValueError, match="'plain' or 'replay' for a MovingAverage, which is no family of this library"):
        learner_of(moving_average(), way="recompute")
