"""What is known of a stored state beside its bytes, and what a place for them does."""

import hashlib
import json
import logging
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

from retentive.errors import DamagedFileError

LOG = logging.getLogger("retentive.serving")

_SHOWN = 12
"""Characters of an id that the log gets."""
ID_BYTES = 24
"""Random bytes of an id: nobody guesses one."""

WORD_SECONDS = 60.0
"""A word that nobody takes is forgotten after this long."""


def new_id(kind: str) -> str:
    """An id that no other has and nobody guesses."""
    return f"{kind}_{secrets.token_hex(ID_BYTES)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRecord:
    """A stored state, without its bytes.

    Attributes:
        id: How it is asked for.
        owner: Whose it is.
        created: Seconds since 1970.
        parent: The state that it went on from; None where a text began.
        kind: What made it: ``response``, ``completion``, ``chat``, ``fork`` or ``upload``.
        weights: Fingerprint of the model's weights.
        tokens: Tokens of the whole text so far.
        size: Bytes of the state file.
        sha256: Of the state file.
        title: The first words of what was asked.
        turn: What was said to make it, and how; lists of records leave it out, for it may be long.
    """

    id: str
    owner: str
    created: float
    parent: str | None
    kind: str
    weights: str
    tokens: int
    size: int
    sha256: str
    title: str = ""
    turn: dict[str, Any] = field(default_factory=dict[str, Any])

    def to_json(self) -> tuple[str, str]:
        """The record without its turn, and the turn."""
        record = asdict(self)
        turn = record.pop("turn")
        return json.dumps(record), json.dumps(turn)

    @staticmethod
    def from_json(identifier: str, record: str | bytes, turn: str | bytes | None = "{}") -> "StateRecord":
        """Read `to_json`.

        Raises:
            DamagedFileError: If that is not what stands there for this id.
        """
        try:
            return _check_fields(identifier, json.loads(record), json.loads(turn or ""))
        except (ValueError, TypeError, RecursionError) as error:
            raise DamagedFileError(
                f"what is stored of {identifier} is no record of a state: delete it, and go on from an earlier one."
            ) from error

    def check(self, content: bytes) -> bytes:
        """Return the bytes, if they are those that were stored.

        Raises:
            DamagedFileError: If they were cut off or altered.
        """
        if len(content) != self.size or hashlib.sha256(content).hexdigest() != self.sha256:
            raise DamagedFileError(
                f"the stored state {self.id} holds other bytes than were stored ({len(content)} of {self.size}); "
                "delete it, and go on from an earlier one."
            )
        return content


def _check_fields(identifier: str, found: Any, turn: Any) -> StateRecord:
    """A record whose fields are what they are called."""
    kinds: dict[str, type | tuple[type, ...]] = {
        **dict.fromkeys(("owner", "kind", "weights", "sha256", "title"), str),
        "created": (int, float),
        "parent": (str, type(None)),
        **dict.fromkeys(("tokens", "size"), int),
    }
    record = StateRecord(**found, turn=turn)
    if record.id != identifier or not isinstance(record.turn, dict):
        raise ValueError("it is of another state")
    if not all(isinstance(getattr(record, name), kind) for name, kind in kinds.items()):
        raise TypeError("a field is of another kind")
    return record


def record_or_none(identifier: str, record: str | bytes) -> StateRecord | None:
    """A record of a list; None, and a line in the log, where it is damaged: the others are there all the same."""
    try:
        return StateRecord.from_json(identifier, record)
    except DamagedFileError as error:
        LOG.error("%s", str(error).replace(identifier, f"{identifier[:_SHOWN]}..."))
        return None


@runtime_checkable
class StatePlace(Protocol):
    """Where states are stored. A record is there only with all bytes of its state, whatever is killed when."""

    def put(self, record: StateRecord, content: bytes, most: int) -> bool:
        """Store a state; False, and nothing is stored, where the owner has ``most`` already."""
        ...

    def record(self, owner: str, identifier: str) -> StateRecord | None:
        """The record of one of the owner's states; None where the owner has none of this id.

        Raises:
            DamagedFileError: If what stands there is none.
        """
        ...

    def content(self, record: StateRecord) -> bytes | None:
        """The bytes of a state; None where it was deleted meanwhile.

        Raises:
            DamagedFileError: If they are not those that were stored.
        """
        ...

    def records(self, owner: str, *, newest: int, before: float | None = None) -> list[StateRecord]:
        """The owner's newest records without their turns, the newest first, made before a time."""
        ...

    def has_room(self, owner: str, most: int) -> bool:
        """Whether the owner has fewer states than ``most``."""
        ...

    def delete(self, owner: str, identifier: str) -> bool:
        """Delete one of the owner's states; False where there is none."""
        ...

    def ask_to_end(self, owner: str, identifier: str) -> None:
        """Leave word for whoever writes an answer that it shall end."""
        ...

    def is_asked_to_end(self, owner: str, identifier: str) -> bool:
        """Whether such a word is there, and nobody has taken it."""
        ...

    def take_asked(self, answers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Take the words that are there for some answers, by owner and id; return those answers."""
        ...

    def size(self) -> tuple[int, int]:
        """Number of all states, and their bytes."""
        ...

    def check(self) -> None:
        """Raise an error if states cannot be stored now."""
        ...

    def close(self) -> None:
        """End the use of it."""
        ...
