"""States after the begins of texts, in memory and on disk, by the tokens that they have read."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from retentive.checkpoints.states import StateOrigin
from retentive.config_types import check_count, check_kind
from retentive.engine.eager import as_value
from retentive.generation.prefixes.entry import Key, PrefixEntry
from retentive.generation.prefixes.files import PrefixFiles
from retentive.generation.prefixes.model_key import model_key
from retentive.generation.prefixes.tree import PrefixTree, Run
from retentive.models.protocol import LanguageModel
from retentive.state import ModelState, map_tensors

_LONG_TEXT = 1024
_BEFORE_END = 256


@dataclass(frozen=True, slots=True)
class Prefix:
    """What a cache knows of a text.

    Attributes:
        length: How many tokens at its begin ``state`` has read; 0 without any.
        state: Of one row, on the model's device; None without any.
        marks: After how many tokens the state is worth keeping: where another text goes another way, at the end, and
            of a long text somewhat before the end.
        keep: Takes a number of tokens and the state after them.
    """

    length: int
    state: ModelState | None
    marks: tuple[int, ...]
    keep: Callable[[int, ModelState], None]


class PrefixCache:
    """Keeps the states of texts, so that what begins alike is read once: a document with many questions, a system
    prompt, a conversation that is sent whole each turn.

    A state is found for the longest begin of a text that has one, whichever its length is. It is what the same weights
    made of the same tokens, with the same retriever: a hit gives what a miss gives. States of other weights, of the
    model before an adapter, a hook or a part of it was changed, or of another ``scope``, are never found.

    The first time that two texts begin alike, the second one's reading keeps the state where they part. The state
    before the last token of each prompt is kept too, and where a thousand tokens or more are read, one a few hundred
    before it, so that the second question about a document does not read it all. Those that were used least recently
    go first: from memory into ``folder`` where there is one, and from there for good.

    It may be used by several threads, and for several models.

    Attributes:
        hits: How often a begin of a text had a state.
        misses: How often none had.
        tokens_saved: Tokens that were not read again.
        ram_in_use: Bytes of the states in memory.
    """

    def __init__(
        self,
        ram_bytes: int = 1 << 30,
        *,
        folder: Path | str | None = None,
        disk_bytes: int = 16 << 30,
        least_tokens: int = 16,
    ) -> None:
        """Begin without states, or with those in a folder.

        Args:
            ram_bytes: How much memory the states may take.
            folder: Where states go that memory has no room for, and all of them at `close`, so that another process
                begins with them; None forgets them. It is made if it is not there, and locked for other processes.
            disk_bytes: How much the files in it may take.
            least_tokens: A state is kept where at least so many tokens need not be read again.

        Raises:
            ValueError: If a number is negative.
            BlockingIOError: If another process has the folder open.
        """
        check_count("ram_bytes", ram_bytes, least=0, unit="byte")
        check_count("disk_bytes", disk_bytes, least=0, unit="byte")
        check_count("least_tokens", least_tokens, unit="token")
        check_kind("folder", folder, str, Path, type(None))
        self._ram_bytes, self._least = ram_bytes, least_tokens
        self._lock = threading.RLock()
        self._trees: dict[str, PrefixTree[PrefixEntry]] = {}
        self._in_memory: OrderedDict[Key, PrefixEntry] = OrderedDict()
        self._files = None if folder is None else PrefixFiles(Path(folder), disk_bytes)
        self.ram_in_use = 0
        self.hits, self.misses = 0, 0
        self.tokens_saved = 0
        for entry in () if self._files is None else self._files.found():
            self._tree(entry.root).put(entry.tokens, entry)

    def find(
        self,
        model: LanguageModel,
        tokens: Sequence[int],
        *,
        scope: str = "",
        retrieval: str = "",
        is_counted: bool = True,
    ) -> Prefix:
        """Look a text up.

        Args:
            model: That will read it.
            tokens: The text.
            scope: Whose it is: states of one scope are found for the same scope alone.
            retrieval: Tells what neighbours are read from all others; see `Lookup.fingerprint`.
            is_counted: Whether it counts among hits and misses.
        """
        run = np.asarray(tokens, dtype=np.int32)
        origin = StateOrigin.of(model)
        root = _root(origin, scope, retrieval, model_key(model))
        with self._lock:
            tree = self._tree(root)
            length, state = self._longest(tree, run, model)
            shared = tree.shared(run)
            if is_counted:
                self.hits += length > 0
                self.misses += length == 0
                self.tokens_saved += length
        marks = {shared, len(run)}
        if len(run) - length >= _LONG_TEXT:
            marks.add((len(run) // _BEFORE_END - 1) * _BEFORE_END)
        marks = {mark for mark in marks if mark - length >= self._least}

        def keep(count: int, state: ModelState) -> None:
            self._keep(PrefixEntry(root, run[:count].copy(), origin), state)

        return Prefix(length, state, tuple(sorted(marks)), keep)

    @property
    def disk_in_use(self) -> int:
        """Bytes of the files."""
        return 0 if self._files is None else self._files.in_use

    def __len__(self) -> int:
        """Number of states, in memory and on disk."""
        with self._lock:
            on_disk = set() if self._files is None else set(self._files.entries)
            return len(on_disk | set(self._in_memory))

    def clear(self) -> None:
        """Forget all states, those on disk too."""
        with self._lock:
            self._trees.clear()
            self._in_memory.clear()
            self.ram_in_use = 0
            if self._files is not None:
                self._files.clear()

    def close(self) -> None:
        """Write what is in memory into the folder, and let go of it; without a folder, forget it."""
        with self._lock:
            if self._files is not None:
                while self._in_memory:
                    self._spill()
                self._files.close()
                self._files = None
            self._trees.clear()
            self._in_memory.clear()
            self.ram_in_use = 0

    def __enter__(self) -> "PrefixCache":
        """Close it at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _tree(self, root: str) -> PrefixTree[PrefixEntry]:
        return self._trees.setdefault(root, PrefixTree())

    def _longest(self, tree: PrefixTree[PrefixEntry], run: Run, model: LanguageModel) -> tuple[int, ModelState | None]:
        """The longest begin that has a state, and the state; a damaged file is forgotten."""
        while True:
            length, entry = tree.longest(run)
            if entry is None:
                return 0, None
            if entry.state is not None:
                self._in_memory.move_to_end(entry.key)
                return length, entry.state.to(model.device)
            assert self._files is not None
            state = self._files.read(entry, model)
            if state is not None:
                self._put_in_memory(entry, state)
                return length, state.to(model.device)
            tree.remove(entry.tokens)

    def _keep(self, entry: PrefixEntry, state: ModelState) -> None:
        """Keep a state that was just made."""
        value = map_tensors(state.trimmed(), as_value).to("cpu")
        with self._lock:
            tree = self._tree(entry.root)
            length, known = tree.longest(entry.tokens)
            if known is None or length < len(entry.tokens):
                tree.put(entry.tokens, entry)
                known = entry
            if known.state is None:
                self._put_in_memory(known, value)

    def _put_in_memory(self, entry: PrefixEntry, state: ModelState) -> None:
        entry.state = state
        self._in_memory[entry.key] = entry
        self.ram_in_use += entry.size_in_bytes
        if entry.size_in_bytes > self._ram_bytes:  # or else all others would make room for what has none
            self._in_memory.move_to_end(entry.key, last=False)
        while self.ram_in_use > self._ram_bytes:
            self._spill()

    def _spill(self) -> None:
        """Take the state that was used least recently out of memory."""
        _, entry = self._in_memory.popitem(last=False)
        self.ram_in_use -= entry.size_in_bytes
        gone = [entry]
        if self._files is not None:
            gone = self._files.write(entry)
        entry.state = None
        for one in gone:
            if one.state is None:
                self._tree(one.root).remove(one.tokens)


def _root(origin: StateOrigin, scope: str, retrieval: str, key: str) -> str:
    """One name for all that a state depends on beside tokens."""
    whole = hashlib.sha256()
    for part in (origin.config, origin.weights, scope, retrieval, *([key] if key else ())):
        whole.update(f"{len(part)} {part}\n".encode())
    return whole.hexdigest()
