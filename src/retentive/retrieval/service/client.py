"""Asking a store that another process serves: what is loaded there need not be loaded here."""

import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from retentive.errors import RetentiveError
from retentive.retrieval.search.answers import Answer

LONGEST_WAIT = 600.0
"""Seconds that an answer may take."""


class ServerError(RetentiveError):
    """A server that does not answer, or not as one of these does."""


def search_server(url: str, asked: dict[str, Any]) -> list[Answer]:
    """Ask a server for answers; see ``retentive index serve``.

    Args:
        url: Where it listens, as ``http://127.0.0.1:8788``.
        asked: The query and its options, as ``POST /v1/search`` takes them.

    Raises:
        ValueError: If the address cannot be, or the server refuses what is asked.
        ServerError: If nobody answers there, or somebody else.
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ValueError(f"server must be an address such as http://127.0.0.1:8788, but is {url!r}.")
    request = urllib.request.Request(
        f"{url.rstrip('/')}/v1/search", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=LONGEST_WAIT) as answer:
            return [_answer(one) for one in json.loads(answer.read())["data"]]
    except urllib.error.HTTPError as error:
        raise _refusal(url, error) from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise ServerError(f"no server answers at {url} ({reason}): start one with retentive index serve.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ServerError(f"the server at {url} is not one of retentive index serve: {error!r}.") from error


def _refusal(url: str, error: urllib.error.HTTPError) -> Exception:
    """What a server said of a request that it did not answer."""
    try:
        message = str(json.loads(error.read())["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ServerError(f"the server at {url} is not one of retentive index serve: it answers {error.code}.")
    return ValueError(message) if error.code == 400 else ServerError(f"the server at {url} says: {message}")


def _answer(given: dict[str, Any]) -> Answer:
    fields: dict[str, Any] = {name: given[name] for name in Answer.__dataclass_fields__}
    fields["matches"] = tuple((int(begin), int(end)) for begin, end in fields["matches"])
    fields["copies"] = tuple(fields["copies"])
    return Answer(**fields)
