"""``/v1/chat/completions``: the next message of a conversation that the client holds."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from retentive.serving.wire.common import AskedPart, Many, ReadPassages, SamplingFields, StateReference, Usage, Wire


class TextPart(AskedPart):
    """Text in a list of parts."""

    type: Literal["text", "input_text", "output_text"]
    text: str
    annotations: list[Any] = Field(default_factory=list[Any], max_length=0)
    logprobs: list[Any] | None = None


class Message(AskedPart):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Many[TextPart]
    name: str | None = Field(None, max_length=64, description="Of who speaks; the chat template gets it.")
    refusal: None = None

    @property
    def text(self) -> str:
        """The content as one string."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ResponseFormat(AskedPart):
    """Plain text is the only one."""

    type: Literal["text"]


class ChatRequest(SamplingFields):
    """A conversation, and how to go on."""

    messages: Many[Message] = Field(min_length=1, max_length=4096)
    max_tokens: int | None = Field(
        None, ge=1, description="Tokens to write at most; 1024, or what the model has room for, where nothing is said."
    )
    max_completion_tokens: int | None = Field(None, ge=1, description="The same, by its newer name.")
    n: int | None = Field(1, ge=1, description="Answers.")
    logprobs: bool | None = Field(False, description="Whether each token comes with its log-probability.")
    top_logprobs: int | None = Field(None, ge=0, le=20, description="With logprobs, those of so many likely tokens.")
    response_format: ResponseFormat | None = None
    tools: list[Any] | None = Field(None, max_length=0, description="Not supported: must be empty.")
    metadata: dict[str, str] | None = Field(None, description="Stored with the state, where one is stored.")
    return_state: bool = Field(False, description="Store the state of each answer, and return its id.")

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {"model": "retentive", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 16}
        },
    )


class TopLogprob(Wire):
    """A likely token."""

    token: str
    bytes: list[int]
    logprob: float


class TokenLogprob(TopLogprob):
    """The token that was written, and likely ones."""

    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(Wire):
    """Log-probabilities of a message."""

    content: list[TokenLogprob]


class AssistantMessage(Wire):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(Wire):
    """One answer."""

    index: int
    message: AssistantMessage
    finish_reason: Literal["stop", "length"]
    logprobs: ChoiceLogprobs | None = None
    state: StateReference | None = None
    neighbours: list[ReadPassages] | None = None


class ChatCompletion(Wire):
    """The answers."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(Wire):
    """What an event adds to a message."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(Wire):
    """What an event adds to one answer."""

    index: int
    delta: Delta
    finish_reason: Literal["stop", "length"] | None = None
    logprobs: ChoiceLogprobs | None = None
    state: StateReference | None = None
    neighbours: list[ReadPassages] | None = None


class ChatChunk(Wire):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
