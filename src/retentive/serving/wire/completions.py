"""``/v1/completions``: a text that is gone on with."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from retentive.serving.wire.common import Id, Many, ReadPassages, SamplingFields, StateReference, Usage, Wire

TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]


class CompletionRequest(SamplingFields):
    """A prompt, and how to go on."""

    prompt: str | Many[TokenId] | Many[str] | Many[Many[TokenId]] | None = Field(
        "", description="Text or token ids, or several of them; empty begins a new text, or goes on from `state`."
    )
    max_tokens: int | None = Field(16, ge=1, description="Tokens to write at most.")
    n: int | None = Field(1, ge=1, description="Texts for each prompt.")
    logprobs: int | None = Field(None, ge=0, le=20, description="Log-probabilities of so many likely tokens.")
    echo: bool | None = Field(False, description="Put the prompt before the text.")
    best_of: int | None = Field(None, ge=1, description="Must be equal to n where it is given.")
    suffix: None = Field(None, description="Not supported: these models read forwards.")
    state: Id | None = Field(None, description="A stored state to go on from; the prompt is read after it.")
    return_state: bool = Field(False, description="Store the state of each text, and return its id.")

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {"model": "retentive", "prompt": "Once upon a time", "max_tokens": 16, "temperature": 0}
        },
    )


class CompletionLogprobs(Wire):
    """Log-probabilities, a list each."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float]] | None = None
    text_offset: list[int]


class CompletionChoice(Wire):
    """One text."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"] | None = None
    logprobs: CompletionLogprobs | None = None
    state: StateReference | None = None
    neighbours: list[ReadPassages] | None = None


class Completion(Wire):
    """The texts, or one event of a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
