"""Who asks: an owner is told by the API key, and never sees what is another's."""

import hashlib
import hmac
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from retentive.serving.errors import ApiError

SHORTEST_KEY = 16
NOBODY_ELSE = "local"
"""The owner of everything on a server without keys, which only this machine reaches."""


def owner_of(key: str) -> str:
    """The name under which a key's sessions are stored: the key cannot be told from it."""
    return hashlib.sha256(b"retentive owner\0" + key.encode()).hexdigest()[:32]


class Owners:
    """The keys that a server takes.

    Args:
        keys: Any number of them; without any, everybody who reaches the server is one owner.
    """

    def __init__(self, keys: tuple[str, ...] = ()) -> None:
        self._owners = {owner_of(key) for key in keys}

    @property
    def are_told_apart(self) -> bool:
        """Whether a key is demanded."""
        return bool(self._owners)

    def identify(self, authorization: str | None) -> str:
        """The owner that an ``Authorization`` header names.

        Raises:
            ApiError: 401, if there is no key or another one.
        """
        if not self._owners:
            return NOBODY_ELSE
        scheme, _, key = (authorization or "").partition(" ")
        asked = owner_of(key.strip()) if scheme.lower() == "bearer" else ""
        found = [owner for owner in self._owners if hmac.compare_digest(owner, asked)]
        if not found:
            said = "is missing" if not authorization else "is none that this server knows"
            raise ApiError(
                401, f"the API key {said}: send the header 'Authorization: Bearer KEY'.", code="invalid_api_key"
            )
        return found[0]


class Shares:
    """What each owner has of something at the moment: nobody gets more than their share.

    Args:
        most: The share.
    """

    def __init__(self, most: int) -> None:
        self._most, self._taken = most, Counter[str]()

    @contextmanager
    def take(self, owner: str, refusal: Callable[[], ApiError]) -> Generator[None]:
        """Have one more inside of this block.

        Raises:
            ApiError: The refusal, if the owner has as many as are allowed.
        """
        if self._taken[owner] >= self._most:
            raise refusal()
        self._taken[owner] += 1
        try:
            yield
        finally:
            self._taken[owner] -= 1
            if not self._taken[owner]:
                del self._taken[owner]


def read_keys(path: Path) -> tuple[str, ...]:
    """Read a file of keys: one a line; empty lines and those that begin with ``#`` are left out.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no text, has no key, or a key is too short or cannot be sent, which is not repeated.
    """
    if not path.is_file():
        raise FileNotFoundError(f"api_key_file must be a file with one key a line, but there is none at {path}.")
    try:
        text = path.read_text("utf-8-sig")  # editors begin files with a byte order mark
    except UnicodeDecodeError as error:
        raise ValueError(
            f"api_key_file must be UTF-8, but byte {error.start:,} of {path} is not: convert it."
        ) from error
    # Line ends alone part keys: `splitlines` would cut one at a control character, and take both halves.
    lines = [line.strip(" \t\r") for line in text.split("\n")]
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line and not line.startswith("#")]
    if not numbered:
        raise ValueError(f"api_key_file must have at least one key, but {path} has none: write one a line.")
    for number, key in numbered:
        if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError(
                f"every key must have at least {SHORTEST_KEY} printable ASCII characters and no space, but "
                f"line {number} of {path} does not; one is made by "
                "'python -c \"import secrets; print(secrets.token_urlsafe())\"'."
            )
    return tuple(key for _, key in numbered)
