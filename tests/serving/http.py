"""Plain requests, for what the official client does not have."""

import json
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

from serving.serving import Running


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.content)


def call(
    served: Running | str, method: str, path: str, body: Any = None, *, key: str | None = None, **headers: str
) -> Answer:
    """Send one request; a dict is sent as JSON."""
    parts = urlsplit(served if isinstance(served, str) else served.url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    sent = dict(headers)
    if isinstance(body, dict):
        body = json.dumps(body)
        sent["content-type"] = "application/json"
    if key is not None:
        sent["authorization"] = f"Bearer {key}"
    connection.request(method, path, body, sent)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, content)
