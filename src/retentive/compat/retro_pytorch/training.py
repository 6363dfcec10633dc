"""``retro_pytorch.training``: from a folder of text to batches and to generated text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.utils.data import DataLoader

from retentive.compat.arguments import refuse
from retentive.compat.retro_pytorch.data import RETRODataset, knn_to_retrieved_chunks, open_rows
from retentive.compat.retro_pytorch.optimizer import get_optimizer
from retentive.compat.retro_pytorch.retrieval import (
    EOS_ID,
    SOS_ID,
    chunks_to_precalculated_knn_,
    embed_chunks,
    get_bert,
    text_folder_to_chunks_,
)
from retentive.compat.retro_pytorch.retro_pytorch import RETRO
from retentive.files import read_json, write_json
from retentive.generation import Sampling, generate
from retentive.shapes import Logits, Tokens


def top_k(logits: Tensor, thres: float = 0.9) -> Tensor:
    """Keep the likeliest ``1 - thres`` of the vocabulary; the others become minus infinity."""
    kept = logits.topk(_kept(logits.shape[-1], thres), -1)
    return torch.full_like(logits, float("-inf")).scatter(-1, kept.indices, kept.values)


def top_p(logits: Tensor, thres: float = 0.9) -> Tensor:
    """Keep the fewest tokens whose probabilities add up to ``thres``; the others become minus infinity."""
    ordered, places = logits.sort(-1, descending=True)
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
    return torch.full_like(logits, float("-inf")).scatter(-1, places, ordered.masked_fill(before >= thres, -torch.inf))


class TrainingWrapper(nn.Module):
    """Chunks, neighbours and batches of a folder of text, and text that a model makes with them.

    Attributes:
        retro: The model.
        stats: How many chunks, documents and sequences there are.
        ds: The sequences.
    """

    def __init__(
        self,
        *,
        retro: RETRO,
        chunk_size: int,
        documents_path: Path | str,
        knn: int,
        glob: str = "**/*.txt",
        chunks_memmap_path: Path | str = "./train.chunks.dat",
        seqs_memmap_path: Path | str = "./train.seq.dat",
        doc_ids_memmap_path: Path | str = "./train.doc_ids.dat",
        max_chunks: int = 1_000_000,
        max_seqs: int = 100_000,
        knn_extra_neighbors: int = 100,
        processed_stats_json_path: Path | str = "./processed-stats.json",
        faiss_index_filename: str = "knn.index",
        **index_kwargs: Any,
    ) -> None:
        """Prepare the files that do not exist yet; ``index_kwargs`` go to `chunks_to_precalculated_knn_`.

        Texts are prepared again if they, or these arguments, have changed.

        Raises:
            ValueError: If the model has another chunk size, or another vocabulary than BERT.
        """
        super().__init__()
        _check_fit(retro, chunk_size)
        self.retro, self.chunk_size, self.max_seq_len, self.knn = retro, chunk_size, retro.seq_len, knn
        self.stats = self._prepare(
            Path(processed_stats_json_path),
            {
                "folder": str(documents_path),
                "glob": glob,
                "chunks_memmap_path": str(chunks_memmap_path),
                "seqs_memmap_path": str(seqs_memmap_path),
                "doc_ids_memmap_path": str(doc_ids_memmap_path),
                "chunk_size": chunk_size,
                "seq_len": retro.seq_len,
                "max_chunks": max_chunks,
                "max_seqs": max_seqs,
            },
        )
        neighbours, self._index = chunks_to_precalculated_knn_(
            num_nearest_neighbors=knn,
            num_chunks=self.stats["chunks"],
            chunk_size=chunk_size,
            chunk_memmap_path=chunks_memmap_path,
            doc_ids_memmap_path=doc_ids_memmap_path,
            num_extra_neighbors=knn_extra_neighbors,
            index_file=faiss_index_filename,
            **index_kwargs,
        )
        self._use_cls_repr = bool(index_kwargs.get("use_cls_repr", False))
        self._chunks = open_rows(chunks_memmap_path, self.stats["chunks"], chunk_size + 1)
        self.ds = self._dataset(chunks_memmap_path, neighbours, seqs_memmap_path)

    def _dataset(self, chunks: Path | str, neighbours: Path | str, sequences: Path | str) -> RETRODataset:
        return RETRODataset(
            num_chunks=self.stats["chunks"],
            chunk_size=self.chunk_size,
            seq_len=self.max_seq_len,
            num_sequences=self.stats["seqs"],
            num_neighbors=self.knn,
            chunk_memmap_path=chunks,
            chunk_nn_memmap_path=neighbours,
            seq_memmap_path=sequences,
            pad_id=self.retro.pad_id,
        )

    @staticmethod
    def _prepare(stats_path: Path, arguments: dict[str, Any]) -> dict[str, int]:
        paths = sorted(Path(arguments["folder"]).glob(arguments["glob"]))
        texts = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
        made_of = {"arguments": arguments, "texts": texts}
        written: dict[str, Any] = {}
        if stats_path.is_file():
            written = read_json(stats_path, cure="delete it: the text is then chunked again")
        files = [Path(arguments[name]) for name in arguments if name.endswith("_memmap_path")]
        if written.get("made_of") != made_of or not all(path.is_file() for path in files):
            written = {**text_folder_to_chunks_(**arguments), "made_of": made_of}
            write_json(stats_path, written)
        return {name: written[name] for name in ("chunks", "docs", "seqs")}

    def fetch_neighbours(self, chunks: Int[Tensor, "chunks chunk"]) -> Int[Tensor, "chunks neighbours length"]:
        """Nearest chunks with their continuations, found as those of the training text were; -1 is padding."""
        vectors = embed_chunks(chunks.clamp_min(0), self._use_cls_repr).float().cpu().numpy()
        _, found = self._index.search(np.ascontiguousarray(vectors), self.knn)
        retrieved = knn_to_retrieved_chunks(
            found, self._chunks, add_continuations=True, num_chunks=self.stats["chunks"], pad_id=self.retro.pad_id
        )
        ids = torch.from_numpy(retrieved).long()
        return ids.masked_fill(ids == self.retro.pad_id, -1)

    def generate(
        self,
        start: Tokens | None = None,
        retrieved: None = None,
        filter_fn: Callable[..., Tensor] = top_k,
        filter_thres: float = 0.9,
        temperature: float = 1.0,
    ) -> Int[Tensor, "batch longer"]:
        """Continue texts up to ``max_seq_len`` tokens or their end; neighbours of every chunk are found on the way.

        Args:
            start: What the texts begin with; None begins one with ``[CLS]``.
            retrieved: Must be None.
            filter_fn: `top_k` or `top_p`.
            filter_thres: Its threshold.
            temperature: Divides the logits; 0 always takes the likeliest.

        Returns:
            The texts with what they begin with; ``pad_id`` after the end of each.
        """
        refuse("retrieved", retrieved, None, "neighbours of every chunk are found here")
        if filter_fn not in (top_k, top_p):
            raise ValueError(f"filter_fn must be top_k or top_p of this module, but is {filter_fn}.")
        device = next(self.retro.parameters()).device
        begin = torch.full((1, 1), SOS_ID) if start is None else start
        begin = begin.to(device)
        left = self.max_seq_len - begin.shape[1]
        if left < 1:
            return begin
        vocab = self.retro.model.vocab_size
        sampling = Sampling()
        if temperature > 0 and filter_fn is top_k:
            sampling = Sampling(temperature=temperature, top_k=_kept(vocab, filter_thres))
        elif temperature > 0:
            sampling = Sampling(temperature=temperature, top_p=filter_thres)
        ends = [EOS_ID] if vocab > EOS_ID else []
        result = generate(
            self.retro.model,
            begin,
            max_new_tokens=left,
            sampling=sampling,
            stop_tokens=ends,
            retriever=self.fetch_neighbours if self.retro.reads_neighbours else None,
        )
        new = nn.utils.rnn.pad_sequence(result.tokens, batch_first=True, padding_value=self.retro.pad_id)
        return torch.cat((begin, new.to(device)), 1)

    def get_dataloader(self, **kwargs: Any) -> DataLoader[tuple[Tensor, Tensor]]:
        """Batches of sequences and of what was retrieved for them; arguments are torch's."""
        return DataLoader(self.ds, **kwargs)

    def get_optimizer(self, **kwargs: Any) -> torch.optim.AdamW:
        """`get_optimizer` of the model's parameters."""
        return get_optimizer(self.retro.parameters(), **kwargs)

    def forward(self, seq: Tokens, retrieved: Tensor | None = None, return_loss: bool = True) -> Logits | Tensor:
        """Call the model; see `RETRO.forward`."""
        return self.retro(seq, retrieved, return_loss=return_loss)


def _check_fit(retro: RETRO, chunk_size: int) -> None:
    """Check that the model can read the chunks."""
    refuse("chunk_size", chunk_size, retro.chunk_size, "it is that of the model")
    ids, known = get_bert().config.vocab_size, retro.model.vocab_size
    if known != ids:
        raise ValueError(
            f"num_tokens of retro must be that of BERT, {ids}, whose ids texts are made of, but is {known}."
        )


def _kept(vocab: int, threshold: float) -> int:
    return max(1, int((1 - threshold) * vocab))
