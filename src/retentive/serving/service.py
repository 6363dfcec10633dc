"""What answers requests: a model with its tokenizer, its thread, stored states, and a datastore."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar

from retentive.checkpoints import GenerationState, load_model
from retentive.checkpoints.devices import chosen_device
from retentive.checkpoints.transformers_files import ends_of_generation
from retentive.checkpoints.weights import load_own_tokenizer
from retentive.data.neighbours.stores import FOLDER
from retentive.errors import MismatchError, RetentiveError
from retentive.files.targets import check_folder_target
from retentive.generation import PrefixCache, RequestBatch, StoreRetriever
from retentive.generation.text_stream import TextStream
from retentive.models.base import DecoderModel
from retentive.models.calls import check_predicts_next
from retentive.models.fingerprint import weights_fingerprint
from retentive.retrieval import Datastore
from retentive.serving.config import ServeConfig
from retentive.serving.errors import ApiError, not_found, too_many
from retentive.serving.metrics import Metrics
from retentive.serving.owners import Owners, Shares, read_keys
from retentive.serving.rows import ModelThread
from retentive.serving.sessions.codec import from_bytes, to_bytes
from retentive.serving.sessions.opening import open_place
from retentive.serving.sessions.record import StatePlace, StateRecord, new_id
from retentive.serving.shared_store import SharedStore
from retentive.text.chat_template import ChatTemplate, load_chat_template
from retentive.text.tokenizer import Tokenizer, ids_without_text

FULL_RETRY_SECONDS = 60
TITLE_LENGTH = 80
STORAGE_THREADS = 16
STORAGE_SECONDS = 15.0
"""How long a request waits for the place of stored states, and for those that asked it before."""

Given = ParamSpec("Given")
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """How a model's text is read and written.

    Attributes:
        tokenizer: The model's.
        template: Of conversations; None where the model has none.
        why_no_template: What to say then.
        ends: Ids that end a text.
        never: Ids of the model that no token has.
    """

    tokenizer: Tokenizer
    template: ChatTemplate | None
    why_no_template: str
    ends: tuple[int, ...]
    never: tuple[int, ...]


class Service:
    """The parts behind the routes.

    Args:
        config: What the server was told.

    Raises:
        FileNotFoundError: If a folder or file is not there.
        ValueError: If something does not fit the model.
    """

    def __init__(self, config: ServeConfig) -> None:
        self.config, self.limits = config, config.limits
        if config.cache_folder is not None:
            check_folder_target("cache_folder", config.cache_folder)
        self.owners = Owners(() if config.api_key_file is None else read_keys(config.api_key_file))
        self.model: DecoderModel = load_model(config.checkpoint, chosen_device(config.device)).eval()
        check_predicts_next(self.model)
        self.words = _words(config, self.model)
        self.weights = weights_fingerprint(self.model)
        self.store = _open_store(config, self.words.tokenizer)
        self._retriever: StoreRetriever | None = None
        self.place: StatePlace = open_place(config.sessions_place)
        self._storing = ThreadPoolExecutor(STORAGE_THREADS, "retentive-storage")
        self.metrics = Metrics()
        self.created = int(time.time())
        self.prefixes = PrefixCache(config.cache_bytes, folder=config.cache_folder, disk_bytes=config.cache_disk_bytes)
        self.thread = ModelThread(
            self._make_batch,
            self.metrics,
            after_step=self._after_step,
            max_rows=self.limits.max_rows,
            max_waiting=self.limits.max_waiting,
        )
        self.is_ending = False
        self.ending_word: str | None = None
        self._answers = Shares(self.limits.max_streams)
        # Beside answers, an owner may cancel, list and delete.
        self._requests = Shares(2 * self.limits.max_streams)

    @property
    def fingerprint(self) -> str:
        """The weights, in short."""
        return f"fp_{self.weights[:16]}"

    @property
    def reads_neighbours(self) -> bool:
        """Whether texts are written with passages of the datastore."""
        return self.store is not None and self.model.chunked_reading is not None

    def _make_batch(self) -> RequestBatch:
        if self.store is not None and self.reads_neighbours:
            self._retriever = StoreRetriever(self.store, k=self.config.k, tokenizer=self.words.tokenizer)
        return RequestBatch(
            self.model,
            tokenizer=self.words.tokenizer,
            retriever=self._retriever,
            prefix_cache=self.prefixes,
            engine=self.config.step_engine,
        )

    def _after_step(self) -> None:
        """Forget what was found: a retriever notes all of it, for as long as it lives."""
        if self._retriever is not None:
            self._retriever.found.clear()

    def close(self) -> None:
        """End the use of files."""
        self._storing.shutdown()
        self.place.close()
        self.prefixes.close()

    # Shares of an owner

    @contextmanager
    def asking(self, owner: str) -> Generator[None]:
        """Count a request, from before its body is read until it is answered.

        Raises:
            ApiError: 429, if the owner has too many.
        """
        with self._requests.take(owner, lambda: self._too_many_at_once("open", 2 * self.limits.max_streams)):
            yield

    @contextmanager
    def answering(self, owner: str) -> Generator[None]:
        """Count an answer that is written.

        Raises:
            ApiError: 429, if the owner has too many; 503, if the server is about to end.
        """
        if self.is_ending:
            raise ApiError(503, "the server is about to end; try again.", code="ending", retry_after_seconds=5)
        with self._answers.take(owner, lambda: self._too_many_at_once("being answered", self.limits.max_streams)):
            yield

    def _too_many_at_once(self, how: str, most: int) -> ApiError:
        return too_many(
            f"{most} of your requests are {how}, which is the most; try again.",
            retry_after_seconds=self.metrics.seconds_per_row(),
        )

    # Stored states

    async def stored(self, act: Callable[Given, Found], *given: Given.args, **named: Given.kwargs) -> Found:
        """Ask the place of stored states; while it does not answer, nothing waits but those that ask it.

        Raises:
            TimeoutError: If it does not answer in time, or as many as may ask at once wait for it already.
        """
        asked = asyncio.get_running_loop().run_in_executor(self._storing, partial(act, *given, **named))
        try:
            return await asyncio.wait_for(asked, STORAGE_SECONDS)
        except TimeoutError as error:
            if str(error):
                raise
            raise TimeoutError(f"the place of stored states has not answered for {STORAGE_SECONDS:g} s") from error

    async def find_or_none(self, owner: str, identifier: str) -> StateRecord | None:
        """The record of a stored state; None where the owner has none of this id.

        Raises:
            ApiError: 409, if something else stands in its place.
        """
        try:
            return await self.stored(self.place.record, owner, identifier)
        except RetentiveError as error:
            raise ApiError(409, str(error), code="damaged_state") from error

    async def find(self, owner: str, identifier: str) -> StateRecord:
        """The record of a stored state.

        Raises:
            ApiError: 404, if the owner has none of this id; 409, if something else stands in its place.
        """
        record = await self.find_or_none(owner, identifier)
        if record is None:
            raise not_found("state", identifier)
        return record

    async def content(self, record: StateRecord) -> bytes:
        """The file of a stored state.

        Raises:
            ApiError: 404, if it was deleted meanwhile; 409, if its bytes are damaged.
        """
        try:
            content = await self.stored(self.place.content, record)
        except RetentiveError as error:
            raise ApiError(409, str(error), code="damaged_state") from error
        if content is None:
            raise not_found("state", record.id)
        return content

    async def load(self, record: StateRecord) -> GenerationState:
        """A stored state, to go on from.

        Raises:
            ApiError: 409, if it is of other weights or damaged.
        """
        if record.weights != self.weights:
            raise ApiError(
                409, f"the state {record.id} is of other weights than those that are served.", code="other_weights"
            )
        content = await self.content(record)
        try:
            return await asyncio.to_thread(from_bytes, content, self.model)
        except RetentiveError as error:
            raise ApiError(409, f"the state {record.id} cannot be gone on from.", code="damaged_state") from error

    async def check_room(self, owner: str) -> None:
        """Refuse a request whose state could not be stored, before its text is written.

        Raises:
            ApiError: 429, if the owner has as many states as are allowed.
        """
        if not await self.stored(self.place.has_room, owner, self.limits.max_states):
            raise self._full()

    async def keep(
        self,
        state: GenerationState,
        owner: str,
        *,
        kind: str,
        parent: str | None,
        turn: Mapping[str, Any],
        identifier: str | None = None,
    ) -> StateRecord:
        """Store a state; it is on disk afterwards."""
        content = await asyncio.to_thread(to_bytes, state, self.model, turn)
        return await self.keep_bytes(
            content,
            owner,
            kind=kind,
            parent=parent,
            turn=turn,
            tokens=int(state.model.position[0]) + 1,
            identifier=identifier,
        )

    async def keep_bytes(
        self,
        content: bytes,
        owner: str,
        *,
        kind: str,
        parent: str | None,
        turn: Mapping[str, Any],
        tokens: int,
        identifier: str | None = None,
    ) -> StateRecord:
        """Store the file of a state.

        Raises:
            ApiError: 429, if the owner has as many states as are allowed.
        """
        record = StateRecord(
            id=identifier or new_id("state"),
            owner=owner,
            created=time.time(),
            parent=parent,
            kind=kind,
            weights=self.weights,
            tokens=tokens,
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            title=_title(turn),
            turn=dict(turn),
        )
        if not await self.stored(self.place.put, record, content, self.limits.max_states):
            raise self._full()
        return record

    def _full(self) -> ApiError:
        return too_many(
            f"you have {self.limits.max_states} stored states, which is the most: delete some with DELETE "
            "/v1/states/ID, or send store=false.",
            retry_after_seconds=FULL_RETRY_SECONDS,
        )


def _title(turn: Mapping[str, Any]) -> str:
    """The first words of what was asked; of what was answered, where nothing was."""
    asked = [message["content"] for message in turn.get("input", ()) if message["role"] == "user"]
    return " ".join((" ".join(asked) or str(turn.get("output", "")))[:200].split())[:TITLE_LENGTH]


def _words(config: ServeConfig, model: DecoderModel) -> Words:
    tokenizer = load_own_tokenizer(config.checkpoint)
    TextStream(tokenizer)  # one whose tokens cannot become text one by one is refused here, and not in every answer
    template, why = None, ""
    try:
        template = load_chat_template(config.checkpoint, tokenizer=tokenizer)
    except MismatchError as error:
        why = str(error).replace(f"{config.checkpoint} has", "the served model has")
    ends = (tokenizer.end_of_text, *ends_of_generation(config.checkpoint), *(template.ends if template else ()))
    return Words(
        tokenizer=tokenizer,
        template=template,
        why_no_template=why,
        ends=tuple(sorted({end for end in ends if end < model.vocab_size})),
        never=ids_without_text(tokenizer, model.vocab_size),
    )


def _open_store(config: ServeConfig, tokenizer: Tokenizer) -> SharedStore | None:
    if config.store is None:
        return None
    inside = config.store / FOLDER / "train"
    return SharedStore(Datastore.open(inside if inside.is_dir() else config.store, tokenizer=tokenizer))
