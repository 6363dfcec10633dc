"""``retentive generate``: stop strings, biases and log-probabilities on the command line."""

import json
from pathlib import Path

import pytest
import torch

from retentive.checkpoints import save_model
from retentive.cli.main import main
from retentive.models.registry import build
from retentive.models.retnet import RetNetConfig
from retentive.text.byte_tokenizer import ByteTokenizer

LETTERS = ",".join(f"{number}:99" for number in range(97, 105))


def written(capsys: pytest.CaptureFixture[str], *options: str | Path) -> tuple[str, list[str]]:
    """The text, and the lines beside it."""
    main(["generate", *map(str, options), "--seed", "3", "--logit-bias", LETTERS])
    said = capsys.readouterr()
    return said.out.removesuffix("\n"), said.err.splitlines()


def test_a_text_ends_at_a_stop_string_and_goes_on_after_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    torch.manual_seed(0)
    model, state = tmp_path / "model", tmp_path / "state.safetensors"
    save_model(build(RetNetConfig(vocab_size=257, hidden_size=16, num_layers=1, num_heads=1)), model, ByteTokenizer())
    prompt = (model, "--prompt", "a", "--temperature", "2")
    whole, _ = written(capsys, *prompt, "--max-new-tokens", "20")
    assert len(whole) == 20
    stops = [whole[7:10], whole[8:11]]
    begin = whole.index(stops[0])
    text, lines = written(
        capsys, *prompt, "--stop", stops[0], "--stop", stops[1], "--logprobs", "2", "--save-state", state
    )
    assert text == whole[:begin]
    told = [json.loads(line) for line in lines if line.startswith("{")]
    assert "".join(one["token"] for one in told) == whole[: begin + 3]
    assert all(len(one["top_logprobs"]) == 2 and one["logprob"] < 0 for one in told)
    more, _ = written(capsys, model, "--state", state, "--temperature", "2", "--max-new-tokens", str(17 - begin))
    assert more == whole[begin + 3 :]
    for held in (whole + "!", whole[-1] + "!"):  # held back to the end, and not lost
        assert written(capsys, *prompt, "--stop", held, "--max-new-tokens", "20", "--save-state", state)[0] == whole

    for stop, rest in ((whole[8:12], ""), (whole[8:11] + "!", whole[10:])):  # it begins before the state is saved
        ten = ("--stop", stop, "--max-new-tokens", "10")
        assert written(capsys, *prompt, *ten, "--save-state", state)[0] == whole[:10]
        assert written(capsys, model, "--state", state, "--temperature", "2", *ten)[0] == rest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stop", ""], "every stop string must have at least one character"),
        (["--logprobs", "-1"], "logprobs must be at least 0, or None for none, but is -1"),
        (["--logit-bias", "3:1,4"], "logit_bias must be pairs of a token id and a number, as in '262:-5,90:2.5'"),
        (["--logit-bias", "3:nan"], "logit_bias must be pairs of a token id and a number from -10000 to 10000"),
        (["--logit-bias", "3:1e400"], "logit_bias must be pairs of a token id and a number from -10000 to 10000"),
        (["--logit-bias", "3:1,3:2"], "logit_bias must name each id once, but has 3 twice"),
    ],
)
def test_what_cannot_be_is_refused(options: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["generate", "model", *options])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
