import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from retentive.data.splitting import draw
from retentive.data.token_store import TokenStore
from retentive.data.token_store_writer import TokenStoreWriter
from text.vocabularies import numbered_tokenizer


@pytest.fixture(scope="session")
def quick_folder() -> Iterator[Path]:
    """A folder in memory where there is one: hypothesis makes hundreds of stores, each brought safely to disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def store_of(quick_folder: Path) -> Callable[..., TokenStore]:
    """A store whose training documents have the given lengths, all tokens different; end-of-text apart."""

    def make(lengths: Sequence[int], heldout: Sequence[int] = (), vocab_size: int = 1000) -> TokenStore:
        folder = Path(tempfile.mkdtemp(dir=quick_folder))
        first = 0
        with TokenStoreWriter(folder, numbered_tokenizer(vocab_size)) as writer:
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
