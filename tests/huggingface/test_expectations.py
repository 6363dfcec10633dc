"""What users expect of every model of transformers: other vocabularies, caches on demand, folders that all can read."""

import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from laws.families import case_name, cases, random_tokens, small_config, small_model
from retentive.checkpoints import load_model, save_model
from retentive.errors import MismatchError
from retentive.huggingface import RetentiveForCausalLM, RetentiveForSequenceClassification, StateCache, register
from retentive.huggingface.cache import CACHE_NAME
from retentive.text.byte_tokenizer import ByteTokenizer

register()

EVERY_CASE = pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
EVERY_FAMILY = pytest.mark.parametrize("family", ["transformer", "retnet", "retro", "rmt"])


@EVERY_CASE
def test_more_tokens_leave_the_logits_of_the_others(family: str, changes: dict, tmp_path: Path):
    theirs = RetentiveForCausalLM.of(small_model(family, dtype=torch.float32, **changes))
    tokens = random_tokens(2, 11)
    before = theirs(tokens, use_cache=True)
    table = theirs.resize_token_embeddings(26, pad_to_multiple_of=8)
    assert table is theirs.get_input_embeddings()
    assert (table.num_embeddings, theirs.config.vocab_size, theirs.model.config.decoder.embedding.vocab_size) == (
        32,
    ) * 3
    after = theirs(tokens).logits
    assert after.shape == (2, 11, 32)
    torch.testing.assert_close(after[..., :23], before.logits, rtol=1e-5, atol=1e-6)
    assert theirs(torch.tensor([[31, 2, 25]])).logits.isfinite().all()
    with pytest.raises(MismatchError):
        theirs(tokens, cache=before[CACHE_NAME])
    theirs.save_pretrained(tmp_path / "theirs")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
    assert torch.equal(again(tokens).logits, theirs(tokens).logits)
    save_model(theirs.model, tmp_path / "ours")
    assert torch.equal(load_model(tmp_path / "ours")(tokens).logits, theirs(tokens).logits)
    loss = theirs(tokens, labels=tokens).loss
    assert all(
        gradient.isfinite().all() for gradient in torch.autograd.grad(loss, [theirs.get_input_embeddings().weight])
    )
    theirs.resize_token_embeddings(23)
    torch.testing.assert_close(theirs(tokens).logits, before.logits, rtol=1e-5, atol=1e-6)


def test_a_cache_is_made_as_the_call_or_the_config_says():
    theirs = RetentiveForCausalLM.of(small_model("retnet")).eval()
    tokens = random_tokens(1, 5)

    def has_cache(**options) -> bool:
        return isinstance(theirs(tokens, **options).get(CACHE_NAME), StateCache)

    assert has_cache()
    assert not has_cache(use_cache=False)
    theirs.config.use_cache = False
    assert not has_cache()
    assert has_cache(use_cache=True)
    theirs.config.use_cache = True
    assert has_cache()
    del theirs.config.use_cache
    theirs.train()
    assert not has_cache()


class Saved:
    """Bytes that a forward pass keeps for the backward pass."""

    def __init__(self) -> None:
        self.size = 0

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        self.size += tensor.numel() * tensor.element_size()
        return tensor


@EVERY_CASE
def test_recomputed_blocks_give_the_same_gradients_and_keep_less(family: str, changes: dict):
    theirs = RetentiveForCausalLM.of(small_model(family, **changes)).train()
    tokens = random_tokens(2, 24)
    learned = dict(theirs.named_parameters())

    def gradients() -> tuple[int, tuple[torch.Tensor | None, ...]]:
        saved = Saved()
        with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
            loss = theirs(tokens, labels=tokens).loss
        return saved.size, torch.autograd.grad(loss, list(learned.values()), allow_unused=True)

    whole, expected = gradients()
    assert not theirs.is_gradient_checkpointing
    theirs.gradient_checkpointing_enable()
    assert theirs.is_gradient_checkpointing
    less, found = gradients()
    assert less < 0.95 * whole
    for name, one, other in zip(learned, expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-12, msg=name)
    theirs.gradient_checkpointing_disable()
    assert not theirs.is_gradient_checkpointing
    assert gradients()[0] > less


def test_a_copy_of_a_recomputed_model_recomputes_itself():
    theirs = RetentiveForCausalLM.of(small_model("retnet")).train()
    theirs.gradient_checkpointing_enable()
    other = deepcopy(theirs)
    with torch.no_grad():
        other.model.decoder.blocks[0].mixer.output_proj.weight.zero_()
    tokens = random_tokens(1, 5)
    assert (other(tokens).logits - theirs(tokens).logits).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["transformer", "retnet", "retro"])
def test_hidden_states_lead_from_the_table_to_the_head(family: str):
    theirs = RetentiveForCausalLM.of(small_model(family))
    tokens = random_tokens(2, 9)
    output = theirs(tokens, output_hidden_states=True)
    decoder = theirs.model.decoder
    assert len(output.hidden_states) == decoder.config.num_layers + 1
    assert all(hidden.shape == (2, 9, 16) for hidden in output.hidden_states)
    torch.testing.assert_close(output.hidden_states[0], decoder.embedding.tokens(tokens))
    torch.testing.assert_close(decoder.logits(output.hidden_states[-1]), output.logits)
    assert torch.equal(output.logits, theirs(tokens).logits)
    assert "hidden_states" not in theirs(tokens)
    theirs.config.output_hidden_states = True
    assert "hidden_states" in theirs(tokens)


def test_hidden_states_of_segments_are_refused():
    theirs = RetentiveForCausalLM.of(small_model("rmt"))
    with pytest.raises(ValueError, match="output_hidden_states must be False or left out for a rmt"):
        theirs(random_tokens(1, 4), output_hidden_states=True)


@pytest.mark.parametrize("family", ["transformer", "retnet", "rmt"])
def test_a_classifier_reads_the_last_real_token(family: str, tmp_path: Path):
    ours = small_model(family, dtype=torch.float32)
    save_model(ours, tmp_path / "ours")
    options = {"num_labels": 3, "output_loading_info": True}
    theirs, notes = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours", **options)
    assert list(notes["missing_keys"]) == ["score.weight"]
    assert not notes["unexpected_keys"]
    tokens, lengths = random_tokens(3, 11), (11, 4, 7)
    expected = torch.cat([theirs(tokens[row : row + 1, :length]).logits for row, length in enumerate(lengths)])
    assert expected.shape == (3, 3)
    mask = torch.arange(11) < torch.tensor(lengths)[:, None]
    torch.testing.assert_close(theirs(tokens, attention_mask=mask.long()).logits, expected, rtol=1e-4, atol=1e-5)
    left = torch.stack([tokens[row].roll(11 - length) for row, length in enumerate(lengths)])
    found = theirs(left, attention_mask=mask.flip(1).long()).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    theirs.config.pad_token_id = 23
    found = theirs(left.masked_fill(~mask.flip(1), 23)).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    theirs.config.pad_token_id = None
    first = theirs(tokens[:, :6], use_cache=True)
    rest = theirs(tokens[:, 6:], cache=first[CACHE_NAME]).logits
    torch.testing.assert_close(rest, theirs(tokens).logits, rtol=1e-4, atol=1e-5)
    labels = torch.tensor([0, 2, 1])
    loss = theirs(tokens, labels=labels).loss
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(theirs(tokens).logits, labels))
    loss.backward()
    unused = [name for name, weight in theirs.named_parameters() if weight.requires_grad and weight.grad is None]
    assert unused == []
    theirs.save_pretrained(tmp_path / "theirs")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "theirs")
    torch.testing.assert_close(again(tokens).logits, theirs(tokens).logits)


def test_a_classifier_calls_the_decoder_and_refuses_what_stands_on_the_model_around_it():
    model, tokens = RetentiveForSequenceClassification(small_config("retnet")), random_tokens(2, 7)
    before = model(tokens).logits
    model.model.decoder.register_forward_hook(lambda _, __, made: (made[0] + 1, made[1]))
    assert not torch.allclose(model(tokens).logits, before)
    model.model.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"model must do nothing more in calls .* or on model\.decoder"):
        model(tokens)


def test_a_family_that_offers_logits_alone_is_no_classifier():
    with pytest.raises(ValueError, match="config must be of a decoder or of a recurrent memory over one, but is of a"):
        RetentiveForSequenceClassification(small_config("retro"))


# In a process of its own, where nobody has called `register`.
UNREGISTERED = """
import sys
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from retentive import load_model

folder, text = sys.argv[1], "def add(a, b):"
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
assert "retentive.huggingface" in type(model).__module__, type(model)
tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")["input_ids"]
expected = load_model(sys.argv[2])(tokens).logits.log_softmax(-1).detach()
assert torch.allclose(model(tokens).logits.log_softmax(-1), expected)
harness = HFLM(pretrained=folder, trust_remote_code=True, device="cpu", batch_size=1, add_bos_token=False)
request = Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=0)
(found,) = harness.loglikelihood_rolling([request], disable_tqdm=True)
wanted = expected[0, :-1].gather(1, tokens[0, 1:, None]).sum()
assert abs(float(found) - float(wanted)) < 1e-3, (found, wanted)
# Where the harness puts no begin of its own, the tokenizer's is the one that is read.
harness = HFLM(pretrained=folder, trust_remote_code=True, device="cpu", batch_size=1)
request = Instance(request_type="loglikelihood", doc={}, arguments=(text[:7], text[7:]), idx=0)
((found, _),) = harness.loglikelihood([request], disable_tqdm=True)
wanted = expected[0, 7:-1].gather(1, tokens[0, 8:, None]).sum()
assert abs(float(found) - float(wanted)) < 1e-3, (found, wanted)
model.save_pretrained(sys.argv[3])
"""


def test_a_folder_is_read_where_nobody_registered(tmp_path: Path):
    ours = small_model("retnet", vocab_size=257, dtype=torch.float32)
    save_model(ours, tmp_path / "ours", ByteTokenizer())
    RetentiveForCausalLM.of(ours).save_pretrained(tmp_path / "theirs")
    ByteTokenizer().save(tmp_path / "theirs")
    for name in ("ours", "theirs"):
        folders = [str(tmp_path / folder) for folder in (name, "ours", f"{name} again")]
        run = subprocess.run(
            [sys.executable, "-c", UNREGISTERED, *folders], capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr[-3000:]
        again = sorted(path.name for path in (tmp_path / f"{name} again").glob("*.py"))
        assert again == ["modeling_retentive.py"]


def test_a_folder_runs_no_code_unless_that_is_wished(tmp_path: Path):
    save_model(small_model("retnet"), tmp_path)
    (tmp_path / "modeling_retentive.py").write_text("raise SystemExit('ran')")
    assert load_model(tmp_path).config == small_model("retnet").config
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path), RetentiveForCausalLM)
