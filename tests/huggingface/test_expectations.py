"""What users expect of every model of transformers: other vocabularies, caches on demand, folders that all can read."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from laws.families import case_name, cases, random_tokens, small_model
from retentive.checkpoints import load_model, save_model
from retentive.errors import MismatchError
from retentive.huggingface import RetentiveForCausalLM, StateCache, register
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
