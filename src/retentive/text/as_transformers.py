"""The ``tokenizer.json`` that transformers makes of a folder, where it does not take the file as it is.

Some of its classes (``LlamaTokenizer``, ``GPT2Tokenizer``, ``Qwen2Tokenizer``) take the vocabulary of the file, and cut
text by rules of their own with settings of ``tokenizer_config.json`` such as ``add_prefix_space``. Which class reads a
folder is decided by its model too.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from retentive.text.token_bytes import adds_prefix_space
from retentive.text.tokenizer import TRANSFORMERS_FILE

MODEL_CONFIG = "config.json"
FILE_AS_IT_IS = "PreTrainedTokenizerFast"
"""The class that takes a ``tokenizer.json`` as it is, by the name that all releases know."""


@dataclass(frozen=True)
class Reading:
    """What transformers makes of a folder.

    Attributes:
        description: Content of a ``tokenizer.json`` that says all of it.
        class_name: Of the class that reads the folder.
        roles: Tokens by role, such as ``eos_token``, with the defaults of the class.
        padding_side: On which side of a text it fills up rows, ``left`` or ``right``.
    """

    description: str
    class_name: str
    roles: Mapping[str, str | None] = field(default_factory=dict[str, str | None])
    padding_side: str = "right"


def read_as_transformers(folder: Path, description: str, settings: Mapping[str, Any]) -> Reading | None:
    """Return how the installed transformers reads a folder; None where it does not.

    That is: if transformers is not installed, if the folder has no file of it beside the ``tokenizer.json``, or if it
    reads the folder only with code that comes with it, which is never run.

    Args:
        folder: With a ``tokenizer.json``.
        description: Content of that file.
        settings: Content of its ``tokenizer_config.json``.

    Raises:
        ImportError: If transformers is not installed, and a setting is not what the file says.
    """
    if not any((folder / name).is_file() for name in (TRANSFORMERS_FILE, MODEL_CONFIG)):
        return None
    if find_spec("transformers") is None:
        _check_prefix_space(folder, description, settings)
        return None
    theirs = _load(folder)
    backend: Any = getattr(theirs, "backend_tokenizer", None)
    if backend is None:
        return None
    class_name = type(theirs).__name__
    roles = {role: getattr(theirs, role) for role in ("bos_token", "eos_token")}
    return Reading(
        _kept(description, backend.to_str()),
        FILE_AS_IT_IS if class_name == "TokenizersBackend" else class_name,
        roles,
        str(getattr(theirs, "padding_side", "right")),
    )


def _load(folder: Path) -> object | None:
    from transformers import AutoTokenizer
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return cast("Any", AutoTokenizer).from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception:  # it raises what its classes raise; the file by itself is read, or refused, by its own rules
        return None
    finally:
        logging.set_verbosity(verbosity)


def _check_prefix_space(folder: Path, description: str, settings: Mapping[str, Any]) -> None:
    wanted = settings.get("add_prefix_space")
    reads_file = settings.get("tokenizer_class") in (None, FILE_AS_IT_IS, "TokenizersBackend")
    if isinstance(wanted, bool) and not reads_file and wanted != adds_prefix_space(json.loads(description)):
        raise ImportError(
            f"add_prefix_space={wanted} in {folder / TRANSFORMERS_FILE} is not what the tokenizer.json beside it does, "
            f"and what {settings['tokenizer_class']} makes of both is known to the package transformers, which is not "
            "installed: pip install 'retentive[hf]'"
        )


def _kept(description: str, read: str) -> str:
    """The file's own text, unless what was read is another tokenizer; how texts are cut off and filled up stays."""
    from tokenizers import Tokenizer

    said, found = json.loads(Tokenizer.from_str(description).to_str()), json.loads(read)
    found.update({name: said[name] for name in ("truncation", "padding")})
    return description if found == said else json.dumps(found, ensure_ascii=False)
