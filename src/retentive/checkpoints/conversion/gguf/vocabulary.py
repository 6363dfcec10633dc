"""The tokenizer of a GGUF file, as the files that Hugging Face keeps beside weights."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from retentive.checkpoints.conversion.gguf.file import GgufFile
from retentive.errors import MismatchError
from retentive.text.loading import load_tokenizer
from retentive.text.tokenizer import TOKENIZER_FILE, Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
"""Values of ``tokenizer.ggml.token_type``; a text is first cut at tokens of the last two. What the file names as begin,
end, unknown or padding is special whatever its type, as in transformers."""
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    **dict.fromkeys(("default", "gpt-2", "smollm")),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "smaug-bpe"), LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), QWEN2),
    "tekken": TEKKEN,
}
"""``tokenizer.ggml.pre`` -> the pattern that cuts a text before pairs are merged; None is GPT-2's, which
transformers takes for ``smollm`` too (the merges of that vocabulary hold no two digits)."""
WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "tekken")
"""Ways of cutting after which a piece that is a token stays one, whatever the merges make of it; as in llama.cpp."""


def read_tokenizer(path: Path, end_of_text: str | None = None) -> Tokenizer:
    """Return the tokenizer of a GGUF file; see `load_tokenizer` for ``end_of_text``."""
    with TemporaryDirectory() as folder:
        for name, content in tokenizer_files(GgufFile(path)).items():
            (Path(folder) / name).write_text(content, "utf-8")
        return load_tokenizer(Path(folder) / TOKENIZER_FILE, end_of_text=end_of_text)


def tokenizer_files(file: GgufFile) -> dict[str, str]:
    """Return the content of ``tokenizer.json`` and ``tokenizer_config.json``.

    Raises:
        MismatchError: If the vocabulary is of a kind that is not here.
    """
    said = Vocabulary(file)
    description = said.description()
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    names = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id"}
    for name, key in names.items():
        number = said.get(key)
        config[f"{name}_token"] = None if number is None else said.token(key, number)
    template = file.metadata.get("tokenizer.chat_template")
    if template is not None:
        config["chat_template"] = template
    return {"tokenizer.json": json.dumps(description, ensure_ascii=False), "tokenizer_config.json": json.dumps(config)}


class Vocabulary:
    """What a file says of its tokens.

    Args:
        file: The file.

    Attributes:
        tokens: The string of each id.

    Raises:
        MismatchError: If the file has no tokens.
    """

    def __init__(self, file: GgufFile) -> None:
        self._file = file
        self.tokens: list[str] = self.get("tokens") or []
        if not self.tokens:
            raise MismatchError(f"{file.path} holds no tokenizer (tokenizer.ggml.tokens); take a file that has one.")

    def get(self, name: str, default: Any = None) -> Any:
        """A setting of the tokenizer."""
        return self._file.metadata.get(f"tokenizer.ggml.{name}", default)

    def needed(self, name: str) -> Any:
        """A setting that this kind of vocabulary cannot do without.

        Raises:
            MismatchError: If the file lacks it.
        """
        found = self.get(name)
        if found is None:
            raise MismatchError(f"{self._file.path} lacks tokenizer.ggml.{name}; copy it again, or take another file.")
        return found

    def token(self, name: str, number: int) -> str:
        """The string of an id that a setting names.

        Raises:
            MismatchError: If there is no such id.
        """
        if not 0 <= number < len(self.tokens):
            raise MismatchError(
                f"{self._file.path} says tokenizer.ggml.{name}={number}, but has {len(self.tokens):,} tokens; copy it "
                "again, or take another file."
            )
        return self.tokens[number]

    def description(self) -> dict[str, Any]:
        """The content of a ``tokenizer.json``."""
        kinds = {"gpt2": self._byte_level, "llama": self._sentencepiece}
        kind = self.get("model")
        if kind not in kinds:
            raise MismatchError(
                f"{self._file.path} has a tokenizer of the kind {kind!r}, which is not here; {', '.join(kinds)} are."
            )
        parts = kinds[kind]()
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": self._added(),
            "post_processor": self._around(default=kind == "llama", byte_level=kind == "gpt2"),
            **parts,
        }

    def _byte_level(self) -> Mapping[str, Any]:
        """GPT-2's BPE over bytes."""
        pre = self.get("pre", "default")
        if pre not in SPLITS:
            raise MismatchError(
                f"{self._file.path} cuts text in the way {pre!r} (tokenizer.ggml.pre), which is not here; "
                f"{', '.join(SPLITS)} are."
            )
        bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
        if SPLITS[pre] is None:
            steps: list[Any] = [bytes_ | {"use_regex": True}]
        else:
            cut = {"type": "Split", "pattern": {"Regex": SPLITS[pre]}, "behavior": "Isolated", "invert": False}
            steps = [cut, bytes_ | {"use_regex": False}]
        model = self._bpe([merge.split(" ") for merge in self.needed("merges")], byte_fallback=False, unknown=None)
        return {
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "decoder": bytes_ | {"use_regex": True},
            "model": model,
        }

    def _sentencepiece(self) -> Mapping[str, Any]:
        """SentencePiece's BPE, whose merges follow from the scores of the pieces."""
        space = {"replacement": "\u2581", "prepend_scheme": "first" if self.get("add_space_prefix", True) else "never"}
        metaspace = {"type": "Metaspace", **space, "split": False}
        strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if self.get("add_space_prefix", True) else []
        decoders: list[Any] = [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            *strip,
        ]
        number: int | None = self.get("unknown_token_id")
        merges = self.get("merges")
        pairs = (
            _merges(self.tokens, self.needed("scores")) if merges is None else [merge.split(" ") for merge in merges]
        )
        return {
            "normalizer": None,
            "pre_tokenizer": metaspace,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": self._bpe(
                pairs, byte_fallback=True, unknown=None if number is None else self.token("unknown_token_id", number)
            ),
        }

    def _bpe(self, merges: list[list[str]], *, byte_fallback: bool, unknown: str | None) -> dict[str, Any]:
        return {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": byte_fallback,
            "byte_fallback": byte_fallback,
            "ignore_merges": self.get("pre") in WHOLE_WORDS,
            "vocab": {token: number for number, token in enumerate(self.tokens)},
            "merges": merges,
        }

    def _added(self) -> list[dict[str, Any]]:
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        types = self.get("token_type") or [NORMAL] * len(self.tokens)
        named = {self.get(f"{name}_token_id") for name in ("bos", "eos", "unknown", "padding")}
        special = {number for number, kind in enumerate(types) if kind in (UNKNOWN, CONTROL) or number in named}
        return [
            {"id": number, "content": token, "special": number in special} | flags
            for number, (token, kind) in enumerate(zip(self.tokens, types, strict=True))
            if number in special or kind == USER_DEFINED
        ]

    def _around(self, *, default: bool, byte_level: bool) -> dict[str, Any] | None:
        """What is put around a text: the tokens that begin and end it, where the file says so."""
        tokens = {"bos": self.get("bos_token_id"), "eos": self.get("eos_token_id")}
        wanted = {"bos": self.get("add_bos_token", default), "eos": self.get("add_eos_token", False)}
        used = {
            name: self.token(f"{name}_token_id", number)
            for name, number in tokens.items()
            if wanted[name] and number is not None
        }
        if not used:
            return {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False} if byte_level else None
        begin = [{"SpecialToken": {"id": used["bos"], "type_id": 0}}] if "bos" in used else []
        end = [{"SpecialToken": {"id": used["eos"], "type_id": 0}}] if "eos" in used else []
        second = [{**one, "SpecialToken": {**one["SpecialToken"], "type_id": 1}} for one in (*begin, *end)]
        pair_end = second[len(begin) :]
        return {
            "type": "TemplateProcessing",
            "single": [*begin, {"Sequence": {"id": "A", "type_id": 0}}, *end],
            "pair": [
                *begin,
                {"Sequence": {"id": "A", "type_id": 0}},
                *end,
                *second[: len(begin)],
                {"Sequence": {"id": "B", "type_id": 1}},
                *pair_end,
            ],
            "special_tokens": {
                token: {"id": token, "ids": [self.tokens.index(token)], "tokens": [token]} for token in used.values()
            },
        }


def _merges(tokens: Sequence[str], scores: Sequence[float]) -> list[list[str]]:
    """The pairs that make each piece, best piece first, as SentencePiece merges them; a longer left part first."""
    ids = {token: number for number, token in enumerate(tokens)}
    found: list[tuple[tuple[float, int, int], list[str]]] = []
    for token, score in zip(tokens, scores, strict=True):
        cuts = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        pairs = sorted((pair for pair in cuts if pair[0] in ids and pair[1] in ids), key=lambda pair: ids[pair[0]])
        found += [((-score, -len(left), -len(right)), [left, right]) for left, right in pairs]
    found.sort(key=lambda one: one[0])
    return [pair for _, pair in found]
