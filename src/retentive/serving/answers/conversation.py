"""Turns of a conversation as tokens: the first ones, and those after a stored state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retentive.checkpoints import GenerationState
from retentive.errors import MismatchError
from retentive.serving.errors import ApiError, invalid
from retentive.serving.service import Words
from retentive.serving.wire.chat import Message
from retentive.state import ModelState
from retentive.text.tokenizer import begin_of, encode_prompt

# Where a stored state has no turn, such as one that another program saved.
_UNKNOWN = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "."})


@dataclass(frozen=True, slots=True, kw_only=True)
class NextTurn:
    """What is read for a turn.

    Attributes:
        prompt: The new tokens.
        state: What they are read after; None where a conversation begins.
    """

    prompt: Sequence[int]
    state: ModelState | GenerationState | None


def plain_messages(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages as templates read them; a developer is the system by its newer name."""
    return [
        {"role": "system" if message.role == "developer" else message.role, "content": message.text}
        | ({} if message.name is None else {"name": message.name})
        for message in messages
    ]


def first_turn(words: Words, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Tokens of a conversation from its beginning.

    Raises:
        ApiError: 400, if the template refuses the messages.
    """
    assert words.template is not None
    try:
        return words.template.encode(messages)
    except (ValueError, TypeError) as error:
        raise invalid(str(error), "messages") from error


def next_turn(
    words: Words,
    messages: Sequence[Mapping[str, str]],
    parent: GenerationState | None,
    turn: Mapping[str, Any],
) -> NextTurn:
    """What is read after a stored state: the new messages, and what the template puts before them.

    A model without a chat template reads the text of the messages as it is.

    Args:
        words: The model's.
        messages: The new ones.
        parent: The stored state; None where the conversation begins.
        turn: What was said to make it.

    Raises:
        ApiError: 400, if the template refuses the messages, or the model has none and they have roles.
    """
    if words.template is None:
        return NextTurn(prompt=_plain_text(words, messages, parent), state=parent)
    if parent is None:
        return NextTurn(prompt=first_turn(words, messages), state=None)
    said = [*turn.get("input", ()), {"role": "assistant", "content": turn.get("output", "")}]
    read = said if len(said) > 1 else _UNKNOWN
    try:
        prompt = words.template.encode_after_answer(read, messages)
    except MismatchError as error:
        raise ApiError(400, str(error), code="template_forgets", param="previous_response_id") from error
    except (ValueError, TypeError) as error:
        raise invalid(str(error), "input") from error
    # Another program's file does not say how its text ended; the token that waits does.
    if not turn.get("ended", int(parent.unread[0]) in words.ends):
        return NextTurn(prompt=prompt, state=parent)
    # The token that ended the answer is not read yet, and the template writes it.
    if prompt[:1] == [int(parent.unread[0])]:
        return NextTurn(prompt=prompt[1:], state=parent)
    return NextTurn(prompt=prompt, state=parent.model)


def _plain_text(words: Words, messages: Sequence[Mapping[str, str]], parent: GenerationState | None) -> list[int]:
    roles = {message["role"] for message in messages}
    if roles != {"user"}:
        raise ApiError(
            400, f"input must be text alone: {words.why_no_template}", code="no_chat_template", param="input"
        )
    text = "".join(message["content"] for message in messages)
    if parent is not None:
        return words.tokenizer.encode(text)
    return encode_prompt(words.tokenizer, text) or [begin_of(words.tokenizer)]
