"""Reading texts after what a prefix cache knows of them."""

from collections.abc import Sequence

import torch

from retentive.engine import Engine, RowPrompt
from retentive.engine.eager import as_value
from retentive.generation.neighbours.retrieval import Lookup
from retentive.generation.prefixes.cache import PrefixCache
from retentive.models.protocol import LanguageModel
from retentive.state import ModelState, join_rows, map_tensors


class PrefixReader:
    """Reads texts of one model, and keeps states of them in a cache."""

    def __init__(
        self, model: LanguageModel, cache: PrefixCache, lookup: Lookup | None = None, *, scope: str = ""
    ) -> None:
        """Take what reads and what keeps.

        Args:
            model: Reads.
            cache: Keeps.
            lookup: Finds neighbours.
            scope: See `PrefixCache.find`.

        Raises:
            ValueError: If states after the begin of a text depend on more than its tokens.
        """
        self._model, self._cache, self._scope = model, cache, scope
        self._retrieval = retrieval_key(lookup)
        self._engine = Engine(model, lookup)

    def states_after(self, rows: Sequence[Sequence[int]]) -> ModelState:
        """The state after each of some texts; one without tokens has the initial state."""
        return join_rows([self._state_after(row) for row in rows])

    def _state_after(self, tokens: Sequence[int]) -> ModelState:
        if not len(tokens):
            return self._model.initial_state(1)
        prefix = self._cache.find(self._model, tokens, scope=self._scope, retrieval=self._retrieval)
        if prefix.length == len(tokens):
            assert prefix.state is not None
            return prefix.state
        ids = torch.as_tensor(tokens, dtype=torch.long, device=self._model.device)
        prompt = RowPrompt(tokens=ids, state=prefix.state, known=prefix.length, marks=prefix.marks, on_mark=prefix.keep)
        return map_tensors(self._engine.read(prompt), as_value)


def retrieval_key(lookup: Lookup | None) -> str:
    """What tells the neighbours that a model reads from all others.

    Raises:
        ValueError: If states after the begin of a text depend on more than its tokens.
    """
    return "" if lookup is None else lookup.fingerprint()
