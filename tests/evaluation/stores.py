"""Making small token stores."""

from pathlib import Path

import numpy as np

from retentive.data.token_store import TokenStore
from retentive.data.token_store_writer import TokenStoreWriter
from retentive.text.tokenizer import Tokenizer


def write_store(folder: Path, tokenizer: Tokenizer, texts: list[str]) -> TokenStore:
    """A store whose held-out documents are the given texts."""
    with TokenStoreWriter(folder, tokenizer) as writer:
        for number, text in enumerate(texts):
            ids = np.asarray(tokenizer.encode(text), dtype=np.uint32)
            writer.add(f"{number}.txt", ids, num_bytes=len(text.encode()), split="heldout")
        return writer.finish()
