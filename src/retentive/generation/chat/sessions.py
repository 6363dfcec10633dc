"""Conversations in files: one a session, with what was said and the model's state in it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retentive.checkpoints import GenerationState, load_state, read_state_metadata, save_state
from retentive.errors import DamagedFileError, MismatchError, RetentiveError
from retentive.generation.chat.conversation import Conversation
from retentive.models.protocol import LanguageModel

KEY = "conversation"
"""Name of a state's metadata that holds what was said."""
SUFFIX = ".safetensors"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class SessionLine:
    """What a list of sessions shows of one.

    Attributes:
        name: Its name.
        said: The user's first words; or why the file cannot be read.
        turns: Number of answers.
        tokens_read: Tokens of the whole conversation.
    """

    name: str
    said: str
    turns: int = 0
    tokens_read: int = 0


def session_path(folder: Path, name: str) -> Path:
    """The file of a session.

    Raises:
        ValueError: If the name cannot be one of a file.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"session must have a name of letters, digits, '.', '_' and '-' that begins with a letter or digit, but is "
            f"{name!r}."
        )
    return folder / f"{name}{SUFFIX}"


def save_conversation(conversation: Conversation, path: Path, model: LanguageModel) -> None:
    """Write a conversation, whole or not at all; the folder is made.

    ``load_state`` reads the file too, so ``retentive generate --state`` goes on from it.

    Raises:
        ValueError: If nothing was said yet.
        OSError: If the file cannot be written; an earlier one is left as it was.
    """
    if conversation.state is None:
        raise ValueError(f"a conversation must have an answer before it is saved as {path}, but nothing was said yet.")
    path.parent.mkdir(parents=True, exist_ok=True)
    said = {
        "messages": list(conversation.messages),
        "ended": conversation.ended,
        "tokens_read": conversation.tokens_read,
    }
    save_state(conversation.state, path, model, metadata={KEY: json.dumps(said, ensure_ascii=False)})


def load_conversation(path: Path, model: LanguageModel) -> Conversation:
    """Read a conversation.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedFileError: If it is cut off or altered, or no conversation.
        MismatchError: If it is one with another model.
    """
    said = _said(path)
    state = load_state(path, model)
    if not isinstance(state, GenerationState):
        raise MismatchError(f"{path} has the state of a model and no newest token: it is no conversation.")
    return Conversation(
        messages=tuple(said["messages"]), state=state, ended=said["ended"], tokens_read=said["tokens_read"]
    )


def is_conversation(path: Path) -> bool:
    """Whether a file is one that `save_conversation` wrote."""
    try:
        _said(path)
    except (RetentiveError, OSError):
        return False
    return True


def list_sessions(folder: Path) -> list[SessionLine]:
    """What is in a folder of sessions, newest last; empty where there is no folder."""
    files = [path for path in folder.glob(f"*{SUFFIX}") if path.is_file()]
    paths = sorted(files, key=lambda path: (path.stat().st_mtime, path.name))
    return [_line(path) for path in paths]


def _line(path: Path) -> SessionLine:
    name = path.name.removesuffix(SUFFIX)
    try:
        said = _said(path)
    except (RetentiveError, OSError) as error:
        return SessionLine(name, str(error))
    words = [str(message["content"]) for message in said["messages"] if message["role"] == "user"]
    return SessionLine(name, " ".join(words[0].split()) if words else "", len(words), said["tokens_read"])


def _said(path: Path) -> Mapping[str, Any]:
    metadata = read_state_metadata(path)
    if KEY not in metadata:
        raise DamagedFileError(f"{path} is a state without a conversation: go on from it with generate --state.")
    try:
        said: Mapping[str, Any] = json.loads(metadata[KEY])
        whole = isinstance(said["messages"], list) and isinstance(said["ended"], bool)
        whole = whole and all(isinstance(one["role"], str) and "content" in one for one in said["messages"])
        whole = whole and isinstance(said["tokens_read"], int)
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFileError(f"{path} holds a conversation that cannot be read ({error}): copy it again.") from error
    if not whole:
        raise DamagedFileError(f"{path} holds a conversation that cannot be read: copy it again.")
    return said
