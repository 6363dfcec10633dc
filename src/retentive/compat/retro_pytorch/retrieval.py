"""``retro_pytorch.retrieval``: text to chunks, chunks to vectors of BERT, vectors to neighbours.

BERT comes from Hugging Face's cache or hub under the name ``bert-base-cased``; `use_bert` takes another one, such as a
folder on a machine without network.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from retentive.compat.retro_pytorch.data import open_rows
from retentive.errors import DamagedFileError
from retentive.files import checksum, fill_atomically, read_json, write_json
from retentive.retrieval.index.choice import IndexConfig, choose_index

SOS_ID = 101
EOS_ID = 102
BERT_MODEL_DIM = 768
BERT_VOCAB_SIZE = 28996

_bert_name: list[str] = ["bert-base-cased"]
_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9}


def use_bert(name: Path | str) -> None:
    """Use another BERT: a folder with its model and tokenizer, or a name on the hub."""
    _bert_name[0] = str(name)


def get_tokenizer() -> Any:
    """BERT's tokenizer."""
    return _load_tokenizer(_bert_name[0])


def get_bert() -> Any:
    """BERT, frozen, on the GPU if there is one."""
    return _load_bert(_bert_name[0])


@cache
def _load_tokenizer(name: str) -> Any:
    transformers = _needed("transformers")
    return transformers.AutoTokenizer.from_pretrained(name)


@cache
def _load_bert(name: str) -> Any:
    transformers = _needed("transformers")
    model: Any = transformers.AutoModel.from_pretrained(name).eval().requires_grad_(False)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def tokenize(texts: str | Sequence[str], add_special_tokens: bool = True) -> Int[Tensor, "texts time"]:
    """BERT's token ids, shorter texts padded at their end."""
    batch = [texts] if isinstance(texts, str) else list(texts)
    # Special tokens in a text are read as text: "[SEP]" would otherwise end a document in its middle.
    encoded = get_tokenizer()(
        batch, add_special_tokens=add_special_tokens, padding=True, return_tensors="pt", split_special_tokens=True
    )
    return encoded.input_ids


def doc_text_to_chunks_and_seq_indices(
    *, doc_text: str, chunk_size: int = 64, seq_len: int = 2048, pad_id: int = 0
) -> tuple[Int[Tensor, "chunks chunk_and_one"], Int[Tensor, "sequences"]]:
    """Chunks of a document, each with the first token of the next, and the chunks that sequences begin with.

    Raises:
        ValueError: If sequences are not made of whole chunks.
    """
    if seq_len % chunk_size:
        raise ValueError(f"seq_len must be a multiple of chunk_size, but {seq_len} / {chunk_size} is not whole.")
    ids = tokenize(doc_text)[0]
    count = max(1, -(-(len(ids) - 1) // chunk_size))  # the last chunk may consist of the extra token alone
    padded = torch.nn.functional.pad(ids, (0, count * chunk_size + 1 - len(ids)), value=pad_id)
    chunks = padded.unfold(0, chunk_size + 1, chunk_size)
    return chunks, torch.arange(0, count, seq_len // chunk_size)


def text_folder_to_chunks_(
    *,
    folder: Path | str,
    chunks_memmap_path: Path | str,
    seqs_memmap_path: Path | str,
    doc_ids_memmap_path: Path | str,
    chunk_size: int = 64,
    seq_len: int = 2048,
    glob: str = "**/*.txt",
    max_chunks: int = 1_000_000,
    max_seqs: int = 100_000,
) -> dict[str, int]:
    """Write the chunks of all texts of a folder; return the numbers of chunks, documents and sequences.

    Files are written whole or not at all; their sizes follow ``max_chunks`` and ``max_seqs``.

    Raises:
        FileNotFoundError: If the folder holds no text.
        DamagedFileError: If a text is not UTF-8; the message names it.
        ValueError: If there are more chunks or sequences than that.
    """
    paths = sorted(Path(folder).glob(glob))
    if not paths:
        raise FileNotFoundError(f"folder must hold texts, but {folder} has nothing like {glob}.")
    chunks: list[Any] = []
    sequences: list[Any] = []
    documents: list[Any] = []
    total = 0
    for number, path in enumerate(paths):
        found, begins = doc_text_to_chunks_and_seq_indices(
            doc_text=_read_text(path), chunk_size=chunk_size, seq_len=seq_len
        )
        chunks.append(found.numpy().astype(np.int32))
        sequences.append(begins.numpy().astype(np.int32) + total)
        documents.append(np.full(len(found), number, dtype=np.int32))
        total += len(found)
        if total > max_chunks:
            raise ValueError(
                f"max_chunks must be at least the chunks of {folder}, but is {max_chunks}, full at {path}."
            )
    counts = {"chunks": total, "docs": len(paths), "seqs": sum(map(len, sequences))}
    if counts["seqs"] > max_seqs:
        raise ValueError(f"max_seqs must be at least {counts['seqs']}, the sequences of {folder}, but is {max_seqs}.")
    for target, rows, length in (
        (chunks_memmap_path, chunks, max_chunks),
        (seqs_memmap_path, sequences, max_seqs),
        (doc_ids_memmap_path, documents, max_chunks),
    ):
        _write_rows(Path(target), np.concatenate(rows), length)
    return counts


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DamagedFileError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); convert it.") from error


def _write_rows(path: Path, rows: Any, length: int) -> None:
    """Write an array into a file of ``length`` rows; the unused end is sparse and takes no space on disk."""
    width = 1 if rows.ndim == 1 else rows.shape[1]

    def fill(temporary: Path) -> None:
        with temporary.open("wb") as file:
            rows.tofile(file)
            file.truncate(4 * width * length)

    fill_atomically(path, fill)


@torch.no_grad()
def bert_embed(
    token_ids: Int[Tensor, "texts time"],
    mask: Tensor | bool | None = None,
    return_cls_repr: bool = False,
    eps: float = 1e-8,
    pad_id: int = 0,
) -> Float[Tensor, "texts channels"]:
    """BERT's vector of each text: the mean over all tokens but ``[CLS]``, or the vector of ``[CLS]``.

    Args:
        token_ids: With ``[CLS]`` first.
        mask: True at real tokens; None is all but ``pad_id``. (True or False is taken as ``return_cls_repr``,
            which has this position in release 0.3.9.)
        return_cls_repr: Return the vector of ``[CLS]``.
        eps: Added to the number of tokens.
        pad_id: Id of padding.
    """
    if isinstance(mask, bool):
        mask, return_cls_repr = None, mask
    model = get_bert()
    ids = token_ids.to(model.device, torch.long)
    real = (ids != pad_id) if mask is None else mask.to(model.device, torch.bool)
    hidden: Tensor = model(input_ids=ids, attention_mask=real.long()).last_hidden_state
    if return_cls_repr:
        return hidden[:, 0]
    weights = real[:, 1:, None].to(hidden.dtype)
    return (hidden[:, 1:] * weights).sum(1) / (weights.sum(1) + eps)


def embed_chunks(chunks: Int[Tensor, "chunks chunk"], use_cls_repr: bool = False) -> Float[Tensor, "chunks channels"]:
    """Vectors of chunks, with ``[CLS]`` put before each; the index and its queries are both made this way."""
    begin = torch.full((len(chunks), 1), SOS_ID, dtype=torch.long, device=chunks.device)
    return bert_embed(torch.cat((begin, chunks.long()), 1), return_cls_repr=use_cls_repr)


def chunks_to_embeddings_(
    *,
    num_chunks: int,
    chunks_memmap_path: Path | str,
    embeddings_memmap_path: Path | str,
    chunk_size: int = 64,
    embed_dim: int = BERT_MODEL_DIM,
    batch_size: int = 16,
    use_cls_repr: bool = False,
) -> None:
    """Write the vectors of all chunks, as float32 rows.

    Raises:
        ValueError: If ``embed_dim`` is not BERT's.
    """
    channels = get_bert().config.hidden_size
    if embed_dim != channels:
        raise ValueError(f"embed_dim must be the channels of {_bert_name[0]}, {channels}, but is {embed_dim}.")
    chunks = open_rows(chunks_memmap_path, num_chunks, chunk_size + 1)

    def fill(temporary: Path) -> None:
        with temporary.open("wb") as file:
            for begin in range(0, num_chunks, batch_size):
                batch = torch.from_numpy(np.array(chunks[begin : begin + batch_size, :-1]))
                embed_chunks(batch, use_cls_repr).float().cpu().numpy().tofile(file)

    fill_atomically(Path(embeddings_memmap_path), fill)


def chunks_to_index_and_embed(
    *,
    num_chunks: int,
    chunk_size: int,
    chunk_memmap_path: Path | str,
    use_cls_repr: bool = False,
    chunks_to_embeddings_batch_size: int = 16,
    embed_dim: int = BERT_MODEL_DIM,
    index_file: str = "knn.index",
    max_index_memory_usage: str = "100m",
    current_memory_available: str = "1G",
) -> tuple[Any, Float[np.ndarray, "chunks channels"]]:
    """Embed and index all chunks; return the index (of faiss) and the vectors, mapped for reading.

    The index is written beside the chunks, as ``<chunks>.<index_file>``. Its kind follows from the number of vectors
    and the memory that it may take.

    Raises:
        ValueError: If even the smallest suitable index takes more than ``current_memory_available``.
    """
    faiss = _needed("faiss")
    vectors_path = Path(f"{chunk_memmap_path}.embedded")
    sizes = {"num_chunks": num_chunks, "chunk_size": chunk_size, "embed_dim": embed_dim}
    paths: dict[str, Any] = {"chunks_memmap_path": chunk_memmap_path, "embeddings_memmap_path": vectors_path}
    chunks_to_embeddings_(**sizes, **paths, batch_size=chunks_to_embeddings_batch_size, use_cls_repr=use_cls_repr)
    vectors = np.memmap(vectors_path, dtype=np.float32, mode="r", shape=(num_chunks, embed_dim))
    limit = min(_bytes("max_index_memory_usage", max_index_memory_usage), 1 << 62)
    choice = choose_index(num_chunks, embed_dim, IndexConfig(memory_limit=limit))
    available = _bytes("current_memory_available", current_memory_available)
    if choice.memory_bytes > available:
        raise ValueError(
            f"current_memory_available must be at least the index of {choice.memory_bytes:,} bytes that {num_chunks} "
            f"chunks need, but is {current_memory_available!r}."
        )
    index: Any = faiss.index_factory(embed_dim, choice.factory)
    if not index.is_trained:
        sample = np.random.default_rng(0).choice(num_chunks, min(choice.training_rows, num_chunks), replace=False)
        index.train(np.array(vectors[np.sort(sample)]))
    for begin in range(0, num_chunks, 65536):
        index.add(np.array(vectors[begin : begin + 65536]))
    fill_atomically(
        Path(f"{chunk_memmap_path}.{index_file}"), lambda temporary: faiss.write_index(index, str(temporary))
    )
    return index, vectors


def chunks_to_precalculated_knn_(
    *,
    num_nearest_neighbors: int,
    num_chunks: int,
    chunk_size: int,
    chunk_memmap_path: Path | str,
    doc_ids_memmap_path: Path | str,
    use_cls_repr: bool = False,
    max_rows_per_file: int = 500,
    chunks_to_embeddings_batch_size: int = 16,
    embed_dim: int = BERT_MODEL_DIM,
    num_extra_neighbors: int = 10,
    force_reprocess: bool = False,
    index_file: str = "knn.index",
    max_index_memory_usage: str = "100m",
    current_memory_available: str = "1G",
) -> tuple[Path, Any]:
    """Write the nearest chunks from other documents for every chunk; return the file and the index (of faiss).

    Results of an earlier call are used again if a file beside them says that chunks and arguments are the same.
    ``max_rows_per_file`` is the number of chunks searched together.
    """
    faiss = _needed("faiss")
    chunks = Path(chunk_memmap_path)
    target, index_path = chunks.with_name(f"{chunks.stem}.knn{chunks.suffix}"), Path(f"{chunks}.{index_file}")
    made_of = {
        "chunks": checksum(chunks),
        "documents": checksum(Path(doc_ids_memmap_path)),
        "bert": _bert_name[0],
        "numbers": [num_nearest_neighbors, num_chunks, chunk_size, embed_dim, num_extra_neighbors, use_cls_repr],
    }
    record = Path(f"{target}.json")
    done = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    if not force_reprocess and record.is_file() and index_path.is_file() and target.is_file():
        written = read_json(record, cure="delete it: the neighbours are then searched again")
        if written == {"made_of": done, "neighbours": checksum(target), "index": checksum(index_path)}:
            return target, faiss.read_index(str(index_path))
    sizes = {"num_chunks": num_chunks, "chunk_size": chunk_size, "embed_dim": embed_dim}
    memory: dict[str, Any] = {
        "max_index_memory_usage": max_index_memory_usage,
        "current_memory_available": current_memory_available,
    }
    batch = chunks_to_embeddings_batch_size
    index, vectors = chunks_to_index_and_embed(
        **sizes,
        **memory,
        chunk_memmap_path=chunks,
        use_cls_repr=use_cls_repr,
        index_file=index_file,
        chunks_to_embeddings_batch_size=batch,
    )
    documents = np.asarray(open_rows(doc_ids_memmap_path, num_chunks, 1)[:, 0])
    pieces = (
        _neighbours_of(rows, index, vectors, documents, num_nearest_neighbors, num_extra_neighbors)
        for rows in _rows(num_chunks, max_rows_per_file)
    )
    fill_atomically(target, lambda temporary: _write_pieces(temporary, pieces))
    content = {"made_of": done, "neighbours": checksum(target), "index": checksum(index_path)}
    write_json(record, content)
    return target, index


def _rows(count: int, at_once: int) -> Iterator[Any]:
    for begin in range(0, count, at_once):
        yield np.arange(begin, min(begin + at_once, count))


def _write_pieces(path: Path, pieces: Iterable[Any]) -> None:
    with path.open("wb") as file:
        for piece in pieces:
            piece.tofile(file)


def _neighbours_of(rows: Any, index: Any, vectors: Any, documents: Any, k: int, extra: int) -> Any:
    """The nearest chunks from other documents, -1 where there are no more; widens the search until there are enough."""
    wanted = min(k + extra + 1, len(documents))
    queries = np.array(vectors[rows])
    while True:
        _, found = index.search(queries, wanted)
        owners = documents[np.maximum(found, 0)]
        foreign = (found >= 0) & (owners != documents[rows][:, None])
        if wanted == len(documents) or (foreign.sum(1) >= k).all():
            break
        wanted = min(4 * wanted, len(documents))
    # Move chunks of other documents to the front, in their order.
    order = np.argsort(~foreign, axis=1, kind="stable")[:, :k]
    nearest = np.where(np.take_along_axis(foreign, order, 1), np.take_along_axis(found, order, 1), -1)
    lacking = ((0, 0), (0, k - nearest.shape[1]))
    return np.pad(nearest, lacking, constant_values=-1).astype(np.int32)


def _needed(module: str) -> Any:
    """Import a package that only this part of the library needs."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"retentive.compat.retro_pytorch needs {module} for BERT and its index, which is not installed: "
            "pip install 'retentive[retrieval]'."
        ) from error


def _bytes(name: str, size: str) -> int:
    """Bytes of ``100m`` or ``1G``."""
    number, unit = size.strip().lower().removesuffix("b"), 1
    if number and number[-1] in _UNITS:
        unit, number = _UNITS[number[-1]], number[:-1]
    try:
        return int(float(number) * unit)
    except ValueError as error:
        raise ValueError(f"{name} must be bytes such as '100m' or '1G', but is {size!r}.") from error
