"""Fields that several requests and answers share."""

import json
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

Id = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_-]+$")]
"""An id of a stored state, as the API gave it."""

MOST_FIELDS = 1024

Item = TypeVar("Item")
Many = Annotated[list[Item], Field(fail_fast=True)]
"""A list in a request, of which the first mistake is told and not each of a million."""


class Wire(BaseModel):
    """A body of which every field is known: a field that would change nothing is refused, with its name."""

    model_config = ConfigDict(extra="forbid", strict=False)


class AskedPart(Wire):
    """A part of a request. An error for each of a million fields would take more memory than the fields."""

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, values: Any) -> Any:
        fields = cast("dict[Any, Any]", values) if isinstance(values, dict) else {}
        # Clients send null for what they know and were not told.
        fields = {name: value for name, value in fields.items() if value is not None or name in cls.model_fields}
        if any(len(part) > MOST_FIELDS for part in (fields, *fields.values()) if isinstance(part, dict)):
            raise ValueError(f"an object must have at most {MOST_FIELDS} fields")
        return fields if isinstance(values, dict) else values


class Asked(AskedPart):
    """A request: its strings are text that can be written."""

    @model_validator(mode="before")
    @classmethod
    def _is_unicode(cls, values: Any) -> Any:
        """JSON can hold halves of a character, which no file, tokenizer or answer can."""
        if isinstance(values, bytes):  # a body that does not say it is JSON: refused next, as no object
            return values
        if not can_be_written(values):
            raise ValueError("text must be Unicode, but has half of a surrogate pair, or is nested too deeply")
        return values


def can_be_written(value: Any) -> bool:
    """Whether all text in a value of JSON has whole characters, and the value is not nested too deeply to be said."""
    try:
        # A hundred times as fast as looking at each part.
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True


class StreamOptions(AskedPart):
    """What a stream has beside the text."""

    include_usage: bool = Field(False, description="Whether the last event before the end has the usage.")
    include_obfuscation: bool = Field(False, description="Taken for compatibility; nothing is padded.")


class SamplingFields(Asked):
    """How tokens are chosen; each request has its own, and gets what it would get alone."""

    model: str = Field(max_length=256, description="Name of the served model; /v1/models lists it.")
    temperature: float | None = Field(1.0, ge=0, le=100, description="Divides the logits; 0 takes the likeliest.")
    top_p: float | None = Field(1.0, gt=0, le=1, description="Draw among the fewest tokens that reach this share.")
    top_k: int | None = Field(None, ge=1, le=1 << 20, description="Draw among so many of the likeliest tokens.")
    min_p: float | None = Field(
        None, ge=0, le=1, description="Draw among tokens of at least this share of the likeliest one's probability."
    )
    seed: int | None = Field(None, ge=0, lt=1 << 63, description="The same seed draws the same tokens.")
    stop: str | Many[str] | None = Field(
        None, description="Up to 8 strings that end the text; they are not part of it.", max_length=512
    )
    presence_penalty: float | None = Field(
        0.0, ge=-2, le=2, description="Subtracted from the logits of tokens that were written before."
    )
    frequency_penalty: float | None = Field(0.0, ge=-2, le=2, description="The same, as often as they were written.")
    repetition_penalty: float | None = Field(
        1.0,
        gt=0,
        le=10,
        description="Makes tokens of the whole text seldomer, those of the prompt included; 1 is none.",
    )
    logit_bias: dict[str, float] | None = Field(
        None, description="Token id -> what is added to its logit, from -100 to 100.", max_length=1024
    )
    ignore_eos: bool = Field(False, description="Go on after the token that ends a text.")
    stream: bool | None = Field(False, description="Send the text as server-sent events, as it is written.")
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, max_length=512, description="Taken for compatibility; the API key tells owners.")
    no_cache: bool = Field(False, description="Read every token of the prompt, and keep no state of it.")
    return_neighbours: bool = Field(False, description="Say which passages are read; for a RETRO with a store.")


class StateReference(Wire):
    """A stored state that an answer left."""

    id: str = Field(description="Goes on by `state` in a request, or as a file by /v1/states/{id}.")
    tokens: int = Field(description="Tokens of the whole text so far.")
    bytes: int = Field(description="Size of the state's file.")


class TokenDetails(Wire):
    """Of the prompt's tokens."""

    cached_tokens: int = Field(description="Of the prompt's tokens, those that were not read again.")


class Usage(Wire):
    """Numbers of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: TokenDetails


class Passage(Wire):
    """A passage of the datastore that was read, or found."""

    id: int = Field(description="Number of the chunk in the store.")
    score: float
    document: str = Field(description="The file or record that holds it, as the store names it.")
    line: int = Field(description="Line of the document, from 1.")
    column: int = Field(description="Character of that line, from 1.")
    begin: int = Field(description="Byte of the document at which the text begins.")
    text: str


class ReadPassages(Wire):
    """The passages that were read for one chunk of the text."""

    from_token: int = Field(description="Position of the first token that read them, in the whole text.")
    passages: list[Passage]


class ErrorFields(Wire):
    """Why a request was refused."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Wire):
    """A refusal."""

    error: ErrorFields

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "error": {
                    "message": "max_tokens must be at most 4096 on this server, but is 100000.",
                    "type": "invalid_request_error",
                    "param": "max_tokens",
                    "code": "too_large",
                }
            }
        }
    )


class ModelCard(Wire):
    """The served model."""

    id: str
    created: int
    object: Literal["model"] = "model"
    owned_by: str = "retentive"
    has_chat_template: bool = Field(description="Whether conversations have roles; else text is read as it is.")
    has_store: bool = Field(description="Whether /v1/search has a datastore.")
    reads_neighbours: bool = Field(description="Whether texts are written with passages of the datastore.")


class ModelList(Wire):
    """The served models: one."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


Json = dict[str, Any]
