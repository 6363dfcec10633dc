"""States in Redis: any replica, on any machine, finds any session."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import urlsplit

from retentive.serving.sessions.record import WORD_SECONDS, StateRecord

_PUT = """
if redis.call('ZSCORE', KEYS[2], ARGV[5]) then return 1 end
if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[4]) then return 0 end
redis.call('HSET', KEYS[1], 'record', ARGV[1], 'content', ARGV[2], 'turn', ARGV[6])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[5])
redis.call('HINCRBY', KEYS[3], 'states', 1)
redis.call('HINCRBY', KEYS[3], 'bytes', string.len(ARGV[2]))
return 1
"""
_DELETE = """
local size = redis.call('HSTRLEN', KEYS[1], 'content')
if redis.call('DEL', KEYS[1]) == 0 then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HINCRBY', KEYS[3], 'states', -1)
redis.call('HINCRBY', KEYS[3], 'bytes', -size)
return 1
"""
_TOTAL = "retentive:total"
SECONDS = 10.0
"""How long one command may take before the request is refused: it is sent twice, for Redis may have started anew."""


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
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        parts = urlsplit(address)
        self._name = f"{parts.hostname}:{parts.port or 6379}" if parts.hostname else parts.path
        self._errors: Any = redis.RedisError
        self._redis = cast("Any", redis.Redis).from_url(
            address, socket_timeout=SECONDS / 2, socket_connect_timeout=SECONDS / 2, retry=Retry(NoBackoff(), 1)
        )
        with self._reached():
            self._redis.ping()
        self._put, self._delete = self._redis.register_script(_PUT), self._redis.register_script(_DELETE)

    @contextmanager
    def _reached(self) -> Generator[None]:
        """Turn Redis' errors into one of ours, without its address' password."""
        try:
            yield
        except self._errors as error:
            raise ConnectionError(
                f"sessions must be a folder or the address of a running Redis, but {self._name} does not answer "
                f"({type(error).__name__}): start redis-server there."
            ) from error

    def put(self, record: StateRecord, content: bytes, most: int) -> bool:
        """Store a state; False, and nothing is stored, where the owner has ``most`` already."""
        keys = [_state(record.owner, record.id), _owner(record.owner), _TOTAL]
        line, turn = record.to_json()
        with self._reached():
            return bool(self._put(keys=keys, args=[line, content, record.created, most, record.id, turn]))

    def record(self, owner: str, identifier: str) -> StateRecord | None:
        """The record of one of the owner's states."""
        with self._reached():
            record, turn = self._redis.hmget(_state(owner, identifier), "record", "turn")
        return None if record is None else StateRecord.from_json(record, turn)

    def content(self, record: StateRecord) -> bytes | None:
        """The bytes of a state; None where it was deleted meanwhile."""
        with self._reached():
            found: bytes | None = self._redis.hget(_state(record.owner, record.id), "content")
        return None if found is None else record.check(found)

    def records(self, owner: str, *, newest: int, before: float | None = None) -> list[StateRecord]:
        """The owner's newest records without their turns, the newest first."""
        latest = "+inf" if before is None else f"({before!r}"
        with self._reached(), self._redis.pipeline(transaction=False) as pipeline:
            ids: list[bytes] = self._redis.zrevrangebyscore(_owner(owner), latest, "-inf", start=0, num=newest)
            for identifier in ids:
                pipeline.hget(_state(owner, identifier.decode()), "record")
            found: list[bytes | None] = pipeline.execute()
        return [StateRecord.from_json(record) for record in found if record is not None]

    def count(self, owner: str) -> int:
        """Number of the owner's states."""
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
            self._redis.ping()

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()


def _state(owner: str, identifier: str) -> str:
    return f"retentive:state:{owner}:{identifier}"


def _ending(owner: str, identifier: str) -> str:
    return f"retentive:ending:{owner}:{identifier}"


def _owner(owner: str) -> str:
    return f"retentive:states:{owner}"
