"""A sequence of DNA is the same whichever strand is written down, and so are predictions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.rmt.small import small_config
from retentive.models.rmt import RecurrentMemoryTransformer
from retentive.models.transformer import TransformerConfig
from retentive.nucleotides import ReverseComplementTransformer, average_over_strands
from retentive.nucleotides.complement import reverse_complement, reverse_complement_logits
from retentive.nucleotides.model import symmetric_segments
from retentive.text.nucleotide_tokenizer import NucleotideTokenizer

DNA = NucleotideTokenizer
BACKBONE = TransformerConfig(vocab_size=DNA.vocab_size, hidden_size=16, num_layers=2, num_heads=2)


def small_strands(dtype: torch.dtype = torch.float64) -> ReverseComplementTransformer:
    torch.manual_seed(0)
    model = ReverseComplementTransformer(small_config(backbone=BACKBONE, bidirectional=True), DNA.complement).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def bases(batch: int, time: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 5, (batch, time), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("time", [1, 4, 5, 6, 9, 10, 11, 15, 22, 23])
def test_predictions_of_the_other_strand_are_the_same(time: int):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        model, tokens = small_strands(dtype), bases(3, time)
        here, there = model(tokens), model(reverse_complement(tokens, DNA.complement))
        expected = reverse_complement_logits(here.logits, DNA.complement)
        torch.testing.assert_close(there.logits, expected, rtol=0, atol=tolerance)
        torch.testing.assert_close(there.pooled, here.pooled, rtol=0, atol=tolerance)
        assert here.logits.std() > 0.1


def test_an_encoder_of_one_stream_is_not_equivariant_but_its_average_is():
    torch.manual_seed(0)
    model = RecurrentMemoryTransformer(small_config(backbone=BACKBONE, bidirectional=True)).double().eval()
    tokens = bases(2, 13)
    other = reverse_complement(tokens, DNA.complement)

    def predict(text: torch.Tensor) -> torch.Tensor:
        return model(text).logits

    def averaged(text: torch.Tensor) -> torch.Tensor:
        return average_over_strands(predict, text, DNA.complement)

    def difference(function) -> float:
        return (function(other) - reverse_complement_logits(function(tokens), DNA.complement)).abs().max().item()

    assert difference(predict) > 1e-3
    assert difference(averaged) < 1e-12


def test_a_base_is_predicted_from_all_of_the_sequence():
    model, tokens = small_strands(), bases(1, 23)
    for place in (0, 11, 22):
        other = tokens.clone()
        other[0, place] = (other[0, place] + 1) % 4
        changed = (model(tokens).logits - model(other).logits).abs().amax(-1)[0]
        assert bool((changed > 0).all())


def test_rows_do_not_see_one_another_and_segments_are_read_as_one():
    model, tokens = small_strands(), bases(3, 17)
    together = model(tokens).logits
    for row in range(3):
        torch.testing.assert_close(model(tokens[row : row + 1]).logits[0], together[row], rtol=0, atol=1e-12)


def test_every_weight_learns():
    model, tokens = small_strands().train(), bases(2, 17)
    labels = tokens.masked_fill(torch.arange(17) % 3 > 0, -100)
    output = model(tokens, labels=labels)
    asked = labels != -100
    expected = torch.nn.functional.cross_entropy(output.logits[asked], labels[asked])
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert model(tokens, labels=torch.full_like(tokens, -100)).loss.item() == 0.0


@given(length=st.integers(1, 300), segment_length=st.integers(1, 40))
@settings(deadline=None)
def test_segments_are_the_same_from_either_end(length: int, segment_length: int):
    sizes = symmetric_segments(length, segment_length)
    assert sizes == sizes[::-1]
    assert sum(sizes) == length
    assert min(sizes) >= 1
    assert max(sizes) <= segment_length
    assert max(sizes) - min(sizes) <= 2
    assert len(sizes) <= -(-length // segment_length) + 1


@pytest.mark.parametrize(
    ("changes", "complement", "message"),
    [
        ({"bidirectional": False}, DNA.complement, "config must have bidirectional=True and memory tokens.*=False"),
        ({"num_memory_tokens": 0}, DNA.complement, "memory tokens.*num_memory_tokens=0"),
        ({"xl_length": 2}, DNA.complement, "config must have xl_length=0 and token_shift=False.*but has 2 and False"),
        ({"token_shift": True}, DNA.complement, "from one side alone, but has 0 and True"),
        ({}, (3, 2, 1, 0, 4), "complement must name an id for each of vocab_size = 6 ids, but names 5"),
        ({}, (1, 2, 0, 3, 4, 5), "complement must be undone by itself, but of id 0 it is 1.*k-mers, BPE"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict, complement: tuple[int, ...], message: str):
    config = small_config(**{"backbone": BACKBONE, "bidirectional": True, **changes})
    with pytest.raises(ValueError, match=message):
        ReverseComplementTransformer(config, complement)


def test_labels_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"labels must have the shape of tokens, \(1, 7\), but have \(1, 6\)"):
        small_strands()(bases(1, 7), labels=bases(1, 6))


def test_no_segment_can_be_empty():
    with pytest.raises(ValueError, match="length must be at least 1, but is 0"):
        symmetric_segments(0, 5)


def test_what_stands_on_its_backbone_is_refused():
    model = small_strands()
    before = model.backbone_model.forward
    model.backbone_model.forward = lambda *given, **named: before(*given, **named)
    with pytest.raises(ValueError, match=r"backbone_model must do nothing more in calls .* has a patched forward"):
        model(bases(1, 7))
