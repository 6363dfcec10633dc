"""``/v1/states``, ``/v1/search``, ``/v1/tokenize`` and the server's condition."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from retentive.serving.wire.common import Asked, Many, Passage, Wire


class StoredState(Wire):
    """A stored state, without its bytes."""

    id: str
    object: Literal["state"] = "state"
    created: float
    parent: str | None = Field(None, description="The state that it went on from.")
    kind: Literal["response", "completion", "chat", "fork", "upload"]
    tokens: int = Field(description="Tokens of the whole text so far.")
    bytes: int = Field(description="Size of the state's file.")
    sha256: str = Field(description="Of the state's file.")
    title: str = Field(description="The first words of what was asked.")
    turn: dict[str, Any] | None = Field(None, description="What was said to make it; lists leave it out.")


class StoredStates(Wire):
    """Stored states, the newest first."""

    object: Literal["list"] = "list"
    data: list[StoredState]
    has_more: bool


class DeletedState(Wire):
    """A state that is no more."""

    id: str
    object: Literal["state.deleted"] = "state.deleted"
    deleted: Literal[True] = True


class SearchRequest(Asked):
    """What to look for in the datastore."""

    query: str = Field(min_length=1, max_length=1 << 16)
    k: int = Field(5, ge=1, le=100, description="Passages to find.")

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"query": "a quiet place", "k": 3}})


class SearchAnswer(Wire):
    """Passages, the nearest first."""

    object: Literal["list"] = "list"
    data: list[Passage]


class TokenizeRequest(Asked):
    """A text."""

    text: str
    as_prompt: bool = Field(False, description="With what a prompt begins with, such as a first token.")

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"text": "Once upon a time"}})


class TokenizeAnswer(Wire):
    """Its tokens."""

    tokens: list[int]
    count: int


class DetokenizeRequest(Asked):
    """Tokens."""

    tokens: Many[Annotated[int, Field(ge=0, lt=1 << 31)]]

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"tokens": [72, 105]}})


class DetokenizeAnswer(Wire):
    """Their text."""

    text: str


class Health(Wire):
    """The server's condition."""

    status: Literal["ok"]
