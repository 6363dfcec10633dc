"""GGUF files: what transformers computes with them, file by file, and errors that name what is wrong."""

import os
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFValueType
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from checkpoints.gguf_files import gpt2, hard_strings, llama, qwen2, qwen3, write
from retentive.checkpoints import load_model, tensor_file
from retentive.checkpoints.conversion import convert, read_foreign
from retentive.checkpoints.conversion.gguf import GgufFile, tokenizer_files
from retentive.cli.main import main
from retentive.errors import DamagedFileError, MismatchError
from retentive.text.loading import load_tokenizer

PLAIN_KINDS = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
K_KINDS = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
MODELS = {
    "llama": lambda: llama(),
    "llama-tied": lambda: llama(tie_word_embeddings=True),
    "qwen2": lambda: qwen2(rope_parameters={"rope_type": "default", "rope_theta": 5e5}),
    "qwen3": lambda: qwen3(),
    "gpt2": lambda: gpt2(),
}


def assert_same_logits(path: Path) -> None:
    """Our logits and those of transformers' own reading of the file."""
    tokens = torch.randint(0, 320, (2, 24), generator=torch.Generator().manual_seed(0))
    theirs: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    with torch.no_grad():
        expected = theirs.eval()(tokens).logits
        found = read_foreign(path).model()(tokens).logits
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_computes_what_transformers_does(tmp_path: Path, name: str):
    write(tmp_path / "m.gguf", MODELS[name]())
    assert_same_logits(tmp_path / "m.gguf")


@pytest.mark.parametrize("kind", [*PLAIN_KINDS[1:], *K_KINDS])
def test_every_quantisation_is_read(tmp_path: Path, kind: str):
    model = llama(hidden_size=256, intermediate_size=256, num_hidden_layers=1, tie_word_embeddings=True)
    write(tmp_path / "m.gguf", model, Kind[kind])
    assert_same_logits(tmp_path / "m.gguf")


def test_the_scaling_of_llama_3_is_known_by_its_divisors(tmp_path: Path):
    scaling = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0}
    scaling |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    model = llama(rope_parameters=scaling)
    frequencies: torch.Tensor = model.model.rotary_emb.inv_freq
    plain = 500000.0 ** -(torch.arange(8) / 8)
    write(tmp_path / "m.gguf", model, extra={"rope_freqs.weight": (plain / frequencies).numpy()})
    tokens = torch.arange(24)[None]
    with torch.no_grad():
        torch.testing.assert_close(read_foreign(tmp_path / "m.gguf").model()(tokens).logits, model(tokens).logits)


@pytest.mark.skipif(
    find_spec("transformers.integrations.gguf") is None,
    reason="earlier transformers ignore how a GGUF file cuts text, and its added tokens",
)
@pytest.mark.parametrize("kind", ["default", "llama", "llama-bpe", "qwen2", "smollm", "tekken", "no types"])
def test_text_becomes_the_same_ids_as_in_transformers(tmp_path: Path, kind: str):
    untyped = {"tokenizer.ggml.token_type": None}  # what begins and ends a text is special all the same
    pre, settings = ("default", untyped) if kind == "no types" else (kind, {})
    write(tmp_path / "m.gguf", llama(), tokenizer="llama" if kind == "llama" else "gpt2", pre=pre, settings=settings)
    ours = Tokenizer.from_str(tokenizer_files(GgufFile(tmp_path / "m.gguf"))["tokenizer.json"])
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    texts = [*hard_strings(), "<unk>", "a<unk> b"]
    found = [one.ids for one in ours.encode_batch(texts)]
    expected = theirs(texts)["input_ids"]
    assert [text for text, left, right in zip(texts, found, expected, strict=True) if left != right] == []
    assert ours.decode_batch(found[:200]) == theirs.batch_decode(expected[:200], skip_special_tokens=True)


def test_what_is_no_file_of_ours_is_named(tmp_path: Path):
    path = tmp_path / "m.gguf"
    write(path, llama())
    whole = path.read_bytes()
    for length in (0, 3, 20, 300, 5000, len(whole) // 2, len(whole) - 40):
        (tmp_path / "cut.gguf").write_bytes(whole[:length])
        with pytest.raises(DamagedFileError, match=r"cut\.gguf cannot be read as GGUF .*: copy it again"):
            read_foreign(tmp_path / "cut.gguf")
    write(path, llama(), without="blk.1.ffn_up.weight")
    with pytest.raises(MismatchError, match=r"m\.gguf lacks blk\.1\.ffn_up\.weight; copy it again"):
        read_foreign(path)
    at = whole.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 16
    (tmp_path / "type.gguf").write_bytes(whole[:at] + struct.pack("<I", 999) + whole[at + 4 :])
    with pytest.raises(MismatchError, match=r"type that is unknown .*999.*Q8_0 or F16"):
        read_foreign(tmp_path / "type.gguf")
    (tmp_path / "other.gguf").write_bytes(whole.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0mamba", 1))
    with pytest.raises(MismatchError, match=r"known here \(llama, qwen2, qwen3, gpt2\), but is of 'mamba'"):
        read_foreign(tmp_path / "other.gguf")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"llama.expert_count": (8, GGUFValueType.UINT32)}, "mixture of 8 experts"),
        ({"llama.block_count": ((1 << 32) - 1, GGUFValueType.UINT32)}, r"m\.gguf lacks blk\."),
        (
            {"llama.block_count": ("x", GGUFValueType.STRING)},
            r"m\.gguf must have a whole .* as llama\.block_count",
        ),
        ({"llama.attention.head_count": (0, GGUFValueType.UINT32)}, "as llama.attention.head_count, but has 0; copy"),
        (
            {"llama.rope.freq_base": (float("nan"), GGUFValueType.FLOAT32)},
            "a finite number above 0 as llama.rope.freq",
        ),
        ({"general.license": ([1, 2], GGUFValueType.ARRAY)}, "must have a text as general.license"),
        ({"tokenizer.ggml.eos_token_id": (-1, GGUFValueType.INT32)}, "of 0 or more as tokenizer.ggml.eos_token_id"),
        ({"tokenizer.ggml.token_type": ([1, 2], GGUFValueType.ARRAY)}, "for each of 320 tokens, but has 2"),
        ({"tokenizer.ggml.merges": (["a b c"], GGUFValueType.ARRAY)}, "merges, but number 0 is 'a b c'"),
        ({"tokenizer.ggml.merges": (["a zz"], GGUFValueType.ARRAY)}, "merges, but number 0 is 'a zz'"),
        ({"llama.attention.value_length": (8, GGUFValueType.UINT32)}, "values of another size than keys"),
        (
            {
                "llama.rope.scaling.type": ("yarn", GGUFValueType.STRING),
                "llama.rope.scaling.factor": (4.0, GGUFValueType.FLOAT32),
            },
            "'yarn'",
        ),
    ],
)
def test_what_cannot_be_computed_here_is_refused_by_name(tmp_path: Path, settings: dict[str, Any], message: str):
    write(tmp_path / "m.gguf", llama(), settings=settings)
    with pytest.raises(MismatchError, match=message):
        read_foreign(tmp_path / "m.gguf")


def test_a_converted_file_generates_with_its_own_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write(tmp_path / "m.gguf", llama(tie_word_embeddings=True), Kind.Q8_0)
    main(["convert", str(tmp_path / "m.gguf"), str(tmp_path / "model")])
    assert "a transformer of 82,240 parameters" in capsys.readouterr().out
    model, tokenizer = load_model(tmp_path / "model"), load_tokenizer(tmp_path / "model")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), _tensors(tmp_path), strict=True))
    theirs = AutoTokenizer.from_pretrained(tmp_path / "model")
    text = "The quick <|im_start|> fox"
    assert tokenizer.encode(text) == theirs(text, split_special_tokens=True)["input_ids"]
    assert theirs.eos_token == "<|endoftext|>"
    assert theirs.bos_token == "<|im_start|>"
    assert theirs.apply_chat_template([{"role": "user", "content": "The"}], tokenize=False) == "<|im_start|>The"
    assert "license: apache-2.0" in (tmp_path / "model" / "README.md").read_text()
    main(["generate", str(tmp_path / "model"), "--prompt", "The quick", "--max_new_tokens", "4"])


def _tensors(folder: Path) -> list[torch.Tensor]:
    found = read_foreign(folder / "m.gguf").model()
    return list(found.state_dict().values())


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "m.gguf", llama())

    def full(path: Path, *_: object) -> None:
        path.write_bytes(b"begun")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_file, "_stream", full)
    with pytest.raises(OSError, match=r"while writing \(cure: free some space .*weights-"):
        convert(tmp_path / "m.gguf", tmp_path / "model")
    assert not (tmp_path / "model").exists()


# For some n a forked child makes a folder and is killed at its n-th step in the file system; what is there is told.
KILLS = """
import os, signal, sys
from pathlib import Path
from retentive.checkpoints.conversion import convert
from retentive.checkpoints.conversion.gguf import read_tokenizer
from retentive.checkpoints.quantised_copy import quantised_copy
from retentive.layers.quantised import QuantisationConfig

def kill_at(n, folder):
    steps = 0

    def hook(event, arguments):
        nonlocal steps
        if event in ("open", "os.rename", "os.remove", "os.mkdir") and folder.name in str(arguments[0]):
            steps += 1
            if steps == n:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)

def converted(folder):
    convert(file, folder, tokenizer=read_tokenizer(file))

def rounded(folder):
    quantised_copy(file.parent / "converted" / "whole", folder, QuantisationConfig(bits=8))

file = Path(sys.argv[1])
for make in (converted, rounded):
    room = file.parent / make.__name__
    make(room / "whole")
    for n in range(1, 400, 9):
        folder = room / f"made{n}"
        if n % 2 == 0:
            folder.mkdir()
        child = os.fork()
        if child == 0:
            kill_at(n, folder)
            make(folder)
            os._exit(0)
        if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            break
    for again in ("made10", "made19"):
        make(room / again)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_kill_leaves_no_model_that_lacks_something(tmp_path: Path):
    write(tmp_path / "m.gguf", llama(), Kind.Q8_0)
    subprocess.run([sys.executable, "-c", KILLS, str(tmp_path / "m.gguf")], capture_output=True, check=True)
    for room in (tmp_path / "converted", tmp_path / "rounded"):
        whole = names_in(room / "whole")
        assert {"config.json", "generation_config.json", "origin.json", "README.md", "tokenizer.json"} <= whole
        made = [path for path in room.iterdir() if path.name.startswith("made")]
        assert len([path for path in room.iterdir() if path.name.startswith(".made")]) > 1  # of who was killed
        for folder in made:
            if (folder / "config.json").exists():
                assert names_in(folder) >= whole
            else:  # one that was there may hold a few files, but no model
                assert int(folder.name[4:]) % 2 == 0
        for name in ("made10", "made19"):  # the same command went through, and removed what was left
            assert names_in(room / name) == whole
            assert not [path for path in room.iterdir() if path.name.startswith(f".{name}.")]


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("tokenizer", "settings", "message"),
    [
        ("gpt2", {"tokenizer.ggml.merges": None}, r"lacks tokenizer\.ggml\.merges"),
        ("llama", {"tokenizer.ggml.scores": None}, r"lacks tokenizer\.ggml\.scores"),
        ("gpt2", {"tokenizer.ggml.tokens": None}, r"holds no tokenizer"),
        (
            "gpt2",
            {"tokenizer.ggml.eos_token_id": (9999, GGUFValueType.UINT32)},
            r"eos_token_id=9999, but has 320 tokens",
        ),
        ("gpt2", {"tokenizer.ggml.pre": ("other", GGUFValueType.STRING)}, r"cuts text in the way 'other'"),
        ("gpt2", {"tokenizer.ggml.model": ("bert", GGUFValueType.STRING)}, r"tokenizer of the kind 'bert'"),
    ],
)
def test_a_vocabulary_that_cannot_be_read_is_named(
    tmp_path: Path, tokenizer: str, settings: dict[str, Any], message: str
):
    write(tmp_path / "m.gguf", llama(), tokenizer=tokenizer, settings=settings)
    with pytest.raises(MismatchError, match=message):
        tokenizer_files(GgufFile(tmp_path / "m.gguf"))
