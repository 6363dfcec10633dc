"""Vectors from any encoder of Hugging Face or sentence-transformers, in a local folder or on the hub."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float32, Int64

from retentive.config_types import check_count
from retentive.errors import DamagedFileError
from retentive.extras import require
from retentive.files import checksum, read_json
from retentive.retrieval.blocks.vectors import Vectors
from retentive.retrieval.encoders.loading import load_quietly
from retentive.retrieval.passages import NO_TOKEN, Passages, as_rows
from retentive.text.subword_tokenizer import SubwordTokenizer

if TYPE_CHECKING:
    import torch

Pooling = Literal["mean", "cls"]
POOLINGS: tuple[Pooling, ...] = ("mean", "cls")
COPY_MODEL = "copy the model again from its origin"


class DenseEncoder:
    """A transformer encoder whose last hidden states are pooled into one vector.

    It runs in float32 on a CPU (half precision is several times slower there) and in ``dtype`` on a GPU when there is
    one. The model is loaded when it is first needed.

    Args:
        model: A folder with ``config.json``, weights and ``tokenizer.json``, or a hub id such as ``bert-base-cased``.
        pooling: ``mean`` over all tokens that are no padding, or ``cls``, the vector of the first one.
        normalize: Whether vectors have length 1, so that distance orders as cosine does. RETRO (Borgeaud et al. 2022)
            compares the plain means of BERT instead.
        batch_size: Passages computed together; ``None`` takes 16 on a CPU, where larger batches exceed its cache, and
            128 on a GPU.
        max_length: Tokens that a passage may have, special ones included; ``None`` takes the model's own limit.
        device: ``None`` takes a GPU when there is one.
        dtype: Type of the arithmetic on a GPU.

    Raises:
        ValueError: If an argument is invalid.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        pooling: Pooling = "mean",
        normalize: bool = True,
        batch_size: int | None = None,
        max_length: int | None = None,
        device: str | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> None:
        _check_pooling(pooling)
        if batch_size is not None:
            check_count("batch_size", batch_size, unit="passage")
        if max_length is not None:
            check_count("max_length", max_length, unit="token")
        self.model = str(model)
        self.pooling: Pooling = pooling
        self.normalize = normalize
        self._asked_batch_size = batch_size
        self._asked_max_length = max_length
        self._asked_device = device
        self._dtype: Literal["float32", "bfloat16", "float16"] = dtype

    @classmethod
    def make(cls, model: str | Path | None = None, **options: Any) -> "DenseEncoder":
        """Make an encoder by name.

        Raises:
            ValueError: If there is no model.
        """
        if model is None:
            raise ValueError("encoder dense needs model=, a folder or a hub id such as bert-base-cased.")
        return cls(model, **options)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "DenseEncoder":
        """Make the encoder of a manifest."""
        return cls(**{name: value for name, value in settings.items() if name != "kind"})

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments; the other process reads the weights again."""
        options = {
            "pooling": self.pooling,
            "normalize": self.normalize,
            "batch_size": self._asked_batch_size,
            "max_length": self._asked_max_length,
            "device": self._asked_device,
            "dtype": self._dtype,
        }
        return _dense_encoder, (self.model, options)

    def settings(self) -> dict[str, Any]:
        """The arguments that make the encoder again."""
        options = {"model": self.model, "pooling": self.pooling, "normalize": self.normalize, "dtype": self._dtype}
        return {"kind": "dense", **options, "batch_size": self._asked_batch_size, "max_length": self._asked_max_length}

    @property
    def batch_size(self) -> int:
        """Passages computed together."""
        return self._asked_batch_size or (16 if self._device.type == "cpu" else 128)

    @cached_property
    def folder(self) -> Path:
        """The folder of the model's files; for a hub id they are downloaded first, or found in the local cache.

        Raises:
            FileNotFoundError: If there is neither such a folder nor such a model on the hub that can be reached.
        """
        if Path(self.model).is_dir():
            return Path(self.model)
        require("transformers", "a dense encoder", extra="retrieval")
        from huggingface_hub import snapshot_download

        try:
            wanted = ["*.json", "*.txt", "*.safetensors", "*.model"]
            return Path(snapshot_download(self.model, allow_patterns=wanted))
        except Exception as error:  # the client of the hub raises errors of several libraries
            message = f"model must be a folder or the id of a model on the hub, but {self.model!r} is neither here "
            raise FileNotFoundError(f"{message}nor could it be fetched ({type(error).__name__}: {error}).") from error

    def fingerprint(self) -> str:
        """SHA-256 over weights, configuration, tokenizer and pooling; the folder's path does not matter."""
        names = ["config.json", "tokenizer.json", "model.safetensors", "model.safetensors.index.json"]
        files = {name: self.folder / name for name in names}
        files |= {path.name: path for path in self.folder.glob("model-*-of-*.safetensors")}
        content = {name: checksum(path) for name, path in sorted(files.items()) if path.exists()}
        if "config.json" not in content or len(content) < 3:
            message = f"model folder {str(self.folder)!r} must have config.json, tokenizer.json and safetensors weights"
            raise FileNotFoundError(f"{message}, but has {sorted(content)}.")
        options = [self.pooling, self.normalize, self.max_length, self._dtype]
        return hashlib.sha256(json.dumps([content, options], sort_keys=True).encode()).hexdigest()

    @cached_property
    def _config(self) -> dict[str, Any]:
        return read_json(self.folder / "config.json", cure=COPY_MODEL)

    def dimension(self) -> int:
        """Numbers in a vector."""
        return int(self._config["hidden_size"])

    @property
    def max_length(self) -> int:
        """Tokens that a passage may have, special ones included."""
        limit = int(self._config.get("max_position_embeddings", 512))
        if self._config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet"):
            limit -= 2  # their positions begin after the padding id
        return min(limit, self._asked_max_length or limit)

    @cached_property
    def tokenizer(self) -> SubwordTokenizer:
        """The model's own tokenizer; chunks cut by it have as many tokens for the model as they have in the store."""
        path = self.folder / "tokenizer_config.json"
        configured = read_json(path, cure=COPY_MODEL)
        named: Any = configured.get("sep_token") or configured.get("eos_token")
        end = named.get("content") if isinstance(named, dict) else named
        if not isinstance(end, str):
            raise DamagedFileError(f"{path} names no sep_token and no eos_token: {COPY_MODEL}.")
        return SubwordTokenizer.open(self.folder / "tokenizer.json", name="file", end_of_text=end)

    def tokenize(
        self, texts: Sequence[str], *, special_tokens: bool = True
    ) -> tuple[Int64[np.ndarray, "rows length"], Bool[np.ndarray, "rows length"]]:
        """Ids and mask of texts, special tokens around each unless told otherwise, padded to the longest.

        Raises:
            ValueError: If a text is longer than the model's limit; nothing is truncated silently.
        """
        rows = as_rows(self.tokenizer.encode_batch(texts))
        return self._wrap(rows) if special_tokens else (np.maximum(rows, self._pad), rows >= 0)

    def embed(
        self,
        ids: Int64[np.ndarray, "rows length"],
        mask: Bool[np.ndarray, "rows length"],
        *,
        pooling: Pooling | None = None,
    ) -> Vectors:
        """Vectors of ids, ``batch_size`` rows at a time; padding (where ``mask`` is False) changes nothing.

        Args:
            ids: As `tokenize` gives them.
            mask: True for tokens, False for padding; every row needs a token.
            pooling: ``None`` takes the encoder's own.
        """
        pooling = self.pooling if pooling is None else pooling
        _check_pooling(pooling)
        if len(ids) > 0 and not mask.any(axis=1).all():
            raise ValueError(f"mask must keep a token in every row, but row {int(mask.any(axis=1).argmin())} has none.")
        vectors = np.empty((len(ids), self.dimension()), dtype=np.float32)

        def fill(rows: np.ndarray, longest: int) -> None:
            vectors[rows] = self._pooled(ids[rows, :longest], mask[rows, :longest], pooling)

        self._in_batches(mask, fill)
        return vectors

    def _in_batches(self, mask: Bool[np.ndarray, "rows length"], fill: Callable[[np.ndarray, int], None]) -> None:
        """Call ``fill`` with the rows of each batch and the length of its longest one."""
        # Rows of similar length together: computing padding is wasted time.
        order = np.argsort(mask.sum(axis=1), kind="stable")
        batches = [order[begin : begin + self.batch_size] for begin in range(0, len(mask), self.batch_size)]

        def batch(rows: np.ndarray) -> None:
            fill(rows, int(np.flatnonzero(mask[rows].any(axis=0))[-1]) + 1)

        _ = self._network  # loaded once, before the threads start
        if self._device.type == "cpu":
            _side_by_side(batch, batches)
        else:
            for rows in batches:
                batch(rows)

    def token_vectors(self, texts: Sequence[str], *, special_tokens: bool = True) -> list[Vectors]:
        """The last hidden state of each token of each text, of length 1.

        A text that is longer than the model's limit is read in several pieces.

        Args:
            texts: The texts.
            special_tokens: Whether those of the special tokens, which the model reads around a text, are among them.
        """
        before, after = self._around
        most = self.max_length - len(before) - len(after)
        pieces: list[np.ndarray] = []
        owners: list[int] = []
        for number, row in enumerate(self.tokenizer.encode_batch(texts)):
            parts = [row[begin : begin + most] for begin in range(0, max(len(row), 1), most)]
            pieces += parts
            owners += [number] * len(parts)
        ids, mask = self._wrap(as_rows(pieces))
        found: list[Vectors] = [np.empty((0, self.dimension()), dtype=np.float32)] * len(pieces)

        def fill(rows: np.ndarray, longest: int) -> None:
            hidden = self._unit_hidden(ids[rows, :longest], mask[rows, :longest])
            for place, row in enumerate(rows.tolist()):
                read = hidden[place][mask[row, :longest]]
                found[row] = read if special_tokens else read[len(before) : len(read) - len(after)]

        self._in_batches(mask, fill)
        each: list[list[Vectors]] = [[] for _ in texts]
        for number, vectors in zip(owners, found, strict=True):
            each[number].append(vectors)
        return [np.concatenate(parts) for parts in each]

    def encode(self, passages: Passages) -> Vectors:
        """The vector of each passage; its ids are used if they are of this model's tokenizer, else its text."""
        if passages.tokenizer.fingerprint() == self.tokenizer.fingerprint():
            ids, mask = self._wrap(passages.tokens)
        else:
            ids, mask = self.tokenize(passages.texts())
        return self.embed(ids, mask)

    @property
    def _pad(self) -> int:
        return int(self._config.get("pad_token_id") or 0)

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """The special tokens that the model's tokenizer puts before and after a text."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        tokenizer.no_padding()
        encoded = tokenizer.encode("a", add_special_tokens=True)
        special = encoded.special_tokens_mask
        first = special.index(0)
        last = len(special) - special[::-1].index(0)
        return encoded.ids[:first], encoded.ids[last:]

    def _wrap(
        self, rows: Int64[np.ndarray, "rows _"]
    ) -> tuple[Int64[np.ndarray, "rows length"], Bool[np.ndarray, "rows length"]]:
        before, after = self._around
        lengths = (rows >= 0).sum(axis=1)
        longest = int(lengths.max(initial=0)) + len(before) + len(after)
        if longest > self.max_length:
            most, found = self.max_length - len(before) - len(after), int(lengths.max())
            message = f"a passage may have {most} tokens of {self.model!r}, but one has {found}"
            raise ValueError(f"{message}: take a smaller chunk_size or a shorter query.")
        ids = np.full((len(rows), longest), self._pad, dtype=np.int64)
        ids[:, : len(before)] = before
        inside = np.minimum(rows.shape[1], longest - len(before) - len(after))
        middle = ids[:, len(before) : len(before) + inside]
        np.copyto(middle, rows[:, :inside], where=rows[:, :inside] != NO_TOKEN)
        for place, token in enumerate(after):
            ids[np.arange(len(rows)), len(before) + lengths + place] = token
        return ids, np.arange(longest) < (lengths + len(before) + len(after))[:, None]

    @cached_property
    def _network(self) -> "torch.nn.Module":
        require("transformers", "a dense encoder", extra="retrieval")
        import torch
        from transformers import AutoModel

        from retentive.retrieval.encoders.packed_layers import pack_layers

        dtype = torch.float32 if self._device.type == "cpu" else getattr(torch, self._dtype)
        options = {"add_pooling_layer": False} if self._config.get("model_type") in ("bert", "roberta") else {}
        made = load_quietly(AutoModel, self.folder, dtype=dtype, local_files_only=True, **options)
        network = made.eval().to(self._device)
        if self._device.type == "cpu":
            pack_layers(network, self._config.get("model_type", ""))
        return network

    @cached_property
    def _device(self) -> "torch.device":
        import torch

        return torch.device(self._asked_device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def _pooled(
        self, ids: Int64[np.ndarray, "rows length"], mask: Bool[np.ndarray, "rows length"], pooling: Pooling
    ) -> Float32[np.ndarray, "rows dimension"]:
        import torch

        device = self._device
        with torch.inference_mode():
            weights = torch.from_numpy(mask.astype(np.float32)).to(device)
            hidden = self._hidden(ids, mask)
            if pooling == "cls":
                first = weights.argmax(dim=1)
                pooled = hidden[torch.arange(len(hidden), device=device), first]
            else:
                pooled = (hidden * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True)
            if self.normalize:
                pooled = torch.nn.functional.normalize(pooled, dim=1)
            return pooled.cpu().numpy()

    def _unit_hidden(
        self, ids: Int64[np.ndarray, "rows length"], mask: Bool[np.ndarray, "rows length"]
    ) -> Float32[np.ndarray, "rows length dimension"]:
        import torch

        with torch.inference_mode():
            return torch.nn.functional.normalize(self._hidden(ids, mask), dim=-1).cpu().numpy()

    def _hidden(self, ids: Int64[np.ndarray, "rows length"], mask: Bool[np.ndarray, "rows length"]) -> "torch.Tensor":
        """The last hidden states, on the model's device."""
        import torch

        tokens = torch.from_numpy(np.ascontiguousarray(ids)).to(self._device)
        # Without padding no mask is needed, and attention is faster.
        attended = None if mask.all() else torch.from_numpy(np.ascontiguousarray(mask)).to(self._device)
        return self._network(input_ids=tokens, attention_mask=_as_int(attended)).last_hidden_state.float()


def _side_by_side(fill: Callable[[np.ndarray], None], batches: Sequence[np.ndarray]) -> None:
    """Run batches in as many threads as torch has, each on one core.

    The last bits of a product depend on how it is split over cores; on one core each they do not depend on the number
    of cores. Two batches on a core each are also faster than one after the other on both.
    """
    import torch

    from retentive.private_apis import set_threads_of_this_thread

    with ThreadPoolExecutor(torch.get_num_threads(), "encode", set_threads_of_this_thread, (1,)) as pool:
        for _ in pool.map(fill, batches):
            pass


def _as_int(mask: "torch.Tensor | None") -> "torch.Tensor | None":
    return None if mask is None else mask.long()


def _check_pooling(pooling: str) -> None:
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, but is {pooling!r}.")


def _dense_encoder(model: str, options: dict[str, Any]) -> DenseEncoder:
    return DenseEncoder(model, **options)
