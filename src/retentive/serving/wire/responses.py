"""``/v1/responses``: an answer after a stored state."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from retentive.serving.wire.chat import Message, TokenLogprob
from retentive.serving.wire.common import AskedPart, Id, Many, ReadPassages, SamplingFields, StateReference, Wire


class InputMessage(Message):
    """A message of the input."""

    type: Literal["message"] = "message"
    id: str | None = Field(None, max_length=128)
    status: str | None = Field(None, max_length=32)


class TextFormat(Wire):
    """Plain text is the only one."""

    type: Literal["text"] = "text"


class TextOptions(AskedPart):
    """How the text is."""

    format: TextFormat = Field(default_factory=TextFormat)


class ResponseRequest(SamplingFields):
    """New messages, and the stored state that they are read after."""

    input: str | Many[InputMessage] = Field(description="The new messages only: the state has read the others.")
    instructions: str | None = Field(None, description="What the system message says, before the first message.")
    previous_response_id: Id | None = Field(
        None, description="The stored state to go on from. Naming one twice forks the conversation."
    )
    max_output_tokens: int | None = Field(
        None, ge=1, description="Tokens to write at most; 1024, or what the model has room for, where nothing is said."
    )
    store: bool | None = Field(True, description="Whether the state is stored, so that an answer can follow.")
    include: Many[Literal["message.output_text.logprobs"]] | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20, description="Log-probabilities of so many likely tokens.")
    metadata: dict[str, str] | None = Field(None, description="Stored with the state and given back.")
    text: TextOptions | None = None
    truncation: Literal["disabled"] | None = None
    tools: list[Any] | None = Field(None, max_length=0, description="Not supported: must be empty.")
    background: Literal[False] | None = None

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"model": "retentive", "input": "Hello!", "max_output_tokens": 16}},
    )


class OutputText(Wire):
    """Text of the answer."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = Field(default_factory=list[Any])
    logprobs: list[TokenLogprob] = Field(default_factory=list[TokenLogprob])


class OutputMessage(Wire):
    """The answer."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[OutputText]


class InputDetails(Wire):
    """Of the input's tokens."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(Wire):
    """Of the output's tokens."""

    reasoning_tokens: int = 0


class ResponseUsage(Wire):
    """Numbers of tokens; the input is the whole text before the answer."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails = Field(default_factory=OutputDetails)
    total_tokens: int


class Incomplete(Wire):
    """Why an answer is not complete."""

    reason: Literal["max_output_tokens"]


class Response(Wire):
    """An answer, and the stored state that it left."""

    id: str
    object: Literal["response"] = "response"
    created_at: float
    completed_at: float | None = None
    status: Literal["in_progress", "completed", "incomplete", "cancelled", "failed"]
    error: dict[str, str] | None = None
    incomplete_details: Incomplete | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    metadata: dict[str, str] = Field(default_factory=dict[str, str])
    model: str
    output: list[OutputMessage]
    parallel_tool_calls: bool = False
    previous_response_id: str | None = None
    store: bool = True
    temperature: float | None = None
    text: TextOptions = Field(default_factory=TextOptions)
    tool_choice: Literal["none"] = "none"
    tools: list[Any] = Field(default_factory=list[Any])
    top_logprobs: int | None = None
    top_p: float | None = None
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    user: str | None = None
    state: StateReference | None = None
    neighbours: list[ReadPassages] | None = None


class DeletedResponse(Wire):
    """A response that is no more."""

    id: str
    object: Literal["response.deleted"] = "response.deleted"
    deleted: Literal[True] = True
