"""The files that other libraries keep beside a ``tokenizer.json``: special tokens, chat templates and settings."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from retentive.errors import DamagedFileError
from retentive.files import parse_json, write_atomically
from retentive.text.tokenizer import COPY_AGAIN, TRANSFORMERS_FILE, transformers_settings

SPECIAL_TOKENS_FILE = "special_tokens_map.json"
NAMES = (TRANSFORMERS_FILE, SPECIAL_TOKENS_FILE, "added_tokens.json", "chat_template.jinja", "chat_template.json")
TEMPLATES = "additional_chat_templates"
"""A folder of further chat templates."""


@dataclass(frozen=True)
class Companions:
    """The content of the files beside a ``tokenizer.json``, kept as it was read.

    Attributes:
        folder: Where they were read, named in messages.
        files: Content by path.
    """

    folder: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])

    @staticmethod
    def read(folder: Path) -> "Companions":
        """Read those of a folder; files that are not there are left out."""
        paths = [*(folder / name for name in NAMES), *sorted((folder / TEMPLATES).glob("*.jinja"))]
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if path.is_file()}
        return Companions(str(folder), files)

    @property
    def settings(self) -> dict[str, Any]:
        """Content of ``tokenizer_config.json``; empty without one.

        Raises:
            DamagedFileError: If it is no JSON object.
        """
        return self._json(TRANSFORMERS_FILE)

    @property
    def splits_special_tokens(self) -> bool:
        """Whether transformers reads the strings of special tokens in a text as text."""
        return bool(self.settings.get("split_special_tokens", False))

    def names(self, role: str) -> bool:
        """Whether a file says which token has a role, even if it says that none has."""
        return role in self.settings or role in self._json(SPECIAL_TOKENS_FILE)

    def token(self, role: str) -> str | None:
        """The token with a role, such as ``eos_token``; None where none is named.

        Raises:
            DamagedFileError: If its name is no string.
        """
        for name in (TRANSFORMERS_FILE, SPECIAL_TOKENS_FILE):
            said: Any = self._json(name).get(role)
            content = cast("dict[str, Any]", said).get("content") if isinstance(said, dict) else said
            if content is not None and not isinstance(content, str):
                path = Path(self.folder) / name
                raise DamagedFileError(f"{path} names an {role} that is no string ({content!r}): {COPY_AGAIN}.")
            if content is not None:
                return content
        return None

    @property
    def pad(self) -> str | None:
        """The token that fills up rows; None where there is none, or where it ends documents too."""
        named = self.token("pad_token")
        return None if named == self.token("eos_token") else named

    def write(self, folder: Path, *, begin: str, end: str, pad: str) -> None:
        """Write the files as they were read, with a pad that is no end of a document.

        Args:
            folder: Where the ``tokenizer.json`` is.
            begin: Begins documents, where no file says what does.
            end: Ends documents.
            pad: Fills up rows.
        """
        for name, content in self.files.items():
            if name not in (TRANSFORMERS_FILE, SPECIAL_TOKENS_FILE):
                (folder / name).parent.mkdir(exist_ok=True)
                write_atomically(folder / name, content)
        if TRANSFORMERS_FILE in self.files:
            roles = {"pad_token": pad}
            if self.token("eos_token") != end:
                roles["eos_token"] = end
            settings = self.settings
        else:
            roles, settings = {}, transformers_settings(begin, end, pad)
        for name, content in ((TRANSFORMERS_FILE, settings), (SPECIAL_TOKENS_FILE, self._json(SPECIAL_TOKENS_FILE))):
            if not content:
                continue
            changed = {role: token for role, token in roles.items() if self._content(content.get(role)) != token}
            if name == SPECIAL_TOKENS_FILE:
                changed = {role: token for role, token in changed.items() if role in content}
            raw = self.files.get(name)
            if changed or raw is None:
                raw = (json.dumps({**content, **changed}, indent=2, ensure_ascii=False) + "\n").encode()
            write_atomically(folder / name, raw)

    def _json(self, name: str) -> dict[str, Any]:
        if name not in self.files:
            return {}
        return parse_json(self.files[name], Path(self.folder) / name, cure=COPY_AGAIN)

    @staticmethod
    def _content(said: Any) -> Any:
        return cast("dict[str, Any]", said).get("content") if isinstance(said, dict) else said
