"""What a model is asked in the wrong way is refused with the argument, the rule, the value and the cure."""

import pytest
import torch

from retentive import RecurrentMemoryConfig, RetNetConfig, Transformer, TransformerConfig
from retentive.errors import MismatchError
from retentive.models.registry import build
from without_hook import errors_of

SIZES = {"vocab_size": 10, "hidden_size": 16, "num_layers": 1, "num_heads": 2}
TOKENS = torch.tensor([[1, 2, 3], [4, 5, 6]])


BACKBONE = TransformerConfig(**SIZES)
CONFIGS = [
    RetNetConfig(**SIZES),
    BACKBONE,
    RecurrentMemoryConfig(backbone=BACKBONE, segment_length=2, num_memory_tokens=2),
]


@pytest.fixture(params=CONFIGS, ids=lambda config: config.family)
def model(request: pytest.FixtureRequest):
    return build(request.param)


@pytest.mark.parametrize("wrong", [-1, 10, 999])
def test_ids_outside_the_vocabulary(model, wrong: int):
    tokens = TOKENS.clone()
    tokens[1, 2] = wrong
    rule = "from 0 to vocab_size - 1 = 9, but 1 are outside, the first of them"
    with pytest.raises(ValueError, match=rf"{rule} {wrong}; are they of another tokenizer\?"):
        model(tokens)


@pytest.mark.parametrize("wrong", [-1, 10, 999])
def test_labels_outside_the_vocabulary(model, wrong: int):
    labels = TOKENS.clone()
    labels[0, 1] = wrong
    with pytest.raises(ValueError, match=rf"every label must be -100 or from 0 to .* = 9, but 1 .* them {wrong}\."):
        model(TOKENS, labels=labels)


def test_positions_beyond_the_learned_ones():
    model = Transformer(TransformerConfig(**SIZES, positions="learned", max_positions=4))
    state = model(TOKENS).state
    rule = "every position must be from 0 to max_positions - 1 = 3, but 4 are outside, the first of them 4"
    with pytest.raises(ValueError, match=f"{rule}; read shorter texts, or make"):
        model(TOKENS, state)


def test_states_of_another_batch(model):
    state = model(TOKENS).state
    with pytest.raises(ValueError, match=r"one row for each row of tokens, 1, but has 2; state.select\(rows\)"):
        model(TOKENS[:1], state)


# The jaxtyping hook of the test run refuses these calls first, so the checks that users meet are called alone.
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": TOKENS[0]}, r"tokens must be \(batch, time\), but have shape \(3,\)"),
        ({"tokens": TOKENS.float()}, r"tokens must be integer ids \(int64 or int32\), but are torch.float32"),
        ({"tokens": TOKENS[:, :0]}, r"tokens must hold at least one token, but have shape \(2, 0\)"),
        ({"labels": TOKENS[:, :2]}, r"labels must have the shape of tokens, \(2, 3\), but have \(2, 2\)"),
        ({"labels": TOKENS.float()}, "labels must be torch.int64, but are torch.float32"),
        ({"mask": TOKENS}, "mask must be torch.bool, but are torch.int64"),
        ({"starts": TOKENS[:1] > 0}, r"starts must have the shape of tokens, \(2, 3\), but have \(1, 3\)"),
        ({"logits_to_keep": -1}, "logits_to_keep must be at least 0, or None for all, but is -1"),
    ],
)
def test_wrong_shapes_and_dtypes(changes: dict, message: str):
    from retentive.models.calls import check_call

    arguments = {"tokens": TOKENS, "state": None, "labels": None, "mask": None, "starts": None, "logits_to_keep": None}
    with pytest.raises(ValueError, match=message):
        check_call(**{**arguments, **changes})


OTHERS = {
    "more layers": RetNetConfig(**{**SIZES, "num_layers": 2}),
    "another width": RetNetConfig(**{**SIZES, "hidden_size": 32}),
    "another family": BACKBONE,
    "recurrent memory": CONFIGS[2],
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("config", CONFIGS[:2], ids=lambda config: config.family)
def test_states_of_another_model(config, other):
    if other is config:
        return
    model, state = build(config), build(other)(TOKENS).state
    with pytest.raises(MismatchError, match=r"state must be (of a model of this config, but its|the ModelState of)"):
        model(TOKENS, state)


def test_fewer_layers_are_not_enough():
    state = build(CONFIGS[0])(TOKENS).state
    model = build(OTHERS["more layers"])
    with pytest.raises(MismatchError, match="but its layers: 1, the model's: 2; states pass between models of one"):
        model(TOKENS, state)


def test_what_is_no_tensor_and_no_state():
    rest = {"labels": None, "mask": None, "starts": None, "logits_to_keep": None}
    name = "retentive.models.calls:check_call"
    calls = [(name, {"tokens": [1, 2], "state": None, **rest}), (name, {"tokens": [1, 2], "state": {}, **rest})]
    assert errors_of(calls) == [
        ("TypeError", "tokens must be a tensor of ids, but is a tuple."),
        ("TypeError", "state must be a state of this model, or None, but is a dict."),
    ]
