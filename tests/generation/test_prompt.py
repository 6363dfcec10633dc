"""Prompts in every form, and those that are refused."""

import numpy
import pytest
import torch

from retentive.generation.prompt import align, read_prompt


@pytest.mark.parametrize(
    ("prompt", "rows"),
    [
        ([1, 2, 3], [[1, 2, 3]]),
        ((1, 2), [[1, 2]]),
        (list(numpy.array([3, 4])), [[3, 4]]),
        (torch.tensor([4, 5]), [[4, 5]]),
        (torch.tensor([4, 5], dtype=torch.int32), [[4, 5]]),
        (torch.tensor([[4, 5], [6, 7]]), [[4, 5], [6, 7]]),
        ([[1], [2, 3, 4]], [[1], [2, 3, 4]]),
        ([torch.tensor([1]), [2, 3]], [[1], [2, 3]]),
        (None, []),
        ([], []),
        ([[]], [[]]),
    ],
)
def test_a_prompt_is_read_in_every_form(prompt: object, rows: list[list[int]]):
    found = read_prompt(prompt, vocab_size=10)
    assert [row.tolist() for row in found] == rows
    assert all(row.dtype is torch.long for row in found)


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        ("text", TypeError, "prompt must be token ids, but is a str; give tokenizer.encode"),
        ({1: 2}, TypeError, "prompt must be token ids, but is a dict"),
        ([[1], {1, 2}], TypeError, "row 1 is a set"),
        (["text"], TypeError, "row 0 is a str; give tokenizer.encode"),
        (torch.tensor([1.0]), TypeError, "prompt must be integer token ids, but row 0 is torch.float32"),
        ([[1], [2.5]], TypeError, "prompt must be integer token ids, but row 1 is torch.float32"),
        (torch.tensor([True]), TypeError, "prompt must be integer token ids, but row 0 is torch.bool"),
        (
            torch.zeros(1, 2, 3, dtype=torch.long),
            ValueError,
            r"prompt must be \(time\) or \(batch, time\), but has shape",
        ),
        (torch.tensor(3), ValueError, r"prompt must be \(time\) or \(batch, time\), but has shape \(\)"),
        (
            [[1, 2], [3, 10]],
            ValueError,
            "from 0 to vocab_size - 1 = 9, but 1 of row 1 are outside, the first of them 10",
        ),
        ([-1], ValueError, "from 0 to vocab_size - 1 = 9, but 1 of row 0 are outside, the first of them -1"),
    ],
)
def test_what_is_no_prompt_is_refused(prompt: object, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        read_prompt(prompt, vocab_size=10)


def test_rows_end_in_the_last_column():
    batch = align(read_prompt([[1], [2, 3, 4]], 10), torch.device("cpu"))
    assert batch.tokens.tolist() == [[0, 0, 1], [2, 3, 4]]
    assert batch.mask is not None
    assert batch.mask.tolist() == [[False, False, True], [True, True, True]]
    assert align(read_prompt([[1, 2], [3, 4]], 10), torch.device("cpu")).mask is None, "no padding, no mask"
