"""The place of stored states that a server was told."""

from pathlib import Path

from retentive.serving.sessions.folder import StateFolder
from retentive.serving.sessions.record import StatePlace

_SCHEMES = ("redis://", "rediss://", "unix://")


def open_place(sessions: str) -> StatePlace:
    """Open a folder, or a Redis.

    Args:
        sessions: A folder, which is made if it is not there, or an address such as ``redis://127.0.0.1:6379/0``.

    Raises:
        ValueError: If it is an address of another kind.
        ConnectionError: If no Redis answers there.
    """
    if sessions.startswith(_SCHEMES):
        from retentive.serving.sessions.redis_place import RedisPlace

        return RedisPlace(sessions)
    if "://" in sessions:
        scheme = sessions.partition("://")[0]
        raise ValueError(f"sessions must be a folder or begin with redis://, but begins with {scheme}://.")
    return StateFolder(Path(sessions))
