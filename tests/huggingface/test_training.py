"""Losses, Trainer with its own checkpoints, LoRA and pipelines, as users of transformers know them."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, pipeline

from laws.families import case_name, cases, random_tokens, small_config, small_model
from retentive.checkpoints import load_model, save_model
from retentive.errors import DivergedError, MismatchError
from retentive.generation import generate
from retentive.huggingface import RetentiveConfig, RetentiveForCausalLM, StateCache, register
from retentive.models.registry import build
from retentive.state import map_tensors
from retentive.text.byte_tokenizer import ByteTokenizer

register()

EVERY_CASE = pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
EVERY_FAMILY = pytest.mark.parametrize("family", ["transformer", "retnet", "retro", "rmt"])


@EVERY_CASE
def test_losses_and_gradients_are_ours(family: str, changes: dict):
    ours = small_model(family, **changes)
    theirs = RetentiveForCausalLM.of(ours)
    tokens = random_tokens(2, 11)
    labels = tokens.clone()
    labels[0, 3:5] = -100
    shifted = torch.cat((labels[:, 1:], torch.full((2, 1), -100)), 1)
    expected = ours(tokens, labels=shifted).loss
    wanted = torch.autograd.grad(expected, ours.decoder.embedding.tokens.weight)
    found = theirs(tokens, labels=labels)
    gradient = torch.autograd.grad(found.loss, ours.decoder.embedding.tokens.weight)
    torch.testing.assert_close(found.loss, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-12)
    count = (shifted != -100).sum()
    part = theirs(tokens, labels=labels, num_items_in_batch=2 * count).loss
    torch.testing.assert_close(part, expected / 2, rtol=0, atol=1e-12)
    assert theirs(tokens, labels=labels, return_dict=False)[0] == found.loss


def test_padding_has_no_loss():
    theirs = RetentiveForCausalLM.of(small_model("retnet"))
    tokens = random_tokens(1, 7)
    alone = theirs(tokens, labels=tokens).loss
    padded = torch.cat((torch.zeros(1, 4, dtype=torch.long), tokens), 1)
    mask = torch.tensor([[0] * 4 + [1] * 7])
    torch.testing.assert_close(theirs(padded, attention_mask=mask, labels=padded).loss, alone, rtol=0, atol=1e-12)
    nothing = theirs(tokens, labels=torch.full_like(tokens, -100)).loss
    assert nothing == 0


def test_kept_logits_are_the_last_ones_or_those_at_places():
    theirs = RetentiveForCausalLM.of(small_model("retnet"))
    tokens = random_tokens(2, 7)
    every = theirs(tokens).logits
    torch.testing.assert_close(theirs(tokens, logits_to_keep=2).logits, every[:, -2:], rtol=0, atol=1e-12)
    places = torch.tensor([0, 3])
    torch.testing.assert_close(theirs(tokens, logits_to_keep=places).logits, every[:, places], rtol=0, atol=1e-12)
    assert theirs(tokens, labels=tokens, logits_to_keep=1).logits.shape[1] == 1


def test_a_call_that_cannot_be_is_refused_by_name():
    theirs = RetentiveForCausalLM.of(small_model("retnet"))
    tokens = random_tokens(2, 7)
    with pytest.raises(ValueError, match="output_attentions must be False or left out"):
        theirs(tokens, output_attentions=True)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds must be given, and not both"):
        theirs()
    with pytest.raises(ValueError, match=r"attention_mask must be \(batch, time\), \(2, 7\).* has shape \(2, 3\)"):
        theirs(tokens, attention_mask=torch.ones(2, 3))
    with pytest.raises(ValueError, match="every label must be -100 or from 0 to vocab_size - 1 = 22, but one is not"):
        theirs(tokens, labels=tokens + 50)
    assert theirs(tokens, labels=torch.full_like(tokens, -100), num_items_in_batch=0).loss == 0
    assert theirs(tokens, labels=tokens.int()).loss == theirs(tokens, labels=tokens).loss
    with pytest.raises(ValueError, match="new_num_tokens must be at least 1, but is 0"):
        theirs.resize_token_embeddings(0)
    with pytest.raises(ValueError, match=r"config must be a family's config, as in .* but is missing"):
        RetentiveConfig()


class Texts(torch.utils.data.Dataset):
    """The same rows in the same order."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = random_tokens(1, 12, seed=index % 4)[0]
        return {"input_ids": tokens, "labels": tokens}


class PaddedTexts(Texts):
    """Rows with padding on the left, of different lengths, and five labels of their own."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens, places = random_tokens(1, 12, seed=index)[0], torch.arange(12)
        real = places >= 1 + index % 5
        labelled = real & (places < 6 + index % 5)
        return {"input_ids": tokens, "attention_mask": real.long(), "labels": tokens.where(labelled, -100)}


def trainer(family: str, folder: Path, steps: int, texts: Texts | None = None, **options: object) -> Trainer:
    torch.manual_seed(0)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_eval_batch_size=4,
        lr_scheduler_type="constant",
        save_steps=4,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
        **{
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "learning_rate": 0.01,
            "logging_steps": 4,
            **options,
        },
    )
    model = RetentiveForCausalLM.of(build(small_config(family)))
    return Trainer(model=model, args=arguments, train_dataset=texts or Texts(), eval_dataset=Texts())


@EVERY_FAMILY
def test_trainer_learns_and_goes_on_from_its_checkpoint(family: str, tmp_path: Path):
    whole = trainer(family, tmp_path / "whole", 8)
    before = whole.evaluate()["eval_loss"]
    whole.train()
    assert whole.evaluate()["eval_loss"] < before - 0.1
    halves = trainer(family, tmp_path / "halves", 4)
    halves.train()
    halves = trainer(family, tmp_path / "halves", 8)
    halves.train(resume_from_checkpoint=True)
    assert halves.state.global_step == 8
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(halves.model.state_dict()[name], tensor, msg=name)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "halves" / "checkpoint-8")
    tokens = random_tokens(1, 9)
    torch.testing.assert_close(again(tokens).logits, whole.model.eval()(tokens).logits)
    save_model(again.model, tmp_path / "ours")
    torch.testing.assert_close(load_model(tmp_path / "ours")(tokens).logits, again(tokens).logits)


def test_accumulated_rows_with_padding_on_the_left_are_one_batch(tmp_path: Path):
    """Rows have as many labels, so that each part of a batch has its share, however the rows are drawn."""
    parts: dict[int, Trainer] = {}
    for count in (1, 4):
        sizes = {"per_device_train_batch_size": 8 // count, "gradient_accumulation_steps": count}
        parts[count] = trainer("retnet", tmp_path / str(count), 2, PaddedTexts(), logging_steps=1, **sizes)
        parts[count].train()
    found, expected = ([line["loss"] for line in each.state.log_history if "loss" in line] for each in parts.values())
    assert found == pytest.approx(expected, rel=1e-5)
    weights = parts[4].model.state_dict()
    for name, tensor in parts[1].model.state_dict().items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    rows = [PaddedTexts()[index] for index in range(8)]
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    total = int((batch["labels"][:, 1:] != -100).sum())
    model = parts[1].model.eval()
    each = [{name: tensor[begin : begin + 2] for name, tensor in batch.items()} for begin in range(0, 8, 2)]
    summed = sum(model(**part, num_items_in_batch=total).loss for part in each)
    torch.testing.assert_close(summed, model(**batch).loss)


def test_trainer_smooths_the_labels_of_next_tokens(tmp_path: Path):
    each = trainer("retnet", tmp_path, 1, label_smoothing_factor=0.2)
    batch = {"input_ids": random_tokens(2, 9), "labels": random_tokens(2, 9)}
    found = each.compute_loss(each.model.eval(), dict(batch))
    logits = each.model(batch["input_ids"]).logits[:, :-1].flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, batch["labels"][:, 1:].flatten(), label_smoothing=0.2)
    torch.testing.assert_close(found, expected)


@EVERY_FAMILY
def test_trainer_gathers_logits_and_no_states(family: str, tmp_path: Path):
    predictions = trainer(family, tmp_path, 1).predict(Texts()).predictions
    assert not isinstance(predictions, tuple)
    assert predictions.shape == (16, 12, 23)


@EVERY_CASE
def test_no_family_reads_past_an_adapter(family: str, changes: dict):
    theirs = RetentiveForCausalLM.of(small_model(family, **changes))
    config = LoraConfig(r=2, target_modules=["input_proj", "output_proj"], task_type="CAUSAL_LM")
    tuned = get_peft_model(theirs, config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_" in name:
                weight.copy_(0.3 * torch.randn_like(weight))
    tokens = random_tokens(2, 13)
    options = {"attention_mask": torch.ones_like(tokens), "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    written = tuned.generate(input_ids=tokens, **options)
    ours = generate(theirs.model, tokens, max_new_tokens=8).tokens
    merged = tuned.merge_and_unload()
    expected = generate(merged.model, tokens, max_new_tokens=8).tokens
    assert torch.equal(written[:, 13:], torch.stack(expected))
    assert torch.equal(torch.stack(ours), torch.stack(expected))


@EVERY_FAMILY
def test_lora_learns_merges_and_comes_back(family: str, tmp_path: Path):
    base = small_model(family, dtype=torch.float32)
    save_model(base, tmp_path / "base")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    config = LoraConfig(r=2, target_modules=["input_proj", "output_proj"], task_type="CAUSAL_LM", lora_dropout=0.0)
    tuned = get_peft_model(theirs, config)
    tokens = random_tokens(2, 12)
    optimizer = torch.optim.Adam([weight for weight in tuned.parameters() if weight.requires_grad], lr=0.05)
    losses = []
    for _ in range(6):
        loss = tuned(input_ids=tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    tuned.eval()
    expected = tuned(input_ids=tokens).logits
    tuned.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    torch.testing.assert_close(again(input_ids=tokens).logits, expected)
    options = {"attention_mask": torch.ones_like(tokens), "max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    written = again.generate(input_ids=tokens, **options)
    merged = again.merge_and_unload()
    torch.testing.assert_close(merged(tokens).logits, expected, rtol=1e-4, atol=1e-5)
    save_model(merged.model, tmp_path / "merged")
    ours = load_model(tmp_path / "merged")
    assert torch.equal(torch.stack(generate(ours, tokens, max_new_tokens=4).tokens), written[:, 12:])


@EVERY_FAMILY
def test_a_text_generation_pipeline(family: str, tmp_path: Path):
    tokenizer = ByteTokenizer()
    changes: dict[str, Any] = {"vocab_size": 257}
    if family in ("rmt", "retro"):
        changes = {"backbone": small_config("transformer", vocab_size=257)}
    ours = small_model(family, dtype=torch.float32, **changes)
    save_model(ours, tmp_path, tokenizer)
    pipe = pipeline("text-generation", model=str(tmp_path), device="cpu")
    prompts = ["hello", "a longer one"]
    found = pipe(prompts, max_new_tokens=6, do_sample=False, batch_size=2, return_full_text=False)
    ids = [[tokenizer.end_of_text, *tokenizer.encode(prompt)] for prompt in prompts]
    expected = generate(ours, ids, max_new_tokens=6, stop_tokens=[tokenizer.end_of_text])
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for answer, tokens in zip(found, expected.tokens, strict=True):
        assert answer[0]["generated_text"] == theirs.decode(tokens, skip_special_tokens=True)


def test_virtual_tokens_are_learned_before_a_text():
    theirs = RetentiveForCausalLM.of(small_model("retnet"))
    tokens = random_tokens(2, 7)
    tuned = get_peft_model(theirs, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    tuned(input_ids=tokens, attention_mask=torch.ones_like(tokens), labels=tokens).loss.backward()
    learned = tuned.prompt_encoder.default.embedding.weight
    assert learned.grad.abs().max() > 0
    rows = torch.cat((learned.detach().expand(2, -1, -1), theirs.get_input_embeddings()(tokens)), 1)
    found = tuned(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    torch.testing.assert_close(found, theirs(inputs_embeds=rows).logits)


@pytest.mark.parametrize("family", ["transformer", "retnet", "hybrid"])
def test_vectors_in_place_of_ids_are_checked_as_ids_are(family: str):
    theirs, tokens = RetentiveForCausalLM.of(small_model(family)), random_tokens(2, 7)
    rows = theirs.get_input_embeddings()(tokens).detach()
    with torch.no_grad():
        state, other = theirs.model(tokens).state, small_model(family, rotary_base=100.0)(tokens).state
    broken = map_tensors(state, lambda part: part * float("nan") if part.is_floating_point() else part)
    for given, error, message in (
        (other, MismatchError, "of a model of this config"),
        (state.select(torch.tensor([0])), ValueError, "one row for each row"),
        (broken, DivergedError, "must have no NaN"),
    ):
        for call in ({"input_ids": tokens}, {"inputs_embeds": rows}):
            with pytest.raises(error, match=message):
                theirs(**call, past_key_values=StateCache(given))
    for wrong, message in (
        (rows[..., :8], r"\(batch, time, hidden_size = 16\)"),
        (rows.float(), "the dtype of the model's table, torch.float64"),
    ):
        with pytest.raises(ValueError, match=f"inputs_embeds must (be|have) {message}"):
            theirs(inputs_embeds=wrong)
    hook = theirs.model.decoder.embedding.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"model\.decoder\.embedding must do nothing more .* give input_ids"):
        theirs(inputs_embeds=rows)
    hook.remove()
    theirs.model.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="inputs_embeds must be None where a hook"):
        theirs(inputs_embeds=rows)
