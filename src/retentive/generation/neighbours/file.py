"""The caller's own neighbours, read from a file of text."""

from pathlib import Path

from retentive.generation.neighbours.retrieval import OwnNeighbours
from retentive.text.tokenizer import Tokenizer


def read_neighbours(path: Path, tokenizer: Tokenizer, chunk_size: int) -> OwnNeighbours:
    """Read the neighbours in a text file, one a line; every chunk of a text reads all of them.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If there is no such file, it is not UTF-8, or it has no text.
    """
    if not path.exists() or path.is_dir():
        raise ValueError(f"neighbours must be a file of text, one neighbour a line, but {path} is no file: write one.")
    try:
        # Of all the characters at which Python splits lines, such as form feeds, only line ends separate neighbours.
        text = path.read_bytes().decode("utf-8-sig")
        lines = [line for line in text.replace("\r\n", "\n").split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"neighbours must be a file of UTF-8 text, but {path} is not: convert it.") from error
    if not lines:
        raise ValueError(f"neighbours must be a file with at least one line of text, but {path} has none.")
    return OwnNeighbours([tokenizer.encode(line) for line in lines], chunk_size)
