"""Classes of texts and tokens."""

import pytest
import torch

from laws.families import random_tokens
from models.rmt.small import small_config
from retentive.models.rmt.classifier import RecurrentMemoryClassifier


def small_classifier(num_classes: int = 3, per_token: bool = False, **changes) -> RecurrentMemoryClassifier:
    torch.manual_seed(0)
    made = RecurrentMemoryClassifier(
        small_config(bidirectional=True, **changes), num_classes, per_token=per_token
    ).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


@pytest.mark.parametrize("per_token", [False, True])
def test_each_row_is_classified_as_it_is_alone(per_token: bool):
    model = small_classifier(per_token=per_token)
    tokens, lengths = random_tokens(3, 17), [17, 4, 10]
    mask = torch.arange(17) < torch.tensor(lengths)[:, None]
    together = model(tokens, mask=mask).logits
    for row, length in enumerate(lengths):
        alone = model(tokens[row : row + 1, :length]).logits[0]
        found = together[row, :length] if per_token else together[row]
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-11)


def test_a_texts_class_does_not_depend_on_how_calls_are_cut():
    model = small_classifier()
    tokens = random_tokens(2, 17)
    state = model(tokens[:, :7]).state
    torch.testing.assert_close(model(tokens[:, 7:], state).logits, model(tokens).logits, rtol=0, atol=1e-12)


def test_the_loss_is_a_mean_over_valid_labels():
    model = small_classifier(per_token=True)
    tokens = random_tokens(2, 9)
    labels = torch.tensor([[0, 1, 2, -100, -100, 1, 1, 0, 2], [-100] * 9])
    output = model(tokens, labels=labels)
    expected = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(output.loss, expected, rtol=0, atol=1e-12)
    assert model(tokens, labels=torch.full_like(labels, -100)).loss.item() == 0


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="num_classes must be at least 2, but is 1"):
        small_classifier(num_classes=1)
    with pytest.raises(
        ValueError, match="told from its memory tokens, but config carries none; give it num_memory_tok"
    ):
        small_classifier(num_memory_tokens=0)
    tokens = random_tokens(2, 9)
    with pytest.raises(ValueError, match="at most one class in each row, for a text has one, but a row has 9"):
        small_classifier()(tokens, labels=tokens)


def test_a_fact_of_the_first_segment_decides_the_class_of_the_text():
    """It learns, through the memory, what stands four segments before the end."""
    torch.manual_seed(0)
    model = RecurrentMemoryClassifier(small_config(bidirectional=True), 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    correct = []
    for step in range(150):
        tokens = random_tokens(32, 20, seed=step)
        labels = random_tokens(32, 1, seed=1000 + step)[:, 0] % 2
        tokens[:, 2] = 21 + labels
        output = model(tokens, labels=labels)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        correct.append((output.logits.argmax(-1) == labels).float().mean().item())
    assert sum(correct[-20:]) / 20 > 0.9


@pytest.mark.parametrize("per_token", [False, True])
def test_what_stands_on_its_backbone_is_refused_and_on_the_decoder_acts(per_token: bool):
    """The head reads hidden states, which a call of the backbone does not return."""
    model, tokens = small_classifier(per_token=per_token), random_tokens(2, 7)
    before = model(tokens).logits
    model.backbone_model.decoder.register_forward_hook(lambda _, __, made: (made[0] + 1, made[1]))
    assert not torch.allclose(model(tokens).logits, before)
    model.backbone_model.register_forward_hook(lambda _, __, made: made)
    with pytest.raises(ValueError, match=r"backbone_model must do nothing more in calls than .* has a hook: put it on"):
        model(tokens)
