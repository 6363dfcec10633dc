"""The loop: read the prompt, choose a token for every row, read it, choose the next; rows that end leave the work."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor

from retentive.checkpoints.states import GenerationState
from retentive.generation.prompt import PromptBatch
from retentive.generation.retrieval import Lookup
from retentive.generation.rows import join_rows
from retentive.generation.sampling import Sampling, choose
from retentive.generation.stopping import Stopping
from retentive.generation.threads import one_thread, rows_worth_sharing
from retentive.generation.uniforms import uniforms
from retentive.models.base import LanguageModel
from retentive.models.decoder import BoundDecoder
from retentive.state import ModelState, map_tensors

PREFILL_TOKENS = 4096
"""Tokens of the prompt, over all rows, that one call reads: longer prompts need no more memory."""

_SHORTEST_PIECE = 64
_DRAWN_AHEAD = 64

NewTokens = Int[Tensor, "rows"]


class Decoding:
    """Rows that are being continued. Between steps, `state` has read all tokens but the newest of each row."""

    def __init__(
        self,
        model: LanguageModel,
        prompt: PromptBatch,
        start: ModelState | None,
        sampling: Sampling,
        stopping: Stopping,
        lookup: Lookup | None = None,
    ) -> None:
        """Prepare; nothing is read before the first step."""
        self._model = model
        self._sampling = sampling
        self._stopping = stopping
        self._lookup = lookup
        self._prompt: PromptBatch | None = prompt
        self._prompt_tokens = prompt.tokens.numel()
        self._model_state = start
        self._unread: NewTokens | None = None
        self._draws: _Draws | None = None
        self._bound: BoundDecoder | None = None
        self._is_bound = False
        self._ended: list[tuple[list[int], GenerationState]] = []
        self._taken = 0
        self.num_rows = prompt.tokens.shape[0]
        self.device = prompt.tokens.device
        self.stopped = [False] * self.num_rows
        self._rows_worth_sharing = rows_worth_sharing(model) if self.device.type == "cpu" else 0
        self.active = list(range(self.num_rows))
        """Numbers of the rows that have not ended."""

    def step(self) -> NewTokens:
        """Choose the next token of each row that was active before the call."""
        # Where calls are small, inference mode takes an eighth less time than no_grad; `state` gives normal tensors.
        with torch.inference_mode(), evaluating(self._model):
            if self._unread is None:
                with one_thread(self._prompt_tokens < self._rows_worth_sharing):
                    logits = self._read_prompt()
            else:
                with one_thread(len(self.active) < self._rows_worth_sharing):
                    if self._lookup is not None:
                        self._model_state = self._lookup.before_token(self._model_state)
                    logits = self._read(self._unread[:, None], None)
            uniform = None if self._draws is None else self._draws.take()
            tokens = choose(logits, self._sampling, uniform)
        self._unread = tokens
        self._taken += 1
        self._drop_ended(tokens)
        return tokens

    def state(self) -> GenerationState:
        """Where all rows are now, those that have ended included.

        Raises:
            ValueError: If no token was drawn yet.
        """
        if self._unread is None:
            raise ValueError("there is no state before the first token; take one from the stream first.")
        groups = list(self._ended)
        if self.active:
            groups.append((self.active, self._current()))
        order = [row for rows, _ in groups for row in rows]
        # Detached: what a model begins with can be a parameter, such as a learned memory.
        joined = map_tensors(join_rows([state for _, state in groups]), _normal)
        if order == sorted(order):
            return joined
        places = sorted(range(len(order)), key=order.__getitem__)
        return joined.select(torch.tensor(places))

    def _current(self) -> GenerationState:
        assert self._model_state is not None
        assert self._unread is not None
        return GenerationState(model=self._model_state, unread=self._unread)

    def _read_prompt(self) -> Float[Tensor, "rows vocab"]:
        assert self._prompt is not None
        tokens, mask = self._prompt.tokens, self._prompt.mask
        self._prompt = None
        if self._lookup is not None:
            self._model_state = self._lookup.begin(tokens, mask, self._model_state)
        width = max(_SHORTEST_PIECE, PREFILL_TOKENS // self.num_rows)
        pieces = range(0, tokens.shape[1], width)
        logits = None
        for begin in pieces:
            piece = slice(begin, begin + width)
            keep = 1 if begin == pieces[-1] else 0
            logits = self._read(tokens[:, piece], None if mask is None else mask[:, piece], keep)
        assert logits is not None
        if not bool(logits.isfinite().all()):
            raise ValueError(
                "the model's logits after the prompt must be finite, but some are NaN or infinite; its weights or the "
                "given state are broken: load an earlier checkpoint."
            )
        assert self._model_state is not None
        if not self._sampling.is_greedy:
            seed = self._sampling.seed
            self._draws = _Draws(draw_seed() if seed is None else seed, self._model_state.position)
        return logits

    def _read(self, tokens: Tensor, mask: Tensor | None, keep: int = 1) -> Tensor:
        """Let the model read on; its logits for the last column."""
        beside: dict[str, Tensor] = {}
        found = None if self._lookup is None else self._lookup.neighbours(tokens, mask, self._model_state)
        if found is not None:
            beside["neighbours"] = found
        is_step = tokens.shape[1] == 1 and mask is None and keep == 1 and found is None
        if is_step and self._model_state is not None and (bound := self._bind(self._model_state)) is not None:
            logits, self._model_state = bound(tokens[:, 0], self._model_state)
            return logits
        output = self._model(tokens, self._model_state, mask=mask, logits_to_keep=keep, **beside)
        self._model_state = output.state
        return tokens if output.logits is None else output.logits[:, -1]

    def _bind(self, state: ModelState) -> BoundDecoder | None:
        """The model's step, with its parameters looked up once; the state's memory is this loop's own from then on."""
        if not self._is_bound:
            self._is_bound = True
            self._bound = self._model.bound()
            if self._bound is not None:
                self._model.check_state(state)
                # `state` hands out copies.
                self._model_state = map_tensors(state, Tensor.clone)
        return self._bound

    def _drop_ended(self, tokens: NewTokens) -> None:
        if self._taken == self._stopping.max_new_tokens:
            ended = [True] * len(self.active)
            at_stop = self._stopping.stopped(tokens.tolist()) if self._stopping.stop_tokens else []
        elif self._stopping.stop_tokens:
            ended = at_stop = self._stopping.stopped(tokens.tolist())
        else:
            return
        for row, stop in zip(self.active, at_stop, strict=False):
            self.stopped[row] = stop
        if not any(ended):
            return
        rows = [row for row, end in zip(self.active, ended, strict=True) if end]
        if len(rows) == len(self.active):
            self._ended.append((rows, self._current()))
            self.active = []
            return
        left = torch.tensor(ended)
        current = self._current()
        self._ended.append((rows, current.select(left)))
        current = current.select(~left)
        self._model_state, self._unread = current.model, current.unread
        self.active = [row for row, end in zip(self.active, ended, strict=True) if not end]
        if self._draws is not None:
            self._draws.keep(~left)


class _Draws:
    """Random numbers for the next positions of every row, made many at a time."""

    def __init__(self, seed: int, position: Int[Tensor, "rows"]) -> None:
        self._seed = seed
        self._position = position
        self._row = torch.arange(len(position), device=position.device)
        self._ahead: Float[Tensor, "rows count"] | None = None
        self._used = 0

    def take(self) -> Float[Tensor, "rows"]:
        """The numbers of the present position of each row."""
        if self._ahead is None or self._used == _DRAWN_AHEAD:
            self._position = self._position + self._used
            self._ahead = uniforms(self._seed, self._row, self._position, _DRAWN_AHEAD)
            self._used = 0
        self._used += 1
        return self._ahead[:, self._used - 1]

    def keep(self, rows: Tensor) -> None:
        """Go on with some rows; each keeps its number, and so its sequence."""
        rows = rows.to(self._row.device)
        self._row, self._position = self._row[rows], self._position[rows]
        if self._ahead is not None:
            self._ahead = self._ahead[rows]


def _normal(tensor: Tensor) -> Tensor:
    """A tensor that may take part in what is differentiated later."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def draw_seed() -> int:
    """A seed from torch's global generator, which ``torch.manual_seed`` sets."""
    return int(torch.randint(2**63 - 1, ()))


@contextmanager
def evaluating(model: LanguageModel) -> Generator[None]:
    """Put a model that is in training mode into eval mode, and every one of its modules back as it was."""
    if not model.training:
        yield
        return
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
