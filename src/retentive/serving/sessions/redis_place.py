"""States in Redis: any replica, on any machine, finds any session."""

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import urlsplit

from retentive.errors import DamagedFileError
from retentive.extras import require
from retentive.serving.sessions.record import WORD_SECONDS, StateRecord, record_or_none

LOG = logging.getLogger("retentive.serving")

# The totals are only shown: whatever stands in their place (pcall), a state is stored or deleted whole.
_PUT = """
if redis.call('ZSCORE', KEYS[2], ARGV[5]) then return 1 end
if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[4]) then return 0 end
redis.call('HSET', KEYS[1], 'record', ARGV[1], 'content', ARGV[2], 'turn', ARGV[6])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[5])
redis.pcall('HINCRBY', KEYS[3], 'states', 1)
redis.pcall('HINCRBY', KEYS[3], 'bytes', string.len(ARGV[2]))
return 1
"""
_DELETE = """
local size = redis.pcall('HSTRLEN', KEYS[1], 'content')
local was_there = redis.call('DEL', KEYS[1])
if redis.call('ZREM', KEYS[2], ARGV[1]) + was_there == 0 then return 0 end
redis.pcall('HINCRBY', KEYS[3], 'states', -1)
if type(size) == 'number' then redis.pcall('HINCRBY', KEYS[3], 'bytes', -size) end
return 1
"""
_TOTAL = "retentive:total"
_PROBE = "retentive:probe"
_PROBE_SECONDS = 60
SECONDS = 10.0
"""How long one command may take before the request is refused: it is sent twice, for Redis may have started anew."""
_SHOWN = 120
"""Characters of an answer of Redis that the log gets."""


class RedisPlace:
    """Each state is a hash, and each owner has a sorted set of ids by time; one script changes both together.

    Whether a stored state survives a crash of Redis itself is Redis' own setting: ``appendonly yes`` with
    ``appendfsync always`` keeps each.

    Args:
        address: As in ``redis://host:port/0``; a password stands in it as in ``redis://:password@host``.

    Raises:
        ConnectionError: If nobody answers there; the message has no password.
    """

    def __init__(self, address: str) -> None:
        require("redis", "a place for sessions in Redis")
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        parts = urlsplit(address)
        self._name = f"{parts.hostname}:{parts.port or 6379}" if parts.hostname else parts.path
        self._errors: Any = redis.RedisError
        self._refusal: Any = redis.ResponseError
        self._redis = cast("Any", redis.Redis).from_url(
            address, socket_timeout=SECONDS / 2, socket_connect_timeout=SECONDS / 2, retry=Retry(NoBackoff(), 1)
        )
        with self._reached():
            self._redis.ping()
        self._put, self._delete = self._redis.register_script(_PUT), self._redis.register_script(_DELETE)
        self._warn_of_evictions()

    def _warn_of_evictions(self) -> None:
        """Say in the log where Redis may throw states away to make room."""
        try:
            memory: dict[str, Any] = self._redis.info("memory")
        except self._errors:  # some services do not tell
            return
        policy = str(memory.get("maxmemory_policy", "noeviction"))
        if memory.get("maxmemory") and policy not in ("noeviction", "volatile-lru", "volatile-lfu", "volatile-ttl"):
            LOG.warning("Redis at %s may drop stored states (maxmemory-policy %s): set noeviction.", self._name, policy)

    @contextmanager
    def _reached(self) -> Generator[None]:
        """Turn Redis' errors into one of ours, without its address' password."""
        try:
            yield
        except self._refusal as error:
            raise ConnectionError(
                f"Redis at {self._name} refuses it ({type(error).__name__}: {str(error)[:_SHOWN]}): give it memory, "
                "make it writable, or give another address to sessions."
            ) from error
        except self._errors as error:
            raise ConnectionError(
                f"sessions must be a folder or the address of a running Redis, but {self._name} does not answer "
                f"({type(error).__name__}): start redis-server there."
            ) from error

    @contextmanager
    def _found(self, identifier: str) -> Generator[None]:
        """The same where a state is read, in whose place something else may stand."""
        try:
            with self._reached():
                yield
        except ConnectionError as error:
            if _is_foreign(error.__cause__):
                raise DamagedFileError(f"{identifier} is no stored state in Redis: delete it.") from error
            raise

    def put(self, record: StateRecord, content: bytes, most: int) -> bool:
        """Store a state; False, and nothing is stored, where the owner has ``most`` already."""
        keys = [_state(record.owner, record.id), _owner(record.owner), _TOTAL]
        line, turn = record.to_json()
        with self._reached():
            return bool(self._put(keys=keys, args=[line, content, record.created, most, record.id, turn]))

    def record(self, owner: str, identifier: str) -> StateRecord | None:
        """The record of one of the owner's states."""
        with self._found(identifier):
            record, turn = self._redis.hmget(_state(owner, identifier), "record", "turn")
        return None if record is None else StateRecord.from_json(identifier, record, turn)

    def content(self, record: StateRecord) -> bytes | None:
        """The bytes of a state; None where it was deleted meanwhile."""
        with self._found(record.id):
            found: bytes | None = self._redis.hget(_state(record.owner, record.id), "content")
        return None if found is None else record.check(found)

    def records(self, owner: str, *, newest: int, before: float | None = None) -> list[StateRecord]:
        """The owner's newest records without their turns, the newest first."""
        latest = "+inf" if before is None else f"({before!r}"
        found: list[StateRecord] = []
        lost: list[str] = []
        start = 0
        while missing := newest - len(found):
            with self._reached(), self._redis.pipeline(transaction=False) as pipeline:
                ids: list[bytes] = self._redis.zrevrangebyscore(_owner(owner), latest, "-inf", start=start, num=missing)
                for identifier in ids:
                    pipeline.hget(_state(owner, identifier.decode()), "record")
                given: list[Any] = pipeline.execute(raise_on_error=False)
                for error in given:
                    if isinstance(error, Exception) and not _is_foreign(error):
                        raise error
            if not ids:
                break
            start += len(ids)
            for identifier, record in zip((one.decode() for one in ids), given, strict=True):
                if record is None:
                    lost.append(identifier)
                elif (read := record_or_none(identifier, b"" if isinstance(record, Exception) else record)) is not None:
                    found.append(read)
        self._forget(owner, lost)
        return found

    def _forget(self, owner: str, lost: Sequence[str]) -> None:
        """Forget ids of which Redis has nothing any longer: it was told to make room, or somebody deleted them."""
        if lost:
            LOG.warning("Redis at %s has lost %d stored states", self._name, len(lost))
        for identifier in lost:
            self.delete(owner, identifier)

    def has_room(self, owner: str, most: int) -> bool:
        """Whether the owner has fewer states; what Redis has lost is not counted."""
        count = self._count(owner)
        if count >= most:
            self.records(owner, newest=count)  # forgets the lost ones
            count = self._count(owner)
        return count < most

    def _count(self, owner: str) -> int:
        with self._reached():
            return int(self._redis.zcard(_owner(owner)))

    def delete(self, owner: str, identifier: str) -> bool:
        """Delete one of the owner's states."""
        with self._reached():
            return bool(self._delete(keys=[_state(owner, identifier), _owner(owner), _TOTAL], args=[identifier]))

    def ask_to_end(self, owner: str, identifier: str) -> None:
        """Leave word for whoever writes an answer that it shall end."""
        with self._reached():
            self._redis.set(_ending(owner, identifier), 1, ex=int(WORD_SECONDS))

    def is_asked_to_end(self, owner: str, identifier: str) -> bool:
        """Whether such a word is there, and nobody has taken it."""
        with self._reached():
            return bool(self._redis.exists(_ending(owner, identifier)))

    def take_asked(self, answers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Take the words that are there for some answers; return those answers."""
        with self._reached(), self._redis.pipeline(transaction=False) as pipeline:
            for answer in answers:
                pipeline.delete(_ending(*answer))
            return [answer for answer, taken in zip(answers, pipeline.execute(), strict=True) if taken]

    def size(self) -> tuple[int, int]:
        """Number of all states, and their bytes."""
        with self._reached():
            states, size = self._redis.hmget(_TOTAL, "states", "bytes")
        return int(states or 0), int(size or 0)

    def check(self) -> None:
        """Raise an error if states cannot be stored now."""
        with self._reached():
            self._redis.set(_PROBE, 1, ex=_PROBE_SECONDS)  # a full Redis answers, and stores nothing

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()


def _is_foreign(error: BaseException | None) -> bool:
    """Whether Redis says that something of another kind stands where a state should."""
    return error is not None and str(error).startswith("WRONGTYPE")


def _state(owner: str, identifier: str) -> str:
    return f"retentive:state:{owner}:{identifier}"


def _ending(owner: str, identifier: str) -> str:
    return f"retentive:ending:{owner}:{identifier}"


def _owner(owner: str) -> str:
    return f"retentive:states:{owner}"
