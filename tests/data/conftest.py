from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from retentive.data.splitting import draw
from retentive.data.token_store import TokenStore
from retentive.data.token_store_writer import TokenStoreWriter


class NumberTokenizer:
    """Text of numbers as those numbers, so that a test can give every token of a corpus an id of its own."""

    name = "numbers"

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.end_of_text = vocab_size - 1

    def encode(self, text: str) -> list[int]:
        return [int(number) for number in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(str(number) for number in ids if number != self.end_of_text)

    def token_bytes(self, token: int) -> bytes:
        return b"" if token == self.end_of_text else f"{token} ".encode()

    def fingerprint(self) -> str:
        return f"numbers {self.vocab_size}"

    def save(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "numbers.json").write_text(str(self.vocab_size))


@pytest.fixture(scope="session")
def store_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TokenStore]:
    """A store whose training documents have the given lengths, all tokens different; end-of-text apart."""

    def make(lengths: Sequence[int], heldout: Sequence[int] = (), vocab_size: int = 1000) -> TokenStore:
        folder = tmp_path_factory.mktemp("store")
        first = 0
        with TokenStoreWriter(folder, NumberTokenizer(vocab_size)) as writer:
            for split, sizes in (("train", lengths), ("heldout", heldout)):
                for size in sizes:
                    ids = np.arange(first, first + size, dtype=np.uint32)
                    writer.add(f"from {first}", ids, num_bytes=size, split=split)
                    first += size
            return writer.finish()

    return make


@pytest.fixture
def write_files(tmp_path: Path) -> Callable[..., Path]:
    """A folder with files of the given contents, by relative path."""

    def write(contents: dict[str, str | bytes], folder: str = "text") -> Path:
        root = tmp_path / folder
        root.mkdir(exist_ok=True)
        for name, content in contents.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return root

    return write


@pytest.fixture(scope="session")
def some_texts() -> list[str]:
    """Texts of several scripts, of which the default split holds out some."""
    texts = [f"Text number {i}: naïve café, 数え {i * i}, и ещё. 🙂\n" * (1 + i % 3) for i in range(60)]
    assert any(draw(text.encode(), "heldout 0") < 0.05 for text in texts)
    return texts
