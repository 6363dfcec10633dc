"""The loss of every token of some documents, by sliding windows or in one pass with the carried state.

Both score each token once. As in training, a document is read after end-of-text, from which alone its first token is
predicted. End-of-text itself is not scored: it stands for no bytes of the text.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from retentive.config_types import check_count
from retentive.data.evaluation_windows import EvaluationWindows
from retentive.data.neighbours.batches import FindsNeighbours, neighbour_inputs
from retentive.evaluation.measures.documents import Documents
from retentive.evaluation.measures.mode import evaluating
from retentive.models.protocol import LanguageModel
from retentive.ops.cross_entropy import IGNORED
from retentive.shapes import TokenMask, Tokens
from retentive.state import ModelState

LOGITS_AT_ONCE = 1 << 26
"""Logits that are in memory together: 256 MiB in float32, and as much again while their loss is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredTokens:
    """The losses of some tokens, on the CPU.

    Attributes:
        document: Number in its split of the document that each token stands in.
        position: Tokens read before it: those before it in its document, and the end-of-text that begins it.
        token: Its id.
        nats: Its loss, the negative logarithm of its probability.
    """

    document: Int64[np.ndarray, "tokens"]
    position: Int64[np.ndarray, "tokens"]
    token: Int64[np.ndarray, "tokens"]
    nats: Float[np.ndarray, "tokens"]


@runtime_checkable
class Tally(Protocol):
    """What adds up losses."""

    def add(self, scored: ScoredTokens) -> None:
        """Add the losses of some tokens."""
        ...


AnyTally = TypeVar("AnyTally", bound=Tally)
Hook = Callable[[int], object]
"""Called with the number of tokens scored since its last call."""


def quiet(count: int) -> None:
    """Tell nobody how many tokens were scored."""


def added_up(scores: Iterable[ScoredTokens], tally: AnyTally, on_tokens: Hook) -> AnyTally:
    """Add all scores to a tally, and return it."""
    for scored in scores:
        tally.add(scored)
        on_tokens(len(scored.token))
    return tally


def score_in_windows(
    model: LanguageModel, windows: EvaluationWindows, neighbours: FindsNeighbours | None = None
) -> Iterator[ScoredTokens]:
    """Score tokens in windows that each begin with an empty memory.

    Args:
        model: The model to measure.
        windows: What is read, as `Documents.windows` makes them.
        neighbours: Finds the neighbours of every chunk, for models that read them.

    Raises:
        ValueError: If windows would begin inside of chunks.
    """
    if neighbours is not None:
        check_whole_chunks(windows.stride, neighbours.chunk_size)
    for batch in windows:
        document, offset = batch.document.numpy(), batch.offset.numpy()
        yield _score(model, batch.tokens, batch.labels, batch.mask, None, document, offset, neighbours)[0]


def check_whole_chunks(stride: int, chunk_size: int) -> None:
    """Validate that windows begin where chunks do.

    Raises:
        ValueError: If the stride is not a number of whole chunks.
    """
    if stride % chunk_size:
        raise ValueError(f"stride must be whole chunks of {chunk_size} tokens, but is {stride}.")


def score_in_one_pass(
    model: LanguageModel,
    documents: Documents,
    *,
    chunk_size: int = 1024,
    neighbours: FindsNeighbours | None = None,
    batch_size: int = 8,
) -> Iterator[ScoredTokens]:
    """Score documents from begin to end, each token read once, the state carried from chunk to chunk.

    Memory is that of one chunk and of the state: constant for a RetNet, whatever the length of a document; a
    Transformer's cache grows with it.

    Args:
        model: The model to measure.
        documents: What is scored.
        chunk_size: Tokens of each document read in one call. Changes speed and memory, never results.
        batch_size: Documents side by side. Changes speed and memory, never results.
        neighbours: Finds the neighbours of every chunk, for models that read them.

    Raises:
        ValueError: If a number is below 1.
    """
    for name, number in (("chunk_size", chunk_size), ("batch_size", batch_size)):
        check_count(name, number)
    # Documents of like length stand side by side.
    lengths = documents.lengths
    order = np.argsort(-lengths, kind="stable")
    for first in range(0, len(order), batch_size):
        rows, state = order[first : first + batch_size], None
        for begin in range(0, int(lengths[rows].max()), chunk_size):
            going_on = lengths[rows] > begin
            if state is not None and not going_on.all():
                state = state.select(torch.from_numpy(going_on))
            rows = rows[going_on]
            numbers = documents.numbers[rows]
            tokens, labels, mask = _chunk(documents, numbers, begin, chunk_size)
            offset = np.full(len(rows), begin)
            scored, state = _score(model, tokens, labels, mask, state, numbers, offset, neighbours)
            yield scored


def token_nats(
    model: LanguageModel,
    tokens: Tokens,
    labels: Tokens,
    state: ModelState | None = None,
    *,
    logits_at_once: int = LOGITS_AT_ONCE,
    mask: TokenMask | None = None,
    extra_inputs: Mapping[str, Tensor] | None = None,
) -> tuple[Float[Tensor, "batch time"], ModelState]:
    """The loss of each label, and the state after all tokens.

    Args:
        model: The model to measure.
        tokens: What it reads.
        labels: The token that follows each; -100 where none is scored, whose loss is 0.
        state: Where an earlier call stopped.
        mask: False at padding.
        extra_inputs: What the model reads besides tokens, by the name of its argument. All columns are then read in one
            call.
        logits_at_once: Logits that may be in memory together, of one column at least. Changes memory, never results.
    """
    batch, time = tokens.shape
    columns = max(1, logits_at_once // (batch * model.vocab_size))
    extra_inputs = extra_inputs or {}
    if extra_inputs:
        columns = time
    first = _first_scored(labels)
    bounds = [0, *range(first + columns, time, columns), time]
    nats = [torch.zeros(batch, first, device=tokens.device)]
    for begin, end in pairwise(bounds):
        wanted = end - max(begin, first)
        piece = None if mask is None else mask[:, begin:end]
        output = model(tokens[:, begin:end], state, mask=piece, logits_to_keep=wanted, **extra_inputs)
        state = output.state
        if output.logits is not None:
            logits = output.logits.to(torch.promote_types(output.logits.dtype, torch.float32))
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), labels[:, end - wanted : end].flatten(), ignore_index=IGNORED, reduction="none"
            )
            nats.append(loss.view(batch, wanted))
    assert state is not None
    return torch.cat(nats, 1), state


def _first_scored(labels: Tokens) -> int:
    """The first column in which any row has a label; the number of columns if none has."""
    columns = (labels != IGNORED).any(0).nonzero().flatten()
    return int(columns[0]) if len(columns) else labels.shape[1]


def _chunk(
    documents: Documents, numbers: Int64[np.ndarray, "batch"], begin: int, chunk_size: int
) -> tuple[Tokens, Tokens, TokenMask]:
    """What each document's next tokens are predicted from, these tokens, and which of them are no padding."""
    begin_of_text = documents.store.manifest.tokenizer.document_begin
    texts = [documents.text(int(number)) for number in numbers]
    pieces = [text[begin : begin + chunk_size].astype(np.int64) for text in texts]
    shape = (len(texts), max(map(len, pieces)))
    tokens = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED, dtype=torch.long)
    for row, (text, piece) in enumerate(zip(texts, map(torch.from_numpy, pieces), strict=True)):
        tokens[row, 0] = int(text[begin - 1]) if begin else begin_of_text
        tokens[row, 1 : len(piece)] = piece[:-1]
        labels[row, : len(piece)] = piece
    return tokens, labels, labels != IGNORED


def _score(
    model: LanguageModel,
    tokens: Tokens,
    labels: Tokens,
    mask: TokenMask,
    state: ModelState | None,
    document: Int64[np.ndarray, "batch"],
    offset: Int64[np.ndarray, "batch"],
    neighbours: FindsNeighbours | None = None,
) -> tuple[ScoredTokens, ModelState]:
    """Read rows that begin at ``offset`` in their documents, and keep the losses of their labels."""
    device = next(model.parameters()).device
    padding = None if bool(mask.all()) else mask.to(device)
    found = neighbour_inputs(neighbours, document, offset, mask.sum(1).numpy(), carries_state=state is not None)
    extra_inputs = {name: tensor.to(device) for name, tensor in found.items()}
    with evaluating(model):
        nats, state = token_nats(
            model, tokens.to(device), labels.to(device), state, mask=padding, extra_inputs=extra_inputs
        )
    rows, columns = (part.numpy() for part in (labels != IGNORED).nonzero(as_tuple=True))
    scored = ScoredTokens(
        document=document[rows],
        position=offset[rows] + columns + 1,
        token=labels.numpy()[rows, columns],
        nats=nats.cpu().numpy()[rows, columns],
    )
    return scored, state
