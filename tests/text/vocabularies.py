"""Vocabularies that tests need: small, and not our own."""

import functools
import json

from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers

from retentive.text.companions import Companions
from retentive.text.subword_tokenizer import END_OF_TEXT, SubwordTokenizer
from retentive.text.tokenizer import TRANSFORMERS_FILE

SMOLLM = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The chat template of SmolLM2."""


@functools.cache
def numbered_tokenizer(vocab_size: int) -> SubwordTokenizer:
    """A vocabulary so large that a test can give every token of a corpus an id of its own; the last is end-of-text."""
    library = Library(models.BPE(vocab={f"token{i}": i for i in range(vocab_size - 1)}, merges=[]))
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([END_OF_TEXT])
    return SubwordTokenizer(library.to_str(), name="bpe", end_of_text=END_OF_TEXT)


def sentencepiece_style(**changes) -> Library:
    """Spaces as U+2581, one put before the text, and bytes for all other characters."""
    vocabulary = {piece: i for i, piece in enumerate(["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))])}
    for piece in ["▁", "t", "h", "e", "▁t", "he", "</", "s", ">", "</s"]:
        vocabulary.setdefault(piece, len(vocabulary))
    merges = [("▁", "t"), ("h", "e")]
    library = Library(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>"))
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    library.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    library.add_special_tokens(["<unk>", "<s>", "</s>"])
    for name, value in changes.items():
        setattr(library, name, value)
    return library


def chat_vocabulary() -> Library:
    """GPT-2's kind of vocabulary with the tokens that SmolLM puts around turns."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    library = Library(models.BPE(vocab={piece: number for number, piece in enumerate(alphabet)}, merges=[]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return library


def chat_tokenizer() -> SubwordTokenizer:
    """A vocabulary of bytes with SmolLM2's chat template beside it."""
    settings = json.dumps({"chat_template": SMOLLM, "eos_token": END_OF_TEXT}).encode()
    companions = Companions("here", {TRANSFORMERS_FILE: settings})
    return SubwordTokenizer(chat_vocabulary().to_str(), name="file", end_of_text=END_OF_TEXT, companions=companions)
