"""Small stores of awkward text."""

from pathlib import Path

import pytest

from evaluation.stores import write_store
from retentive.data.token_store import TokenStore
from retentive.text.byte_tokenizer import ByteTokenizer
from retentive.text.subword_tokenizer import train_bpe

TEXTS = [
    "a",
    "ab",
    "naïve café, 日本語のテキスト",
    "🙂🙃 and ∀x ∃y: x ≤ y",
    "x" * 40,
    "The quick brown fox jumps over the lazy dog.",
]
"""One document without a token to score, one with one, characters of two, three and four bytes."""


@pytest.fixture(scope="session")
def byte_store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return write_store(tmp_path_factory.mktemp("bytes") / "store", ByteTokenizer(), TEXTS)


@pytest.fixture(scope="session")
def bpe_store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    tokenizer = train_bpe([*TEXTS * 3, "日本語日本" * 9], vocab_size=290)
    return write_store(tmp_path_factory.mktemp("bpe") / "store", tokenizer, TEXTS)


@pytest.fixture(params=["bytes", "bpe"])
def store(request: pytest.FixtureRequest, byte_store: TokenStore, bpe_store: TokenStore) -> TokenStore:
    return {"bytes": byte_store, "bpe": bpe_store}[request.param]


@pytest.fixture
def empty_store(tmp_path: Path) -> TokenStore:
    return write_store(tmp_path / "empty", ByteTokenizer(), [])


@pytest.fixture
def single_letters(tmp_path: Path) -> TokenStore:
    return write_store(tmp_path / "letters", ByteTokenizer(), ["a", "b"])
