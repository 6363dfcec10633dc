"""A cross-encoder: a transformer that reads a query and a passage as one text and says how well they go together."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retentive.config_types import check_count
from retentive.errors import DamagedFileError
from retentive.extras import require
from retentive.files import read_json
from retentive.retrieval.encoders.dense import COPY_MODEL
from retentive.retrieval.encoders.loading import load_quietly
from retentive.retrieval.passages import NO_TOKEN, as_rows
from retentive.retrieval.rerankers.protocol import Judged

if TYPE_CHECKING:
    import tokenizers
    import torch

OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet")
"""Model types whose positions begin after the padding id."""


class CrossEncoder:
    """A sequence classifier of Hugging Face with one label (a score) or two (no and yes), in a local folder.

    Weights are read from safetensors alone, and no code that lies beside them is run.

    Args:
        folder: Folder with ``config.json``, ``tokenizer.json`` and ``model.safetensors``.
        batch_size: Passages computed together.
        device: ``None`` takes a GPU when there is one.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the model classifies no pairs of texts.
    """

    def __init__(self, folder: Path | str, *, batch_size: int = 16, device: str | None = None) -> None:
        check_count("batch_size", batch_size, unit="passage")
        self.folder, self.batch_size, self._asked_device = Path(folder), batch_size, device
        for name in ("config.json", "tokenizer.json"):
            if not (self.folder / name).is_file():
                raise FileNotFoundError(f"reranker {str(self.folder)!r} must be a folder with {name}, but has none.")
        if not any(self.folder.glob("model*.safetensors")):
            raise FileNotFoundError(
                f"reranker {str(self.folder)!r} must have its weights in safetensors, but has none."
            )
        self._config: dict[str, Any] = read_json(self.folder / "config.json", cure=COPY_MODEL)
        if not is_classifier(self._config):
            made: Any = self._config.get("architectures")
            raise ValueError(f"reranker {str(self.folder)!r} must be for SequenceClassification, but is for {made}.")

    def scores(self, query: str, passages: Sequence[str]) -> Judged:
        """See `Reranker.scores`: logits. A passage beyond the model's limit is read in pieces; its best one counts.

        Raises:
            ValueError: If the query leaves no room for a passage.
        """
        self._check_query(query)
        read = self._pairs.encode_batch([(query, passage) for passage in passages])
        pieces = [(number, piece) for number, one in enumerate(read) for piece in (one, *one.overflowing)]
        # Pieces of similar length together: computing padding is wasted time.
        pieces.sort(key=lambda one: len(one[1].ids))
        best = np.full(len(passages), -np.inf, dtype=np.float32)
        for begin in range(0, len(pieces), self.batch_size):
            batch = pieces[begin : begin + self.batch_size]
            np.maximum.at(best, [number for number, _ in batch], self._logits([piece for _, piece in batch]))
        return best

    def _check_query(self, query: str) -> None:
        taken = len(self._words.encode(query, "").ids)
        if taken >= self._max_length:
            raise ValueError(
                f"a query may have {self._max_length - 1} tokens for {str(self.folder)!r}, special ones included, "
                f"but has {taken}: ask in fewer words."
            )

    def _logits(self, pieces: "Sequence[tokenizers.Encoding]") -> Judged:
        import torch

        ids = as_rows([np.array(piece.ids, dtype=np.int64) for piece in pieces])
        given = {
            "input_ids": np.where(ids == NO_TOKEN, int(self._config.get("pad_token_id") or 0), ids),
            "attention_mask": (ids != NO_TOKEN).astype(np.int64),
        }
        if int(self._config.get("type_vocab_size") or 0) > 1:
            given["token_type_ids"] = np.maximum(as_rows([np.array(piece.type_ids) for piece in pieces]), 0)
        with torch.inference_mode():
            logits = self._network(**{name: torch.from_numpy(rows).to(self._device) for name, rows in given.items()})
        # Of two labels the second says yes.
        found = logits.logits.float()
        return (found[:, 0] if found.shape[1] == 1 else found[:, 1] - found[:, 0]).cpu().numpy()

    @property
    def _max_length(self) -> int:
        limit = int(self._config.get("max_position_embeddings", 512))
        return limit - 2 if self._config.get("model_type") in OFFSET_POSITIONS else limit

    @cached_property
    def _pairs(self) -> "tokenizers.Tokenizer":
        """Reads a query and a passage, which is cut where it is too long: the pieces are kept beside one another."""
        tokenizer = self._open_tokenizer()
        tokenizer.enable_truncation(self._max_length, strategy="only_second")
        return tokenizer

    @cached_property
    def _words(self) -> "tokenizers.Tokenizer":
        tokenizer = self._open_tokenizer()
        tokenizer.no_truncation()
        return tokenizer

    def _open_tokenizer(self) -> "tokenizers.Tokenizer":
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        except Exception as error:  # the library raises plain Exception
            path = self.folder / "tokenizer.json"
            raise DamagedFileError(f"{path} is no tokenizer ({error}): {COPY_MODEL}.") from error
        tokenizer.encode_special_tokens = True  # a "[SEP]" that stands in a text is text
        tokenizer.no_padding()
        return tokenizer

    @cached_property
    def _network(self) -> "torch.nn.Module":
        require("transformers", "a cross-encoder", extra="retrieval")
        from transformers import AutoModelForSequenceClassification

        network, told = load_quietly(
            AutoModelForSequenceClassification,
            self.folder,
            dtype="float32",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
        if missing := sorted(told["missing_keys"]):
            # transformers would fill them with random numbers.
            raise DamagedFileError(f"reranker {str(self.folder)!r} lacks weights, {missing[0]} first: {COPY_MODEL}.")
        if network.config.num_labels not in (1, 2):
            labels = network.config.num_labels
            raise ValueError(f"reranker {str(self.folder)!r} must have one label or two, but has {labels}.")
        return network.eval().to(self._device)

    @cached_property
    def _device(self) -> "torch.device":
        import torch

        return torch.device(self._asked_device or ("cuda" if torch.cuda.is_available() else "cpu"))


def is_classifier(config: dict[str, Any]) -> bool:
    """Whether a ``config.json`` is that of a model that classifies texts."""
    names: Any = config.get("architectures") or []
    return any(str(name).endswith("ForSequenceClassification") for name in names)
