"""lm-evaluation-harness on a saved model: small local tasks, and the numbers that it is given."""

import json
from pathlib import Path

import pytest
import torch
from lm_eval.api.instance import Instance

from evaluation.harness.harness_tasks import ROWS, write_tasks
from laws.families import small_config, small_model
from retentive.checkpoints import save_model
from retentive.cli.main import main
from retentive.evaluation.harness.model import RetentiveLM
from retentive.generation import generate
from retentive.text.byte_tokenizer import ByteTokenizer


@pytest.fixture(scope="module", params=["retnet", "rmt"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    changes = {"vocab_size": 257}
    if request.param == "rmt":
        changes = {"backbone": small_config("transformer", vocab_size=257)}
    save_model(small_model(request.param, dtype=torch.float32, **changes), folder, ByteTokenizer())
    return folder


@pytest.fixture(scope="module")
def retnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("retnet")
    save_model(small_model("retnet", dtype=torch.float32, vocab_size=257), folder, ByteTokenizer())
    return folder


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tasks over a local file."""
    folder = tmp_path_factory.mktemp("tasks")
    write_tasks(folder)
    return folder


def instance(kind: str, *arguments: object) -> Instance:
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


def log_likelihood(model: RetentiveLM, before: list[int], after: list[int]) -> tuple[float, bool]:
    """One row, one call, all logits."""
    ids = torch.tensor([before + after])
    with torch.no_grad():
        logits = model.model(ids[:, :-1]).logits[0, len(before) - 1 :].double()
    chosen = logits.log_softmax(-1)[torch.arange(len(after)), torch.tensor(after)]
    return chosen.sum().item(), logits.argmax(-1).tolist() == after


@pytest.mark.parametrize("chunk_size", [3, 1024])
def test_log_likelihoods_are_those_of_the_model(checkpoint: Path, chunk_size: int):
    model = RetentiveLM(checkpoint, device="cpu", batch_size=2, chunk_size=chunk_size)
    pairs = [("The cat sat", " on the mat"), ("", "hello"), ("a", " b"), ("Wie geht ", "es")]
    found = model.loglikelihood([instance("loglikelihood", *pair) for pair in pairs], disable_tqdm=True)
    encode = ByteTokenizer().encode
    for (context, continuation), (value, greedy) in zip(pairs, found, strict=True):
        space = " " * (len(context) - len(context.rstrip()))
        expected = log_likelihood(model, [256, *encode(context.rstrip())], encode(space + continuation))
        assert value == pytest.approx(expected[0], abs=1e-3)
        assert greedy == expected[1]


def test_what_the_model_writes_is_greedy(checkpoint: Path):
    model = RetentiveLM(checkpoint, device="cpu")
    (tokens,) = generate(model.model, [256, 97, 98], max_new_tokens=3).tokens
    text = bytes(tokens.tolist()).decode("latin-1")
    pairs = [([256, 97, 98], tokens.tolist()), ([256, 97, 98], [*tokens.tolist()[:2], (int(tokens[2]) + 1) % 256])]
    assert [score.is_greedy for score in model.score(pairs)] == [True, False]
    assert len(text) == 3


def test_long_texts_are_read_whole(checkpoint: Path):
    text = "never cut, " * 40
    whole = RetentiveLM(checkpoint, device="cpu", chunk_size=10_000)
    pieces = RetentiveLM(checkpoint, device="cpu", chunk_size=16, batch_size=2)
    requests = [instance("loglikelihood_rolling", part) for part in (text, "short", "")]
    found = pieces.loglikelihood_rolling(requests)
    assert found == pytest.approx(whole.loglikelihood_rolling(requests), abs=1e-3)
    assert found[0] == pytest.approx(log_likelihood(whole, [256], ByteTokenizer().encode(text))[0], abs=1e-3)
    assert found[2] == 0


def test_texts_end_at_the_first_of_the_strings(checkpoint: Path):
    model = RetentiveLM(checkpoint, device="cpu", batch_size=2)
    contexts = ["The cat", "a", "Rain falls"]
    plain = model.generate_until([instance("g", text, {"max_gen_toks": 12}) for text in contexts])
    tokenizer = ByteTokenizer()
    for context, text in zip(contexts, plain, strict=True):
        ids = [256, *tokenizer.encode(context)]
        (expected,) = generate(model.model, ids, max_new_tokens=12, stop_tokens=[256]).tokens
        assert text == tokenizer.decode(expected.tolist())
    end = plain[0][4]
    wanted = {"max_gen_toks": 12, "until": [end], "do_sample": False, "temperature": 0.0}
    assert model.generate_until([instance("g", contexts[0], wanted)]) == [plain[0].split(end)[0]]
    with pytest.raises(ValueError, match=r"generation_kwargs must be among until, .* but also have penalty"):
        model.generate_until([instance("g", "a", {"penalty": 2})])
    with pytest.raises(ValueError, match=r"max_gen_toks must be a whole number of tokens, but is 1\.5"):
        model.generate_until([instance("g", "a", {"max_gen_toks": 1.5})])


def test_the_command_line_writes_the_numbers_down(retnet: Path, tasks: Path, capsys: pytest.CaptureFixture[str]):
    names = "local_choice,local_rolling,local_writing"
    main(["evaluate", str(retnet), "--harness", names, "--include-path", str(tasks), "--device=cpu"])
    assert "local_choice" in capsys.readouterr().out
    results = json.loads((retnet / "harness.json").read_text())["results"]
    model = RetentiveLM(retnet, device="cpu")
    encode = ByteTokenizer().encode
    right = [
        max(
            range(3), key=lambda n: log_likelihood(model, [256, *encode(row["question"])], encode(row["choices"][n]))[0]
        )
        == row["answer"]
        for row in ROWS
    ]
    assert results["local_choice"]["acc,none"] == pytest.approx(sum(right) / 3)
    nats = sum(log_likelihood(model, [256], encode(row["text"]))[0] for row in ROWS)
    size = sum(len(row["text"].encode()) for row in ROWS)
    bits = -nats / size / torch.tensor(2.0).log().item()
    assert results["local_rolling"]["bits_per_byte,none"] == pytest.approx(bits, abs=1e-3)
    assert results["local_writing"]["exact_match,none"] == 0


def test_mistakes_are_told(retnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for options, message in (
        (
            ["--harness", "no_such_task"],
            "harness must name tasks that lm-evaluation-harness knows, but not no_such_task",
        ),
        (["--harness", ","], "harness must name at least one task, but is ','"),
        (["--harness", "x", "--limit", "0"], "limit must be at least 1, or null for all, but is 0"),
    ):
        with pytest.raises(SystemExit):
            main(["evaluate", str(retnet), *options])
        assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="batch_size must be a number of texts, but is 'auto'"):
        RetentiveLM(retnet, batch_size="auto")
    for device in ("mps", "tpu:0", "cuda:first"):
        with pytest.raises(
            ValueError, match=f"device must be 'cpu', 'cuda' or 'cuda:' and a number, but is '{device}'"
        ):
            RetentiveLM(retnet, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_a_gpu_that_is_not_there_is_told(retnet: Path, caplog: pytest.LogCaptureFixture):
    assert RetentiveLM(retnet, device="cuda:0").score([([97], [98])])
    assert "torch finds no GPU: cuda:0, the harness's default, becomes the CPU" in caplog.text
    with pytest.raises(ValueError, match="torch finds no GPU, but is 'cuda'"):
        RetentiveLM(retnet, device="cuda:1")


def test_an_encoder_is_not_asked_for_the_next_token(tmp_path: Path):
    save_model(small_model("rmt", bidirectional=True), tmp_path)
    with pytest.raises(ValueError, match="model must predict the next token, but this rmt is an encoder"):
        RetentiveLM(tmp_path, device="cpu")
