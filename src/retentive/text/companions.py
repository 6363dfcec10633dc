"""The files that other libraries keep beside a ``tokenizer.json``: special tokens, chat templates and settings."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from retentive.errors import DamagedFileError
from retentive.files import explain_odd_content, parse_json, write_atomically
from retentive.text.tokenizer import COPY_AGAIN, TRANSFORMERS_FILE, transformers_settings

SPECIAL_TOKENS_FILE = "special_tokens_map.json"
NAMES = (TRANSFORMERS_FILE, SPECIAL_TOKENS_FILE, "added_tokens.json", "chat_template.jinja", "chat_template.json")
ADDED_TOKENS_FILE = "added_tokens.json"
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
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
    def added_tokens(self) -> list[dict[str, Any]]:
        """Tokens that these files add to a ``tokenizer.json`` which lacks them, in the order of their ids.

        As transformers does: those that are listed by id, then special tokens that only a name tells of. Each has its
        ``content`` and the flags of a token of the ``tokenizers`` library.

        Raises:
            DamagedFileError: If they are not listed as transformers lists them.
        """
        found: list[dict[str, Any]] = []
        with explain_odd_content(Path(self.folder) / TRANSFORMERS_FILE, cure=COPY_AGAIN):
            listed: dict[str, Any] = self.settings.get("added_tokens_decoder") or {}
            found += [_flags(listed[number]) for number in sorted(listed, key=int)]
        with explain_odd_content(Path(self.folder) / ADDED_TOKENS_FILE, cure=COPY_AGAIN):
            numbers = self._json(ADDED_TOKENS_FILE)
            found += [_flags(token) for token in sorted(numbers, key=lambda token: int(numbers[token]))]
        for name in (SPECIAL_TOKENS_FILE, TRANSFORMERS_FILE):
            with explain_odd_content(Path(self.folder) / name, cure=COPY_AGAIN):
                for role in ("additional_special_tokens", "extra_special_tokens"):
                    said: Any = self._json(name).get(role) or []
                    each = list(cast("dict[str, Any]", said).values()) if isinstance(said, dict) else said
                    found += [{**_flags(token), "special": True} for token in each]
        return found

    @property
    def pad(self) -> str | None:
        """The token that fills up rows; None where there is none, or where it ends documents too."""
        named = self.token("pad_token")
        return None if named == self.token("eos_token") else named

    def of_class(self, name: str, padding_side: str) -> "Companions":
        """The same files, where the class that transformers reads them with is this one, and fills up rows so.

        It also goes by the model of a folder, which a copy has another of. Code that came with the files is not copied,
        so what leads to it is left out.
        """
        if TRANSFORMERS_FILE not in self.files:
            return self
        settings = {key: value for key, value in self.settings.items() if key != "auto_map"}
        if str(settings.get("tokenizer_class")).removesuffix("Fast") == name.removesuffix("Fast"):
            name = settings["tokenizer_class"]
        settings["tokenizer_class"] = name
        if padding_side != "right":  # as some classes do where nothing is said, and others do not
            settings.setdefault("padding_side", padding_side)
        if settings == self.settings:
            return self
        raw = (json.dumps(settings, indent=2, ensure_ascii=False) + "\n").encode()
        return Companions(self.folder, {**self.files, TRANSFORMERS_FILE: raw})

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


def _flags(said: Any) -> dict[str, Any]:
    """The content of a token and its flags, as far as a file says them."""
    if isinstance(said, str):
        return {"content": said}
    known = cast("dict[str, Any]", said)
    return {"content": str(known["content"]), **{flag: bool(known[flag]) for flag in _FLAGS if flag in known}}
