"""Conversations as token ids, by the chat template that comes with a model's tokenizer."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from retentive.errors import DamagedFileError, MismatchError
from retentive.files import parse_json
from retentive.text.companions import Companions
from retentive.text.loading import load_tokenizer
from retentive.text.tokenizer import COPY_AGAIN, TRANSFORMERS_FILE, Tokenizer, encode_prompt

if TYPE_CHECKING:
    from retentive.text.chat_sandbox import Sandbox

Message = Mapping[str, Any]
"""``{"role": "user", "content": "..."}``, with further keys where a template reads them."""

JINJA_FILE = "chat_template.jinja"
JSON_FILE = "chat_template.json"
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Tokens that a template may write by these names."""

# Private characters: around special tokens that stand in a message, and in the place of an answer.
_OPEN, _CLOSE, _ANSWER = "\U000f0000", "\U000f0001", "\U000f0002"
_PRIVATE = re.compile(f"[{_OPEN}{_CLOSE}{_ANSWER}]")


class ChatTemplate:
    """Writes a conversation as a model was taught to read it, and says what ends an answer.

    The template runs in Jinja's sandbox with what transformers gives it, and the ids are those of
    ``apply_chat_template(..., sanitize_control_tokens=True)``: the strings of special tokens in a message stay text, so
    that what a user types cannot end the user's turn.

    Args:
        source: The template, in Jinja.
        tokenizer: Of the model.
        special_tokens: What the template may name, such as ``bos_token``.
        name: Where the template was found, for messages.

    Raises:
        ImportError: If jinja2 is not installed.
        DamagedFileError: If the source is no Jinja template.
    """

    def __init__(
        self,
        source: str,
        tokenizer: Tokenizer,
        *,
        special_tokens: Mapping[str, str] | None = None,
        name: str = "this tokenizer",
    ) -> None:
        self.source = source
        self._tokenizer = tokenizer
        self._special = dict(special_tokens or {})
        self._ids_of_special: Mapping[str, int] = getattr(tokenizer, "special_tokens", {})
        longest_first = sorted(self._ids_of_special, key=len, reverse=True)
        self._strings = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")  # (?!) is found nowhere
        self._name = name
        self._sandbox = _sandbox(source, name)

    def text(self, messages: Sequence[Message], *, begin_answer: bool = True, **variables: Any) -> str:
        """Write a conversation.

        Args:
            messages: From the first turn on.
            begin_answer: Write what stands before an assistant's answer at the end.
            variables: What the template reads besides, such as ``tools`` or ``enable_thinking``; plain JSON values.

        Raises:
            TypeError: If a message is no mapping with a role, or holds what JSON cannot.
            ValueError: If the template refuses the messages, such as two of a user one after the other.
        """
        return self._render(_checked(messages), begin_answer, variables)

    def encode(self, messages: Sequence[Message], *, begin_answer: bool = True, **variables: Any) -> list[int]:
        """Token ids of a conversation, the beginning of the next answer included.

        Args:
            messages: As in `text`, like all that follow.
            begin_answer: See there.
            variables: See there.

        Raises:
            TypeError: As `text`.
            ValueError: As `text`.
        """
        marked = [self._marked(message) for message in _checked(messages)]
        return self._encode(self._render(marked, begin_answer, variables), at_begin=True)

    def encode_after_answer(
        self, messages: Sequence[Message], new: Sequence[Message], *, begin_answer: bool = True, **variables: Any
    ) -> list[int]:
        """Token ids of what comes after the last answer of a conversation: its end, and new messages.

        A model whose state has read the conversation up to the last word of the answer (and not the token that ended
        it) goes on with these alone.

        Args:
            messages: The conversation that was read; the last one is the assistant's.
            new: What is said next.
            begin_answer: As in `text`.
            variables: As in `text`.

        Raises:
            TypeError: As `text`.
            ValueError: As `text`, or if the last of ``messages`` is not an assistant's.
            MismatchError: If the template leaves out earlier answers: the conversation must be read anew.
        """
        checked = _checked(messages)
        if checked[-1]["role"] != "assistant":
            raise ValueError(f"messages must end with an assistant's, but the last is of {checked[-1]['role']!r}.")
        whole = [*checked[:-1], {**checked[-1], "content": _ANSWER}, *(_checked(new) if new else [])]
        _, found, after = self._render(
            [self._marked(message) for message in whole], begin_answer, variables
        ).rpartition(_ANSWER)
        if not found:
            raise MismatchError(
                f"the chat template of {self._name} leaves out earlier answers, so a conversation cannot go on from a "
                "state: read it anew with encode()."
            )
        return self._encode(after, at_begin=False)

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Ids that end an answer: the end of a document, and the special token that the template puts after one."""
        asked = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        after = self.encode_after_answer(asked, [], begin_answer=False)
        special = set(self._ids_of_special.values())
        return tuple(dict.fromkeys((self._tokenizer.end_of_text, *(one for one in after[:1] if one in special))))

    def _render(self, messages: Sequence[Message], begin_answer: bool, variables: Mapping[str, Any]) -> str:
        said = {"tools": None, "documents": None, **self._special, **_plain(variables, "variables")}
        return self._sandbox.render(said | {"messages": list(messages), "add_generation_prompt": begin_answer})

    def _marked(self, message: Any) -> Any:
        """The message, with private characters around strings of special tokens."""
        if isinstance(message, str):
            return self._strings.sub(lambda found: f"{_OPEN}{found[0]}{_CLOSE}", message)
        if isinstance(message, dict):
            return {key: self._marked(value) for key, value in cast("dict[str, Any]", message).items()}
        if isinstance(message, list):
            return [self._marked(value) for value in cast("list[Any]", message)]
        return message

    def _encode(self, rendered: str, *, at_begin: bool) -> list[int]:
        ids: list[int] = []
        for number, piece in enumerate(re.split(f"[{_OPEN}{_CLOSE}]", rendered)):
            if piece:  # every second one stood between marks
                ids += self._ids(piece, tags=number % 2 == 0, at_begin=at_begin and not ids)
        return ids

    def _ids(self, piece: str, *, tags: bool, at_begin: bool) -> list[int]:
        if at_begin:
            return encode_prompt(self._tokenizer, piece, tags=tags, around=False)
        # After a line's end, for vocabularies that put a space before the first word of a text.
        line = encode_prompt(self._tokenizer, "\n", around=False)
        ids = encode_prompt(self._tokenizer, "\n" + piece, tags=tags, around=False)
        if ids[: len(line)] == line:
            return ids[len(line) :]
        return encode_prompt(self._tokenizer, piece, tags=tags, around=False)


def load_chat_template(folder: Path | str, *, tokenizer: Tokenizer | None = None) -> ChatTemplate:
    """Load the chat template of a model's folder.

    It is that of ``chat_template.jinja``, of ``chat_template`` in ``tokenizer_config.json``, or of
    ``chat_template.json``: the first that is there, and the one named ``default`` where there are several.

    Args:
        folder: Of a model, or of its tokenizer alone.
        tokenizer: That of the folder, where it is loaded already.

    Raises:
        FileNotFoundError: If the folder has no tokenizer.
        ImportError: If jinja2 is not installed.
        MismatchError: If there is no template.
        DamagedFileError: If a file is damaged, or the template is not Jinja.
    """
    folder = Path(folder)
    tokenizer = load_tokenizer(folder) if tokenizer is None else tokenizer
    companions = Companions.read(folder)
    source = _source(companions, folder)
    if source is None:
        raise MismatchError(
            f"{folder} has no chat template: it is of a model that was not taught to chat. Take an instruct or chat "
            f"model, go on from a text with generate, or write the template as {folder / JINJA_FILE}."
        )
    special = {role: token for role in ROLES if (token := companions.token(role)) is not None}
    return ChatTemplate(source, tokenizer, special_tokens=special, name=str(folder))


def _source(companions: Companions, folder: Path) -> str | None:
    """The default template among the files of a folder."""
    if JINJA_FILE in companions.files:
        try:
            return companions.files[JINJA_FILE].decode("utf-8")
        except UnicodeDecodeError as error:
            raise DamagedFileError(f"{folder / JINJA_FILE} is not UTF-8 ({error.reason}): {COPY_AGAIN}.") from error
    path, said = folder / TRANSFORMERS_FILE, companions.settings.get("chat_template")
    if said is None and JSON_FILE in companions.files:
        path = folder / JSON_FILE
        said = parse_json(companions.files[JSON_FILE], path, cure=COPY_AGAIN).get("chat_template")
    if isinstance(said, list):
        try:
            named = {str(one["name"]): one["template"] for one in cast("list[Any]", said)}
        except (TypeError, KeyError) as error:
            raise DamagedFileError(f"{path} must name each of its chat templates: {COPY_AGAIN}.") from error
        if "default" not in named:
            raise MismatchError(
                f"{path} has chat templates named {', '.join(named)}, but none named default: write the one to use as "
                f"{folder / JINJA_FILE}."
            )
        said = named["default"]
    if said is not None and not isinstance(said, str):
        raise DamagedFileError(f"{path} must have a chat_template that is text, but it is {said!r}: {COPY_AGAIN}.")
    return said


def _sandbox(source: str, name: str) -> "Sandbox":
    if find_spec("jinja2") is None:
        raise ImportError("chat templates need the package jinja2: pip install 'retentive[chat]'")
    from retentive.text.chat_sandbox import Sandbox

    return Sandbox(source, name)


def _checked(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as plain values, without the private characters that stand for something here."""
    if isinstance(messages, str | Mapping) or not messages:
        raise ValueError(
            "messages must be a list of at least one mapping such as {'role': 'user', 'content': 'Hello'}, but are "
            f"{messages!r}."
        )
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise TypeError(f"messages[{number}] must be a mapping with a role that is text, but is {message!r}.")
    # A message without content, as of a call of a tool, is one that lacks the key: templates write None otherwise.
    given = [{key: value for key, value in message.items() if value is not None} for message in messages]
    return [_plain(message, f"messages[{number}]") for number, message in enumerate(given)]


def _plain(value: Any, place: str) -> Any:
    """The value, made of plain types alone: objects have methods that a sandbox cannot know to be harmless."""
    if value is None or type(value) in (bool, int, float):
        return value
    if isinstance(value, str):
        return _PRIVATE.sub("", str(value))
    if isinstance(value, Mapping):
        pairs = cast("Mapping[Any, Any]", value).items()
        return {str(key): _plain(item, f"{place}[{key!r}]") for key, item in pairs}
    if isinstance(value, list | tuple):
        items = cast("Sequence[Any]", value)
        return [_plain(item, f"{place}[{number}]") for number, item in enumerate(items)]
    raise TypeError(f"{place} must be a plain value (text, number, list or mapping), but is {value!r}.")
